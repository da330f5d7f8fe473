//! Single changes of a source and of a launch plan.

use super::tokens::{Kind, Token, closing, tokens, until};
use torsh_codegen::cuda::{LaunchArg, Module};

/// A change of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// What kind of change it is.
    pub kind: &'static str,
    /// Bytes that are replaced.
    pub from: usize,
    /// The byte after them.
    pub to: usize,
    /// What comes instead.
    pub text: String,
}

impl Edit {
    /// The source with the change.
    pub fn apply(&self, source: &str) -> String {
        format!("{}{}{}", &source[..self.from], self.text, &source[self.to..])
    }
    /// The lines that it touches, the old text and the new.
    pub fn show(&self, source: &str) -> String {
        let start = source[..self.from].rfind('\n').map_or(0, |i| i + 1);
        let end = self.to + source[self.to..].find('\n').unwrap_or(0);
        let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        let new = format!("{}{}{}", &source[start..self.from], self.text, &source[self.to..end]);
        format!("{} => {}", squeeze(&source[start..end]), squeeze(&new))
    }
}

/// Every kind of change, in the order of the table.
pub const KINDS: &[&str] = &[
    "barrier deleted",
    "cp.async wait or commit deleted",
    "call deleted",
    "store deleted",
    "comparison off by one",
    "predicate dropped",
    "branch never taken",
    "select swapped",
    "constant off by one",
    "stride or tile off by one",
    "shared array smaller",
    "mask changed",
    "operands swapped",
    "subtraction dropped",
    "plus for minus",
    "float constant zeroed",
    "initial value changed",
    "clamp removed",
    "alignment or volatile removed",
    "launch bound halved",
    "plan: grid one less",
    "plan: shared memory less",
    "plan: scratch smaller or shifted",
    "plan: number off by one",
    "plan: buffer shifted",
    "plan: launch dropped",
];

/// A function of a source: its name and its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The name.
    pub name: String,
    /// First byte and the byte after the last.
    pub span: (usize, usize),
    /// A kernel, not a helper.
    pub kernel: bool,
}

/// The functions of a source.
pub fn pieces(source: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(end) = source[at..].find("\n}\n") {
        let span = (at, at + end + 3);
        let text = &source[span.0..span.1];
        let kernel = text.trim_start().starts_with("extern");
        let t = tokens(text);
        // The name stands before the parameters: the first bracket for helpers, the one after the bounds for kernels.
        let open = t.iter().enumerate().filter(|(_, t)| t.text == "(").nth(usize::from(kernel)).map(|(i, _)| i);
        let name = open.and_then(|i| i.checked_sub(1)).map_or(String::new(), |i| t[i].text.to_string());
        out.push(Piece { name, span, kernel });
        at = span.1;
    }
    out
}

/// Functions whose two operands are not the same: a difference and a quotient.
const DIFFERENCES: &[&str] = &["__fsub_rn", "__dsub_rn"];
const QUOTIENTS: &[&str] = &["__fdiv_rn", "__ddiv_rn"];
const WAITS: &[&str] = &["t_wait_0", "t_wait_1", "t_commit"];
const CLAMPS: &[&str] = &["t_clamp", "t_max_f32", "t_max_f64", "t_min_f32", "t_min_f64"];

/// Every single change of a function, in order of place. Bodies of `asm` are left alone.
pub fn edits(source: &str, piece: &Piece) -> Vec<Edit> {
    let base = piece.span.0;
    let text = &source[piece.span.0..piece.span.1];
    let t = tokens(text);
    let mut found = Finder { text, t: &t, base, out: Vec::new() };
    let body = t.iter().position(|t| t.text == "{").unwrap_or(0);
    for (i, token) in t.iter().enumerate() {
        match token.kind {
            Kind::Word => found.word(i),
            // Parameter lists have nothing to change but their words.
            Kind::Number if i > body => found.number(i),
            Kind::Sign if i > body => found.sign(i),
            Kind::Number | Kind::Sign | Kind::Text => {}
        }
    }
    found.out
}

