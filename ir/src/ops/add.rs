//! `add`: elementwise sum.

use super::{binary, elementwise_shapes};
use crate::op::{DTypeSet, Gen, OpDef, Sample, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a + b`; integers wrap, bool is logical or.\n\n>>> torsh.add(torsh.tensor([1., 2.]), 1).tolist()\n[2.0, 3.0]",
    dtypes: DTypeSet::ALL,
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct), Some(c.ct)]),
    samples: || {
        let mut s: Vec<_> = elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d), Gen::normal(d)])).collect();
        s.push(Sample::new(vec![Gen::of(&[67], Values::Special), Gen::of(&[67], Values::Special)]).no_grad());
        s
    },
    ..binary("add", BinOp::Add)
};
