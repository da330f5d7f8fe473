//! Forks of the process. A fork copies the thread that asks for it and no other, so that a lock which another
//! thread holds stays locked in the child for ever. Native code that runs with the GIL cannot be met: whoever forks
//! has it. Native code that runs without it is let to its end before the fork, and kept from beginning until after.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::cell::{Cell, RefCell};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

static GATE: RwLock<()> = RwLock::new(());

thread_local! {
    // Calls of `inside` on this thread, one within the other: a signal handler may run torsh inside a run.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    // The closed gate of the thread that forks.
    static CLOSED: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Runs `f`, during which no other thread forks. To be called without the GIL.
pub fn inside<R>(f: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DEPTH.with(|d| d.set(d.get() - 1));
        }
    }
    let outermost = DEPTH.with(|d| d.replace(d.get() + 1)) == 0;
    let _leave = Leave;
    let own = CLOSED.with(|closed| closed.borrow().is_some());
    let _open = (outermost && !own).then(|| GATE.read().unwrap_or_else(PoisonError::into_inner));
    f()
}

/// Waits for the native code of other threads to end, and keeps more from beginning.
#[pyfunction]
fn before_fork(py: Python<'_>) {
    // Without the GIL: a thread that must end first may want it.
    py.detach(|| {
        let free = DEPTH.with(Cell::get) == 0 && CLOSED.with(|closed| closed.borrow().is_none());
        if free {
            let guard = GATE.write().unwrap_or_else(PoisonError::into_inner);
            CLOSED.with(|closed| *closed.borrow_mut() = Some(guard));
        }
    });
}

/// Lets native code begin again, in the parent and in the child.
#[pyfunction]
fn after_fork() {
    let guard = CLOSED.with(|closed| closed.borrow_mut().take());
    drop(guard);
}

/// Has the interpreter call both.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let os = py.import("os")?;
    if let Some(hook) = os.getattr_opt("register_at_fork")? {
        let hooks = PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, m)?)?;
        hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork, m)?)?;
        hooks.set_item("after_in_child", wrap_pyfunction!(after_fork, m)?)?;
        hook.call((), Some(&hooks))?;
    }
    Ok(())
}
