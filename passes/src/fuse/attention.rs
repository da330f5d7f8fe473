//! Attention calls: operands seen as batches of strided matrices, so that the usual views (heads split off the
//! last dim, transposed; heads repeated) cost no copy.

use crate::layout::{Axes, Factors, Layout};
use smallvec::SmallVec;
use torsh_ir::attr::AttrsExt;
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, Node};
use torsh_ir::ops::attention::{Options, Sizes};
use torsh_ir::program::{Attend, Side};
use torsh_ir::shape::Ints;

/// One operand: the batch dims, the offset and the strides of rows and columns; no batch dims for operands
/// that are the same for every batch.
pub struct Seen {
    batch: Option<Layout>,
    offset: i64,
    row: i64,
    col: i64,
}

/// Sizes and options of a node; the batch is one axis and sides are missing.
pub fn sizes(graph: &Graph, node: &Node, forward: bool) -> Attend {
    let shape = |i: usize| graph.shape(node.operands[i]).dims();
    let (s, o) = (Sizes::of(shape(0), shape(1), shape(2)), Options::of(&node.attrs));
    Attend {
        batch: SmallVec::from_slice(&[s.batch]),
        queries: s.queries,
        keys: s.keys,
        depth: s.depth,
        width: s.width,
        dtype: graph.ty(node.operands[0]).dtype,
        scale: node.attrs.scalar(0),
        causal: o.causal,
        dropout: node.attrs.scalar(2),
        mask: o.mask,
        safe: o.safe,
        lse: forward && node.attrs.bool(5),
        sides: Vec::new(),
    }
}

/// The batch as one axis.
pub fn axes(call: &Attend) -> Axes {
    Axes::new(call.batch.iter().map(|&n| (n, false)))
}

/// An operand's layout as batches of matrices with one stride for rows and one for columns. Splits the axes of
/// the batch so that the operand has one stride for each; `None`, and nothing split, where that cannot be.
pub fn view((rows, cols, batched): (usize, usize, bool), map: &Layout, axes: &mut Axes) -> Option<Seen> {
    let batches = if batched { axes.points() } else { 1 };
    let mut digits = map.factors.iter().rev();
    let (mut left, mut stride) = (1usize, 0i64);
    let mut parts: [Factors; 3] = Default::default();
    for (role, mut size) in [cols, rows, batches].into_iter().enumerate() {
        while size > 1 {
            if left == 1 {
                (left, stride) = *digits.next()?;
            }
            let part = size.min(left);
            if !size.is_multiple_of(part) || !left.is_multiple_of(part) {
                return None;
            }
            parts[role].push((part, stride));
            size /= part;
            left /= part;
            stride *= part as i64;
        }
        parts[role].reverse();
    }
    if parts[0].len() > 1 || parts[1].len() > 1 {
        return None;
    }
    let one = |f: &Factors| f.first().map_or(0, |f| f.1);
    let batch = batched.then(|| Layout::new(0, parts[2].iter().copied()));
    if batch.as_ref().is_some_and(|batch| !axes.refine(batch, false)) {
        return None;
    }
    Some(Seen { batch, offset: map.offset, row: one(&parts[1]), col: one(&parts[0]) })
}

/// Fills in the batch axes and the sides.
pub fn finish(call: &mut Attend, seen: &[Seen], axes: &Axes) -> Result<()> {
    call.batch = axes.0.iter().map(|a| a.extent).collect();
    for s in seen {
        let batch = match &s.batch {
            Some(batch) => axes.strides(batch, false).ok_or_else(|| Error::internal("a batch without strides"))?,
            None => Ints::from_elem(0, axes.0.len()),
        };
        call.sides.push(Side { offset: s.offset, batch, row: s.row, col: s.col });
    }
    Ok(())
}
