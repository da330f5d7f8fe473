//! Copying a graph through a function: what every rewriting pass shares.
//!
//! Inputs are copied first, in order, whether used or not, so the signature never changes. Then the live
//! nodes follow in id order, hence operands before users. Lines travel with the nodes.

use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, Node, NodeId, Operands};

/// Maps node ids of a source graph to ids of its copy.
pub(crate) struct IdMap(Vec<NodeId>);

impl IdMap {
    const UNMAPPED: NodeId = NodeId(u32::MAX);

    /// A map for a graph of `len` nodes.
    pub(crate) fn new(len: usize) -> IdMap {
        IdMap(vec![IdMap::UNMAPPED; len])
    }

    /// Records where a node went.
    pub(crate) fn set(&mut self, old: NodeId, new: NodeId) {
        self.0[old.index()] = new;
    }

    /// Where a node went.
    pub(crate) fn get(&self, old: NodeId) -> Result<NodeId> {
        match self.0.get(old.index()) {
            Some(&new) if new != IdMap::UNMAPPED => Ok(new),
            _ => Err(Error::internal(format!("node %{} is used before it was copied", old.0))),
        }
    }

    /// Where a list of nodes went, in order.
    pub(crate) fn all(&self, old: &[NodeId]) -> Result<Operands> {
        old.iter().map(|&o| self.get(o)).collect()
    }
}

/// Starts the copy of `graph`: a new graph with the same inputs and their lines.
pub(crate) fn with_inputs(graph: &Graph) -> (Graph, IdMap) {
    let mut copy = Graph::new();
    let mut map = IdMap::new(graph.len());
    for &input in graph.inputs() {
        let id = copy.input(graph.ty(input).clone());
        copy.set_loc(id, graph.loc(input).cloned());
        map.set(input, id);
    }
    (copy, map)
}

/// The nodes that outputs depend on, inputs excluded, operands before users.
pub(crate) fn live_nodes(graph: &Graph) -> impl Iterator<Item = NodeId> + use<> {
    let mut live = graph.live();
    for input in graph.inputs() {
        live[input.index()] = false;
    }
    graph.ids().filter(move |id| live[id.index()])
}

/// Dead code elimination and common subexpression elimination, nothing else: equal nodes are merged by
/// hash-consing at the copy (operand order is part of equality; inputs are never merged), nodes without
/// a path to an output are left behind.
pub(crate) fn compact(graph: &Graph) -> Result<Graph> {
    let (mut copy, mut map) = with_inputs(graph);
    for id in live_nodes(graph) {
        let node = graph.node(id);
        let new = copy.add(Node { operands: map.all(&node.operands)?, ..node.clone() });
        copy.set_loc(new, graph.loc(id).cloned());
        map.set(id, new);
    }
    copy.set_outputs(map.all(graph.outputs())?.into_vec());
    Ok(copy)
}
