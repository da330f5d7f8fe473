//! The user's source line: the nearest frame outside the torsh package.
#![allow(unsafe_code, reason = "the current frame is reachable only through the C API")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use torsh_ir::Loc;

// A code object, its file (none: torsh's own), and the lines of instructions that have been asked for: finding one
// in the code's table takes as long as the function is.
struct Code {
    #[allow(dead_code, reason = "held so that its address stays its own")]
    code: Py<PyAny>,
    file: Option<Arc<str>>,
    lines: HashMap<i64, u32>,
}

thread_local! {
    // Code objects seen on this thread, kept alive so that an address stays theirs.
    static CODES: RefCell<HashMap<usize, Code>> = RefCell::new(HashMap::new());
}

// Frames beyond this depth belong to whoever they belong to.
const MAX_DEPTH: usize = 32;
const MAX_CODES: usize = 65_536;

static ROOT: OnceLock<Option<String>> = OnceLock::new();

fn root(py: Python<'_>) -> Option<&'static str> {
    ROOT.get_or_init(|| {
        let module = py.import("sys").ok()?.getattr("modules").ok()?.get_item("torsh").ok()?;
        let file: String = module.getattr("__file__").ok()?.extract().ok()?;
        let cut = file.rfind(['/', '\\'])? + 1;
        Some(file[..cut].to_string())
    })
    .as_deref()
}

/// The nearest line outside the package.
pub fn here(py: Python<'_>) -> Option<Loc> {
    // SAFETY: the GIL is held; the frame is a borrowed reference that is turned into an owned one at once.
    let mut frame = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) }?;
    for _ in 0..MAX_DEPTH {
        if let Some((key, file)) = file_of(py, &frame) {
            return Some(Loc { file, line: line_of(&frame, key), note: None });
        }
        frame = frame.getattr(pyo3::intern!(py, "f_back")).ok()?;
        if frame.is_none() {
            return None;
        }
    }
    None
}

fn line_of(frame: &Bound<'_, PyAny>, key: usize) -> u32 {
    let at: Option<i64> =
        frame.getattr(pyo3::intern!(frame.py(), "f_lasti")).ok().and_then(|at| at.extract().ok()).filter(|&at| at >= 0);
    let known = |at: i64| CODES.with(|c| c.borrow().get(&key).and_then(|code| code.lines.get(&at).copied()));
    if let Some(line) = at.and_then(known) {
        return line;
    }
    // SAFETY: `frame` is a live frame object and the GIL is held.
    let line = unsafe { ffi::PyFrame_GetLineNumber(frame.as_ptr().cast()) };
    let line = u32::try_from(line).unwrap_or(0);
    if let Some(at) = at {
        CODES.with(|c| c.borrow_mut().get_mut(&key).and_then(|code| code.lines.insert(at, line)));
    }
    line
}

// The number under which the frame's code is known, and its file.
fn file_of(py: Python<'_>, frame: &Bound<'_, PyAny>) -> Option<(usize, Arc<str>)> {
    // SAFETY: `frame` is a live frame object, the GIL is held, and the result is a new reference.
    let code = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetCode(frame.as_ptr().cast()).cast()) }?;
    let key = code.as_ptr() as usize;
    if let Some(found) = CODES.with(|c| c.borrow().get(&key).map(|code| code.file.clone())) {
        return found.map(|file| (key, file));
    }
    let name = code.getattr(pyo3::intern!(py, "co_filename")).ok()?;
    let name = name.cast::<PyString>().ok()?.to_str().ok()?;
    let own = name.starts_with("<frozen") || root(py).is_some_and(|r| name.starts_with(r));
    let file: Option<Arc<str>> = if own { None } else { Some(name.into()) };
    CODES.with(|c| {
        let mut codes = c.borrow_mut();
        if codes.len() >= MAX_CODES {
            codes.clear();
        }
        codes.insert(key, Code { code: code.unbind(), file: file.clone(), lines: HashMap::new() });
    });
    file.map(|file| (key, file))
}

/// Notes the user's line for the operations that follow.
pub fn enter(py: Python<'_>) {
    torsh_frontend::mode::set_loc(here(py));
}
