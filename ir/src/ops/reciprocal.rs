//! `reciprocal`: reciprocal.

use super::{unary_float, unary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `1 / x`, correctly rounded.\n\n>>> torsh.reciprocal(torsh.tensor([4.0, -0.5])).tolist()\n[0.25, -2.0]",
    vjp: Vjp::Rule(|c| smallvec![Some(-(c.ct * (c.out * c.out)))]),
    samples: || unary_samples(Values::Range(0.2, 5.0)),
    ..unary_float("reciprocal", UnOp::Recip)
};
