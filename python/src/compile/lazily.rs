//! Functions that run without compilation, and how they are told so.

use super::{Body, CompiledFunction, Entry};
use crate::guard::Guards;
use crate::signature::Spec;
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use torsh_frontend::mode;
use torsh_frontend::trace::Break;
use torsh_ir::Loc;

/// Programs that differ in one plain value or object before its further values run lazily.
const MAX_ALIKE: usize = 8;
/// Programs of one signature, for all that guards saw, before what is new runs lazily.
const MAX_SAME: usize = 16;

impl CompiledFunction {
    // Later calls of this signature run as lazy code: nobody could tell when the program is out of date.
    pub(super) fn run_lazily(&self, py: Python<'_>, entry: Arc<Entry>, what: &str) -> PyResult<()> {
        let Some(entry) = Arc::into_inner(entry) else { return Ok(()) };
        let reason = format!("the function {what}");
        let way_out = if what.starts_with("returns") {
            "Return tensors in containers or in objects of plain classes."
        } else {
            "Pass what it needs as an argument, or keep it in tensors."
        };
        let text = format!("torsh.compile({}): {reason}; it runs without compilation. {way_out}", self.name);
        let body = Body::Lazy(Break { reason, loc: entry.site.clone(), divided: false });
        self.keep(Arc::new(Entry { body, guards: Guards::none(), ..entry }));
        if torsh_ir::env::log().notes {
            torsh_ir::env::say(&text);
        }
        if self.warned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
    }

    // Whether so many programs differ from this signature only in one plain value or object, or only in what
    // their guards saw, that another one is no use. The signature is then widened to stand for all of them.
    pub(super) fn storm(&self, py: Python<'_>, args: &mut Spec, kwargs: &mut Spec, grad: bool) -> Option<&'static str> {
        if self.fullgraph {
            return None;
        }
        let entries = self.lock().clone();
        let (mut places, mut same) = (std::collections::HashMap::<usize, usize>::new(), 0);
        for entry in entries.iter().filter(|e| {
            e.grad == grad && e.places == mode::places() && !e.wide && matches!(e.body, Body::Program { .. })
        }) {
            let (mut next, mut found) = (0, Vec::new());
            let alike = entry.args.differences(args, py, &mut next, &mut found)
                && entry.kwargs.differences(kwargs, py, &mut next, &mut found);
            match found[..] {
                [] if alike => same += 1,
                [place] if alike => *places.entry(place).or_default() += 1,
                _ => {}
            }
        }
        if same >= MAX_SAME {
            return Some("a value that the function reads changes at each call");
        }
        let (&place, _) = places.iter().find(|&(_, &n)| n >= MAX_ALIKE)?;
        let mut next = 0;
        args.relax(place, &mut next);
        kwargs.relax(place, &mut next);
        Some("an argument that is no tensor and no float changes at each call")
    }

    pub(super) fn warn_storm(&self, py: Python<'_>, what: &str, site: Option<&Loc>) -> PyResult<()> {
        if self.warned_storm.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let at = site.map(|l| format!(", as at {l},")).unwrap_or_default();
        let text = format!(
            "torsh.compile({}): {what}{at} and would need a program each time; new values run without compilation. Pass a \
             tensor or a float instead, or call torsh.compile once per value.",
            self.name
        );
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
    }

    pub(super) fn warn(&self, py: Python<'_>, b: &Break) -> PyResult<()> {
        if self.warned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let at = b.loc.as_ref().map(|l| format!(" at {l}")).unwrap_or_default();
        let text = if b.divided {
            format!(
                "torsh.compile({}): {}{at}, and a program runs on one device; the function runs piecewise for this \
                 signature. Move tensors before the call, or use fullgraph=True to make this an error.",
                self.name, b.reason
            )
        } else {
            format!(
                "torsh.compile({}): {} needs a value{at}; the function runs piecewise for this signature. Use \
                 torsh.where to keep the choice in the graph, or fullgraph=True to make this an error.",
                self.name, b.reason
            )
        };
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
    }
}
