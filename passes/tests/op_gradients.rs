//! Gradients of every differentiable op against central differences in f64, first and second order, on the
//! op's own samples.
//!
//! Each check is one directional derivative of a random projection of the result, so that its cost does not
//! grow with the number of elements and an error in any of them shows.

use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::op::{Gen, Sample, Values, Vjp};
use torsh_ir::ops::{self, OPS};
use torsh_ir::{Builder, DType, Graph, NodeId, OpDef, Result, Scalar, Shape, Type, Val};
use torsh_passes::autodiff;

/// splitmix64 (Steele et al., OOPSLA 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn values(generator: &Gen, rng: &mut Rng) -> HostTensor {
    let ty = Type::new(generator.dtype.unwrap_or(DType::F64), Shape::of(&generator.shape));
    let n = ty.numel();
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.next() as usize % (i + 1));
    }
    HostTensor::from_fn(ty, |i| match generator.values {
        Values::Normal | Values::Special => Scalar::Float(rng.normal()),
        Values::Range(lo, hi) => Scalar::Float(lo + (hi - lo) * rng.unit()),
        Values::Index(n) => Scalar::Int((rng.next() % n.max(1) as u64) as i64),
        Values::Distinct => Scalar::Float((order[i] as f64 - n as f64 / 2.0) * 0.25),
        Values::Permutation => Scalar::Int(order[i] as i64),
    })
}

/// A graph of inputs to one number: `sum over outputs of <f(x), weights>`.
struct Case {
    graph: Graph,
    /// Inputs that vary.
    x: Vec<NodeId>,
    /// The number.
    value: NodeId,
}

fn dot<'b>(b: &'b Builder, x: Val<'b>) -> Val<'b> {
    let w = b.input(x.ty());
    let dims: Vec<usize> = (0..x.rank()).collect();
    (x * w).sum(&dims).reshape(&[])
}

fn forward(def: &'static OpDef, sample: &Sample, inputs: &[HostTensor]) -> Case {
    let b = Builder::new(Graph::new());
    let x: Vec<_> = inputs.iter().map(|t| b.input(t.ty.clone())).collect();
    let out = b.apply(ops::op(def.name), &x, sample.attrs.clone());
    let value = dot(&b, out).id();
    let x = x.iter().filter(|v| v.dtype().is_float()).map(|v| v.id()).collect();
    Case { graph: b.finish().unwrap(), x, value }
}

/// The case with the gradients of its value as outputs.
fn gradients(case: &Case) -> Result<(Graph, Vec<Option<NodeId>>)> {
    let b = Builder::new(case.graph.clone());
    let one = b.full(Scalar::Float(1.0), DType::F64, &Shape::scalar()).id();
    autodiff::grad(b.finish()?, &[(case.value, one)], &case.x)
}

/// The case whose value is the gradients of another one along fresh weights.
fn differentiated(case: &Case) -> Option<Case> {
    let (graph, grads) = gradients(case).unwrap();
    let b = Builder::new(graph);
    let parts: Vec<Val<'_>> = grads.iter().flatten().map(|&g| dot(&b, b.val(g))).collect();
    let value = parts.into_iter().reduce(|a, c| a + c)?.id();
    Some(Case { graph: b.finish().unwrap(), x: case.x.clone(), value })
}

fn eval(graph: &Graph, outputs: Vec<NodeId>, inputs: &[HostTensor]) -> Vec<HostTensor> {
    let mut graph = graph.clone();
    graph.set_outputs(outputs);
    eval_graph(&graph, inputs).unwrap()
}

/// The directional derivative by the gradient and by a central difference; `None` where the value itself is
/// not finite, as the mean of nothing.
fn check(case: &Case, inputs: &[HostTensor], rng: &mut Rng) -> Option<(f64, f64)> {
    let (graph, grads) = gradients(case).unwrap();
    let mut inputs = inputs.to_vec();
    for ty in &case.graph.input_types()[inputs.len()..] {
        inputs.push(HostTensor::from_fn(ty.clone(), |_| Scalar::Float(rng.normal())));
    }
    let index = |id: NodeId| graph.inputs().iter().position(|&i| i == id).unwrap();
    let (mut up, mut down, mut slope) = (inputs.clone(), inputs.clone(), 0.0);
    const H: f64 = 1e-6;
    for (&x, grad) in case.x.iter().zip(&grads) {
        let i = index(x);
        let d: Vec<f64> = (0..inputs[i].len()).map(|_| rng.normal()).collect();
        for (j, d) in d.iter().enumerate() {
            let at = inputs[i].get(j).as_f64();
            up[i].set(j, Scalar::Float(at + H * d));
            down[i].set(j, Scalar::Float(at - H * d));
        }
        if let Some(grad) = grad {
            let g = eval(&graph, vec![*grad], &inputs).remove(0);
            slope += d.iter().enumerate().map(|(j, d)| d * g.get(j).as_f64()).sum::<f64>();
        }
    }
    let value = |inputs: &[HostTensor]| eval(&case.graph, vec![case.value], inputs)[0].get(0).as_f64();
    let difference = (value(&up) - value(&down)) / (2.0 * H);
    difference.is_finite().then_some((slope, difference))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-5 * (1.0 + a.abs().max(b.abs()))
}

/// Samples larger than this are checked by the op matrix; the interpreter is slow.
const MAX_ELEMENTS: usize = 300;

