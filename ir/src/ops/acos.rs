//! `acos`: inverse cosine.

use super::{one_minus_square, unary_float, unary_samples};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise angle in `[0, pi]` with cosine `x`; NaN outside `[-1, 1]`.\n\n>>> round(torsh.acos(torsh.tensor(-1.0)).item(), 4)\n3.1416",
    aliases: &["arccos"],
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(-(c.ct * one_minus_square(c.x[0]).rsqrt()))]),
    samples: || unary_samples(Values::Range(-0.95, 0.95)),
    ..unary_float("acos", UnOp::Acos)
};
