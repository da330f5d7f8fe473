//! Lowered programs mean what their graphs mean: for every op's samples, and for random compositions, with
//! and without fusion, donated inputs included. Fused and unfused programs give the same bits.

use torsh_ir::checks::may_refuse;
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::op::{Kind, Op};
use torsh_ir::ops;
use torsh_ir::program::{BufId, Place, Program, Step, StepOp};
use torsh_ir::{Attr, Builder, DType, Scalar, Shape, Type, Val, wire};
use torsh_passes::{Options, autodiff, compile, decompose, lower};
use torsh_tests::fuzz::make::make;
use torsh_tests::values::{Rng, tensor};

fn options(fusion: bool) -> Options {
    Options { fusion, ..Options::default() }
}

/// Lowers, verifies and runs; every result must equal the graph's bits.
fn check(graph: &Graph, inputs: &[HostTensor], options: &Options) -> Result<Program, String> {
    let program = lower::run(graph, options).map_err(|e| e.to_string())?;
    program.verify().map_err(|e| e.to_string())?;
    round_trip(&program)?;
    match (eval_graph(graph, inputs), run_program(&program, inputs)) {
        (Ok(want), Ok(got)) => match got.iter().zip(&want).position(|(g, w)| !same_bits(g, w)) {
            None if got.len() == want.len() => Ok(program),
            o => Err(format!("output {o:?} differs\n{}", torsh_ir::text::program(&program))),
        },
        (Err(_), Err(_)) => Ok(program),
        (want, got) => Err(format!("the graph gives {want:?}, the program {got:?}")),
    }
}

