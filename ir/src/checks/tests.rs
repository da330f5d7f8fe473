//! What counts as checked and what does not.

mod random;

use super::may_refuse;
use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Param, Reduce, Stage, Store, Value, ValueId};
use crate::program::{BufDecl, BufId, LibCall, Place, Program, ScatterMode, Step, StepOp};
use crate::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use crate::{DType, Scalar, Shape, Type};
use smallvec::smallvec;
use std::sync::Arc;

/// A program under construction.
struct Make(Program);

impl Make {
    fn new() -> Make {
        Make(Program { arena_bytes: 1 << 12, peak_bytes: 1 << 13, ..Program::default() })
    }

    fn buffer(&mut self, dtype: DType, dims: &[usize], place: Place) -> BufId {
        self.0.buffers.push(BufDecl { ty: Type::new(dtype, Shape::of(dims)), place });
        BufId(self.0.buffers.len() as u32 - 1)
    }

    fn input(&mut self, dtype: DType, dims: &[usize]) -> BufId {
        self.0.inputs.push(Type::new(dtype, Shape::of(dims)));
        self.buffer(dtype, dims, Place::Input(self.0.inputs.len() as u32 - 1))
    }

    fn constant(&mut self, numbers: &[i64]) -> BufId {
        let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.buffer(DType::I64, &[numbers.len()], Place::Const(data.into()))
    }

    fn arena(&mut self, dims: &[usize], offset: usize) -> BufId {
        self.buffer(DType::I64, dims, Place::Arena { offset })
    }

    fn lib(&mut self, call: LibCall, args: &[BufId], out: BufId) {
        let op = StepOp::Lib { call, args: args.to_vec(), out };
        self.0.steps.push(Step { op, ops: vec!["test"], loc: None });
    }

    fn copy(&mut self, from: BufId, to: BufId) {
        self.lib(LibCall::Copy, &[from], to);
    }

    fn kernel(&mut self, kernel: Kernel, args: &[BufId]) {
        let op = StepOp::Kernel { kernel: Arc::new(kernel), args: args.to_vec() };
        self.0.steps.push(Step { op, ops: vec!["test"], loc: None });
    }

    /// A step of `x` by `index`, whose other operands and result are made for it.
    fn by(&mut self, what: &str, dim: usize, x: &[usize], index: BufId) {
        let n = self.0.buffers[index.0 as usize].ty.numel();
        let mut other = x.to_vec();
        other[dim] = n;
        let x = self.input(DType::F32, x);
        let dims = self.0.buffers[x.0 as usize].ty.shape.to_vec();
        let mode = ScatterMode::Add;
        match what {
            "take" | "gather" => {
                let out = self.buffer(DType::F32, &other, Place::Output);
                let call = if what == "take" { LibCall::Take { dim } } else { LibCall::Gather { dim } };
                self.lib(call, &[x, index], out);
            }
            _ => {
                let (src, out) = (self.input(DType::F32, &other), self.buffer(DType::F32, &dims, Place::Output));
                let call = if what == "put" { LibCall::IndexPut { dim, mode } } else { LibCall::Scatter { dim, mode } };
                self.lib(call, &[x, index, src], out);
            }
        }
    }

    /// What the steps that check indices may do.
    #[track_caller]
    fn gives(&self, want: &[bool]) {
        self.0.verify().unwrap();
        let refuses = may_refuse(&self.0);
        let checks = |s: &Step| {
            matches!(&s.op, StepOp::Lib { call, .. } if matches!(call.tensor_op(),
                Some(("take" | "gather" | "scatter" | "index_put", _))))
        };
        let found: Vec<bool> = self.0.steps.iter().zip(&refuses).filter(|(s, _)| checks(s)).map(|(_, &r)| r).collect();
        assert_eq!(found, want, "{}", crate::text::program(&self.0));
        assert!(self.0.steps.iter().zip(refuses).all(|(s, r)| !r || checks(s)));
    }
}

