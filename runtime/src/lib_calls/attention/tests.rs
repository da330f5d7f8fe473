//! Attention calls against the interpreter: every level, strided operands, masks, dropout, any number of threads.

use super::{Arg, Par, run, scratch};
use crate::sys::par::SERIAL;
use crate::sys::prims::{LEVELS, supported};
use crate::sys::slices::bytes_of;
use std::sync::Mutex;
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::program::{Attend, BufDecl, BufId, LibCall, Place, Program, Side, Step, StepOp};
use torsh_ir::shape::{Dims, Ints, Shape, Type};
use torsh_ir::{DType, Scalar};

/// Runs parts on three threads, the last one first.
const THREADS: Par<'static> = Par {
    threads: 3,
    run: &|parts, work| {
        std::thread::scope(|s| {
            for t in 0..3 {
                s.spawn(move || (t..parts).step_by(3).rev().for_each(work));
            }
        });
    },
};

#[derive(Copy, Clone, PartialEq, Debug)]
enum Mask {
    None,
    Hide,
    Add,
}

#[derive(Copy, Clone, Debug)]
struct Case {
    heads: [usize; 2],
    sizes: [usize; 4],
    mask: Mask,
    causal: bool,
    dropout: f64,
    safe: bool,
}

/// Heads split off the last dim: element `[b, h, i, j]` of an operand of `rows` x `cols` is at
/// `((b * rows + i) * heads + h) * cols + j`, behind `offset` elements that are not its own.
fn side(case: &Case, rows: usize, cols: usize, offset: usize) -> (Side, usize) {
    let [b, h] = case.heads;
    let stride = |n: usize| n as i64;
    let batch = Ints::from_slice(&[stride(rows * h * cols), stride(cols)]);
    (Side { offset: offset as i64, batch, row: stride(h * cols), col: 1 }, offset + b * h * rows * cols)
}

fn numbers(n: usize, seed: u64) -> HostTensor {
    let mut state = seed;
    HostTensor::from_fn(Type::new(DType::F32, Shape::of(&[n])), |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Scalar::Float((state >> 40) as f64 / (1u64 << 22) as f64 - 2.0)
    })
}

fn attend(case: &Case) -> (Attend, Vec<HostTensor>) {
    let [l, s, d, w] = case.sizes;
    let (mut sides, mut inputs) = (Vec::new(), Vec::new());
    for (i, (rows, cols)) in [(l, d), (s, d), (s, w)].into_iter().enumerate() {
        let (side, n) = side(case, rows, cols, i);
        sides.push(side);
        inputs.push(numbers(n, i as u64));
    }
    let none = || Ints::from_slice(&[0, 0]);
    match case.mask {
        Mask::None => {}
        Mask::Hide => {
            // One mask for all heads, transposed; the third query sees nothing.
            sides.push(Side { offset: 0, batch: none(), row: 1, col: l as i64 });
            let ty = Type::new(DType::Bool, Shape::of(&[s, l]));
            inputs.push(HostTensor::from_fn(ty, |i| Scalar::Bool(i % l != 2 && i % 11 != 0)));
        }
        Mask::Add => {
            sides.push(Side { offset: 0, batch: none(), row: s as i64, col: 1 });
            inputs.push(numbers(l * s, 9));
        }
    }
    if case.dropout > 0.0 {
        sides.push(Side { offset: 0, batch: none(), row: 0, col: 1 });
        inputs.push(HostTensor::from_fn(Type::new(DType::I64, Shape::of(&[2])), |i| Scalar::Int(5 + 1000 * i as i64)));
    }
    let a = Attend {
        batch: Dims::from_slice(&case.heads),
        queries: l,
        keys: s,
        depth: d,
        width: w,
        dtype: DType::F32,
        scale: Scalar::Float(0.4),
        causal: case.causal,
        dropout: Scalar::Float(case.dropout),
        mask: case.mask != Mask::None,
        safe: case.safe,
        lse: true,
        sides,
    };
    (a, inputs)
}

fn result(call: &LibCall) -> Type {
    let n = call.attend().and_then(|a| a.numel(matches!(call, LibCall::Attention(_)))).unwrap();
    Type::new(DType::F32, Shape::of(&[n]))
}

fn interpret(call: &LibCall, inputs: &[HostTensor]) -> Vec<f64> {
    let place = |(i, x): (usize, &HostTensor)| BufDecl { ty: x.ty.clone(), place: Place::Input(i as u32) };
    let mut buffers: Vec<BufDecl> = inputs.iter().enumerate().map(place).collect();
    buffers.push(BufDecl { ty: result(call), place: Place::Output });
    let (args, out) = ((0..inputs.len() as u32).map(BufId).collect(), BufId(inputs.len() as u32));
    let program = Program {
        inputs: inputs.iter().map(|x| x.ty.clone()).collect(),
        outputs: vec![out],
        buffers,
        steps: vec![Step { op: StepOp::Lib { call: call.clone(), args, out }, ops: vec![], loc: None }],
        peak_bytes: result(call).nbytes(),
        ..Program::default()
    };
    program.verify().unwrap();
    run_program(&program, inputs).unwrap()[0].to_f64()
}

