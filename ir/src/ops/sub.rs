//! `sub`: difference.

use super::{binary, binary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a - b`; integers wrap.\n\n>>> torsh.sub(torsh.tensor([1., 2.]), 1).tolist()\n[0.0, 1.0]",
    aliases: &["subtract"],
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct), Some(-c.ct)]),
    samples: || binary_samples(Values::Normal, Values::Normal),
    ..binary("sub", BinOp::Sub)
};
