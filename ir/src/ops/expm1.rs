//! `expm1`: the exponential function less one.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `e^x - 1`, accurate near 0.\n\n>>> torsh.expm1(torsh.tensor([0.0])).tolist()\n[0.0]",
    tolerance: Tolerance::FUNCTION,
    // `e^x` and not `out + 1`, which is 0 where x is far below 0.
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].exp())]),
    samples: || wide(unary_samples(Values::Normal), -110.0, 88.0),
    ..unary_float("expm1", UnOp::Expm1)
};
