//! Transcendental functions as straight-line code, so that the loops over them vectorise. Only plain
//! additions and multiplications: the bits are the same at every ISA level.
//!
//! The f32 functions compute in f64 with polynomials whose relative error is below 1e-9 (0.01 ulp of f32)
//! and round once. Coefficients are Chebyshev fits of the function named beside them. The f64 functions
//! follow fdlibm's reductions (Sun Microsystems, 1993: e_log.c, s_log1p.c) and a Taylor polynomial of e^r.
//!
//! `x + MAGIC` rounds `x` to an integer, to nearest even, whose low bits are then the low bits of the sum:
//! no conversion to integers is needed, which AVX2 lacks for 64 bits.

use std::f64::consts::{LN_2, LOG2_E, LOG10_E};

/// 1.5 * 2^52.
const MAGIC: f64 = 6_755_399_441_055_744.0;
/// 1.0 as bits.
const ONE: u64 = 0x3ff0_0000_0000_0000;
/// The leading 33 bits of ln 2: products with exponents are exact.
const LN2_HI: f64 = 6.931_471_803_691_238e-1;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;

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

/// `(e^x - 1, n shifted)` split as `e^x = 2^n (1 + first)`.
#[inline(always)]
fn exp_split(x: f64) -> (f64, f64) {
    let t = x * LOG2_E + MAGIC;
    let n = t - MAGIC;
    (expm1_small(x - n * LN_2), t)
}

/// e^x to 2e-10 for -700 < x < 700.
#[inline(always)]
fn exp_mid(x: f64) -> f64 {
    let (em, t) = exp_split(x);
    (1.0 + em) * pow2(t)
}

/// e^x - 1 to 5e-10 for -700 < x < 700, relative also near 0.
#[inline(always)]
fn expm1_mid(x: f64) -> f64 {
    let (em, t) = exp_split(x);
    let s = pow2(t);
    s * em + (s - 1.0)
}

/// Beyond these e^x is infinite or zero in f32.
#[inline(always)]
fn clamp32(x: f64) -> f64 {
    at_least(at_most(x, 90.0), -110.0)
}

#[inline(always)]
pub(super) fn exp32(x: f32) -> f32 {
    exp_mid(clamp32(f64::from(x))) as f32
}

#[inline(always)]
pub(super) fn exp2_32(x: f32) -> f32 {
    let x = at_least(at_most(f64::from(x), 130.0), -160.0);
    let t = x + MAGIC;
    let em = expm1_small((x - (t - MAGIC)) * LN_2);
    ((1.0 + em) * pow2(t)) as f32
}

#[inline(always)]
pub(super) fn expm1_32(x: f32) -> f32 {
    // The sign is that of x, at zero too.
    (expm1_mid(clamp32(f64::from(x))) as f32).copysign(x)
}

#[inline(always)]
pub(super) fn tanh32(x: f32) -> f32 {
    let e = expm1_mid(2.0 * at_most(f64::from(x.abs()), 20.0));
    ((e / (e + 2.0)) as f32).copysign(x)
}

#[inline(always)]
pub(super) fn sigmoid32(x: f32) -> f32 {
    let e = exp_mid(-at_most(f64::from(x.abs()), 110.0));
    ((if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)) as f32
}

