//! From pending nodes to buffers.
//!
//! A realisation computes what was asked for and every other live pending handle of the thread, as one
//! graph. Should that fail, what was asked for is tried alone, so that one bad tensor does not take the
//! others with it. A graph runs on one device: where work of several is pending, that before each copy between
//! devices is a graph of its own.

use crate::live;
use crate::loan;
use crate::node::{Node, NodeRef};
use crate::place;
use crate::rollback;
use crate::session::{self, Session};
use crate::tensor::Tensor;
use rustc_hash::FxBuildHasher;
use std::collections::HashMap;
use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Device, Outputs};
use torsh_ir::op::{Kind, View};
use torsh_ir::{AttrsExt, Error, ErrorKind, Graph, NodeId, Result};

/// Realises these tensors and every other live pending one of this thread.
pub fn realise(tensors: &[Tensor]) -> Result<()> {
    let wanted: Vec<NodeRef> = tensors.iter().map(Tensor::node).filter(|n| !n.is_realised()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    realise_with_live(wanted)
}

/// Realises every live pending tensor of this thread.
pub fn flush() -> Result<()> {
    realise_with_live(Vec::new())
}

fn realise_with_live(wanted: Vec<NodeRef>) -> Result<()> {
    let handles = live::take();
    let mut roots = wanted.clone();
    // Views that are out of date are derived again only when they are read.
    roots.extend(handles.iter().map(|t| t.lock().node.clone()).filter(|n| !n.is_realised()));
    let Err(error) = nodes(&roots) else {
        rollback::settle();
        return Ok(());
    };
    if error.kind() == ErrorKind::Interrupted {
        live::put_back(&handles);
        return Err(error);
    }
    let alone = if wanted.is_empty() || wanted.len() == roots.len() { Err(error) } else { nodes(&wanted) };
    alone.inspect_err(|error| rollback::recover(&wanted, error))
}

/// Realises exactly these nodes.
pub fn nodes(roots: &[NodeRef]) -> Result<()> {
    let session = session::get()?;
    if !session::others() {
        return program(session, Device::Cpu, roots);
    }
    for copies in place::stages(roots) {
        let sources = copies.iter().flat_map(|n| n.operands().into_iter().take(1));
        for (device, list) in place::by_device(sources) {
            program(session, device, &list)?;
        }
        for node in copies {
            let source = node.operands().first().cloned();
            let Some(buffer) = source.and_then(|s| s.buffer()) else {
                if node.is_realised() {
                    continue;
                }
                return Err(Error::internal("a copy between devices lost its source"));
            };
            let copy = session.copy(&node.ty, &buffer, node.device).map_err(|e| e.with_loc(node.loc.clone()))?;
            node.set_buffer(copy);
        }
    }
    for (device, list) in place::by_device(roots.iter().cloned()) {
        program(session, device, &list)?;
    }
    Ok(())
}

// Realises nodes of one device under which no copy is pending.
fn program(session: &Session, device: Device, roots: &[NodeRef]) -> Result<()> {
    let mut lowering = Lowering { copy_slices: true, ..Lowering::default() };
    let mut outputs: Vec<NodeId> = Vec::new();
    let mut targets: Vec<(NodeRef, usize)> = Vec::new();
    for root in roots {
        loan::wait(root)?;
        if root.is_realised() {
            continue;
        }
        let id = lowering.visit(root)?;
        let position = outputs.iter().position(|&o| o == id).unwrap_or_else(|| {
            outputs.push(id);
            outputs.len() - 1
        });
        targets.push((root.clone(), position));
    }
    if targets.is_empty() {
        return Ok(());
    }
    let Lowering { mut graph, mut inputs, .. } = lowering;
    graph.set_outputs(outputs);
    let buffers = run(session, device, graph, &mut inputs)?;
    for (node, position) in targets {
        node.set_buffer(buffers[position].clone());
    }
    Ok(())
}

fn run(session: &Session, device: Device, graph: Graph, inputs: &mut [BufferRef]) -> Result<Outputs> {
    let count = graph.outputs().len();
    let graph = Arc::new(graph);
    let compiled = session.executable(device, &graph, Vec::new())?;
    let buffers = compiled.exe.run(inputs).map_err(|e| compiled.located(e, &graph))?;
    if buffers.len() != count {
        return Err(Error::internal(format!("a program of {count} outputs returned {}", buffers.len())));
    }
    Ok(buffers)
}

/// The elements of `slice(x)` when `x` has a buffer that the host can read, or that its device can copy from.
fn copied_slice(node: &NodeRef, operands: &[NodeRef]) -> Option<BufferRef> {
    if node.op.kind != Kind::View(View::Slice) {
        return None;
    }
    let [x] = operands else { return None };
    let buffer = x.buffer()?;
    let (shape, size) = (&node.ty.shape, node.ty.dtype.size() as i64);
    let (starts, steps) = (node.attrs.ints(0), node.attrs.ints(2));
    let strides: Vec<i64> = x.ty.shape.strides().iter().map(|s| s * size).collect();
    let first: i64 = starts.iter().zip(&strides).map(|(a, b)| a * b).sum();
    // Trailing dims that are taken whole form one run of bytes.
    let mut run = size as usize;
    let mut outer = shape.rank();
    while outer > 0 && steps[outer - 1] == 1 {
        outer -= 1;
        run *= shape[outer];
        if shape[outer] != x.ty.shape[outer] {
            break;
        }
    }
    let count: usize = shape[..outer].iter().product();
    let session = session::get().ok()?;
    let total = node.ty.nbytes();
    let Some(bytes) = buffer.host_bytes() else {
        if total == 0 || count != 1 {
            return None;
        }
        // What fails here is tried again in the graph, which reports it.
        let part = session.on(x.device).ok()?.slice(&node.ty, &*buffer, usize::try_from(first).ok()?).ok()??;
        node.set_buffer(part.clone());
        return Some(part);
    };
    if total == 0 || count == 1 {
        let start = usize::try_from(first).ok()?.min(bytes.len());
        let buffer = session.upload(&node.ty, bytes.get(start..start + total)?).ok()?;
        node.set_buffer(buffer.clone());
        return Some(buffer);
    }
    let mut out = Vec::with_capacity(total);
    let mut position = vec![0usize; outer];
    for _ in 0..count {
        let at: i64 = (0..outer).map(|d| position[d] as i64 * steps[d] * strides[d]).sum::<i64>() + first;
        let at = usize::try_from(at).ok()?;
        out.extend_from_slice(bytes.get(at..at + run)?);
        for d in (0..outer).rev() {
            position[d] += 1;
            if position[d] < shape[d] {
                break;
            }
            position[d] = 0;
        }
    }
    let buffer = session.upload(&node.ty, &out).ok()?;
    node.set_buffer(buffer.clone());
    Some(buffer)
}

/// Turns lazy nodes into a graph, without recursion. Realised nodes become inputs.
#[derive(Default)]
pub(crate) struct Lowering {
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<BufferRef>,
    pub(crate) input_nodes: Vec<NodeRef>,
    ids: HashMap<*const Node, NodeId, FxBuildHasher>,
    // Whether slices of realised tensors are copied on the host and become inputs, so that a loop over the
    // batches of a data set compiles once and not once per position.
    copy_slices: bool,
    // Keeps visited nodes alive, so that their addresses stay theirs.
    seen: Vec<NodeRef>,
}

impl Lowering {
    /// Makes `node` an input, whatever it is.
    pub(crate) fn bind(&mut self, node: &NodeRef, buffer: BufferRef) -> NodeId {
        let id = self.graph.input(node.ty.clone());
        self.inputs.push(buffer);
        self.input_nodes.push(node.clone());
        self.note(node, id);
        id
    }

    fn note(&mut self, node: &NodeRef, id: NodeId) {
        self.ids.insert(Arc::as_ptr(node), id);
        self.seen.push(node.clone());
    }

    pub(crate) fn id(&self, node: &NodeRef) -> Option<NodeId> {
        self.ids.get(&Arc::as_ptr(node)).copied()
    }

    /// The graph node of a lazy node, with everything it depends on.
    pub(crate) fn visit(&mut self, root: &NodeRef) -> Result<NodeId> {
        let mut stack = vec![root.clone()];
        while let Some(node) = stack.last().cloned() {
            if self.id(&node).is_some() {
                stack.pop();
                continue;
            }
            loan::wait(&node)?;
            let mut operands = match node.resolve() {
                Ok(buffer) => {
                    self.bind(&node, buffer);
                    stack.pop();
                    continue;
                }
                Err(operands) => operands,
            };
            if node.is_alias() {
                operands.truncate(1);
            }
            // A copy between devices under a graph is one of an input, which is copied before the graph runs.
            let through = node.is_alias() || node.moves();
            let before = stack.len();
            stack.extend(operands.iter().rev().filter(|o| self.id(o).is_none()).cloned());
            if stack.len() > before {
                continue;
            }
            if self.copy_slices
                && let Some(buffer) = copied_slice(&node, &operands)
            {
                self.bind(&node, buffer);
                stack.pop();
                continue;
            }
            let ids: Vec<NodeId> = operands.iter().filter_map(|o| self.id(o)).collect();
            if ids.len() != operands.len() || (through && ids.is_empty()) {
                return Err(Error::internal(format!("{} lost an operand", node.op.name)));
            }
            let id = if through { ids[0] } else { self.push(&node, &ids) };
            self.note(&node, id);
            stack.pop();
        }
        self.id(root).ok_or_else(|| Error::internal("a node was not lowered"))
    }

    fn push(&mut self, node: &NodeRef, operands: &[NodeId]) -> NodeId {
        let id = self.graph.add(torsh_ir::Node {
            op: node.op,
            attrs: node.attrs.clone(),
            operands: operands.iter().copied().collect(),
            ty: node.ty.clone(),
        });
        self.graph.set_loc(id, node.loc.clone());
        id
    }
}
