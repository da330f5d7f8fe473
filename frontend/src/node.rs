//! Nodes of the lazy graph: an immutable operation with shared operands, and a buffer once realised.
//!
//! Operands are dropped when the node is realised, unless a gradient may still need them. Nothing here
//! recurses along operands: dropping a chain of any length uses a list.

use crate::rollback;
use crate::tensor::Tensor;
use smallvec::{SmallVec, smallvec};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use torsh_ir::attr::{AttrKind, AttrsExt};
use torsh_ir::exec::{BufferRef, Device};
use torsh_ir::op::{Arity, Cotangents, Vjp, VjpCall};
use torsh_ir::{Attr, Attrs, Loc, Op, OpDef, Type, ops};

/// A shared node.
pub type NodeRef = Arc<Node>;
/// Operands in order.
pub type Operands = SmallVec<[NodeRef; 2]>;

static DATA: OpDef = OpDef { name: "data", ..ops::BASE };
static ALIAS: OpDef = OpDef { name: "alias", ..ops::BASE };
// Differentiated as what it is: the gradient goes to the history, the value plays no part.
static GRAFT: OpDef =
    OpDef { name: "graft", arity: Arity::Fixed(2), vjp: Vjp::Rule(|c| smallvec![None, Some(c.ct)]), ..ops::BASE };

// `to_device(x; to, from)`: the value of x on another device. Devices as codes.
static TO_DEVICE: OpDef = OpDef {
    name: "to_device",
    attrs: &[ops::attr("to", AttrKind::Int), ops::attr("from", AttrKind::Int)],
    vjp: Vjp::Rule(bring_back),
    ..ops::BASE
};

fn bring_back<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    let attrs: Attrs = smallvec![c.attrs[1].clone(), c.attrs[0].clone()];
    smallvec![Some(c.ct.builder().apply(Op(&TO_DEVICE), &[c.ct], attrs))]
}

/// Whether an op moves its operand to another device.
pub(crate) fn moves(op: Op) -> bool {
    std::ptr::eq(op.0, &TO_DEVICE)
}

/// The device of the result of an op whose other operands are on `device`.
pub(crate) fn place(op: Op, attrs: &Attrs, device: Device) -> Device {
    if moves(op) { Device::from_code(attrs.int(0)) } else { device }
}

/// Locks, ignoring poison: every critical section leaves its data whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the gradient of a leaf, or of a tensor that retains its gradient, is kept.
#[derive(Default)]
pub struct GradSlot {
    pub(crate) grad: Mutex<Option<Tensor>>,
}

impl Drop for GradSlot {
    fn drop(&mut self) {
        // A gradient may have a gradient, and so on without bound: those of the whole chain are dropped one after
        // the other by the first, not each within the one before.
        thread_local!(static QUEUE: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) });
        let Some(first) = self.grad.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let Ok(mine) = QUEUE.try_with(|queue| match &mut *queue.borrow_mut() {
            Some(waiting) => {
                waiting.push(first);
                None
            }
            empty @ None => {
                *empty = Some(Vec::new());
                Some(first)
            }
        }) else {
            return;
        };
        let mut next = mine;
        while let Some(tensor) = next {
            drop(tensor);
            next = QUEUE.with(|queue| {
                let mut queue = queue.borrow_mut();
                let last = queue.as_mut().and_then(Vec::pop);
                if last.is_none() {
                    *queue = None;
                }
                last
            });
        }
    }
}

/// What a node is to autograd.
pub enum Grad {
    /// No gradient flows.
    None,
    /// Gradient flows to the operands.
    Op,
    /// Gradient is accumulated in the slot.
    Leaf(Arc<GradSlot>),
    /// Stands, in a trace, for a tensor whose history lies outside.
    Foreign,
}

