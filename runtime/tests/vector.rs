//! Vector functions against the block schedule, bit for bit, at every ISA level that has them: odd lengths,
//! unaligned operands, updates in place, special values, more live values than registers.

mod common;

use common::{Make, Rng, affine, program, run_on};
use torsh_codegen::cpu::Schedule;
use torsh_ir::exec::Executor;
use torsh_ir::interp::HostTensor;
use torsh_ir::kernel::{Access, Domain, Kernel, Reduce, Stage, Store, ValueId};
use torsh_ir::program::Program;
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use torsh_ir::{DType, Scalar};
use torsh_runtime::sys::prims;
use torsh_runtime::{Config, CpuExecutor};

/// Per level: the executor to agree with, and those that must.
fn executors() -> Vec<(&'static str, CpuExecutor, Vec<CpuExecutor>)> {
    let make = |isa, schedule| {
        let config =
            Config { isa: Some(isa), schedule, threads: Some(1), memory_limit: Some(4 << 30), ..Config::default() };
        CpuExecutor::with_config(&config).unwrap()
    };
    let levels = ["avx2", "avx512"].into_iter().filter(|l| prims::supported(l));
    levels.map(|l| (l, make(l, Schedule::Block), vec![make(l, Schedule::Vector), make(l, Schedule::Row)])).collect()
}

/// Inputs of every kind: small numbers, any bits at all, special values.
fn wild(p: &Program, rng: &mut Rng) -> Vec<HostTensor> {
    let make = |ty: &torsh_ir::shape::Type| {
        HostTensor::from_fn(ty.clone(), |_| {
            let x = match rng.below(12) {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                3 => -0.0,
                4 => 0.0,
                5 | 6 => f64::from(f32::from_bits(rng.next() as u32)),
                7 => f64::from(f32::from_bits(rng.next() as u32 & 0x807f_ffff)),
                _ => (rng.below(4001) as f64 - 2000.0) / 128.0,
            };
            let x = if ty.dtype.is_float() { Scalar::Float(x) } else { Scalar::Int(rng.next() as i64) };
            x.to_dtype(ty.dtype)
        })
    };
    p.inputs.iter().map(make).collect()
}

/// `skip` elements at the front are nobody's.
fn assert_bits(want: &[HostTensor], got: &[HostTensor], skip: usize, context: &dyn Fn() -> String) {
    for (o, (w, g)) in want.iter().zip(got).enumerate() {
        for i in skip..w.len() {
            let nan = |t: &HostTensor| matches!(t.get(i), Scalar::Float(x) if x.is_nan());
            let same = w.bits(i) == g.bits(i) || (nan(w) && nan(g));
            assert!(same, "output {o} element {i}: want {:?}, got {:?}\n{}", w.get(i), g.get(i), context());
        }
    }
}

