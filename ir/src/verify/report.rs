//! How a failure is shown.

use crate::error::{Error, Loc};

/// Lines shown before and after the offending one of a long listing.
const CONTEXT: usize = 40;

/// An internal error that shows `lines` with the message under line `at`.
pub(super) fn failure(what: &str, lines: &[String], at: usize, message: &str, loc: Option<&Loc>) -> Error {
    let mut text = format!("the {what} is malformed: {message}\n");
    let (first, last) = (at.saturating_sub(CONTEXT), at.saturating_add(CONTEXT).min(lines.len().saturating_sub(1)));
    if first > 0 {
        text.push_str(&format!("  ... {first} lines\n"));
    }
    for (i, line) in lines.iter().enumerate().take(last + 1).skip(first) {
        text.push_str(line);
        text.push('\n');
        if i == at {
            let indent = line.len() - line.trim_start().len();
            text.push_str(&format!("{:indent$}^ {message}\n", ""));
            if let Some(loc) = loc {
                text.push_str(&format!("{:indent$}  from {loc}\n", ""));
            }
        }
    }
    if last + 1 < lines.len() {
        text.push_str(&format!("  ... {} lines\n", lines.len() - last - 1));
    }
    Error::internal(text).with_loc(loc.cloned())
}
