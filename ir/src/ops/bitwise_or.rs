//! `bitwise_or`: or of each bit.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::BinOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise or of each bit of integers in two's complement; logical or of bool.\n\n>>> torsh.bitwise_or(torsh.tensor([6, 5]), 3).tolist()\n[7, 7]",
    dtypes: DTypeSet::BITS,
    vjp: Vjp::None("integers and bool have no gradient"),
    samples: || binary_samples(Values::Normal, Values::Normal),
    ..binary("bitwise_or", BinOp::Or)
};