impl Grad {
    /// Whether two nodes are the same to autograd, but for whose gradient it is.
    pub(crate) fn is_like(&self, other: &Grad) -> bool {
        let kind = |grad: &Grad| match grad {
            Grad::None => 0,
            Grad::Leaf(_) => 1,
            Grad::Op | Grad::Foreign => 2,
        };
        kind(self) == kind(other)
    }
}

/// One operation of the lazy graph.
pub struct Node {
    /// The op; `data`, `alias`, `graft` and `to_device` exist only here.
    pub op: Op,
    /// Attributes.
    pub attrs: Attrs,
    /// Dtype and shape.
    pub ty: Type,
    /// Where the value is.
    pub device: Device,
    /// The user's line.
    pub loc: Option<Loc>,
    /// Role in autograd.
    pub grad: Grad,
    pub(crate) retain: OnceLock<Arc<GradSlot>>,
    pub(crate) freed: AtomicBool,
    // A backward pass that keeps nothing has been here.
    pub(crate) walked: AtomicBool,
    // The buffer that the node began with.
    own: Option<BufferRef>,
    // The buffer that it came to have. Set once, and before the operands go: who finds no buffer while it has the lock
    // finds the operands.
    buffer: OnceLock<BufferRef>,
    operands: Mutex<Operands>,
}

impl Node {
    pub(crate) fn new(
        op: Op,
        attrs: Attrs,
        ty: Type,
        device: Device,
        operands: Operands,
        loc: Option<Loc>,
        grad: Grad,
    ) -> NodeRef {
        let node = Arc::new(Node {
            op,
            attrs,
            ty,
            device,
            loc,
            grad,
            retain: OnceLock::new(),
            freed: AtomicBool::new(false),
            walked: AtomicBool::new(false),
            own: None,
            buffer: OnceLock::new(),
            operands: Mutex::new(operands),
        });
        rollback::watch(&node);
        node
    }

    /// A node that holds a buffer.
    pub fn data(ty: Type, buffer: BufferRef, grad: Grad) -> NodeRef {
        let device = buffer.device();
        Node::holding(ty, device, Some(buffer), grad)
    }

    /// Data whose buffer is on loan.
    pub(crate) fn lent(ty: Type, device: Device, grad: Grad) -> NodeRef {
        Node::holding(ty, device, None, grad)
    }

    fn holding(ty: Type, device: Device, own: Option<BufferRef>, grad: Grad) -> NodeRef {
        Arc::new(Node {
            op: Op(&DATA),
            attrs: Attrs::new(),
            ty,
            device,
            loc: None,
            grad,
            retain: OnceLock::new(),
            freed: AtomicBool::new(false),
            walked: AtomicBool::new(false),
            own,
            buffer: OnceLock::new(),
            operands: Mutex::default(),
        })
    }

    /// The same value with another role in autograd.
    pub(crate) fn alias(of: &NodeRef, grad: Grad) -> NodeRef {
        // In a trace the link to the placeholder must stay.
        if crate::trace::active() == 0
            && let Some(buffer) = of.buffer()
        {
            return Node::data(of.ty.clone(), buffer, grad);
        }
        let operands = SmallVec::from_iter([of.clone()]);
        Node::new(Op(&ALIAS), Attrs::new(), of.ty.clone(), of.device, operands, of.loc.clone(), grad)
    }

    /// The value of one node with the gradient history of another.
    pub(crate) fn graft(value: &NodeRef, history: &NodeRef, grad: Grad) -> NodeRef {
        let operands = SmallVec::from_iter([value.clone(), history.clone()]);
        Node::new(Op(&GRAFT), Attrs::new(), value.ty.clone(), value.device, operands, value.loc.clone(), grad)
    }

    /// The value of a node on another device.
    pub(crate) fn to_device(of: &NodeRef, device: Device, loc: Option<Loc>, grad: Grad) -> NodeRef {
        let attrs: Attrs = smallvec![Attr::Int(device.code()), Attr::Int(of.device.code())];
        let operands = SmallVec::from_iter([of.clone()]);
        Node::new(Op(&TO_DEVICE), attrs, of.ty.clone(), device, operands, loc, grad)
    }

