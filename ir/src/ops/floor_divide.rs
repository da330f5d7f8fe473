//! `floor_divide`: quotient rounded down.

use super::{binary, binary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `floor(a / b)`, rounded down on integers too; an integer divided by 0 gives 0. The gradient is 0.\n\n>>> torsh.floor_divide(torsh.tensor([7, -7]), 2).tolist()\n[3, -4]",
    vjp: Vjp::Rule(zero_vjp),
    samples: || binary_samples(Values::Normal, Values::Range(1.0, 5.0)),
    ..binary("floor_divide", BinOp::FloorDiv)
};
