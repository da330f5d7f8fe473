//! `le`: less than or equal.

use super::compare;
use crate::op::OpDef;
use crate::scalar::CmpOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a <= b` as bool; false where an operand is NaN.\n\n>>> torsh.le(torsh.tensor([1, 2, 3]), 2).tolist()\n[True, True, False]",
    aliases: &["less_equal"],
    ..compare("le", CmpOp::Le)
};
