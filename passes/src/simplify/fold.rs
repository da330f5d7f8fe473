//! Constant folding through the reference interpreter, within a budget.
//!
//! A node is folded when all its operands are constants and the result is small, and only where something
//! is gained: at least one operand is data, or the op does work that a fused kernel would not do for free.
//! Constants are never made bigger, so folding cannot blow up a graph. A run-time error (an index out of
//! range) stays at run time: what the interpreter refuses is not folded.

use super::rule::settled;
use torsh_ir::attr::{Attr, Attrs, AttrsExt, Scalar};
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::op::{Kind, View};
use torsh_ir::scalar::{ScalarOp, UnOp, to_bits};
use torsh_ir::shape::Type;

/// Bytes of the largest operand or result of a folded node.
const MAX_BYTES: usize = 1 << 16;
/// Element operations of the costliest folded node.
const MAX_WORK: u64 = 1 << 17;
/// Element operations of all folded nodes of one run.
const MAX_TOTAL_WORK: u64 = 1 << 20;

/// What is left of a run's budget.
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(MAX_TOTAL_WORK)
    }
}

/// The node as data, if it is worth it and within the budget.
pub(super) fn fold(graph: &Graph, node: &Node, budget: &mut Budget) -> Option<HostTensor> {
    let is = |&x: &NodeId, kinds: &[Kind]| kinds.contains(&graph.node(x).op.kind);
    if node.operands.is_empty() || !node.operands.iter().all(|x| is(x, &[Kind::Constant, Kind::Full, Kind::Iota])) {
        return None;
    }
    let data = node.operands.iter().any(|x| is(x, &[Kind::Constant]));
    if !worth(node.op.kind, data) {
        return None;
    }
    let operand_bytes = node.operands.iter().map(|&x| graph.ty(x).nbytes());
    let largest = operand_bytes.clone().max().unwrap_or(0).max(node.ty.nbytes());
    if largest > MAX_BYTES || node.ty.nbytes() > operand_bytes.sum() {
        return None;
    }
    let work = work(graph, node);
    if work > MAX_WORK.min(budget.0) {
        return None;
    }
    budget.0 -= work;
    eval(graph, node)
}

fn worth(kind: Kind, data: bool) -> bool {
    match kind {
        Kind::Input | Kind::Constant | Kind::Full | Kind::Iota | Kind::Composite => false,
        // Positions and numbers are computed in registers; loading them would cost more.
        Kind::Elementwise(_) | Kind::View(View::Reshape | View::Permute | View::Slice | View::Flip | View::Pad) => data,
        Kind::View(View::Expand | View::Windows) => false,
        Kind::Concat | Kind::SliceScatter => data,
        Kind::Reduce(_)
        | Kind::Scan(_)
        | Kind::Take
        | Kind::Gather
        | Kind::Scatter
        | Kind::IndexPut
        | Kind::ArgSort
        | Kind::Dot
        | Kind::Attention
        | Kind::AttentionGrad => true,
    }
}

/// Element operations, in saturating arithmetic.
fn work(graph: &Graph, node: &Node) -> u64 {
    let out = node.ty.numel() as u64;
    let operands: u64 = node.operands.iter().map(|&x| graph.ty(x).numel() as u64).fold(0, u64::saturating_add);
    let depth = match node.op.kind {
        Kind::Dot => {
            let shape = graph.shape(node.operands[0]);
            node.attrs.ints(2).iter().map(|&d| shape[d as usize] as u64).fold(1, u64::saturating_mul)
        }
        Kind::Attention | Kind::AttentionGrad => {
            let (q, k) = (graph.shape(node.operands[0]), graph.shape(node.operands[1]));
            (k[k.rank() - 2] as u64).saturating_mul(q[q.rank() - 1] as u64)
        }
        Kind::ArgSort => 16,
        _ => 1,
    };
    out.saturating_mul(depth).saturating_add(operands)
}

fn eval(graph: &Graph, node: &Node) -> Option<HostTensor> {
    let mut small = Graph::new();
    let operands = node.operands.iter().map(|&x| small.add(graph.node(x).clone())).collect();
    let id = small.add(Node { operands, ..node.clone() });
    small.set_outputs(vec![id]);
    let mut made = eval_graph(&small, &[]).ok()?.pop()?;
    if made.dtype().is_float() && computes(node.op.kind) {
        for i in 0..made.len() {
            made.set(i, settled(made.get(i)));
        }
    }
    Some(made)
}

/// Whether elements of the result are computed, and not only moved from the operands.
fn computes(kind: Kind) -> bool {
    match kind {
        Kind::Elementwise(op) => {
            !matches!(op, ScalarOp::Select | ScalarOp::Bitcast | ScalarOp::Un(UnOp::Neg | UnOp::Abs))
        }
        Kind::Reduce(_)
        | Kind::Scan(_)
        | Kind::Scatter
        | Kind::IndexPut
        | Kind::Dot
        | Kind::Attention
        | Kind::AttentionGrad => true,
        Kind::Input
        | Kind::Constant
        | Kind::Full
        | Kind::Iota
        | Kind::Composite
        | Kind::View(_)
        | Kind::Concat
        | Kind::SliceScatter
        | Kind::Take
        | Kind::Gather
        | Kind::ArgSort => false,
    }
}

/// The node that holds a tensor: `full` where all elements are the same number, else `constant`.
pub(super) fn data_node(tensor: &HostTensor) -> (&'static str, Attrs) {
    let ty = &tensor.ty;
    let shape = Attr::from(ty.shape.dims());
    match uniform(tensor) {
        Some(value) => ("full", [value.into(), ty.dtype.into(), shape].into_iter().collect()),
        None => ("constant", [Attr::Bytes(tensor.to_bytes().into()), ty.dtype.into(), shape].into_iter().collect()),
    }
}

/// The number that a constant holds everywhere.
pub(super) fn uniform_constant(node: &Node) -> Option<Scalar> {
    let (bytes, size) = (node.attrs.bytes(0), node.ty.dtype.size());
    // Most constants differ in their first two elements; the whole is read only where they do not.
    let first = bytes.get(..size)?;
    if !bytes.chunks_exact(size).all(|c| c == first) {
        return None;
    }
    uniform(&HostTensor::from_bytes(Type::new(node.ty.dtype, torsh_ir::Shape::of(&[1])), first).ok()?)
}

fn uniform(tensor: &HostTensor) -> Option<Scalar> {
    if tensor.is_empty() || (1..tensor.len()).any(|i| tensor.bits(i) != tensor.bits(0)) {
        return None;
    }
    // Bits that a number does not give back (a signalling NaN) stay data.
    let value = tensor.get(0);
    (to_bits(value.to_dtype(tensor.dtype()), tensor.dtype()) == tensor.bits(0)).then_some(value)
}
