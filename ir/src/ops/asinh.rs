//! `asinh`: inverse hyperbolic sine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `log(x + sqrt(x^2 + 1))`.\n\n>>> round(torsh.asinh(torsh.tensor(1.0)).item(), 4)\n0.8814",
    aliases: &["arcsinh"],
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (c.x[0] * c.x[0]).offset(1.0).rsqrt())]),
    samples: || wide(unary_samples(Values::Normal), -1000.0, 1000.0),
    ..unary_float("asinh", UnOp::Asinh)
};
