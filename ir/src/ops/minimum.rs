//! `minimum`: the smaller of two numbers.

use super::{binary, binary_samples};
use crate::op::{DTypeSet, OpDef, Surface, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise minimum of `a` and `b`; NaN propagates. Equal operands share the gradient evenly.\n\n>>> torsh.minimum(torsh.tensor([1., 5.]), torsh.tensor([3., 4.])).tolist()\n[1.0, 4.0]",
    dtypes: DTypeSet::ALL,
    vjp: Vjp::Rule(|c| {
        let (a, b, zero) = (c.x[0], c.x[1], c.ct.zeros_like());
        let shared = a.eq(b).select(c.ct.scale(0.5), c.ct);
        smallvec![Some(a.gt(b).select(zero, shared)), Some(a.lt(b).select(zero, shared))]
    }),
    samples: || binary_samples(Values::Normal, Values::Normal),
    surface: Surface::Binary { float: false, inplace: false },
    ..binary("minimum", BinOp::Min)
};
