//! Accuracy of the transcendental primitives: f32 over a dense sample of all bit patterns against the f64
//! functions of `libm` (over all of them: [`super::exhaustive`]), f64 over samples against double-double arithmetic.
//! And: every level gives the same bits.

use super::tests::{Rng, address, call, levels};

/// Bound of every f64 function computed here, in ulp.
const F64_BOUND: f64 = 2.0;

pub(super) type Reference = fn(f64) -> f64;

fn sigmoid(x: f64) -> f64 {
    let e = libm::exp(-x.abs());
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// The f32 functions with their bounds in ulp.
pub(super) const F32: [(&str, Reference, f64); 21] = [
    ("exp", libm::exp, 0.9),
    ("exp2", libm::exp2, 0.88),
    ("expm1", libm::expm1, 1.53),
    ("log", libm::log, 0.94),
    ("log2", libm::log2, 1.7),
    ("log10", libm::log10, 1.93),
    ("log1p", libm::log1p, 1.52),
    ("tanh", libm::tanh, 1.46),
    ("erf", libm::erf, 1.5),
    ("sigmoid", sigmoid, 1.65),
    ("sin", libm::sin, 1.57),
    ("cos", libm::cos, 1.85),
    ("tan", libm::tan, 1.78),
    ("asin", libm::asin, 2.4),
    ("acos", libm::acos, 1.27),
    ("atan", libm::atan, 2.0),
    ("sinh", libm::sinh, 1.62),
    ("cosh", libm::cosh, 1.35),
    ("asinh", libm::asinh, 1.9),
    ("acosh", |x| if x < 1.0 { f64::NAN } else { libm::acosh(x) }, 2.0),
    ("atanh", libm::atanh, 2.2),
];

/// Error of `got` in ulp of f32 at `want`.
pub(super) fn error32(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if rounded.is_nan() || rounded.is_infinite() {
        return if got.is_nan() && rounded.is_nan() || got == rounded { 0.0 } else { f64::INFINITY };
    }
    if rounded == 0.0 && got == 0.0 {
        return if got.is_sign_negative() == rounded.is_sign_negative() { 0.0 } else { f64::INFINITY };
    }
    (f64::from(got) - want).abs() / ulp32(want)
}

/// The unit in the last place of f32 at `want`, which is finite; not below that of subnormal numbers.
#[inline(always)]
pub(super) fn ulp32(want: f64) -> f64 {
    let power = f64::from_bits(want.to_bits() & 0x7ff0_0000_0000_0000);
    power.max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON)
}

pub(super) fn call_level<T: Copy + Default>(isa: &str, name: &str, x: &[T]) -> Vec<T> {
    let mut y = vec![T::default(); x.len()];
    call(address(isa, name), &[y.as_mut_ptr() as u64, x.as_ptr() as u64, x.len() as u64]);
    y
}

#[test]
fn f32_functions_over_a_sample_of_all_numbers() {
    // Prime, so that all exponents and endings occur: about 4,300,000 numbers a function.
    const STRIDE: u64 = 997;
    const BLOCK: u64 = 1 << 16;
    for (name, reference, bound) in F32 {
        let symbol = format!("{name}_f32");
        let (mut worst, mut at) = (0.0, 0f32);
        let mut from = 0u64;
        while from < 1 << 32 {
            let x: Vec<f32> = (0..BLOCK)
                .map(|i| from + i * STRIDE)
                .take_while(|&b| b < 1 << 32)
                .map(|b| f32::from_bits(b as u32))
                .collect();
            let all: Vec<Vec<f32>> = levels().into_iter().map(|isa| call_level(isa, &symbol, &x)).collect();
            for (i, &v) in x.iter().enumerate() {
                for y in &all[1..] {
                    let same = y[i].to_bits() == all[0][i].to_bits() || y[i].is_nan() && all[0][i].is_nan();
                    assert!(same, "{symbol}({v:e}) differs between levels: {:e} {:e}", y[i], all[0][i]);
                }
                let e = error32(all[0][i], reference(f64::from(v)));
                if e > worst {
                    (worst, at) = (e, v);
                }
            }
            from += BLOCK * STRIDE;
        }
        println!("{symbol}: {worst:.4} ulp at {at:e}");
        assert!(worst <= bound, "{symbol} is {worst} ulp off at {at:e}");
    }
}

