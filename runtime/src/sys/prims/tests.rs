//! Every primitive against `torsh_ir::scalar`, at every level this CPU has, at sizes around the vector
//! lengths, in place and not. Levels must agree bit for bit (NaN with NaN).

use torsh_codegen::cpu::prims::{DTYPES, Form, Prim, accumulator};
use torsh_ir::scalar::{self, eval_bin, eval_cmp, eval_un, from_bits, to_bits};
use torsh_ir::{BinOp, CmpOp, DType, ReduceOp, Scalar, UnOp};

pub(super) const SIZES: [usize; 12] = [0, 1, 2, 7, 8, 15, 33, 64, 127, 256, 257, 600];

/// The levels that this CPU can run, portable first.
pub(super) fn levels() -> Vec<&'static str> {
    super::LEVELS.into_iter().filter(|l| super::supported(l)).collect()
}

pub(super) fn address(isa: &str, name: &str) -> *const u8 {
    let found = super::table(isa).into_iter().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("{isa} has no {name}")).1
}

/// Elements of one dtype with the alignment of the widest.
#[derive(Clone)]
pub(super) struct Buf {
    words: Vec<u64>,
    dtype: DType,
}

impl Buf {
    pub(super) fn new(dtype: DType, n: usize) -> Buf {
        // Room for the widest element: wider results may be written in place.
        Buf { words: vec![0; n + 1], dtype }
    }
    pub(super) fn of(dtype: DType, bits: &[u64]) -> Buf {
        let mut b = Buf::new(dtype, bits.len());
        for (i, &x) in bits.iter().enumerate() {
            b.set(i, x);
        }
        b
    }
    pub(super) fn ptr(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }
    fn retype(mut self, dtype: DType) -> Buf {
        self.dtype = dtype;
        self
    }
    fn place(&self, i: usize) -> (usize, u32, u64) {
        let size = self.dtype.size();
        let mask = u64::MAX >> (64 - 8 * size);
        (i * size / 8, (i * size % 8 * 8) as u32, mask)
    }
    pub(super) fn set(&mut self, i: usize, bits: u64) {
        let (w, shift, mask) = self.place(i);
        self.words[w] = self.words[w] & !(mask << shift) | (bits & mask) << shift;
    }
    pub(super) fn get(&self, i: usize) -> u64 {
        let (w, shift, mask) = self.place(i);
        self.words[w] >> shift & mask
    }
    fn scalar(&self, i: usize) -> Scalar {
        from_bits(self.get(i), self.dtype)
    }
}

/// Calls a primitive with any number of pointer-sized arguments.
pub(super) fn call(f: *const u8, args: &[u64]) {
    // SAFETY: `f` is a row of the table and every caller here passes what its family takes; all parameters
    // are pointers or 64-bit integers.
    unsafe {
        match *args {
            [a, b, c] => std::mem::transmute::<*const u8, unsafe extern "C" fn(u64, u64, u64)>(f)(a, b, c),
            [a, b, c, d] => {
                std::mem::transmute::<*const u8, unsafe extern "C" fn(u64, u64, u64, u64)>(f)(a, b, c, d);
            }
            [a, b, c, d, e] => {
                std::mem::transmute::<*const u8, unsafe extern "C" fn(u64, u64, u64, u64, u64)>(f)(a, b, c, d, e);
            }
            _ => panic!("{} arguments", args.len()),
        }
    }
}

/// A small generator; the constants are Knuth's MMIX.
pub(super) struct Rng(pub u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }
}

/// `n` elements: corner cases, small numbers and random bits.
pub(super) fn samples(dtype: DType, n: usize, rng: &mut Rng) -> Vec<u64> {
    const CORNERS: [f64; 18] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        1e-40,
        -1e-310,
        88.8,
        -745.0,
        3e38,
        -1e300,
        8388609.0,
        f64::INFINITY,
        f64::NAN,
    ];
    (0..n)
        .map(|_| match rng.next() % 4 {
            0 if dtype.is_float() => {
                to_bits(Scalar::Float(CORNERS[rng.next() as usize % CORNERS.len()]).to_dtype(dtype), dtype)
            }
            0 => {
                let (lo, hi) = dtype.int_range().unwrap_or((0, 1));
                to_bits(Scalar::Int([lo, hi, 0, 1, -1, 8][rng.next() as usize % 6]).to_dtype(dtype), dtype)
            }
            1 | 2 => to_bits(Scalar::Int((rng.next() % 41) as i64 - 20).to_dtype(dtype), dtype),
            _ if dtype == DType::Bool => rng.next() & 1,
            // Random bits, with NaN in its one canonical form.
            _ => to_bits(from_bits(rng.next(), dtype), dtype),
        })
        .collect()
}

