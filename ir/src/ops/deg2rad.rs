//! `deg2rad`: degrees to radians.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Surface, Tolerance, Vjp};

/// The op. One multiplication: exact.
pub static DEF: OpDef = OpDef {
    doc: "`x * pi / 180`.\n\n>>> torsh.deg2rad(torsh.tensor([0.])).tolist()\n[0.0]",
    decompose: Some(|c| map(c, |x| x.scale(std::f64::consts::PI / 180.0))),
    vjp: Vjp::Rule(|c| map_vjp(c, |_, ct| ct.scale(std::f64::consts::PI / 180.0))),
    tolerance: Tolerance::EXACT,
    surface: Surface::Unary { float: true, inplace: true },
    ..float_map("deg2rad")
};
