//! `tan`: tangent.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise tangent of radians.\n\n>>> round(torsh.tan(torsh.tensor(1.0)).item(), 4)\n1.5574",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (c.out * c.out).offset(1.0))]),
    samples: || wide(unary_samples(Values::Range(-1.3, 1.3)), -1000.0, 1000.0),
    ..unary_float("tan", UnOp::Tan)
};
