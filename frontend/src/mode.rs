//! Per-thread modes: whether gradients are recorded, and the user's line that new nodes get.

use std::cell::{Cell, RefCell};
use torsh_ir::Loc;

thread_local! {
    static GRAD: Cell<bool> = const { Cell::new(true) };
    static LOC: RefCell<Option<Loc>> = const { RefCell::new(None) };
}

/// Whether operations record gradients on this thread.
pub fn grad_enabled() -> bool {
    GRAD.with(Cell::get)
}

/// Sets whether operations record gradients; returns the previous setting.
pub fn set_grad_enabled(on: bool) -> bool {
    GRAD.with(|g| g.replace(on))
}

/// Runs `f` without recording gradients.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_grad_enabled(self.0);
        }
    }
    let _restore = Restore(set_grad_enabled(false));
    f()
}

/// The user's line of the operation in progress.
pub fn loc() -> Option<Loc> {
    LOC.with(|l| l.borrow().clone())
}

/// Sets the user's line for the operations that follow on this thread.
pub fn set_loc(loc: Option<Loc>) {
    LOC.with(|l| *l.borrow_mut() = loc);
}
