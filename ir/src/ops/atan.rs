//! `atan`: inverse tangent.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise angle in `[-pi/2, pi/2]` with tangent `x`.\n\n>>> round(torsh.atan(torsh.tensor(1.0)).item(), 4)\n0.7854",
    aliases: &["arctan"],
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct / (c.x[0] * c.x[0]).offset(1.0))]),
    samples: || wide(unary_samples(Values::Normal), -1000.0, 1000.0),
    ..unary_float("atan", UnOp::Atan)
};
