//! What counts as checked, what does not, and random programs, in which no step fails that was said not to.

use super::{Walk, may_refuse};
use crate::interp::{HostTensor, run_program};
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
fn the_place_of_a_maximum_is_in_its_row() {
    for (size, refuses) in [(3, false), (2, true)] {
        let mut k = kernel(3, 1, vec![load(0), (Inst::Reduced, DType::I64)]);
        k.params[1].numel = 1;
        k.stages[0].insts = vec![ValueId(0)];
        k.stages[0].stores.clear();
        k.stages[0].reduces = vec![Reduce { op: ReduceOp::ArgMax, value: ValueId(0), out: ValueId(1) }];
        let stores = vec![Store { param: 1, index: along(0, 0), value: ValueId(1) }];
        k.stages.push(Stage { domain: Domain::Row, insts: vec![], reduces: vec![], stores });
        let mut m = Make::new();
        let (x, at) = (m.input(DType::I64, &[3]), m.arena(&[1], 0));
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

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A number that matters to a dim of a few elements, or to arithmetic.
fn some_number(rng: &mut Rng) -> i64 {
    match rng.below(12) {
        0 => rng.of(&[i64::MIN, i64::MAX, i64::MIN + 1, 1 << 40]),
        _ => rng.below(9) as i64 - 4,
    }
}

/// A kernel of `n` points that makes one index of two.
fn some_kernel(rng: &mut Rng, n: usize) -> Kernel {
    let mut values = vec![load(0), load(1), (Inst::Index(along(some_number(rng) & 7, 1)), DType::I64), number(0)];
    let (mut numbers, mut truths) = (vec![0, 1, 2, 3], Vec::new());
    for _ in 0..2 + rng.below(8) {
        let at = values.len() as u32;
        let (a, b) = (rng.of(&numbers), rng.of(&numbers));
        match rng.below(8) {
            0 => values.push(number(some_number(rng))),
            1 => {
                values.push(op(ScalarOp::Un(rng.of(&[UnOp::Neg, UnOp::Abs, UnOp::Sign, UnOp::Not])), &[a], DType::I64))
            }
            2 => {
                let narrow = rng.of(&[DType::U8, DType::I8, DType::I32, DType::F32, DType::Bool]);
                values.push(op(ScalarOp::Cast, &[a], narrow));
                values.push(op(ScalarOp::Cast, &[at], DType::I64));
                numbers.push(at + 1);
                continue;
            }
            3 | 4 => {
                values.push(op(ScalarOp::Cmp(rng.of(CmpOp::ALL)), &[a, b], DType::Bool));
                truths.push(at);
                continue;
            }
            5 if !truths.is_empty() => {
                let condition = rng.of(&truths);
                values.push(match rng.below(3) {
                    0 => op(ScalarOp::Un(UnOp::Not), &[condition], DType::Bool),
                    _ => {
                        let both = rng.of(&[BinOp::And, BinOp::Or, BinOp::Xor]);
                        op(ScalarOp::Bin(both), &[condition, rng.of(&truths)], DType::Bool)
                    }
                });
                truths.push(at);
                continue;
            }
            6 if !truths.is_empty() => {
                values.push(op(ScalarOp::Select, &[rng.of(&truths), a, b], DType::I64));
            }
            _ => {
                let all = BinOp::ALL.iter().copied();
                let all: Vec<BinOp> = all.filter(|o| !matches!(o, BinOp::Div | BinOp::Atan2 | BinOp::Philox)).collect();
                values.push(op(ScalarOp::Bin(rng.of(&all)), &[a, b], DType::I64));
            }
        }
        numbers.push(at);
    }
    // The last number of all is what is stored.
    let last = rng.of(&numbers[4.min(numbers.len() - 1)..]);
    let mut k = kernel(n, 2, values);
    k.stages[0].stores[0].value = ValueId(last);
    if rng.below(8) == 0 {
        k.inner = smallvec![n / 2];
    }
    k
}

/// Steps over a few places that overlap, with inputs that are sometimes bad indices.
fn some_program(rng: &mut Rng) -> (Program, Vec<HostTensor>) {
    let n = 4;
    let mut m = Make::new();
    let mut indices = vec![m.input(DType::I64, &[n]), m.input(DType::I64, &[n])];
    let known: Vec<i64> = (0..n).map(|_| some_number(rng)).collect();
    indices.push(m.constant(&known));
    let mut places: Vec<BufId> = [0, 64, 128].iter().map(|&offset| m.arena(&[n], offset)).collect();
    places.push(m.buffer(DType::I64, &[n], Place::Donated(1)));
    let long = m.arena(&[12], 0);
    for _ in 0..4 + rng.below(10) {
        let all: Vec<BufId> = indices.iter().chain(&places).copied().collect();
        let (a, b, to) = (rng.of(&all), rng.of(&all), rng.of(&places));
        let before = m.0.steps.len();
        match rng.below(8) {
            0 => m.copy(a, to),
            1 => m.lib(LibCall::Fill(Scalar::Int(some_number(rng))), &[], rng.of(&[to, long])),
            2 => m.lib(LibCall::Take { dim: 0 }, &[a, b], to),
            3 | 4 => m.kernel(some_kernel(rng, n), &[a, b, to]),
            5 => m.lib(LibCall::ArgSort { dim: 0, descending: true }, &[a], to),
            _ => {
                let (what, size) = (rng.of(&["take", "gather", "scatter", "put"]), 3 + rng.below(6));
                m.by(what, 0, &[size], a);
            }
        }
        // What is not allowed at this place is left out.
        if m.0.verify().is_err() {
            m.0.steps.truncate(before);
        }
    }
    let value = |ty: &Type, rng: &mut Rng| {
        let low = rng.of(&[0, 0, 0, 3]);
        HostTensor::from_fn(ty.clone(), |_| match ty.dtype {
            DType::I64 if rng.below(60) == 0 => Scalar::Int(some_number(rng)),
            DType::I64 => Scalar::Int(rng.below(4) as i64 - low),
            _ => Scalar::Float(1.0),
        })
    };
    let inputs = m.0.inputs.iter().map(|ty| value(ty, rng)).collect();
    (m.0, inputs)
}

/// What is said of every buffer after all steps is true.
fn compare(program: &Program, inputs: &[HostTensor]) {
    let mut walk = Walk::new(program);
    for step in &program.steps {
        walk.step(&step.op);
    }
    for i in (0..program.buffers.len()).filter(|&i| program.buffers[i].ty.dtype == DType::I64) {
        let buf = BufId(i as u32);
        let Some(&held) = walk.checks.held.get(&walk.at(buf)) else { continue };
        let bounds = walk.checks.facts.bounds(held);
        let last = Program { outputs: vec![buf], ..program.clone() };
        if let Ok(values) = run_program(&last, inputs) {
            let fits = |n: i64| bounds.least <= i128::from(n) && i128::from(n) <= bounds.most;
            let bad = (0..values[0].len()).find(|&at| !fits(values[0].bits(at).cast_signed()));
            assert_eq!(bad, None, "b{i} was said to lie in {bounds:?}\n{}", crate::text::program(&last));
        }
    }
}

#[test]
fn no_step_fails_that_was_said_not_to() {
    let mut rng = Rng(0x5eed_0123_4567_89ab);
    let (mut safe, mut failed) = (0, 0);
    for _ in 0..4000 {
        let (program, inputs) = some_program(&mut rng);
        program.verify().unwrap();
        let refuses = may_refuse(&program);
        for (i, step) in program.steps.iter().enumerate() {
            let StepOp::Lib { call, args, .. } = &step.op else { continue };
            let ty = |b: BufId| &program.buffers[b.0 as usize].ty;
            if args.first().and_then(|&x| super::accepted(call, ty(x))).is_none() {
                continue;
            }
            safe += usize::from(!refuses[i]);
            let upto = Program { steps: program.steps[..=i].to_vec(), outputs: vec![], ..program.clone() };
            let run = run_program(&upto, &inputs);
            if run.is_ok() {
                compare(&upto, &inputs);
            } else {
                failed += 1;
                assert!(refuses[i], "step {i} was said not to fail\n{}", crate::text::program(&program));
                break;
            }
        }
    }
    assert!(safe > 1000 && failed > 1000, "{safe} steps were safe, {failed} failed");
}
