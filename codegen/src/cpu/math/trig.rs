//! Trigonometric functions and their inverses.

use super::super::lanes::Lanes;
use super::{MAGIC, below, poly, with_sign};
use std::f32::consts::{FRAC_2_PI, FRAC_PI_2, PI};

/// `sin`, `cos` and `tan` hold for |x| up to this; beyond it the reduction loses bits.
pub const TRIG_BOUND: f32 = 1_048_576.0;

/// pi/2 less its f32.
const FRAC_PI_2_LO: f32 = -4.371_139e-8;

/// `(r, r^2, cos r, quadrant in the low bits)` with `x = r + quadrant pi/2`, |r| < 0.82.
#[inline(always)]
fn split<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::F, L::F, L::I) {
    let (scale, magic) = (l.f(FRAC_2_PI), l.f(MAGIC));
    let t = l.fma(x, scale, magic);
    let n = l.sub(t, magic);
    // pi/2 in three positive parts, lest -0 lose its sign. The first difference is exact: a multiple of 2^-23
    // below 1.
    let (a, b, c) = (l.f(f32::from_bits(0x3fc9_0fda)), l.f(7.549_789_4e-8), l.f(5.390_328e-15));
    let r = l.fnma(n, a, x);
    let r = l.fnma(n, b, r);
    let r = l.fnma(n, c, r);
    let z = l.mul(r, r);
    let c = poly(l, z, [1.0, -0.5, 0.041_666_64, -0.001_388_711_5, 2.440_932_4e-5]);
    (r, z, c, l.bits(t))
}

/// sin r / r - 1 over r^2.
const SIN: [f32; 3] = [-0.166_666_52, 0.008_332, -0.000_194_928_35];

/// sin r; the product keeps the sign of zero.
#[inline(always)]
fn sine<L: Lanes>(l: &mut L, r: L::F, z: L::F) -> L::F {
    let s = poly(l, z, [1.0, SIN[0], SIN[1], SIN[2]]);
    l.mul(s, r)
}

/// sin r, half an ulp better, but +0 at -0.
#[inline(always)]
fn sharp_sine<L: Lanes>(l: &mut L, r: L::F, z: L::F) -> L::F {
    let s = poly(l, z, SIN);
    let s = l.mul(s, z);
    l.fma(s, r, r)
}

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

/// Sine, for |x| up to [`TRIG_BOUND`].
#[inline(always)]
pub fn sin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (r, z, c, q) = split(l, x);
    let s = sine(l, r, z);
    let swap = odd(l, q);
    let y = l.select(swap, c, s);
    quadrant_sign(l, y, q)
}

/// Cosine, for |x| up to [`TRIG_BOUND`].
#[inline(always)]
pub fn cos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (r, z, c, q) = split(l, x);
    let s = sharp_sine(l, r, z);
    let swap = odd(l, q);
    let y = l.select(swap, s, c);
    let one = l.i(1);
    let q = l.iadd(q, one);
    quadrant_sign(l, y, q)
}

/// Tangent, for |x| up to [`TRIG_BOUND`].
#[inline(always)]
pub fn tan<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (r, z, c, q) = split(l, x);
    let s = sharp_sine(l, r, z);
    let swap = odd(l, q);
    let (n, d) = (l.select(swap, c, s), l.select(swap, s, c));
    let y = l.div(n, d);
    // -cos / sin in the odd quadrants.
    let sign = l.shl(q, 31);
    let y = l.bits(y);
    let y = l.ixor(y, sign);
    let y = l.from_bits(y);
    let zero = l.f(0.0);
    let none = l.eq(x, zero);
    l.select(none, x, y)
}

/// Arc tangent: of `-1 / |x|` where |x| > 1.
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
    let y = l.fma(p, q, q);
    let quarter = l.f(FRAC_PI_2);
    let far = l.add(y, quarter);
    let y = l.select(big, far, y);
    with_sign(l, y, x)
}

/// `(arcsine, whether of sqrt((1 - |x|) / 2) instead of |x|)`, not negative: the reflection where |x| > 1/2.
#[inline(always)]
fn half_arc<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::M) {
    let a = l.abs(x);
    let half = l.f(0.5);
    let big = l.lt(half, a);
    let (square, rest) = (l.mul(a, a), l.fnma(half, a, half));
    let z = l.select(big, rest, square);
    let root = l.sqrt(z);
    let s = l.select(big, root, a);
    let p = poly(l, z, [0.166_667_52, 0.074_953_07, 0.045_469_64, 0.024_181_498, 0.042_165_12]);
    let p = l.mul(p, z);
    (l.fma(p, s, s), big)
}

/// Arc sine.
#[inline(always)]
pub fn asin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (y, big) = half_arc(l, x);
    let (two, quarter, lo) = (l.f(2.0), l.f(FRAC_PI_2), l.f(-FRAC_PI_2_LO));
    let far = l.fma(two, y, lo);
    let far = l.sub(quarter, far);
    let y = l.select(big, far, y);
    with_sign(l, y, x)
}

/// Arc cosine.
#[inline(always)]
pub fn acos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (y, big) = half_arc(l, x);
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
