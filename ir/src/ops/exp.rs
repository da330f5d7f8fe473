//! `exp`: the exponential function.

use super::{elementwise_shapes, unary_float};
use crate::op::{Gen, OpDef, Sample, Tolerance, Values, Vjp};
use crate::scalar::UnOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `e^x`.\n\n>>> torsh.exp(torsh.tensor([0.0])).tolist()\n[1.0]",
    tolerance: Tolerance::ulp(1.0),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct * c.out)]),
    samples: || {
        let mut s: Vec<_> = elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d)])).collect();
        s.push(Sample::new(vec![Gen::range(&[301], -110.0, 95.0)]).no_grad());
        s.push(Sample::new(vec![Gen::of(&[67], Values::Special)]).no_grad());
        s
    },
    ..unary_float("exp", UnOp::Exp)
};
