//! `rad2deg`: radians to degrees.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Surface, Tolerance, Vjp};

/// The op. One multiplication: exact.
pub static DEF: OpDef = OpDef {
    doc: "`x * 180 / pi`.\n\n>>> torsh.rad2deg(torsh.tensor([0.])).tolist()\n[0.0]",
    decompose: Some(|c| map(c, |x| x.scale(180.0 / std::f64::consts::PI))),
    vjp: Vjp::Rule(|c| map_vjp(c, |_, ct| ct.scale(180.0 / std::f64::consts::PI))),
    tolerance: Tolerance::EXACT,
    surface: Surface::Unary { float: true, inplace: true },
    ..float_map("rad2deg")
};
