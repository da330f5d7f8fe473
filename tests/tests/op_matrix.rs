//! The op matrix: every op of the registry, in every dtype it claims, on each of its samples, against the
//! interpreter: the lowered program and machine code, fused and unfused, at each instruction set level and
//! schedule in turn, and gradients. Elementwise ops and reductions run once more with operands that are
//! transposed, sliced, reversed and broadcast views.

use torsh_ir::graph::Graph;
use torsh_ir::op::{Gen, Op, OpDef, Sample, Values};
use torsh_ir::{DType, ops, sample};
use torsh_tests::fuzz::check::{Backend, backends, check, check_all};
use torsh_tests::matrix::{Layout, case, layouts, operand};

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
