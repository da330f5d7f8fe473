//! Shape of the gradient graph. Values are checked over all ops, against finite differences, in `tests/`.

use super::*;
use torsh_ir::attr::Scalar;
use torsh_ir::dtype::DType::{self, *};
use torsh_ir::error::Loc;
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::op::{Arity, Op, OpDef};
use torsh_ir::ops::BASE;
use torsh_ir::shape::{Shape, Type};
use torsh_ir::{Attr, Attrs, verify};

fn ty(dtype: DType, shape: &[usize]) -> Type {
    Type::new(dtype, Shape::of(shape))
}

/// A graph under construction together with what is to be differentiated.
fn build(f: impl for<'b> FnOnce(&'b Builder) -> (Val<'b>, Vec<Val<'b>>)) -> (Graph, NodeId, Vec<NodeId>) {
    let b = Builder::new(Graph::new());
    let (out, wrt) = f(&b);
    let (out, wrt) = (out.id(), wrt.into_iter().map(Val::id).collect());
    (b.finish().expect("well formed"), out, wrt)
}

/// Differentiates with a cotangent of ones.
fn backward(graph: Graph, out: NodeId, wrt: &[NodeId]) -> Result<(Graph, Vec<Option<NodeId>>)> {
    let b = Builder::new(graph);
    let ones = b.val(out).full_like(1.0).id();
    grad(b.finish()?, &[(out, ones)], wrt)
}

fn eval(mut graph: Graph, outputs: &[NodeId], inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    graph.set_outputs(outputs.to_vec());
    if graph.ids().all(|id| torsh_ir::ops::find(graph.node(id).op.name).is_some()) {
        verify::graph(&graph).expect("valid");
    }
    let types = graph.input_types();
    let inputs: Vec<_> =
        types.into_iter().zip(inputs).map(|(t, v)| HostTensor::from_fn(t, |i| Scalar::Float(v[i]))).collect();
    eval_graph(&graph, &inputs).expect("evaluates").iter().map(HostTensor::to_f64).collect()
}

fn grads(graph: Graph, out: NodeId, wrt: &[NodeId], inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (graph, found) = backward(graph, out, wrt).expect("differentiable");
    let found: Vec<NodeId> = found.into_iter().map(|g| g.expect("reached")).collect();
    eval(graph, &found, inputs)
}

#[test]
fn paths_that_meet_are_summed() {
    // y = x * x + x, z = y * y: dz/dx = 2 y (2 x + 1), dz/dy = 2 y.
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[]));
        let y = x * x + x;
        (y * y, vec![x, y])
    });
    assert_eq!(grads(g, out, &wrt, &[vec![3.0]]), [[168.0], [24.0]]);
}

#[test]
fn gradients_have_gradients() {
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[]));
        (x * x * x * x, vec![x])
    });
    let (g, first) = backward(g, out, &wrt).unwrap();
    let (g, second) = backward(g, first[0].unwrap(), &wrt).unwrap();
    let (g, third) = backward(g, second[0].unwrap(), &wrt).unwrap();
    let ids = [first[0].unwrap(), second[0].unwrap(), third[0].unwrap()];
    assert_eq!(eval(g, &ids, &[vec![2.0]]), [[32.0], [48.0], [48.0]]);
}

#[test]
fn nodes_keep_their_ids_and_gradients_their_lines() {
    let loc = |line| Some(Loc { file: "model.py".into(), line, note: None });
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[2]));
        b.set_loc(loc(3));
        let y = x.sin();
        b.set_loc(loc(4));
        (y.exp(), vec![x])
    });
    let before = g.clone();
    let (g, found) = backward(g, out, &wrt).unwrap();
    assert!(before.ids().all(|id| g.node(id) == before.node(id)));
    let cos = g.ids().find(|&id| g.node(id).op.name == "cos").unwrap();
    assert_eq!(g.loc(cos), loc(3).as_ref());
    assert_eq!(g.loc(found[0].unwrap()), loc(3).as_ref());
}

#[test]
fn what_no_path_reaches_has_no_gradient() {
    let (g, out, wrt) = build(|b| {
        let (x, y, n) = (b.input(ty(F32, &[2])), b.input(ty(F32, &[2])), b.input(ty(I32, &[2])));
        let through_int = y.cast(I32) + n;
        (x.exp() + through_int.cast(F32), vec![x, y, n])
    });
    let (_, found) = backward(g, out, &wrt).unwrap();
    assert_eq!([found[0].is_some(), found[1].is_some(), found[2].is_some()], [true, false, false]);
}

#[test]
fn only_nodes_between_the_wanted_and_the_outputs_are_visited() {
    // The branch of y is long and not wanted.
    let (g, out, wrt) = build(|b| {
        let (x, y) = (b.input(ty(F32, &[])), b.input(ty(F32, &[])));
        (x * (0..50).fold(y, |v, _| v.sin()), vec![x])
    });
    let (g, _) = backward(g, out, &wrt).unwrap();
    assert!(g.ids().all(|id| g.node(id).op.name != "cos"));
}

