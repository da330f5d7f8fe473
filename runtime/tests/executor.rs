//! The executor's promises: inputs on error, donation, limits, threads, interruption, code memory.

mod common;

use common::{Make, Rng, affine, assert_same, inputs, program, run_on};
use std::sync::Arc;
use std::sync::Mutex;
use torsh_ir::DType::{F32, I64};
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::kernel::{Access, Domain, Kernel, Reduce, Stage, Store};
use torsh_ir::program::{BufDecl, BufId, DotOperand, DotStep, LibCall, Place, Program, ScatterMode, Step, StepOp};
use torsh_ir::scalar::{BinOp, ReduceOp, ScalarOp, UnOp};
use torsh_ir::shape::{Shape, Type};
use torsh_ir::{DType, ErrorKind, Scalar};
use torsh_runtime::{Config, CpuExecutor, set_interrupt_check};

/// The interrupt check is one per process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn executor(threads: usize) -> CpuExecutor {
    CpuExecutor::with_config(&Config { threads: Some(threads), ..Config::default() }).unwrap()
}

fn ty(dtype: DType, dims: &[usize]) -> Type {
    Type::new(dtype, Shape::of(dims))
}

/// `p += g` in place.
fn update(n: usize) -> Kernel {
    let mut m = Make::new(&[], &[n]);
    let p = m.param(F32, n, Access::ReadWrite);
    let g = m.param(F32, n, Access::Read);
    let (x, d) = (m.load(p, 0, &[1]), m.load(g, 0, &[1]));
    let y = m.op(ScalarOp::Bin(BinOp::Add), &[x, d], F32);
    let stores = vec![Store { param: p, index: affine(0, &[1]), value: y }];
    m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x, d, y], reduces: vec![], stores });
    m.0
}

fn step(op: StepOp) -> Step {
    Step { op, ops: vec!["test_op"], loc: None }
}

/// An update of input 0 and a take from input 2 by input 3, in one order or the other.
fn update_and_take(n: usize, take_last: bool) -> Program {
    let mut p = program(update(n));
    let x = BufId(p.buffers.len() as u32);
    for (i, t) in [ty(F32, &[4]), ty(I64, &[2])].into_iter().enumerate() {
        p.buffers.push(BufDecl { ty: t.clone(), place: Place::Input(2 + i as u32) });
        p.inputs.push(t);
    }
    let out = BufId(x.0 + 2);
    p.buffers.push(BufDecl { ty: ty(F32, &[2]), place: Place::Output });
    p.outputs.push(out);
    p.peak_bytes += 8;
    let take = step(StepOp::Lib { call: LibCall::Take { dim: 0 }, args: vec![x, BufId(x.0 + 1)], out });
    p.steps.insert(usize::from(take_last), take);
    p.verify().unwrap();
    p
}

fn upload(exec: &CpuExecutor, values: &[HostTensor]) -> Vec<BufferRef> {
    values.iter().map(|t| exec.upload(&t.ty, &t.to_bytes()).unwrap()).collect()
}

fn ints(values: &[i64]) -> HostTensor {
    HostTensor::from_fn(ty(I64, &[values.len()]), |i| Scalar::Int(values[i]))
}

fn floats(n: usize, x: f64) -> HostTensor {
    HostTensor::from_fn(ty(F32, &[n]), |_| Scalar::Float(x))
}

#[test]
fn donated_inputs_are_overwritten_only_when_given_up_and_safe() {
    let _one = ONE_AT_A_TIME.lock();
    let exec = executor(1);
    let n = 1000;
    let good = [floats(n, 1.0), floats(n, 2.0), floats(4, 5.0), ints(&[3, -1])];
    let bad = [floats(n, 1.0), floats(n, 2.0), floats(4, 5.0), ints(&[3, 4])];
    for take_last in [false, true] {
        let exe = exec.load(Arc::new(update_and_take(n, take_last))).unwrap();
        for keep in [false, true] {
            let mut x = upload(&exec, &good);
            let kept = keep.then(|| x[0].clone());
            let at = x[0].host_bytes().unwrap().as_ptr();
            let out = exe.run(&mut x).unwrap();
            let in_place = out[0].host_bytes().unwrap().as_ptr() == at;
            // A take that may fail after the update forbids the update in place.
            assert_eq!(in_place, !keep && !take_last);
            assert_eq!(out[0].host_bytes().unwrap(), &floats(n, 3.0).to_bytes()[..]);
            if let Some(kept) = kept {
                assert_eq!(kept.host_bytes().unwrap(), &floats(n, 1.0).to_bytes()[..]);
            }
        }
        let mut x = upload(&exec, &bad);
        let e = exe.run(&mut x).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Index);
        assert_eq!(e.op(), Some("test_op"));
        assert_eq!(x[0].host_bytes().unwrap(), &floats(n, 1.0).to_bytes()[..]);
    }
}

