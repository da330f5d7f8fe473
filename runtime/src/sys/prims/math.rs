//! Transcendental functions as straight-line code, so that the loops over them vectorise.
//!
//! Those of f32 are `torsh_codegen::cpu::math`, evaluated here by [`Plain`], one number at a time. Their fused
//! multiply-adds are rounded once at every ISA level (the portable one calls the C library for them), so
//! the bits are the same at all. What follows is in f64 and plain additions and multiplications: the functions
//! of f64, which follow fdlibm's reductions (Sun Microsystems, 1993: e_log.c, s_log1p.c) and a Taylor
//! polynomial of e^r, and the power function of f32, which rounds once (coefficients are Chebyshev fits of the
//! function named beside them).
//!
//! `x + MAGIC` rounds `x` to an integer, to nearest even, whose low bits are then the low bits of the sum:
//! no conversion to integers is needed, which AVX2 lacks for 64 bits.

use std::f64::consts::{LN_2, LOG2_E};
use torsh_codegen::cpu::lanes::Lanes;
use torsh_codegen::cpu::math::TRIG_BOUND;

/// 1.5 * 2^52.
const MAGIC: f64 = 6_755_399_441_055_744.0;
/// 1.0 as bits.
const ONE: u64 = 0x3ff0_0000_0000_0000;
/// The leading 33 bits of ln 2: products with exponents are exact.
const LN2_HI: f64 = 6.931_471_803_691_238e-1;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;

/// Evaluates lane arithmetic on one number: LLVM makes vectors of the loop around it.
pub(super) struct Plain;

/// One method a line: `name(operands) -> result = expression`.
macro_rules! plain {
    ($($name:ident($($p:ident: $t:ty),*) -> $r:ty = $e:expr;)*) => {
        impl Lanes for Plain {
            type F = f32;
            type I = i32;
            type M = bool;
            $(#[inline(always)] fn $name(&mut self, $($p: $t),*) -> $r { $e })*
        }
    };
}

plain! {
    f(c: f32) -> f32 = c;
    i(c: i32) -> i32 = c;
    add(a: f32, b: f32) -> f32 = a + b;
    sub(a: f32, b: f32) -> f32 = a - b;
    mul(a: f32, b: f32) -> f32 = a * b;
    div(a: f32, b: f32) -> f32 = a / b;
    fma(a: f32, b: f32, c: f32) -> f32 = a.mul_add(b, c);
    fnma(a: f32, b: f32, c: f32) -> f32 = (-a).mul_add(b, c);
    sqrt(a: f32) -> f32 = a.sqrt();
    min(a: f32, b: f32) -> f32 = if a < b { a } else { b };
    max(a: f32, b: f32) -> f32 = if a > b { a } else { b };
    round(a: f32) -> f32 = a.round_ties_even();
    lt(a: f32, b: f32) -> bool = a < b;
    le(a: f32, b: f32) -> bool = a <= b;
    eq(a: f32, b: f32) -> bool = a == b;
    ilt(a: i32, b: i32) -> bool = a < b;
    select(m: bool, a: f32, b: f32) -> f32 = if m { a } else { b };
    bits(a: f32) -> i32 = a.to_bits().cast_signed();
    from_bits(a: i32) -> f32 = f32::from_bits(a.cast_unsigned());
    to_float(a: i32) -> f32 = a as f32;
    iadd(a: i32, b: i32) -> i32 = a.wrapping_add(b);
    isub(a: i32, b: i32) -> i32 = a.wrapping_sub(b);
    iand(a: i32, b: i32) -> i32 = a & b;
    ior(a: i32, b: i32) -> i32 = a | b;
    ixor(a: i32, b: i32) -> i32 = a ^ b;
    shl(a: i32, n: u32) -> i32 = a.wrapping_shl(n);
    sar(a: i32, n: u32) -> i32 = a.wrapping_shr(n);
    shr(a: i32, n: u32) -> i32 = a.cast_unsigned().wrapping_shr(n).cast_signed();
}

/// Where the sine, cosine and tangent of f32 hold: not beyond this.
#[inline(always)]
pub(super) fn beyond_trig32(x: f32) -> bool {
    (x.abs() > TRIG_BOUND) | x.is_nan()
}

/// Horner's rule, lowest coefficient first.
macro_rules! poly {
    ($x:expr; $c:expr) => { $c };
    ($x:expr; $c:expr, $($rest:expr),+) => { $c + $x * poly!($x; $($rest),+) };
}

/// `min(x, hi)` that keeps NaN.
#[inline(always)]
fn at_most(x: f64, hi: f64) -> f64 {
    if x > hi { hi } else { x }
}

/// `max(x, lo)` that keeps NaN.
#[inline(always)]
fn at_least(x: f64, lo: f64) -> f64 {
    if x < lo { lo } else { x }
}

/// 2^n, for the `n` (in -1022..=1023) that a sum with MAGIC holds.
#[inline(always)]
fn pow2(shifted: f64) -> f64 {
    f64::from_bits((shifted.to_bits() << 52).wrapping_add(ONE))
}

/// `e^r - 1` for |r| <= ln(2)/2, to 2e-10: fit of (e^r - 1 - r) / r^2.
#[inline(always)]
fn expm1_small(r: f64) -> f64 {
    let q = poly!(r; 0.500_000_001_346_581, 0.166_666_666_816_232_32, 0.041_666_464_925_285_904,
        0.008_333_310_925_480_9, 0.001_393_364_999_630_925_1, 0.000_198_909_908_246_738_32);
    r + r * r * q
}

/// `(k, m)` with `x = 2^k m` and m in sqrt(1/2)..sqrt(2), for normal positive x.
#[inline(always)]
fn log_split(x: f64) -> (f64, f64) {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    // Offset by 1024 to stay positive: the shift is then logical and the conversion an or.
    let k = x.to_bits().wrapping_sub(SQRT_HALF).wrapping_add(1024 << 52) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub(k.wrapping_sub(1024) << 52));
    let kf = f64::from_bits(0x4330_0000_0000_0000 | k) - (4_503_599_627_370_496.0 + 1024.0);
    (kf, m)
}

