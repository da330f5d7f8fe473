//! `eq`: equality.

use super::compare;
use crate::op::OpDef;
use crate::scalar::CmpOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a == b` as bool; false where an operand is NaN.\n\n>>> torsh.eq(torsh.tensor([1, 2, 3]), 2).tolist()\n[False, True, False]",
    ..compare("eq", CmpOp::Eq)
};
