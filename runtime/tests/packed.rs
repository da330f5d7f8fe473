//! Packed copies of operands: the same bits with and without, never stale, counted, and given up when memory runs out.

mod common;

use common::{Make, affine};
use std::sync::Arc;
use torsh_ir::DType::F32;
use torsh_ir::Scalar;
use torsh_ir::exec::{BufferRef, Executable, Executor};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::kernel::{Access, Domain, Stage, Store};
use torsh_ir::program::{BufDecl, BufId, DotOperand, DotStep, Place, Program, Step, StepOp};
use torsh_ir::scalar::{BinOp, ScalarOp};
use torsh_ir::shape::{Shape, Type};
use torsh_runtime::{Config, CpuExecutor};

const M: usize = 20;
const K: usize = 300;
const N: usize = 100;
/// Bytes of the weights as packed at any level: N is a multiple of 4 and of no more lanes.
const LEAST: u64 = (4 * K * N) as u64;

fn executor(threads: usize, memory_limit: Option<u64>) -> CpuExecutor {
    CpuExecutor::with_config(&Config { threads: Some(threads), memory_limit, ..Config::default() }).unwrap()
}

fn ty(dims: &[usize]) -> Type {
    Type::new(F32, Shape::of(dims))
}

/// Small whole numbers, so that sums are exact whoever computes them.
fn values(dims: &[usize], seed: usize) -> HostTensor {
    HostTensor::from_fn(ty(dims), |i| Scalar::Float(((i * 7 + i / 13 + seed) % 11) as f64 - 5.0))
}

fn upload(exec: &CpuExecutor, t: &HostTensor) -> BufferRef {
    exec.upload(&t.ty, &t.to_bytes()).unwrap()
}

fn operand(buf: u32, rows: (usize, i64), cols: (usize, i64)) -> DotOperand {
    DotOperand {
        buf: BufId(buf),
        offset: 0,
        batch_strides: [].into_iter().collect(),
        rows: [rows].into_iter().collect(),
        cols: [cols].into_iter().collect(),
    }
}

/// `x w` (or `x w^T`) of inputs 0 and 1; and, with `update`, `w = row 0 of x w - w` in place.
fn product(turned: bool, update: bool) -> Program {
    let mut p = Program::default();
    let rhs = if turned { operand(1, (K, 1), (N, K as i64)) } else { operand(1, (K, N as i64), (N, 1)) };
    let dot = DotStep {
        batch: [].into_iter().collect(),
        m: M,
        n: N,
        k: K,
        lhs: operand(0, (M, K as i64), (K, 1)),
        rhs,
        out: BufId(2),
    };
    p.inputs = vec![ty(&[M, K]), ty(&[K, N])];
    let places = [(ty(&[M, K]), Place::Input(0)), (ty(&[K, N]), Place::Input(1)), (ty(&[M, N]), Place::Output)];
    p.buffers.extend(places.into_iter().map(|(ty, place)| BufDecl { ty, place }));
    // Twice where the weight is overwritten afterwards: the second time it would be worth a copy.
    for _ in 0..if update { 2 } else { 1 } {
        p.steps.push(Step { op: StepOp::Dot(dot.clone()), ops: vec!["test_op"], loc: None });
    }
    p.outputs = vec![BufId(2)];
    p.peak_bytes = 4 * M * N;
    if update {
        let mut m = Make::new(&[K], &[N]);
        let w = m.param(F32, K * N, Access::ReadWrite);
        let y = m.param(F32, M * N, Access::Read);
        let (a, b) = (m.load(w, 0, &[N as i64, 1]), m.load(y, 0, &[0, 1]));
        let new = m.op(ScalarOp::Bin(BinOp::Sub), &[b, a], F32);
        let stores = vec![Store { param: w, index: affine(0, &[N as i64, 1]), value: new }];
        m.0.stages.push(Stage { domain: Domain::Full, insts: vec![a, b, new], reduces: vec![], stores });
        p.buffers.push(BufDecl { ty: ty(&[K, N]), place: Place::Donated(1) });
        let args = vec![BufId(3), BufId(2)];
        p.steps.push(Step { op: StepOp::Kernel { kernel: Arc::new(m.0), args }, ops: vec!["test_op"], loc: None });
        p.outputs.push(BufId(3));
        p.peak_bytes += 4 * K * N;
    }
    p.verify().unwrap();
    p
}

fn bytes(b: &BufferRef) -> Vec<u8> {
    b.host_bytes().unwrap().to_vec()
}

fn run(exe: &Arc<dyn Executable>, x: &BufferRef, w: &BufferRef) -> Vec<u8> {
    bytes(&exe.run(&mut [x.clone(), w.clone()]).unwrap()[0])
}

fn want(p: &Program, x: &HostTensor, w: &HostTensor) -> Vec<HostTensor> {
    run_program(p, &[x.clone(), w.clone()]).unwrap()
}

