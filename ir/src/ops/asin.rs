//! `asin`: inverse sine.

use super::{one_minus_square, unary_float, unary_samples};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise angle in `[-pi/2, pi/2]` with sine `x`; NaN outside `[-1, 1]`.\n\n>>> round(torsh.asin(torsh.tensor(1.0)).item(), 4)\n1.5708",
    aliases: &["arcsin"],
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * one_minus_square(c.x[0]).rsqrt())]),
    samples: || unary_samples(Values::Range(-0.95, 0.95)),
    ..unary_float("asin", UnOp::Asin)
};
