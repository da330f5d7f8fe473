//! `sign`: sign of a number.

use super::{unary_number, unary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise -1, 0 or 1; NaN stays NaN and zero keeps its sign.\n\n>>> torsh.sign(torsh.tensor([3., 0., -0.5])).tolist()\n[1.0, 0.0, -1.0]",
    aliases: &["sgn"],
    vjp: Vjp::Rule(zero_vjp),
    samples: || unary_samples(Values::Normal),
    ..unary_number("sign", UnOp::Sign)
};
