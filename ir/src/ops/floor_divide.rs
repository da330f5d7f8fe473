//! `floor_divide`: quotient rounded down.

use super::{binary, binary_samples, zero_vjp};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a // b` as in Python: the quotient rounded down that leaves the remainder `a % b`, so that `a // b * b + a % b` is `a`. Of floats this is not the floor of the rounded `a / b`: `1.0 // 0.1` is 9. An infinite float divided by anything is NaN, a float divided by 0 is `a / 0`, an integer divided by 0 is 0. The gradient is 0.\n\n>>> torsh.floor_divide(torsh.tensor([7, -7]), 2).tolist()\n[3, -4]",
    vjp: Vjp::Rule(zero_vjp),
    samples: || binary_samples(Values::Normal, Values::Range(1.0, 5.0)),
    ..binary("floor_divide", BinOp::FloorDiv)
};
