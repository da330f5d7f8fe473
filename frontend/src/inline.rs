//! A graph from elsewhere, applied to tensors as if its operations had been written here.

use crate::node::NodeRef;
use crate::ops;
use crate::place;
use crate::tensor::Tensor;
use smallvec::SmallVec;
use torsh_ir::exec::Device;
use torsh_ir::op::Kind;
use torsh_ir::{Error, Graph, Result};

/// The outputs of a graph for these inputs, on a device, whatever the thread's default one is: a graph names none. Types
/// are inferred and checked again; gradients are recorded as the mode of the thread says.
///
/// # Errors
/// A `Device` error for an input elsewhere, 0-d ones of the CPU excepted, which are copied.
pub fn apply(graph: &Graph, inputs: &[Tensor], device: Device) -> Result<Vec<NodeRef>> {
    if graph.inputs().len() != inputs.len() {
        return Err(Error::value(format!("{} inputs expected, got {}", graph.inputs().len(), inputs.len())));
    }
    let mut made: Vec<NodeRef> = Vec::with_capacity(graph.len());
    let mut next = inputs.iter();
    for id in graph.ids() {
        let node = graph.node(id);
        if node.op.kind == Kind::Input {
            let given = next.next().ok_or_else(|| Error::internal("a graph with more inputs than it lists"))?.node();
            if given.ty != node.ty {
                return Err(Error::internal(format!("an input of type {} was given {}", node.ty, given.ty)));
            }
            if given.device != device && !place::is_number(&given) {
                return Err(place::two(device, given.device));
            }
            made.push(ops::to_device(&given, device)?);
            continue;
        }
        let operands: SmallVec<[NodeRef; 3]> = node.operands.iter().map(|o| made[o.index()].clone()).collect();
        made.push(ops::apply_on(Some(device), node.op, &operands, node.attrs.clone())?);
    }
    Ok(graph.outputs().iter().map(|o| made[o.index()].clone()).collect())
}
