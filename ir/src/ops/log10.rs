//! `log10`: decimal logarithm.

use super::{unary_float, unary_samples, wide};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise logarithm to base 10; NaN below 0, -inf at 0.\n\n>>> torsh.log10(torsh.tensor([1000.0, 1.0])).tolist()\n[3.0, 0.0]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct / c.x[0].scale(std::f64::consts::LN_10))]),
    samples: || wide(unary_samples(Values::Range(0.05, 10.0)), 0.0, 60000.0),
    ..unary_float("log10", UnOp::Log10)
};