fn compute(call: &LibCall, inputs: &[HostTensor], level: &str, par: &Par<'_>) -> Vec<f32> {
    // In words, so that elements are aligned as those of buffers are.
    let bytes: Vec<(Vec<u64>, usize)> = inputs
        .iter()
        .map(|x| {
            let bytes = x.to_bytes();
            let words = bytes.chunks(8).map(|c| {
                let mut word = [0; 8];
                word[..c.len()].copy_from_slice(c);
                u64::from_ne_bytes(word)
            });
            (words.collect(), bytes.len())
        })
        .collect();
    let mut bytes = bytes;
    let args: Vec<Arg<'_>> = bytes.iter_mut().map(|(words, n)| Arg::Bytes(&bytes_of(words)[..*n])).collect();
    let types: Vec<&Type> = inputs.iter().map(|x| &x.ty).collect();
    let (count, each) = scratch(call, par.threads);
    let mut memory = vec![vec![f32::NAN; each]; count];
    let tiles = Mutex::new(memory.iter_mut().map(Vec::as_mut_slice).collect());
    let mut out = vec![f32::NAN; result(call).numel()];
    run(call, &types, &args, bytes_of(&mut out), level, &tiles, par).unwrap();
    out
}

#[track_caller]
fn close(got: &[f32], want: &[f64], among: &[f64], what: &str) {
    let finite = want.iter().chain(among).filter(|x| x.is_finite());
    let top = finite.fold(1.0f64, |a, x| a.max(x.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let g = f64::from(g);
        let equal = (g - w).abs() <= 2e-5 * top || g == w || g.is_nan() && w.is_nan();
        assert!(equal, "{what}: element {i} is {g}, want {w}");
    }
}

fn cases() -> Vec<Case> {
    let base = Case { heads: [2, 3], sizes: [70, 67, 5, 9], mask: Mask::None, causal: false, dropout: 0.0, safe: true };
    let tall = Case { heads: [1, 1], sizes: [600, 150, 33, 16], causal: true, ..base };
    let wide = Case { heads: [1, 2], sizes: [40, 300, 64, 64], ..base };
    vec![
        base,
        Case { causal: true, ..base },
        Case { mask: Mask::Hide, ..base },
        Case { mask: Mask::Add, causal: true, dropout: 0.3, ..base },
        tall,
        Case { mask: Mask::Hide, dropout: 0.5, ..tall },
        wide,
        Case { mask: Mask::Add, ..wide },
        // One head: values lie as a packed block does.
        Case { heads: [2, 1], sizes: [90, 140, 16, 32], causal: true, ..base },
        Case { sizes: [1, 1, 1, 1], ..base },
        Case { sizes: [9, 0, 3, 3], ..base },
        Case { sizes: [0, 9, 3, 3], ..base },
    ]
}

/// Changes inputs.
type Spoil<'a> = dyn Fn(&mut [HostTensor]) + 'a;

/// Both passes against the interpreter; `spoil` changes the inputs, and of the backward pass also the row of the forward
/// pass and the cotangent, which come last.
fn agree(case: &Case, spoil: &Spoil<'_>) {
    let (a, mut inputs) = attend(case);
    spoil(&mut inputs);
    let forward = LibCall::Attention(Box::new(a.clone()));
    let want = interpret(&forward, &inputs);
    let row = HostTensor::from_fn(result(&forward), |i| Scalar::Float(want[i]));
    let mut backward = Attend { lse: false, ..a };
    let none = Ints::from_slice(&[0, 0]);
    backward.sides.push(Side { offset: 0, batch: none, row: 0, col: 1 });
    let (ct, n) = side(case, case.sizes[0], case.sizes[3], 2);
    backward.sides.push(ct);
    let backward = LibCall::AttentionGrad(Box::new(backward));
    let forward_inputs = inputs.clone();
    inputs.extend([row, numbers(n, 17)]);
    spoil(&mut inputs);
    for (call, inputs) in [(&forward, &forward_inputs), (&backward, &inputs)] {
        let want = interpret(call, inputs);
        // The backward pass subtracts products from each other: where they are huge, what is left is as exact as they are.
        let grad = matches!(call, LibCall::AttentionGrad(_));
        let among: Vec<f64> = inputs.iter().filter(|_| grad).flat_map(HostTensor::to_f64).collect();
        let mut fused: Option<Vec<f32>> = None;
        for level in LEVELS.into_iter().filter(|l| supported(l)) {
            let what = format!("{level} {case:?} {}", matches!(call, LibCall::Attention(_)));
            let alone = compute(call, inputs, level, &SERIAL);
            close(&alone, &want, &among, &what);
            // Which NaN an instruction gives on is the compiler's choice.
            let word = |v: &f32| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
            let bits = |x: &[f32]| x.iter().map(word).collect::<Vec<_>>();
            assert_eq!(bits(&alone), bits(&compute(call, inputs, level, &THREADS)), "{what} on threads");
            if level != "portable" {
                let first = fused.get_or_insert_with(|| alone.clone());
                assert_eq!(bits(first), bits(&alone), "{what}: levels with FMA differ");
            }
        }
    }
}

#[test]
fn both_passes_are_what_the_interpreter_says_on_every_level_and_number_of_threads() {
    for case in cases() {
        agree(&case, &|_| {});
    }
}

/// Sets every `step`th element from `first` on.
fn set(x: &mut HostTensor, first: usize, step: usize, values: &[f64]) {
    for (n, i) in (first..x.len()).step_by(step).enumerate() {
        x.set(i, Scalar::Float(values[n % values.len()]));
    }
}

#[test]
fn numbers_that_are_not_finite_or_overflow_on_the_way_are_what_the_interpreter_says() {
    let (inf, huge) = (f64::INFINITY, 3e38);
    let base = Case { heads: [1, 2], sizes: [70, 67, 5, 9], mask: Mask::None, causal: false, dropout: 0.0, safe: true };
    let causal = Case { causal: true, ..base };
    let spoils: [&Spoil<'_>; 7] = [
        // The sum of values overflows, their mean does not.
        &|x| set(&mut x[2], 3, 2, &[huge]),
        &|x| set(&mut x[2], 100, 211, &[inf, -huge, f64::NAN]),
        &|x| set(&mut x[1], 17, 301, &[inf, -inf]),
        &|x| set(&mut x[0], 40, 97, &[inf, f64::NAN, huge, -huge]),
        &|x| set(&mut x[0], 5, 40, &[huge]),
        // Weights by logarithms that are not those of the scores, and cotangents.
        &|x| {
            if let [_, _, _, .., row, _] = x {
                set(row, 11, 53, &[-200.0, inf, -inf, huge])
            }
        },
        &|x| {
            if let [_, _, _, .., ct] = x {
                set(ct, 7, 83, &[huge, inf, f64::NAN])
            }
        },
    ];
    for spoil in spoils {
        for case in [base, causal, Case { dropout: 0.4, ..causal }] {
            agree(&case, spoil);
        }
    }
}

#[test]
fn a_mean_of_large_values_is_finite() {
    let case =
        Case { heads: [1, 1], sizes: [20, 300, 4, 8], mask: Mask::None, causal: false, dropout: 0.0, safe: false };
    let (a, mut inputs) = attend(&case);
    inputs[2] = HostTensor::from_fn(inputs[2].ty.clone(), |_| Scalar::Float(3e38));
    let out = compute(&LibCall::Attention(Box::new(a)), &inputs, "portable", &SERIAL);
    assert!(out.iter().take(20 * 8).all(|x| (x / 3e38 - 1.0).abs() < 1e-5), "{out:?}");
}

#[test]
fn rows_without_a_key_give_nan_unless_safe() {
    let case =
        Case { heads: [1, 1], sizes: [20, 20, 4, 4], mask: Mask::Hide, causal: false, dropout: 0.0, safe: false };
    let (a, inputs) = attend(&case);
    let out = compute(&LibCall::Attention(Box::new(a.clone())), &inputs, "portable", &SERIAL);
    assert!(out[8..12].iter().all(|x| x.is_nan()) && out[..8].iter().all(|x| x.is_finite()));
    let a = Attend { safe: true, ..a };
    let out = compute(&LibCall::Attention(Box::new(a)), &inputs, "portable", &SERIAL);
    assert_eq!(out[8..12], [0.0; 4]);
}

#[test]
fn an_operand_beyond_its_buffer_is_refused() {
    let case = cases()[0];
    let (a, inputs) = attend(&case);
    for i in 0..3 {
        let mut bad = a.clone();
        bad.sides[i].offset += 5;
        let call = LibCall::Attention(Box::new(bad));
        let types: Vec<&Type> = inputs.iter().map(|x| &x.ty).collect();
        let mut memory: Vec<Vec<f32>> = inputs.iter().map(|x| x.to_f64().iter().map(|&v| v as f32).collect()).collect();
        let args: Vec<Arg<'_>> = memory.iter_mut().map(|m| Arg::Bytes(bytes_of(m))).collect();
        let (count, each) = scratch(&call, 1);
        let mut room = vec![vec![0.0; each]; count];
        let tiles = Mutex::new(room.iter_mut().map(Vec::as_mut_slice).collect());
        let mut out = vec![0.0f32; result(&call).numel()];
        assert!(run(&call, &types, &args, bytes_of(&mut out), "portable", &tiles, &SERIAL).is_err());
    }
}
