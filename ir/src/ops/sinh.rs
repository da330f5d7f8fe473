//! `sinh`: hyperbolic sine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `(e^x - e^-x) / 2`.\n\n>>> round(torsh.sinh(torsh.tensor(1.0)).item(), 4)\n1.1752",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].cosh())]),
    samples: || wide(unary_samples(Values::Normal), -90.0, 90.0),
    ..unary_float("sinh", UnOp::Sinh)
};
