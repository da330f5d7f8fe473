//! Lowered programs mean what their graphs mean: for every op's samples, and for random compositions, with
//! and without fusion, donated inputs included. Fused and unfused programs give the same bits.

use torsh_ir::Type;
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::op::{Kind, Op};
use torsh_ir::ops;
use torsh_ir::program::Program;
use torsh_passes::{Options, decompose, lower};
#[path = "../../tests/src/values.rs"]
#[allow(dead_code, reason = "shared")]
mod values;
use values::{Rng, tensor};

fn options(fusion: bool) -> Options {
    Options { fusion, ..Options::default() }
}

/// Lowers, verifies and runs; every result must equal the graph's bits.
fn check(graph: &Graph, inputs: &[HostTensor], options: &Options) -> Result<Program, String> {
    let program = lower::run(graph, options).map_err(|e| e.to_string())?;
    program.verify().map_err(|e| e.to_string())?;
    match (eval_graph(graph, inputs), run_program(&program, inputs)) {
        (Ok(want), Ok(got)) => match got.iter().zip(&want).position(|(g, w)| !same_bits(g, w)) {
            None if got.len() == want.len() => Ok(program),
            o => Err(format!("output {o:?} differs\n{}", torsh_ir::text::program(&program))),
        },
        (Err(_), Err(_)) => Ok(program),
        (want, got) => Err(format!("the graph gives {want:?}, the program {got:?}")),
    }
}

/// Equal bits; any NaN equals any other, since operations need not keep its payload.
fn same_bits(a: &HostTensor, b: &HostTensor) -> bool {
    let nan = |t: &HostTensor, i: usize| t.dtype().is_float() && t.get(i).as_f64().is_nan();
    a.ty == b.ty && (0..a.len()).all(|i| a.bits(i) == b.bits(i) || (nan(a, i) && nan(b, i)))
}

fn sample_graph(op: Op, types: &[Type], attrs: torsh_ir::Attrs) -> Option<Graph> {
    let mut graph = Graph::new();
    let inputs: Vec<NodeId> = types.iter().map(|t| graph.input(t.clone())).collect();
    let out = graph.apply(op, &inputs, attrs).ok()?;
    graph.set_outputs(vec![out]);
    decompose::expand(graph).ok()
}

#[test]
fn every_sample_of_every_op() {
    let mut rng = Rng::new(7);
    let (mut ran, mut failures) = (0, Vec::new());
    for def in ops::OPS {
        let op = Op(def);
        if op.kind == Kind::Input {
            continue;
        }
        for dtype in op.dtypes.iter() {
            for (s, sample) in (op.samples)().into_iter().enumerate() {
                let inputs: Vec<HostTensor> = sample.inputs.iter().map(|g| tensor(g, dtype, &mut rng)).collect();
                let types: Vec<Type> = inputs.iter().map(|t| t.ty.clone()).collect();
                let Some(graph) = sample_graph(op, &types, sample.attrs.clone()) else { continue };
                for fusion in [true, false] {
                    let what = format!("{} of {dtype}, sample {s}, fusion {fusion}", op.name);
                    match check(&graph, &inputs, &options(fusion)) {
                        Err(e) => failures.push(format!("{what}: {e}\n")),
                        Ok(p) if !fusion && p.stats.kernels != p.stats.kernels_unfused => {
                            failures.push(format!(
                                "{what}: {} steps counted as {}",
                                p.stats.kernels, p.stats.kernels_unfused
                            ));
                        }
                        Ok(_) => {}
                    }
                    ran += 1;
                }
            }
        }
    }
    assert!(ran > 500, "only {ran} samples ran");
    assert!(
        failures.is_empty(),
        "{} of {ran} failed:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
}
