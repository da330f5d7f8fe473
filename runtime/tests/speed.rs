//! Figures by hand: `cargo test --release -p torsh-runtime --test speed -- --ignored --nocapture`.

mod common;

use common::{Make, affine, program};
use std::sync::Arc;
use std::time::Instant;
use torsh_codegen::cpu::Schedule;
use torsh_ir::DType::F32;
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::kernel::{Access, Domain, Kernel, Reduce, Stage, Store, ValueId};
use torsh_ir::program::Program;
use torsh_ir::scalar::{BinOp, ReduceOp, ScalarOp, UnOp};
use torsh_runtime::{Config, CpuExecutor};

/// Best seconds per call of a program on zeros.
fn time(exec: &CpuExecutor, p: &Program, rounds: usize) -> (f64, f64) {
    let start = Instant::now();
    let exe = exec.load(Arc::new(p.clone())).unwrap();
    let compile = start.elapsed().as_secs_f64();
    let zeros = |n: usize| vec![0u8; n];
    let mut x: Vec<BufferRef> = p.inputs.iter().map(|t| exec.upload(t, &zeros(t.nbytes())).unwrap()).collect();
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        exe.run(&mut x).unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (best, compile)
}

fn full(insts: Vec<ValueId>, reduces: Vec<Reduce>, stores: Vec<Store>) -> Stage {
    Stage { domain: Domain::Full, insts, reduces, stores }
}

/// `y = x * w + b`, then `ops` more multiplications and additions.
fn chain(n: usize, ops: usize, gelu: bool) -> Kernel {
    let mut m = Make::new(&[], &[n]);
    let inputs: Vec<u32> = (0..4).map(|_| m.param(F32, n, Access::Read)).collect();
    let out = m.param(F32, n, Access::Write);
    let v: Vec<ValueId> = inputs.iter().map(|&p| m.load(p, 0, &[1])).collect();
    let mut insts = v.clone();
    let mut bin = |m: &mut Make, op, a, b| {
        let r = m.op(ScalarOp::Bin(op), &[a, b], F32);
        insts.push(r);
        r
    };
    let t = bin(&mut m, BinOp::Mul, v[0], v[1]);
    let mut x = bin(&mut m, BinOp::Add, t, v[2]);
    for _ in 0..ops {
        let t = bin(&mut m, BinOp::Mul, x, v[1]);
        x = bin(&mut m, BinOp::Add, t, v[2]);
    }
    if gelu {
        let (half, c, k, one) =
            (m.constant(0.5, F32), m.constant(0.044715, F32), m.constant(0.797885, F32), m.constant(1.0, F32));
        let x2 = bin(&mut m, BinOp::Mul, x, x);
        let x3 = bin(&mut m, BinOp::Mul, x2, x);
        let x3 = bin(&mut m, BinOp::Mul, x3, c);
        let s = bin(&mut m, BinOp::Add, x, x3);
        let s = bin(&mut m, BinOp::Mul, s, k);
        let th = m.op(ScalarOp::Un(UnOp::Tanh), &[s], F32);
        insts.push(th);
        let mut bin = |m: &mut Make, op, a, b| {
            let r = m.op(ScalarOp::Bin(op), &[a, b], F32);
            insts.push(r);
            r
        };
        let u = bin(&mut m, BinOp::Add, th, one);
        let h = bin(&mut m, BinOp::Mul, x, half);
        x = bin(&mut m, BinOp::Mul, h, u);
        insts.splice(0..0, [half, c, k, one]);
    }
    let y = m.op(ScalarOp::Bin(BinOp::Add), &[x, v[3]], F32);
    insts.push(y);
    m.0.stages.push(full(insts, vec![], vec![Store { param: out, index: affine(0, &[1]), value: y }]));
    m.0
}

fn softmax(rows: usize, cols: usize) -> Kernel {
    let mut m = Make::new(&[rows], &[cols]);
    let n = rows * cols;
    let (x, y) = (m.param(F32, n, Access::Read), m.param(F32, n, Access::Write));
    let map = [cols as i64, 1];
    let v = m.load(x, 0, &map);
    let max = m.value(torsh_ir::kernel::Inst::Reduced, F32);
    let d = m.op(ScalarOp::Bin(BinOp::Sub), &[v, max], F32);
    let e = m.op(ScalarOp::Un(UnOp::Exp), &[d], F32);
    let sum = m.value(torsh_ir::kernel::Inst::Reduced, F32);
    let r = m.op(ScalarOp::Un(UnOp::Recip), &[sum], F32);
    let q = m.op(ScalarOp::Bin(BinOp::Mul), &[e, r], F32);
    let reduce = |op, value, out| Reduce { op, value, out };
    m.0.stages.push(full(vec![v], vec![reduce(ReduceOp::Max, v, max)], vec![]));
    m.0.stages.push(full(vec![d, e], vec![reduce(ReduceOp::Sum, e, sum)], vec![]));
    m.0.stages.push(Stage { domain: Domain::Row, insts: vec![r], reduces: vec![], stores: vec![] });
    m.0.stages.push(full(vec![q], vec![], vec![Store { param: y, index: affine(0, &map), value: q }]));
    m.0
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let make = |schedule, threads| {
        CpuExecutor::with_config(&Config { schedule, threads: Some(threads), ..Config::default() }).unwrap()
    };
    let block = make(Schedule::Block, 1);
    let inline = make(Schedule::Inline, 1);
    let auto = make(Schedule::Auto, 1);
    let two = make(Schedule::Auto, 2);
    println!("level {}", auto.target().isa);
    println!("{:>24} {:>10} {:>10} {:>10} {:>10}   ns/element", "", "block", "inline", "auto", "auto 2T");
    for (name, ops, gelu) in
        [("add chain 0", 0, false), ("chain 4", 4, false), ("chain 16", 16, false), ("gelu", 0, true)]
    {
        for n in [1024usize, 4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 22] {
            let p = program(chain(n, ops, gelu));
            let rounds = (1 << 24) / n + 5;
            let ns = |e: &CpuExecutor| time(e, &p, rounds).0 * 1e9 / n as f64;
            let label = format!("{name} {n}");
            println!("{label:>24} {:>10.3} {:>10.3} {:>10.3} {:>10.3}", ns(&block), ns(&inline), ns(&auto), ns(&two));
        }
    }
    for rows in [64usize, 512, 4096] {
        let p = program(softmax(rows, 1024));
        let us = |e: &CpuExecutor| time(e, &p, 200).0 * 1e6;
        println!("softmax {rows}x1024: {:.0} us, two threads {:.0} us", us(&auto), us(&two));
    }
    let p = program(chain(1000, 0, true));
    for (name, exec) in [("block", &block), ("inline", &inline)] {
        let best = (0..20).map(|_| time(exec, &p, 1).1).fold(f64::INFINITY, f64::min);
        println!("load of the gelu kernel, {name}: {:.0} us", best * 1e6);
    }
    let p = program(chain(16, 0, false));
    println!("call on 16 elements: {:.0} ns", time(&auto, &p, 10_000).0 * 1e9);
}