struct Finder<'a> {
    text: &'a str,
    t: &'a [Token<'a>],
    base: usize,
    out: Vec<Edit>,
}

impl Finder<'_> {
    fn text_at(&self, i: usize) -> &str {
        self.t.get(i).map_or("", |t| t.text)
    }

    /// Replaces the bytes from one to before the other.
    fn edit(&mut self, kind: &'static str, from: usize, to: usize, text: impl Into<String>) {
        self.out.push(Edit { kind, from: self.base + from, to: self.base + to, text: text.into() });
    }

    fn replace(&mut self, kind: &'static str, i: usize, text: impl Into<String>) {
        self.edit(kind, self.t[i].at, self.t[i].end(), text);
    }

    /// True when a statement begins at token `i`.
    fn begins(&self, i: usize) -> bool {
        i > 0 && matches!(self.t[i - 1].text, ";" | "{" | "}" | ")" | "else")
    }

    /// The bytes of the arguments of a call whose bracket is token `open`.
    fn arguments(&self, open: usize) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        let mut from = open + 1;
        while let Some(end) = until(self.t, from, |s| s == ",") {
            out.push((self.t[from].at, self.t[end].at));
            if self.t[end].text != "," {
                break;
            }
            from = end + 1;
        }
        out
    }

    fn word(&mut self, i: usize) {
        let (word, at) = (self.t[i].text, self.t[i].at);
        if word == "volatile" {
            self.replace("alignment or volatile removed", i, "");
        }
        if word == "__shared__" {
            self.array(i);
        }
        if self.text_at(i + 1) == "[" && self.begins(i) {
            self.store(i);
        }
        if self.text_at(i + 1) != "(" {
            return;
        }
        let Some(close) = closing(self.t, i + 1) else { return };
        let end = self.t[close].end();
        if word == "__align__" {
            self.edit("alignment or volatile removed", at, end, "");
        }
        if word == "__launch_bounds__"
            && let Ok(n) = self.t[i + 2].text.parse::<u64>()
        {
            self.replace("launch bound halved", i + 2, (n / 2).to_string());
        }
        if word == "if" {
            let inside = self.text[self.t[i + 1].end()..self.t[close].at].to_string();
            self.edit("predicate dropped", at, end, format!("if (true || ({inside}))"));
            self.edit("branch never taken", at, end, format!("if (false && ({inside}))"));
        }
        if matches!(word, "__syncthreads" | "__syncwarp") {
            self.edit("barrier deleted", at, end, "(void)0");
        } else if WAITS.contains(&word) && self.begins(i) {
            self.edit("cp.async wait or commit deleted", at, end, "(void)0");
        } else if self.begins(i) && self.text_at(close + 1) == ";" && !matches!(word, "if" | "for" | "while" | "asm") {
            self.edit("call deleted", at, end, "(void)0");
        }
        let args = self.arguments(i + 1);
        if let [a, b] = args[..]
            && (DIFFERENCES.contains(&word) || QUOTIENTS.contains(&word))
        {
            let (x, y) = (self.text[a.0..a.1].to_string(), self.text[b.0..b.1].to_string());
            self.edit("operands swapped", at, end, format!("{word}({y}, {x})"));
            if DIFFERENCES.contains(&word) {
                self.edit("subtraction dropped", at, end, format!("({x})"));
                self.replace("plus for minus", i, word.replace("sub", "add"));
            }
        }
        if matches!(word, "__fadd_rn" | "__dadd_rn") {
            self.replace("plus for minus", i, word.replace("add", "sub"));
        }
        if CLAMPS.contains(&word)
            && i > 1
            && let Some(a) = args.first()
        {
            let x = self.text[a.0..a.1].to_string();
            // Not where the function itself is defined.
            if !x.starts_with("float ") && !x.starts_with("double ") && !x.starts_with("int ") {
                self.edit("clamp removed", at, end, format!("({x})"));
            }
        }
        if matches!(word, "__int_as_float" | "__longlong_as_double") && self.t[i + 2].kind == Kind::Number {
            let zero = if word == "__int_as_float" { "0.0f" } else { "0.0" };
            self.edit("float constant zeroed", at, end, zero);
        }
    }

    /// A declaration in shared memory: each size smaller, the last of several by more than it is padded.
    fn array(&mut self, i: usize) {
        let Some(end) =
            until(self.t, i, |s| s == "[").and_then(|open| until(self.t, open, |s| s == ";").or(Some(open)))
        else {
            return;
        };
        let sizes: Vec<usize> =
            (i..end).filter(|&n| self.t[n].kind == Kind::Number && self.text_at(n - 1) == "[").collect();
        for (at, &n) in sizes.iter().enumerate() {
            let less = if at > 0 { 9 } else { 1 };
            if let Ok(size) = self.t[n].text.parse::<u64>()
                && size > less
            {
                self.replace("shared array smaller", n, (size - less).to_string());
            }
        }
    }

    /// A statement `name[..] = ..;` or with another assignment.
    fn store(&mut self, i: usize) {
        let mut last = i + 1;
        while self.text_at(last) == "[" {
            let Some(close) = closing(self.t, last) else { return };
            last = close + 1;
        }
        if self.text_at(last).ends_with('=')
            && let Some(end) = until(self.t, last, |s| s == ";")
        {
            self.edit("store deleted", self.t[i].at, self.t[end].at, "(void)0");
        }
    }

    fn number(&mut self, i: usize) {
        let number = self.t[i].text;
        let before = self.text_at(i - 1);
        let after = self.text_at(i + 1);
        if let Some(hex) = number.strip_prefix("0x") {
            let digits = hex.trim_end_matches(['u', 'l']);
            if digits == "ffffffff" {
                self.replace("mask changed", i, format!("0x7fffffff{}", &hex[digits.len()..]));
            }
            return;
        }
        if number.contains(['.', 'e', 'f']) {
            let zero = if number.ends_with('f') { "0.0f" } else { "0.0" };
            if number.trim_end_matches('f').parse::<f64>().is_ok_and(|x| x != 0.0) {
                self.replace("float constant zeroed", i, zero);
            }
            return;
        }
        let digits = number.trim_end_matches(['u', 'l']);
        let Ok(value) = digits.parse::<u64>() else { return };
        let suffix = &number[digits.len()..];
        // With one more, distances of exchanges would still reach every lane.
        if before == "," && after == ")" && self.is_exchange(i) {
            let other = if value == 16 { 8 } else { 2 * value };
            return self.replace("mask changed", i, other.to_string());
        }
        let kind = match (before, after) {
            ("&", _) => "mask changed",
            ("*" | "/" | "%" | "+=" | ">>=" | "<<=", _) | (_, "*") => "stride or tile off by one",
            ("=", ";") => "initial value changed",
            // The size of an array: larger changes nothing, and smaller is the kind for shared arrays.
            ("[", "]") if self.is_declaration(i) => return,
            _ => "constant off by one",
        };
        let other = if before == "&" && value > 1 { value - 1 } else { value + 1 };
        self.replace(kind, i, format!("{other}{suffix}"));
    }

    /// True when token `i` is the last argument of an exchange between lanes.
    fn is_exchange(&self, i: usize) -> bool {
        let open = (0..i).rev().find(|&o| self.text_at(o) == "(" && closing(self.t, o) == Some(i + 1));
        open.is_some_and(|o| o > 0 && self.text_at(o - 1) == "__shfl_xor_sync")
    }

    /// True when the `[number]` at `i` belongs to a declaration: a type stands before the name.
    fn is_declaration(&self, i: usize) -> bool {
        let mut at = i - 1;
        while at > 3 && self.t[at - 1].text == "]" {
            at -= 3;
        }
        at > 1 && self.t[at - 1].kind == Kind::Word && self.t[at - 2].kind == Kind::Word
    }

    fn sign(&mut self, i: usize) {
        let sign = self.t[i].text;
        let other = match sign {
            "<" => "<=",
            "<=" => "<",
            ">" => ">=",
            ">=" => ">",
            "==" => "!=",
            "!=" => "==",
            _ => "",
        };
        if !other.is_empty() {
            self.replace("comparison off by one", i, other);
        }
        // By the binding of && and ||, these leave what stands before, and what stands after.
        if sign == "&&" {
            self.replace("predicate dropped", i, "|| false &&");
            self.replace("predicate dropped", i, "&& false ||");
        }
        let previous = self.t[i - 1];
        let binary = previous.kind != Kind::Sign || matches!(previous.text, ")" | "]");
        match sign {
            "+" if binary => self.replace("plus for minus", i, "-"),
            "-" if binary => self.replace("plus for minus", i, "+"),
            "+=" => self.replace("plus for minus", i, "-="),
            "?" => {
                let Some(colon) = self.colon(i) else { return };
                let Some(end) = self.end_of_choice(colon) else { return };
                let yes = self.text[self.t[i].end()..self.t[colon].at].trim().to_string();
                let no = self.text[self.t[colon].end()..self.t[end].at].trim().to_string();
                self.edit("select swapped", self.t[i].at, self.t[end].at, format!("? ({no}) : ({yes})"));
            }
            _ => {}
        }
    }

    /// The token after what stands behind a colon, which may be a choice itself.
    fn end_of_choice(&self, colon: usize) -> Option<usize> {
        let mut nested = 0;
        let mut from = colon + 1;
        loop {
            let at = until(self.t, from, |s| matches!(s, ";" | "," | "?" | ":"))?;
            match self.t[at].text {
                "?" => nested += 1,
                ":" if nested > 0 => nested -= 1,
                _ => return Some(at),
            }
            from = at + 1;
        }
    }

    /// The colon of a question mark.
    fn colon(&self, question: usize) -> Option<usize> {
        let mut nested = 0;
        let mut from = question + 1;
        loop {
            let at = until(self.t, from, |s| matches!(s, "?" | ":" | ";"))?;
            match self.t[at].text {
                "?" => nested += 1,
                ":" if nested == 0 => return Some(at),
                ":" => nested -= 1,
                _ => return None,
            }
            from = at + 1;
        }
    }
}

