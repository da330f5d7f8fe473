//! `cosh`: hyperbolic cosine.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `(e^x + e^-x) / 2`.\n\n>>> round(torsh.cosh(torsh.tensor(1.0)).item(), 4)\n1.5431",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].sinh())]),
    samples: || wide(unary_samples(Values::Normal), -90.0, 90.0),
    ..unary_float("cosh", UnOp::Cosh)
};
