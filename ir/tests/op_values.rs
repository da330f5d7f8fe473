//! Views, indexing, contraction and composites against values worked out by hand.

use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::{Attr, Builder, DType, ErrorKind, Graph, Result, Scalar, Shape, Type};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

fn tensor(dtype: DType, shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_fn(Type::new(dtype, Shape::of(shape)), |i| Scalar::Float(values[i]))
}
fn f64s(shape: &[usize], values: &[f64]) -> HostTensor {
    tensor(DType::F64, shape, values)
}
fn i64s(shape: &[usize], values: &[i64]) -> HostTensor {
    HostTensor::from_fn(Type::new(DType::I64, Shape::of(shape)), |i| Scalar::Int(values[i]))
}
fn counting(shape: &[usize]) -> HostTensor {
    HostTensor::from_fn(Type::new(DType::F64, Shape::of(shape)), |i| Scalar::Int(i as i64))
}
fn list(values: &[i64]) -> Attr {
    Attr::from(values)
}
fn real(value: f64) -> Attr {
    Attr::Scalar(Scalar::Float(value))
}

fn apply(name: &str, x: &[HostTensor], attrs: &[Attr]) -> Result<HostTensor> {
    let b = Builder::new(Graph::new());
    let inputs: Vec<_> = x.iter().map(|t| b.input(t.ty.clone())).collect();
    let out = b.op(name, &inputs, attrs).id();
    let mut graph = b.finish()?;
    graph.set_outputs(vec![out]);
    Ok(eval_graph(&graph, x)?.remove(0))
}

#[track_caller]
fn check(name: &str, x: &[HostTensor], attrs: &[Attr], shape: &[usize], want: &[f64]) {
    let got = apply(name, x, attrs).unwrap();
    assert_eq!(got.ty.shape.dims(), shape, "{name}");
    let got = got.to_f64();
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-12 * (1.0 + b.abs());
    assert!(got.len() == want.len() && got.iter().zip(want).all(|(&a, &b)| same(a, b)), "{name}: {got:?} not {want:?}");
}

#[track_caller]
fn refused(name: &str, x: &[HostTensor], attrs: &[Attr], kind: ErrorKind) {
    let e = apply(name, x, attrs).unwrap_err();
    assert_eq!(e.kind(), kind, "{e}");
    assert_eq!(e.op(), Some(name), "{e}");
}

#[test]
fn views() {
    let x = [counting(&[2, 3])];
    check("permute", &x, &[list(&[1, 0])], &[3, 2], &[0., 3., 1., 4., 2., 5.]);
    check("permute", &[counting(&[2, 1, 3])], &[list(&[2, 0, 1])], &[3, 2, 1], &[0., 3., 1., 4., 2., 5.]);
    check("expand", &[f64s(&[2, 1], &[7., 8.])], &[list(&[2, 2])], &[2, 2], &[7., 7., 8., 8.]);
    check("slice", &[counting(&[7])], &[list(&[1]), list(&[6]), list(&[2])], &[3], &[1., 3., 5.]);
    check("slice", &x, &[list(&[1, 0]), list(&[2, 3]), list(&[1, 2])], &[1, 2], &[3., 5.]);
    check("flip", &x, &[list(&[1])], &[2, 3], &[2., 1., 0., 5., 4., 3.]);
    check("flip", &x, &[list(&[0, 1])], &[2, 3], &[5., 4., 3., 2., 1., 0.]);
    check("pad", &[f64s(&[2], &[1., 2.])], &[list(&[1]), list(&[2]), real(-INF)], &[5], &[-INF, 1., 2., -INF, -INF]);
    let border = [list(&[1, 0]), list(&[0, 1]), real(9.0)];
    check("pad", &[f64s(&[1, 2], &[1., 2.])], &border, &[2, 3], &[9., 9., 9., 1., 2., 9.]);
    check("reshape", &x, &[list(&[3, 2])], &[3, 2], &[0., 1., 2., 3., 4., 5.]);
    refused("permute", &x, &[list(&[0])], ErrorKind::Value);
    refused("permute", &x, &[list(&[0, 0])], ErrorKind::Value);
    refused("permute", &x, &[list(&[0, 2])], ErrorKind::Index);
    refused("expand", &x, &[list(&[2, 6])], ErrorKind::Shape);
    refused("expand", &x, &[list(&[2, -1])], ErrorKind::Shape);
    refused("slice", &[counting(&[3])], &[list(&[2]), list(&[1]), list(&[1])], ErrorKind::Index);
    refused("slice", &[counting(&[3])], &[list(&[0]), list(&[4]), list(&[1])], ErrorKind::Index);
    refused("slice", &[counting(&[3])], &[list(&[0]), list(&[3]), list(&[0])], ErrorKind::Index);
    refused("pad", &[counting(&[3])], &[list(&[-1]), list(&[0]), real(0.0)], ErrorKind::Value);
    refused("pad", &[counting(&[3])], &[list(&[i64::MAX]), list(&[1]), real(0.0)], ErrorKind::Limit);
    refused("pad", &[counting(&[3])], &[list(&[1]), list(&[0]), Attr::Scalar(Scalar::Int(0))], ErrorKind::Value);
}

