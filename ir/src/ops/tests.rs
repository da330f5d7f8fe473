//! What every op file must state, and that its samples are what it states.

use super::{OPS, find};
use crate::attr::{Attr, AttrKind, Scalar};
use crate::builder::Builder;
use crate::dtype::DType;
use crate::error::ErrorKind;
use crate::graph::Graph;
use crate::interp::{HostTensor, eval_graph};
use crate::op::{Arity, Kind, Op, OpDef, Surface, Vjp, VjpCall};
use crate::sample;
use crate::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use crate::shape::{Shape, Type};
use std::collections::HashSet;

#[test]
fn names_are_words_and_distinct() {
    let mut seen = HashSet::new();
    for def in OPS {
        let word = def.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(word && !def.name.is_empty(), "{:?} is not a lower-case word", def.name);
        for name in std::iter::once(&def.name).chain(def.aliases) {
            assert!(seen.insert(*name), "{name} stands in the registry twice");
        }
        assert_eq!(find(def.name), Some(Op(def)));
    }
}

#[test]
fn every_op_is_documented_with_an_example() {
    for def in OPS {
        let (text, example) = def.doc.split_once("\n\n>>> ").unwrap_or_else(|| panic!("{} has no example", def.name));
        assert!(text.ends_with('.') && text.len() > 5, "{}: {text:?}", def.name);
        assert!(example.contains("torsh.") && example.contains('\n'), "{}: {example:?}", def.name);
    }
}

#[test]
fn every_op_has_a_gradient_or_a_reason() {
    for def in OPS {
        match def.vjp {
            Vjp::Rule(_) => {}
            Vjp::ViaDecompose => assert!(def.decompose.is_some(), "{} has nothing to differentiate", def.name),
            Vjp::None(reason) => assert!(reason.len() > 10, "{}: no gradient, and no reason", def.name),
        }
    }
}

#[test]
fn every_op_has_one_meaning() {
    for def in OPS {
        let ways = (def.eval.is_some(), def.decompose.is_some());
        let expected = match def.kind {
            Kind::Input | Kind::Elementwise(_) => (false, false),
            Kind::Composite => (false, true),
            // Differentiated through the plain composition.
            Kind::Attention | Kind::AttentionGrad => (true, true),
            _ => (true, false),
        };
        assert_eq!(ways, expected, "{}: (eval, decompose)", def.name);
    }
}

#[test]
fn the_scalar_set_is_covered_under_its_own_names() {
    let of = |kind: Kind| OPS.iter().filter(|d| d.kind == kind).map(|d| d.name).collect::<Vec<_>>();
    for &op in UnOp::ALL {
        let name = if op == UnOp::Not { "bitwise_not" } else { op.name() };
        assert_eq!(of(Kind::Elementwise(ScalarOp::Un(op))), [name]);
    }
    for &op in BinOp::ALL {
        assert_eq!(of(Kind::Elementwise(ScalarOp::Bin(op))), [op.name()]);
    }
    for &op in CmpOp::ALL {
        assert_eq!(of(Kind::Elementwise(ScalarOp::Cmp(op))), [op.name()]);
    }
    for &op in ReduceOp::ALL {
        assert_eq!(of(Kind::Reduce(op)), [op.name()]);
    }
    for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
        assert_eq!(of(Kind::Scan(op)).len(), 1);
    }
}

#[test]
fn surfaces_fit_the_operands() {
    for def in OPS {
        let operands = match def.surface {
            Surface::Hidden => continue,
            Surface::Unary { .. } => 1,
            Surface::Binary { .. } => 2,
        };
        assert_eq!(def.arity, Arity::Fixed(operands), "{}", def.name);
        assert!(def.attrs.is_empty(), "{} needs attributes that its surface does not pass", def.name);
    }
}

/// The kinds of sample that every op with operands must have: some, and one of each dtype.
#[test]
fn samples_evaluate_to_the_inferred_type() {
    for def in OPS.iter().filter(|d| d.arity != Arity::Fixed(0)) {
        let samples = (def.samples)();
        assert!(!samples.is_empty(), "{} has no samples", def.name);
        for dtype in def.dtypes.iter() {
            for (i, s) in samples.iter().enumerate() {
                let case = || format!("{} sample {i} {dtype} {s:?}", def.name);
                let (graph, node) = sample::graph(Op(def), s, dtype).unwrap_or_else(|e| panic!("{}: {e}", case()));
                let inputs = sample::inputs(s, dtype, i as u64);
                let out = eval_graph(&graph, &inputs).unwrap_or_else(|e| panic!("{}: {e}", case()));
                assert_eq!(out[0].ty, *graph.ty(node), "{}", case());
            }
        }
    }
}

