//! Exponentials and what is made of them.

use super::super::lanes::Lanes;
use super::{MAGIC, at_least, at_most, below, poly, with_sign};
use std::f32::consts::{LN_2, LOG2_E};

/// ln 2 less its f32.
const LN_2_LO: f32 = -1.904_654_2e-9;

/// `(r, n, shifted)` with `x = n ln 2 + r`, |r| <= 0.347; `shifted` holds `n + bias` in its low bits.
///
/// The first product and difference are exact, the second rounds the result once.
#[inline(always)]
fn reduce<L: Lanes>(l: &mut L, x: L::F, bias: f32) -> (L::F, L::F, L::I) {
    let (scale, magic) = (l.f(LOG2_E), l.f(MAGIC + bias));
    let t = l.fma(x, scale, magic);
    let n = l.sub(t, magic);
    let (hi, lo) = (l.f(LN_2), l.f(LN_2_LO));
    let r = l.fnma(n, hi, x);
    (l.fnma(n, lo, r), n, l.bits(t))
}

/// e^r for |r| <= 0.347, to 0.003 ulp before rounding.
#[inline(always)]
fn exp_poly<L: Lanes>(l: &mut L, r: L::F) -> L::F {
    poly(l, r, [1.0, 1.0, 0.499_999_94, 0.166_665_21, 0.041_668_29, 0.008_368_704, 0.001_381_893_9])
}

/// 2^r for |r| <= 0.5, to 0.003 ulp before rounding.
#[inline(always)]
fn exp2_poly<L: Lanes>(l: &mut L, r: L::F) -> L::F {
    poly(l, r, [1.0, LN_2, 0.240_226_5, 0.055_503_596, 0.009_618_063, 0.001_339_098_4, 0.000_154_628_83])
}

/// 2^n for `shifted` that holds `n + 127`, -127 < n < 128.
#[inline(always)]
fn power<L: Lanes>(l: &mut L, shifted: L::I) -> L::F {
    let s = l.shl(shifted, 23);
    l.from_bits(s)
}

/// `e^x / 4` for x >= 0, large enough for four times it to overflow: for the hyperbolic functions.
#[inline(always)]
pub(super) fn quarter_exp<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let x = at_most(l, x, 89.5);
    let (r, _, t) = reduce(l, x, 125.0);
    let y = exp_poly(l, r);
    let s = power(l, t);
    l.mul(y, s)
}

/// e^x. Within 0.90 ulp.
#[inline(always)]
pub fn exp<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    // Beyond these the result is infinite or zero.
    let x = at_most(l, x, 89.0);
    let x = at_least(l, x, -104.0);
    let (r, n, t) = reduce(l, x, 254.0);
    let y = exp_poly(l, r);
    l.scale(y, n, t)
}

/// 2^x. Within 0.88 ulp.
#[inline(always)]
pub fn exp2<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let x = at_most(l, x, 129.0);
    let x = at_least(l, x, -151.0);
    let magic = l.f(MAGIC + 254.0);
    let t = l.add(x, magic);
    let n = l.sub(t, magic);
    let r = l.sub(x, n);
    let y = exp2_poly(l, r);
    let t = l.bits(t);
    l.scale(y, n, t)
}

/// e^x - 1. Within 1.53 ulp.
#[inline(always)]
pub fn expm1<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let c = at_most(l, x, 89.0);
    // From here on down the result is -1.
    let c = at_least(l, c, -18.0);
    // Half the result is computed, as 2^128 is no number.
    let (r, _, t) = reduce(l, c, 126.0);
    let q = poly(l, r, [0.499_999_97, 0.166_665_45, 0.041_667_46, 0.008_366_432, 0.001_386_843_5]);
    let z = l.mul(r, r);
    let em = l.fma(q, z, r);
    let s = power(l, t);
    let half = l.f(0.5);
    let s1 = l.sub(s, half);
    let y = l.fma(s, em, s1);
    let y = l.add(y, y);
    // The smallest numbers would lose bits by the halving, and -0 its sign.
    let a = l.abs(x);
    let tiny = below(l, a, 2.980_232_2e-8);
    l.select(tiny, x, y)
}

