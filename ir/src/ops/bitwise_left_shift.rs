//! `bitwise_left_shift`: shift to higher bits.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::BinOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a * 2^b` of integers, wrapping; a count below 0 or not below the number of bits gives 0.\n\n>>> torsh.bitwise_left_shift(torsh.tensor([1, 3]), 2).tolist()\n[4, 12]",
    dtypes: DTypeSet::INTS,
    vjp: Vjp::None("integers and bool have no gradient"),
    samples: || binary_samples(Values::Normal, Values::Range(0.0, 8.0)),
    ..binary("bitwise_left_shift", BinOp::Shl)
};
