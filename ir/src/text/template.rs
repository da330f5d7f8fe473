//! The text of a graph in which integers may depend on dims: a *template*.
//!
//! ```text
//! graph {
//!   %0: f32[<batch>, 3] = input(index=0)
//!   %1: f32[3] = input(index=1)
//!   %2: f32[1, 3] = reshape(%1)
//!   %3: f32[<batch>, 3] = expand(%2)
//!   %4: f32[<batch>, 3] = add(%0, %3)
//!   return %4
//! }
//! ```
//! An integer, or the whole part of a float that ends in `.0`, may be an expression ([`SizeExpr`]) in angle brackets,
//! which stand nowhere else outside of strings and comments. Filled in at some sizes, a template is ordinary text, which
//! goes through the parser, the verifier and the limits like any other: an expression can say nothing that a number in
//! its place could not. The value of a `full` of 16-bit floats is rounded to that dtype, as the value of any `full` is.

use super::size::SizeExpr;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scalar::round_to;
use std::collections::HashMap;
use std::fmt::Write;

/// Different expressions of a template.
const MAX_EXPRESSIONS: usize = 1 << 16;

/// A template whose expressions have been read.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    exprs: HashMap<String, SizeExpr>,
}

impl Template {
    /// Reads the expressions of a template over these dims; what is around them is read when it is filled in.
    pub fn parse<S: AsRef<str>>(text: String, dims: &[S]) -> Result<Template> {
        let mut exprs: HashMap<String, SizeExpr> = HashMap::new();
        let mut at = 0;
        while let Some((start, end)) = next_hole(&text, at)? {
            let inner = &text[start + 1..end];
            if !exprs.contains_key(inner) {
                if exprs.len() >= MAX_EXPRESSIONS {
                    return Err(place(&text, start, &format!("more than {MAX_EXPRESSIONS} different sizes")));
                }
                let expr = SizeExpr::parse(inner, dims).map_err(|e| place(&text, start, e.message()))?;
                exprs.insert(inner.to_string(), expr);
            }
            at = end + 1;
        }
        Ok(Template { text, exprs })
    }

    /// The template.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of the graph at these sizes, one for each dim, of `most` bytes at the most.
    pub fn at(&self, sizes: &[u64], most: u64) -> Result<String> {
        let mut values: HashMap<&str, i64> = HashMap::with_capacity(self.exprs.len());
        let mut out = String::with_capacity(self.text.len());
        let mut at = 0;
        while let Some((start, end)) = next_hole(&self.text, at)? {
            let inner = &self.text[start + 1..end];
            let value = match values.get(inner) {
                Some(value) => *value,
                None => {
                    let expr = self.exprs.get(inner).ok_or_else(|| Error::internal("a template lost an expression"))?;
                    let value = expr.at(sizes).map_err(|e| place(&self.text, start, e.message()))?;
                    values.insert(inner, value);
                    value
                }
            };
            out.push_str(&self.text[at..start]);
            at = end + 1;
            // Writing to a String cannot fail.
            let _ = match dtype_of_full(&self.text[..start]).filter(|_| self.text[at..].starts_with(".0")) {
                Some(dtype) => {
                    at += ".0".len();
                    write!(out, "{:?}", round_to(value as f64, dtype) as f32)
                }
                None => write!(out, "{value}"),
            };
            if out.len() as u64 > most {
                return Err(Error::package(format!("the graph has more than {most} bytes at the sizes {sizes:?}")));
            }
        }
        out.push_str(&self.text[at..]);
        Ok(out)
    }
}

/// The dtype of a `full` of 16-bit floats whose value comes after this text.
fn dtype_of_full(before: &str) -> Option<DType> {
    let head = before.strip_suffix(" = full(value=")?;
    let ty = &head[head.rfind(": ")? + 2..];
    [DType::F16, DType::BF16].into_iter().find(|d| ty.strip_prefix(d.short()).is_some_and(|rest| rest.starts_with('[')))
}

fn place(text: &str, at: usize, why: &str) -> Error {
    let before = &text[..at];
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    Error::package(format!("line {line}, column {column}: {why}"))
}