#[test]
fn f32_powers() {
    let mut rng = Rng(12);
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    for round in 0..40 {
        let n = 5000;
        let random = |r: &mut Rng| match r.next() % 4 {
            0 => f32::from_bits(r.next() as u32),
            1 => (r.next() % 41) as f32 - 20.0,
            2 => [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, 16_777_217.0, 1e-40]
                [r.next() as usize % 10],
            // Near one, where large powers are finite.
            _ => 1.0 + (r.next() as f32 / u64::MAX as f32 - 0.5) * libm::exp2f(-(round as f32)),
        };
        let a: Vec<f32> = (0..n).map(|_| random(&mut rng)).collect();
        let b: Vec<f32> =
            (0..n).map(|_| random(&mut rng) * if rng.next().is_multiple_of(2) { 1.0 } else { 10.0 }).collect();
        let mut first: Option<Vec<f32>> = None;
        for isa in levels() {
            let mut y = vec![0f32; n];
            call(address(isa, "pow_f32_vv"), &[y.as_mut_ptr() as u64, a.as_ptr() as u64, b.as_ptr() as u64, n as u64]);
            for i in 0..n {
                let e = error32(y[i], libm::pow(f64::from(a[i]), f64::from(b[i])));
                if e > worst {
                    (worst, at) = (e, (a[i], b[i]));
                }
                if let Some(first) = &first {
                    assert!(y[i].to_bits() == first[i].to_bits() || y[i].is_nan() && first[i].is_nan());
                }
            }
            first.get_or_insert(y);
        }
    }
    println!("pow_f32: {worst:.4} ulp at {at:?}");
    assert!(worst <= 0.55, "pow_f32 is {worst} ulp off at {at:?}");
}

/// An unevaluated sum of two f64: about 106 bits.
#[derive(Copy, Clone)]
struct Dd(f64, f64);

impl Dd {
    fn add(self, o: Dd) -> Dd {
        let s = self.0 + o.0;
        let b = s - self.0;
        let e = (self.0 - (s - b)) + (o.0 - b) + self.1 + o.1;
        Dd(s, 0.0).renorm(e)
    }
    fn renorm(self, e: f64) -> Dd {
        let s = self.0 + e;
        Dd(s, e - (s - self.0))
    }
    fn mul(self, o: Dd) -> Dd {
        let p = self.0 * o.0;
        let e = self.0.mul_add(o.0, -p) + (self.0 * o.1 + self.1 * o.0);
        Dd(p, 0.0).renorm(e)
    }
    fn div(self, o: Dd) -> Dd {
        let q = self.0 / o.0;
        let r = self.add(o.mul(Dd(-q, 0.0)));
        Dd(q, 0.0).renorm((r.0 + r.1) / o.0)
    }
    fn neg(self) -> Dd {
        Dd(-self.0, -self.1)
    }
    /// `e^self - 1`: Taylor on self / 2^k, then k times (1 + y)^2 - 1.
    fn expm1(self) -> Dd {
        let k = (libm::ilogb(self.0) + 7).clamp(0, 20);
        let r = Dd(libm::ldexp(self.0, -k), libm::ldexp(self.1, -k));
        let mut sum = Dd(1.0, 0.0);
        for i in (2..=16).rev() {
            sum = Dd(1.0, 0.0).add(sum.mul(r).div(Dd(f64::from(i), 0.0)));
        }
        let mut y = sum.mul(r);
        for _ in 0..k {
            y = y.add(y).add(y.mul(y));
        }
        y
    }
    fn exp(self) -> Dd {
        // Away from -1, where adding 1 would cancel.
        if self.0 > 0.0 { self.expm1().add(ONE) } else { ONE.div(self.neg().expm1().add(ONE)) }
    }
    /// ln(1 + self) by one Newton step from the library's value.
    fn log1p(self) -> Dd {
        let y = Dd(libm::log1p(self.0), 0.0);
        let e = y.expm1();
        // y + (1 + x - e^y) / e^y, and half the square of that term.
        let d = self.add(e.neg()).div(e.add(Dd(1.0, 0.0)));
        y.add(d).add(d.mul(d).mul(Dd(-0.5, 0.0)))
    }
}

