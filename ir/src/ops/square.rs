//! `square`: x times itself.

use super::BASE;
use super::composite::unary_samples;
use crate::op::{DTypeSet, OpDef, Surface, Vjp};
use smallvec::smallvec;

/// The op. One operation: exact.
pub static DEF: OpDef = OpDef {
    name: "square",
    doc: "`x * x`.\n\n>>> torsh.square(torsh.tensor([-3., 2.])).tolist()\n[9.0, 4.0]",
    dtypes: DTypeSet::NUMBERS,
    decompose: Some(|c| c.x[0] * c.x[0]),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[0].scale(2.0))]),
    surface: Surface::Unary { float: false, inplace: true },
    samples: unary_samples,
    ..BASE
};
