//! Per-thread modes: whether gradients are recorded, where new tensors go, and the user's line that new nodes get.

use std::cell::{Cell, RefCell};
use torsh_ir::Loc;
use torsh_ir::exec::Device;

thread_local! {
    static GRAD: Cell<bool> = const { Cell::new(true) };
    static PLACES: Cell<Places> = const { Cell::new(Places { device: Device::Cpu, cuda: 0 }) };
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

/// Where tensors go that are made without naming a device, and which one `cuda` alone means.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// The default device.
    pub device: Device,
    /// Number of the current CUDA device.
    pub cuda: u32,
}

/// The places of this thread.
pub fn places() -> Places {
    PLACES.with(Cell::get)
}

/// Sets the places of this thread; returns the previous ones.
pub fn set_places(places: Places) -> Places {
    PLACES.with(|p| p.replace(places))
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
