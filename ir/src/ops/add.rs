//! `add`: sum.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a + b`; integers wrap, bool is logical or.\n\n>>> torsh.add(torsh.tensor([1., 2.]), 1).tolist()\n[2.0, 3.0]",
    dtypes: DTypeSet::ALL,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct), Some(c.ct)]),
    samples: || binary_samples(Values::Normal, Values::Normal),
    ..binary("add", BinOp::Add)
};
