//! The `.approx` instructions.
//!
//! Model: the f64 value of the function, rounded once to the result type. With perturbation on, the result is moved
//! by a hash of the operand to some value within the error that the PTX manual allows (a part of it, since the f64
//! value itself is rounded): a kernel whose answer depends on more than the manual grants then shows.

use crate::alu::float;
use crate::inst::Approx;
use crate::soft::{NAN64, Rnd};
use crate::ty::Ty;

/// Evaluates one lane.
pub(crate) fn eval(f: Approx, ty: Ty, ftz: bool, sat: bool, a: u64, b: u64, perturb: bool) -> u64 {
    match ty {
        Ty::F64 => wide(f, ftz, a),
        Ty::F16x2 => pair(f, Ty::F16, ftz, a, perturb),
        Ty::Bf16x2 => pair(f, Ty::Bf16, ftz, a, perturb),
        _ => narrow(f, ty, ftz, sat, a, b, perturb),
    }
}

fn pair(f: Approx, one: Ty, ftz: bool, a: u64, perturb: bool) -> u64 {
    narrow(f, one, ftz, false, a & 0xffff, 0, perturb) | narrow(f, one, ftz, false, a >> 16 & 0xffff, 0, perturb) << 16
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` give only the high word of the result, the low one is zero;
/// `rsqrt.approx.f64` is a routine of full accuracy.
fn wide(f: Approx, ftz: bool, a: u64) -> u64 {
    let x = float::flush(f64::from_bits(a), Ty::F64, ftz);
    let r = match f {
        Approx::Rcp => 1.0 / x,
        _ if x == 0.0 => f64::INFINITY.copysign(x),
        _ => 1.0 / x.sqrt(),
    };
    if r.is_nan() {
        return NAN64;
    }
    let low = if ftz { 0xffff_ffff } else { 0 };
    float::flush(r, Ty::F64, ftz).to_bits() & !low
}

fn narrow(f: Approx, ty: Ty, ftz: bool, sat: bool, a: u64, b: u64, perturb: bool) -> u64 {
    let x = float::flush(float::value(ty, a), ty, ftz);
    let y = float::flush(float::value(ty, b), ty, ftz);
    // (value, relative error, absolute error) of what the manual allows.
    let ulp = 2f64.powi(-23);
    let (v, rel, abs) = match f {
        Approx::Ex2 => (x.exp2(), ulp, 0.0),
        Approx::Lg2 => {
            let v = if x < 0.0 { f64::NAN } else { x.log2() };
            if (0.5..=2.0).contains(&x) { (v, 0.0, 2f64.powi(-22)) } else { (v, ulp, 0.0) }
        }
        Approx::Sin => (x.sin(), 0.0, 2f64.powf(-20.5)),
        Approx::Cos => (x.cos(), 0.0, 2f64.powf(-20.5)),
        Approx::Tanh => (x.tanh(), 2f64.powf(-10.987), 0.0),
        Approx::Rsqrt => (1.0 / x.sqrt(), 2f64.powf(-22.9), 0.0),
        Approx::Rcp => (1.0 / x, ulp, 0.0),
        Approx::Sqrt => (x.sqrt(), ulp, 0.0),
        // The reciprocal of a divisor beyond 2^126 is subnormal and flushed.
        Approx::Div if y.abs() > 2f64.powi(126) && y.is_finite() => (x * 0f64.copysign(y), 0.0, 0.0),
        Approx::Div | Approx::DivFull => (x / y, 2.0 * ulp, 0.0),
    };
    // -0 keeps its infinity's sign in rsqrt.
    let v = if f == Approx::Rsqrt && x == 0.0 { f64::INFINITY.copysign(x) } else { v };
    let v = if perturb && v.is_finite() && v != 0.0 && !exact(f, x) {
        let hash = (a ^ b.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        // In (-0.75, 0.75) of the bound.
        let t = (hash as f64 / f64::from(1 << 24) - 0.5) * 1.5;
        v + t * (rel * v.abs()).max(abs)
    } else {
        v
    };
    let v = if sat { if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) } } else { v };
    let r = float::encode(ty, v, 0.0, Rnd::Rn);
    if ftz { float::encode(ty, float::flush(float::value(ty, r), ty, true), 0.0, Rnd::Rn) } else { r }
}

/// Arguments whose result kernels may take as exact.
fn exact(f: Approx, x: f64) -> bool {
    match f {
        Approx::Ex2 | Approx::Sin | Approx::Cos | Approx::Tanh => x == 0.0,
        Approx::Lg2 | Approx::Rcp | Approx::Rsqrt | Approx::Sqrt => x.abs() == 1.0,
        Approx::Div | Approx::DivFull => false,
    }
}
