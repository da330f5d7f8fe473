//! `ne`: inequality.

use super::compare;
use crate::op::OpDef;
use crate::scalar::CmpOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a != b` as bool; true where an operand is NaN.\n\n>>> torsh.ne(torsh.tensor([1, 2, 3]), 2).tolist()\n[True, False, True]",
    aliases: &["not_equal"],
    ..compare("ne", CmpOp::Ne)
};
