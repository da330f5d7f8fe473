//! `frac`: the part after the point.

use super::composite::float_map;
use crate::op::{OpDef, Surface, Tolerance, Vjp};
use smallvec::smallvec;

/// The op. The difference is exact.
pub static DEF: OpDef = OpDef {
    doc: "`x - trunc(x)`.\n\n>>> torsh.frac(torsh.tensor([1.5, -2.25])).tolist()\n[0.5, -0.25]",
    decompose: Some(|c| c.x[0] - c.x[0].trunc()),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct)]),
    tolerance: Tolerance::EXACT,
    surface: Surface::Unary { float: false, inplace: true },
    ..float_map("frac")
};
