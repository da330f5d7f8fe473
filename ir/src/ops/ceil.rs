//! `ceil`: rounding up.

use super::{unary_number, unary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise: the least integral value `>= x`; integers are themselves. The gradient is 0.\n\n>>> torsh.ceil(torsh.tensor([1.2, -1.7])).tolist()\n[2.0, -1.0]",
    vjp: Vjp::Rule(zero_vjp),
    samples: || unary_samples(Values::Normal),
    ..unary_number("ceil", UnOp::Ceil)
};
