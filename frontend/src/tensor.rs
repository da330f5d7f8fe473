//! The tensor handle: a name for a value that in-place operations rebind.
//!
//! A handle is either a base, which owns its node, or a view, whose node follows from its base by a list
//! of steps and is derived again when the base has been written since. While a trace runs on a thread, that
//! thread sees handles from outside through an overlay (`trace`), so that a trace changes nothing until it is
//! committed.

use crate::live;
use crate::mode;
use crate::node::{Grad, GradSlot, Node, NodeRef, lock};
use crate::ops;
use crate::rollback;
use crate::trace;
use crate::view::{Layout, Step};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use torsh_ir::exec::{BufferRef, Device};
use torsh_ir::{DType, Error, Result, Shape, Type};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A fresh number; larger than every earlier one.
pub(crate) fn tick() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

static RETYPED: AtomicU64 = AtomicU64::new(1);

/// Moves on whenever a handle that exists may have got another dtype, shape, place or role in autograd. While it stands
/// still, what was once found out about handles holds.
pub(crate) fn retyped() -> u64 {
    RETYPED.load(Ordering::Acquire)
}

/// A handle has got another dtype, shape, place or role in autograd.
pub(crate) fn note_retyped() {
    RETYPED.fetch_add(1, Ordering::AcqRel);
}

/// A shared handle; equality of handles is identity.
#[derive(Clone)]
pub struct Tensor(Arc<Impl>);

/// A handle that does not keep the tensor alive.
#[derive(Clone)]
pub struct WeakTensor(Weak<Impl>);

struct Impl {
    id: u64,
    // The trace in which the handle was made, or 0.
    trace: u64,
    weak: bool,
    state: Mutex<State>,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) node: NodeRef,
    // Changes at every write to a base.
    pub(crate) version: u64,
    pub(crate) view: Option<Arc<ViewOf>>,
    // Version of the root that `node` was derived from.
    pub(crate) seen: u64,
    // Survives requires_grad_(False), as `.grad` does.
    pub(crate) slot: Option<Arc<GradSlot>>,
}

#[derive(Clone)]
pub(crate) struct ViewOf {
    pub(crate) base: Tensor,
    pub(crate) steps: Vec<Step>,
    pub(crate) layout: Layout,
    track: bool,
    leaf: Option<Leaf>,
}

// A view that has a gradient of its own, as parameters of layers are: what is a view of it has a gradient because of it.
#[derive(Clone)]
struct Leaf {
    tensor: Tensor,
    // What it was a view of.
    view: Arc<ViewOf>,
    // From it.
    steps: Vec<Step>,
    track: bool,
}

impl WeakTensor {
    /// The tensor, if it is still alive.
    pub fn upgrade(&self) -> Option<Tensor> {
        self.0.upgrade().map(Tensor)
    }
}

impl Tensor {
    /// A new handle to a node.
    pub fn new(node: NodeRef) -> Tensor {
        Tensor::make(node, None, 0, false)
    }

    /// A handle that promotes like a Python number.
    pub fn new_weak(node: NodeRef) -> Tensor {
        Tensor::make(node, None, 0, true)
    }

    fn make(node: NodeRef, view: Option<Arc<ViewOf>>, seen: u64, weak: bool) -> Tensor {
        let pending = !node.is_realised();
        let (now, active) = (tick(), trace::active());
        let state = State { node, version: now, view, seen, slot: None };
        let tensor = Tensor(Arc::new(Impl { id: now, trace: active, weak, state: Mutex::new(state) }));
        if active != 0 {
            trace::born(&tensor);
        } else if pending {
            live::register(&tensor);
        }
        tensor
    }

