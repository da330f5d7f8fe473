//! Large folds in two steps, so that they keep every thread busy.
//!
//! Needs: no composites. Leaves: the same results; a sum of a great many values, into few results or along
//! columns that are few, becomes sums over a fixed number of chunks and a sum of those. The number depends on the
//! shape alone, so that the bits depend on nothing else: not on threads, fusion, or what stands around the fold.
//! Each sum accumulates in float64 as ever; what is carried between the steps has the precision of the dtype, or
//! float32 for 16-bit floats. So a large sum is rounded once per chunk and once more at the end.

use crate::rebuild;
use torsh_ir::attr::AttrsExt;
use torsh_ir::builder::Builder;
use torsh_ir::dtype::DType;
use torsh_ir::error::Result;
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::Kind;
use torsh_ir::scalar::ReduceOp;
use torsh_ir::shape::Shape;

/// Folds of fewer values are left alone.
const LARGE: usize = 1 << 17;
/// A fold along rows with so many results has a row for every thread.
const FEW_ROWS: usize = 8;
/// Columns that make two blocks of vectors.
const FEW_COLUMNS: usize = 1024;
/// The number of chunks: the largest divisor of an extent between these, ...
const CHUNKS: std::ops::RangeInclusive<usize> = 8..=64;
/// ... or, along rows, the whole extent up to this: then other kernels over the same rows take the first step in.
const MAX_ROWS: usize = 4096;
/// Values of a chunk, at least.
const CHUNK: usize = 256;
/// Rows of a chunk of columns, at least.
const COLUMN_CHUNK: usize = 8;

/// Splits large folds.
pub fn run(graph: Graph) -> Result<Graph> {
    if !rebuild::live_nodes(&graph).any(|id| cut(&graph, id).is_some()) {
        return Ok(graph);
    }
    let (copy, mut map) = rebuild::with_inputs(&graph);
    let builder = Builder::new(copy);
    for id in rebuild::live_nodes(&graph) {
        let node = graph.node(id);
        let operands = map.all(&node.operands)?;
        builder.set_loc(graph.loc(id).cloned());
        let new = match cut(&graph, id) {
            Some(cut) => in_two(&builder, node, &graph.shape(node.operands[0]).clone(), operands[0], &cut),
            None => builder.with(|g| {
                let new = g.add(Node { operands, ..node.clone() });
                g.set_loc(new, graph.loc(id).cloned());
                new
            }),
        };
        map.set(id, new);
    }
    let outputs = map.all(graph.outputs())?.into_vec();
    let mut copy = builder.finish()?;
    copy.set_outputs(outputs);
    Ok(copy)
}

/// Where a fold is cut.
struct Cut {
    dim: usize,
    chunks: usize,
    /// Carried between the steps in float32.
    wide: bool,
}

fn cut(graph: &Graph, id: NodeId) -> Option<Cut> {
    let node = graph.node(id);
    let Kind::Reduce(op) = node.op.kind else { return None };
    let dtype = node.ty.dtype;
    let wide = match op {
        ReduceOp::Sum => matches!(dtype, DType::F16 | DType::BF16),
        ReduceOp::Max | ReduceOp::Min | ReduceOp::Any | ReduceOp::All => false,
        ReduceOp::Prod | ReduceOp::ArgMax | ReduceOp::ArgMin => return None,
    };
    let shape = graph.shape(node.operands[0]);
    let dims: Vec<usize> = node.attrs.ints(0).iter().map(|&d| d as usize).collect();
    let results = node.ty.numel();
    // Folds whose operand ends in a kept dim run along columns.
    let columns = (0..shape.rank()).rev().find(|&d| shape[d] > 1).is_some_and(|d| !dims.contains(&d));
    if shape.numel() < LARGE || results >= if columns { FEW_COLUMNS } else { FEW_ROWS } {
        return None;
    }
    let chunk = shape.numel() / results.max(1);
    let chunks = |d: usize| {
        let extent = shape[d];
        if !columns && *CHUNKS.start() <= extent && extent <= MAX_ROWS && chunk / extent >= CHUNK {
            return Some(extent);
        }
        let most = if columns { extent / COLUMN_CHUNK } else { extent };
        CHUNKS.rev().find(|&c| c <= most && extent.is_multiple_of(c))
    };
    let mut sorted = dims;
    sorted.sort_unstable();
    sorted.into_iter().find_map(|dim| Some(Cut { dim, chunks: chunks(dim)?, wide }))
}

fn in_two(builder: &Builder, node: &Node, shape: &Shape, x: NodeId, cut: &Cut) -> NodeId {
    let mut split: Vec<usize> = shape.iter().copied().collect();
    split[cut.dim] /= cut.chunks;
    split.insert(cut.dim, cut.chunks);
    // The dim of the chunks stands before the one that it was cut from.
    let dims: Vec<usize> =
        node.attrs.ints(0).iter().map(|&d| d as usize + usize::from(d as usize >= cut.dim)).collect();
    let (name, dtype) = (node.op.name, node.ty.dtype);
    let mut x = builder.val(x).reshape(&split);
    if cut.wide {
        x = x.cast(DType::F32);
    }
    let mut all = x.reduce(name, &dims).reduce(name, &[cut.dim]);
    if cut.wide {
        all = all.cast(dtype);
    }
    let to: Vec<usize> = node.ty.shape.iter().copied().collect();
    all.reshape(&to).id()
}
