//! The cases of the op matrix: every op of the registry, in every dtype it claims, on each of its samples, with operands
//! that are plain, transposed, sliced, reversed and broadcast.

use crate::fuzz::Case;
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::HostTensor;
use torsh_ir::op::{Kind, Op, OpDef, Sample};
use torsh_ir::{Attr, Attrs, DType, Shape, Type, ops, sample};

/// How an operand reaches the op.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Layout {
    /// As an input.
    Plain,
    /// As a view of an input with the dims reversed.
    Transposed,
    /// As a part of a larger input, every second element of the last dim.
    Sliced,
    /// Reversed along every dim.
    Flipped,
    /// One row, repeated along the first dim.
    Broadcast,
}

/// Adds an input and the view of it that the op sees; also the input's value.
pub fn operand(graph: &mut Graph, seen: &HostTensor, layout: Layout) -> torsh_ir::Result<(NodeId, HostTensor)> {
    let (ty, dims) = (&seen.ty, seen.ty.shape.to_vec());
    let rank = dims.len();
    let view = |name: &str, graph: &mut Graph, input: NodeId, attrs: &[Attr]| {
        graph.apply(ops::op(name), &[input], Attrs::from(attrs.to_vec()))
    };
    let index =
        |i: usize| -> Vec<usize> { ty.shape.strides().iter().zip(&dims).map(|(&s, &d)| i / s as usize % d).collect() };
    // The input holds what the op is to see, at the place where the view looks for it.
    let place = |shape: &[usize], at: &dyn Fn(&[usize]) -> Vec<usize>| {
        let mut whole = HostTensor::zeros(Type::new(ty.dtype, Shape::of(shape)));
        let strides = whole.ty.shape.strides();
        for i in 0..seen.len() {
            let flat: i64 = at(&index(i)).iter().zip(&strides).map(|(&p, &s)| p as i64 * s).sum();
            whole.set_bits(flat as usize, seen.bits(i));
        }
        whole
    };
    let all: Vec<usize> = (0..rank).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    Ok(match layout {
        Layout::Transposed if rank > 1 => {
            let shape: Vec<usize> = dims.iter().rev().copied().collect();
            let value = place(&shape, &|p| p.iter().rev().copied().collect());
            let input = graph.input(value.ty.clone());
            (view("permute", graph, input, &[reversed[..].into()])?, value)
        }
        Layout::Sliced if rank > 0 => {
            let mut shape: Vec<usize> = dims.iter().map(|d| d + 2).collect();
            shape[rank - 1] = dims[rank - 1] * 2 + 2;
            let step = |d: usize| if d == rank - 1 { 2 } else { 1 };
            let value = place(&shape, &|p| p.iter().enumerate().map(|(d, &q)| 1 + q * step(d)).collect());
            let input = graph.input(value.ty.clone());
            let stops: Vec<usize> = dims.iter().enumerate().map(|(d, &n)| 1 + n * step(d)).collect();
            let steps: Vec<usize> = (0..rank).map(step).collect();
            (view("slice", graph, input, &[vec![1usize; rank][..].into(), stops[..].into(), steps[..].into()])?, value)
        }
        Layout::Flipped if rank > 0 => {
            let value = place(&dims, &|p| p.iter().zip(&dims).map(|(&q, &n)| n - 1 - q).collect());
            let input = graph.input(value.ty.clone());
            (view("flip", graph, input, &[all[..].into()])?, value)
        }
        Layout::Broadcast if rank > 0 && dims[0] > 0 => {
            let mut shape = dims.clone();
            shape[0] = 1;
            let row = HostTensor::from_fn(Type::new(ty.dtype, Shape::of(&shape)), |i| seen.get(i));
            let input = graph.input(row.ty.clone());
            (view("expand", graph, input, &[dims[..].into()])?, row)
        }
        _ => (graph.input(ty.clone()), seen.clone()),
    })
}

/// One op on one sample.
pub fn case(op: Op, sample: &Sample, dtype: DType, layout: Layout) -> torsh_ir::Result<Case> {
    let mut graph = Graph::new();
    let (mut ids, mut inputs) = (Vec::new(), Vec::new());
    for value in sample::inputs(sample, dtype, 7) {
        let (id, input) = operand(&mut graph, &value, layout)?;
        ids.push(id);
        inputs.push(input);
    }
    let node = graph.apply(op, &ids, attrs(sample, dtype))?;
    graph.set_outputs(vec![node]);
    Ok(Case { graph, inputs, donate: Vec::new() })
}

/// Scalars of a sample stand in the dtype under test, unless its operands have dtypes of their own.
fn attrs(sample: &Sample, dtype: DType) -> Attrs {
    if sample.inputs.first().is_some_and(|g| g.dtype.is_some()) {
        return sample.attrs.clone();
    }
    sample
        .attrs
        .iter()
        .map(|a| if let Attr::Scalar(s) = a { Attr::Scalar(s.to_dtype(dtype)) } else { a.clone() })
        .collect()
}

/// The layouts that a sample is tried in.
pub fn layouts(def: &OpDef, sample: usize) -> &'static [Layout] {
    use Layout::{Broadcast, Flipped, Plain, Sliced, Transposed};
    match def.kind {
        // The first samples of each op, the 0-d and the empty ones among them, have no layouts to speak of.
        Kind::Elementwise(_) | Kind::Reduce(_) if sample >= 6 => match sample % 2 {
            0 => &[Plain, Transposed, Broadcast],
            _ => &[Plain, Sliced, Flipped],
        },
        _ => &[Plain],
    }
}
