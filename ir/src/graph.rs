//! IR level 1: the tensor graph.
//!
//! Nodes live in a petgraph `DiGraph` (edges run from operand to user and serve traversal, topological
//! order and reachability); the order of operands stands in the node itself, never in the edges. Nodes are
//! hash-consed: adding an equal node returns the old one. Inputs are never merged because their index
//! differs. A node is immutable once added, and operands exist before their users, so node ids are a
//! topological order. The user's source line is a side table outside the hash key. A node is hashed once, when it
//! is added: the same hash finds an equal node and goes into the structural hash of the graph.

use crate::attr::{Attr, Attrs};
use crate::distinct::{MOST_OF_ONE_HASH, Seeded};
use crate::error::{Error, Loc, Result};
use crate::op::{Kind, Op};
use crate::ops;
use crate::shape::{Shape, Type};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use rustc_hash::{FxBuildHasher, FxHasher};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// Index of a node; ids are a topological order.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// For side tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Operands of a node, in order.
pub type Operands = SmallVec<[NodeId; 3]>;

/// One operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Which op.
    pub op: Op,
    /// Attributes, in the op's order.
    pub attrs: Attrs,
    /// Operands, in order.
    pub operands: Operands,
    /// Result type.
    pub ty: Type,
}

/// A tensor graph with ordered inputs and outputs.
#[derive(Clone, Default)]
pub struct Graph {
    dag: DiGraph<Node, ()>,
    // Hash of a node to the nodes with that hash, of which few are kept (see `distinct`).
    cons: HashMap<u64, SmallVec<[NodeId; 1]>, Seeded>,
    // Of all nodes, in order.
    hasher: FxHasher,
    locs: Vec<Option<Loc>>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }
    /// True without nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The node behind an id of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[NodeIndex::new(id.index())]
    }
    /// Result type of a node.
    pub fn ty(&self, id: NodeId) -> &Type {
        &self.node(id).ty
    }
    /// All ids, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.len() as u32).map(NodeId)
    }
    /// Users of a node; one entry per use.
    pub fn users(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.neighbors_directed(NodeIndex::new(id.index()), Direction::Outgoing).map(|i| NodeId(i.index() as u32))
    }
    /// The underlying petgraph, for its algorithms.
    pub fn dag(&self) -> &DiGraph<Node, ()> {
        &self.dag
    }
    /// Inputs in order; node `inputs()[i]` is `input` with index i.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }
    /// Outputs in order; a node may stand here more than once.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }
    /// Replaces the outputs.
    pub fn set_outputs(&mut self, outputs: Vec<NodeId>) {
        self.outputs = outputs;
    }
    /// The user's line of a node.
    pub fn loc(&self, id: NodeId) -> Option<&Loc> {
        self.locs[id.index()].as_ref()
    }
    /// Sets the user's line of a node that has none.
    pub fn set_loc(&mut self, id: NodeId, loc: Option<Loc>) {
        let slot = &mut self.locs[id.index()];
        if slot.is_none() {
            *slot = loc;
        }
    }

    /// The graph with each node's line under a name in memory of its own, so that [`Graph::node_at`] tells nodes of one line
    /// apart. One without lines is not copied.
    pub fn with_parted_locs(self: Arc<Graph>) -> Arc<Graph> {
        if self.locs.iter().all(Option::is_none) {
            return self;
        }
        let mut own = Graph::clone(&self);
        for loc in own.locs.iter_mut().flatten() {
            loc.file = Arc::from(&*loc.file);
        }
        Arc::new(own)
    }
    /// The node whose line this is: not an equal one, but a copy of its own, as an error brings it back.
    pub fn node_at(&self, loc: &Loc) -> Option<NodeId> {
        self.ids().find(|&id| self.loc(id).is_some_and(|own| Arc::ptr_eq(&own.file, &loc.file)))
    }

    /// Adds the next input.
    pub fn input(&mut self, ty: Type) -> NodeId {
        let index = self.inputs.len() as i64;
        let attrs: Attrs =
            SmallVec::from_vec(vec![Attr::Int(index), Attr::DType(ty.dtype), Attr::from(ty.shape.dims())]);
        let node = Node { op: ops::op("input"), attrs, operands: Operands::new(), ty };
        let id = self.push(FxBuildHasher.hash_one(&node), node);
        self.inputs.push(id);
        id
    }

    /// Applies an op: infers the type, checks, and returns the node (an old one if an equal one exists).
    pub fn apply(&mut self, op: Op, operands: &[NodeId], attrs: Attrs) -> Result<NodeId> {
        if op.kind == Kind::Input {
            return Err(Error::internal("inputs are added with Graph::input"));
        }
        let types: SmallVec<[Type; 3]> = operands.iter().map(|&o| self.ty(o).clone()).collect();
        let ty = op.infer(&types, &attrs)?;
        Ok(self.add(Node { op, attrs, operands: Operands::from_slice(operands), ty }))
    }

    /// Adds a node whose type is known to be what inference gives, such as one copied from another graph.
    pub fn add(&mut self, node: Node) -> NodeId {
        let hash = FxBuildHasher.hash_one(&node);
        if let Some(ids) = self.cons.get(&hash)
            && let Some(&id) = ids.iter().find(|&&id| *self.node(id) == node)
        {
            return id;
        }
        let id = self.push(hash, node);
        let ids = self.cons.entry(hash).or_default();
        if ids.len() < MOST_OF_ONE_HASH {
            ids.push(id);
        }
        id
    }

    fn push(&mut self, hash: u64, node: Node) -> NodeId {
        hash.hash(&mut self.hasher);
        let operands = node.operands.clone();
        let index = self.dag.add_node(node);
        for operand in operands {
            self.dag.add_edge(NodeIndex::new(operand.index()), index, ());
        }
        self.locs.push(None);
        NodeId(index.index() as u32)
    }

    /// Marks, per node, whether an output depends on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.len()];
        for &o in &self.outputs {
            live[o.index()] = true;
        }
        for id in self.ids().rev() {
            if live[id.index()] {
                for o in &self.node(id).operands {
                    live[o.index()] = true;
                }
            }
        }
        live
    }

    /// Structural hash: ops, attributes, shapes, dtypes, topology and outputs; never addresses or lines.
    /// The same in every process of one build; equality decides, the hash only finds candidates.
    pub fn structural_hash(&self) -> u64 {
        let mut h = self.hasher.clone();
        self.outputs.hash(&mut h);
        h.finish()
    }

    /// Same nodes in the same order and the same outputs; lines are not compared.
    pub fn same(&self, other: &Graph) -> bool {
        self.len() == other.len()
            && self.outputs == other.outputs
            && self.ids().all(|id| self.node(id) == other.node(id))
    }

    /// The inputs' types.
    pub fn input_types(&self) -> Vec<Type> {
        self.inputs.iter().map(|&i| self.ty(i).clone()).collect()
    }

    /// The outputs' types.
    pub fn output_types(&self) -> Vec<Type> {
        self.outputs.iter().map(|&o| self.ty(o).clone()).collect()
    }

    /// The shape of a node.
    pub fn shape(&self, id: NodeId) -> &Shape {
        &self.node(id).ty.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use smallvec::smallvec;
    use std::collections::HashSet;

    fn vector(n: usize) -> Type {
        Type::new(DType::F32, Shape::of(&[n]))
    }

    // `count` nodes above two inputs; `odd` is the place of one that differs.
    fn chain(count: usize, odd: Option<usize>) -> Graph {
        let mut g = Graph::new();
        let (x, y) = (g.input(vector(3)), g.input(vector(3)));
        let mut at = x;
        for i in 0..count {
            let op = if odd == Some(i) { "sub" } else { "add" };
            at = g.apply(ops::op(op), &[at, y], Attrs::new()).unwrap();
        }
        g.set_outputs(vec![at]);
        g
    }

    #[test]
    fn equal_graphs_have_equal_hashes_and_others_differ() {
        assert_eq!(chain(50, None).structural_hash(), chain(50, None).structural_hash());
        let mut hashes: HashSet<u64> = (0..50).map(|i| chain(50, Some(i)).structural_hash()).collect();
        hashes.extend((0..50).map(|n| chain(n, None).structural_hash()));
        assert_eq!(hashes.len(), 100);
        // Types, numbers, the order of operands, and outputs.
        let mut hashes = HashSet::new();
        for n in 1..200 {
            let mut g = Graph::new();
            let x = g.input(vector(n));
            g.set_outputs(vec![x]);
            hashes.insert(g.structural_hash());
        }
        for (i, swapped) in (0..2000).flat_map(|i| [(i, false), (i, true)]) {
            let mut g = Graph::new();
            let x = g.input(vector(3));
            let shape: &[usize] = &[3];
            let attrs: Attrs =
                smallvec![Attr::Scalar(crate::Scalar::Float(f64::from(i))), DType::F32.into(), shape.into()];
            let c = g.apply(ops::op("full"), &[], attrs).unwrap();
            let operands = if swapped { [c, x] } else { [x, c] };
            let y = g.apply(ops::op("sub"), &operands, Attrs::new()).unwrap();
            g.set_outputs(vec![y]);
            hashes.insert(g.structural_hash());
            g.set_outputs(vec![y, x]);
            hashes.insert(g.structural_hash());
        }
        assert_eq!(hashes.len(), 199 + 8000);
    }

    #[test]
    fn the_hash_of_a_large_graph_does_not_go_through_it() {
        let count = 200_000;
        let g = chain(count, None);
        assert_eq!(g.len(), count + 2);
        // As many hashes as nodes: going through them each time would take hours.
        let first = g.structural_hash();
        assert!((0..count).all(|_| g.structural_hash() == first));
        assert_ne!(first, chain(count, Some(count / 2)).structural_hash());
        assert!(g.same(&g.clone()) && g.clone().structural_hash() == first);
    }
}
