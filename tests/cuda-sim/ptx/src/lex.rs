//! Tokens of PTX text.

use crate::error::Error;

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    /// An opcode with its modifiers, a directive, a register or a symbol.
    Word(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    Str(&'a str),
    Punct(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub tok: Tok<'a>,
    pub line: u32,
}

fn word_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Splits the text into tokens; comments vanish.
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let b = text.as_bytes();
    let mut out = Vec::with_capacity(b.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    while i < b.len() {
        let c = b[i];
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            i += 1;
        } else if c == b'/' && b.get(i + 1) == Some(&b'/') {
            while i < b.len() && b[i] != b'\n' {
                i += 1;
            }
        } else if c == b'/' && b.get(i + 1) == Some(&b'*') {
            i += 2;
            while i + 1 < b.len() && !(b[i] == b'*' && b[i + 1] == b'/') {
                line += u32::from(b[i] == b'\n');
                i += 1;
            }
            i += 2;
        } else if c == b'"' {
            let start = i + 1;
            i = start;
            while i < b.len() && b[i] != b'"' {
                line += u32::from(b[i] == b'\n');
                i += 1;
            }
            let s = text.get(start..i).ok_or_else(|| Error::new(line, "text is not valid UTF-8 here"))?;
            out.push(Token { tok: Tok::Str(s), line });
            i += 1;
        } else if c.is_ascii_digit() {
            let start = i;
            while i < b.len() && (b[i].is_ascii_alphanumeric() || b[i] == b'.') {
                i += 1;
            }
            out.push(Token { tok: number(&text[start..i], line)?, line });
        } else if word_char(c) {
            let start = i;
            while i < b.len() {
                let scope = b[i] == b':' && b.get(i + 1) == Some(&b':') && b.get(i + 2).is_some_and(|&c| word_char(c));
                if scope {
                    i += 2;
                } else if word_char(b[i]) {
                    i += 1;
                } else {
                    break;
                }
            }
            out.push(Token { tok: Tok::Word(&text[start..i]), line });
        } else if b",;:[]{}()+-@!|=<>".contains(&c) {
            out.push(Token { tok: Tok::Punct(c), line });
            i += 1;
        } else {
            return Err(Error::new(line, format!("unexpected character {:?}", c as char)));
        }
    }
    Ok(out)
}

fn number(s: &str, line: u32) -> Result<Tok<'static>, Error> {
    let bad = || Error::new(line, format!("`{s}` is not a number"));
    let radix = |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches('U'), radix).map_err(|_| bad());
    let prefix = s.get(..2).unwrap_or("");
    match prefix {
        "0f" | "0F" if s.len() == 10 => return Ok(Tok::F32(u32::from_str_radix(&s[2..], 16).map_err(|_| bad())?)),
        "0d" | "0D" if s.len() == 18 => return Ok(Tok::F64(u64::from_str_radix(&s[2..], 16).map_err(|_| bad())?)),
        "0x" | "0X" => return Ok(Tok::Int(radix(&s[2..], 16)?)),
        "0b" | "0B" => return Ok(Tok::Int(radix(&s[2..], 2)?)),
        _ => {}
    }
    if s.contains('.') || (s.contains(['e', 'E'])) {
        return Ok(Tok::F64(s.parse::<f64>().map_err(|_| bad())?.to_bits()));
    }
    let d = s.trim_end_matches('U');
    if d.len() > 1 && d.starts_with('0') {
        Ok(Tok::Int(radix(d, 8)?))
    } else {
        Ok(Tok::Int(d.parse().map_err(|_| bad())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_comments() {
        let toks: Vec<Tok> =
            lex("ld.global.L1::no_allocate.v4.f32 {%f1,_}, [%rd1+-16]; // x\n$L: /* y\n */ 0f3F800000 0x1FU 017")
                .unwrap()
                .iter()
                .map(|t| t.tok)
                .collect();
        assert_eq!(toks[0], Tok::Word("ld.global.L1::no_allocate.v4.f32"));
        assert_eq!(toks[1], Tok::Punct(b'{'));
        assert_eq!(
            &toks[toks.len() - 5..],
            &[Tok::Word("$L"), Tok::Punct(b':'), Tok::F32(0x3F80_0000), Tok::Int(31), Tok::Int(15)]
        );
        assert_eq!(lex("a\n ^").unwrap_err().line, 2);
    }
}