#[test]
fn the_cap_refuses_before_anything_changes() {
    let _one = ONE_AT_A_TIME.lock();
    let exec = executor(1);
    let n = 100_000;
    let exe = exec.load(Arc::new(program(update(n)))).unwrap();
    let mut x = upload(&exec, &[floats(n, 1.0), floats(n, 2.0)]);
    let kept = x[0].clone();
    exec.empty_cache();
    exec.set_memory_limit(exec.memory_stats().live + 1000);
    let e = exe.run(&mut x).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Limit);
    assert!(e.message().contains("400000"), "{e}");
    drop(kept);
    // In place, nothing is needed.
    exe.run(&mut x).unwrap();
    let stats = exec.memory_stats();
    assert!(stats.live + stats.cached <= stats.limit && stats.peak >= stats.live);
}

#[test]
fn wrong_inputs_are_refused() {
    let exec = executor(1);
    let exe = exec.load(Arc::new(program(update(10)))).unwrap();
    assert!(exe.run(&mut []).is_err());
    let mut x = upload(&exec, &[floats(10, 1.0), floats(9, 2.0)]);
    assert!(exe.run(&mut x).is_err());
    assert!(exec.upload(&ty(F32, &[3]), &[0; 11]).is_err());
}

fn row_kernel(rows: usize, cols: usize) -> Kernel {
    let mut m = Make::new(&[rows], &[cols]);
    let (x, y) = (m.param(F32, rows * cols, Access::Read), m.param(F32, rows * cols, Access::Write));
    let map = [cols as i64, 1];
    let v = m.load(x, 0, &map);
    let e = m.op(ScalarOp::Un(UnOp::Exp), &[v], F32);
    let sum = m.value(torsh_ir::kernel::Inst::Reduced, F32);
    let q = m.op(ScalarOp::Bin(BinOp::Div), &[e, sum], F32);
    let reduces = vec![Reduce { op: ReduceOp::Sum, value: e, out: sum }];
    m.0.stages.push(Stage { domain: Domain::Full, insts: vec![v, e], reduces, stores: vec![] });
    let stores = vec![Store { param: y, index: affine(0, &map), value: q }];
    m.0.stages.push(Stage { domain: Domain::Full, insts: vec![q], reduces: vec![], stores });
    m.0
}

#[test]
fn threads_do_not_change_results_and_runs_may_overlap() {
    let _one = ONE_AT_A_TIME.lock();
    let p = program(row_kernel(700, 333));
    let x = inputs(&p, &mut Rng(3));
    let exec = executor(1);
    let want = run_on(&exec, &p, &x, false);
    for threads in [2, 3, 7] {
        exec.set_threads(Some(threads)).unwrap();
        assert_eq!(exec.threads(), threads);
        assert_same(&want, &run_on(&exec, &p, &x, false), 0.0, &|| format!("{threads} threads"));
    }
    let exe = exec.load(Arc::new(p.clone())).unwrap();
    let want = want[0].to_bytes();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut bufs = upload(&exec, &x);
                    assert_eq!(exe.run(&mut bufs).unwrap()[0].host_bytes().unwrap(), &want[..]);
                }
            });
        }
    });
}

#[test]
fn interruption_leaves_inputs_alone() {
    let _one = ONE_AT_A_TIME.lock();
    let exec = executor(1);
    let mut p = program(update(100));
    // Programs of few small steps are not interrupted.
    p.steps = vec![p.steps[0].clone(); 5];
    let exe = exec.load(Arc::new(p)).unwrap();
    let mut x = upload(&exec, &[floats(100, 1.0), floats(100, 2.0)]);
    set_interrupt_check(Some(|| true));
    let e = exe.run(&mut x).err().unwrap();
    set_interrupt_check(None);
    assert_eq!(e.kind(), ErrorKind::Interrupted);
    assert_eq!(x[0].host_bytes().unwrap(), &floats(100, 1.0).to_bytes()[..]);
    exe.run(&mut x).unwrap();
}

