//! `round`: rounding to the nearest integral value.

use super::{unary_number, unary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise: the nearest integral value, ties to even; integers are themselves. The gradient is 0.\n\n>>> torsh.round(torsh.tensor([0.5, 1.5, -2.5])).tolist()\n[0.0, 2.0, -2.0]",
    vjp: Vjp::Rule(zero_vjp),
    samples: || unary_samples(Values::Normal),
    ..unary_number("round", UnOp::Round)
};