/// Distance of two floats in units of the last place; NaN equals NaN.
pub(super) fn ulps(got: u64, want: u64, dtype: DType) -> u64 {
    let (g, w) = (from_bits(got, dtype).as_f64(), from_bits(want, dtype).as_f64());
    if got == want || g.is_nan() && w.is_nan() {
        return 0;
    }
    if g.is_nan() || w.is_nan() {
        return u64::MAX;
    }
    // Order the bit patterns as the numbers are; both zeros are one number, one unit apart from neither.
    let top = 1u64 << (dtype.size() * 8 - 1);
    let key = |b: u64| if b & top == 0 { (b | top) as i128 } else { (top - (b & (top - 1))) as i128 };
    key(got).abs_diff(key(want)) as u64
}

fn check((name, isa, i): (&str, &str, usize), got: u64, want: u64, dtype: DType, allowed: u64, inputs: &str) {
    let off = if dtype.is_float() { ulps(got, want, dtype) } else { u64::from(got != want) };
    let strict_zero = dtype.is_float() && off == 0 && got != want && !from_bits(got, dtype).as_f64().is_nan();
    assert!(
        off <= allowed && !strict_zero,
        "{name} at {isa}, element {i} of {inputs}: got {:?}, want {:?}",
        from_bits(got, dtype),
        from_bits(want, dtype)
    );
}

/// Units in the last place by which a primitive may differ from the interpreter.
fn tolerance(op: UnOp, dtype: DType) -> u64 {
    match op {
        UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => 0,
        UnOp::Sqrt | UnOp::Rsqrt | UnOp::Recip => 0,
        // The interpreter is itself within one unit in f64.
        _ if dtype == DType::F64 => 3,
        // The bounds of `accuracy.rs` and half a unit of the interpreter's.
        UnOp::Tan => 3,
        _ => 2,
    }
}

#[test]
fn every_primitive_that_code_can_call_is_in_the_table_of_every_level() {
    for isa in super::LEVELS {
        let table = super::table(isa);
        let mut names: Vec<&str> = table.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "a name twice");
        for prim in Prim::all() {
            assert!(names.binary_search(&prim.name().as_str()).is_ok(), "{isa} lacks {}", prim.name());
        }
        assert_eq!(names.len(), Prim::all().len(), "{isa} has primitives that nothing calls");
    }
}

#[test]
fn isa_levels_are_chosen_by_name() {
    assert_eq!(super::choose(Some("portable")).unwrap(), "portable");
    assert!(super::choose(Some("sse9")).unwrap_err().message().contains("unknown"));
    assert!(super::supported(super::choose(None).unwrap()));
}

/// Runs a unary family member at every level, in place and not, and checks each element.
fn unary(name: &str, from: DType, to: DType, want: impl Fn(u64) -> u64, allowed: u64) {
    let mut rng = Rng(name.len() as u64 * 7919 + 1);
    for n in SIZES {
        let bits = samples(from, n, &mut rng);
        let mut first: Option<Vec<u64>> = None;
        for isa in levels() {
            let f = address(isa, name);
            let mut x = Buf::of(from, &bits);
            let mut dst = Buf::new(to, n);
            call(f, &[dst.ptr() as u64, x.ptr() as u64, n as u64]);
            let p = x.ptr() as u64;
            call(f, &[p, p, n as u64]);
            let inplace = x.retype(to);
            let got: Vec<u64> = (0..n).map(|i| dst.get(i)).collect();
            for i in 0..n {
                check((name, isa, i), got[i], want(bits[i]), to, allowed, &format!("{:?}", from_bits(bits[i], from)));
                check((name, isa, i), inplace.get(i), got[i], to, 0, "in place");
                if let Some(first) = &first {
                    check((name, isa, i), got[i], first[i], to, 0, "portable level");
                }
            }
            first.get_or_insert(got);
        }
    }
}

#[test]
fn unary_primitives() {
    for prim in Prim::all() {
        match prim {
            Prim::Unary(op, dt) => {
                let want = |x| to_bits(eval_un(op, from_bits(x, dt), dt), dt);
                unary(&prim.name(), dt, dt, want, tolerance(op, dt));
            }
            Prim::Cast(from, to) => {
                unary(&prim.name(), from, to, |x| to_bits(from_bits(x, from).to_dtype(to), to), 0);
            }
            Prim::Round(dt) => {
                let want = |x| to_bits(from_bits(x, DType::F32).to_dtype(dt), DType::F32);
                unary(&prim.name(), DType::F32, DType::F32, want, 0);
            }
            _ => {}
        }
    }
}

