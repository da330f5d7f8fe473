//! `log1p`: logarithm of one plus a number.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `log(1 + x)`, accurate near 0; NaN below -1.\n\n>>> torsh.log1p(torsh.tensor([0.0])).tolist()\n[0.0]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct / c.x[0].offset(1.0))]),
    samples: || wide(unary_samples(Values::Range(-0.9, 10.0)), -1.0, 60000.0),
    ..unary_float("log1p", UnOp::Log1p)
};
