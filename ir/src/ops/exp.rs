//! `exp`: the exponential function.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `e^x`.\n\n>>> torsh.exp(torsh.tensor([0.0])).tolist()\n[1.0]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.out)]),
    samples: || wide(unary_samples(Values::Normal), -110.0, 95.0),
    ..unary_float("exp", UnOp::Exp)
};
