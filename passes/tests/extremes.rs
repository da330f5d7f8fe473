//! Graphs at the edges: nothing in, nothing out, no elements beside large sizes, no dims,
//! as many dims as the limits allow, outputs that are inputs or constants.

use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::{Attr, Builder, DType, ErrorKind, Scalar, Shape, Type, Val, text};
use torsh_passes::{Options, compile};

fn check(f: impl for<'b> FnOnce(&'b Builder) -> Vec<Val<'b>>) {
    let b = Builder::new(Graph::new());
    let outputs: Vec<NodeId> = f(&b).into_iter().map(Val::id).collect();
    let mut graph = b.finish().expect("well formed");
    graph.set_outputs(outputs);
    let types = graph.input_types();
    let inputs: Vec<_> = types.into_iter().map(|ty| HostTensor::from_fn(ty, |i| Scalar::Int(i as i64 % 3))).collect();
    let want = eval_graph(&graph, &inputs).expect("evaluates");
    for fusion in [true, false] {
        let options = Options { fusion, verify: true, ..Options::default() };
        let program = compile(&graph, &options).unwrap_or_else(|e| panic!("{e}\n{}", text::print(&graph)));
        let got = run_program(&program, &inputs).unwrap_or_else(|e| panic!("{e}\n{}", text::program(&program)));
        assert_eq!(got, want, "fusion {fusion}\n{}{}", text::print(&graph), text::program(&program));
    }
}

fn input<'b>(b: &'b Builder, dtype: DType, shape: &[usize]) -> Val<'b> {
    b.input(Type::new(dtype, Shape::of(shape)))
}

#[test]
fn nothing() {
    check(|_| vec![]);
    check(|b| {
        input(b, DType::F32, &[4]);
        vec![]
    });
    check(|b| vec![b.full(Scalar::Float(2.5), DType::F64, &Shape::scalar())]);
}

#[test]
fn outputs_that_nothing_computes() {
    check(|b| {
        let x = input(b, DType::I32, &[3]);
        let c = b.full(Scalar::Int(7), DType::U8, &Shape::of(&[2, 2]));
        let i = b.iota(0, DType::F16, &Shape::of(&[5]));
        let data = Attr::Bytes(vec![1, 2, 3].into());
        let d = b.op("constant", &[], &[data, DType::U8.into(), Attr::from(&[3i64][..])]);
        vec![x, c, x, i, c, d, x.reshape(&[3, 1]), x.reshape(&[3, 1]).expand(&[3, 2]), x.flip(&[0]), d, i]
    });
}

#[test]
fn no_dims() {
    check(|b| {
        let (x, p) = (input(b, DType::F32, &[]), input(b, DType::Bool, &[]));
        let y = p.select(x.exp(), x + x);
        let dot = x.dot_general(y, &[], &[], &[], &[]);
        vec![y, dot, x.reshape(&[1, 1]).expand(&[2, 3]), y.slice(&[], &[], &[]), x.permute(&[])]
    });
}

#[test]
fn no_elements_beside_huge_sizes() {
    let huge = 1usize << 29;
    check(|b| {
        let x = input(b, DType::F32, &[huge, huge, 0]);
        let y = input(b, DType::F32, &[0, 3]);
        let dot = x.dot_general(x, &[], &[], &[0, 1, 2], &[0, 1, 2]);
        let index = b.iota(0, DType::I64, &Shape::of(&[0]));
        let taken = b.op("take", &[y, index], &[Attr::Int(0)]);
        let row = y.sum(&[0]) + y.reduce("prod", &[0]);
        let sorted = b.op("argsort", &[y], &[Attr::Int(1), Attr::Bool(false)]);
        vec![x, x + x, x.flip(&[0, 1]), x.permute(&[2, 0, 1]), dot, y, taken, row, sorted]
    });
    check(|b| {
        let x = input(b, DType::F32, &[huge, 0, huge]);
        let index = input(b, DType::I64, &[0]);
        vec![
            b.op("take", &[x, index], &[Attr::Int(0)]),
            b.op("index_put", &[x, index, x.slice_dim(0, 0, 0, 1)], &[Attr::Int(0), Attr::from("add")]),
        ]
    });
}

#[test]
fn many_dims() {
    let shape: Vec<usize> = (0..64).map(|d| if d % 13 == 0 { 2 } else { 1 }).collect();
    check(|b| {
        let x = input(b, DType::F32, &shape);
        let back: Vec<usize> = (0..64).rev().collect();
        let y = x.permute(&back) + x.permute(&back).exp();
        vec![y, y.sum(&[63, 11]), y.flip(&[11]), x.reshape(&[32])]
    });
}

#[test]
fn every_dtype_alone_and_together() {
    check(|b| DType::ALL.iter().map(|&d| input(b, d, &[17]).cast(DType::F64)).collect());
    check(|b| {
        let x = input(b, DType::I64, &[17]);
        DType::ALL.iter().map(|&d| x.cast(d)).collect()
    });
}

#[test]
fn a_bad_graph_is_stopped_at_the_door() {
    let mut graph = Graph::new();
    let x = graph.input(Type::new(DType::F32, Shape::of(&[2])));
    let good = graph.apply(torsh_ir::ops::op("exp"), &[x], torsh_ir::Attrs::new()).expect("well formed");
    let node = torsh_ir::Node { ty: Type::new(DType::F32, Shape::of(&[3])), ..graph.node(good).clone() };
    let bad = graph.add(node);
    graph.set_outputs(vec![bad]);
    let e = compile(&graph, &Options { verify: false, ..Options::default() }).expect_err("invalid");
    assert_eq!(e.kind(), ErrorKind::Internal);
}
