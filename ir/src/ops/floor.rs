//! `floor`: rounding down.

use super::{unary_number, unary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise: the greatest integral value `<= x`; integers are themselves. The gradient is 0.\n\n>>> torsh.floor(torsh.tensor([1.7, -1.2])).tolist()\n[1.0, -2.0]",
    vjp: Vjp::Rule(zero_vjp),
    samples: || unary_samples(Values::Normal),
    ..unary_number("floor", UnOp::Floor)
};