#[test]
fn joins() {
    let (a, b) = (f64s(&[2, 1], &[1., 2.]), f64s(&[2, 2], &[3., 4., 5., 6.]));
    check("concat", &[a.clone(), b.clone()], &[Attr::Int(1)], &[2, 3], &[1., 3., 4., 2., 5., 6.]);
    check("concat", &[f64s(&[0], &[]), f64s(&[1], &[1.])], &[Attr::Int(0)], &[1], &[1.]);
    refused("concat", &[a.clone(), b.clone()], &[Attr::Int(0)], ErrorKind::Shape);
    refused("concat", &[a, i64s(&[2, 1], &[0, 0])], &[Attr::Int(0)], ErrorKind::DType);
    refused("concat", &[], &[Attr::Int(0)], ErrorKind::Value);
    let part = [list(&[1]), list(&[5]), list(&[2])];
    check("slice_scatter", &[counting(&[5]), f64s(&[2], &[8., 9.])], &part, &[5], &[0., 8., 2., 9., 4.]);
    refused("slice_scatter", &[counting(&[5]), f64s(&[3], &[7., 8., 9.])], &part, ErrorKind::Shape);
}

#[test]
fn indexing() {
    let x = f64s(&[3, 2], &[0., 1., 10., 11., 20., 21.]);
    let rows = [Attr::Int(0)];
    check("take", &[x.clone(), i64s(&[3], &[2, -3, 2])], &rows, &[3, 2], &[20., 21., 0., 1., 20., 21.]);
    check("take", &[x.clone(), i64s(&[1], &[-1])], &[Attr::Int(1)], &[3, 1], &[1., 11., 21.]);
    refused("take", &[x.clone(), i64s(&[1], &[3])], &rows, ErrorKind::Index);
    refused("take", &[x.clone(), i64s(&[1], &[-4])], &rows, ErrorKind::Index);
    refused("take", &[x.clone(), i64s(&[1], &[i64::MIN])], &rows, ErrorKind::Index);
    refused("take", &[x.clone(), f64s(&[1], &[0.])], &rows, ErrorKind::DType);
    refused("take", &[x.clone(), i64s(&[1, 1], &[0])], &rows, ErrorKind::Shape);
    check("gather", &[x.clone(), i64s(&[1, 2], &[2, 0])], &rows, &[1, 2], &[20., 1.]);
    check("gather", &[x.clone(), i64s(&[3, 1], &[1, 0, 1])], &[Attr::Int(1)], &[3, 1], &[1., 10., 21.]);
    refused("gather", &[x.clone(), i64s(&[1, 2], &[-1, 0])], &rows, ErrorKind::Index);
    refused("gather", &[x.clone(), i64s(&[1, 3], &[0, 0, 0])], &rows, ErrorKind::Shape);
    let put = |mode: &str| [Attr::Int(0), Attr::from(mode)];
    let args = [f64s(&[3], &[1., 2., 3.]), i64s(&[3], &[2, 0, 2]), f64s(&[3], &[5., 6., 7.])];
    for name in ["scatter", "index_put"] {
        check(name, &args, &put("set"), &[3], &[6., 2., 7.]);
        check(name, &args, &put("add"), &[3], &[7., 2., 15.]);
        check(name, &args, &put("prod"), &[3], &[6., 2., 105.]);
        check(name, &args, &put("amax"), &[3], &[6., 2., 7.]);
        check(name, &args, &put("amin"), &[3], &[1., 2., 3.]);
        refused(name, &args, &put("mean"), ErrorKind::Value);
    }
    let rows = [x.clone(), i64s(&[2], &[-1, 0]), f64s(&[2, 2], &[1., 2., 3., 4.])];
    check("index_put", &rows, &put("add"), &[3, 2], &[3., 5., 10., 11., 21., 23.]);
    let cells = [x.clone(), i64s(&[1, 2], &[1, 2]), f64s(&[1, 2], &[5., 6.])];
    check("scatter", &cells, &put("set"), &[3, 2], &[0., 1., 5., 11., 20., 6.]);
    refused("scatter", &[x, i64s(&[1, 1], &[3]), f64s(&[1, 1], &[0.])], &put("set"), ErrorKind::Index);
}