#[test]
fn floats_of_a_differentiable_op_have_checked_samples() {
    for def in OPS {
        let differentiable = !matches!(def.vjp, Vjp::None(_)) && def.dtypes.contains(DType::F64);
        if differentiable && def.arity != Arity::Fixed(0) {
            assert!((def.samples)().iter().any(|s| s.grad), "{} has no sample with a gradient", def.name);
        }
    }
}

#[test]
fn wrong_calls_are_refused_with_the_op_named() {
    let number = Type::new(DType::F32, Shape::of(&[2, 3]));
    for def in OPS {
        let sample = (def.samples)().into_iter().next();
        let attrs: Vec<Attr> = sample.map(|s| s.attrs.to_vec()).unwrap_or_default();
        // Eleven operands, or none, fit no op with a fixed count; one attribute more fits none at all.
        let mut more = attrs.clone();
        more.push(Attr::Int(0));
        let e = def.infer(&vec![number.clone(); 11], &more).unwrap_err();
        assert_eq!(e.op(), Some(def.name));
        if let Some(spec) = def.attrs.first() {
            let wrong = if spec.kind == AttrKind::Bool { Attr::Int(0) } else { Attr::Bool(true) };
            let mut swapped = attrs.clone();
            if let Some(first) = swapped.first_mut() {
                *first = wrong;
                let types = vec![number.clone(); operand_count(def)];
                assert_eq!(def.infer(&types, &swapped).unwrap_err().kind(), ErrorKind::Value, "{}", def.name);
            }
        }
        for dtype in DType::ALL.into_iter().filter(|&d| !def.dtypes.contains(d)) {
            let types = vec![Type::new(dtype, Shape::of(&[2, 3])); operand_count(def)];
            if !types.is_empty() {
                assert_eq!(def.infer(&types, &attrs).unwrap_err().kind(), ErrorKind::DType, "{} {dtype}", def.name);
            }
        }
    }
}

fn operand_count(def: &OpDef) -> usize {
    match def.arity {
        Arity::Fixed(n) | Arity::AtLeast(n) => n,
    }
}

#[test]
fn elementwise_ops_refuse_other_shapes_and_dtypes() {
    let ty = |d, s: &[usize]| Type::new(d, Shape::of(s));
    let add = find("add").unwrap();
    let shapes = [ty(DType::F32, &[3]), ty(DType::F32, &[3, 1])];
    assert_eq!(add.infer(&shapes, &[]).unwrap_err().kind(), ErrorKind::Shape);
    let dtypes = [ty(DType::F32, &[3]), ty(DType::F64, &[3])];
    assert_eq!(add.infer(&dtypes, &[]).unwrap_err().kind(), ErrorKind::DType);
    let select = find("select").unwrap();
    let number = ty(DType::F32, &[3]);
    let e = select.infer(&[number.clone(), number.clone(), number.clone()], &[]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DType);
    let e = select.infer(&[ty(DType::Bool, &[2]), number.clone(), number], &[]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Shape);
    let bitcast = find("bitcast").unwrap();
    for (from, to) in [(DType::F32, DType::I64), (DType::U8, DType::Bool)] {
        assert_eq!(bitcast.infer(&[ty(from, &[3])], &[to.into()]).unwrap_err().kind(), ErrorKind::DType);
    }
}