/// Hyperbolic tangent: `1 - 2 / (1 + e^2|x|)`, near zero an odd polynomial. Within 1.46 ulp.
#[inline(always)]
pub fn tanh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let z = l.mul(a, a);
    let p = poly(l, z, [-0.333_332_8, 0.133_314_12, -0.053_737_435, 0.020_632_321, -0.005_698_03]);
    let p = l.mul(p, z);
    let near = l.fma(p, a, a);
    // Above 9.02 the result is 1. Exponents are small: one constant for the reduction is precise enough.
    let c = at_most(l, a, 9.1);
    let (scale, magic) = (l.f(2.0 * LOG2_E), l.f(MAGIC + 126.0));
    let t = l.fma(c, scale, magic);
    let n = l.sub(t, magic);
    // The negated remainder: the polynomial is `exp2_poly` with that sign.
    let r = l.fnma(c, scale, n);
    let y = poly(l, r, [1.0, -LN_2, 0.240_226_5, -0.055_503_596, 0.009_618_063, -0.001_339_098_4, 0.000_154_628_83]);
    let t = l.bits(t);
    let s = power(l, t);
    let (half, one) = (l.f(0.5), l.f(1.0));
    let d = l.fma(s, y, half);
    let d = l.div(one, d);
    let far = l.sub(one, d);
    let is_near = below(l, a, 0.625);
    let y = l.select(is_near, near, far);
    with_sign(l, y, x)
}

/// `1 / (1 + e^-x)`. Within 1.65 ulp.
#[inline(always)]
pub fn sigmoid<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    // By e^-|x| = e, which does not overflow: e / (1 + e) or 1 / (1 + e).
    let (bits, sign) = (l.bits(x), l.i(i32::MIN));
    let a = l.ior(bits, sign);
    let a = l.from_bits(a);
    let a = at_least(l, a, -104.0);
    let (r, n, t) = reduce(l, a, 254.0);
    let y = exp_poly(l, r);
    let e = l.scale(y, n, t);
    let one = l.f(1.0);
    let d = l.add(e, one);
    let q = l.div(e, d);
    let negative = below(l, x, 0.0);
    let n = l.select(negative, e, one);
    l.fnma(n, q, n)
}

/// The error function: near zero an odd polynomial, else one minus 2^g with a polynomial g fitted to
/// log2 erfc. Within 1.50 ulp.
#[inline(always)]
pub fn erf<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    // From 3.92 the result is 1.
    let a = l.abs(x);
    let a = at_most(l, a, 4.0);
    let z = l.mul(a, a);
    let p = poly(l, z, [0.128_379_15, -0.376_124_9, 0.112_817_31, -0.026_762_966, 0.004_987_352, -0.000_595_957_86]);
    let near = l.fma(p, a, a);
    let g = poly(
        l,
        a,
        [-1.628_295_5, -0.916_329_8, -0.153_267_19, 0.034_281_224, -0.005_254_870_3, 0.000_465_685_04, -1.620_083_1e-5],
    );
    let g = l.mul(g, a);
    let magic = l.f(MAGIC + 127.0);
    let t = l.add(g, magic);
    let n = l.sub(t, magic);
    let r = l.sub(g, n);
    // erfc is below a fifth: less precise than `exp2_poly`.
    #[allow(clippy::approx_constant, reason = "a fitted coefficient, not the logarithm of 2")]
    let y = poly(l, r, [1.0, 0.693_147, 0.240_222_47, 0.055_507_11, 0.009_671_292, 0.001_326_953_8]);
    let t = l.bits(t);
    let s = power(l, t);
    let one = l.f(1.0);
    let far = l.fnma(y, s, one);
    let is_near = below(l, a, 0.93);
    let y = l.select(is_near, near, far);
    with_sign(l, y, x)
}
