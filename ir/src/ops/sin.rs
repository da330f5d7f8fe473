//! `sin`: sine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise sine of radians.\n\n>>> round(torsh.sin(torsh.tensor(1.0)).item(), 4)\n0.8415",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].cos())]),
    samples: || wide(unary_samples(Values::Normal), -1000.0, 1000.0),
    ..unary_float("sin", UnOp::Sin)
};