#[test]
fn a_result_of_another_shape_has_another_dim() {
    for (call, refuses) in [
        (LibCall::IndexPut { dim: 0, mode: ScatterMode::Add }, [false, true]),
        (LibCall::Scatter { dim: 0, mode: ScatterMode::Add }, [false, true]),
    ] {
        for (dims, refuses) in [&[4][..], &[2, 2]].into_iter().zip(refuses) {
            let mut make = Make::new();
            let index = make.constant(&[3]);
            let (base, src) = (make.input(DType::F32, &[4]), make.input(DType::F32, &[1]));
            let out = make.buffer(DType::F32, dims, Place::Output);
            make.lib(call.clone(), &[base, index, src], out);
            assert_eq!(may_refuse(&make.0), [refuses], "{call:?} {dims:?}");
        }
    }
}

fn along(offset: i64, stride: i64) -> Affine {
    Affine { offset, strides: smallvec![stride] }
}

/// A kernel over `n` points with one result, `values` of which the last is stored. Parameters are `n` integers each.
fn kernel(n: usize, reads: usize, values: Vec<(Inst, DType)>) -> Kernel {
    let values: Vec<Value> = values.into_iter().map(|(inst, dtype)| Value { inst, dtype }).collect();
    let last = ValueId(values.len() as u32 - 1);
    let param = |access| Param { dtype: DType::I64, numel: n, access };
    let mut params = vec![param(Access::Read); reads];
    params.push(param(Access::Write));
    let store = Store { param: reads as u32, index: along(0, 1), value: last };
    let insts = (0..values.len() as u32).map(ValueId).collect();
    Kernel {
        name: "test".into(),
        params,
        grid: smallvec![],
        inner: smallvec![n],
        values,
        stages: vec![Stage { domain: Domain::Full, insts, reduces: vec![], stores: vec![store] }],
    }
}

fn load(param: u32) -> (Inst, DType) {
    (Inst::Load { param, index: along(0, 1) }, DType::I64)
}

fn number(n: i64) -> (Inst, DType) {
    (Inst::Const(Scalar::Int(n)), DType::I64)
}

fn op(op: ScalarOp, x: &[u32], dtype: DType) -> (Inst, DType) {
    (Inst::Op(op, x.iter().map(|&x| ValueId(x)).collect()), dtype)
}

/// `select(i < 0, i + size, i)` of four indices.
fn normal(size: i64) -> Kernel {
    let less = op(ScalarOp::Cmp(CmpOp::Lt), &[0, 1], DType::Bool);
    let sum = op(ScalarOp::Bin(BinOp::Add), &[0, 2], DType::I64);
    let select = op(ScalarOp::Select, &[3, 4, 0], DType::I64);
    kernel(4, 1, vec![load(0), number(0), number(size), less, sum, select])
}

#[test]
fn an_index_that_was_checked_is_not_refused_later() {
    for (first, second) in [("take", "put"), ("gather", "scatter"), ("gather", "put"), ("put", "take")] {
        let mut m = Make::new();
        let i = m.input(DType::I64, &[4]);
        m.by(first, 0, &[5], i);
        m.by(second, 0, &[5], i);
        m.gives(&[true, false]);
    }
}

#[test]
fn only_a_smaller_or_equal_extent_counts() {
    for (sizes, refuses) in [([5, 5], false), ([5, 8], false), ([8, 5], true)] {
        let mut m = Make::new();
        let i = m.input(DType::I64, &[4]);
        m.by("take", 0, &[sizes[0]], i);
        m.by("put", 0, &[sizes[1]], i);
        m.gives(&[true, refuses]);
    }
    // The extent is that of the dim of the step.
    for (dims, refuses) in [([0, 1], false), ([1, 0], true)] {
        let mut m = Make::new();
        let i = m.input(DType::I64, &[4]);
        m.by("take", dims[0], &[3, 5], i);
        m.by("put", dims[1], &[3, 5], i);
        m.gives(&[true, refuses]);
    }
}

