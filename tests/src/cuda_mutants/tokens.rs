//! The words, numbers and signs of CUDA C text, without comments, strings and lines of the preprocessor.

/// What a token is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An identifier or keyword.
    Word,
    /// A number, with its suffix.
    Number,
    /// A string in quotes.
    Text,
    /// An operator or bracket.
    Sign,
}

/// A token and where it stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub text: &'a str,
    /// Its first byte.
    pub at: usize,
}

impl Token<'_> {
    /// The byte after it.
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// Signs of more than one character, longer ones first.
const SIGNS: &[&str] = &[
    "<<=", ">>=", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "&=",
    "|=", "^=", "::",
];

/// The tokens of a text.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    while at < bytes.len() {
        let rest = &text[at..];
        let start = at;
        let b = bytes[at];
        if b.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if b == b'#' || rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let kind = if b == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
            Kind::Text
        } else if b.is_ascii_digit() || b == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            let hex = rest.starts_with("0x");
            while at < bytes.len() {
                let sign = matches!(bytes[at], b'+' | b'-') && !hex && matches!(bytes[at - 1], b'e' | b'E');
                if !word(bytes[at]) && bytes[at] != b'.' && !sign {
                    break;
                }
                at += 1;
            }
            Kind::Number
        } else if word(b) {
            while at < bytes.len() && word(bytes[at]) {
                at += 1;
            }
            Kind::Word
        } else {
            at += SIGNS.iter().find(|s| rest.starts_with(**s)).map_or(1, |s| s.len());
            Kind::Sign
        };
        let end = at.min(bytes.len());
        out.push(Token { kind, text: &text[start..end], at: start });
    }
    out
}

/// The index of the bracket that closes the one at `open`.
pub fn closing(t: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in t.iter().enumerate().skip(open).filter(|(_, t)| t.kind == Kind::Sign) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// The first token from `from` on, outside further brackets, that `is` says or that closes the brackets around.
pub fn until(t: &[Token<'_>], from: usize, is: impl Fn(&str) -> bool) -> Option<usize> {
    let mut i = from;
    while i < t.len() {
        let text = t[i].text;
        if t[i].kind == Kind::Sign {
            if is(text) || matches!(text, ")" | "]" | "}") {
                return Some(i);
            }
            if matches!(text, "(" | "[" | "{") {
                i = closing(t, i)?;
            }
        }
        i += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_falls_into_tokens() {
        let text = "#pragma unroll\nif (a <= 0xffu) x += 1e-5f; // no\nasm(\"a \\\" b\");";
        let all: Vec<&str> = tokens(text).iter().map(|t| t.text).collect();
        let want = ["if", "(", "a", "<=", "0xffu", ")", "x", "+=", "1e-5f", ";", "asm", "(", "\"a \\\" b\"", ")", ";"];
        assert_eq!(all, want);
        let t = tokens(text);
        assert_eq!(closing(&t, 1), Some(5));
        assert_eq!(until(&t, 6, |s| s == ";"), Some(9));
        assert!(t.iter().all(|t| &text[t.at..t.end()] == t.text));
    }
}
