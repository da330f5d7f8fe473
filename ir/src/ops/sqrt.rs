//! `sqrt`: square root.

use super::{unary_float, unary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `sqrt(x)`, correctly rounded; NaN below 0.\n\n>>> torsh.sqrt(torsh.tensor([4.0, 2.25])).tolist()\n[2.0, 1.5]",
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct / c.out.scale(2.0))]),
    samples: || unary_samples(Values::Range(0.05, 10.0)),
    ..unary_float("sqrt", UnOp::Sqrt)
};