#[test]
fn negative_indices_count_only_where_they_are_taken() {
    for (second, refuses) in [("put", false), ("scatter", true), ("gather", true)] {
        let mut m = Make::new();
        let i = m.input(DType::I64, &[4]);
        m.by("take", 0, &[5], i);
        m.by(second, 0, &[5], i);
        m.gives(&[true, refuses]);
    }
}

#[test]
fn another_index_is_another() {
    let mut m = Make::new();
    let (i, j) = (m.input(DType::I64, &[4]), m.input(DType::I64, &[4]));
    m.by("take", 0, &[5], i);
    m.by("put", 0, &[5], j);
    m.gives(&[true, true]);
}

#[test]
fn an_index_that_was_overwritten_is_another() {
    // At the same place, at an overlapping one, and by another dtype and back.
    for offset in [0, 64, 192] {
        let mut m = Make::new();
        let (i, j) = (m.input(DType::I64, &[32]), m.input(DType::I64, &[32]));
        let (a, b) = (m.arena(&[32], 64), m.arena(&[32], offset));
        m.copy(i, a);
        m.by("take", 0, &[5], a);
        m.copy(j, b);
        m.by("put", 0, &[5], b);
        m.gives(&[true, true]);
        // What was checked is still in the input.
        m.copy(i, a);
        m.by("put", 0, &[5], a);
        m.gives(&[true, true, false]);
    }
    let mut m = Make::new();
    let (i, j) = (m.input(DType::I64, &[4]), m.input(DType::I64, &[4]));
    let a = m.arena(&[4], 0);
    let f = m.buffer(DType::F64, &[4], Place::Arena { offset: 0 });
    m.copy(i, a);
    m.by("take", 0, &[5], a);
    m.lib(LibCall::Fill(Scalar::Float(1.0)), &[], f);
    m.copy(j, a);
    m.by("put", 0, &[5], a);
    m.gives(&[true, true]);
}

#[test]
fn an_index_elsewhere_in_the_arena_stays() {
    let mut m = Make::new();
    let (i, j) = (m.input(DType::I64, &[8]), m.input(DType::I64, &[8]));
    let (a, b) = (m.arena(&[8], 64), m.arena(&[8], 128));
    let reshaped = m.arena(&[2, 4], 64);
    m.copy(i, reshaped);
    m.by("take", 0, &[5], a);
    m.copy(j, b);
    m.by("put", 0, &[5], a);
    m.gives(&[true, false]);
}

#[test]
fn a_donated_index_that_was_overwritten_is_another() {
    let mut m = Make::new();
    let (i, j) = (m.input(DType::I64, &[4]), m.input(DType::I64, &[4]));
    let again = m.buffer(DType::I64, &[4], Place::Donated(0));
    m.by("take", 0, &[5], i);
    m.by("put", 0, &[5], again);
    m.copy(j, again);
    m.by("put", 0, &[5], again);
    m.gives(&[true, false, true]);
}

#[test]
fn known_indices_are_not_refused() {
    for (numbers, what, refuses) in [
        (&[0, 4, -5][..], "take", false),
        (&[0, 5], "take", true),
        (&[-6], "take", true),
        (&[-1], "gather", true),
        (&[4, 0], "scatter", false),
        (&[], "put", false),
    ] {
        let mut m = Make::new();
        let i = m.constant(numbers);
        m.by(what, 0, &[5], i);
        m.gives(&[refuses]);
    }
    for (size, refuses) in [(4, false), (3, true)] {
        let mut m = Make::new();
        let (x, i, j, k) = (m.input(DType::F32, &[4]), m.arena(&[4], 0), m.arena(&[4], 64), m.arena(&[4], 128));
        m.lib(LibCall::ArgSort { dim: 0, descending: false }, &[x], i);
        m.by("gather", 0, &[size], i);
        m.kernel(kernel(4, 0, vec![(Inst::Index(along(0, 1)), DType::I64)]), &[j]);
        m.by("scatter", 0, &[size], j);
        m.lib(LibCall::Fill(Scalar::Int(3)), &[], k);
        m.by("gather", 0, &[size], k);
        m.gives(&[refuses; 3]);
    }
}