    /// True for nodes whose value is their first operand's.
    pub(crate) fn is_alias(&self) -> bool {
        std::ptr::eq(self.op.0, &ALIAS) || self.is_graft()
    }
    pub(crate) fn is_graft(&self) -> bool {
        std::ptr::eq(self.op.0, &GRAFT)
    }
    /// True for nodes whose value is their operand's on another device.
    pub(crate) fn moves(&self) -> bool {
        moves(self.op)
    }
    /// True when gradients flow into or through this node.
    pub fn requires_grad(&self) -> bool {
        !matches!(self.grad, Grad::None)
    }
    /// The buffer, once realised.
    pub fn buffer(&self) -> Option<BufferRef> {
        self.own.as_ref().or_else(|| self.buffer.get()).cloned()
    }
    /// True once a buffer exists.
    pub fn is_realised(&self) -> bool {
        self.own.is_some() || self.buffer.get().is_some()
    }
    /// Operands; empty for data and for realised nodes outside any gradient.
    pub fn operands(&self) -> Operands {
        lock(&self.operands).clone()
    }
    /// The buffer, or the operands of a pending node, seen at one moment.
    pub(crate) fn resolve(&self) -> Result<BufferRef, Operands> {
        let operands = lock(&self.operands);
        self.buffer().ok_or_else(|| operands.clone())
    }
    /// Gives the buffer away; nobody else knows the node.
    pub(crate) fn take_own_buffer(&mut self) -> Option<BufferRef> {
        self.own.take().or_else(|| self.buffer.take())
    }
    /// True for data whose memory is on loan: see [`crate::loan`].
    pub(crate) fn is_lent(&self) -> bool {
        self.is_data() && !self.is_realised()
    }
    /// True for nodes that no operation made.
    pub(crate) fn is_data(&self) -> bool {
        std::ptr::eq(self.op.0, &DATA)
    }
    /// Ends the loan of the node's memory.
    pub(crate) fn give(&self, buffer: BufferRef) {
        let _ = self.buffer.set(buffer);
    }
    /// Puts a buffer in, if there is none, and drops the operands that no gradient needs.
    pub(crate) fn set_buffer(&self, buffer: BufferRef) {
        if self.own.is_none() {
            let _ = self.buffer.set(buffer);
        }
        let keep = matches!(self.grad, Grad::Op | Grad::Foreign) && !self.freed.load(Ordering::Relaxed);
        let dropped = if keep { Operands::new() } else { std::mem::take(&mut *lock(&self.operands)) };
        drop(dropped);
    }
    /// Marks the history as used up; a realised node forgets its operands.
    pub(crate) fn free_history(&self) {
        self.freed.store(true, Ordering::Relaxed);
        let mut operands = lock(&self.operands);
        let dropped = if self.is_realised() { std::mem::take(&mut *operands) } else { Operands::new() };
        drop(operands);
        drop(dropped);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let operands = self.operands.get_mut().unwrap_or_else(PoisonError::into_inner);
        if operands.is_empty() {
            return;
        }
        let mut stack: Vec<NodeRef> = std::mem::take(operands).into_vec();
        while let Some(node) = stack.pop() {
            if let Some(mut inner) = Arc::into_inner(node) {
                let operands = inner.operands.get_mut().unwrap_or_else(PoisonError::into_inner);
                stack.extend(std::mem::take(operands));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::{DType, Shape};

    #[test]
    fn a_chain_of_a_million_nodes_is_dropped_without_recursion() {
        let ty = Type::new(DType::F32, Shape::of(&[1]));
        let mut node = Node::new(ops::op("neg"), Attrs::new(), ty, Device::Cpu, Operands::new(), None, Grad::None);
        for _ in 0..1_000_000 {
            node = Node::alias(&node, Grad::None);
        }
        drop(node);
    }
}