#[test]
fn dims_are_checked() {
    let x = [Type::new(DType::F32, Shape::of(&[2, 3]))];
    let dims = |d: &[i64]| [Attr::from(d)];
    for name in ["sum", "prod", "amax", "amin", "argmax", "argmin"] {
        let op = find(name).unwrap();
        assert_eq!(op.infer(&x, &dims(&[2])).unwrap_err().kind(), ErrorKind::Index, "{name}");
        assert_eq!(op.infer(&x, &dims(&[-1])).unwrap_err().kind(), ErrorKind::Index, "{name}");
        assert_eq!(op.infer(&x, &dims(&[1, 1])).unwrap_err().kind(), ErrorKind::Value, "{name}");
        assert_eq!(op.infer(&x, &dims(&[1])).unwrap().shape.dims(), [2, 1]);
    }
    for name in ["argmax", "argmin"] {
        let op = find(name).unwrap();
        assert_eq!(op.infer(&x, &dims(&[0, 1])).unwrap_err().kind(), ErrorKind::Value);
        assert_eq!(op.infer(&x, &dims(&[])).unwrap_err().kind(), ErrorKind::Value);
        assert_eq!(op.infer(&x, &dims(&[0])).unwrap().dtype, DType::I64);
    }
    for name in ["cumsum", "cumprod", "cummax", "cummin"] {
        let op = find(name).unwrap();
        assert_eq!(op.infer(&x, &[Attr::Int(2)]).unwrap_err().kind(), ErrorKind::Index, "{name}");
        assert_eq!(op.infer(&[Type::scalar(DType::F32)], &[Attr::Int(0)]).unwrap_err().kind(), ErrorKind::Index);
    }
}

/// The gradient of `sum(out * ct)` by the rule alone, evaluated.
fn pull_back(name: &str, attrs: &[Attr], inputs: &[HostTensor], ct: f64) -> Vec<Option<Vec<f64>>> {
    let b = Builder::new(Graph::new());
    let x: Vec<_> = inputs.iter().map(|t| b.input(t.ty.clone())).collect();
    let out = b.op(name, &x, attrs);
    let Vjp::Rule(rule) = find(name).unwrap().vjp else { panic!("{name} has no rule") };
    let found = rule(&VjpCall { x: &x, attrs, out, ct: out.full_like(ct) });
    let ids: Vec<_> = found.into_iter().map(|v| v.map(|v| v.id())).collect();
    let mut graph = b.finish().unwrap();
    graph.set_outputs(ids.iter().flatten().copied().collect());
    let mut values = eval_graph(&graph, inputs).unwrap().into_iter();
    ids.iter().map(|id| id.and_then(|_| values.next()).map(|t| t.to_f64())).collect()
}

fn vector(values: &[f64]) -> HostTensor {
    HostTensor::from_fn(Type::new(DType::F64, Shape::of(&[values.len()])), |i| Scalar::Float(values[i]))
}

#[test]
fn gradients_at_kinks_and_poles_are_pytorchs() {
    let nan = f64::NAN;
    let grad = |name, x: &[&[f64]]| pull_back(name, &[], &x.iter().map(|v| vector(v)).collect::<Vec<_>>(), 1.0);
    assert_eq!(grad("abs", &[&[-2.0, 0.0, 3.0]]), [Some(vec![-1.0, 0.0, 1.0])]);
    assert_eq!(grad("sign", &[&[-2.0, 0.0]]), [Some(vec![0.0, 0.0])]);
    let (a, b): (&[f64], &[f64]) = (&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]);
    assert_eq!(grad("maximum", &[a, b]), [Some(vec![0.0, 0.5, 1.0]), Some(vec![1.0, 0.5, 0.0])]);
    assert_eq!(grad("minimum", &[a, b]), [Some(vec![1.0, 0.5, 0.0]), Some(vec![0.0, 0.5, 1.0])]);
    // Base and exponent zero, base zero alone, exponent zero of NaN, a negative base.
    let [da, db] = &grad("pow", &[&[0.0, 0.0, nan, -2.0], &[0.0, 2.0, 0.0, 3.0]])[..] else { panic!() };
    let (da, db) = (da.as_ref().unwrap(), db.as_ref().unwrap());
    assert_eq!(da[..], [0.0, 0.0, 0.0, 12.0]);
    assert_eq!(db[..2], [0.0, 0.0]);
    assert!(db[2].is_nan() && db[3].is_nan());
    assert_eq!(grad("sqrt", &[&[0.0, 4.0]]), [Some(vec![f64::INFINITY, 0.25])]);
    assert_eq!(grad("expm1", &[&[-50.0]]), [Some(vec![(-50f64).exp()])]);
}