#[test]
fn sixteen_bit_floats_convert_in_full() {
    for dt in [DType::F16, DType::BF16] {
        let bits: Vec<u64> = (0..=0xffff).collect();
        for isa in levels() {
            let mut x = Buf::of(dt, &bits);
            let mut wide = Buf::new(DType::F32, bits.len());
            let mut back = Buf::new(dt, bits.len());
            let n = bits.len() as u64;
            let name = dt.short();
            call(address(isa, &format!("cast_{name}_f32")), &[wide.ptr() as u64, x.ptr() as u64, n]);
            call(address(isa, &format!("cast_f32_{name}")), &[back.ptr() as u64, wide.ptr() as u64, n]);
            for (i, &b) in bits.iter().enumerate() {
                let want = to_bits(from_bits(b, dt), DType::F32);
                check(("widen", isa, i), wide.get(i), want, DType::F32, 0, name);
                check(("narrow", isa, i), back.get(i), b, dt, 0, name);
            }
        }
    }
}

/// Runs a binary family member in its form, also with the result over each vector operand.
fn binary(name: &str, form: Form, from: DType, to: DType, want: impl Fn(u64, u64) -> u64, allowed: u64) {
    let mut rng = Rng(name.len() as u64 * 104_729 + 3);
    for n in SIZES {
        let count = |vector| if vector { n } else { 1 };
        let a_bits = samples(from, count(form != Form::Sv), &mut rng);
        let b_bits = samples(from, count(form != Form::Vs), &mut rng);
        let mut first: Option<Vec<u64>> = None;
        for isa in levels() {
            let f = address(isa, name);
            let (mut a, mut b) = (Buf::of(from, &a_bits), Buf::of(from, &b_bits));
            let mut dst = Buf::new(to, n);
            call(f, &[dst.ptr() as u64, a.ptr() as u64, b.ptr() as u64, n as u64]);
            let got: Vec<u64> = (0..n).map(|i| dst.get(i)).collect();
            let mut over = Vec::new();
            if form != Form::Sv {
                let mut a = a.clone();
                let p = a.ptr() as u64;
                call(f, &[p, p, b.ptr() as u64, n as u64]);
                over.push(a.retype(to));
            }
            if form != Form::Vs {
                let mut b = b.clone();
                let p = b.ptr() as u64;
                call(f, &[p, a.ptr() as u64, p, n as u64]);
                over.push(b.retype(to));
            }
            for i in 0..n {
                let x = a_bits[if form == Form::Sv { 0 } else { i }];
                let y = b_bits[if form == Form::Vs { 0 } else { i }];
                let inputs = format!("{:?}, {:?}", from_bits(x, from), from_bits(y, from));
                check((name, isa, i), got[i], want(x, y), to, allowed, &inputs);
                for o in &over {
                    check((name, isa, i), o.get(i), got[i], to, 0, "in place");
                }
                if let Some(first) = &first {
                    check((name, isa, i), got[i], first[i], to, 0, "portable level");
                }
            }
            first.get_or_insert(got);
        }
    }
}

#[test]
fn binary_primitives() {
    for prim in Prim::all() {
        match prim {
            Prim::Binary(BinOp::Philox, dt, form) => {
                let want = |a, b| u64::from(scalar::philox(a, b));
                binary(&prim.name(), form, dt, DType::I32, want, 0);
            }
            Prim::Binary(op, dt, form) => {
                let want = |a, b| to_bits(eval_bin(op, from_bits(a, dt), from_bits(b, dt), dt), dt);
                let allowed = u64::from(matches!(op, BinOp::Pow | BinOp::Atan2));
                binary(&prim.name(), form, dt, dt, want, allowed);
            }
            Prim::Compare(op, dt, form) => {
                let want = |a, b| u64::from(eval_cmp(op, from_bits(a, dt), from_bits(b, dt), dt));
                binary(&prim.name(), form, dt, DType::U8, want, 0);
            }
            _ => {}
        }
    }
}