/// The brackets of the next expression from `at` on, which lies outside of strings and comments. An expression stands
/// where an integer does and touches no other word.
fn next_hole(text: &str, at: usize) -> Result<Option<(usize, usize)>> {
    let bytes = text.as_bytes();
    let mut i = at;
    while let Some(&b) = bytes.get(i) {
        match b {
            b'"' => i = end_of_string(bytes, i),
            b';' => i += bytes[i..].iter().position(|&b| b == b'\n').unwrap_or(bytes.len() - i),
            b'<' => {
                let inner = bytes[i + 1..].iter().position(|&b| matches!(b, b'>' | b'<' | b'\n' | b'"' | b';'));
                let Some(end) = inner.map(|n| i + 1 + n).filter(|&end| bytes[end] == b'>') else {
                    return Err(place(text, i, "a size without an end"));
                };
                let free = i > 0 && matches!(bytes[i - 1], b' ' | b'[' | b'=');
                let rest = &bytes[end + 1..];
                if !free || !(rest.starts_with(b".0") || matches!(rest.first(), Some(b',' | b']' | b')'))) {
                    return Err(place(text, i, "a size must stand where an integer stands"));
                }
                return Ok(Some((i, end)));
            }
            _ => i += 1,
        }
    }
    Ok(None)
}

/// The byte after a string that begins at `i`; a string ends on its line.
fn end_of_string(bytes: &[u8], i: usize) -> usize {
    let mut i = i + 1;
    while let Some(&b) = bytes.get(i) {
        match b {
            b'"' | b'\n' => return i + 1,
            b'\\' if matches!(bytes.get(i + 1), Some(b'"' | b'\\')) => i += 2,
            _ => i += 1,
        }
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    const MOST: u64 = 1 << 20;
    const GRAPH: &str = "graph {
  %0: f32[<n>, 3] = input(index=0) ; <not a size
  %1: f32[<n>, 3] = full(value=<2*n>.0) @ \"a <\\\" file\":3
  %2: f32[<n-1>, 3] = slice(%0, starts=[1, 0], stops=[<n>, 3], steps=[1, 1])
  return %1, %2
}
";

    #[test]
    fn a_template_is_filled_in() {
        let template = Template::parse(GRAPH.to_string(), &["n"]).unwrap();
        assert_eq!(template.text(), GRAPH);
        for n in [2u64, 3, 100] {
            let filled = template.at(&[n], MOST).unwrap();
            let wanted = GRAPH
                .replace("<n>", &n.to_string())
                .replace("<2*n>", &(2 * n).to_string())
                .replace("<n-1>", &(n - 1).to_string());
            assert_eq!(filled, wanted);
            let graph = text::parse(&filled).unwrap();
            assert_eq!(graph.shape(graph.outputs()[1]).dims(), [n as usize - 1, 3]);
        }
        // What a filled template says is checked like any text.
        assert!(text::parse(&template.at(&[0], MOST).unwrap()).is_err());
        assert!(template.at(&[3], 50).unwrap_err().message().contains("more than 50 bytes"));
    }

    #[test]
    fn sixteen_bit_values_are_rounded() {
        for (dtype, n, value) in [
            ("f16", 2051, "2052.0"),
            ("bf16", 257, "256.0"),
            ("bf16", 60000, "59904.0"),
            ("f16", 70000, "inf"),
            ("f32", 16_777_217, "16777217.0"),
        ] {
            let text = format!("graph {{\n  %0: {dtype}[<n>, 3] = full(value=<n>.0)\n  return %0\n}}\n");
            let filled = Template::parse(text, &["n"]).unwrap().at(&[n], MOST).unwrap();
            assert_eq!(filled, format!("graph {{\n  %0: {dtype}[{n}, 3] = full(value={value})\n  return %0\n}}\n"));
            text::parse(&filled).unwrap();
        }
    }

    #[test]
    fn brackets_stand_where_an_integer_does() {
        for bad in
            ["%<n>: f32[]", "f32[1<n>]", "f32[<n>1]", "<n>", "f32[<n", "f32[<n\n>]", "f32[<<n>>]", "[<n>.5]", "[<m>]"]
        {
            assert!(Template::parse(bad.to_string(), &["n"]).is_err(), "{bad}");
        }
        // Text without brackets is itself.
        let plain = Template::parse("graph { return }".into(), &["n"]).unwrap();
        assert_eq!(plain.at(&[1], MOST).unwrap(), "graph { return }");
        // What the parser does not know stays an error.
        assert!(text::parse("graph { %0: f32[3>] = input(index=0) return %0 }").is_err());
    }

    #[test]
    fn damage_never_panics() {
        for at in (0..GRAPH.len()).filter(|&at| GRAPH.is_char_boundary(at)) {
            for piece in ["", "<", ">", "\"", ";", "n", "-", "(", "é", "<n>", "\\"] {
                let damaged = format!("{}{piece}{}", &GRAPH[..at], &GRAPH[at..]);
                if let Ok(template) = Template::parse(damaged, &["n"]) {
                    let _ = template.at(&[u64::MAX], MOST);
                    let _ = template.at(&[3], MOST).map(|t| text::parse(&t).is_ok());
                }
            }
        }
    }
}
