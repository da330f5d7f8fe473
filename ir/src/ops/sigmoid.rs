//! `sigmoid`: the logistic function.

use super::{one_minus, unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `1 / (1 + e^-x)`; no intermediate overflows.\n\n>>> torsh.sigmoid(torsh.tensor([0.0])).tolist()\n[0.5]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (c.out * one_minus(c.out)))]),
    samples: || wide(unary_samples(Values::Normal), -110.0, 110.0),
    ..unary_float("sigmoid", UnOp::Sigmoid)
};
