//! Words, strings and punctuation of the text form.

/// A piece of text and where it starts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Token<'a> {
    pub kind: TokenKind,
    /// The token as written; a string with its quotes.
    pub text: &'a str,
    /// Byte offset.
    pub at: usize,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum TokenKind {
    /// A name, a keyword or a number.
    Word,
    /// A quoted string.
    Str,
    /// One of `% : = ( ) [ ] { } , @`.
    Punct,
    /// The end of the text.
    End,
    /// A character that starts nothing, or a string without an end.
    Bad,
}

/// Splits text into tokens, one at a time, skipping white space and `;` comments.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

/// Whether a byte is part of a word.
const WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = (b as u8).is_ascii_alphanumeric() || matches!(b as u8, b'_' | b'.' | b'+' | b'-');
        b += 1;
    }
    table
};

fn word_byte(b: u8) -> bool {
    WORD[usize::from(b)]
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) {
        let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        let mut rest = &self.text.as_bytes()[self.at..];
        loop {
            rest = &rest[rest.iter().position(|b| !blank(b)).unwrap_or(rest.len())..];
            if rest.first() != Some(&b';') {
                break;
            }
            rest = &rest[rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())..];
        }
        self.at = self.text.len() - rest.len();
    }

    pub fn next(&mut self) -> Token<'a> {
        self.skip_blank();
        let start = self.at;
        let kind = match self.byte(start) {
            _ if start >= self.text.len() => TokenKind::End,
            b'%' | b':' | b'=' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b',' | b'@' => {
                self.at += 1;
                TokenKind::Punct
            }
            b'"' => self.string(),
            b if word_byte(b) => {
                self.word();
                let (word, rest) = self.text.as_bytes().split_at(self.at);
                if &word[start..] == b"nan" && rest.starts_with(b":0x") {
                    self.at += 1;
                    self.word();
                }
                TokenKind::Word
            }
            _ => {
                self.at += self.text[start..].chars().next().map_or(1, char::len_utf8);
                TokenKind::Bad
            }
        };
        Token { kind, text: &self.text[start..self.at], at: start }
    }

    fn word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|&b| !word_byte(b)).unwrap_or(rest.len());
    }

    /// From the opening quote; a string ends on its line.
    fn string(&mut self) -> TokenKind {
        self.at += 1;
        loop {
            match self.byte(self.at) {
                b'"' => {
                    self.at += 1;
                    return TokenKind::Str;
                }
                // A backslash at the end of a line or text leaves the end to the next turn.
                b'\\' if matches!(self.byte(self.at + 1), b'"' | b'\\') => self.at += 2,
                b'\n' => return TokenKind::Bad,
                _ if self.at >= self.text.len() => return TokenKind::Bad,
                _ => self.at += 1,
            }
        }
    }
}

/// The contents of a quoted string; `None` for an unknown escape.
pub(super) fn unescape(quoted: &str) -> Option<String> {
    let body = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let (c, used) = match escape.as_bytes().first()? {
            b'"' => ('"', 1),
            b'\\' => ('\\', 1),
            b'n' => ('\n', 1),
            b'r' => ('\r', 1),
            b't' => ('\t', 1),
            b'u' => {
                let end = escape.find('}')?;
                let hex = escape.get(1..end)?.strip_prefix('{')?;
                (char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, end + 1)
            }
            _ => return None,
        };
        out.push(c);
        rest = &escape[used..];
    }
    out.push_str(rest);
    Some(out)
}