fn compare(kernel: Kernel, rng: &mut Rng, all: &[(&'static str, CpuExecutor, Vec<CpuExecutor>)]) {
    let p = program(kernel);
    p.verify().unwrap();
    let skip = kernel_skip(&p);
    let x = wild(&p, rng);
    for (level, block, others) in all {
        let want = run_on(block, &p, &x, false);
        for other in others {
            let got = run_on(other, &p, &x, false);
            assert_bits(&want, &got, skip, &|| format!("{level}\n{}", torsh_ir::text::program(&p)));
        }
    }
}

/// The first element that the kernel of a program stores.
fn kernel_skip(p: &Program) -> usize {
    let torsh_ir::program::StepOp::Kernel { kernel, .. } = &p.steps[0].op else { return 0 };
    kernel.stages.iter().flat_map(|s| &s.stores).map(|s| s.index.offset as usize).max().unwrap_or(0)
}

/// Stores `values` and is done; lengths are those of the only axis.
fn finish(mut m: Make, n: usize, insts: Vec<ValueId>, values: &[ValueId], offset: usize) -> Kernel {
    let mut stores = Vec::new();
    for &value in values {
        let param = m.param(m.0.value(value).dtype, n + offset, Access::Write);
        stores.push(Store { param, index: affine(offset as i64, &[1]), value });
    }
    m.0.stages.push(Stage { domain: Domain::Full, insts, reduces: vec![], stores });
    m.0
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const SMALL: [DType; 8] =
    [DType::F32, DType::F16, DType::BF16, DType::I32, DType::Bool, DType::U8, DType::I8, DType::I16];

#[test]
fn each_unary_function_gives_the_bits_of_its_primitive() {
    let (all, mut rng) = (executors(), Rng(1));
    for &op in UnOp::ALL {
        for dtype in SMALL {
            if op == UnOp::Not && dtype.is_float()
                || !matches!(op, UnOp::Not | UnOp::Neg | UnOp::Abs | UnOp::Sign) && !dtype.is_float()
                || dtype == DType::Bool && op != UnOp::Not
            {
                continue;
            }
            let n = 300 + rng.below(40);
            let mut m = Make::new(&[], &[n]);
            let a = m.param(dtype, n, Access::Read);
            let x = m.load(a, 0, &[1]);
            let y = m.op(ScalarOp::Un(op), &[x], dtype);
            compare(finish(m, n, vec![x, y], &[y], 0), &mut rng, &all);
        }
    }
}

#[test]
fn vector_functions_are_what_runs() {
    for (level, _, others) in &executors() {
        let n = 100;
        let mut m = Make::new(&[], &[n]);
        let a = m.param(DType::F32, n, Access::Read);
        let x = m.load(a, 0, &[1]);
        let y = m.op(ScalarOp::Un(UnOp::Exp), &[x], DType::F32);
        let p = program(finish(m, n, vec![x, y], &[y], 0));
        let exe = others[0].load(std::sync::Arc::new(p)).unwrap();
        let text = exe.listing();
        let register = if *level == "avx512" { "vmulps z" } else { "vmulps y" };
        assert!(text.contains("vector schedule") && !text.contains("exp_f32"), "{text}");
        assert!(text.contains(register) || text.contains("vfmadd"), "{text}");
    }
}

#[test]
fn conversions_give_the_bits_of_their_primitives() {
    let (all, mut rng) = (executors(), Rng(2));
    for from in DType::ALL {
        for to in DType::ALL {
            let n = 200 + rng.below(40);
            let mut m = Make::new(&[], &[n]);
            let a = m.param(from, n, Access::Read);
            let x = m.load(a, 0, &[1]);
            let y = m.op(ScalarOp::Cast, &[x], to);
            compare(finish(m, n, vec![x, y], &[y], 0), &mut rng, &all);
        }
    }
}

/// A random straight line of operations over `loads` loads.
fn random_map(rng: &mut Rng, n: usize, dtypes: &[DType], loads: usize, ops: usize, outputs: usize) -> Kernel {
    let mut m = Make::new(&[], &[n]);
    let mut insts = Vec::new();
    let mut of: Vec<(DType, ValueId)> = Vec::new();
    let pad = rng.below(3);
    for i in 0..loads {
        let dtype = dtypes[i % dtypes.len()];
        let broadcast = rng.chance(20);
        let a = m.param(dtype, n + pad + 1, Access::Read);
        let v = m.load(a, pad as i64, &[i64::from(!broadcast)]);
        insts.push(v);
        of.push((dtype, v));
    }
    for _ in 0..ops {
        let dtype = rng.pick(dtypes);
        let find = |of: &[(DType, ValueId)], rng: &mut Rng, dtype: DType| {
            let fits: Vec<ValueId> = of.iter().filter(|(d, _)| *d == dtype).map(|&(_, v)| v).collect();
            (!fits.is_empty()).then(|| rng.pick(&fits))
        };
        let Some(x) = find(&of, rng, dtype) else { continue };
        let y = if rng.chance(25) {
            let c = m.constant([0.0, 1.0, -2.5, 3.0][rng.below(4)], dtype);
            insts.push(c);
            c
        } else {
            find(&of, rng, dtype).unwrap()
        };
        let cond = find(&of, rng, DType::Bool);
        let (op, args, out) = match rng.below(8) {
            0 if dtype.is_float() => {
                let op =
                    rng.pick(&[UnOp::Exp, UnOp::Tanh, UnOp::Sqrt, UnOp::Floor, UnOp::Neg, UnOp::Sigmoid, UnOp::Sign]);
                (ScalarOp::Un(op), vec![x], dtype)
            }
            1 => (ScalarOp::Cmp(rng.pick(CmpOp::ALL)), vec![x, y], DType::Bool),
            2 if cond.is_some() => (ScalarOp::Select, vec![cond.unwrap(), x, y], dtype),
            3 => (ScalarOp::Cast, vec![x], rng.pick(dtypes)),
            _ => {
                let mut ops = vec![BinOp::Add, BinOp::Mul, BinOp::Max, BinOp::Min];
                if dtype.is_float() {
                    ops.extend([BinOp::Div, BinOp::Sub, BinOp::FloorDiv]);
                } else {
                    ops.extend([BinOp::And, BinOp::Or, BinOp::Xor]);
                }
                if rng.chance(3) && dtype.is_float() {
                    ops = vec![BinOp::Fmod];
                }
                (ScalarOp::Bin(rng.pick(&ops)), vec![x, y], dtype)
            }
        };
        let v = m.op(op, &args, out);
        insts.push(v);
        of.push((out, v));
    }
    let last: Vec<ValueId> = of.iter().rev().take(outputs).map(|&(_, v)| v).collect();
    finish(m, n, insts, &last, pad)
}

#[test]
fn random_maps_give_the_bits_of_the_block_schedule() {
    let (all, mut rng) = (executors(), Rng(3));
    for case in 0..240 {
        let n = if case < 71 { case } else { rng.pick(&[1, 15, 16, 17, 64, 129, 511, 513, 1030, 3000]) };
        let dtypes = if rng.chance(50) { &SMALL[..1] } else { &SMALL };
        let (loads, ops) = (1 + rng.below(6), 1 + rng.below(24));
        let outputs = 1 + rng.below(3);
        compare(random_map(&mut rng, n, dtypes, loads, ops, outputs), &mut rng, &all);
    }
}

#[test]
fn more_values_than_registers() {
    let (all, mut rng) = (executors(), Rng(4));
    for case in 0..12 {
        let n = rng.pick(&[5, 67, 700]);
        let mut m = Make::new(&[], &[n]);
        let count = 34 + case;
        let mut insts = Vec::new();
        let mut values = Vec::new();
        for i in 0..count {
            let a = m.param(DType::F32, n, Access::Read);
            let x = m.load(a, 0, &[1]);
            let y = m.op(ScalarOp::Un(if i % 3 == 0 { UnOp::Exp } else { UnOp::Abs }), &[x], DType::F32);
            insts.extend([x, y]);
            values.push(y);
        }
        // Masks too: compared in one order, chosen by in the other.
        let mut masks = Vec::new();
        for i in 0..count - 1 {
            let c = m.op(ScalarOp::Cmp(CmpOp::Lt), &[values[i], values[i + 1]], DType::Bool);
            insts.push(c);
            masks.push(c);
        }
        let mut sum = values[0];
        for (i, &v) in values.iter().enumerate().rev() {
            let s = m.op(ScalarOp::Bin(BinOp::Add), &[sum, v], DType::F32);
            sum = m.op(ScalarOp::Select, &[masks[i % masks.len()], s, sum], DType::F32);
            insts.extend([s, sum]);
        }
        compare(finish(m, n, insts, &[sum, values[3]], 0), &mut rng, &all);
    }
}

#[test]
fn updates_in_place_read_before_they_write() {
    let (all, mut rng) = (executors(), Rng(5));
    for n in [1, 7, 16, 40, 200, 1500] {
        let mut m = Make::new(&[], &[n]);
        let a = m.param(DType::F32, n, Access::ReadWrite);
        let b = m.param(DType::F32, n, Access::ReadWrite);
        let (x, y) = (m.load(a, 0, &[1]), m.load(b, 0, &[1]));
        let s = m.op(ScalarOp::Bin(BinOp::Add), &[x, y], DType::F32);
        let t = m.op(ScalarOp::Un(UnOp::Tanh), &[s], DType::F32);
        // What was in `a` is also stored as it was, after `a` has been overwritten.
        let c = m.param(DType::F32, n, Access::Write);
        let store = |param, value| Store { param, index: affine(0, &[1]), value };
        let stores = vec![store(a, t), store(b, x), store(c, x)];
        m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x, y, s, t], reduces: vec![], stores });
        compare(m.0, &mut rng, &all);
    }
}

