//! `remainder`: remainder with the sign of the divisor.

use super::{binary, binary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a - b * floor(a / b)`, computed exactly and then rounded, as Python's `%`, the remainder of `//`; an integer remainder by 0 is 0.\n\n>>> torsh.remainder(torsh.tensor([7, -7]), 3).tolist()\n[1, 2]",
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct), Some(-(c.ct * c.x[0].floor_divide(c.x[1])))]),
    samples: || binary_samples(Values::Normal, Values::Range(1.0, 5.0)),
    ..binary("remainder", BinOp::Rem)
};
