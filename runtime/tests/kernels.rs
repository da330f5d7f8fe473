//! Kernels written by hand, against the interpreter.

mod common;

use common::{Make, Rng, affine, check, inputs, program};
use torsh_ir::DType::{self, BF16, Bool, F16, F32, F64, I32, I64};
use torsh_ir::kernel::{Access, Domain, Inst, Kernel, Reduce, Stage, Store, ValueId};
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use torsh_runtime::{Config, CpuExecutor};

fn executor() -> CpuExecutor {
    CpuExecutor::with_config(&Config { threads: Some(2), ..Config::default() }).unwrap()
}

fn full(insts: Vec<ValueId>, reduces: Vec<Reduce>, stores: Vec<Store>) -> Stage {
    Stage { domain: Domain::Full, insts, reduces, stores }
}

fn run(kernel: Kernel, tolerance: f64) {
    let p = program(kernel);
    p.verify().unwrap();
    let mut rng = Rng(7);
    let x = inputs(&p, &mut rng);
    check(&executor(), &p, &x, tolerance, "by hand");
}

/// `y = tanh(x * w + b)` over vectors of every length round a block.
#[test]
fn elementwise_of_every_length() {
    for dtype in [F32, F64, F16, BF16] {
        for n in [0usize, 1, 2, 15, 16, 17, 255, 256, 257, 511, 512, 513, 1025, 70_000] {
            let mut m = Make::new(&[], &[n]);
            let params: Vec<u32> = (0..3).map(|_| m.param(dtype, n, Access::Read)).collect();
            let out = m.param(dtype, n, Access::Write);
            let v: Vec<ValueId> = params.iter().map(|&p| m.load(p, 0, &[1])).collect();
            let t = m.op(ScalarOp::Bin(BinOp::Mul), &[v[0], v[1]], dtype);
            let u = m.op(ScalarOp::Bin(BinOp::Add), &[t, v[2]], dtype);
            let y = m.op(ScalarOp::Un(UnOp::Tanh), &[u], dtype);
            let store = Store { param: out, index: affine(0, &[1]), value: y };
            m.0.stages.push(full(vec![v[0], v[1], v[2], t, u, y], vec![], vec![store]));
            run(m.0, 1e-6);
        }
    }
}

/// Softmax in three stages, over the inner axis, or over a strided one (column mode).
fn softmax(rows: usize, cols: usize, row_stride: i64, col_stride: i64, dtype: DType) -> Kernel {
    let mut m = Make::new(&[rows], &[cols]);
    let n = rows * cols;
    let x = m.param(dtype, n, Access::Read);
    let y = m.param(dtype, n, Access::Write);
    let map = [row_stride, col_stride];
    let v = m.load(x, 0, &map);
    let max = m.value(Inst::Reduced, dtype);
    let d = m.op(ScalarOp::Bin(BinOp::Sub), &[v, max], dtype);
    let e = m.op(ScalarOp::Un(UnOp::Exp), &[d], dtype);
    let sum = m.value(Inst::Reduced, dtype);
    let r = m.op(ScalarOp::Un(UnOp::Recip), &[sum], dtype);
    let q = m.op(ScalarOp::Bin(BinOp::Mul), &[e, r], dtype);
    let reduce = |op, value, out| Reduce { op, value, out };
    m.0.stages.push(full(vec![v], vec![reduce(ReduceOp::Max, v, max)], vec![]));
    m.0.stages.push(full(vec![d, e], vec![reduce(ReduceOp::Sum, e, sum)], vec![]));
    m.0.stages.push(Stage { domain: Domain::Row, insts: vec![r], reduces: vec![], stores: vec![] });
    m.0.stages.push(full(vec![q], vec![], vec![Store { param: y, index: affine(0, &map), value: q }]));
    m.0
}

#[test]
fn softmax_by_row_and_by_column() {
    for dtype in [F32, F64, F16, BF16] {
        let tolerance = if dtype.size() == 2 { 2e-2 } else { 1e-6 };
        for (rows, cols) in [(1, 1), (3, 5), (4, 513), (130, 33), (2000, 64)] {
            run(softmax(rows, cols, cols as i64, 1, dtype), tolerance);
            run(softmax(rows, cols, 1, rows as i64, dtype), tolerance);
        }
    }
}

#[test]
fn folds_of_nothing_give_the_identity() {
    for (op, dtype) in [(ReduceOp::Sum, F32), (ReduceOp::Prod, I32), (ReduceOp::Max, F64), (ReduceOp::All, Bool)] {
        let mut m = Make::new(&[5], &[0]);
        let x = m.param(dtype, 0, Access::Read);
        let y = m.param(dtype, 5, Access::Write);
        let v = m.load(x, 0, &[0, 1]);
        let out = m.value(Inst::Reduced, dtype);
        m.0.stages.push(full(vec![v], vec![Reduce { op, value: v, out }], vec![]));
        let store = Store { param: y, index: affine(0, &[1, 0]), value: out };
        m.0.stages.push(Stage { domain: Domain::Row, insts: vec![], reduces: vec![], stores: vec![store] });
        run(m.0, 0.0);
    }
}

#[test]
fn updates_in_place() {
    for dtype in [F32, F16, I64] {
        let n = 3000;
        let mut m = Make::new(&[], &[n]);
        let p = m.param(dtype, n, Access::ReadWrite);
        let g = m.param(dtype, n, Access::Read);
        let o = m.param(dtype, n, Access::Write);
        let x = m.load(p, 0, &[1]);
        let d = m.load(g, 0, &[1]);
        let y = m.op(ScalarOp::Bin(BinOp::Sub), &[x, d], dtype);
        // The old value goes elsewhere although its place is overwritten first.
        let stores = vec![
            Store { param: p, index: affine(0, &[1]), value: y },
            Store { param: o, index: affine(0, &[1]), value: x },
        ];
        m.0.stages.push(full(vec![x, d, y], vec![], stores));
        run(m.0, 0.0);
    }
}

#[test]
fn transposed_broadcast_and_flipped_operands() {
    let (r, c) = (37usize, 1030usize);
    let mut m = Make::new(&[r], &[c]);
    let a = m.param(F32, r * c, Access::Read);
    let b = m.param(F32, c, Access::Read);
    let s = m.param(F32, r, Access::Read);
    let one = m.param(I32, 1, Access::Read);
    let y = m.param(F32, r * c, Access::Write);
    let z = m.param(Bool, r * c, Access::Write);
    let x = m.load(a, 0, &[1, r as i64]);
    let w = m.load(b, c as i64 - 1, &[0, -1]);
    let q = m.load(s, 0, &[1, 0]);
    let k = m.load(one, 0, &[0, 0]);
    let kf = m.op(ScalarOp::Cast, &[k], F32);
    let t = m.op(ScalarOp::Bin(BinOp::Mul), &[x, w], F32);
    let u = m.op(ScalarOp::Bin(BinOp::Add), &[q, t], F32);
    let v = m.op(ScalarOp::Bin(BinOp::Sub), &[u, kf], F32);
    let less = m.op(ScalarOp::Cmp(CmpOp::Lt), &[v, q], Bool);
    let h = m.op(ScalarOp::Select, &[less, q, v], F32);
    let stores = vec![
        Store { param: y, index: affine(0, &[c as i64, 1]), value: h },
        Store { param: z, index: affine(0, &[1, r as i64]), value: less },
    ];
    m.0.stages.push(full(vec![x, w, q, k, kf, t, u, v, less, h], vec![], stores));
    run(m.0, 0.0);
}
