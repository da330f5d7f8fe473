//! Meaning of level 1.

use super::{HostTensor, scalar_op};
use crate::builder::Builder;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId};
use crate::op::{Call, EvalCall, Kind};
use crate::shape::Type;
use smallvec::SmallVec;

/// Rounds of expansion after which a decomposition is taken to be circular.
const MAX_ROUNDS: usize = 32;

/// Evaluates a graph on one tensor per input; gives one tensor per output.
///
/// Values are dropped after their last use. Nothing here recurses on the depth of the graph.
pub fn eval_graph(graph: &Graph, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    eval_graph_with(graph, inputs, &mut |_, _, _, _| {})
}

/// Sees each value when it is known, and may change it: the node's id and the node (of the graph without
/// composites), its operands' values, its own.
pub type Observer<'a> = dyn FnMut(NodeId, &Node, &[&HostTensor], &mut HostTensor) + 'a;

/// [`eval_graph`] with an observer of every value.
pub fn eval_graph_with(graph: &Graph, inputs: &[HostTensor], observe: &mut Observer<'_>) -> Result<Vec<HostTensor>> {
    check_inputs(&graph.input_types(), inputs)?;
    let expanded;
    let graph = if graph.ids().any(|id| graph.node(id).op.kind == Kind::Composite) {
        expanded = expand_composites(graph)?;
        &expanded
    } else {
        graph
    };
    let live = graph.live();
    let mut uses = vec![0u32; graph.len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        for o in &graph.node(id).operands {
            uses[o.index()] += 1;
        }
    }
    for o in graph.outputs() {
        uses[o.index()] += 1;
    }
    let mut values: Vec<Option<HostTensor>> = vec![None; graph.len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let value = eval_node(id, node, &values, inputs, observe)
            .map_err(|e| e.with_op(node.op.name).with_loc(graph.loc(id).cloned()))?;
        values[id.index()] = Some(value);
        for o in &node.operands {
            uses[o.index()] -= 1;
            if uses[o.index()] == 0 {
                values[o.index()] = None;
            }
        }
    }
    let outputs = graph.outputs();
    outputs.iter().map(|&o| operand(&values, o).cloned()).collect()
}

/// One tensor per input, each of the input's type.
pub(super) fn check_inputs(types: &[Type], inputs: &[HostTensor]) -> Result<()> {
    if types.len() != inputs.len() {
        return Err(Error::internal(format!("{} inputs expected, got {}", types.len(), inputs.len())));
    }
    for (i, (ty, x)) in types.iter().zip(inputs).enumerate() {
        if *ty != x.ty {
            return Err(Error::internal(format!("input {i} must be {ty}, got {}", x.ty)));
        }
    }
    Ok(())
}

fn operand(values: &[Option<HostTensor>], id: NodeId) -> Result<&HostTensor> {
    values[id.index()].as_ref().ok_or_else(|| Error::internal(format!("value %{} is used before it exists", id.0)))
}

fn eval_node(
    id: NodeId,
    node: &Node,
    values: &[Option<HostTensor>],
    inputs: &[HostTensor],
    observe: &mut Observer<'_>,
) -> Result<HostTensor> {
    let x: SmallVec<[&HostTensor; 3]> = node.operands.iter().map(|&o| operand(values, o)).collect::<Result<_>>()?;
    let mut value = eval_op(node, &x, inputs)?;
    observe(id, node, &x, &mut value);
    Ok(value)
}

fn eval_op(node: &Node, x: &[&HostTensor], inputs: &[HostTensor]) -> Result<HostTensor> {
    match node.op.kind {
        Kind::Input => {
            let index = graph_input(node)?;
            inputs.get(index).cloned().ok_or_else(|| Error::internal(format!("no input {index}")))
        }
        Kind::Elementwise(op) => {
            let dtypes: SmallVec<[DType; 3]> = x.iter().map(|t| t.dtype()).collect();
            let mut args: SmallVec<[u64; 3]> = SmallVec::from_elem(0, x.len());
            let bits = (0..node.ty.numel())
                .map(|i| {
                    for (slot, t) in args.iter_mut().zip(x) {
                        *slot = t.bits(i);
                    }
                    scalar_op::apply(op, &args, &dtypes, node.ty.dtype)
                })
                .collect();
            Ok(HostTensor::from_bits(node.ty.clone(), bits))
        }
        Kind::Constant
        | Kind::Full
        | Kind::Iota
        | Kind::Reduce(_)
        | Kind::Scan(_)
        | Kind::View(_)
        | Kind::Concat
        | Kind::SliceScatter
        | Kind::Take
        | Kind::Gather
        | Kind::Scatter
        | Kind::IndexPut
        | Kind::ArgSort
        | Kind::Dot
        | Kind::Attention
        | Kind::AttentionGrad
        | Kind::Composite => {
            let eval =
                node.op.eval.ok_or_else(|| Error::internal(format!("{} has no meaning of its own", node.op.name)))?;
            let out = eval(&EvalCall { x, attrs: &node.attrs, ty: &node.ty })?;
            if out.ty != node.ty {
                return Err(Error::internal(format!("gave {}, its type is {}", out.ty, node.ty)));
            }
            Ok(out)
        }
    }
}

fn graph_input(node: &Node) -> Result<usize> {
    match node.attrs.first() {
        Some(crate::attr::Attr::Int(i)) if *i >= 0 => Ok(*i as usize),
        other => Err(Error::internal(format!("an input without an index: {other:?}"))),
    }
}

/// The same graph without composites: each is replaced by its decomposition, again and again.
pub fn expand_composites(graph: &Graph) -> Result<Graph> {
    let mut current = expand_once(graph)?;
    for _ in 0..MAX_ROUNDS {
        let left = current.ids().find(|&id| current.node(id).op.kind == Kind::Composite);
        if left.is_none() {
            return Ok(current);
        }
        current = expand_once(&current)?;
    }
    let culprit = current.ids().find(|&id| current.node(id).op.kind == Kind::Composite);
    let name = culprit.map_or("?", |id| current.node(id).op.name);
    Err(Error::internal(format!("the decomposition of {name} does not end")))
}

fn expand_once(graph: &Graph) -> Result<Graph> {
    let builder = Builder::new(Graph::new());
    let live = graph.live();
    let mut map = vec![NodeId(0); graph.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        if node.op.kind == Kind::Input {
            map[id.index()] = builder.input(node.ty.clone()).id();
            continue;
        }
        if !live[id.index()] {
            continue;
        }
        builder.set_loc(graph.loc(id).cloned());
        map[id.index()] = match (node.op.kind, node.op.decompose) {
            (Kind::Composite, Some(decompose)) => {
                let x: Vec<_> = node.operands.iter().map(|o| builder.val(map[o.index()])).collect();
                let out = decompose(&Call { x: &x, attrs: &node.attrs, ty: &node.ty });
                if let Some(e) = builder.error() {
                    return Err(e.with_op(node.op.name));
                }
                if out.ty() != node.ty {
                    return Err(Error::internal(format!(
                        "the decomposition of {} gives {}, its type is {}",
                        node.op.name,
                        out.ty(),
                        node.ty
                    )));
                }
                out.id()
            }
            (Kind::Composite, None) => {
                return Err(Error::internal(format!("composite {} has no decomposition", node.op.name)));
            }
            _ => {
                let mut copy = node.clone();
                for o in &mut copy.operands {
                    *o = map[o.index()];
                }
                builder.with(|g| {
                    let new = g.add(copy);
                    g.set_loc(new, graph.loc(id).cloned());
                    new
                })
            }
        };
    }
    let mut out = builder.finish()?;
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}