#[test]
fn selects() {
    let mut rng = Rng(5);
    for (bytes, dt) in [(1, DType::U8), (2, DType::I16), (4, DType::I32), (8, DType::I64)] {
        for (va, vb) in [(true, true), (true, false), (false, true), (false, false)] {
            let name = Prim::Select(bytes, va, vb).name();
            for (isa, n) in levels().into_iter().flat_map(|l| SIZES.map(|n| (l, n))) {
                let f = address(isa, &name);
                let c_bits = samples(DType::Bool, n, &mut rng);
                let (a_bits, b_bits) = (samples(dt, n + 1, &mut rng), samples(dt, n + 1, &mut rng));
                let (mut a, mut b) = (Buf::of(dt, &a_bits), Buf::of(dt, &b_bits));
                let mut c = Buf::of(DType::U8, &c_bits);
                let mut dst = Buf::new(dt, n);
                let n64 = n as u64;
                call(f, &[dst.ptr() as u64, c.ptr() as u64, a.ptr() as u64, b.ptr() as u64, n64]);
                let p = c.ptr() as u64;
                call(f, &[p, p, a.ptr() as u64, b.ptr() as u64, n64]);
                let over_cond = c.clone().retype(dt);
                for i in 0..n {
                    let (x, y) = (a_bits[if va { i } else { 0 }], b_bits[if vb { i } else { 0 }]);
                    let want = if c_bits[i] != 0 { x } else { y };
                    check((&name, isa, i), dst.get(i), want, dt, 0, "");
                    check((&name, isa, i), over_cond.get(i), want, dt, 0, "in place");
                }
            }
        }
    }
}

#[test]
fn moves() {
    let mut rng = Rng(6);
    for (bytes, dt) in [(1, DType::U8), (2, DType::I16), (4, DType::I32), (8, DType::I64)] {
        for (isa, n) in levels().into_iter().flat_map(|l| SIZES.map(|n| (l, n))) {
            let n64 = n as u64;
            for stride in [1i64, 0, 3, -2] {
                let span = n.max(1) * 3;
                let bits = samples(dt, span, &mut rng);
                let start = if stride < 0 { span - 1 } else { 0 };
                let at = |i: usize| (start as i64 + stride * i as i64) as usize;
                let mut src = Buf::of(dt, &bits);
                let mut dst = Buf::new(dt, n);
                let first = src.ptr() as u64 + (start * bytes) as u64;
                call(address(isa, &format!("load_{bytes}")), &[dst.ptr() as u64, first, stride as u64, n64]);
                for i in 0..n {
                    check(("load", isa, i), dst.get(i), bits[at(i)], dt, 0, "");
                }
                if stride != 0 {
                    let mut out = Buf::new(dt, span);
                    let first = out.ptr() as u64 + (start * bytes) as u64;
                    call(address(isa, &format!("store_{bytes}")), &[first, stride as u64, dst.ptr() as u64, n64]);
                    for i in 0..n {
                        check(("store", isa, i), out.get(at(i)), dst.get(i), dt, 0, "");
                    }
                }
            }
            let bits = samples(dt, n + 1, &mut rng);
            let (mut src, mut dst) = (Buf::of(dt, &bits), Buf::new(dt, n));
            call(address(isa, &format!("splat_{bytes}")), &[dst.ptr() as u64, src.ptr() as u64, n64]);
            assert!((0..n).all(|i| dst.get(i) == bits[0]));
            call(address(isa, &format!("copy_{bytes}")), &[dst.ptr() as u64, src.ptr() as u64, n64]);
            assert!((0..n).all(|i| dst.get(i) == bits[i]));
        }
    }
    for isa in levels() {
        let mut dst = Buf::new(DType::I64, 100);
        call(address(isa, "iota"), &[dst.ptr() as u64, i64::MAX as u64, (-3i64) as u64, 100]);
        assert!((0..100).all(|i| dst.get(i) as i64 == i64::MAX.wrapping_sub(3 * i as i64)));
    }
}

/// What the interpreter folds from `start` over `xs`, in order.
fn folded(op: ReduceOp, dt: DType, xs: impl Iterator<Item = Scalar>, start: Scalar) -> Scalar {
    let acc = accumulator(op, dt);
    let bin = match op {
        ReduceOp::Sum => BinOp::Add,
        ReduceOp::Prod => BinOp::Mul,
        ReduceOp::Max => BinOp::Max,
        _ => BinOp::Min,
    };
    xs.fold(start, |a, x| eval_bin(bin, a, x.to_dtype(acc), acc))
}

/// Folds reassociate: floats within rounding, zeros of either sign, NaN for NaN.
fn close(got: f64, want: f64) -> bool {
    got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= 1e-9 * want.abs().max(1.0)
}