#[test]
fn a_kernel_of_checked_indices_is_followed() {
    // First the index, then what was made of it before; negative ones then count from the end.
    for (size, with, what, refuses) in [
        (5, 5, "scatter", false),
        (5, 5, "put", false),
        (5, 4, "scatter", true),
        (5, 6, "scatter", true),
        (6, 6, "scatter", true),
        (4, 5, "scatter", false),
    ] {
        let mut m = Make::new();
        let (i, made) = (m.input(DType::I64, &[4]), m.arena(&[4], 0));
        m.kernel(normal(with), &[i, made]);
        m.by("take", 0, &[size], i);
        m.by(what, 0, &[5], made);
        m.gives(&[true, refuses]);
    }
    // That what was made is right says nothing of the index.
    let mut m = Make::new();
    let (i, made) = (m.input(DType::I64, &[4]), m.arena(&[4], 0));
    m.kernel(normal(5), &[i, made]);
    m.by("take", 0, &[5], made);
    m.by("put", 0, &[5], i);
    m.gives(&[true, true]);
    // The index is overwritten after the kernel has read it.
    let mut m = Make::new();
    let (i, j) = (m.input(DType::I64, &[4]), m.input(DType::I64, &[4]));
    let (copy, made) = (m.arena(&[4], 64), m.arena(&[4], 0));
    m.copy(i, copy);
    m.kernel(normal(5), &[copy, made]);
    m.copy(j, copy);
    m.by("take", 0, &[5], copy);
    m.by("scatter", 0, &[5], made);
    m.gives(&[true, true]);
}

#[test]
fn both_sides_of_a_condition_are_followed() {
    let truth = |what: ScalarOp, x: &[u32]| op(what, x, DType::Bool);
    let (and, or) = (ScalarOp::Bin(BinOp::And), ScalarOp::Bin(BinOp::Or));
    let (at_least, less, not) = (ScalarOp::Cmp(CmpOp::Ge), ScalarOp::Cmp(CmpOp::Lt), ScalarOp::Un(UnOp::Not));
    // v3: i >= 0, v4: i < 5; where the condition v5 holds, the index, elsewhere 0, or the other way round.
    for (conditions, otherwise, refuses) in [
        (vec![truth(and, &[3, 4])], false, false),
        (vec![truth(and, &[3, 4])], true, true),
        (vec![truth(or, &[3, 4])], false, true),
        // Where neither holds there is nothing.
        (vec![truth(or, &[3, 4])], true, false),
        (vec![truth(and, &[3, 4]), truth(not, &[5])], false, true),
        (vec![truth(and, &[3, 4]), truth(not, &[5])], true, false),
        // Outside of 0..5 on the one side or on the other.
        (vec![truth(not, &[3]), truth(not, &[4]), truth(or, &[5, 6])], true, false),
        (vec![truth(not, &[3]), truth(not, &[4]), truth(or, &[5, 6])], false, true),
        (vec![truth(not, &[3]), truth(not, &[4]), truth(and, &[5, 6])], true, true),
        (vec![truth(ScalarOp::Cmp(CmpOp::Eq), &[0, 1])], false, false),
        (vec![truth(ScalarOp::Cmp(CmpOp::Eq), &[0, 1])], true, true),
        (vec![truth(ScalarOp::Cmp(CmpOp::Ne), &[0, 1])], true, false),
    ] {
        let mut values = vec![load(0), number(0), number(5), truth(at_least, &[0, 1]), truth(less, &[0, 2])];
        values.extend(conditions);
        let condition = values.len() as u32 - 1;
        let sides = if otherwise { [condition, 1, 0] } else { [condition, 0, 1] };
        values.push(op(ScalarOp::Select, &sides, DType::I64));
        let mut m = Make::new();
        let (i, made) = (m.input(DType::I64, &[4]), m.arena(&[4], 0));
        m.kernel(kernel(4, 1, values), &[i, made]);
        m.by("gather", 0, &[5], made);
        m.gives(&[refuses]);
    }
}

