//! Library calls against the interpreter, serial and on threads.

use super::{Arg, Level, Means, Par, dot, run, scratch};
use crate::sys::call::Span;
use crate::sys::par::SERIAL;
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::program::{
    BufDecl, BufId, Digits, DotOperand, DotStep, LibCall, Place, Program, ScatterMode, Step, StepOp, digits,
};
use torsh_ir::shape::{Dims, Ints, Shape, Type};
use torsh_ir::{DType, ErrorKind, ReduceOp, Scalar};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }
    /// Small numbers, some of them equal; with `special` also NaN, infinities and both zeros.
    fn tensor(&mut self, ty: Type, special: bool) -> HostTensor {
        HostTensor::from_fn(ty.clone(), |_| {
            let small = self.next() as i64 % 17 - 8;
            if !ty.dtype.is_float() {
                return Scalar::Int(if special { self.next() as i64 } else { small });
            }
            match self.next() % 8 {
                0 if special => Scalar::Float([f64::NAN, f64::INFINITY, -0.0, 0.0][self.below(4)]),
                1..=4 => Scalar::Float(small as f64 / 4.0),
                _ => Scalar::Float(self.next() as f64 / (1u64 << 44) as f64 - 8.0),
            }
        })
    }
    fn index(&mut self, shape: &[usize], size: usize, negative: bool) -> HostTensor {
        HostTensor::from_fn(ty(DType::I64, shape), |_| {
            let i = self.below(size) as i64;
            Scalar::Int(if negative && self.next().is_multiple_of(2) { i - size as i64 } else { i })
        })
    }
}

fn ty(dtype: DType, shape: &[usize]) -> Type {
    Type::new(dtype, Shape::of(shape))
}

/// Runs parts on three threads.
const THREADS: Par<'static> = Par {
    threads: 3,
    run: &|parts, work| {
        std::thread::scope(|s| {
            for t in 0..3 {
                s.spawn(move || (t..parts).step_by(3).for_each(work));
            }
        });
    },
};

/// `dot` with exactly the memory that it asks for.
fn multiply(
    step: &DotStep,
    dtype: DType,
    operands: (&[u8], &[u8]),
    out: &mut [u8],
    par: &Par<'_>,
) -> torsh_ir::Result<()> {
    let level = Level::of(crate::sys::prims::detect()?);
    let mut memory = vec![0xa5; scratch(step, dtype, level, par.threads, false)];
    let means = &mut Means { level, scratch: &mut memory, par, packed: None, back: false };
    let mut block = crate::sys::mem::Block::new(out.len()).expect("memory");
    dot(step, dtype, operands, &Span::of(&block, 0..out.len()).expect("all of it"), (None, None), means)?;
    out.copy_from_slice(block.bytes_mut(out.len()));
    Ok(())
}

/// Bytes aligned as buffers are.
struct Aligned(Vec<u64>, usize);

impl Aligned {
    fn of(bytes: &[u8]) -> Aligned {
        let mut a = Aligned(vec![0xa5a5_a5a5_a5a5_a5a5; bytes.len().div_ceil(8)], bytes.len());
        a.bytes().copy_from_slice(bytes);
        a
    }
    fn bytes(&mut self) -> &mut [u8] {
        let n = self.1;
        let words = crate::sys::slices::bytes_of(&mut self.0);
        &mut words[..n]
    }
}

fn interpret(op: StepOp, inputs: &[HostTensor], out: &Type) -> torsh_ir::Result<HostTensor> {
    let place = |(i, x): (usize, &HostTensor)| BufDecl { ty: x.ty.clone(), place: Place::Input(i as u32) };
    let mut buffers: Vec<BufDecl> = inputs.iter().enumerate().map(place).collect();
    buffers.push(BufDecl { ty: out.clone(), place: Place::Output });
    let program = Program {
        inputs: inputs.iter().map(|x| x.ty.clone()).collect(),
        outputs: vec![BufId(inputs.len() as u32)],
        buffers,
        steps: vec![Step { op, ops: vec![], loc: None }],
        peak_bytes: out.nbytes(),
        ..Program::default()
    };
    program.verify()?;
    run_program(&program, inputs).map(|mut o| o.remove(0))
}

