//! `acosh`: inverse hyperbolic cosine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `log(x + sqrt(x^2 - 1))`; NaN below 1.\n\n>>> round(torsh.acosh(torsh.tensor(2.0)).item(), 4)\n1.317",
    aliases: &["arccosh"],
    tolerance: Tolerance::FUNCTION,
    // `(x - 1) (x + 1)` does not cancel near 1 as `x^2 - 1` does.
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (c.x[0].offset(-1.0) * c.x[0].offset(1.0)).rsqrt())]),
    samples: || wide(unary_samples(Values::Range(1.1, 10.0)), 1.0, 60000.0),
    ..unary_float("acosh", UnOp::Acosh)
};
