//! `mul`: elementwise product.

use super::{binary, elementwise_shapes};
use crate::op::{DTypeSet, Gen, OpDef, Sample, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a * b`; integers wrap, bool is logical and.\n\n>>> torsh.mul(torsh.tensor([1., 2.]), 3).tolist()\n[3.0, 6.0]",
    dtypes: DTypeSet::ALL,
    aliases: &["multiply"],
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.x[1]), Some(c.ct * c.x[0])]),
    samples: || {
        let mut s: Vec<_> = elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d), Gen::normal(d)])).collect();
        s.push(Sample::new(vec![Gen::of(&[67], Values::Special), Gen::of(&[67], Values::Special)]).no_grad());
        s
    },
    ..binary("mul", BinOp::Mul)
};
