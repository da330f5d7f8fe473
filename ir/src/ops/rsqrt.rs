//! `rsqrt`: reciprocal square root.

use super::{unary_float, unary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `1 / sqrt(x)`: a correctly rounded square root, then a correctly rounded division.\n\n>>> torsh.rsqrt(torsh.tensor([4.0])).tolist()\n[0.5]",
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.scale(-0.5) * (c.out * c.out * c.out))]),
    samples: || unary_samples(Values::Range(0.05, 10.0)),
    ..unary_float("rsqrt", UnOp::Rsqrt)
};
