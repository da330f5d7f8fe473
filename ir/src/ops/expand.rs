//! `expand`: repetition of dims of size 1.

use super::rules::{eval_view, ints};
use super::{BASE, attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt, Scalar};
use crate::error::Error;
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::Type;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "expand",
    doc: "Dims of size 1 repeated to `shape`, which has the same rank; other dims keep their size.\n\n\
        >>> torsh.tensor([[1], [2]]).expand(2, 3).tolist()\n[[1, 1, 1], [2, 2, 2]]",
    kind: Kind::View(View::Expand),
    attrs: &[attr("shape", AttrKind::Ints)],
    infer: |x, a| {
        let (from, to) = (&x[0].shape, shape_attr(a.ints(0))?);
        if from.rank() != to.rank() || from.iter().zip(to.iter()).any(|(&f, &t)| f != t && f != 1) {
            return Err(Error::shape(format!("cannot expand {from} to {to}: only dims of size 1 can be repeated")));
        }
        Ok(Type::new(x[0].dtype, to))
    },
    eval: Some(|c| {
        let from = &c.x[0].ty.shape;
        Ok(eval_view(c, Scalar::Int(0), |at| {
            Some(at.iter().zip(from.iter()).map(|(&a, &d)| if d == 1 { 0 } else { a }).collect())
        }))
    }),
    vjp: Vjp::Rule(|c| {
        let (from, to) = (c.x[0].shape(), c.out.shape());
        let dims: Vec<usize> = (0..from.rank()).filter(|&d| from[d] != to[d]).collect();
        smallvec![Some(c.ct.sum(&dims))]
    }),
    samples: || {
        let s = |from: &[usize], to: &[i64]| Sample::new(vec![Gen::normal(from)]).attr(ints(to));
        vec![
            s(&[], &[]),
            s(&[1], &[1]),
            s(&[1], &[17]),
            s(&[1], &[0]),
            s(&[3, 1], &[3, 33]),
            s(&[1, 33], &[4, 33]),
            s(&[1, 5, 1], &[2, 5, 3]),
            s(&[2, 0, 1], &[2, 0, 3]),
        ]
    },
    ..BASE
};