const ONE: Dd = Dd(1.0, 0.0);

/// Function, reference and the range of arguments.
type Case = (&'static str, fn(f64) -> Dd, f64, f64);

const F64: [Case; 7] = [
    ("exp", |x| Dd(x, 0.0).exp(), -708.0, 709.5),
    ("exp2", |x| Dd(x, 0.0).mul(Dd(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17)).exp(), -1020.0, 1023.5),
    ("expm1", |x| Dd(x, 0.0).expm1(), -40.0, 709.5),
    ("log", |x| Dd(x, 0.0).add(Dd(-1.0, 0.0)).log1p(), 1e-3, 1e3),
    ("log1p", |x| Dd(x, 0.0).log1p(), -0.999, 1e3),
    (
        "tanh",
        |x| {
            let e = Dd(2.0 * x, 0.0).expm1();
            e.div(e.add(Dd(2.0, 0.0)))
        },
        -20.0,
        20.0,
    ),
    (
        "sigmoid",
        |x| {
            let e = Dd(-x, 0.0).expm1();
            ONE.div(e.add(Dd(2.0, 0.0)))
        },
        -36.0,
        300.0,
    ),
];

#[test]
fn f64_functions_against_double_double() {
    let mut rng = Rng(11);
    for (name, reference, lo, hi) in F64 {
        let symbol = format!("{name}_f64");
        let uniform = |r: &mut Rng| (r.next() >> 11) as f64 / (1u64 << 53) as f64;
        let mut x: Vec<f64> = (0..60_000).map(|_| lo + (hi - lo) * uniform(&mut rng)).collect();
        // Near zero and one, where cancellation shows.
        x.extend((0..60_000).map(|i| {
            let tiny = (uniform(&mut rng) - 0.5) * libm::exp2(f64::from(-(i % 60)));
            if name == "log" { 1.0 + tiny } else { tiny }
        }));
        x.retain(|v| (lo..hi).contains(v) && *v != 0.0);
        let all: Vec<Vec<f64>> = levels().into_iter().map(|isa| call_level(isa, &symbol, &x)).collect();
        let (mut worst, mut at) = (0.0, 0.0);
        for (i, &v) in x.iter().enumerate() {
            for y in &all[1..] {
                assert_eq!(y[i].to_bits(), all[0][i].to_bits(), "{symbol}({v:e}) differs between levels");
            }
            let want = reference(v);
            if want.0 == 0.0 {
                continue;
            }
            let ulp = libm::ldexp(1.0, libm::ilogb(want.0).max(-1022) - 52);
            let e = ((all[0][i] - want.0) - want.1).abs() / ulp;
            if e > worst {
                (worst, at) = (e, v);
            }
        }
        println!("{symbol}: {worst:.3} ulp at {at:e}");
        assert!(worst <= F64_BOUND, "{symbol} is {worst} ulp off at {at:e}");
    }
}

#[test]
fn f64_functions_at_the_edges() {
    let inf = f64::INFINITY;
    let x = [
        0.0,
        -0.0,
        inf,
        -inf,
        f64::NAN,
        f64::from_bits(0x7ff8_0000_0000_0fff),
        709.79,
        1e308,
        -745.2,
        -1e308,
        5e-324,
        -1.0,
        2.0,
    ];
    for isa in levels() {
        for (name, reference, _) in F32 {
            let y = call_level(isa, &format!("{name}_f64"), &x);
            for (i, &v) in x.iter().enumerate() {
                let want = reference(v);
                let ok = y[i].is_nan() && want.is_nan()
                    || y[i] == want && y[i].is_sign_negative() == want.is_sign_negative()
                    || (y[i] - want).abs() <= 1e-15 * want.abs();
                assert!(ok, "{name}_f64({v:e}) at {isa}: {:e}, want {want:e}", y[i]);
            }
        }
    }
}