#[test]
fn sorting_is_stable_and_knows_nan() {
    let x = [f64s(&[6], &[2., NAN, -0.0, 2., 0.0, -INF])];
    let order = |descending: bool| [Attr::Int(0), Attr::Bool(descending)];
    check("argsort", &x, &order(false), &[6], &[5., 2., 4., 0., 3., 1.]);
    check("argsort", &x, &order(true), &[6], &[1., 0., 3., 2., 4., 5.]);
    check("argsort", &[f64s(&[2, 2], &[1., 5., 0., 9.])], &order(false), &[2, 2], &[1., 0., 0., 1.]);
}

#[test]
fn contractions() {
    let dims = |d: [&[i64]; 4]| d.map(list);
    let (a, b) = (counting(&[2, 3]), counting(&[3, 2]));
    check("dot_general", &[a.clone(), b.clone()], &dims([&[], &[], &[1], &[0]]), &[2, 2], &[10., 13., 28., 40.]);
    check("dot_general", &[a.clone(), a.clone()], &dims([&[], &[], &[1], &[1]]), &[2, 2], &[5., 14., 14., 50.]);
    check("dot_general", &[a.clone(), a.clone()], &dims([&[0], &[0], &[1], &[1]]), &[2], &[5., 50.]);
    let outer = [f64s(&[2], &[1., 2.]), f64s(&[2], &[3., 4.])];
    check("dot_general", &outer, &dims([&[], &[], &[], &[]]), &[2, 2], &[3., 4., 6., 8.]);
    let nothing = [f64s(&[1, 0], &[]), f64s(&[0, 2], &[])];
    check("dot_general", &nothing, &dims([&[], &[], &[1], &[0]]), &[1, 2], &[0., 0.]);
    let wraps = [i64s(&[2], &[i64::MAX, 1]), i64s(&[2], &[2, 5])];
    assert_eq!(apply("dot_general", &wraps, &dims([&[], &[], &[0], &[0]])).unwrap().get(0), Scalar::Int(3));
    refused("dot_general", &[a.clone(), b], &dims([&[], &[], &[0], &[0]]), ErrorKind::Shape);
    refused("dot_general", &[a.clone(), a.clone()], &dims([&[0], &[], &[1], &[1]]), ErrorKind::Value);
    refused("dot_general", &[a.clone(), a.clone()], &dims([&[0], &[0], &[0], &[0]]), ErrorKind::Value);
    refused("dot_general", &[a.clone(), a], &dims([&[2], &[0], &[], &[]]), ErrorKind::Index);
}

#[test]
fn reductions() {
    let x = [f64s(&[2, 3], &[1., 2., 6., 4., 4., 4.])];
    check("mean", &x, &[list(&[1])], &[2, 1], &[3., 4.]);
    check("mean", &[f64s(&[0], &[])], &[list(&[0])], &[1], &[NAN]);
    check("var", &x, &[list(&[1]), Attr::Int(1)], &[2, 1], &[7., 0.]);
    check("var", &x, &[list(&[1]), Attr::Int(0)], &[2, 1], &[14. / 3., 0.]);
    check("var", &[f64s(&[1], &[5.])], &[list(&[0]), Attr::Int(1)], &[1], &[NAN]);
    check("std", &x, &[list(&[1]), Attr::Int(1)], &[2, 1], &[7f64.sqrt(), 0.]);
    // Far from zero, where the one-pass formula loses every digit.
    check("var", &[f64s(&[3], &[1e9 + 1., 1e9 + 2., 1e9 + 3.])], &[list(&[0]), Attr::Int(1)], &[1], &[1.]);
    let rows = [f64s(&[4, 2], &[0., 0., -INF, -INF, INF, 1., 1000., 1000.])];
    let two = 2f64.ln();
    check("logsumexp", &rows, &[list(&[1])], &[4, 1], &[two, -INF, INF, 1000. + two]);
    check("logsumexp", &[f64s(&[0], &[])], &[list(&[0])], &[1], &[-INF]);
    // Half sums that overflow f16.
    let half = tensor(DType::F16, &[70_000], &[1.0; 70_000]);
    assert_eq!(apply("mean", &[half], &[list(&[0])]).unwrap().get(0), Scalar::Float(1.0));
}