/// ln(1 + f) for 1 + f in sqrt(1/2)..sqrt(2), to 2e-11: fit of (2 atanh(s) / s - 2) / s^2.
#[inline(always)]
fn log1p_small(f: f64) -> f64 {
    let s = f / (2.0 + f);
    let z = s * s;
    let p =
        poly!(z; 0.666_666_665_544_061_8, 0.400_001_219_141_492_8, 0.285_508_123_825_901_46, 0.233_306_966_724_557_8);
    s * (2.0 + z * p)
}

/// The logarithm's values at the edge of its domain: `inside` where 0 < x < inf.
#[inline(always)]
fn log_edges(x: f64, inside: f64) -> f64 {
    let positive = if x < f64::INFINITY { inside } else { x };
    let other = if x == 0.0 { f64::NEG_INFINITY } else { f64::NAN };
    if x > 0.0 { positive } else { other }
}

/// a^b by 2^(b log2 |a|), wherever `beyond_pow32` is false.
#[inline(always)]
pub(super) fn pow32(a: f32, b: f32) -> f32 {
    // A larger exponent is an even integer and gives 0, 1 or infinity as this one does.
    const HUGE: f64 = 1_099_511_627_776.0;
    let b = at_least(at_most(f64::from(b), HUGE), -HUGE);
    let (k, m) = log_split(f64::from(a.abs()));
    let e = at_least(at_most(b * (k + log1p_small(m - 1.0) * LOG2_E), 130.0), -160.0);
    let t = e + MAGIC;
    let y = ((1.0 + expm1_small((e - (t - MAGIC)) * LN_2)) * pow2(t)) as f32;
    // A negative base: the sign of an odd power, and no fractional ones.
    let whole = b + MAGIC;
    let odd = whole.to_bits() << 63 >> 32;
    let signed = f32::from_bits(y.to_bits() ^ odd as u32);
    let negative = if whole - MAGIC == b { signed } else { f32::NAN };
    if a < 0.0 { negative } else { y }
}

/// Zeros, infinities and NaN.
#[inline(always)]
pub(super) fn beyond_pow32(a: f32, b: f32) -> bool {
    (a == 0.0) | a.is_nan() | a.is_infinite() | b.is_nan()
}

/// `e^r - 1 - r` for |r| <= ln(2)/2, to 2^-54 of e^r.
#[inline(always)]
fn exp_tail64(r: f64) -> f64 {
    const C: [f64; 12] = {
        // 1/2!, 1/3!, ... 1/13!
        let mut c = [0.5; 12];
        let mut i = 1;
        let mut fact = 2.0;
        while i < 12 {
            fact *= (i + 2) as f64;
            c[i] = 1.0 / fact;
            i += 1;
        }
        c
    };
    let z = r * r;
    // Even and odd halves: a dependency chain half as long.
    let even = poly!(z; C[0], C[2], C[4], C[6], C[8], C[10]);
    let odd = poly!(z; C[1], C[3], C[5], C[7], C[9], C[11]);
    z * (even + r * odd)
}

