//! `atanh`: inverse hyperbolic tangent.

use super::{one_minus_square, unary_float, unary_samples};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `log((1 + x) / (1 - x)) / 2`; NaN outside `[-1, 1]`.\n\n>>> round(torsh.atanh(torsh.tensor(0.5)).item(), 4)\n0.5493",
    aliases: &["arctanh"],
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct / one_minus_square(c.x[0]))]),
    samples: || unary_samples(Values::Range(-0.95, 0.95)),
    ..unary_float("atanh", UnOp::Atanh)
};
