//! `ge`: greater than or equal.

use super::compare;
use crate::op::OpDef;
use crate::scalar::CmpOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a >= b` as bool; false where an operand is NaN.\n\n>>> torsh.ge(torsh.tensor([1, 2, 3]), 2).tolist()\n[False, True, True]",
    aliases: &["greater_equal"],
    ..compare("ge", CmpOp::Ge)
};
