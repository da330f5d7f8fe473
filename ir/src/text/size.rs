//! Sizes that depend on named dims: `batch`, `4*batch+1`, `(height-3)/2+1`.
//!
//! ```text
//! sum     = product (("+" | "-") product)*
//! product = factor (("*" | "/") factor)*
//! factor  = digits | name | "(" sum ")"
//! ```
//! without white space. Numbers are 64-bit integers and every step is checked: what overflows is an error, and so is a
//! division by zero. `/` rounds down. The text is not trusted: its length and depth are bounded.

use crate::error::{Error, Result};

/// Bytes of an expression.
pub const MAX_BYTES: usize = 512;
/// Parentheses inside parentheses.
const MAX_DEPTH: usize = 16;

/// An expression, in the order of its evaluation: no recursion, and one number a step at the most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SizeExpr {
    steps: Vec<Step>,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Step {
    Number(i64),
    Dim(usize),
    Add,
    Sub,
    Mul,
    Div,
}

/// Whether a dim may have this name: a letter or `_`, then letters, digits and `_`, 64 at the most.
pub fn is_dim_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl SizeExpr {
    /// Reads an expression over these dims.
    pub fn parse<S: AsRef<str>>(text: &str, dims: &[S]) -> Result<SizeExpr> {
        if text.len() > MAX_BYTES {
            return Err(Error::package(format!("a size of {} bytes; the most is {MAX_BYTES}", text.len())));
        }
        let mut parser = Parser { text, at: 0, dims, steps: Vec::new() };
        parser.sum(0)?;
        if parser.at < text.len() {
            return Err(parser.error("an operator is expected"));
        }
        Ok(SizeExpr { steps: parser.steps })
    }

    /// The dim that this expression is, if it is one.
    pub fn as_dim(&self) -> Option<usize> {
        match self.steps.as_slice() {
            [Step::Dim(dim)] => Some(*dim),
            _ => None,
        }
    }

    /// The value at these sizes, one for each dim.
    pub fn at(&self, sizes: &[u64]) -> Result<i64> {
        let mut stack: Vec<i64> = Vec::new();
        let broken = || Error::internal("an expression of sizes does not add up");
        for step in &self.steps {
            let value = match *step {
                Step::Number(n) => n,
                Step::Dim(dim) => i64::try_from(*sizes.get(dim).ok_or_else(broken)?)
                    .map_err(|_| Error::package("a size is no 64-bit integer"))?,
                _ => {
                    let (Some(b), Some(a)) = (stack.pop(), stack.pop()) else { return Err(broken()) };
                    let done = match step {
                        Step::Add => a.checked_add(b),
                        Step::Sub => a.checked_sub(b),
                        Step::Mul => a.checked_mul(b),
                        _ if b == 0 => return Err(Error::package(format!("a size divides by zero: {a}/{b}"))),
                        // Toward minus infinity; the remainder has the sign of the dividend.
                        _ => a.checked_div(b).map(|q| q - i64::from(a % b != 0 && (a < 0) != (b < 0))),
                    };
                    done.ok_or_else(|| Error::package(format!("a size overflows at {a} and {b}")))?
                }
            };
            stack.push(value);
        }
        stack.pop().ok_or_else(broken)
    }
}

struct Parser<'a, S> {
    text: &'a str,
    at: usize,
    dims: &'a [S],
    steps: Vec<Step>,
}

