//! `neg`: negation.

use super::{unary_number, unary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `-x`; integers wrap.\n\n>>> torsh.neg(torsh.tensor([1., -2.])).tolist()\n[-1.0, 2.0]",
    aliases: &["negative"],
    vjp: Vjp::Rule(|c| smallvec![Some(-c.ct)]),
    samples: || unary_samples(Values::Normal),
    ..unary_number("neg", UnOp::Neg)
};
