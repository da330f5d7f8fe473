//! `select`: elementwise choice.

use super::{BASE, elementwise_shapes, same_types};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Values, Vjp};
use crate::scalar::ScalarOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "select",
    doc: "Elementwise `a` where `condition` holds, else `b`; the branch not taken has no influence on value or gradient.\n\n>>> torsh.where(torsh.tensor([True, False]), torsh.tensor([1., 2.]), torsh.tensor([3., 4.])).tolist()\n[1.0, 4.0]",
    kind: Kind::Elementwise(ScalarOp::Select),
    arity: Arity::Fixed(3),
    infer: |x, attrs| {
        if x[0].dtype != DType::Bool {
            return Err(Error::dtype(format!("the condition must be bool, got {}", x[0].dtype)));
        }
        if x[0].shape != x[1].shape {
            let (condition, a) = (&x[0].shape, &x[1].shape);
            return Err(Error::shape(format!("condition and branches must have one shape, got {condition} and {a}")));
        }
        same_types(&x[1..], attrs)
    },
    vjp: Vjp::Rule(|c| {
        let zero = c.ct.zeros_like();
        smallvec![None, Some(c.x[0].select(c.ct, zero)), Some(c.x[0].select(zero, c.ct))]
    }),
    samples: || {
        let condition = |d: &[usize]| Gen::normal(d).dtype(DType::Bool);
        let one = |d: &Vec<usize>| Sample::new(vec![condition(d), Gen::normal(d), Gen::normal(d)]);
        let mut s: Vec<_> = elementwise_shapes().iter().map(one).collect();
        let special = || Gen::of(&[67], Values::Special);
        s.push(Sample::new(vec![condition(&[67]), special(), special()]).no_grad());
        s
    },
    ..BASE
};
