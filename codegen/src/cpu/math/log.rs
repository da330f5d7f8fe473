//! Logarithms.

use super::super::lanes::Lanes;
use super::{below, poly};
use std::f32::consts::{LN_2, LOG2_E, LOG10_2, LOG10_E};

/// log10 2 less its f32.
const LOG10_2_LO: f32 = -1.432_098_9e-8;
/// The bits of 0.66943, where a mantissa's range begins. A little above 2/3: the sums that cancel most, of twice this
/// number, then exceed log10 1.3335 = 1/8, below which the unit in the last place is half as large.
const START: i32 = 0x3f2b_6000;
/// Sign and exponent.
const EXPONENT: i32 = 0xff80_0000_u32 as i32;

/// `(p, f^2)` with ln(1 + f) = f + p f^2, for |f| <= 0.339.
#[inline(always)]
fn log_parts<L: Lanes>(l: &mut L, f: L::F) -> (L::F, L::F) {
    let p = poly(
        l,
        f,
        [
            -0.5,
            0.333_332_15,
            -0.249_998_05,
            0.200_104_44,
            -0.166_801_81,
            0.140_053_4,
            -0.121_883_43,
            0.139_867_08,
            -0.128_744_95,
        ],
    );
    (p, l.mul(f, f))
}

/// ln(1 + f) for |f| <= 0.339.
#[inline(always)]
fn log_poly<L: Lanes>(l: &mut L, f: L::F) -> L::F {
    let (p, s) = log_parts(l, f);
    l.fma(p, s, f)
}

/// `(k, ln m)` with `x = 2^k m` and m in 0.669..1.339, for finite positive x.
#[inline(always)]
fn split<L: Lanes>(l: &mut L, x: L::F) -> (L::F, L::F) {
    // A subnormal is scaled by 2^23.
    let tiny = below(l, x, f32::MIN_POSITIVE);
    let up = l.f(8_388_608.0);
    let scaled = l.mul(x, up);
    let x = l.select(tiny, scaled, x);
    let (down, zero) = (l.f(-23.0), l.f(0.0));
    let k0 = l.select(tiny, down, zero);
    let (bits, start, mask) = (l.bits(x), l.i(START), l.i(EXPONENT));
    let e = l.isub(bits, start);
    let e = l.iand(e, mask);
    let m = l.isub(bits, e);
    let m = l.from_bits(m);
    let one = l.f(1.0);
    let f = l.sub(m, one);
    let k = l.to_float(e);
    let unit = l.f(1.192_092_9e-7);
    let k = l.fma(k, unit, k0);
    (k, log_poly(l, f))
}

/// The logarithm at the edge of its domain: `inside` where 0 < x < inf.
#[inline(always)]
fn edges<L: Lanes>(l: &mut L, x: L::F, inside: L::F) -> L::F {
    // As signed integers, numbers whose bits lie in 1..0x7f80_0000 come first.
    let (bits, shift, end) = (l.bits(x), l.i(i32::MAX), l.i(0xff7f_ffff_u32 as i32));
    let moved = l.iadd(bits, shift);
    let within = l.ilt(moved, end);
    // NaN of a negative number, infinity of itself.
    let (inf, zero, least) = (l.f(f32::INFINITY), l.f(0.0), l.f(f32::NEG_INFINITY));
    let other = l.fma(x, inf, inf);
    let y = l.select(within, inside, other);
    let none = l.eq(x, zero);
    l.select(none, least, y)
}

/// Natural logarithm. Within 0.94 ulp.
#[inline(always)]
pub fn log<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (k, m) = split(l, x);
    let c = l.f(LN_2);
    let y = l.fma(k, c, m);
    edges(l, x, y)
}

/// Logarithm to base 2. Within 1.70 ulp.
#[inline(always)]
pub fn log2<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (k, m) = split(l, x);
    let c = l.f(LOG2_E);
    let y = l.fma(m, c, k);
    edges(l, x, y)
}

/// Logarithm to base 10. Within 1.93 ulp.
#[inline(always)]
pub fn log10<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (k, m) = split(l, x);
    let (c, hi, lo) = (l.f(LOG10_E), l.f(LOG10_2), l.f(LOG10_2_LO));
    let low = l.mul(k, lo);
    let m = l.fma(m, c, low);
    let y = l.fma(k, hi, m);
    edges(l, x, y)
}

/// What [`log1p_plus`] adds.
pub(super) struct More<F> {
    /// A multiple of ln 2.
    pub k: F,
    /// What a sum of two numbers has lost in `x`.
    pub lost: Option<F>,
}

/// `ln(1 + x + lost) + k ln 2`, without regard to the sign of zero.
#[inline(always)]
pub(super) fn log1p_plus<L: Lanes>(l: &mut L, x: L::F, more: Option<More<L::F>>) -> L::F {
    let one = l.f(1.0);
    let u = l.add(x, one);
    let (bits, start, mask) = (l.bits(u), l.i(START), l.i(EXPONENT));
    let e = l.isub(bits, start);
    let e = l.iand(e, mask);
    // (1 + x) 2^-k - 1 = x 2^-k + (2^-k - 1), which keeps the bits of x that u has lost. By 4 * 2^-k, as 2^-128
    // is subnormal. Where k is not 0, x is not so small that its exponent could wrap.
    let (x_bits, four) = (l.bits(x), l.i(0x4080_0000));
    let scaled = l.isub(x_bits, e);
    let scaled = l.from_bits(scaled);
    let s = l.isub(four, e);
    let s = l.from_bits(s);
    let (quarter, minus) = (l.f(0.25), l.f(-1.0));
    let up = l.fma(s, quarter, minus);
    let f = l.add(scaled, up);
    let k = l.to_float(e);
    let (unit, c) = (l.f(1.192_092_9e-7), l.f(LN_2));
    let (k, lost) = match more {
        Some(more) => (l.fma(k, unit, more.k), more.lost),
        None => (l.mul(k, unit), None),
    };
    let m = match lost {
        Some(lost) => {
            let (p, z) = log_parts(l, f);
            let (p, lost) = (l.mul(p, z), l.mul(lost, quarter));
            let p = l.fma(lost, s, p);
            l.add(f, p)
        }
        None => log_poly(l, f),
    };
    let y = l.fma(k, c, m);
    edges(l, u, y)
}

/// `ln(1 + x)`. Within 1.52 ulp.
#[inline(always)]
pub fn log1p<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let y = log1p_plus(l, x, None);
    let zero = l.f(0.0);
    let none = l.eq(x, zero);
    l.select(none, x, y)
}
