//! `erf`: the error function.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `2 / sqrt(pi) * integral of e^(-t^2) for t from 0 to x` (NIST DLMF 7.2.1).\n\n>>> round(torsh.erf(torsh.tensor(1.0)).item(), 4)\n0.8427",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (-(c.x[0] * c.x[0])).exp().scale(std::f64::consts::FRAC_2_SQRT_PI))]),
    samples: || wide(unary_samples(Values::Normal), -7.0, 7.0),
    ..unary_float("erf", UnOp::Erf)
};