fn compute(
    call: &LibCall,
    inputs: &[HostTensor],
    out: &Type,
    in_place: bool,
    par: &Par,
) -> torsh_ir::Result<HostTensor> {
    let mut memory: Vec<Aligned> = inputs.iter().map(|x| Aligned::of(&x.to_bytes())).collect();
    let types: Vec<&Type> = inputs.iter().map(|x| &x.ty).collect();
    let mut result = Aligned::of(&if in_place { inputs[0].to_bytes() } else { vec![0xa5; out.nbytes()] });
    let mut args: Vec<Arg> = memory.iter_mut().map(|m| Arg::Bytes(m.bytes())).collect();
    if in_place {
        args[0] = Arg::Out;
    }
    run(call, &types, &args, out, result.bytes(), par)?;
    HostTensor::from_bytes(out.clone(), result.bytes())
}

fn same(got: &HostTensor, want: &HostTensor, what: &str) {
    for i in 0..want.len() {
        let (g, w) = (got.get(i).as_f64(), want.get(i).as_f64());
        let equal = got.bits(i) == want.bits(i) || g.is_nan() && w.is_nan();
        assert!(equal, "{what}: element {i} is {g}, want {w}");
    }
}

fn check(call: LibCall, inputs: &[HostTensor], out: &Type) {
    let args = (0..inputs.len() as u32).map(BufId).collect();
    let op = StepOp::Lib { call: call.clone(), args, out: BufId(inputs.len() as u32) };
    let want = interpret(op, inputs, out).unwrap();
    let may = matches!(call, LibCall::Scatter { .. } | LibCall::IndexPut { .. } | LibCall::Scan { .. } | LibCall::Copy);
    for in_place in if may { vec![false, true] } else { vec![false] } {
        for par in [&SERIAL, &THREADS] {
            let what = format!("{call:?} on {}, in place {in_place}", inputs.first().map_or(out, |x| &x.ty));
            same(&compute(&call, inputs, out, in_place, par).unwrap(), &want, &what);
        }
    }
}

/// Shapes of ranks 1 to 3, with sizes 0 and 1 among them.
const SHAPES: [&[usize]; 9] = [&[5], &[1], &[0], &[4, 7], &[7, 1], &[3, 0], &[2, 5, 3], &[3, 1, 4], &[33, 70]];

#[test]
fn take_and_index_put() {
    let mut rng = Rng(1);
    for (dtype, shape) in DType::ALL.into_iter().flat_map(|d| SHAPES.map(|s| (d, s))) {
        for dim in 0..shape.len() {
            for count in [0, 1, 6] {
                if shape[dim] == 0 && count > 0 {
                    continue;
                }
                let x = rng.tensor(ty(dtype, shape), true);
                let index = rng.index(&[count], shape[dim], true);
                let mut sizes = shape.to_vec();
                sizes[dim] = count;
                let out = ty(dtype, &sizes);
                check(LibCall::Take { dim }, &[x.clone(), index.clone()], &out);
                for mode in ScatterMode::ALL {
                    let src = rng.tensor(out.clone(), true);
                    check(LibCall::IndexPut { dim, mode }, &[x.clone(), index.clone(), src], &x.ty);
                }
            }
        }
    }
}

