//! `fmod`: remainder with the sign of the dividend.

use super::{binary, binary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a - b * trunc(a / b)`, exact, as C's `fmod`; an integer remainder by 0 is 0.\n\n>>> torsh.fmod(torsh.tensor([7, -7]), 3).tolist()\n[1, -1]",
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct), Some(-(c.ct * (c.x[0] / c.x[1]).trunc()))]),
    samples: || binary_samples(Values::Normal, Values::Range(1.0, 5.0)),
    ..binary("fmod", BinOp::Fmod)
};
