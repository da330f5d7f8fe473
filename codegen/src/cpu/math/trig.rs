//! Trigonometric functions and their inverses.

use super::super::lanes::Lanes;
use super::{MAGIC, below, poly, with_sign};
use std::f32::consts::{FRAC_2_PI, FRAC_PI_2, PI};

/// `sin`, `cos` and `tan` hold for |x| up to this; beyond it the reduction loses bits.
pub const TRIG_BOUND: f32 = 1_048_576.0;

/// pi/2 less its f32.
const FRAC_PI_2_LO: f32 = -4.371_139e-8;

/// pi/2 in three positive parts, lest -0 lose its sign in a difference with products of 0.
const PARTS: [f32; 3] = [f32::from_bits(0x3fc9_0fda), 7.549_789_4e-8, 5.390_328e-15];

/// `(x - n PARTS[0], n, n in the low bits)` for n = x 2 / pi, rounded. The difference is exact: a multiple of 2^-23
/// below 1.
#[inline(always)]
fn reduce<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::F, L::I) {
    let (scale, magic) = (l.f(FRAC_2_PI), l.f(MAGIC));
    let t = l.fma(x, scale, magic);
    let n = l.sub(t, magic);
    let a = l.f(PARTS[0]);
    (l.fnma(n, a, x), n, l.bits(t))
}

/// `(sin r, cos r, quadrant in the low bits)` with `x = r + quadrant pi/2`, |r| < 0.82.
#[inline(always)]
fn split<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::F, L::I) {
    let (r, n, q) = reduce(l, x);
    let (b, c) = (l.f(PARTS[1]), l.f(-PARTS[2]));
    // The rest is below 2^-28. It is left to the sum of the sine, lest r be rounded twice.
    let (r, rest) = (l.fnma(n, b, r), l.mul(n, c));
    let z = l.mul(r, r);
    let c = poly(l, z, [1.0, -0.5, 0.041_666_64, -0.001_388_711_5, 2.440_932_4e-5]);
    let s = poly(l, z, [-0.166_666_52, 0.008_332, -0.000_194_928_35]);
    // +0 where z is 0, lest the sum with -0 lose its sign.
    let zero = l.f(0.0);
    let s = l.fma(s, z, zero);
    let s = l.fma(s, r, rest);
    (l.add(r, s), c, q)
}

/// tan r / r - 1 over r^2.
const TAN: [f32; 7] =
    [0.333_333_76, 0.133_317_83, 0.054_156_8, 0.020_797_115, 0.012_053_678, -0.001_404_670_6, 0.005_089_218_3];

/// Whether the quadrant is odd.
#[inline(always)]
fn odd<L: Lanes>(l: &mut L, q: L::I) -> L::M {
    let (top, zero) = (l.shl(q, 31), l.i(0));
    l.ilt(top, zero)
}

/// Flips the sign of `y` in the quadrants 2 and 3.
#[inline(always)]
fn quadrant_sign<L: Lanes>(l: &mut L, y: L::F, q: L::I) -> L::F {
    let two = l.i(2);
    let sign = l.iand(q, two);
    let sign = l.shl(sign, 30);
    let y = l.bits(y);
    let y = l.ixor(y, sign);
    l.from_bits(y)
}

/// Sine, for |x| up to [`TRIG_BOUND`]. Within 1.57 ulp.
#[inline(always)]
pub fn sin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (s, c, q) = split(l, x);
    let swap = odd(l, q);
    let y = l.select(swap, c, s);
    quadrant_sign(l, y, q)
}

/// Cosine, for |x| up to [`TRIG_BOUND`]. Within 1.85 ulp.
#[inline(always)]
pub fn cos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (s, c, q) = split(l, x);
    let swap = odd(l, q);
    let y = l.select(swap, s, c);
    let one = l.i(1);
    let q = l.iadd(q, one);
    quadrant_sign(l, y, q)
}

