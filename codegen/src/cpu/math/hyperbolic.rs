//! Hyperbolic functions other than tanh, and their inverses.

use super::super::lanes::Lanes;
use super::exp::quarter_exp;
use super::log::{More, log1p_plus};
use super::{below, poly, with_sign};

/// Above this, asinh x and acosh x are ln 2x.
const LARGE: f32 = 33_554_432.0;

/// `(e^a / 4, e^-a / 4)`.
#[inline(always)]
fn quarters<L: Lanes>(l: &mut L, a: L::F) -> (L::F, L::F) {
    let u = quarter_exp(l, a);
    let c = l.f(0.0625);
    (u, l.div(c, u))
}

/// Hyperbolic sine. Within 1.62 ulp.
#[inline(always)]
pub fn sinh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let z = l.mul(a, a);
    let p = poly(l, z, [0.166_667_16, 0.008_330_274, 0.000_203_728_37]);
    let p = l.mul(p, z);
    let near = l.fma(p, a, a);
    let (u, v) = quarters(l, a);
    let far = l.sub(u, v);
    let far = l.add(far, far);
    let is_near = below(l, a, 1.0);
    let y = l.select(is_near, near, far);
    with_sign(l, y, x)
}

/// Hyperbolic cosine. Within 1.35 ulp.
#[inline(always)]
pub fn cosh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let (u, v) = quarters(l, a);
    let y = l.add(u, v);
    l.add(y, y)
}

/// `ln(1 + w + lost)`, or `ln 2a` where `a` is large.
#[inline(always)]
fn log_sum<L: Lanes>(l: &mut L, w: L::F, lost: Option<L::F>, a: L::F) -> L::F {
    let small = below(l, a, LARGE);
    let (zero, one) = (l.f(0.0), l.f(1.0));
    let (w, k) = (l.select(small, w, a), l.select(small, zero, one));
    let lost = lost.map(|lost| l.select(small, lost, zero));
    log1p_plus(l, w, Some(More { k, lost }))
}

/// Inverse hyperbolic sine: `ln(1 + w)`, `w = |x| + x^2 / (1 + sqrt(1 + x^2))`. Within 1.86 ulp.
#[inline(always)]
pub fn asinh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let one = l.f(1.0);
    let z = l.mul(a, a);
    let d = l.add(z, one);
    let d = l.sqrt(d);
    let d = l.add(d, one);
    let q = l.div(z, d);
    let w = l.add(q, a);
    let y = log_sum(l, w, None, a);
    with_sign(l, y, x)
}

/// Inverse hyperbolic cosine: `ln(1 + w)`, `w = t + sqrt(t^2 + 2 t)`, `t = x - 1`. Within 2.00 ulp.
#[inline(always)]
pub fn acosh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let one = l.f(1.0);
    let t = l.sub(x, one);
    let twice = l.add(t, t);
    let w = l.fma(t, t, twice);
    let root = l.sqrt(w);
    let w = l.add(root, t);
    let lost = l.sub(w, root);
    let lost = l.sub(t, lost);
    let y = log_sum(l, w, Some(lost), x);
    let outside = l.lt(x, one);
    let nan = l.f(f32::NAN);
    l.select(outside, nan, y)
}

/// Inverse hyperbolic tangent: `ln(1 + 2 |x| / (1 - |x|)) / 2`. Within 1.88 ulp.
#[inline(always)]
pub fn atanh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let (one, half) = (l.f(1.0), l.f(0.5));
    let (n, d) = (l.add(a, a), l.sub(one, a));
    // As n + n / d |x|, where only the sum's rounding counts while |x| is small. Below -2 where |x| > 1.
    let q = l.div(n, d);
    let sum = l.fma(q, a, n);
    let outside = below(l, d, 0.0);
    let q = l.select(outside, q, sum);
    let y = log1p_plus(l, q, None);
    let y = l.mul(y, half);
    // NaN where |x| > 1, of either sign.
    let y = l.abs(y);
    with_sign(l, y, x)
}
