//! The user's source line: the nearest frame outside the torsh package.
#![allow(unsafe_code, reason = "the current frame is reachable only through the C API")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use torsh_ir::Loc;

// A code object and its file; no file: torsh's own.
type Code = (Py<PyAny>, Option<Arc<str>>);

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
        if let Some(file) = file_of(py, &frame) {
            // SAFETY: `frame` is a live frame object and the GIL is held.
            let line = unsafe { ffi::PyFrame_GetLineNumber(frame.as_ptr().cast()) };
            return Some(Loc { file, line: u32::try_from(line).unwrap_or(0) });
        }
        frame = frame.getattr(pyo3::intern!(py, "f_back")).ok()?;
        if frame.is_none() {
            return None;
        }
    }
    None
}

fn file_of(py: Python<'_>, frame: &Bound<'_, PyAny>) -> Option<Arc<str>> {
    // SAFETY: `frame` is a live frame object, the GIL is held, and the result is a new reference.
    let code = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetCode(frame.as_ptr().cast()).cast()) }?;
    let key = code.as_ptr() as usize;
    if let Some(found) = CODES.with(|c| c.borrow().get(&key).map(|(_, f)| f.clone())) {
        return found;
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
        codes.insert(key, (code.unbind(), file.clone()));
    });
    file
}

/// Notes the user's line for the operations that follow.
pub fn enter(py: Python<'_>) {
    torsh_frontend::mode::set_loc(here(py));
}
