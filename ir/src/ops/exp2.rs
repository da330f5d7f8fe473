//! `exp2`: powers of two.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `2^x`.\n\n>>> torsh.exp2(torsh.tensor([3.0, -1.0])).tolist()\n[8.0, 0.5]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.out.scale(std::f64::consts::LN_2))]),
    samples: || wide(unary_samples(Values::Normal), -155.0, 130.0),
    ..unary_float("exp2", UnOp::Exp2)
};