fn run(part: usize, parts: usize) {
    let mut wrong = Vec::new();
    for def in OPS.iter().skip(part).step_by(parts) {
        if matches!(def.vjp, Vjp::None(_)) || !def.dtypes.contains(DType::F64) {
            continue;
        }
        for (n, sample) in (def.samples)().iter().enumerate() {
            let size = |g: &Gen| g.shape.iter().product::<usize>();
            let fixed = sample.inputs.first().and_then(|g| g.dtype).unwrap_or(DType::F64);
            if !sample.grad || fixed != DType::F64 || sample.inputs.iter().map(size).max() > Some(MAX_ELEMENTS) {
                continue;
            }
            let mut rng = Rng(n as u64 + 1);
            let inputs: Vec<_> = sample.inputs.iter().map(|g| values(g, &mut rng)).collect();
            let case = forward(def, sample, &inputs);
            let mut found = vec![("gradient", check(&case, &inputs, &mut rng))];
            if let Some(second) = differentiated(&case) {
                found.push(("second derivative", check(&second, &inputs, &mut rng)));
            }
            for (what, pair) in found {
                if pair.is_some_and(|(a, b)| !close(a, b)) {
                    wrong.push(format!("{} sample {n}: {what}: {pair:?} of {sample:?}", def.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

// Two threads' worth.
#[test]
fn gradients_match_differences_of_even_ops() {
    run(0, 2);
}

#[test]
fn gradients_match_differences_of_odd_ops() {
    run(1, 2);
}

/// First and second derivative of an elementwise op, each summed against ones, at one point.
fn derivatives(name: &str, attrs: &[torsh_ir::Attr], x: f64) -> (f64, f64) {
    let b = Builder::new(Graph::new());
    let input = b.input(Type::scalar(DType::F64));
    let out = b.op(name, &[input], attrs).id();
    let one = b.full(Scalar::Float(1.0), DType::F64, &Shape::scalar()).id();
    let input = input.id();
    let (graph, first) = autodiff::grad(b.finish().unwrap(), &[(out, one)], &[input]).unwrap();
    let first = first[0].unwrap();
    let (graph, second) = autodiff::grad(graph, &[(first, one)], &[input]).unwrap();
    let at = [HostTensor::from_fn(Type::scalar(DType::F64), |_| Scalar::Float(x))];
    let read = |id: NodeId| eval(&graph, vec![id], &at)[0].get(0).as_f64();
    (read(first), second[0].map_or(0.0, read))
}

#[test]
fn kinks_and_far_tails_have_the_documented_gradients() {
    let real = |v: f64| torsh_ir::Attr::Scalar(Scalar::Float(v));
    assert_eq!(derivatives("relu", &[], 0.0).0, 0.0);
    assert_eq!(derivatives("leaky_relu", &[real(0.1)], 0.0).0, 0.1);
    assert_eq!(derivatives("hardtanh", &[real(-1.0), real(1.0)], 1.0).0, 0.0);
    assert_eq!(derivatives("clamp", &[real(-1.0), real(1.0)], 1.0).0, 1.0);
    assert_eq!(derivatives("clamp", &[real(-1.0), real(1.0)], 1.5).0, 0.0);
    assert_eq!(derivatives("nan_to_num", &[real(0.0), real(0.0), real(0.0)], f64::NAN).0, 0.0);
    // Where an exponential of x overflows, nothing may become NaN.
    let steps = [
        ("softplus", vec![real(1.0), real(20.0)]),
        ("elu", vec![real(1.0)]),
        ("celu", vec![real(1.0)]),
        ("mish", vec![]),
        ("silu", vec![]),
        ("gelu", vec![]),
        ("gelu_tanh", vec![]),
    ];
    for (name, attrs) in steps {
        let (first, second) = derivatives(name, &attrs, 2000.0);
        assert_eq!((first, second), (1.0, 0.0), "{name}");
        assert!(derivatives(name, &attrs, -2000.0).0.abs() < 1e-9, "{name}");
    }
    assert_eq!(derivatives("logsigmoid", &[], -2000.0), (1.0, 0.0));
}

/// Gradient of a reduction over dim 0 of the given values, seeded with one.
fn reduced(name: &str, extra: &[torsh_ir::Attr], x: &[f64]) -> Vec<f64> {
    let b = Builder::new(Graph::new());
    let input = b.input(Type::new(DType::F64, Shape::of(&[x.len()])));
    let attrs: Vec<_> = [torsh_ir::Attr::from(&[0i64][..])].into_iter().chain(extra.iter().cloned()).collect();
    let out = b.op(name, &[input], &attrs).id();
    let one = b.full(Scalar::Float(1.0), DType::F64, &Shape::of(&[1])).id();
    let input = input.id();
    let (graph, grads) = autodiff::grad(b.finish().unwrap(), &[(out, one)], &[input]).unwrap();
    let at = [HostTensor::from_fn(graph.ty(input).clone(), |i| Scalar::Float(x[i]))];
    eval(&graph, vec![grads[0].unwrap()], &at)[0].to_f64()
}

#[test]
fn degenerate_rows_have_finite_gradients() {
    let low = f64::NEG_INFINITY;
    assert_eq!(reduced("logsumexp", &[], &[low, low]), [0.0, 0.0]);
    assert_eq!(reduced("logsumexp", &[], &[low, 3.0]), [0.0, 1.0]);
    assert_eq!(reduced("logsumexp", &[], &[1000.0, 1000.0]), [0.5, 0.5]);
    assert_eq!(reduced("std", &[torsh_ir::Attr::Int(1)], &[4.0, 4.0]), [0.0, 0.0]);
}
