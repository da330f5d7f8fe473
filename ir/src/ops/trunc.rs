//! `trunc`: rounding toward zero.

use super::{unary_number, unary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise: `x` without its fraction; integers are themselves. The gradient is 0.\n\n>>> torsh.trunc(torsh.tensor([1.7, -1.7])).tolist()\n[1.0, -1.0]",
    aliases: &["fix"],
    vjp: Vjp::Rule(zero_vjp),
    samples: || unary_samples(Values::Normal),
    ..unary_number("trunc", UnOp::Trunc)
};