#[test]
fn gather_and_scatter() {
    let mut rng = Rng(2);
    for (dtype, shape) in DType::ALL.into_iter().flat_map(|d| SHAPES.map(|s| (d, s))) {
        for dim in 0..shape.len() {
            let mut sizes: Vec<usize> = shape.iter().map(|&n| n - rng.below(2).min(n)).collect();
            sizes[dim] = if shape[dim] == 0 { 0 } else { rng.below(9) };
            let x = rng.tensor(ty(dtype, shape), true);
            let index = rng.index(&sizes, shape[dim], false);
            let out = ty(dtype, &sizes);
            check(LibCall::Gather { dim }, &[x.clone(), index.clone()], &out);
            for mode in ScatterMode::ALL {
                let src = rng.tensor(out.clone(), true);
                check(LibCall::Scatter { dim, mode }, &[x.clone(), index.clone(), src], &x.ty);
            }
        }
    }
}

#[test]
fn sorts_scans_fills_and_copies() {
    let mut rng = Rng(3);
    for (dtype, shape) in DType::ALL.into_iter().flat_map(|d| SHAPES.map(|s| (d, s))) {
        let t = ty(dtype, shape);
        for dim in 0..shape.len() {
            for descending in [false, true] {
                let x = rng.tensor(t.clone(), true);
                check(LibCall::ArgSort { dim, descending }, &[x], &ty(DType::I64, shape));
            }
            for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
                if dtype == DType::Bool {
                    continue;
                }
                for special in [false, true] {
                    let x = rng.tensor(t.clone(), special);
                    check(LibCall::Scan { op, dim }, &[x], &t);
                }
            }
        }
        check(LibCall::Copy, &[rng.tensor(t.clone(), true)], &t);
        for value in [Scalar::Float(-2.75), Scalar::Int(300), Scalar::Bool(true), Scalar::Float(f64::NAN)] {
            check(LibCall::Fill(value.to_dtype(dtype)), &[], &t);
        }
    }
}

#[test]
fn bad_indices_name_value_size_and_dim_and_write_nothing() {
    let x = Rng(4).tensor(ty(DType::F32, &[5, 3]), false);
    let index = |v: i64, shape: &[usize]| {
        HostTensor::from_fn(ty(DType::I64, shape), |i| Scalar::Int(if i == 1 { v } else { 0 }))
    };
    let mode = ScatterMode::Add;
    let cases = [
        (LibCall::Take { dim: 0 }, vec![x.clone(), index(7, &[2])], ty(DType::F32, &[2, 3])),
        (LibCall::Gather { dim: 0 }, vec![x.clone(), index(7, &[2, 3])], ty(DType::F32, &[2, 3])),
        (
            LibCall::IndexPut { dim: 0, mode },
            vec![x.clone(), index(7, &[2]), Rng(5).tensor(ty(DType::F32, &[2, 3]), false)],
            x.ty.clone(),
        ),
        (
            LibCall::Scatter { dim: 0, mode },
            vec![x.clone(), index(7, &[2, 3]), Rng(5).tensor(ty(DType::F32, &[2, 3]), false)],
            x.ty.clone(),
        ),
    ];
    for (call, inputs, out) in cases {
        let e = compute(&call, &inputs, &out, false, &SERIAL).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Index);
        assert_eq!(e.message(), "index 7 is out of bounds for dimension 0 with size 5");
        let args = (0..inputs.len() as u32).map(BufId).collect();
        let op = StepOp::Lib { call: call.clone(), args, out: BufId(inputs.len() as u32) };
        assert_eq!(interpret(op, &inputs, &out).unwrap_err().message(), e.message());
    }
    for v in [-6, i64::MIN, i64::MAX] {
        let inputs = [x.clone(), index(v, &[2])];
        assert!(compute(&LibCall::Take { dim: 0 }, &inputs, &ty(DType::F32, &[2, 3]), false, &SERIAL).is_err());
        let inputs = [x.clone(), index(v, &[2, 3])];
        assert!(compute(&LibCall::Gather { dim: 0 }, &inputs, &ty(DType::F32, &[2, 3]), false, &SERIAL).is_err());
    }
}

