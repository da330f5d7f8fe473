//! `tanh`: hyperbolic tangent.

use super::{one_minus_square, unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `(e^x - e^-x) / (e^x + e^-x)`.\n\n>>> round(torsh.tanh(torsh.tensor(1.0)).item(), 4)\n0.7616",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * one_minus_square(c.out))]),
    samples: || wide(unary_samples(Values::Normal), -20.0, 20.0),
    ..unary_float("tanh", UnOp::Tanh)
};