#[test]
fn normalisations() {
    let x = [f64s(&[2, 2], &[0., 3f64.ln(), 1000., 1000.])];
    check("softmax", &x, &[Attr::Int(1)], &[2, 2], &[0.25, 0.75, 0.5, 0.5]);
    let (quarter, half) = (0.25f64.ln(), 0.5f64.ln());
    check("log_softmax", &x, &[Attr::Int(1)], &[2, 2], &[quarter, 0.75f64.ln(), half, half]);
    check("softmax", &[f64s(&[2], &[-INF, 0.])], &[Attr::Int(0)], &[2], &[0., 1.]);
    refused("softmax", &x, &[Attr::Int(2)], ErrorKind::Index);
    refused("log_softmax", &x, &[Attr::Int(-1)], ErrorKind::Index);
    let norm = |eps: f64| [Attr::Int(1), real(eps)];
    let (w, b) = (f64s(&[2], &[2., 3.]), f64s(&[2], &[10., 20.]));
    let x = f64s(&[1, 2], &[1., 3.]);
    check("layer_norm", std::slice::from_ref(&x), &norm(0.0), &[1, 2], &[-1., 1.]);
    check("layer_norm", &[x.clone(), w.clone()], &norm(0.0), &[1, 2], &[-2., 3.]);
    check("layer_norm", &[x.clone(), w.clone(), b.clone()], &norm(3.0), &[1, 2], &[9., 21.5]);
    check("rms_norm", &[f64s(&[2], &[1., 7.])], &norm(0.0), &[2], &[0.2, 1.4]);
    check("rms_norm", &[f64s(&[2], &[1., 7.]), w.clone()], &norm(0.0), &[2], &[0.4, 4.2]);
    refused("layer_norm", &[x.clone(), f64s(&[3], &[0.; 3])], &norm(0.0), ErrorKind::Shape);
    refused("layer_norm", std::slice::from_ref(&x), &[Attr::Int(3), real(0.0)], ErrorKind::Value);
    refused("layer_norm", std::slice::from_ref(&x), &[Attr::Int(0), real(0.0)], ErrorKind::Value);
    refused("rms_norm", &[x, w, b], &norm(0.0), ErrorKind::Value);
}

#[test]
fn activations() {
    let one = |name: &str, attrs: &[Attr], x: &[f64], want: &[f64]| {
        check(name, &[f64s(&[x.len()], x)], attrs, &[x.len()], want);
    };
    let e = std::f64::consts::E;
    one("relu", &[], &[-1., 0., 2., NAN, INF], &[0., 0., 2., NAN, INF]);
    one("gelu", &[], &[0., 1., -1.], &[0., 0.841_344_746_068_542_9, -0.158_655_253_931_457_05]);
    one("gelu_tanh", &[], &[0., 1.], &[0., 0.841_191_990_607_477_2]);
    one("silu", &[], &[0., 1.], &[0., e / (1. + e)]);
    let soft = |x: f64| x.exp().ln_1p();
    one("softplus", &[real(1.0), real(20.0)], &[0., 1., 21., 1000.], &[2f64.ln(), soft(1.), 21., 1000.]);
    one("softplus", &[real(2.0), real(20.0)], &[1., 10.5], &[soft(2.) / 2., 10.5]);
    one("elu", &[real(2.0)], &[1., 0., -INF, NAN], &[1., 0., -2., NAN]);
    one("celu", &[real(2.0)], &[1., -2.], &[1., 2. * (1. / e - 1.)]);
    one("selu", &[], &[1., 0., -1.], &[1.050_700_987_355_480_5, 0., -1.111_330_737_812_562_7]);
    one("leaky_relu", &[real(0.1)], &[2., -2., NAN], &[2., -0.2, NAN]);
    one("mish", &[], &[0., 1., 1000.], &[0., soft(1.).tanh(), 1000.]);
    one("hardtanh", &[real(-1.0), real(1.0)], &[-3., 0.5, 3., NAN], &[-1., 0.5, 1., NAN]);
    one("hardswish", &[], &[-4., -1., 0., 3., 5.], &[0., -1. / 3., 0., 3., 5.]);
    one("hardsigmoid", &[], &[-4., 0., 1.5, 4.], &[0., 0.5, 0.75, 1.]);
    one("logsigmoid", &[], &[0., -1000., 1000.], &[-(2f64.ln()), -1000., 0.]);
    one("softsign", &[], &[1., -3.], &[0.5, -0.75]);
    refused("celu", &[f64s(&[1], &[0.])], &[real(0.0)], ErrorKind::Value);
    let ints = HostTensor::from_fn(Type::new(DType::I8, Shape::of(&[2])), |i| Scalar::Int(i as i64 * 9 - 5));
    check("relu", &[ints], &[], &[2], &[0., 4.]);
}

