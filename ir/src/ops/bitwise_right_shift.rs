//! `bitwise_right_shift`: shift to lower bits.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::BinOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `floor(a / 2^b)` of integers; a count below 0 or not below the number of bits gives -1 for negative `a`, else 0.\n\n>>> torsh.bitwise_right_shift(torsh.tensor([9, -9]), 2).tolist()\n[2, -3]",
    dtypes: DTypeSet::INTS,
    vjp: Vjp::None("integers and bool have no gradient"),
    samples: || binary_samples(Values::Normal, Values::Range(0.0, 8.0)),
    ..binary("bitwise_right_shift", BinOp::Shr)
};