    /// Identity of the handle.
    pub fn id(&self) -> u64 {
        self.0.id
    }
    /// True for the same handle.
    pub fn same(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
    /// A weak reference.
    pub fn downgrade(&self) -> WeakTensor {
        WeakTensor(Arc::downgrade(&self.0))
    }
    /// The trace that made this handle, or 0.
    pub(crate) fn trace(&self) -> u64 {
        self.0.trace
    }
    /// True when the tensor promotes like a Python number.
    pub fn is_weak(&self) -> bool {
        self.0.weak
    }
    /// Locks the real state, past any overlay.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    // Runs `f` on the node of a base, or of a view that is up to date. Not for use in a trace.
    fn current<R>(&self, f: impl FnOnce(&Node) -> R) -> std::result::Result<R, Tensor> {
        let state = self.lock();
        let stale = state.view.as_ref().is_some_and(|view| {
            let base = view.base.lock();
            base.view.is_some() || base.version != state.seen
        });
        if stale { Err(self.clone()) } else { Ok(f(&state.node)) }
    }

    /// The buffer, if there is one yet, of a tensor that has this type and is on this device: looked at in one go, as
    /// another thread may give the handle another value at any time. `None` where it has another type or place. Not for
    /// use in a trace.
    pub(crate) fn ready_as(&self, ty: &Type, device: Device) -> Option<Option<BufferRef>> {
        let buffer = |node: &Node| (node.ty == *ty && node.device == device).then(|| node.buffer());
        self.current(buffer).unwrap_or_else(|stale| buffer(&stale.node()))
    }

    /// Whether the tensor has this type, is on this device and takes part in gradients as stated. Not for use in a trace.
    pub fn is_like(&self, ty: &Type, device: Device, grad: bool) -> bool {
        let like = |node: &Node| node.requires_grad() == grad && node.device == device && node.ty == *ty;
        self.current(like).unwrap_or_else(|stale| like(&stale.node()))
    }

    /// Identity of the base. Not for use in a trace.
    pub(crate) fn root_id(&self) -> u64 {
        let base = self.lock().view.as_ref().map(|view| view.base.clone());
        base.map_or(self.id(), |base| base.root_id())
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let active = trace::active();
        if active != 0 && active != self.0.trace {
            return trace::with_overlay(self, f);
        }
        f(&mut self.lock())
    }

    /// The base and the steps to this tensor from it; no steps for a base.
    pub(crate) fn path(&self) -> (Tensor, Vec<Step>, bool) {
        let mut at = self.clone();
        let mut parts = Vec::new();
        let mut track = true;
        while let Some(view) = at.with(|s| s.view.clone()) {
            parts.push(view.steps.clone());
            track &= view.track;
            at = view.base.clone();
        }
        (at, parts.into_iter().rev().flatten().collect(), track)
    }

    // The nearest view above or at this tensor that has a gradient of its own, the steps from it, and whether they are
    // recorded; while it is the view that it was, which new data or another value end.
    fn leaf(&self) -> Option<(Tensor, Vec<Step>, bool)> {
        let (view, own) = self.with(|s| (s.view.clone(), matches!(s.node.grad, Grad::Leaf(_))));
        let view = view?;
        if own {
            return Some((self.clone(), Vec::new(), true));
        }
        let leaf = view.leaf.as_ref()?;
        let stays = leaf.tensor.with(|s| {
            matches!(s.node.grad, Grad::Leaf(_)) && s.view.as_ref().is_some_and(|now| Arc::ptr_eq(now, &leaf.view))
        });
        stays.then(|| (leaf.tensor.clone(), leaf.steps.clone(), leaf.track))
    }

    /// What a view is a view of; another view, perhaps.
    pub(crate) fn base(&self) -> Option<Tensor> {
        self.with(|s| s.view.as_ref().map(|v| v.base.clone()))
    }
    /// How many references there are to this handle.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The tensor that owns the memory: itself, or the root of its views.
    pub fn root(&self) -> Tensor {
        let mut at = self.clone();
        while let Some(base) = at.base() {
            at = base;
        }
        at
    }
    /// True when this is a view of another tensor.
    pub fn is_view(&self) -> bool {
        self.with(|s| s.view.is_some())
    }
    /// A number that changes when the memory is written.
    pub fn version(&self) -> u64 {
        self.root().with(|s| s.version)
    }

    /// The current value.
    pub fn node(&self) -> NodeRef {
        let (node, base, seen) = self.with(|s| (s.node.clone(), s.view.as_ref().map(|v| v.base.clone()), s.seen));
        let Some(base) = base else { return node };
        if base.version() == seen {
            return node;
        }
        let leaf = if matches!(node.grad, Grad::Leaf(_)) { None } else { self.leaf() };
        let (from, steps, track) = leaf.unwrap_or_else(|| self.path());
        let version = base.version();
        let was = mode::set_grad_enabled(track);
        let mut value = from.node();
        for step in &steps {
            // The steps applied before, to a value of the same type.
            value = step.forward(&value).unwrap_or(value);
        }
        mode::set_grad_enabled(was);
        if let Grad::Leaf(slot) = &node.grad {
            value = Node::alias(&value, Grad::Leaf(slot.clone()));
        }
        self.with(|s| {
            s.node = value.clone();
            s.seen = version;
        });
        live::register(self);
        value
    }

    /// Dtype and shape.
    pub fn ty(&self) -> Type {
        self.with(|s| s.node.ty.clone())
    }
    /// Where the value is.
    pub fn device(&self) -> Device {
        self.with(|s| s.node.device)
    }
    /// Shape.
    pub fn shape(&self) -> Shape {
        self.with(|s| s.node.ty.shape.clone())
    }
    /// Dtype.
    pub fn dtype(&self) -> DType {
        self.with(|s| s.node.ty.dtype)
    }
    /// Number of dims.
    pub fn rank(&self) -> usize {
        self.with(|s| s.node.ty.rank())
    }

    /// Strides and offset over the base's memory.
    pub fn layout(&self) -> Layout {
        self.with(|s| match &s.view {
            Some(view) => view.layout.clone(),
            None => Layout::contiguous(&s.node.ty.shape),
        })
    }

    /// An aliasing view; where a reshape cannot alias, a copy.
    pub fn view(&self, step: Step) -> Result<Tensor> {
        let shape = self.shape();
        let own = self.layout();
        let node = step.forward(&self.node())?;
        let Some(layout) = own.apply(&shape, &step) else {
            return Ok(Tensor::new(node));
        };
        // Without gradients only the memory counts.
        let leaf = if matches!(step, Step::Detach) { None } else { self.leaf() };
        let leaf = leaf.and_then(|(tensor, mut steps, track)| {
            let view = tensor.with(|s| s.view.clone())?;
            steps.push(step.clone());
            Some(Leaf { tensor, view, steps, track: track && mode::grad_enabled() })
        });
        let (base, mut steps, track) = self.path();
        steps.push(step);
        let seen = base.version();
        let view = ViewOf { base, steps, layout, track: track && mode::grad_enabled(), leaf };
        Ok(Tensor::make(node, Some(Arc::new(view)), seen, false))
    }

    /// True when a reshape to `shape` can alias.
    pub fn can_view(&self, to: &Shape) -> bool {
        let from = self.shape();
        self.layout().apply(&from, &Step::Reshape { from: from.clone(), to: to.clone() }).is_some()
    }

    /// The same memory, without gradient.
    pub fn detach(&self) -> Result<Tensor> {
        self.view(Step::Detach)
    }

    /// A tensor of its own over the memory of `data`: it becomes the base and `data` a view of it, so that
    /// it alone holds the memory once `data` is gone.
    pub fn adopt(data: &Tensor, requires_grad: bool) -> Result<Tensor> {
        data.take_over();
        let node = ops::detach(&data.node());
        let fresh = if data.is_view() || trace::active() != 0 { data.detach()? } else { Tensor::new(node) };
        if !fresh.is_view() {
            let shape = data.shape();
            let version = data.with(|s| s.version);
            fresh.with(|s| s.version = version);
            let layout = Layout::contiguous(&shape);
            let view = ViewOf { base: fresh.clone(), steps: vec![Step::Detach], layout, track: true, leaf: None };
            data.with(|s| {
                s.view = Some(Arc::new(view));
                s.seen = version;
            });
            note_retyped();
        }
        if requires_grad {
            fresh.set_requires_grad(true)?;
        }
        Ok(fresh)
    }

    // A view that alone holds its base becomes a base: nobody can tell.
    fn take_over(&self) {
        if trace::active() != 0 {
            return;
        }
        let node = self.node();
        let mut state = self.lock();
        let alone = state.view.as_ref().is_some_and(|v| Arc::strong_count(v) == 1 && Arc::strong_count(&v.base.0) == 1);
        if alone {
            let view = state.view.take();
            state.node = node;
            state.version = tick();
            note_retyped();
            drop(state);
            drop(view);
        }
    }

    /// Turns this handle into another name for the memory of `of`.
    pub(crate) fn become_alias(&self, of: &Tensor) {
        let view = ViewOf { base: of.clone(), steps: Vec::new(), layout: of.layout(), track: true, leaf: None };
        let (node, seen) = (of.node(), of.version());
        self.with(|s| {
            s.view = Some(Arc::new(view));
            s.node = node;
            s.seen = seen;
        });
        note_retyped();
    }

    /// Whether gradients flow into this tensor.
    pub fn requires_grad(&self) -> bool {
        self.node().requires_grad()
    }
    /// True for tensors that no recorded operation made.
    pub fn is_leaf(&self) -> bool {
        !matches!(self.node().grad, Grad::Op | Grad::Foreign)
    }

    /// `requires_grad_()`.
    pub fn set_requires_grad(&self, on: bool) -> Result<()> {
        let node = self.node();
        match (&node.grad, on) {
            (Grad::None, false) | (Grad::Leaf(_) | Grad::Op | Grad::Foreign, true) => Ok(()),
            (Grad::Op | Grad::Foreign, false) => Err(Error::runtime(
                "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in \
                 a subgraph that doesn't require differentiation use var_no_grad = var.detach().",
            )),
            (Grad::Leaf(_), false) => {
                self.replace_node(Node::alias(&node, Grad::None));
                Ok(())
            }
            (Grad::None, true) => {
                if !node.ty.dtype.is_float() {
                    return Err(Error::runtime("only Tensors of floating point dtype can require gradients"));
                }
                let slot = self.with(|s| s.slot.get_or_insert_with(Arc::default).clone());
                self.replace_node(Node::alias(&node, Grad::Leaf(slot)));
                Ok(())
            }
        }
    }

    // Another node of the same value; writers and views are not concerned.
    fn replace_node(&self, node: NodeRef) {
        self.with(|s| s.node = node);
        note_retyped();
        live::register(self);
    }

    /// `detach_()`: the handle keeps its value and forgets how it came about.
    pub fn cut_history(&self) {
        let node = ops::detach(&self.node());
        self.replace_node(node);
    }

    /// Keeps the gradient of a tensor that is not a leaf.
    pub fn retain_grad(&self) -> Result<()> {
        let node = self.node();
        if !node.requires_grad() {
            return Err(Error::runtime("can't retain_grad on Tensor that has requires_grad=False"));
        }
        if matches!(node.grad, Grad::Op) {
            let slot = self.with(|s| s.slot.get_or_insert_with(Arc::default).clone());
            let _ = node.retain.set(slot);
        }
        Ok(())
    }

    /// The accumulated gradient.
    pub fn grad(&self) -> Option<Tensor> {
        let slot = self.with(|s| s.slot.clone())?;
        trace::with_grad(&slot, |g| g.clone())
    }

    /// Sets or clears the accumulated gradient.
    pub fn set_grad(&self, grad: Option<Tensor>) -> Result<()> {
        if let Some(g) = &grad {
            if g.same(self) {
                return Err(Error::runtime("can't assign Variable as its own grad"));
            }
            let (want, got) = (self.ty(), g.ty());
            if want.shape != got.shape {
                return Err(Error::runtime(format!(
                    "assigned grad has data of a different size: expected {}, got {}",
                    want.shape, got.shape
                )));
            }
            if want.dtype != got.dtype {
                return Err(Error::runtime(format!(
                    "assigned grad has data of a different type: expected {}, got {}",
                    want.dtype, got.dtype
                )));
            }
            let (want, got) = (self.device(), g.device());
            if want != got {
                return Err(Error::device(format!(
                    "assigned grad has data located on a different device: expected {want}, got {got}"
                )));
            }
        }
        let slot = self.with(|s| s.slot.get_or_insert_with(Arc::default).clone());
        trace::with_grad(&slot, |g| *g = grad);
        Ok(())
    }

    /// Refuses in-place operations that would cut a leaf from its gradient.
    pub fn check_inplace(&self) -> Result<()> {
        if !mode::grad_enabled() {
            return Ok(());
        }
        if matches!(self.node().grad, Grad::Leaf(_)) {
            return Err(Error::runtime("a leaf Variable that requires grad is being used in an in-place operation."));
        }
        let (root, steps, _) = self.path();
        let detached = steps.iter().any(|s| matches!(s, Step::Detach));
        let of_root = !root.same(self) && !detached && matches!(root.node().grad, Grad::Leaf(_));
        if of_root || self.leaf().is_some_and(|(.., track)| track) {
            return Err(Error::runtime(
                "a view of a leaf Variable that requires grad is being used in an in-place operation.",
            ));
        }
        Ok(())
    }

    /// In-place write of a value of this tensor's type, through views to the base.
    pub fn assign(&self, value: &NodeRef) -> Result<()> {
        let (own, device) = self.with(|s| (s.node.ty.clone(), s.node.device));
        if own != value.ty || device != value.device {
            return Err(Error::internal(format!("assigning {} on {} to {own} on {device}", value.ty, value.device)));
        }
        // What is written where nothing is recorded brings no history along.
        let detached = if mode::grad_enabled() { None } else { Some(ops::detach(value)) };
        let value = detached.as_ref().unwrap_or(value);
        if !self.is_view() {
            self.rebind(value, mode::grad_enabled());
            return Ok(());
        }
        let (root, steps, _) = self.path();
        let track = mode::grad_enabled() && !steps.iter().any(|s| matches!(s, Step::Detach));
        let was = mode::set_grad_enabled(track);
        let written = write_through(&root, &steps, value);
        mode::set_grad_enabled(was);
        let written = if track { written? } else { ops::detach(&written?) };
        root.rebind(&written, track);
        let version = root.with(|s| s.version);
        let value = match &self.with(|s| s.node.clone()).grad {
            Grad::Leaf(slot) if !value.requires_grad() => Node::alias(value, Grad::Leaf(slot.clone())),
            _ => value.clone(),
        };
        self.with(|s| {
            s.node = value;
            s.seen = version;
        });
        live::register(self);
        Ok(())
    }

    fn rebind(&self, value: &NodeRef, track: bool) {
        let old = self.with(|s| s.node.clone());
        let node = match &old.grad {
            Grad::Leaf(slot) => Node::alias(value, Grad::Leaf(slot.clone())),
            Grad::Op | Grad::Foreign if !track => Node::graft(value, &old, Grad::Op),
            _ => value.clone(),
        };
        let retyped = !node.grad.is_like(&old.grad);
        rollback::written(self, old, &node);
        self.with(|s| {
            s.node = node;
            s.version = tick();
        });
        if retyped {
            note_retyped();
        }
        live::register(self);
    }

    /// `x.data = y`: this handle takes the value of `y`, of any shape.
    pub fn set_data(&self, value: &Tensor) -> Result<()> {
        let value = ops::detach(&value.node());
        let grad = match &self.node().grad {
            Grad::Leaf(slot) => Grad::Leaf(slot.clone()),
            _ => Grad::None,
        };
        self.with(|s| {
            s.view = None;
            s.node = Node::alias(&value, grad);
            s.version = tick();
        });
        note_retyped();
        live::register(self);
        Ok(())
    }
}

fn write_through(root: &Tensor, steps: &[Step], value: &NodeRef) -> Result<NodeRef> {
    let mut before = vec![root.node()];
    for step in &steps[..steps.len().saturating_sub(1)] {
        let next = step.forward(&before[before.len() - 1])?;
        before.push(next);
    }
    let mut value = value.clone();
    for (step, base) in steps.iter().zip(&before).rev() {
        value = step.write(base, &value)?;
    }
    Ok(value)
}

impl Tensor {
    /// Gives the handle a value that a program made: of a base, as it is; of a view, through its base.
    pub(crate) fn put(&self, node: NodeRef) {
        let mut state = self.lock();
        let old = &state.node;
        let retyped =
            state.view.is_some() || old.ty != node.ty || old.device != node.device || !old.grad.is_like(&node.grad);
        state.view = None;
        state.node = node;
        state.version = tick();
        if retyped {
            note_retyped();
        }
    }
}

impl Tensor {
    /// True when this handle is another name for exactly `of`.
    pub fn is_alias_of(&self, of: &Tensor) -> bool {
        self.with(|s| s.view.as_ref().is_some_and(|v| v.steps.is_empty() && v.base.same(of)))
    }
}