#[test]
fn a_weight_is_packed_at_its_second_use_and_goes_with_its_buffer() {
    for threads in [1, 3] {
        let exec = executor(threads, None);
        let programs = [product(false, false), product(true, false), product(false, false)];
        let exes: Vec<Arc<dyn Executable>> = programs.iter().map(|p| exec.load(Arc::new(p.clone())).unwrap()).collect();
        let (x, w) = (values(&[M, K], 1), values(&[K, N], 2));
        let (xb, wb) = (upload(&exec, &x), upload(&exec, &w));
        let live = exec.memory_stats().live;
        assert_eq!(run(&exes[0], &xb, &wb), want(&programs[0], &x, &w)[0].to_bytes());
        assert_eq!(exec.memory_stats().live, live, "packed for one use");
        for _ in 0..3 {
            assert_eq!(run(&exes[0], &xb, &wb), want(&programs[0], &x, &w)[0].to_bytes());
        }
        let one = exec.memory_stats().live - live;
        assert!((LEAST..=2 * LEAST).contains(&one), "{one} bytes of panels");
        // Another executable that reads the weight in the same way finds it packed; one that reads it turned has its own.
        assert_eq!(run(&exes[2], &xb, &wb), want(&programs[0], &x, &w)[0].to_bytes());
        assert_eq!(exec.memory_stats().live - live, one);
        for _ in 0..3 {
            assert_eq!(run(&exes[1], &xb, &wb), want(&programs[1], &x, &w)[0].to_bytes());
            assert_eq!(run(&exes[0], &xb, &wb), want(&programs[0], &x, &w)[0].to_bytes());
        }
        assert_eq!(exec.memory_stats().live - live, 2 * one);
        drop(wb);
        assert!(exec.memory_stats().live + LEAST <= live, "panels outlive their buffer");
        // A new buffer, most likely in the same memory, is another weight.
        let w = values(&[K, N], 3);
        let wb = upload(&exec, &w);
        for _ in 0..3 {
            assert_eq!(run(&exes[0], &xb, &wb), want(&programs[0], &x, &w)[0].to_bytes());
        }
        exec.empty_cache();
        assert_eq!(exec.memory_stats().live, live);
    }
}

#[test]
fn an_update_in_place_makes_a_packed_copy_stale() {
    let exec = executor(1, None);
    let (reading, updating) = (product(false, false), product(false, true));
    let load = |p: &Program| exec.load(Arc::new(p.clone())).unwrap();
    let (read, update) = (load(&reading), load(&updating));
    let (x, mut w) = (values(&[M, K], 1), values(&[K, N], 2));
    let xb = upload(&exec, &x);
    let mut wb = upload(&exec, &w);
    for round in 0..6 {
        for _ in 0..round % 4 {
            assert_eq!(run(&read, &xb, &wb), want(&reading, &x, &w)[0].to_bytes(), "round {round}");
        }
        let address = wb.host_bytes().unwrap().as_ptr();
        let mut inputs = [xb.clone(), wb];
        let outputs = update.run(&mut inputs).unwrap();
        drop(inputs);
        let wanted = want(&updating, &x, &w);
        assert_eq!(bytes(&outputs[0]), wanted[0].to_bytes(), "round {round}");
        assert_eq!(bytes(&outputs[1]), wanted[1].to_bytes(), "round {round}");
        wb = outputs[1].clone();
        drop(outputs);
        assert_ne!(w.to_bytes(), wanted[1].to_bytes(), "an update that changes nothing");
        w = wanted[1].clone();
        assert_eq!(wb.host_bytes().unwrap().as_ptr(), address, "round {round} has copied the weight");
    }
}

#[test]
fn an_update_that_copies_leaves_the_packed_weight_alone() {
    let exec = executor(2, None);
    let updating = product(false, true);
    let update = exec.load(Arc::new(updating.clone())).unwrap();
    let (x, w) = (values(&[M, K], 1), values(&[K, N], 2));
    let (xb, wb) = (upload(&exec, &x), upload(&exec, &w));
    let wanted = want(&updating, &x, &w);
    for round in 0..4 {
        // A second reference: the run must not overwrite.
        let outputs = update.run(&mut [xb.clone(), wb.clone()]).unwrap();
        for (got, want) in outputs.iter().zip(&wanted) {
            assert_eq!(bytes(got), want.to_bytes(), "round {round}");
        }
        assert_eq!(bytes(&wb), w.to_bytes());
    }
}

#[test]
fn packed_copies_give_way_to_whoever_needs_memory() {
    let limit = 980_000;
    let exec = executor(1, Some(limit));
    let p = product(false, false);
    let exe = exec.load(Arc::new(p.clone())).unwrap();
    let (x, w) = (values(&[M, K], 1), values(&[K, N], 2));
    let (xb, wb) = (upload(&exec, &x), upload(&exec, &w));
    let before = exec.memory_stats().live;
    for _ in 0..3 {
        run(&exe, &xb, &wb);
    }
    assert!(exec.memory_stats().live > before, "not packed");
    // So much that it fits beside what a run needs, but not beside the copy.
    let room = 720_896;
    assert!(before + room < limit - LEAST / 2 && before + room + LEAST > limit);
    let large = exec.upload(&ty(&[room as usize / 4]), &vec![0; room as usize]).unwrap();
    assert!(exec.memory_stats().live <= limit);
    // Nothing is spare now: products go without.
    for _ in 0..3 {
        assert_eq!(run(&exe, &xb, &wb), want(&p, &x, &w)[0].to_bytes());
    }
    let full = exec.memory_stats().live;
    drop(large);
    assert!(exec.memory_stats().live < full);
    run(&exe, &xb, &wb);
    assert!(exec.memory_stats().live > before, "not packed again");
}
