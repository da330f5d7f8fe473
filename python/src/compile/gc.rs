//! What a compiled function holds, for Python's cycle collector.
//!
//! The lock is taken by threads with the GIL only, and no Python code runs under it: while the collector looks, it is
//! free or held by the collector's own thread, in each of its rounds alike. A call that runs keeps its function alive.

use super::{Body, CompiledFunction, Entry};
use pyo3::{PyTraverseError, PyVisit};
use std::sync::TryLockError;

/// Shows the collector each object once.
pub fn visit(compiled: &CompiledFunction, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    // The collector may meet an object before it is one: Python 3.11 makes the dict of attributes between the two.
    if !compiled.made {
        return Ok(());
    }
    visit.call(&compiled.function)?;
    visit.call(&compiled.package)?;
    let entries = match compiled.entries.try_lock() {
        Ok(entries) => entries,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Ok(()),
    };
    entries.iter().try_for_each(|entry| entry.visit(visit))
}

impl Entry {
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.args.visit(visit)?;
        self.kwargs.visit(visit)?;
        self.guards.visit(visit)?;
        let Body::Program { floats, result, template, constants, build, .. } = &self.body else { return Ok(()) };
        for (dict, key, _) in floats {
            visit.call(dict)?;
            visit.call(key)?;
        }
        result.visit(visit)?;
        visit.call(template)?;
        constants.iter().flatten().try_for_each(|c| visit.call(c))?;
        visit.call(build)
    }
}