#[test]
fn code_is_counted_shared_listed_and_freed() {
    let exec = executor(1);
    let mut p = program(row_kernel(4, 8));
    // The same kernel again, over the same buffers.
    let again = p.steps[0].clone();
    let one = exec.load(Arc::new(p.clone())).unwrap();
    p.steps.push(again);
    let two = exec.load(Arc::new(p)).unwrap();
    assert!(one.code_bytes() > 0 && one.code_bytes() == two.code_bytes());
    assert_eq!(exec.memory_stats().code as usize, one.code_bytes() + two.code_bytes());
    // The exponential is a primitive, or part of a vector function.
    let text = two.listing();
    let names_exp = text.contains("exp_f32") || (text.contains("vector function") && text.contains("vfmadd"));
    assert!(text.contains("function") && names_exp, "{text}");
    assert!(one.codegen_seconds() > 0.0);
    drop((one, two));
    assert_eq!(exec.memory_stats().code, 0);
    for _ in 0..200 {
        exec.load(Arc::new(program(row_kernel(4, 8)))).unwrap();
    }
}

#[test]
fn a_product_a_constant_and_the_arena() {
    let _one = ONE_AT_A_TIME.lock();
    let (m, k, n) = (5usize, 7usize, 9usize);
    let weights = HostTensor::from_fn(ty(F32, &[k, n]), |i| Scalar::Float(i as f64 / 8.0));
    let mut p = Program::default();
    let place = [
        (ty(F32, &[m, k]), Place::Input(0)),
        (ty(F32, &[k, n]), Place::Const(weights.to_bytes().into())),
        (ty(F32, &[m, n]), Place::Arena { offset: 64 }),
        (ty(F32, &[m, n]), Place::Output),
    ];
    p.inputs.push(place[0].0.clone());
    p.buffers.extend(place.into_iter().map(|(ty, place)| BufDecl { ty, place }));
    let operand = |buf, (rows, row), (cols, col)| DotOperand {
        buf: BufId(buf),
        offset: 0,
        batch_strides: [].into_iter().collect(),
        rows: [(rows, row)].into_iter().collect(),
        cols: [(cols, col)].into_iter().collect(),
    };
    let dot = DotStep {
        batch: [].into_iter().collect(),
        m,
        n,
        k,
        lhs: operand(0, (m, k as i64), (k, 1)),
        rhs: operand(1, (k, n as i64), (n, 1)),
        out: BufId(2),
    };
    p.steps.push(step(StepOp::Dot(dot)));
    p.steps.push(step(StepOp::Lib { call: LibCall::Copy, args: vec![BufId(2)], out: BufId(3) }));
    p.outputs = vec![BufId(3), BufId(1), BufId(0)];
    p.arena_bytes = 64 + 4 * m * n;
    p.peak_bytes = p.arena_bytes + 4 * (m * n + k * n);
    p.verify().unwrap();
    let x = inputs(&p, &mut Rng(1));
    let want = run_program(&p, &x).unwrap();
    assert_same(&want, &run_on(&executor(2), &p, &x, false), 1e-6, &|| "a product".to_string());
}

/// A take from input 2 by input 3, an update of input 0 in place, and a sum at the same indices, copied to the arena first
/// if `copied`, into `rows` rows. `between` is what goes on before the sum.
fn update_between(n: usize, rows: usize, copied: bool, between: impl FnOnce(&mut Program, BufId)) -> Program {
    let mut p = update_and_take(n, false);
    p.arena_bytes = 192;
    p.peak_bytes += 192 + 4 * rows;
    let mut buffer = |dtype, dims: &[usize], place| {
        p.buffers.push(BufDecl { ty: ty(dtype, dims), place });
        BufId(p.buffers.len() as u32 - 1)
    };
    let index = buffer(I64, &[2], if copied { Place::Arena { offset: 64 } } else { Place::Input(3) });
    let (base, src) = (buffer(F32, &[rows], Place::Input(4)), buffer(F32, &[2], Place::Input(5)));
    let out = buffer(F32, &[rows], Place::Output);
    p.inputs.extend([ty(F32, &[rows]), ty(F32, &[2])]);
    p.outputs.push(out);
    if copied {
        let StepOp::Lib { args, .. } = &mut p.steps[0].op else { panic!("no take") };
        let from = std::mem::replace(&mut args[1], index);
        p.steps.insert(0, step(StepOp::Lib { call: LibCall::Copy, args: vec![from], out: index }));
    }
    between(&mut p, index);
    let put = LibCall::IndexPut { dim: 0, mode: ScatterMode::Add };
    p.steps.push(step(StepOp::Lib { call: put, args: vec![base, index, src], out }));
    p.verify().unwrap();
    p
}