#[inline(always)]
pub(super) fn erf32(x: f32) -> f32 {
    let a = at_most(f64::from(x.abs()), 4.0);
    let t = a * a;
    // Fit of erf(sqrt t) / sqrt t on 0..1.
    let small = a * poly!(t; 1.128_379_167_061_543_5, -0.376_126_384_680_287_1, 0.112_837_824_952_368_45,
        -0.026_865_430_727_670_243, 0.005_221_031_807_858_023, -0.000_848_408_040_553_510_7,
        0.000_112_659_590_256_066_09, -9.667_044_571_486_996e-6);
    // Fit of -ln(erfc(2.5 + u)) on -1.5..1.5.
    let g = poly!(a - 2.5; 7.806_815_272_727_264, 5.352_680_674_224_487, 0.943_893_703_610_650_7,
        0.010_858_541_642_896_825, -0.002_165_303_549_162_519_6, 0.000_420_122_523_541_289_46,
        -7.729_137_615_384_619e-5, 1.331_501_439_731_690_8e-5, -1.637_151_414_593_643_6e-6);
    let large = 1.0 - exp_mid(-g);
    ((if a < 1.0 { small } else { large }) as f32).copysign(x)
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

#[inline(always)]
pub(super) fn log32(x: f32) -> f32 {
    let x = f64::from(x);
    let (k, m) = log_split(x);
    log_edges(x, k * LN_2 + log1p_small(m - 1.0)) as f32
}

#[inline(always)]
pub(super) fn log2_32(x: f32) -> f32 {
    let x = f64::from(x);
    let (k, m) = log_split(x);
    log_edges(x, k + log1p_small(m - 1.0) * LOG2_E) as f32
}

#[inline(always)]
pub(super) fn log10_32(x: f32) -> f32 {
    let x = f64::from(x);
    let (k, m) = log_split(x);
    log_edges(x, (k * LN_2 + log1p_small(m - 1.0)) * LOG10_E) as f32
}

#[inline(always)]
pub(super) fn log1p_32(x: f32) -> f32 {
    let wide = f64::from(x);
    let u = 1.0 + wide;
    let (k, m) = log_split(u);
    // Below sqrt(2) the reduced argument is x itself, whose bits 1 + x may have lost.
    let f = if k == 0.0 { wide } else { m - 1.0 };
    let y = log_edges(u, k * LN_2 + log1p_small(f)) as f32;
    if x == 0.0 { x } else { y }
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

/// Where `sin32` and `cos32` hold; beyond it the reduction loses bits.
#[inline(always)]
pub(super) fn beyond_trig32(x: f32) -> bool {
    (x.abs() > 1_048_576.0) | x.is_nan()
}

/// `(sin r, cos r, quadrant)` with `x = r + quadrant pi/2`, |r| <= pi/4.
#[inline(always)]
fn trig_split(x: f64) -> (f64, f64, u64) {
    /// The leading 33 bits of pi/2 and the rest.
    const HI: f64 = 1.570_796_326_734_125_6;
    const LO: f64 = 6.077_100_506_506_192e-11;
    let t = x * std::f64::consts::FRAC_2_PI + MAGIC;
    let n = t - MAGIC;
    let r = (x - n * HI) - n * LO;
    let z = r * r;
    // Fits of (sin r / r - 1) / r^2 and (cos r - 1 + r^2/2) / r^4.
    let s = poly!(z; -0.166_666_666_638_530_44, 0.008_333_331_873_837_089, -0.000_198_400_862_637_554_43,
        2.724_986_465_513_958_5e-6);
    let c = poly!(z; 0.041_666_666_664_319_33, -0.001_388_888_767_128_810_8, 2.480_059_998_353_171e-5,
        -2.730_090_816_799_653_7e-7);
    (r * (1.0 + z * s), (1.0 - 0.5 * z) + z * z * c, t.to_bits())
}

/// Flips the sign of `y` in the quadrants 2 and 3.
#[inline(always)]
fn quadrant_sign(y: f64, q: u64) -> f64 {
    f64::from_bits(y.to_bits() ^ ((q & 2) << 62))
}

#[inline(always)]
pub(super) fn sin32(x: f32) -> f32 {
    let (s, c, q) = trig_split(f64::from(x));
    quadrant_sign(if q & 1 == 0 { s } else { c }, q) as f32
}

#[inline(always)]
pub(super) fn cos32(x: f32) -> f32 {
    let (s, c, q) = trig_split(f64::from(x));
    quadrant_sign(if q & 1 == 0 { c } else { s }, q.wrapping_add(1)) as f32
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