#[test]
fn elementwise() {
    let one = |name: &str, attrs: &[Attr], x: &[f64], want: &[f64]| {
        check(name, &[f64s(&[x.len()], x)], attrs, &[x.len()], want);
    };
    let two = |name: &str, a: &[f64], b: &[f64], want: &[f64]| {
        check(name, &[f64s(&[a.len()], a), f64s(&[b.len()], b)], &[], &[a.len()], want);
    };
    one("clamp", &[real(-1.0), real(1.0)], &[-2., 0., 2., NAN], &[-1., 0., 1., NAN]);
    one("clamp", &[real(-INF), real(1.0)], &[-INF, 2.], &[-INF, 1.]);
    one("clamp", &[real(2.0), real(1.0)], &[0., 5.], &[1., 1.]);
    check("clamp", &[i64s(&[2], &[i64::MIN, 7])], &[real(-INF), real(3.0)], &[2], &[i64::MIN as f64, 3.]);
    one("square", &[], &[-3., 0.5], &[9., 0.25]);
    one("frac", &[], &[1.5, -1.25], &[0.5, -0.25]);
    one("deg2rad", &[], &[180.], &[std::f64::consts::PI]);
    one("rad2deg", &[], &[std::f64::consts::PI], &[180.]);
    one("isnan", &[], &[1., NAN, INF], &[0., 1., 0.]);
    one("isinf", &[], &[1., NAN, INF, -INF], &[0., 0., 1., 1.]);
    one("isposinf", &[], &[INF, -INF], &[1., 0.]);
    one("isneginf", &[], &[INF, -INF], &[0., 1.]);
    one("isfinite", &[], &[1., NAN, INF, -INF], &[1., 0., 0., 0.]);
    check("isfinite", &[i64s(&[1], &[i64::MAX])], &[], &[1], &[1.]);
    one("nan_to_num", &[real(0.), real(9.), real(-9.)], &[NAN, INF, -INF, 1.], &[0., 9., -9., 1.]);
    two(
        "hypot",
        &[3., 1e200, INF, NAN, NAN, 0.],
        &[-4., 1e200, NAN, -INF, 1., 0.],
        &[5., 2f64.sqrt() * 1e200, INF, INF, NAN, 0.],
    );
    two("logaddexp", &[0., -INF, INF, 1000.], &[0., -INF, INF, 0.], &[2f64.ln(), -INF, INF, 1000.]);
    two("logaddexp2", &[3., -INF], &[3., 5.], &[4., 5.]);
    two("xlogy", &[0., 0., 2., 0.], &[0., NAN, std::f64::consts::E, INF], &[0., NAN, 2., 0.]);
    two("copysign", &[1., -2., 0.], &[-0.0, 3., -1.], &[-1., 2., -0.0]);
    let ends = [f64s(&[3], &[0., 0., 1e30]), f64s(&[3], &[10., 10., 1.]), f64s(&[3], &[0.25, 0.75, 1.])];
    check("lerp", &ends, &[], &[3], &[2.5, 7.5, 1.]);
    let x = [counting(&[2, 3])];
    check("tril", &x, &[Attr::Int(0)], &[2, 3], &[0., 0., 0., 3., 4., 0.]);
    check("tril", &x, &[Attr::Int(1)], &[2, 3], &[0., 1., 0., 3., 4., 5.]);
    check("triu", &x, &[Attr::Int(0)], &[2, 3], &[0., 1., 2., 0., 4., 5.]);
    check("triu", &x, &[Attr::Int(-1)], &[2, 3], &[0., 1., 2., 3., 4., 5.]);
    check("triu", &x, &[Attr::Int(i64::MAX)], &[2, 3], &[0.; 6]);
    check("tril", &x, &[Attr::Int(i64::MIN)], &[2, 3], &[0.; 6]);
    refused("tril", &[counting(&[3])], &[Attr::Int(0)], ErrorKind::Shape);
    check("one_hot", &[i64s(&[2], &[1, -1])], &[Attr::Int(2)], &[2, 2], &[0., 1., 0., 0.]);
    refused("one_hot", &[i64s(&[1], &[0])], &[Attr::Int(-1)], ErrorKind::Value);
}