/// Tangent, for |x| up to [`TRIG_BOUND`]. Within 1.78 ulp.
#[inline(always)]
pub fn tan<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (d, n, q) = reduce(l, x);
    // d - n (b + c) as r - rest, to twice the precision. That rest is +0 at zero, lest t lose the sign of -0.
    let (b, c) = (l.f(PARTS[1]), l.f(PARTS[2]));
    let m = l.mul(n, b);
    let r = l.sub(d, m);
    let low = l.fnma(n, b, m);
    let rest = l.sub(d, r);
    let rest = l.sub(m, rest);
    let rest = l.sub(rest, low);
    let rest = l.fma(n, c, rest);
    let z = l.mul(r, r);
    let p = poly(l, z, TAN);
    let zero = l.f(0.0);
    let p = l.fma(p, z, zero);
    let rest = l.fma(z, rest, rest);
    let u = l.fnma(p, r, rest);
    let t = l.sub(r, u);
    // -1 / t in the odd quadrants, with one Newton step for t and the part of the sum that t has lost.
    let lost = l.sub(r, t);
    let lost = l.sub(lost, u);
    let (one, minus) = (l.f(1.0), l.f(-1.0));
    let c = l.div(minus, t);
    let e = l.fma(c, t, one);
    let e = l.fma(c, lost, e);
    let c = l.fma(c, e, c);
    let swap = odd(l, q);
    l.select(swap, c, t)
}

/// Arc tangent: of `-1 / |x|` where |x| > 1. Within 1.38 ulp.
#[inline(always)]
pub fn atan<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let (one, minus) = (l.f(1.0), l.f(-1.0));
    let big = l.lt(one, a);
    let (n, d) = (l.select(big, minus, a), l.select(big, a, one));
    let q = l.div(n, d);
    let z = l.mul(q, q);
    let p = poly(
        l,
        z,
        [
            -0.333_331_53,
            0.199_937_67,
            -0.142_110_03,
            0.106_657_855,
            -0.075_517_24,
            0.043_205_857,
            -0.016_364_133,
            0.002_919_722_8,
        ],
    );
    let p = l.mul(p, z);
    let near = l.fma(p, q, q);
    // pi/2 + q first, which is exact near |x| = 1, then the small rest.
    let (quarter, lo) = (l.f(FRAC_PI_2), l.f(FRAC_PI_2_LO));
    let far = l.add(quarter, q);
    let rest = l.fma(p, q, lo);
    let far = l.add(far, rest);
    let y = l.select(big, far, near);
    with_sign(l, y, x)
}

/// `(s, arcsin s / s - 1, whether s is sqrt((1 - |x|) / 2) instead of |x|)`: the reflection where |x| > 1/2.
#[inline(always)]
fn half_arc<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::F, L::M) {
    let a = l.abs(x);
    let half = l.f(0.5);
    let big = l.lt(half, a);
    let (square, rest) = (l.mul(a, a), l.fnma(half, a, half));
    let z = l.select(big, rest, square);
    let root = l.sqrt(z);
    let s = l.select(big, root, a);
    let p = poly(l, z, [0.166_667_52, 0.074_953_07, 0.045_469_64, 0.024_181_498, 0.042_165_12]);
    (s, l.mul(p, z), big)
}

/// Arc sine. Within 1.17 ulp.
#[inline(always)]
pub fn asin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (s, p, big) = half_arc(l, x);
    let near = l.fma(p, s, s);
    // pi/2 - 2 s first, then the small rest and what the difference has lost.
    let (quarter, lo, twice) = (l.f(FRAC_PI_2), l.f(-FRAC_PI_2_LO), l.add(s, s));
    let far = l.sub(quarter, twice);
    let lost = l.sub(quarter, far);
    let lost = l.sub(lost, twice);
    let lo = l.sub(lo, lost);
    let rest = l.fma(p, twice, lo);
    let far = l.sub(far, rest);
    let y = l.select(big, far, near);
    with_sign(l, y, x)
}

/// Arc cosine. Within 1.27 ulp.
#[inline(always)]
pub fn acos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (s, p, big) = half_arc(l, x);
    let y = l.fma(p, s, s);
    // Near zero pi/2 - y, near one 2 y, near minus one pi - 2 y.
    let (twice, minus) = (l.add(y, y), l.neg(y));
    let y = l.select(big, twice, minus);
    let (bits, x_bits, mask) = (l.bits(y), l.bits(x), l.i(i32::MIN));
    let sign = l.iand(x_bits, mask);
    let y = l.ixor(bits, sign);
    let y = l.from_bits(y);
    let negative = below(l, x, 0.0);
    let (zero, quarter, pi) = (l.f(0.0), l.f(FRAC_PI_2), l.f(PI));
    let base = l.select(negative, pi, zero);
    let base = l.select(big, base, quarter);
    l.add(base, y)
}
