//! `mul`: product.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a * b`; integers wrap, bool is logical and.\n\n>>> torsh.mul(torsh.tensor([1., 2.]), 3).tolist()\n[3.0, 6.0]",
    dtypes: DTypeSet::ALL,
    aliases: &["multiply"],
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[1]), Some(c.ct * c.x[0])]),
    samples: || binary_samples(Values::Normal, Values::Normal),
    ..binary("mul", BinOp::Mul)
};
