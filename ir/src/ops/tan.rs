//! `tan`: tangent.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise tangent of radians.\n\n>>> round(torsh.tan(torsh.tensor(1.0)).item(), 4)\n1.5574",
    // Sine and cosine are each within 1.2 ulp in f32, then comes the quotient: 3.2 ulp, and a half of the
    // interpreter's.
    tolerance: Tolerance::ulp(4.0),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * (c.out * c.out).offset(1.0))]),
    samples: || wide(unary_samples(Values::Range(-1.3, 1.3)), -1000.0, 1000.0),
    ..unary_float("tan", UnOp::Tan)
};
