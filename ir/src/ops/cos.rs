//! `cos`: cosine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise cosine of radians.\n\n>>> round(torsh.cos(torsh.tensor(1.0)).item(), 4)\n0.5403",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(-(c.ct * c.x[0].sin()))]),
    samples: || wide(unary_samples(Values::Normal), -1000.0, 1000.0),
    ..unary_float("cos", UnOp::Cos)
};