#[test]
fn an_index_that_was_checked_does_not_forbid_an_update_in_place() {
    let exec = executor(1);
    let n = 1000;
    let inputs = |rows: usize, index: &[i64], other: &[i64]| {
        [floats(n, 1.0), floats(n, 2.0), floats(4, 5.0), ints(index), floats(rows, 1.0), floats(2, 1.0), ints(other)]
    };
    // Writes other indices at some place of the arena.
    let overwrite = |offset: usize, len: usize| {
        move |p: &mut Program, _: BufId| {
            p.inputs.push(ty(I64, &[2]));
            p.buffers.push(BufDecl { ty: ty(I64, &[len]), place: Place::Arena { offset } });
            let out = BufId(p.buffers.len() as u32 - 1);
            let call = LibCall::Fill(Scalar::Int(77));
            p.steps.push(step(StepOp::Lib { call, args: vec![], out }));
            if offset + 8 * len > 64 && offset < 80 {
                // What the sum is by, from the last input.
                p.buffers.push(BufDecl { ty: ty(I64, &[2]), place: Place::Input(6) });
                let args = vec![BufId(out.0 + 1)];
                let index = p.buffers.iter().position(|b| b.place == Place::Arena { offset: 64 }).unwrap();
                let out = BufId(index as u32);
                p.steps.push(step(StepOp::Lib { call: LibCall::Copy, args, out }));
            }
        }
    };
    let nothing = |p: &mut Program, _: BufId| p.inputs.push(ty(I64, &[2]));
    let cases: Vec<(Program, usize, bool)> = vec![
        (update_between(n, 4, false, nothing), 4, true),
        (update_between(n, 9, false, nothing), 9, true),
        (update_between(n, 3, false, nothing), 3, false),
        (update_between(n, 4, true, nothing), 4, true),
        (update_between(n, 4, true, overwrite(128, 8)), 4, true),
        (update_between(n, 4, true, overwrite(0, 9)), 4, false),
        (update_between(n, 4, true, overwrite(64, 2)), 4, false),
    ];
    for (case, (program, rows, safe)) in cases.into_iter().enumerate() {
        let exe = exec.load(Arc::new(program.clone())).unwrap();
        let good = inputs(rows, &[2, -1], &[1, 0]);
        let mut x = upload(&exec, &good);
        let at = x[0].host_bytes().unwrap().as_ptr();
        let out = exe.run(&mut x).unwrap();
        assert_eq!(out[0].host_bytes().unwrap().as_ptr() == at, safe, "case {case}");
        for (got, want) in out.iter().zip(run_program(&program, &good).unwrap()) {
            assert_eq!(got.host_bytes().unwrap(), want.to_bytes(), "case {case}");
        }
        for (index, other) in [([2, 4], [1, 0]), ([3, -1], [9, 0]), ([3, -4], [-5, 0])] {
            let bad = inputs(rows, &index, &other);
            let mut x = upload(&exec, &bad);
            let run = exe.run(&mut x);
            assert_eq!(run.is_ok(), run_program(&program, &bad).is_ok(), "case {case}");
            if run.is_err() {
                assert_eq!(x[0].host_bytes().unwrap(), floats(n, 1.0).to_bytes(), "case {case}");
            }
        }
    }
}

#[test]
fn a_step_by_index_overwrites_its_base_only_with_good_indices() {
    let exec = executor(1);
    for call in
        [LibCall::IndexPut { dim: 0, mode: ScatterMode::Add }, LibCall::Scatter { dim: 0, mode: ScatterMode::Set }]
    {
        let decl = |ty: &Type, place| BufDecl { ty: ty.clone(), place };
        let (base, index) = (ty(F32, &[6]), ty(I64, &[2]));
        let program = Program {
            buffers: vec![
                decl(&base, Place::Input(0)),
                decl(&index, Place::Input(1)),
                decl(&ty(F32, &[2]), Place::Input(2)),
                decl(&base, Place::Donated(0)),
            ],
            steps: vec![step(StepOp::Lib { call, args: vec![BufId(0), BufId(1), BufId(2)], out: BufId(3) })],
            inputs: vec![base, index, ty(F32, &[2])],
            outputs: vec![BufId(3)],
            ..Program::default()
        };
        let exe = exec.load(Arc::new(program.clone())).unwrap();
        for index in [[0, 5], [1, 6], [1, -7]] {
            let inputs = [floats(6, 1.0), ints(&index), floats(2, 3.0)];
            let mut x = upload(&exec, &inputs);
            let at = x[0].host_bytes().unwrap().as_ptr();
            match (exe.run(&mut x), run_program(&program, &inputs)) {
                (Ok(out), Ok(want)) => {
                    assert_eq!(out[0].host_bytes().unwrap(), want[0].to_bytes());
                    assert_eq!(out[0].host_bytes().unwrap().as_ptr(), at);
                }
                (Err(e), Err(_)) => {
                    assert_eq!(e.kind(), ErrorKind::Index);
                    assert_eq!(x[0].host_bytes().unwrap(), inputs[0].to_bytes());
                }
                _ => panic!("{index:?} is an error in one of the two"),
            }
        }
    }
}
