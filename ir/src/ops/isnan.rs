//! `isnan`: not a number.

use super::composite::predicate;
use crate::op::OpDef;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "True where `x` is NaN.\n\n\
        >>> torsh.isnan(torsh.tensor([1., float('nan')])).tolist()\n[False, True]",
    decompose: Some(|c| c.x[0].ne(c.x[0])),
    ..predicate("isnan")
};
