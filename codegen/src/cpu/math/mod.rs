//! The transcendental functions of f32, written once over [`Lanes`]: straight-line code with selects, no
//! tables, at most one division, fused multiply-adds wherever they save a rounding.
//!
//! Polynomials are weighted minimax fits whose coefficients were rounded to f32 one by one, lowest first, and
//! the rest fitted anew. `x + MAGIC` rounds `x` to an integer, ties to even, whose value is then in the low
//! bits of the sum, so no conversion is needed.
//!
//! Each function states its largest error in units of the last place (ulp) of the exact result, rounded up, as measured
//! over all 2^32 arguments, subnormal results included. NaN gives NaN; signs of zero are kept where the function is odd.

mod exp;
mod hyperbolic;
mod log;
mod trig;

use super::lanes::Lanes;

pub use exp::{erf, exp, exp2, expm1, sigmoid, tanh};
pub use hyperbolic::{acosh, asinh, atanh, cosh, sinh};
pub use log::{log, log1p, log2, log10};
pub use trig::{TRIG_BOUND, acos, asin, atan, cos, sin, tan};

/// 1.5 * 2^23.
const MAGIC: f32 = 12_582_912.0;

/// `c[0] + c[1] x + c[2] x^2 ...` by Horner's rule.
#[inline(always)]
fn poly<L: Lanes, const N: usize>(l: &mut L, x: L::F, c: [f32; N]) -> L::F {
    let mut y = l.f(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        let k = l.f(c[i]);
        y = l.fma(y, x, k);
    }
    y
}

/// `y`, which is not negative, with the sign of `x`.
#[inline(always)]
fn with_sign<L: Lanes>(l: &mut L, y: L::F, x: L::F) -> L::F {
    let (y, x, mask) = (l.bits(y), l.bits(x), l.i(i32::MIN));
    let sign = l.iand(x, mask);
    let y = l.ior(y, sign);
    l.from_bits(y)
}

/// `min(c, x)` that keeps NaN.
#[inline(always)]
fn at_most<L: Lanes>(l: &mut L, x: L::F, c: f32) -> L::F {
    let c = l.f(c);
    l.min(c, x)
}

/// `max(c, x)` that keeps NaN.
#[inline(always)]
fn at_least<L: Lanes>(l: &mut L, x: L::F, c: f32) -> L::F {
    let c = l.f(c);
    l.max(c, x)
}

/// `a < c`.
#[inline(always)]
fn below<L: Lanes>(l: &mut L, a: L::F, c: f32) -> L::M {
    let c = l.f(c);
    l.lt(a, c)
}