/// A changed plan: kind, what was changed, and the plan.
pub type Changed = (&'static str, String, Module);

/// Every single change of a plan; `used` tells whether a kernel reads a parameter: what nobody reads may be anything.
pub fn plans(module: &Module, used: &dyn Fn(&str, usize) -> bool) -> Vec<Changed> {
    let mut out = Vec::new();
    for (s, step) in module.steps.iter().enumerate() {
        for (l, launch) in step.launches.iter().enumerate() {
            let name = &module.kernels[launch.kernel].name;
            let mut change = |kind: &'static str, what: String, f: &dyn Fn(&mut Module)| {
                let mut m = module.clone();
                f(&mut m);
                out.push((kind, format!("{name}: {what}"), m));
            };
            for axis in 0..3 {
                if launch.grid[axis] > 1 {
                    let what = format!("grid {:?} less one along {axis}", launch.grid);
                    change("plan: grid one less", what, &|m| m.steps[s].launches[l].grid[axis] -= 1);
                }
            }
            if launch.dynamic_shared > 0 {
                let what = format!("dynamic shared memory {} less 32", launch.dynamic_shared);
                change("plan: shared memory less", what, &|m| m.steps[s].launches[l].dynamic_shared -= 32);
            }
            for (a, arg) in launch.args.iter().enumerate().filter(|(a, _)| used(name, *a)) {
                match arg {
                    LaunchArg::Scratch { offset } => {
                        let shifted = LaunchArg::Scratch { offset: offset + 16 };
                        let what = format!("argument {a}, scratch {offset} plus 16");
                        change("plan: scratch smaller or shifted", what, &|m| {
                            m.steps[s].launches[l].args[a] = shifted.clone();
                        });
                    }
                    LaunchArg::Buffer { buf, offset } => {
                        let shifted = LaunchArg::Buffer { buf: *buf, offset: offset + 16 };
                        let what = format!("argument {a}, buffer offset {offset} plus 16");
                        change("plan: buffer shifted", what, &|m| m.steps[s].launches[l].args[a] = shifted.clone());
                    }
                    LaunchArg::U32(x) => {
                        let what = format!("argument {a}, {x} plus 1");
                        let next = LaunchArg::U32(x.wrapping_add(1));
                        change("plan: number off by one", what, &|m| m.steps[s].launches[l].args[a] = next.clone());
                    }
                    LaunchArg::U64(x) => {
                        let what = format!("argument {a}, {x} plus 1");
                        let next = LaunchArg::U64(x.wrapping_add(1));
                        change("plan: number off by one", what, &|m| m.steps[s].launches[l].args[a] = next.clone());
                    }
                    LaunchArg::Error => {}
                }
            }
            change("plan: launch dropped", format!("launch {l} of step {s}"), &|m| {
                m.steps[s].launches.remove(l);
            });
        }
    }
    if module.scratch_bytes > 0 {
        let mut m = module.clone();
        // Sizes are multiples of 256.
        m.scratch_bytes = m.scratch_bytes.saturating_sub(256);
        out.push(("plan: scratch smaller or shifted", format!("{} bytes less 256", module.scratch_bytes), m));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &str) -> Vec<(&'static str, String)> {
        let source = format!("extern \"C\" __global__ void __launch_bounds__(64) k0_x(float* p0) {{\n{body}\n}}\n");
        let pieces = pieces(&source);
        assert_eq!(pieces.len(), 1);
        assert_eq!((&pieces[0].name[..], pieces[0].kernel), ("k0_x", true));
        let line = |e: &Edit| {
            let new = e.apply(&source);
            new.lines().nth(1).unwrap_or("").to_string()
        };
        edits(&source, &pieces[0])
            .iter()
            .filter(|e| e.kind != "launch bound halved")
            .map(|e| (e.kind, line(e)))
            .collect()
    }

    #[test]
    fn changes_are_what_they_say() {
        assert_eq!(all("__syncthreads();"), [("barrier deleted", "(void)0;".to_string())]);
        let found = all("if (a < n && b) x[i] = __fsub_rn(u, v);");
        let has =
            |kind: &str, line: &str| assert!(found.iter().any(|f| f.0 == kind && f.1 == line), "{line}: {found:#?}");
        has("comparison off by one", "if (a <= n && b) x[i] = __fsub_rn(u, v);");
        has("predicate dropped", "if (a < n || false && b) x[i] = __fsub_rn(u, v);");
        has("predicate dropped", "if (a < n && false || b) x[i] = __fsub_rn(u, v);");
        has("predicate dropped", "if (true || (a < n && b)) x[i] = __fsub_rn(u, v);");
        has("branch never taken", "if (false && (a < n && b)) x[i] = __fsub_rn(u, v);");
        has("store deleted", "if (a < n && b) (void)0;");
        has("operands swapped", "if (a < n && b) x[i] = __fsub_rn(v, u);");
        has("subtraction dropped", "if (a < n && b) x[i] = (u);");
        has("plus for minus", "if (a < n && b) x[i] = __fadd_rn(u, v);");
        let found = all("y = c ? a + 1 : d ? 2u : x & 31;");
        let has =
            |kind: &str, line: &str| assert!(found.iter().any(|f| f.0 == kind && f.1 == line), "{line}: {found:#?}");
        has("select swapped", "y = c ? (d ? 2u : x & 31) : (a + 1);");
        has("select swapped", "y = c ? a + 1 : d ? (x & 31) : (2u);");
        has("constant off by one", "y = c ? a + 1 : d ? 3u : x & 31;");
        has("mask changed", "y = c ? a + 1 : d ? 2u : x & 30;");
        assert_eq!(all("__shared__ float s[32];"), [("shared array smaller", "__shared__ float s[31];".to_string())]);
        assert!(all("float s[4][2];").is_empty());
    }
}