/// Memory layout of an operand: strides of its three axes and the room they need.
fn layout(extents: [usize; 3], kind: usize) -> (Ints, i64, i64, i64, usize) {
    let [b, r, c] = extents.map(|n| n as i64);
    let (batch, row, col) = match kind {
        0 => (r * c, c, 1),
        1 => (r * c, 1, r),
        2 => (0, c, 1),
        3 => (c, b * c, 1),
        4 => (-r * c, c, -1),
        5 => (2 * r * c, 2 * c, 2),
        _ => (r, 1, 0),
    };
    let reach = |n: i64, s: i64| (n - 1).max(0) * s;
    let parts = [reach(b, batch), reach(r, row), reach(c, col)];
    let offset = -parts.iter().map(|p| p.min(&0)).sum::<i64>();
    let top = parts.iter().map(|p| p.max(&0)).sum::<i64>();
    (Ints::from_slice(&[batch]), row, col, offset, (offset + top + 1) as usize)
}

fn product(dtype: DType, [b, m, n, k]: [usize; 4], kinds: [usize; 2], rng: &mut Rng) {
    let operand = |buf, extents, kind| {
        let (batch_strides, row_stride, col_stride, offset, room) = layout(extents, kind);
        let (rows, cols) = (digits([(extents[1], row_stride)]), digits([(extents[2], col_stride)]));
        (DotOperand { buf: BufId(buf), offset, batch_strides, rows, cols }, room)
    };
    let ((lhs, l_room), (rhs, r_room)) = (operand(0, [b, m, k], kinds[0]), operand(1, [b, k, n], kinds[1]));
    let step = DotStep { batch: [b].into_iter().collect(), m, n, k, lhs, rhs, out: BufId(2) };
    compare_product(dtype, step, [l_room, r_room], rng);
}

/// A product of random operands in so many elements against the interpreter.
fn compare_product(dtype: DType, step: DotStep, [l_room, r_room]: [usize; 2], rng: &mut Rng) {
    let (m, n, k) = (step.m, step.n, step.k);
    let b = step.batch.iter().product::<usize>();
    let (x, y) = (rng.tensor(ty(dtype, &[l_room]), false), rng.tensor(ty(dtype, &[r_room]), false));
    let out = ty(dtype, &[b, m, n]);
    let want = interpret(StepOp::Dot(step.clone()), &[x.clone(), y.clone()], &out).unwrap();
    for par in [&SERIAL, &THREADS] {
        let (mut l, mut r) = (Aligned::of(&x.to_bytes()), Aligned::of(&y.to_bytes()));
        let mut o = Aligned::of(&vec![0xa5; out.nbytes()]);
        multiply(&step, dtype, (l.bytes(), r.bytes()), o.bytes(), par).unwrap();
        let got = HostTensor::from_bytes(out.clone(), o.bytes()).unwrap();
        // Operands are at most 8 and 1 in size on average: sums err by a few units of their largest partial sum.
        let unit = dtype.significand().map_or(0.0, |s| libm::exp2(1.0 - f64::from(s)));
        let sum_unit = if dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        for i in 0..want.len() {
            let (g, w) = (got.get(i).as_f64(), want.get(i).as_f64());
            let room = unit * w.abs() + sum_unit * 64.0 * k as f64;
            let ok = if dtype.is_float() { (g - w).abs() <= room } else { got.bits(i) == want.bits(i) };
            assert!(ok, "{step:?} of {dtype}, element {i}: {g}, want {w}");
        }
    }
}

#[test]
fn products_of_every_dtype_and_layout() {
    let mut rng = Rng(6);
    for dtype in DType::ALL {
        for extents in [
            [1, 1, 1, 1],
            [2, 3, 4, 5],
            [1, 17, 1, 9],
            [3, 1, 18, 7],
            [2, 5, 3, 0],
            [0, 2, 3, 4],
            [2, 0, 3, 4],
            [1, 33, 19, 40],
        ] {
            for l in 0..7 {
                for r in [0, 1, 2, 4, 6] {
                    product(dtype, extents, [l, r], &mut rng);
                }
            }
        }
    }
}