#[test]
fn reductions_give_the_bits_of_their_primitives() {
    let (all, mut rng) = (executors(), Rng(6));
    for cols in (1..40).chain([511, 512, 513, 1030]) {
        for dtype in FLOATS.into_iter().chain([DType::I32, DType::Bool]) {
            let rows = 3;
            let mut m = Make::new(&[rows], &[cols]);
            let a = m.param(dtype, rows * cols, Access::Read);
            let x = m.load(a, 0, &[cols as i64, 1]);
            let mut insts = vec![x];
            let ops: &[ReduceOp] = match dtype {
                DType::Bool => &[ReduceOp::Any, ReduceOp::All],
                _ => &[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod, ReduceOp::ArgMax],
            };
            let y = if dtype.is_float() { m.op(ScalarOp::Un(UnOp::Abs), &[x], dtype) } else { x };
            if y != x {
                insts.push(y);
            }
            let mut reduces = Vec::new();
            let mut stores = Vec::new();
            for &op in ops {
                let out_dtype = if op == ReduceOp::ArgMax { DType::I64 } else { dtype };
                let out = m.value(torsh_ir::kernel::Inst::Reduced, out_dtype);
                reduces.push(Reduce { op, value: y, out });
                let param = m.param(out_dtype, rows, Access::Write);
                stores.push(Store { param, index: affine(0, &[1, 0]), value: out });
            }
            m.0.stages.push(Stage { domain: Domain::Full, insts, reduces, stores: vec![] });
            m.0.stages.push(Stage { domain: Domain::Row, insts: vec![], reduces: vec![], stores });
            compare(m.0, &mut rng, &all);
        }
    }
}