#[test]
fn folds() {
    let mut rng = Rng(7);
    for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
        for (dt, n) in DTYPES.into_iter().flat_map(|d| SIZES.map(|n| (d, n))) {
            let acc = accumulator(op, dt);
            let mut bits = samples(dt, n, &mut rng);
            if dt.is_float() && op != ReduceOp::Max && op != ReduceOp::Min {
                // Sums and products that neither overflow nor cancel to nothing.
                bits = (0..n)
                    .map(|_| to_bits(Scalar::Float(0.5 + (rng.next() % 997) as f64 / 997.0).to_dtype(dt), dt))
                    .collect();
            }
            let start = scalar::identity(op, acc);
            let want = folded(op, dt, bits.iter().map(|&b| from_bits(b, dt)), start);
            let mut first = None;
            for isa in levels() {
                let mut x = Buf::of(dt, &bits);
                let mut a = Buf::of(acc, &[to_bits(start, acc)]);
                call(address(isa, &Prim::Reduce(op, dt).name()), &[a.ptr() as u64, x.ptr() as u64, n as u64]);
                let got = a.scalar(0);
                assert!(close(got.as_f64(), want.as_f64()), "{op:?} {dt} {n} {isa}: {got:?} {want:?}");
                if !dt.is_float() {
                    assert_eq!(got.as_i64(), want.as_i64());
                }
                if !got.as_f64().is_nan() {
                    assert_eq!(*first.get_or_insert(a.get(0)), a.get(0), "{op:?} {dt} {isa}");
                }
                // Columns: two rows of the same data.
                let mut c = Buf::of(acc, &vec![to_bits(start, acc); n]);
                for _ in 0..2 {
                    call(address(isa, &Prim::Col(op, dt).name()), &[c.ptr() as u64, x.ptr() as u64, n as u64]);
                }
                for (i, &b) in bits.iter().enumerate() {
                    let v = from_bits(b, dt);
                    let want = folded(op, dt, [v, v].into_iter(), start);
                    check(("col", isa, i), c.get(i), to_bits(want, acc), acc, 0, op.name());
                }
            }
        }
    }
}

#[test]
fn positions_of_extremes() {
    let mut rng = Rng(8);
    for op in [ReduceOp::ArgMax, ReduceOp::ArgMin] {
        let fold = if op == ReduceOp::ArgMax { ReduceOp::Max } else { ReduceOp::Min };
        for (dt, n) in DTYPES.into_iter().flat_map(|d| SIZES.map(|n| (d, n))) {
            let mut bits = samples(dt, n, &mut rng);
            if dt.is_float() && rng.next().is_multiple_of(2) {
                bits.retain(|&b| !from_bits(b, dt).as_f64().is_nan());
            }
            let n = bits.len();
            let nan = |b: u64| dt.is_float() && from_bits(b, dt).as_f64().is_nan();
            let cmp = if op == ReduceOp::ArgMax { CmpOp::Gt } else { CmpOp::Lt };
            let better = |v: u64, a: u64| !nan(a) && (nan(v) || eval_cmp(cmp, from_bits(v, dt), from_bits(a, dt), dt));
            let start = to_bits(scalar::identity(fold, dt), dt);
            let (mut best, mut want) = (start, 0i64);
            for (i, &b) in bits.iter().enumerate() {
                if better(b, best) {
                    (best, want) = (b, 1000 + i as i64);
                }
            }
            for isa in levels() {
                let mut x = Buf::of(dt, &bits);
                let (mut a, mut idx) = (Buf::of(dt, &[start]), Buf::of(DType::I64, &[0]));
                // In two blocks, as a kernel would.
                let cut = n / 3;
                let f = address(isa, &Prim::Reduce(op, dt).name());
                call(f, &[a.ptr() as u64, idx.ptr() as u64, x.ptr() as u64, cut as u64, 1000]);
                let rest = x.ptr() as u64 + (cut * dt.size()) as u64;
                call(f, &[a.ptr() as u64, idx.ptr() as u64, rest, (n - cut) as u64, 1000 + cut as u64]);
                assert_eq!(idx.get(0) as i64, want, "{op:?} {dt} {n} {isa}");
                let mut va = Buf::of(dt, &vec![start; n]);
                let mut vi = Buf::of(DType::I64, &vec![7; n]);
                let f = address(isa, &Prim::Col(op, dt).name());
                call(f, &[va.ptr() as u64, vi.ptr() as u64, x.ptr() as u64, n as u64, 42]);
                call(f, &[va.ptr() as u64, vi.ptr() as u64, x.ptr() as u64, n as u64, 43]);
                for (i, &b) in bits.iter().enumerate() {
                    let want = if better(b, start) { 42 } else { 7 };
                    assert_eq!(vi.get(i), want, "col {op:?} {dt} {isa}");
                }
            }
        }
    }
}
