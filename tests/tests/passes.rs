//! The whole pipeline keeps the meaning of graphs: every op's samples, alone, with constant and repeated
//! operands, and their gradients.

use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::op::{Kind, Op, OpDef, Sample, Tolerance};
use torsh_ir::ops::OPS;
use torsh_ir::sample::{self, Random};
use torsh_ir::{Attr, Builder, DType, ErrorKind, Scalar, Shape, Type, Val, text};
use torsh_passes::{Options, autodiff, compile, decompose, simplify};
use torsh_tests::compare::{difference, magnitude};

/// All samples of all ops at all their dtypes.
fn each_sample(mut f: impl FnMut(&'static OpDef, &Sample, DType)) {
    for def in OPS.iter().copied().filter(|d| d.kind != Kind::Input) {
        for s in (def.samples)() {
            for dtype in def.dtypes.iter() {
                // Samples whose attributes fit other dtypes only.
                if sample::graph(Op(def), &s, dtype).is_ok() {
                    f(def, &s, dtype);
                }
            }
        }
    }
}

fn scale(tensors: &[HostTensor]) -> f64 {
    tensors.iter().map(magnitude).fold(0.0, f64::max)
}

/// Both fail, or both give the same within the tolerance. An index out of range is an error only where an
/// output needs what is read there, so simplifying may take the error away.
fn agree(
    want: torsh_ir::Result<Vec<HostTensor>>,
    got: torsh_ir::Result<Vec<HostTensor>>,
    inputs: &[HostTensor],
    tolerance: Tolerance,
) -> Result<(), String> {
    let (want, got) = match (want, got) {
        (Ok(want), Ok(got)) => (want, got),
        (Err(w), Err(g)) if w.kind() == g.kind() => return Ok(()),
        (Err(w), Ok(_)) if w.kind() == ErrorKind::Index => return Ok(()),
        (w, g) => return Err(format!("{w:?} before, {g:?} after")),
    };
    let scale = scale(inputs).max(scale(&want));
    for (i, (w, g)) in want.iter().zip(&got).enumerate() {
        if let Some(what) = difference(g, w, tolerance, scale) {
            return Err(format!("output {i}: {what}"));
        }
    }
    if want.len() == got.len() { Ok(()) } else { Err("number of outputs".into()) }
}

/// Simplifying, decomposing and simplifying again changes no result and comes to rest.
fn check_simplify(graph: &Graph, inputs: &[HostTensor], tolerance: Tolerance) -> Result<(), String> {
    let words = |e: torsh_ir::Error| e.to_string();
    let (first, mut report) = simplify::run_with(graph, 10_000).map_err(words)?;
    let (simple, second) = simplify::run_with(&decompose::expand(first).map_err(words)?, 100_000).map_err(words)?;
    report.fired.extend(second.fired);
    torsh_ir::verify::graph(&simple).map_err(words)?;
    let again = simplify::run(simple.clone()).map_err(words)?;
    if !again.same(&simple) {
        return Err(format!("not at rest:\n{}became\n{}", text::print(&simple), text::print(&again)));
    }
    let near = simplify::rules().any(|r| !r.exact && report.fired.iter().any(|f| f.0 == r.name));
    let allowed = if near { tolerance } else { Tolerance::EXACT };
    agree(eval_graph(graph, inputs), eval_graph(&simple, inputs), inputs, allowed)
        .map_err(|e| format!("{e}\n{}became\n{}", text::print(graph), text::print(&simple)))
}

/// The op applied to inputs, of which those that `replace` answers are made from something else.
fn variant(
    op: Op,
    s: &Sample,
    dtype: DType,
    replace: impl for<'b> Fn(&'b Builder, usize, &Type) -> Option<Val<'b>>,
) -> Option<Graph> {
    let b = Builder::new(Graph::new());
    let operands: Vec<_> = s
        .inputs
        .iter()
        .enumerate()
        .map(|(i, g)| {
            let ty = Type::new(g.dtype.unwrap_or(dtype), Shape::of(&g.shape));
            replace(&b, i, &ty).unwrap_or_else(|| b.input(ty))
        })
        .collect();
    let out = b.apply(op, &operands, s.attrs.clone()).id();
    let mut graph = b.finish().ok()?;
    graph.set_outputs(vec![out]);
    Some(graph)
}