#[test]
fn quotients_by_one_divisor_are_rounded_once() {
    let (all, mut rng) = (executors(), Rng(7));
    let (rows, cols) = (1500, 523);
    let mut m = Make::new(&[rows], &[cols]);
    let a = m.param(DType::F32, rows * cols, Access::Read);
    let b = m.param(DType::F32, rows, Access::Read);
    let x = m.load(a, 0, &[cols as i64, 1]);
    let d = m.load(b, 0, &[1, 0]);
    let q = m.op(ScalarOp::Bin(BinOp::Div), &[x, d], DType::F32);
    let c = m.constant(3.0, DType::F32);
    let third = m.op(ScalarOp::Bin(BinOp::Div), &[x, c], DType::F32);
    let mut stores = Vec::new();
    for value in [q, third] {
        let param = m.param(DType::F32, rows * cols, Access::Write);
        stores.push(Store { param, index: affine(0, &[cols as i64, 1]), value });
    }
    m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x, d, q, c, third], reduces: vec![], stores });
    let p = program(m.0);
    p.verify().unwrap();
    // Whole vectors of moderate size in most rows, single odd ones in some; any mantissa.
    let number = |rng: &mut Rng, exponents: usize| {
        let exponent = (127 - exponents / 2 + rng.below(exponents)) as u32;
        f32::from_bits(rng.next() as u32 & 0x807f_ffff | exponent << 23)
    };
    let divisor = |rng: &mut Rng| match rng.below(10) {
        0 => number(rng, 250),
        1 => f32::from_bits(rng.next() as u32 | 0x007f_fff0),
        _ => number(rng, 40),
    };
    let tensor = |ty: &torsh_ir::shape::Type, f: &mut dyn FnMut(usize) -> f32| {
        HostTensor::from_fn(ty.clone(), |i| Scalar::Float(f64::from(f(i))))
    };
    let x = tensor(&p.inputs[0], &mut |i| if i / cols % 7 == 3 { number(&mut rng, 250) } else { number(&mut rng, 36) });
    let mut rng = Rng(8);
    let d = tensor(&p.inputs[1], &mut |_| divisor(&mut rng));
    for (level, _, others) in &all {
        for other in others {
            let got = run_on(other, &p, &[x.clone(), d.clone()], false);
            for i in 0..rows * cols {
                let Scalar::Float(n) = x.get(i) else { continue };
                for (out, by) in [(0, d.get(i / cols)), (1, Scalar::Float(3.0))] {
                    let Scalar::Float(by) = by else { continue };
                    let want = n as f32 / by as f32;
                    let same = u64::from(want.to_bits()) == got[out].bits(i) || want.is_nan();
                    assert!(same, "{level}: {n} / {by} is {want}, got {:?}", got[out].get(i));
                }
            }
        }
    }
}