#[test]
fn an_op_without_gradient_is_an_error_only_where_one_is_needed() {
    let line = Loc { file: "model.py".into(), line: 5, note: None };
    let (g, out, wrt) = build(|b| {
        let (x, w) = (b.input(ty(F32, &[3])), b.input(ty(F32, &[3])));
        b.set_loc(Some(line.clone()));
        let bits = b.op("bitcast", &[b.op("bitcast", &[x], &[I32.into()])], &[F32.into()]);
        (bits * w, vec![x, w])
    });
    assert!(backward(g.clone(), out, &wrt[1..]).is_ok());
    // Through an integer there is no path at all.
    assert!(backward(g, out, &wrt[..1]).unwrap().1[0].is_none());

    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F32, &[3]));
        b.set_loc(Some(line.clone()));
        (b.op("bitcast", &[x], &[F32.into()]), vec![x])
    });
    let e = backward(g, out, &wrt).expect_err("refused");
    assert_eq!((e.kind(), e.op(), e.location()), (ErrorKind::Runtime, Some("bitcast"), Some(&line)));
    assert!(e.message().starts_with("has no gradient: "), "{e}");
}

#[test]
fn a_cotangent_must_have_its_outputs_type() {
    let (mut g, out, wrt) = build(|b| {
        let x = b.input(ty(F32, &[3]));
        (x.exp(), vec![x])
    });
    let (shape, dtype) = (g.input(ty(F32, &[2])), g.input(ty(F64, &[3])));
    let kind = |ct| grad(g.clone(), &[(out, ct)], &wrt).expect_err("refused").kind();
    assert_eq!((kind(shape), kind(dtype)), (ErrorKind::Shape, ErrorKind::DType));
}

#[test]
fn a_wanted_output_gets_its_own_cotangent() {
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[]));
        let y = x.exp();
        (y, vec![y, y, x])
    });
    assert_eq!(grads(g, out, &wrt, &[vec![0.0]]), [[1.0], [1.0], [1.0]]);
}

/// `a * b + a`, differentiated by its decomposition; `inner` once more removed.
static INNER: OpDef =
    OpDef { name: "inner", arity: Arity::Fixed(2), decompose: Some(|c| c.x[0] * c.x[1] + c.x[0]), ..BASE };
static OUTER: OpDef = OpDef {
    name: "outer",
    arity: Arity::Fixed(2),
    decompose: Some(|c| -c.x[0].builder().apply(Op(&INNER), c.x, Attrs::new())),
    ..BASE
};

#[test]
fn decompositions_are_differentiated() {
    let (g, out, wrt) = build(|b| {
        let (x, y) = (b.input(ty(F64, &[])), b.input(ty(F64, &[])));
        // The decomposition's own product stands in the graph already, and one operand is made from the other.
        let product = x * y;
        (
            b.apply(Op(&OUTER), &[x, y], Attrs::new()) + product + b.apply(Op(&OUTER), &[x, product], Attrs::new()),
            vec![x, y],
        )
    });
    // -(x y + x) + x y - (x x y + x): d/dx = -2 - 2 x y, d/dy = -x^2.
    let (g, found) = backward(g, out, &wrt).unwrap();
    let found = found.into_iter().map(Option::unwrap).collect();
    let g = {
        let mut g = g;
        g.set_outputs(found);
        decompose::expand(g).unwrap()
    };
    let outputs = g.outputs().to_vec();
    assert_eq!(eval(g, &outputs, &[vec![3.0], vec![5.0]]), [[-32.0], [-9.0]]);
}

#[test]
fn an_operand_that_stands_twice_gets_its_gradient_once() {
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[]));
        (b.apply(Op(&INNER), &[x, x], Attrs::new()), vec![x])
    });
    assert_eq!(grads(g, out, &wrt, &[vec![3.0]]), [[7.0]]);
}

#[test]
fn composites_stay_by_name_in_the_forward_part() {
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F64, &[2, 3]));
        (b.op("softmax", &[x], &[Attr::Int(1)]), vec![x])
    });
    let (g, _) = backward(g, out, &wrt).unwrap();
    assert_eq!(g.node(out).op.name, "softmax");
}

#[test]
fn long_chains_take_linear_work_and_no_stack() {
    let n = 100_000;
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F32, &[1]));
        ((0..n).fold(x, |v, _| v.sin()), vec![x])
    });
    let (g, found) = backward(g, out, &wrt).unwrap();
    assert!(found[0].is_some());
    // One cosine and one product per link.
    assert_eq!(g.len(), 3 * n + 2);
}

#[test]
fn many_users_of_one_node_take_linear_work() {
    let n = 20_000;
    let (g, out, wrt) = build(|b| {
        let x = b.input(ty(F32, &[]));
        ((0..n).fold(x, |v, i| v + x.scale(f64::from(i))), vec![x])
    });
    let (g, _) = backward(g, out, &wrt).unwrap();
    assert!(g.len() < 6 * n as usize);
}