#[test]
fn numbers_that_are_rounded_are_others() {
    let odd = (1 << 24) + 3;
    for (through, refuses) in [(DType::F32, true), (DType::I32, false), (DType::I8, true)] {
        let values = vec![number(odd), op(ScalarOp::Cast, &[0], through), op(ScalarOp::Cast, &[1], DType::I64)];
        let mut m = Make::new();
        let made = m.arena(&[4], 0);
        m.kernel(kernel(4, 0, values), &[made]);
        m.by("gather", 0, &[odd as usize + 1], made);
        m.gives(&[refuses]);
    }
}

#[test]
fn what_is_learned_is_not_forgotten_for_less() {
    let mut m = Make::new();
    let i = m.input(DType::I64, &[4]);
    for size in [5, 8, 5, 4] {
        m.by("take", 0, &[size], i);
    }
    m.gives(&[true, false, false, true]);
}

#[test]
fn a_kernel_that_writes_a_part_leaves_the_rest() {
    let mut part = kernel(4, 0, vec![(Inst::Index(along(0, 1)), DType::I64)]);
    part.inner = smallvec![2];
    let mut m = Make::new();
    let (i, a) = (m.input(DType::I64, &[4]), m.arena(&[4], 0));
    m.copy(i, a);
    m.kernel(part, &[a]);
    m.by("take", 0, &[5], a);
    m.by("put", 0, &[5], a);
    m.gives(&[true, false]);
}

#[test]
fn a_maximum_and_its_place_are_known() {
    for (fold, size, refuses) in [
        (ReduceOp::ArgMax, 3, false),
        (ReduceOp::ArgMax, 2, true),
        (ReduceOp::Max, 8, false),
        (ReduceOp::Max, 7, true),
        (ReduceOp::Sum, 99, true),
    ] {
        let mut k = kernel(3, 1, vec![load(0), (Inst::Reduced, DType::I64)]);
        k.params[1].numel = 1;
        k.stages[0].insts = vec![ValueId(0)];
        k.stages[0].stores.clear();
        k.stages[0].reduces = vec![Reduce { op: fold, value: ValueId(0), out: ValueId(1) }];
        let stores = vec![Store { param: 1, index: along(0, 0), value: ValueId(1) }];
        k.stages.push(Stage { domain: Domain::Row, insts: vec![], reduces: vec![], stores });
        let mut m = Make::new();
        let (x, at) = (m.constant(&[2, 7, 1]), m.arena(&[1], 0));
        m.kernel(k, &[x, at]);
        m.by("scatter", 0, &[size], at);
        m.gives(&[refuses]);
    }
}

#[test]
fn large_programs_are_read_in_time() {
    let start = std::time::Instant::now();
    // Every question leads through all that was made before it.
    let mut m = Make::new();
    let mut from = m.input(DType::I64, &[4]);
    let twice = op(ScalarOp::Bin(BinOp::Add), &[0, 0], DType::I64);
    let twice = Arc::new(kernel(4, 1, vec![load(0), twice]));
    for n in 0..20_000 {
        let to = m.arena(&[4], 64 * (n % 2));
        m.0.steps.push(Step {
            op: StepOp::Kernel { kernel: twice.clone(), args: vec![from, to] },
            ops: vec![],
            loc: None,
        });
        m.by("take", 0, &[5], to);
        from = to;
    }
    assert_eq!(may_refuse(&m.0).iter().filter(|&&r| r).count(), 20_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