#[test]
fn transposed_operands_come_in_tiles() {
    let (all, mut rng) = (executors(), Rng(9));
    for (outer, rows, cols) in
        [(1, 16, 16), (1, 37, 53), (3, 33, 300), (2, 64, 517), (1, 15, 700), (2, 16, 2), (1, 70, 600), (2, 49, 257)]
    {
        for dtype in [DType::F32, DType::I32] {
            let numel = outer * rows * cols;
            let mut m = Make::new(&[outer, rows], &[cols]);
            let plain = [(rows * cols) as i64, cols as i64, 1];
            let across = [(rows * cols) as i64, 1, rows as i64];
            let a = m.param(dtype, numel + 1, Access::Read);
            let b = m.param(dtype, numel, Access::Read);
            let c = m.param(dtype, numel, Access::Read);
            let d = m.param(dtype, outer * rows, Access::Read);
            let x = m.load(a, 1, &across);
            let y = m.load(b, 0, &plain);
            let z = m.load(c, 0, &across);
            let u = m.load(d, 0, &[rows as i64, 1, 0]);
            let s = m.op(ScalarOp::Bin(BinOp::Add), &[x, y], dtype);
            let t = m.op(ScalarOp::Bin(BinOp::Mul), &[z, u], dtype);
            let r = m.op(ScalarOp::Bin(BinOp::Max), &[s, t], dtype);
            let mut stores = Vec::new();
            for value in [r, x] {
                let param = m.param(dtype, numel, Access::Write);
                stores.push(Store { param, index: affine(0, &plain), value });
            }
            m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x, y, z, u, s, t, r], reduces: vec![], stores });
            compare(m.0, &mut rng, &all);
        }
    }
}

#[test]
fn sums_of_columns_give_the_bits_of_their_primitives() {
    let (all, mut rng) = (executors(), Rng(10));
    for (points, cols) in [(8, 64), (1, 100), (7, 5), (9, 130), (21, 515), (64, 1037), (3, 1), (16, 31)] {
        for dtype in FLOATS {
            let mut m = Make::new(&[cols], &[points]);
            let a = m.param(dtype, points * cols, Access::Read);
            let b = m.param(dtype, cols, Access::Read);
            // Centred by what an earlier stage has per column, as variances are.
            let centre = m.load(b, 0, &[1, 0]);
            let x = m.load(a, 0, &[1, cols as i64]);
            let y = m.op(ScalarOp::Bin(BinOp::Sub), &[x, centre], dtype);
            let z = m.op(ScalarOp::Bin(BinOp::Mul), &[y, y], dtype);
            let mut reduces = Vec::new();
            let mut stores = Vec::new();
            for value in [x, z] {
                let out = m.value(torsh_ir::kernel::Inst::Reduced, dtype);
                reduces.push(Reduce { op: ReduceOp::Sum, value, out });
                let param = m.param(dtype, cols, Access::Write);
                stores.push(Store { param, index: affine(0, &[1, 0]), value: out });
            }
            let row = |insts, stores| Stage { domain: Domain::Row, insts, reduces: vec![], stores };
            m.0.stages.push(row(vec![centre], vec![]));
            m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x, y, z], reduces, stores: vec![] });
            m.0.stages.push(row(vec![], stores));
            compare(m.0, &mut rng, &all);
        }
    }
}

