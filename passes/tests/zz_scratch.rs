#![allow(missing_docs, dead_code)]
#[path = "../../tests/src/values.rs"]
mod values;
mod fuzz {
    pub struct Case {
        pub graph: torsh_ir::graph::Graph,
        pub inputs: Vec<torsh_ir::interp::HostTensor>,
        pub donate: Vec<(usize, usize)>,
    }
    #[path = "zz_make.rs"]
    pub mod make;
}
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::program::Program;
use torsh_ir::{Builder, DType, Shape, Type};
use torsh_passes::{Options, autodiff, decompose, lower};

fn same_bits(a: &HostTensor, b: &HostTensor) -> bool {
    let nan = |t: &HostTensor, i: usize| t.dtype().is_float() && t.get(i).as_f64().is_nan();
    a.ty == b.ty && (0..a.len()).all(|i| a.bits(i) == b.bits(i) || (nan(a, i) && nan(b, i)))
}
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
fn gradients(graph: Graph, all: bool) -> Option<Graph> {
    let outputs: Vec<NodeId> = graph.outputs().iter().copied().filter(|&o| graph.ty(o).dtype.is_float()).collect();
    let wrt: Vec<NodeId> = graph.inputs().iter().copied().filter(|&i| graph.ty(i).dtype.is_float()).collect();
    let fwd = graph.outputs().to_vec();
    let builder = Builder::new(graph);
    let seeds: Vec<_> = outputs.iter().map(|&o| (o, builder.val(o).full_like(1.0).id())).collect();
    let (mut graph, found) = autodiff::grad(builder.finish().ok()?, &seeds, &wrt).ok()?;
    let mut outs = if all { fwd } else { vec![] };
    outs.extend(found.into_iter().flatten());
    graph.set_outputs(outs);
    Some(graph)
}

#[test]
fn fuzz_all() {
    let n: u64 = std::env::var("N").ok().and_then(|s| s.parse().ok()).unwrap_or(1500);
    let s0: u64 = std::env::var("S").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut bad = 0;
    for seed in s0..s0 + n {
        let case = fuzz::make::make(seed);
        let mut graphs = vec![(case.graph.clone(), case.donate.clone())];
        if let Some(g) = gradients(case.graph.clone(), true) {
            graphs.push((g, vec![]));
        }
        for (g, donate) in graphs {
            let Ok(g) = decompose::expand(g) else { continue };
            for fusion in [true, false] {
                let o = Options { fusion, donate: donate.clone(), ..Options::default() };
                let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&g, &case.inputs, &o)))
                    .unwrap_or_else(|_| Err("panic".into()));
                if let Err(e) = r {
                    bad += 1;
                    if bad <= 3 {
                        let e: String = e.chars().take(6000).collect();
                        println!("seed {seed} fusion {fusion} donate {donate:?}: {e}\n{}", torsh_ir::text::print(&g));
                    }
                }
            }
        }
    }
    assert_eq!(bad, 0);
}

#[test]
fn big() {
    let b = Builder::new(Graph::new());
    let f = |d: &[usize]| Type::new(DType::F32, Shape::of(d));
    let mut xs: Vec<_> = (0..8).map(|_| b.input(f(&[64, 64]))).collect();
    let mut seed = 1u64;
    for i in 0..10000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (p, q) = ((seed >> 33) as usize % xs.len(), (seed >> 43) as usize % xs.len());
        let k = xs.len();
        let (x, y) = (xs[k - 1 - p % k.min(40)], xs[k - 1 - q % k.min(40)]);
        let v = match i % 11 {
            0 => x.dot_general(y, &[], &[], &[1], &[0]),
            1 => x.sum(&[1]).expand(&[64, 64]),
            2 => x.exp(),
            3 => x.permute(&[1, 0]),
            4 => x.sum(&[0]).expand(&[64, 64]),
            5 => x * y,
            6 => x.maximum(y),
            _ => x + y,
        };
        xs.push(v);
    }
    let outs: Vec<NodeId> = xs[xs.len() - 20..].iter().map(|v| v.id()).collect();
    let mut g = b.finish().unwrap();
    g.set_outputs(outs);
    for fusion in [false, true] {
        let t = std::time::Instant::now();
        let p = lower::run(&g, &Options { fusion, ..Options::default() }).unwrap();
        println!(
            "10k nodes fusion {fusion}: {:?} kernels {} of {}",
            t.elapsed(),
            p.stats.kernels,
            p.stats.kernels_unfused
        );
        p.verify().unwrap();
    }
}

#[test]
fn dump() {
    let Ok(dir) = std::env::var("TIRS") else { return };
    let grad = std::env::var("GRAD").is_ok();
    for path in dir.split(',') {
        let src = std::fs::read_to_string(path).unwrap();
        let mut g = torsh_ir::text::parse(&src).unwrap();
        if grad {
            g = gradients(g, true).unwrap();
            g = torsh_passes::simplify::run(g).unwrap();
            println!("{}", torsh_ir::text::print(&g));
        }
        let o = torsh_passes::Options::default();
        let p = torsh_passes::compile(&g, &o).unwrap();
        println!("==== {path}\n{}", torsh_ir::text::program(&p));
        println!("{:?}", p.stats);
        p.verify().unwrap();
    }
}
