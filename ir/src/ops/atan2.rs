//! `atan2`: angle of a point.

use super::{binary_float, binary_samples};
use crate::op::{OpDef, Tolerance, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise angle in `[-pi, pi]` of the point `(b, a)` (IEEE 754-2019, 9.2.1).\n\n>>> round(torsh.atan2(torsh.tensor(1.0), torsh.tensor(-1.0)).item(), 4)\n2.3562",
    aliases: &["arctan2"],
    tolerance: Tolerance::FUNCTION,
    // d atan2(a, b) = (b da - a db) / (a^2 + b^2)
    vjp: Vjp::Rule(|c| {
        let (a, b) = (c.x[0], c.x[1]);
        let g = c.ct / (a * a + b * b);
        smallvec![Some(g * b), Some(-(g * a))]
    }),
    samples: || binary_samples(Values::Range(0.3, 3.0), Values::Normal),
    ..binary_float("atan2", BinOp::Atan2)
};