#[test]
fn rows_from_beyond_the_cache_are_fetched_by_the_last_stage_that_reads_the_row_before() {
    let (all, mut rng) = (executors(), Rng(11));
    let cols = 1030;
    let kernel = |rows: usize| {
        let mut m = Make::new(&[rows], &[cols]);
        let a = m.param(DType::F32, rows * cols, Access::Read);
        let at = [cols as i64, 1];
        let x = m.load(a, 0, &at);
        let max = m.value(torsh_ir::kernel::Inst::Reduced, DType::F32);
        let reduces = vec![Reduce { op: ReduceOp::Max, value: x, out: max }];
        m.0.stages.push(Stage { domain: Domain::Full, insts: vec![x], reduces, stores: vec![] });
        let again = m.load(a, 0, &at);
        let y = m.op(ScalarOp::Bin(BinOp::Sub), &[again, max], DType::F32);
        let param = m.param(DType::F32, rows * cols, Access::Write);
        let stores = vec![Store { param, index: affine(0, &at), value: y }];
        m.0.stages.push(Stage { domain: Domain::Full, insts: vec![again, y], reduces: vec![], stores });
        m.0
    };
    for (level, _, others) in &all {
        let listing = |rows| others[0].load(std::sync::Arc::new(program(kernel(rows)))).unwrap().listing();
        let (small, large) = (listing(8), listing(20_000));
        assert!(!small.contains("prefetch"), "{level}: {small}");
        assert!(large.contains(&format!("prefetcht1 [r8+rax*4+{}]", 4 * cols)), "{level}: {large}");
        let passes: Vec<&str> = large.split("vector function").collect();
        assert!(!passes[1].contains("prefetch") && passes[2].contains("prefetch"), "{level}: {large}");
    }
    compare(kernel(1200), &mut rng, &all);
}

#[test]
fn a_small_map_keeps_nothing_in_scratch_memory() {
    for (level, _, others) in &executors() {
        let n = 16;
        let mut m = Make::new(&[], &[n]);
        let a = m.param(DType::F32, n, Access::Read);
        let x = m.load(a, 0, &[1]);
        let two = m.constant(2.0, DType::F32);
        let y = m.op(ScalarOp::Bin(BinOp::Mul), &[x, two], DType::F32);
        let p = program(finish(m, n, vec![x, two, y], &[y], 0));
        let exe = others[0].load(std::sync::Arc::new(p)).unwrap();
        let text = exe.listing();
        // What the function is given is on the stack, the constant in its code.
        assert!(text.contains("stack_addr") && !text.contains("f32const"), "{level}: {text}");
    }
}

#[test]
fn exponentials_and_what_divides_give_the_bits_of_their_primitives() {
    // All floats by a prime step, then small ones and those whose results are subnormal.
    let all = executors();
    let n = 1 << 16;
    for &op in &[UnOp::Sigmoid, UnOp::Tanh, UnOp::Atan, UnOp::Asinh, UnOp::Sinh, UnOp::Cosh, UnOp::Exp, UnOp::Exp2] {
        let mut m = Make::new(&[], &[n]);
        let a = m.param(DType::F32, n, Access::Read);
        let x = m.load(a, 0, &[1]);
        let y = m.op(ScalarOp::Un(op), &[x], DType::F32);
        let p = program(finish(m, n, vec![x, y], &[y], 0));
        for (start, step) in
            [(0u32, 65_537u32), (0xb300_0000, 257), (0x3300_0000, 257), (0x42b0_0000, 61), (0xc2ae_0000, 31)]
        {
            let x = HostTensor::from_fn(p.inputs[0].clone(), |i| {
                Scalar::Float(f64::from(f32::from_bits(start.wrapping_add((i as u32).wrapping_mul(step)))))
            });
            for (level, block, others) in &all {
                let want = run_on(block, &p, std::slice::from_ref(&x), false);
                let got = run_on(&others[0], &p, std::slice::from_ref(&x), false);
                assert_bits(&want, &got, 0, &|| format!("{level} {op:?}"));
            }
        }
    }
}
