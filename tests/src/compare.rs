//! When two results count as equal.

use crate::values::show;
use torsh_ir::interp::HostTensor;
use torsh_ir::op::Tolerance;
use torsh_ir::scalar::round_to;
use torsh_ir::{DType, Scalar};

/// Distance from `x` to the next representable magnitude in `dtype`; at least the smallest denormal.
pub fn ulp(x: f64, dtype: DType) -> f64 {
    let (digits, min_exponent) = match dtype {
        DType::F16 => (11, -14),
        DType::BF16 => (8, -126),
        DType::F32 => (24, -126),
        _ => (53, -1022),
    };
    if x == 0.0 || !x.is_finite() {
        return 2f64.powi((min_exponent - (digits - 1)).max(-1074));
    }
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(min_exponent);
    2f64.powi((exponent - (digits - 1)).max(-1074))
}

/// Machine epsilon of a float dtype; 0 for others.
pub fn epsilon(dtype: DType) -> f64 {
    dtype.significand().map_or(0.0, |digits| 2f64.powi(1 - digits as i32))
}

/// The first difference beyond the tolerance, in words; `scale` is the largest magnitude among operands.
///
/// NaN equals NaN whatever its bits, and the zeros are equal. Integers and bools must be the same.
pub fn difference(got: &HostTensor, want: &HostTensor, tolerance: Tolerance, scale: f64) -> Option<String> {
    if got.ty != want.ty {
        return Some(format!("type {} instead of {}", got.ty, want.ty));
    }
    let dtype = want.dtype();
    let at = (0..want.len()).find(|&i| !close(got.get(i), want.get(i), dtype, tolerance, scale))?;
    Some(format!(
        "element {at} of {} is {} instead of {} (tolerance {} ulp, {} eps of {scale:e})",
        want.ty,
        show(got, at),
        show(want, at),
        tolerance.ulp,
        tolerance.scaled_eps
    ))
}

fn close(got: Scalar, want: Scalar, dtype: DType, tolerance: Tolerance, scale: f64) -> bool {
    let (Scalar::Float(g), Scalar::Float(w)) = (got, want) else { return got == want };
    if g == w || (g.is_nan() && w.is_nan()) {
        return true;
    }
    let allowed = tolerance.ulp * ulp(w, dtype) + tolerance.scaled_eps * epsilon(dtype) * scale.max(w.abs());
    // A result beside the largest finite number may round to infinity.
    if g.is_infinite() || w.is_infinite() {
        let finite = if g.is_infinite() { w } else { g };
        let largest = largest(dtype);
        return allowed > 0.0 && finite.is_finite() && finite.abs() >= largest - 4.0 * ulp(largest, dtype);
    }
    (g - w).abs() <= allowed
}

fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        DType::BF16 => round_to(3.389e38, dtype),
        DType::F32 => f64::from(f32::MAX),
        _ => f64::MAX,
    }
}

/// The largest finite magnitude in a tensor.
pub fn magnitude(t: &HostTensor) -> f64 {
    t.to_f64().into_iter().filter(|x| x.is_finite()).fold(0.0, |a, x| a.max(x.abs()))
}