fn values(graph: &Graph, random: &mut Random) -> Vec<HostTensor> {
    use torsh_ir::op::{Gen, Values};
    let kind = |ty: &Type, random: &mut Random| match ty.dtype {
        DType::I64 => Values::Index(3),
        _ if random.below(2) == 0 => Values::Special,
        _ => Values::Normal,
    };
    let types = graph.input_types();
    let of = |ty: &Type, random: &mut Random| {
        let values = kind(ty, random);
        sample::fill(&Gen { dtype: Some(ty.dtype), shape: ty.shape.to_vec(), values }, ty.dtype, random)
    };
    types.iter().map(|ty| of(ty, random)).collect()
}

fn constant<'b>(b: &'b Builder, value: &HostTensor) -> Val<'b> {
    let data = Attr::Bytes(value.to_bytes().into());
    b.op("constant", &[], &[data, value.dtype().into(), value.ty.shape.dims().into()])
}

#[test]
fn simplify_keeps_every_op_with_constant_and_repeated_operands() {
    let numbers = [0.0, -0.0, 1.0, -1.0, 2.0, 0.25, f64::INFINITY, f64::NAN];
    let mut random = Random::new(11);
    let (mut failures, mut turn) = (Vec::new(), 0);
    each_sample(|def, s, dtype| {
        let op = Op(def);
        let mut check = |what: &str, graph: Option<Graph>, random: &mut Random| {
            let Some(graph) = graph else { return };
            let inputs = values(&graph, random);
            if let Err(e) = check_simplify(&graph, &inputs, def.tolerance) {
                failures.push(format!("{} of {dtype}, {what}: {e}\n", def.name));
            }
        };
        check("inputs", variant(op, s, dtype, |_, _, _| None), &mut random);
        for at in 0..s.inputs.len().min(3) {
            // Two numbers a sample, in turn: over all samples and dtypes each op meets each of them.
            turn += 1;
            for number in [numbers[turn % 8], numbers[(turn * 3 + 1) % 8]] {
                let full = |b: &Builder, i: usize, ty: &Type| {
                    (i == at).then(|| b.full(Scalar::Float(number), ty.dtype, &ty.shape).id())
                };
                let graph = variant(op, s, dtype, |b, i, ty| full(b, i, ty).map(|id| b.val(id)));
                check(&format!("operand {at} = {number}"), graph, &mut random);
            }
        }
        let data = sample::inputs(s, dtype, 5);
        check("all constant", variant(op, s, dtype, |b, i, _| Some(constant(b, &data[i]))), &mut random);
        let repeated = variant(op, s, dtype, |b, _, ty| {
            let source: Vec<usize> = ty.shape.iter().enumerate().map(|(d, &n)| if d == 0 { n } else { 1 }).collect();
            Some(b.input(Type::new(ty.dtype, Shape::of(&source))).expand(&ty.shape))
        });
        check("repeated", repeated, &mut random);
    });
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.iter().take(5).cloned().collect::<String>()
    );
}

fn check_compiled(graph: &Graph, inputs: &[HostTensor], tolerance: Tolerance) -> Result<(), String> {
    for fusion in [true, false] {
        let options = Options { fusion, verify: true, ..Options::default() };
        let program = compile(graph, &options).map_err(|e| format!("fusion {fusion}: {e}\n{}", text::print(graph)))?;
        agree(eval_graph(graph, inputs), run_program(&program, inputs), inputs, tolerance)
            .map_err(|e| format!("fusion {fusion}: {e}\n{}{}", text::print(graph), text::program(&program)))?;
    }
    Ok(())
}

#[test]
fn every_op_compiles_to_what_it_means() {
    let mut failures = Vec::new();
    each_sample(|def, s, dtype| {
        let (graph, _) = sample::graph(Op(def), s, dtype).expect("checked by each_sample");
        let inputs = sample::inputs(s, dtype, 3);
        if let Err(e) = check_compiled(&graph, &inputs, def.tolerance) {
            failures.push(format!("{} of {dtype}: {e}\n", def.name));
        }
    });
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.iter().take(5).cloned().collect::<String>()
    );
}

/// The op's gradients for a random cotangent, beside its result.
fn gradient(def: &'static OpDef, s: &Sample, dtype: DType) -> Option<Graph> {
    let (mut graph, out) = sample::graph(Op(def), s, dtype).ok()?;
    if !graph.ty(out).dtype.is_float() {
        return None;
    }
    let ct = graph.input(graph.ty(out).clone());
    let wrt: Vec<NodeId> = graph.inputs()[..s.inputs.len()].to_vec();
    let (mut graph, found) = match autodiff::grad(graph, &[(out, ct)], &wrt) {
        Ok(done) => done,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Runtime, "{}: {e}", def.name);
            return None;
        }
    };
    let mut outputs = vec![out];
    outputs.extend(found.into_iter().flatten());
    graph.set_outputs(outputs);
    Some(graph)
}

