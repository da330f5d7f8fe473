//! The op matrix: every op of the registry, in every dtype it claims, on each of its samples, against the
//! interpreter: the lowered program and machine code, fused and unfused, at each instruction set level and
//! schedule in turn, and gradients. Elementwise ops and reductions run once more with operands that are
//! transposed, sliced, reversed and broadcast views.

use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::HostTensor;
use torsh_ir::op::{Gen, Kind, Op, OpDef, Sample, Values};
use torsh_ir::{Attr, Attrs, DType, Shape, Type, ops, sample};
use torsh_tests::fuzz::Case;
use torsh_tests::fuzz::check::{Backend, backends, check, check_all};

/// How an operand reaches the op.
#[derive(Copy, Clone, PartialEq, Debug)]
enum Layout {
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
fn operand(graph: &mut Graph, seen: &HostTensor, layout: Layout) -> torsh_ir::Result<(NodeId, HostTensor)> {
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

fn case(op: Op, sample: &Sample, dtype: DType, layout: Layout) -> torsh_ir::Result<Case> {
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

/// Runs part `shard` of `shards` of the matrix, each case on the backends that `choose` picks of all for its number;
/// returns how many cases ran.
fn run(shard: usize, shards: usize, choose: fn(&[Backend], usize) -> &[Backend]) -> usize {
    let backends = backends();
    assert!(backends.iter().any(|b| b.executor.target().isa != "interpreter"), "no CPU backend");
    let (mut cases, mut failures) = (0, Vec::new());
    for def in ops::OPS.iter().skip(shard).step_by(shards) {
        for dtype in def.dtypes.iter() {
            for (i, sample) in (def.samples)().iter().enumerate() {
                for layout in layouts(def, i) {
                    cases += 1;
                    if let Err(e) = one(def, sample, dtype, *layout, choose(&backends, cases)) {
                        failures.push(format!("{} of {dtype}, sample {i}, {layout:?}: {e}", def.name));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
    cases
}

/// One backend a case, in turn.
fn pick(backends: &[Backend], n: usize) -> &[Backend] {
    let at = n % backends.len();
    &backends[at..=at]
}

fn layouts(def: &OpDef, sample: usize) -> &'static [Layout] {
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

fn one(def: &'static OpDef, sample: &Sample, dtype: DType, layout: Layout, backends: &[Backend]) -> Result<(), String> {
    let case = case(Op(def), sample, dtype, layout).map_err(|e| e.to_string())?;
    // Gradients are the same ops again; one narrow and one wide dtype of each show them.
    if matches!(dtype, DType::F32 | DType::BF16) && layout == Layout::Plain {
        return check_all(&case, backends).map_err(|(_, failure)| failure.to_string());
    }
    check(&case, backends).map_err(|failure| failure.to_string())
}

#[test]
fn matrix_0() {
    assert!(run(0, 4, pick) > 500);
}
#[test]
fn matrix_1() {
    assert!(run(1, 4, pick) > 500);
}
#[test]
fn matrix_2() {
    assert!(run(2, 4, pick) > 500);
}
#[test]
fn matrix_3() {
    assert!(run(3, 4, pick) > 500);
}

#[test]
#[ignore = "minutes: every level and schedule for each case"]
fn matrix_everywhere() {
    assert!(run(0, 1, |all, _| all) > 2000);
}

#[test]
fn layouts_show_the_op_the_same_values() {
    let sample = Sample::new(vec![Gen::of(&[3, 4, 5], Values::Distinct)]);
    let seen = sample::inputs(&sample, DType::F32, 1);
    for layout in [Layout::Plain, Layout::Transposed, Layout::Sliced, Layout::Flipped] {
        let mut graph = Graph::new();
        let (id, input) = operand(&mut graph, &seen[0], layout).unwrap_or_else(|e| panic!("{layout:?}: {e}"));
        graph.set_outputs(vec![id]);
        let got = torsh_ir::interp::eval_graph(&graph, &[input]).unwrap_or_else(|e| panic!("{layout:?}: {e}"));
        assert_eq!(got[0], seen[0], "{layout:?}");
    }
}