impl<S: AsRef<str>> Parser<'_, S> {
    fn error(&self, why: &str) -> Error {
        let shown: String = self.text.chars().take(60).collect();
        Error::package(format!("the size {shown:?}: {why} at byte {}", self.at))
    }

    fn accept(&mut self, byte: u8) -> bool {
        let yes = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(yes);
        yes
    }

    /// What stands here as long as `f` holds.
    fn take(&mut self, f: impl Fn(u8) -> bool) -> &str {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !f(b)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn sum(&mut self, depth: usize) -> Result<()> {
        self.product(depth)?;
        loop {
            let step = match () {
                () if self.accept(b'+') => Step::Add,
                () if self.accept(b'-') => Step::Sub,
                () => return Ok(()),
            };
            self.product(depth)?;
            self.steps.push(step);
        }
    }

    fn product(&mut self, depth: usize) -> Result<()> {
        self.factor(depth)?;
        loop {
            let step = match () {
                () if self.accept(b'*') => Step::Mul,
                () if self.accept(b'/') => Step::Div,
                () => return Ok(()),
            };
            self.factor(depth)?;
            self.steps.push(step);
        }
    }

    fn factor(&mut self, depth: usize) -> Result<()> {
        if self.accept(b'(') {
            if depth >= MAX_DEPTH {
                return Err(self.error(&format!("more than {MAX_DEPTH} parentheses inside each other")));
            }
            self.sum(depth + 1)?;
            return if self.accept(b')') { Ok(()) } else { Err(self.error("`)` is expected")) };
        }
        let before = self.at;
        let word = self.take(|b| b.is_ascii_alphanumeric() || b == b'_').to_string();
        let step = match word.bytes().next() {
            Some(b) if b.is_ascii_digit() => word.parse().ok().map(Step::Number),
            Some(_) => self.dims.iter().position(|d| d.as_ref() == word).map(Step::Dim),
            None => None,
        };
        let Some(step) = step else {
            self.at = before;
            return Err(self.error("no 64-bit integer and no dim of the package"));
        };
        self.steps.push(step);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: [&str; 2] = ["n", "seq_len"];

    fn at(text: &str, sizes: [u64; 2]) -> i64 {
        SizeExpr::parse(text, &DIMS).unwrap().at(&sizes).unwrap()
    }

    #[test]
    fn values_follow_the_usual_precedence() {
        assert_eq!(at("n", [5, 7]), 5);
        assert_eq!(at("4*n+seq_len*n-1", [5, 7]), 54);
        assert_eq!(at("1-n-seq_len", [5, 7]), -11);
        assert_eq!(at("2*(n+1)*(seq_len-2)", [5, 7]), 60);
        assert_eq!(at("12/n/2", [5, 7]), 1);
        assert_eq!(at("((n))", [5, 7]), 5);
    }

    #[test]
    fn division_rounds_down() {
        for a in -7i64..8 {
            for b in [-3i64, -2, -1, 1, 2, 3] {
                let wanted = (a as f64 / b as f64).floor() as i64;
                assert_eq!(at(&format!("(n+0-{})/(n+0-{})", 50 - a, 50 - b), [50, 0]), wanted, "{a} / {b}");
            }
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        let deep = format!("{}n{}", "(".repeat(17), ")".repeat(17));
        let long = format!("n{}", "+n".repeat(300));
        let bad = [
            "",
            "+",
            "-n",
            "n+",
            "n n",
            "n ",
            " n",
            "m",
            "n)",
            "(n",
            "()",
            "n**2",
            "n//2",
            "1.5",
            "nan",
            "2n",
            "n,n",
            "9223372036854775808",
            "n%2",
            "é",
            &deep,
            &long,
        ];
        for text in bad {
            assert!(SizeExpr::parse(text, &DIMS).is_err(), "{text}");
        }
        assert!(SizeExpr::parse(&deep[1..deep.len() - 1], &DIMS).is_ok());
    }

    #[test]
    fn overflow_and_division_by_zero_are_errors() {
        for text in ["n*n*n*n", "n/(seq_len-7)", "9223372036854775807+n", "0-9223372036854775807-n-n", "n*n*n"] {
            let expr = SizeExpr::parse(text, &DIMS).unwrap();
            assert!(expr.at(&[1 << 31, 7]).is_err(), "{text}");
        }
        // The one quotient that overflows.
        let least = SizeExpr::parse("(0-9223372036854775807-1)/(0-n)", &DIMS).unwrap();
        assert!(least.at(&[1, 0]).is_err());
    }
}
