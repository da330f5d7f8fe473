//! In-place writes whose values may turn out bad.
//!
//! Indices that are still to be computed are checked when they are there, which is after later operations have been
//! written down. A tensor that was written in place with such a value would be lost when the check fails: its handle
//! holds a node that can never be computed. So the front remembers, until the value is there, what each handle held
//! before, and gives it back once the error has been reported. The error leaves every tensor as it was.

use crate::live;
use crate::node::{Node, NodeRef};
use crate::realise;
use crate::tensor::{Tensor, WeakTensor};
use crate::trace;
use rustc_hash::FxBuildHasher;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Weak};
use torsh_ir::op::Kind;
use torsh_ir::{Error, ErrorKind};

struct Write {
    owner: WeakTensor,
    before: NodeRef,
    after: Weak<Node>,
}

#[derive(Default)]
struct Watched {
    // Pending nodes that check values when they run.
    checks: Vec<Weak<Node>>,
    // In-place writes since the first of them, oldest first.
    writes: Vec<Write>,
}

thread_local! {
    static WATCHED: RefCell<Watched> = RefCell::default();
}

fn is_pending(node: &Weak<Node>) -> bool {
    node.upgrade().is_some_and(|n| !n.is_realised())
}

impl Watched {
    // What has a value, or has gone, cannot fail any more. Writes go first: they keep nodes of each other alive.
    fn prune(&mut self) {
        let pending = |owner: &WeakTensor| owner.upgrade().is_some_and(|t| t.with(|s| !s.node.is_realised()));
        self.writes.retain(|w| pending(&w.owner) && is_pending(&w.after));
        self.checks.retain(is_pending);
        if self.checks.is_empty() {
            self.writes.clear();
        }
    }
}

/// Notes a node that may refuse its values when it runs.
pub(crate) fn watch(node: &NodeRef) {
    let checks = match node.op.kind {
        Kind::Take | Kind::Gather | Kind::Scatter | Kind::IndexPut => true,
        Kind::Composite => matches!(node.op.name, "cross_entropy" | "nll_loss"),
        _ => false,
    };
    if checks && trace::active() == 0 {
        WATCHED.with(|w| w.borrow_mut().checks.push(Arc::downgrade(node)));
    }
}

/// Notes an in-place write of the handle, which held `before`.
pub(crate) fn written(owner: &Tensor, before: NodeRef, after: &NodeRef) {
    if trace::active() != 0 {
        return;
    }
    WATCHED.with(|w| {
        let mut watched = w.borrow_mut();
        if !watched.checks.is_empty() {
            watched.writes.push(Write { owner: owner.downgrade(), before, after: Arc::downgrade(after) });
        }
    });
}

/// A realisation has succeeded.
pub(crate) fn settle() {
    WATCHED.with(|w| w.borrow_mut().prune());
}

/// A realisation of these nodes, or of everything when there are none, has failed with this error: handles that were
/// written with what cannot be computed hold again what they held before.
pub(crate) fn recover(wanted: &[NodeRef], error: &Error) {
    if !matches!(error.kind(), ErrorKind::Index | ErrorKind::Runtime) {
        return;
    }
    let mut watched = WATCHED.take();
    watched.prune();
    // Which checks refuse is found by running each alone.
    let mut bad: Vec<NodeRef> = Vec::new();
    for check in watched.checks.iter().filter_map(Weak::upgrade) {
        if reaches(&check, &bad) {
            // What follows a bad write fails with it; to run it once more for each would take the square of their number.
            continue;
        }
        let concerns = wanted.is_empty() || wanted.iter().any(|n| reaches(n, std::slice::from_ref(&check)));
        if concerns && realise::nodes(std::slice::from_ref(&check)).is_err_and(|e| e.kind() == error.kind()) {
            bad.push(check);
        }
    }
    let mut done: HashSet<u64, FxBuildHasher> = HashSet::default();
    for write in &watched.writes {
        let (Some(owner), Some(after)) = (write.owner.upgrade(), write.after.upgrade()) else { continue };
        // The oldest write that took the bad value in counts, as long as the handle has not been given another value.
        if done.contains(&owner.id()) || reaches(&write.before, &bad) || !reaches(&after, &bad) {
            continue;
        }
        done.insert(owner.id());
        if reaches(&owner.with(|s| s.node.clone()), &bad) {
            owner.put(write.before.clone());
            live::register(&owner);
        }
    }
    watched.prune();
    WATCHED.set(watched);
}

/// Whether a pending node is computed from one of `targets`, or is one.
fn reaches(root: &NodeRef, targets: &[NodeRef]) -> bool {
    let mut seen: HashSet<*const Node, FxBuildHasher> = HashSet::default();
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        if targets.iter().any(|t| Arc::ptr_eq(t, &node)) {
            return true;
        }
        if !node.is_realised() && seen.insert(Arc::as_ptr(&node)) {
            stack.extend(node.operands());
        }
    }
    false
}