#[test]
fn every_gradient_compiles_to_what_it_means() {
    let mut failures = Vec::new();
    let mut random = Random::new(17);
    let mut count = 0;
    each_sample(|def, s, dtype| {
        if !matches!(dtype, DType::F32 | DType::F64 | DType::BF16) {
            return;
        }
        let Some(graph) = gradient(def, s, dtype) else { return };
        count += 1;
        let mut inputs = sample::inputs(s, dtype, 3);
        let ct = graph.input_types().last().expect("the cotangent").clone();
        inputs.push(HostTensor::from_fn(ct, |_| Scalar::Float(random.normal())));
        // Two roundings more or less, as compared with the sizes that go in.
        let tolerance = Tolerance { ulp: 4.0 + def.tolerance.ulp, scaled_eps: 8.0 + def.tolerance.scaled_eps };
        let checked =
            check_simplify(&graph, &inputs, tolerance).and_then(|()| check_compiled(&graph, &inputs, tolerance));
        if let Err(e) = checked {
            failures.push(format!("{} of {dtype}: {e}\n", def.name));
        }
    });
    assert!(count > 300, "only {count} gradients");
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.iter().take(5).cloned().collect::<String>()
    );
}

#[test]
fn gradients_of_gradients_compile_to_what_they_mean() {
    let mut failures = Vec::new();
    each_sample(|def, s, dtype| {
        let small = s.inputs.iter().all(|g| g.shape.iter().product::<usize>() <= 40);
        if dtype != DType::F32 || !small {
            return;
        }
        let Some(first) = gradient(def, s, dtype) else { return };
        let outputs = first.outputs().to_vec();
        let wrt: Vec<NodeId> = first.inputs().to_vec();
        let b = Builder::new(first);
        let seeds: Vec<_> = outputs.iter().map(|&o| (o, b.val(o).full_like(0.5).id())).collect();
        let (mut graph, found) = autodiff::grad(b.finish().expect("well formed"), &seeds, &wrt)
            .unwrap_or_else(|e| panic!("{}: the gradient has no gradient: {e}", def.name));
        graph.set_outputs(outputs.into_iter().chain(found.into_iter().flatten()).collect());
        let inputs = values(&graph, &mut Random::new(23));
        if let Err(e) = check_compiled(&graph, &inputs, Tolerance::scaled(64.0)) {
            failures.push(format!("{} of {dtype}: {e}\n", def.name));
        }
    });
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.iter().take(5).cloned().collect::<String>()
    );
}

#[test]
fn no_decomposition_or_gradient_leaves_a_composite() {
    each_sample(|def, s, dtype| {
        let (graph, _) = sample::graph(Op(def), s, dtype).expect("checked by each_sample");
        for graph in [Some(graph), gradient(def, s, dtype)].into_iter().flatten() {
            let done = decompose::expand(graph).expect("expands");
            let left = done.ids().find(|&id| done.node(id).op.kind == Kind::Composite);
            assert!(left.is_none(), "{} of {dtype} leaves {}", def.name, done.node(left.unwrap_or(NodeId(0))).op.name);
        }
    });
}

#[test]
fn a_node_that_is_its_own_gradient_is_shared() {
    // d exp(x) = exp(x): the gradient graph adds nothing but the product, which is by 1.
    let b = Builder::new(Graph::new());
    let x = b.input(Type::new(DType::F32, Shape::of(&[4])));
    let y = x.exp();
    let ones = y.full_like(1.0).id();
    let (x, y) = (x.id(), y.id());
    let (mut g, found) = autodiff::grad(b.finish().expect("well formed"), &[(y, ones)], &[x]).expect("differentiable");
    g.set_outputs(vec![y, found[0].expect("reached")]);
    let g = simplify::run(g).expect("simplifies");
    let names: Vec<&str> = g.ids().map(|id| g.node(id).op.name).collect();
    assert_eq!(names, ["input", "exp"]);
    assert!(matches!(g.node(g.outputs()[1]), Node { op, .. } if op.name == "exp"));
}
