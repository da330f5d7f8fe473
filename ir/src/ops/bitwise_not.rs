//! `bitwise_not`: complement.

use super::{unary_number, unary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::UnOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise bitwise complement of integers, logical not of bool.\n\n>>> torsh.bitwise_not(torsh.tensor([0, 5])).tolist()\n[-1, -6]",
    dtypes: DTypeSet::BITS,
    vjp: Vjp::None("integers and bool have no gradient"),
    samples: || unary_samples(Values::Normal),
    ..unary_number("bitwise_not", UnOp::Not)
};