#[test]
fn equal_extremes_share_the_gradient() {
    let x = [vector(&[1.0, 4.0, 4.0, 0.0])];
    let dims = [Attr::from(&[0i64][..])];
    assert_eq!(pull_back("amax", &dims, &x, 3.0), [Some(vec![0.0, 1.5, 1.5, 0.0])]);
    assert_eq!(pull_back("amin", &dims, &x, 3.0), [Some(vec![0.0, 0.0, 0.0, 3.0])]);
    // The last of equal ones is the running maximum.
    assert_eq!(pull_back("cummax", &[Attr::Int(0)], &x, 1.0), [Some(vec![1.0, 1.0, 2.0, 0.0])]);
    let x = [vector(&[1.0, f64::NAN, 4.0])];
    assert_eq!(pull_back("cummax", &[Attr::Int(0)], &x, 1.0), [Some(vec![1.0, 2.0, 0.0])]);
}

#[test]
fn products_with_zeros_have_exact_gradients() {
    let dims = [Attr::from(&[0i64][..])];
    for (x, want) in [
        (vec![2.0, 0.0, 5.0], vec![0.0, 10.0, 0.0]),
        (vec![0.0, 0.0, 5.0], vec![0.0, 0.0, 0.0]),
        (vec![2.0, 3.0, 5.0], vec![15.0, 10.0, 6.0]),
    ] {
        assert_eq!(pull_back("prod", &dims, &[vector(&x)], 1.0), [Some(want)]);
    }
    // d/dx_i of x0 + x0 x1 + x0 x1 x2 + x0 x1 x2 x3.
    let x = [2.0, 0.0, 5.0, 3.0];
    let want = vec![1.0, 2.0 * (1.0 + 5.0 + 15.0), 0.0, 0.0];
    assert_eq!(pull_back("cumprod", &[Attr::Int(0)], &[vector(&x)], 1.0), [Some(want)]);
}

#[test]
fn constant_exponents_give_polynomial_gradients() {
    for (k, want) in [(0.0, 0.0), (1.0, 1.0), (2.0, -6.0), (3.0, 27.0)] {
        let b = Builder::new(Graph::new());
        let x = b.input(Type::scalar(DType::F64));
        let exponent = b.full(Scalar::Float(k), DType::F64, &Shape::scalar()).reshape(&[1]).reshape(&[]);
        let out = x.pow(exponent);
        let Vjp::Rule(rule) = find("pow").unwrap().vjp else { panic!() };
        let found = rule(&VjpCall { x: &[x, exponent], attrs: &[], out, ct: x.full_like(1.0) });
        let id = found[0].unwrap().id();
        drop(found);
        let mut graph = b.finish().unwrap();
        graph.set_outputs(vec![id]);
        let input = HostTensor::from_fn(Type::scalar(DType::F64), |_| Scalar::Float(-3.0));
        assert_eq!(eval_graph(&graph, &[input]).unwrap()[0].to_f64(), [want]);
    }
}

#[test]
fn scans_keep_every_partial_result() {
    let run = |name: &str, x: &HostTensor, dim: i64| {
        let b = Builder::new(Graph::new());
        let v = b.input(x.ty.clone());
        let id = b.op(name, &[v], &[Attr::Int(dim)]).id();
        let mut graph = b.finish().unwrap();
        graph.set_outputs(vec![id]);
        eval_graph(&graph, std::slice::from_ref(x)).unwrap()[0].to_f64()
    };
    let x = HostTensor::from_fn(Type::new(DType::I8, Shape::of(&[2, 3])), |i| Scalar::Int([1, 5, 3, 100, 2, 7][i]));
    assert_eq!(run("cumsum", &x, 1), [1.0, 6.0, 9.0, 100.0, 102.0, 109.0]);
    assert_eq!(run("cumsum", &x, 0), [1.0, 5.0, 3.0, 101.0, 7.0, 10.0]);
    assert_eq!(run("cumprod", &x, 0), [1.0, 5.0, 3.0, 100.0, 10.0, 21.0]);
    assert_eq!(run("cummax", &x, 1), [1.0, 5.0, 5.0, 100.0, 100.0, 100.0]);
    assert_eq!(run("cummin", &x, 1), [1.0, 1.0, 1.0, 100.0, 2.0, 2.0]);
    // Accumulated in f64: the third partial sum of f32 keeps what f32 would lose.
    let x = HostTensor::from_fn(Type::new(DType::F32, Shape::of(&[3])), |i| Scalar::Float([1e8, 1.0, -1e8][i]));
    assert_eq!(run("cumsum", &x, 0), [1e8, 1e8, 1.0]);
}
