//! The one-pass ops among primitives: results that nobody reads are left out, operands that a target does not take are
//! converted.

use super::{copied, finish};
use crate::rebuild;
use torsh_ir::attr::{Attr, AttrsExt};
use torsh_ir::builder::{Builder, Val};
use torsh_ir::dtype::DType;
use torsh_ir::error::Result;
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::{Kind, View};
use torsh_ir::ops::attention::Sizes;
use torsh_ir::scalar::ScalarOp;
use torsh_ir::shape::Type;

/// Leaves out what only the gradient reads where there is none.
pub fn results(graph: Graph) -> Result<Graph> {
    // Elements of the row that are read, from its beginning.
    let mut read = vec![0usize; graph.len()];
    // The attention of 16-bit operands of which a node is a view, and those of which something else than their rounding
    // to the operands' dtype is read.
    let mut origin: Vec<Option<NodeId>> = vec![None; graph.len()];
    let mut wide = vec![false; graph.len()];
    let operands_dtype = |id: NodeId| graph.ty(graph.node(id).operands[0]).dtype;
    for id in rebuild::live_nodes(&graph) {
        let node = graph.node(id);
        for &o in &node.operands {
            let end = match node.op.kind {
                Kind::View(View::Slice) => node.attrs.ints(1).first().map_or(usize::MAX, |&e| e as usize),
                _ => usize::MAX,
            };
            read[o.index()] = read[o.index()].max(end);
            if let Some(from) = origin[o.index()] {
                match node.op.kind {
                    Kind::View(_) => origin[id.index()] = Some(from),
                    Kind::Elementwise(ScalarOp::Cast) if node.ty.dtype == operands_dtype(from) => {}
                    _ => wide[from.index()] = true,
                }
            }
        }
        if node.op.kind == Kind::Attention && operands_dtype(id).size() == 2 {
            origin[id.index()] = Some(id);
        }
    }
    for o in graph.outputs() {
        read[o.index()] = usize::MAX;
        if let Some(from) = origin[o.index()] {
            wide[from.index()] = true;
        }
    }
    let length = |node: &Node| {
        let shape = |i: usize| graph.shape(node.operands[i]).dims();
        let s = Sizes::of(shape(0), shape(1), shape(2));
        s.batch * s.queries * s.width
    };
    let plain = |id: NodeId| {
        let node = graph.node(id);
        let some = node.op.kind == Kind::Attention && node.attrs.bool(5) && read[id.index()] <= length(node);
        some && !wide[id.index()]
    };
    if !rebuild::live_nodes(&graph).any(plain) {
        return Ok(graph);
    }
    let (copy, mut map) = rebuild::with_inputs(&graph);
    let builder = Builder::new(copy);
    for id in rebuild::live_nodes(&graph) {
        let (node, loc) = (graph.node(id), graph.loc(id).cloned());
        let operands = map.all(&node.operands)?;
        // Views of a result in the operands' dtype have that dtype, too, and need no rounding.
        let narrow = node.operands.first().and_then(|o| origin[o.index()]).filter(|&from| plain(from));
        let new = match node.op.kind {
            Kind::Attention if plain(id) => {
                builder.set_loc(loc);
                let x: Vec<Val<'_>> = operands.iter().map(|&o| builder.val(o)).collect();
                let mut attrs = node.attrs.clone();
                attrs[5] = Attr::Bool(false);
                builder.apply(node.op, &x, attrs).reshape(&[length(node)]).id()
            }
            Kind::View(_) if narrow.is_some() => {
                let ty = Type::new(narrow.map_or(node.ty.dtype, operands_dtype), node.ty.shape.clone());
                copied(&builder, &Node { ty, ..node.clone() }, operands, loc)
            }
            Kind::Elementwise(ScalarOp::Cast) if narrow.is_some() => operands[0],
            _ => copied(&builder, node, operands, loc),
        };
        map.set(id, new);
    }
    finish(builder, map, &graph)
}

/// Converts the 16-bit operands of attentions to f32.
pub fn operands(graph: Graph) -> Result<Graph> {
    let half = |id: NodeId| {
        let node = graph.node(id);
        let kind = matches!(node.op.kind, Kind::Attention | Kind::AttentionGrad);
        kind && graph.ty(node.operands[0]).dtype.size() == 2
    };
    if !rebuild::live_nodes(&graph).any(half) {
        return Ok(graph);
    }
    let (copy, mut map) = rebuild::with_inputs(&graph);
    let builder = Builder::new(copy);
    for id in rebuild::live_nodes(&graph) {
        let (node, loc) = (graph.node(id), graph.loc(id).cloned());
        let operands = map.all(&node.operands)?;
        let new = if half(id) {
            builder.set_loc(loc);
            let wide = |&o: &NodeId| {
                let x = builder.val(o);
                if x.dtype().is_float() { x.cast(DType::F32) } else { x }
            };
            let x: Vec<Val<'_>> = operands.iter().map(wide).collect();
            builder.apply(node.op, &x, node.attrs.clone()).cast(node.ty.dtype).id()
        } else {
            copied(&builder, node, operands, loc)
        };
        map.set(id, new);
    }
    finish(builder, map, &graph)
}