#[test]
fn windows_are_operands_where_they_lie() {
    let mut rng = Rng(8);
    let strides = |list: &[i64]| Ints::from_slice(list);
    // Two images of 3 channels, 9 x 11, under windows of 3 x 2 with steps 2 and 1: 4 x 10 of them.
    let (batch, room) = ([2].into_iter().collect(), 2 * 3 * 99);
    let (inner, places) = (digits([(3, 99), (3, 11), (2, 1)]), digits([(4, 22), (10, 1)]));
    let window = |buf, rows: &Digits, cols: &Digits, batch_strides| DotOperand {
        buf: BufId(buf),
        offset: 0,
        batch_strides,
        rows: rows.clone(),
        cols: cols.clone(),
    };
    let plain = |buf, rows: usize, cols: usize, batch_strides| {
        let (rows, cols) = (digits([(rows, cols as i64)]), digits([(cols, 1)]));
        DotOperand { buf: BufId(buf), offset: 0, batch_strides, rows, cols }
    };
    for dtype in DType::ALL {
        // The convolution: a weight that is the same for both images.
        let (lhs, rhs) = (plain(0, 5, 18, strides(&[0])), window(1, &inner, &places, strides(&[297])));
        let step = DotStep { batch: Dims::clone(&batch), m: 5, n: 40, k: 18, lhs, rhs, out: BufId(2) };
        compare_product(dtype, step, [90, room], &mut rng);
        // Windows on the left, and their places summed over.
        let (lhs, rhs) = (window(0, &places, &inner, strides(&[297])), plain(1, 18, 5, strides(&[0])));
        let step = DotStep { batch: Dims::clone(&batch), m: 40, n: 5, k: 18, lhs, rhs, out: BufId(2) };
        compare_product(dtype, step, [room, 90], &mut rng);
        let all = digits([(2, 297), (4, 22), (10, 1)]);
        let (lhs, rhs) = (window(0, &inner, &all, strides(&[])), plain(1, 80, 5, strides(&[])));
        let step = DotStep { batch: Dims::new(), m: 18, n: 5, k: 80, lhs, rhs, out: BufId(2) };
        compare_product(dtype, step, [room, 400], &mut rng);
    }
}

#[test]
fn large_products_are_cut_into_tiles() {
    let mut rng = Rng(7);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I8] {
        product(dtype, [1, 150, 70, 64], [0, 1], &mut rng);
        product(dtype, [1, 2, 1100, 300], [1, 0], &mut rng);
        product(dtype, [9, 40, 33, 50], [0, 2], &mut rng);
        product(dtype, [7, 40, 33, 50], [3, 1], &mut rng);
        // Longer sums than a tile.
        product(dtype, [2, 3, 5, 1300], [0, 1], &mut rng);
    }
}

#[test]
fn an_operand_that_reaches_beyond_its_buffer_is_refused() {
    let operand = |buf, row_stride| DotOperand {
        buf: BufId(buf),
        offset: 0,
        batch_strides: Ints::new(),
        rows: digits([(2, row_stride)]),
        cols: digits([(2, 1)]),
    };
    let step =
        DotStep { batch: Default::default(), m: 2, n: 2, k: 2, lhs: operand(0, 3), rhs: operand(1, 2), out: BufId(2) };
    for dtype in DType::ALL {
        let size = dtype.size();
        let mut a = Aligned::of(&vec![0; 4 * size]);
        let mut b = Aligned::of(&vec![0; 4 * size]);
        let mut o = Aligned::of(&vec![0; 4 * size]);
        assert!(multiply(&step, dtype, (a.bytes(), b.bytes()), o.bytes(), &SERIAL).is_err(), "{dtype}");
    }
}