#[test]
fn losses() {
    let pair = [f64s(&[3], &[1., 2., 5.]), f64s(&[3], &[1., 4., 1.])];
    let by = |reduction: &str| [Attr::from(reduction)];
    check("mse_loss", &pair, &by("none"), &[3], &[0., 4., 16.]);
    check("mse_loss", &pair, &by("sum"), &[], &[20.]);
    check("mse_loss", &pair, &by("mean"), &[], &[20. / 3.]);
    check("l1_loss", &pair, &by("mean"), &[], &[2.]);
    refused("l1_loss", &pair, &by("median"), ErrorKind::Value);
    let with = |a: Attr| [Attr::from("none"), a];
    check("smooth_l1_loss", &pair, &with(real(3.0)), &[3], &[0., 2. / 3., 2.5]);
    check("smooth_l1_loss", &pair, &with(real(0.0)), &[3], &[0., 2., 4.]);
    check("huber_loss", &pair, &with(real(3.0)), &[3], &[0., 2., 7.5]);
    refused("huber_loss", &pair, &with(real(0.0)), ErrorKind::Value);
    refused("smooth_l1_loss", &pair, &with(real(NAN)), ErrorKind::Value);
    let two = 2f64.ln();
    let coins = [f64s(&[3], &[0.5, 1., 0.]), f64s(&[3], &[1., 1., 1.])];
    check("binary_cross_entropy", &coins, &by("none"), &[3], &[two, 0., 100.]);
    let scores = [f64s(&[3], &[0., 1000., -1000.]), f64s(&[3], &[0.5, 1., 1.])];
    check("binary_cross_entropy_with_logits", &scores, &by("none"), &[3], &[two, 0., 1000.]);
    let weighted = [scores[0].clone(), scores[1].clone(), f64s(&[3], &[3., 3., 3.])];
    check("binary_cross_entropy_with_logits", &weighted, &by("none"), &[3], &[2. * two, 0., 3000.]);
    let logs = [f64s(&[2], &[-1., -2.]), f64s(&[2], &[0., 1.])];
    check("kl_div", &logs, &with(Attr::Bool(false)), &[2], &[0., 2.]);
    check("kl_div", &logs, &with(Attr::Bool(true)), &[2], &[1., 3. * std::f64::consts::E]);
}

