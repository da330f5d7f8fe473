//! Work grows with the graph and not faster, with fusion and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::{Attr, Builder, DType, Shape, Type, Val};
use torsh_passes::{Options, compile};

/// A sink for the sizes of what each pass leaves.
fn work(graph: &Graph, fusion: bool) -> usize {
    let size = Arc::new(AtomicUsize::new(0));
    let sink = size.clone();
    let count = move |_: &str, text: &str| {
        sink.fetch_add(text.len(), Relaxed);
    };
    let options = Options { fusion, verify: false, dump: Some(Arc::new(count)), ..Options::default() };
    compile(graph, &options).expect("compiles");
    size.load(Relaxed)
}

type Family = fn(&Builder, usize) -> Vec<NodeId>;

fn build(family: Family, n: usize) -> Graph {
    let b = Builder::new(Graph::new());
    let outputs = family(&b, n);
    let mut graph = b.finish().expect("well formed");
    graph.set_outputs(outputs);
    graph
}

/// Graphs whose size is a parameter, of shapes that tend to hide quadratic work.
fn families() -> Vec<(&'static str, Family)> {
    fn input(b: &Builder, shape: &[usize]) -> NodeId {
        b.input(Type::new(DType::F32, Shape::of(shape))).id()
    }
    vec![
        ("chain", |b, n| {
            let x = b.val(input(b, &[64]));
            vec![(0..n).fold(x, |v, _| v.sin() * x).id()]
        }),
        ("fan out", |b, n| {
            let x = b.val(input(b, &[64]));
            (0..n).map(|i| x.scale(i as f64 + 2.0).id()).collect()
        }),
        ("fan in", |b, n| {
            let x = b.val(input(b, &[64]));
            let parts: Vec<_> = (0..n).map(|i| x.scale(i as f64 + 2.0)).collect();
            vec![b.concat(&parts, 0).id()]
        }),
        ("rows", |b, n| {
            let x = b.val(input(b, &[8, 16]));
            vec![(0..n).fold(x, |v, _| v * v.sum(&[1]).expand(&[8, 16])).id()]
        }),
        ("writes", |b, n| {
            let (x, y) = (b.val(input(b, &[4096])), b.val(input(b, &[1])));
            let write = |v, i: usize| {
                let at = |k: usize| Attr::from(&[k as i64][..]);
                b.op("slice_scatter", &[v, y], &[at(i), at(i + 1), at(1)])
            };
            vec![(0..n).fold(x, write).id()]
        }),
        ("splits", |b, n| {
            let x = b.val(input(b, &[4096]));
            (0..n).map(|i| x.slice_dim(0, i, i + 2, 1).exp().id()).collect()
        }),
        ("layers", |b, n| {
            let (x, w) = (b.val(input(b, &[4, 8])), b.val(input(b, &[8, 8])));
            let layer = |v: Val<'_>, _| v.dot_general(w, &[], &[], &[1], &[0]).tanh().id();
            vec![(0..n).fold(x.id(), |v, i| layer(b.val(v), i))]
        }),
    ]
}

#[test]
fn work_grows_no_faster_than_the_graph() {
    for (name, family) in families() {
        for fusion in [true, false] {
            let (small, large) = (work(&build(family, 100), fusion), work(&build(family, 800), fusion));
            // Numbers get longer with the graph, hence a little more than 8.
            assert!(large < 12 * small, "{name}, fusion {fusion}: {small} grows to {large}");
        }
    }
}

/// Not a measurement: with work quadratic in the graph this would take minutes.
#[test]
fn a_graph_of_ten_thousand_nodes_compiles() {
    for (name, family) in families() {
        let n = if name == "writes" || name == "splits" { 2000 } else { 5000 };
        for fusion in [true, false] {
            let options = Options { fusion, verify: false, ..Options::default() };
            let program = compile(&build(family, n), &options).expect("compiles");
            println!("{name}, fusion {fusion}: {} steps, {:?}", program.steps.len(), program.stats.passes);
        }
    }
}

/// Prints the time of each pass: `cargo test --release -p torsh-passes --test growth -- --ignored --nocapture`.
#[test]
#[ignore = "prints times and asserts nothing"]
fn times() {
    for (name, family) in families() {
        for n in [1000, 3000, 10_000] {
            let n = if name == "writes" || name == "splits" { n.min(4000) } else { n };
            let program = compile(&build(family, n), &Options::default()).expect("compiles");
            let total: f64 = program.stats.passes.iter().map(|p| p.1).sum();
            let slow = program.stats.passes.iter().filter(|p| p.1 > 0.02 * total);
            let text: Vec<String> = slow.map(|(pass, s)| format!("{pass} {:.0}", s * 1e3)).collect();
            println!("{name} {n}: {} steps, {:.0} ms: {}", program.steps.len(), total * 1e3, text.join(", "));
        }
    }
}
