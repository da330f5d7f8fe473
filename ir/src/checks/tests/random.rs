//! Random programs: what is said of their buffers is true, and no step fails that was said not to.

use super::super::{Walk, accepted, may_refuse};
use super::{Make, along, kernel, load, number, op};
use crate::interp::{HostTensor, run_program};
use crate::kernel::{Inst, Kernel, ValueId};
use crate::program::{BufId, LibCall, Place, Program, StepOp};
use crate::scalar::{BinOp, CmpOp, ScalarOp, UnOp};
use crate::{DType, Scalar, Type};
use smallvec::smallvec;

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
            if args.first().and_then(|&x| accepted(call, ty(x))).is_none() {
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