#[test]
fn class_losses() {
    let logs = f64s(&[3, 2], &[-1., -2., -3., -4., -5., -6.]);
    let nll = |reduction: &str, ignore: i64| [Attr::from(reduction), Attr::Int(ignore)];
    let args = [logs.clone(), i64s(&[3], &[1, 0, 1])];
    check("nll_loss", &args, &nll("none", -100), &[3], &[2., 3., 6.]);
    check("nll_loss", &args, &nll("mean", -100), &[], &[11. / 3.]);
    check("nll_loss", &args, &nll("mean", 1), &[], &[3.]);
    check("nll_loss", &args, &nll("sum", 0), &[], &[8.]);
    let weighted = [logs.clone(), i64s(&[3], &[1, 0, 1]), f64s(&[2], &[2., 0.5])];
    check("nll_loss", &weighted, &nll("none", -100), &[3], &[1., 6., 3.]);
    check("nll_loss", &weighted, &nll("mean", -100), &[], &[10. / 3.]);
    check("nll_loss", &[logs.clone(), i64s(&[3], &[-100, 1, -100])], &nll("none", -100), &[3], &[0., 4., 0.]);
    for bad in [2, -1] {
        let e = apply("nll_loss", &[logs.clone(), i64s(&[3], &[0, bad, 0])], &nll("none", -100)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Index);
    }
    let all_ignored = [logs.clone(), i64s(&[3], &[7, 7, 7])];
    check("nll_loss", &all_ignored, &nll("mean", 7), &[], &[NAN]);
    refused("nll_loss", &[logs.clone(), i64s(&[2], &[0, 0])], &nll("mean", 0), ErrorKind::Shape);
    refused("nll_loss", &[logs.clone(), f64s(&[3], &[0.; 3])], &nll("mean", 0), ErrorKind::DType);
    refused("nll_loss", &[f64s(&[], &[0.]), i64s(&[], &[0])], &nll("mean", 0), ErrorKind::Shape);

    // Probabilities 1/4 and 3/4.
    let (l0, l1) = (0.25f64.ln(), 0.75f64.ln());
    let ce = |reduction: &str, smoothing: f64| [Attr::from(reduction), Attr::Int(-100), real(smoothing)];
    let row = [0., 3f64.ln()];
    check("cross_entropy", &[f64s(&[2], &row), i64s(&[], &[1])], &ce("mean", 0.0), &[], &[-l1]);
    let args = [f64s(&[1, 2], &row), i64s(&[1], &[0])];
    check("cross_entropy", &args, &ce("none", 0.0), &[1], &[-l0]);
    check("cross_entropy", &args, &ce("none", 0.2), &[1], &[-0.8 * l0 - 0.1 * (l0 + l1)]);
    check("cross_entropy", &args, &ce("none", 1.0), &[1], &[-0.5 * (l0 + l1)]);
    let weighted = [args[0].clone(), args[1].clone(), f64s(&[2], &[2., 3.])];
    check("cross_entropy", &weighted, &ce("mean", 0.0), &[], &[-l0]);
    let smooth = -0.8 * 2. * l0 - 0.1 * (2. * l0 + 3. * l1);
    check("cross_entropy", &weighted, &ce("sum", 0.2), &[], &[smooth]);
    check("cross_entropy", &weighted, &ce("mean", 0.2), &[], &[smooth / 2.]);
    refused("cross_entropy", &args, &ce("mean", 1.5), ErrorKind::Value);
    // [N, C, d1]: classes along dim 1.
    let image = [f64s(&[1, 2, 2], &[0., 3f64.ln(), 3f64.ln(), 0.]), i64s(&[1, 2], &[0, 0])];
    check("cross_entropy", &image, &ce("none", 0.0), &[1, 2], &[-l0, -l1]);
    // A class of probability 0 costs infinitely much only where it is the target.
    let certain = [f64s(&[2, 2], &[0., -INF, 0., -INF]), i64s(&[2], &[0, 1])];
    check("cross_entropy", &certain, &ce("none", 0.0), &[2], &[0., INF]);
}

#[test]
fn hostile_sizes_are_refused_before_anything_is_allocated() {
    // The largest size that can be addressed at all.
    let huge = (i64::MAX / 8) as usize;
    let infer = |name: &str, shapes: &[&[usize]], attrs: &[Attr]| {
        let types: Vec<_> = shapes.iter().map(|s| Type::new(DType::F32, Shape::of(s))).collect();
        torsh_ir::ops::op(name).infer(&types, attrs)
    };
    let kind = |r: Result<Type>| r.unwrap_err().kind();
    assert_eq!(kind(infer("concat", &[&[0, huge], &[0, huge]], &[Attr::Int(1)])), ErrorKind::Limit);
    assert_eq!(kind(infer("expand", &[&[1, 1]], &[list(&[i64::MAX, 2])])), ErrorKind::Limit);
    assert_eq!(kind(infer("dot_general", &[&[1 << 40], &[1 << 40]], &[(); 4].map(|()| list(&[])))), ErrorKind::Limit);
    assert!(infer("slice", &[&[0, huge]], &[list(&[0, 0]), list(&[0, i64::MAX / 8]), list(&[1, i64::MAX])]).is_ok());
    assert!(infer("var", &[&[3]], &[list(&[0]), Attr::Int(i64::MIN)]).is_ok());
    assert_eq!(kind(infer("layer_norm", &[&[3]], &[Attr::Int(i64::MIN), real(0.0)])), ErrorKind::Value);
    assert!(infer("tril", &[&[0, huge]], &[Attr::Int(i64::MIN)]).is_ok());
}
