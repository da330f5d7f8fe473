//! Verifier of level 1. Checks, in order:
//! 1. every op is the registry's op of its name;
//! 2. operands are nodes before their user, and petgraph's edges are the operands;
//! 3. operand count, attribute count and kinds, and operand dtypes are the op's (by `OpDef::infer`);
//! 4. the type is what inference gives, and its size can be addressed;
//! 5. node `inputs()[i]` is the `input` node with index `i`, and no other `input` node exists;
//! 6. no two nodes are equal (the graph is hash-consed);
//! 7. every output is a node.

use super::report::failure;
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::op::Kind;
use crate::ops;
use crate::shape::Type;
use crate::text;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use std::collections::HashMap;

/// Checks a graph; the list stands in the module docs.
pub fn graph(graph: &Graph) -> Result<()> {
    let mut seen = HashMap::with_capacity_and_hasher(graph.len(), FxBuildHasher);
    for id in graph.ids() {
        node(graph, id).map_err(|message| report(graph, id, &message))?;
        let first = *seen.entry(graph.node(id)).or_insert(id);
        if first != id {
            return Err(report(graph, id, &format!("equal to %{}, which stands above", first.0)));
        }
    }
    for (i, &id) in graph.inputs().iter().enumerate() {
        if id.index() >= graph.len() || input_index(graph, id) != Some(i as i64) {
            return Err(Error::internal(format!("input {i} of the graph is not an input node of that index")));
        }
    }
    for (i, &id) in graph.outputs().iter().enumerate() {
        if id.index() >= graph.len() {
            return Err(Error::internal(format!("output {i} is %{}, of {} nodes", id.0, graph.len())));
        }
    }
    Ok(())
}

fn input_index(graph: &Graph, id: NodeId) -> Option<i64> {
    match (graph.node(id).op.kind, graph.node(id).attrs.first()) {
        (Kind::Input, Some(Attr::Int(i))) => Some(*i),
        _ => None,
    }
}

/// Checks one node; an error is its message.
fn node(graph: &Graph, id: NodeId) -> Result<(), String> {
    let node = graph.node(id);
    match ops::find(node.op.name) {
        Some(op) if std::ptr::eq(op.0, node.op.0) => {}
        _ => return Err(format!("{} is not an op of the registry", node.op.name)),
    }
    if let Some(o) = node.operands.iter().find(|o| **o >= id) {
        return Err(format!("operand %{} does not stand above", o.0));
    }
    let mut edges: SmallVec<[usize; 4]> =
        graph.dag().neighbors_directed(NodeIndex::new(id.index()), Direction::Incoming).map(|n| n.index()).collect();
    let mut operands: SmallVec<[usize; 4]> = node.operands.iter().map(|o| o.index()).collect();
    edges.sort_unstable();
    operands.sort_unstable();
    if edges != operands {
        return Err(format!("its edges come from {edges:?}, its operands are {operands:?}"));
    }
    let types: SmallVec<[Type; 4]> = node.operands.iter().map(|&o| graph.ty(o).clone()).collect();
    let ty = node.op.infer(&types, &node.attrs).map_err(|e| e.message().to_string())?;
    if ty != node.ty {
        return Err(format!("its type is {}, inference gives {ty}", node.ty));
    }
    if let Some(index) = input_index(graph, id)
        && graph.inputs().get(usize::try_from(index).unwrap_or(usize::MAX)) != Some(&id)
    {
        return Err(format!("input {index} of the graph is another node"));
    }
    Ok(())
}

fn report(graph: &Graph, id: NodeId, message: &str) -> Error {
    let lines: Vec<String> = text::print(graph).lines().map(str::to_string).collect();
    // Line 0 is `graph {`, then a line per node.
    failure("graph", &lines, id.index() + 1, message, graph.loc(id)).with_op(graph.node(id).op.name)
}

#[cfg(test)]
mod tests {
    use crate::text::{parse, parse_unchecked};

    #[test]
    fn the_message_stands_under_the_offending_line() {
        let text = "graph {\n  %0: f32[2] = input(index=0)\n  %1: f32[3] = exp(%0) @ \"m.py\":4\n  return %1\n}\n";
        let e = super::graph(&parse_unchecked(text).unwrap()).unwrap_err();
        let shown =
            "  %1: f32[3] = exp(%0)\n  ^ its type is f32[3], inference gives f32[2]\n    from m.py:4\n  return %1\n";
        assert!(e.message().contains(shown), "{e}");
        assert_eq!(e.op(), Some("exp"));
        assert!(parse(text).unwrap_err().message().starts_with("line 3, column 7: exp gives f32[2] here"));
    }

    #[test]
    fn inputs_are_numbered_in_order() {
        let text = "graph {\n  %0: f32[2] = input(index=1)\n  return %0\n}\n";
        let e = super::graph(&parse_unchecked(text).unwrap()).unwrap_err();
        assert!(e.message().contains("input 1 of the graph is another node"), "{e}");
    }
}
