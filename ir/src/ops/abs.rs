//! `abs`: absolute value.

use super::{unary_number, unary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `|x|`; the smallest integer maps to itself.\n\n>>> torsh.abs(torsh.tensor([1, -2])).tolist()\n[1, 2]",
    aliases: &["absolute"],
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].sign())]),
    samples: || unary_samples(Values::Normal),
    ..unary_number("abs", UnOp::Abs)
};