/// Bytes give the program back, but for what they do not hold.
fn round_trip(program: &Program) -> Result<(), String> {
    let mut held = program.clone();
    held.stats.passes.clear();
    held.steps.iter_mut().for_each(|s| s.loc = None);
    match wire::decode(&wire::encode(program)) {
        Ok(read) if read == held => Ok(()),
        Ok(read) => Err(format!("its bytes are those of\n{}", torsh_ir::text::program(&read))),
        Err(why) => Err(format!("its bytes cannot be read: {why}")),
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

/// The outputs of a graph and the gradients of their sum with respect to all float inputs.
fn with_gradients(graph: Graph) -> Option<Graph> {
    let float = |g: &Graph, ids: &[NodeId]| -> Vec<NodeId> {
        ids.iter().copied().filter(|&i| g.ty(i).dtype.is_float()).collect()
    };
    let (mut outputs, wrt) = (graph.outputs().to_vec(), float(&graph, graph.inputs()));
    let differentiated = float(&graph, &outputs);
    let builder = Builder::new(graph);
    let seeds: Vec<_> = differentiated.iter().map(|&o| (o, builder.val(o).full_like(1.0).id())).collect();
    let (mut graph, found) = autodiff::grad(builder.finish().ok()?, &seeds, &wrt).ok()?;
    outputs.extend(found.into_iter().flatten());
    graph.set_outputs(outputs);
    Some(graph)
}

#[test]
fn random_compositions_and_their_gradients_donated_inputs_included() {
    let mut donated = 0;
    for seed in 0..400 {
        let case = make(seed);
        let mut graphs = vec![(case.graph.clone(), case.donate.clone())];
        graphs.extend(with_gradients(case.graph.clone()).map(|g| (g, Vec::new())));
        for (graph, donate) in graphs {
            let Ok(graph) = decompose::expand(graph) else { continue };
            for fusion in [true, false] {
                let options = Options { donate: donate.clone(), ..options(fusion) };
                match check(&graph, &case.inputs, &options) {
                    Ok(p) => {
                        assert!(in_place_is_safe(&p), "seed {seed}, fusion {fusion}");
                        donated += p.buffers.iter().filter(|b| matches!(b.place, Place::Donated(_))).count();
                    }
                    Err(e) => panic!("seed {seed}, fusion {fusion}: {e}\n{}", torsh_ir::text::print(&graph)),
                }
            }
        }
    }
    // Otherwise the donated runs would show nothing.
    assert!(donated > 20, "only {donated} buffers were donated");
}

/// Kernels that a formula over one [64, 96] operand (and a [96] one) takes.
fn kernels(formula: impl for<'b> Fn(torsh_ir::Val<'b>, torsh_ir::Val<'b>) -> Vec<torsh_ir::Val<'b>>) -> usize {
    let b = Builder::new(Graph::new());
    let f32s = |dims: &[usize]| Type::new(DType::F32, Shape::of(dims));
    let (x, w) = (b.input(f32s(&[64, 96])), b.input(f32s(&[96])));
    let outputs = formula(x, w).iter().map(|v| v.id()).collect();
    let mut graph = b.finish().expect("the formula is well typed");
    graph.set_outputs(outputs);
    let program = compile(&graph, &options(true)).expect("it compiles");
    program.verify().expect("it verifies");
    program.stats.kernels
}

#[test]
fn row_formulas_are_one_kernel() {
    let dim = || torsh_ir::Attr::Int(1);
    assert_eq!(kernels(|x, _| vec![x.builder().op("softmax", &[x], &[dim()])]), 1, "softmax");
    assert_eq!(kernels(|x, _| vec![x.builder().op("log_softmax", &[x], &[dim()])]), 1, "log_softmax");
    let eps = || torsh_ir::Attr::Scalar(torsh_ir::Scalar::Float(1e-5));
    assert_eq!(kernels(|x, w| vec![x.builder().op("layer_norm", &[x, w, w], &[dim(), eps()])]), 1, "layer_norm");
    assert_eq!(kernels(|x, w| vec![(x + w.broadcast_to(&[64, 96])).tanh().scale(0.5)]), 1, "elementwise chain");
    assert_eq!(kernels(|x, _| vec![x.sum(&[0]), x.exp().sum(&[0])]), 1, "two column sums");
    assert_eq!(kernels(|x, _| vec![x.sum(&[1]), x.exp()]), 1, "a row sum and a map");
}

#[test]
fn updates_are_written_in_place() {
    let b = Builder::new(Graph::new());
    let ty = Type::new(DType::F32, Shape::of(&[50]));
    let (p, g) = (b.input(ty.clone()), b.input(ty));
    let out = (p - g.scale(0.1)).id();
    let mut graph = b.finish().expect("well typed");
    graph.set_outputs(vec![out]);
    let donate = Options { donate: vec![(0, 0)], ..options(true) };
    let program = lower::run(&graph, &donate).expect("lowers");
    assert_eq!(program.buffers[program.outputs[0].0 as usize].place, Place::Donated(0));
    assert_eq!((program.peak_bytes, program.arena_bytes, program.steps.len()), (0, 0, 1));
}

/// Whether nothing can fail once a donated input has been overwritten.
fn in_place_is_safe(program: &Program) -> bool {
    let donated = |b: BufId| matches!(program.buffers[b.0 as usize].place, Place::Donated(_));
    let writes = |step: &Step| match &step.op {
        StepOp::Kernel { kernel, args } => kernel.written().any(|p| donated(args[p])),
        StepOp::Dot(dot) => donated(dot.out),
        StepOp::Lib { out, .. } => donated(*out),
    };
    let first = program.steps.iter().position(writes).unwrap_or(program.steps.len());
    let last = may_refuse(program).iter().rposition(|&refuses| refuses);
    last.is_none_or(|last| last <= first)
}

#[test]
fn lookups_that_cannot_fail_do_not_forbid_updates_in_place() {
    let f32s = |n: usize| Type::new(DType::F32, Shape::of(&[n]));
    let of = |name: &str| {
        let b = Builder::new(Graph::new());
        let (p, q, long) = (b.input(f32s(8)), b.input(f32s(8)), b.input(f32s(9)));
        let i = b.input(Type::new(DType::I64, Shape::of(&[8])));
        let lookup = |op: &str, x: Val<'_>, i: Val<'_>| b.op(op, &[b.val(x.id()), b.val(i.id())], &[Attr::Int(0)]);
        let small = |n: i64| b.full(Scalar::Int(n), DType::I64, &Shape::of(&[8]));
        let (before, index) = match name {
            "positions" => (q, b.iota(0, DType::I64, &Shape::of(&[8]))),
            "positions from 1" => (q, b.iota(0, DType::I64, &Shape::of(&[8])) + small(1)),
            "order" => (q, b.op("argsort", &[q], &[Attr::Int(0), Attr::Bool(false)])),
            "remainder" => (q, b.op("remainder", &[i, small(8)], &[])),
            "the same" => (lookup("take", q, i), i),
            "the same in more" => (lookup("take", long, i), i),
            "counted from the front" => (lookup("take", q, i), i.lt(small(0)).select(i + small(8), i)),
            _ => (q, i),
        };
        // The lookup needs the new state.
        let state = p + before;
        let read = lookup(if name.starts_with("counted") { "gather" } else { "take" }, state, index);
        let outputs = vec![state.id(), read.scale(2.0).id()];
        let mut graph = b.finish().expect("well typed");
        graph.set_outputs(outputs);
        let program = lower::run(&graph, &Options { donate: vec![(0, 0)], ..options(true) }).expect("lowers");
        program.verify().expect("verifies");
        assert!(in_place_is_safe(&program), "{name}");
        program.buffers[program.outputs[0].0 as usize].place == Place::Donated(0)
    };
    for name in ["positions", "order", "remainder", "the same", "counted from the front"] {
        assert!(of(name), "{name}");
    }
    for name in ["positions from 1", "the same in more", "another"] {
        assert!(!of(name), "{name}");
    }
}

#[test]
fn ten_thousand_nodes_lower_in_two_seconds() {
    let time = |n: usize| {
        let b = Builder::new(Graph::new());
        let ty = Type::new(DType::F32, Shape::of(&[16, 16]));
        let mut values: Vec<_> = (0..8).map(|_| b.input(ty.clone())).collect();
        let mut rng = Rng::new(3);
        for i in 0..n {
            let near = values.len().min(40);
            let mut pick = || values[values.len() - 1 - rng.below(near)];
            let (x, y) = (pick(), pick());
            values.push(match i % 9 {
                0 => x.dot_general(y, &[], &[], &[1], &[0]),
                1 => x.sum(&[1]).expand(&[16, 16]),
                2 => x.sum(&[0]).expand(&[16, 16]),
                3 => x.permute(&[1, 0]),
                4 => x.tanh(),
                _ => x + y,
            });
        }
        let outputs = values[values.len() - 10..].iter().map(|v| v.id()).collect();
        let mut graph = b.finish().expect("well typed");
        graph.set_outputs(outputs);
        let start = std::time::Instant::now();
        let program = lower::run(&graph, &options(true)).expect("lowers");
        assert!(program.stats.kernels < program.stats.kernels_unfused);
        start.elapsed().as_secs_f64()
    };
    // The best of three, since the machine may be busy; unoptimised builds are not measured.
    let best = (0..3).map(|_| time(10_000)).fold(f64::INFINITY, f64::min);
    assert!(cfg!(debug_assertions) || best < 2.0, "10,000 nodes take {best} s");
}
