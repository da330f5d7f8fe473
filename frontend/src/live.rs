//! The live pending handles of each thread: what a realisation computes besides what was asked for.

use crate::tensor::{Tensor, WeakTensor};
use crate::trace;
use std::cell::{Cell, RefCell};

/// Nodes that may be pending on a thread before they are realised unasked.
pub const MAX_PENDING: usize = 4096;

thread_local! {
    static LIVE: RefCell<Vec<WeakTensor>> = const { RefCell::new(Vec::new()) };
    static NODES: Cell<usize> = const { Cell::new(0) };
}

/// Notes a handle whose value may be pending.
pub(crate) fn register(tensor: &Tensor) {
    if trace::active() != 0 {
        return;
    }
    LIVE.with(|l| l.borrow_mut().push(tensor.downgrade()));
}

/// Counts a new node.
pub(crate) fn count_node() {
    NODES.with(|n| n.set(n.get() + 1));
}

/// True when so much is pending on this thread that it should be realised now.
pub fn is_full() -> bool {
    trace::active() == 0 && (NODES.with(Cell::get) >= MAX_PENDING || LIVE.with(|l| l.borrow().len() >= 4 * MAX_PENDING))
}

/// Takes the live handles, in the order in which they were made.
pub(crate) fn take() -> Vec<Tensor> {
    NODES.with(|n| n.set(0));
    let list = LIVE.with(|l| std::mem::take(&mut *l.borrow_mut()));
    list.iter().filter_map(WeakTensor::upgrade).collect()
}

/// Puts handles back after a realisation failed.
pub(crate) fn put_back(tensors: &[Tensor]) {
    LIVE.with(|l| l.borrow_mut().extend(tensors.iter().map(Tensor::downgrade)));
}
