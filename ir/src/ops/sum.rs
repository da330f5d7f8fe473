//! `sum`: reduction by addition.

use super::{BASE, attr, reduce_eval, reduce_infer};
use crate::attr::{AttrKind, Attr};
use crate::op::{DTypeSet, Gen, Kind, OpDef, Sample, Tolerance, Vjp};
use crate::scalar::ReduceOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "sum",
    doc: "Sum over `dims`, which stay with size 1. Floats accumulate in f64.",
    kind: Kind::Reduce(ReduceOp::Sum),
    attrs: &[attr("dims", AttrKind::Ints)],
    dtypes: DTypeSet::NUMBERS,
    infer: reduce_infer,
    eval: Some(|c| reduce_eval(c, ReduceOp::Sum)),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.expand(&c.x[0].shape()))]),
    // Accumulated in f64 and rounded once on both sides; only the order of the f64 sum differs.
    tolerance: Tolerance::scaled(1.0),
    samples: || {
        let s = |shape: &[usize], dims: &[i64]| Sample::new(vec![Gen::normal(shape)]).attr(Attr::from(dims));
        vec![s(&[1], &[0]), s(&[0], &[0]), s(&[17], &[0]), s(&[5, 33], &[1]), s(&[5, 33], &[0]), s(&[5, 33], &[0, 1]), s(&[3, 1, 70], &[0, 2]), s(&[2, 0, 3], &[1])]
    },
    ..BASE
};
