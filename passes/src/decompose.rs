//! Replaces every composite by its decomposition, until only primitives are left.
//!
//! Needs: nothing. Leaves: no [`Kind::Composite`] node on any path to an output; same inputs, same outputs
//! and types; the nodes of a decomposition carry the composite's line.

use crate::rebuild;
use torsh_ir::builder::{Builder, Val};
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::{Call, Kind};

/// Composites may be defined by composites; a definition nested deeper than this is a cycle.
const MAX_NESTING: usize = 16;

/// Expands all composites.
pub fn expand(mut graph: Graph) -> Result<Graph> {
    for _ in 0..MAX_NESTING {
        if first_composite(&graph).is_none() {
            return Ok(graph);
        }
        graph = expand_once(&graph)?;
    }
    match first_composite(&graph) {
        None => Ok(graph),
        Some(id) => Err(Error::internal(format!("its definition is nested deeper than {MAX_NESTING}"))
            .with_op(graph.node(id).op.name)),
    }
}

fn first_composite(graph: &Graph) -> Option<NodeId> {
    rebuild::live_nodes(graph).find(|&id| graph.node(id).op.kind == Kind::Composite)
}

fn expand_once(graph: &Graph) -> Result<Graph> {
    let (copy, mut map) = rebuild::with_inputs(graph);
    let builder = Builder::new(copy);
    for id in rebuild::live_nodes(graph) {
        let node = graph.node(id);
        let operands = map.all(&node.operands)?;
        let loc = graph.loc(id).cloned();
        let new = if node.op.kind == Kind::Composite {
            builder.set_loc(loc.clone());
            inline(&builder, node, &operands).map_err(|e| e.with_loc(loc))?
        } else {
            builder.with(|g| {
                let new = g.add(Node { operands, ..node.clone() });
                g.set_loc(new, loc);
                new
            })
        };
        map.set(id, new);
    }
    let outputs = map.all(graph.outputs())?.into_vec();
    let mut copy = builder.finish()?;
    copy.set_outputs(outputs);
    Ok(copy)
}

/// Adds the decomposition of one application of a composite to the builder's graph, with the builder's
/// line, and returns its result. `operands` are ids of that graph.
pub(crate) fn inline(builder: &Builder, node: &Node, operands: &[NodeId]) -> Result<NodeId> {
    let name = node.op.name;
    let Some(decompose) = node.op.decompose else {
        return Err(Error::internal("a composite without a decomposition").with_op(name));
    };
    let x: Vec<Val<'_>> = operands.iter().map(|&o| builder.val(o)).collect();
    let result = decompose(&Call { x: &x, attrs: &node.attrs, ty: &node.ty });
    if let Some(e) = builder.error() {
        return Err(Error::internal(format!("its decomposition fails: {e}")).with_op(name));
    }
    let ty = result.ty();
    if ty != node.ty {
        return Err(Error::internal(format!("its decomposition has type {ty} instead of {}", node.ty)).with_op(name));
    }
    Ok(result.id())
}