/// `y * 2^n` with one rounding, for |n| <= 2044.
#[inline(always)]
fn scale(y: f64, n: f64) -> f64 {
    let half = n * 0.5 + MAGIC;
    let rest = (n - (half - MAGIC)) + MAGIC;
    y * pow2(half) * pow2(rest)
}

#[inline(always)]
pub(super) fn exp64(x: f64) -> f64 {
    let c = at_least(at_most(x, 710.0), -746.0);
    let n = (c * LOG2_E + MAGIC) - MAGIC;
    let r = (c - n * LN2_HI) - n * LN2_LO;
    let y = scale(1.0 + (r + exp_tail64(r)), n);
    if x.is_nan() { x } else { y }
}

#[inline(always)]
pub(super) fn exp2_64(x: f64) -> f64 {
    let c = at_least(at_most(x, 1025.0), -1080.0);
    let n = (c + MAGIC) - MAGIC;
    let r = (c - n) * LN_2;
    let y = scale(1.0 + (r + exp_tail64(r)), n);
    if x.is_nan() { x } else { y }
}

#[inline(always)]
pub(super) fn expm1_64(x: f64) -> f64 {
    let c = at_least(at_most(x, 710.0), -50.0);
    let n = (c * LOG2_E + MAGIC) - MAGIC;
    let hi = c - n * LN2_HI;
    let lo = n * LN2_LO;
    let r = hi - lo;
    let lost = (hi - r) - lo;
    // e^x - 1 = 2^n (e^r - 1 + c) with c = 1 - 2^-n; the bits that c + r loses are added to the small tail.
    let c = 1.0 - pow2(at_least(-n, -60.0) + MAGIC);
    let sum = c + r;
    let tail = (r - (sum - c)) + (exp_tail64(r) + lost);
    // Half the result, as 2^1024 is not a number.
    let y = ((sum + tail) * pow2((n - 1.0) + MAGIC) * 2.0).copysign(x);
    // Halving would lose bits of the smallest arguments.
    if x.is_nan() | (x.abs() < 1e-300) { x } else { y }
}

#[inline(always)]
pub(super) fn tanh64(x: f64) -> f64 {
    let a = at_most(x.abs(), 22.0);
    let e = expm1_64(2.0 * a);
    // Near zero the quotient's roundings would show: fit of (tanh(sqrt z) / sqrt z - 1) / z on 0..0.31.
    let z = a * a;
    let p = poly!(z; -0.333_333_333_333_333_3, 0.133_333_333_333_325_56, -0.053_968_253_967_247_26,
        0.021_869_488_485_246_01, -0.008_863_234_206_012_93, 0.003_592_107_881_104_590_5, -0.001_455_642_111_220_305,
        0.000_588_840_042_253_728_1, -0.000_234_353_148_456_457_68, 8.465_718_640_250_347e-5,
        -2.028_980_061_251_407_5e-5);
    let near = a + a * (z * p);
    (if a < 0.55 { near } else { e / (e + 2.0) }).copysign(x)
}

#[inline(always)]
pub(super) fn sigmoid64(x: f64) -> f64 {
    let e = exp64(-x.abs());
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// ln(1 + f) + c + k ln 2 for 1 + f in sqrt(1/2)..sqrt(2), c tiny.
#[inline(always)]
fn log_tail64(f: f64, k: f64, c: f64) -> f64 {
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * poly!(z; 6.666_666_666_666_735e-1, 3.999_999_999_940_942e-1, 2.857_142_874_366_239e-1,
        2.222_219_843_214_978_4e-1, 1.818_357_216_161_805e-1, 1.531_383_769_920_937_3e-1, 1.479_819_860_511_658_6e-1);
    let half = 0.5 * f * f;
    k * LN2_HI - ((half - (s * (half + r) + (k * LN2_LO + c))) - f)
}

#[inline(always)]
pub(super) fn log64(x: f64) -> f64 {
    // A subnormal is scaled by 2^54.
    let tiny = x < f64::MIN_POSITIVE;
    let (k, m) = log_split(if tiny { x * 18_014_398_509_481_984.0 } else { x });
    let k = if tiny { k - 54.0 } else { k };
    log_edges(x, log_tail64(m - 1.0, k, 0.0))
}

#[inline(always)]
pub(super) fn log1p_64(x: f64) -> f64 {
    let u = 1.0 + x;
    let (k, m) = log_split(u);
    // What 1 + x lost, relative to u.
    let lost = (if k > 0.0 { 1.0 - (u - x) } else { x - (u - 1.0) }) / u;
    let near = k == 0.0;
    let y = log_tail64(if near { x } else { m - 1.0 }, k, if near { 0.0 } else { lost });
    let y = log_edges(u, y);
    if x == 0.0 { x } else { y }
}
