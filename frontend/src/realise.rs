//! From pending nodes to buffers.
//!
//! A realisation computes what was asked for and every other live pending handle of the thread, as one
//! graph. Should that fail, what was asked for is tried alone, so that one bad tensor does not take the
//! others with it.

use crate::live;
use crate::node::{Node, NodeRef};
use crate::session::{self, Session};
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;
use torsh_ir::exec::BufferRef;
use torsh_ir::{Error, ErrorKind, Graph, NodeId, Result};

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
    let Err(error) = nodes(&roots) else { return Ok(()) };
    if error.kind() == ErrorKind::Interrupted {
        live::put_back(&handles);
        return Err(error);
    }
    if wanted.is_empty() || wanted.len() == roots.len() {
        return Err(error);
    }
    nodes(&wanted)
}

/// Realises exactly these nodes.
pub fn nodes(roots: &[NodeRef]) -> Result<()> {
    let session = session::get()?;
    let mut lowering = Lowering::default();
    let mut outputs: Vec<NodeId> = Vec::new();
    let mut targets: Vec<(NodeRef, usize)> = Vec::new();
    for root in roots {
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
    let buffers = run(session, graph, &mut inputs)?;
    for (node, position) in targets {
        node.set_buffer(buffers[position].clone());
    }
    Ok(())
}

fn run(session: &Session, graph: Graph, inputs: &mut [BufferRef]) -> Result<Vec<BufferRef>> {
    let count = graph.outputs().len();
    let compiled = session.executable(graph, Vec::new())?;
    let buffers = compiled.exe.run(inputs)?;
    if buffers.len() != count {
        return Err(Error::internal(format!("a program of {count} outputs returned {}", buffers.len())));
    }
    Ok(buffers)
}

/// Turns lazy nodes into a graph, without recursion. Realised nodes become inputs.
#[derive(Default)]
pub(crate) struct Lowering {
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<BufferRef>,
    pub(crate) input_nodes: Vec<NodeRef>,
    ids: HashMap<*const Node, NodeId>,
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
            let before = stack.len();
            stack.extend(operands.iter().rev().filter(|o| self.id(o).is_none()).cloned());
            if stack.len() > before {
                continue;
            }
            let ids: Vec<NodeId> = operands.iter().filter_map(|o| self.id(o)).collect();
            if ids.len() != operands.len() || (node.is_alias() && ids.is_empty()) {
                return Err(Error::internal(format!("{} lost an operand", node.op.name)));
            }
            let id = if node.is_alias() { ids[0] } else { self.push(&node, &ids) };
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
