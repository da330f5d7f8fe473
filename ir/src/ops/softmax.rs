//! `softmax`: normalised exponentials.

use super::{BASE, attr, elementwise_shapes};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{DTypeSet, Gen, OpDef, Sample, Tolerance, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "softmax",
    doc: "`exp(x - max) / sum(exp(x - max))` along `dim`.",
    attrs: &[attr("dim", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    decompose: Some(|c| {
        let (x, dim) = (c.x[0], c.attrs.int(0) as usize);
        let shape = x.shape();
        let e = (x - x.reduce("amax", &[dim]).expand(&shape)).exp();
        e / e.sum(&[dim]).expand(&shape)
    }),
    // d x = out * (ct - sum(ct * out))
    vjp: Vjp::Rule(|c| {
        let dim = c.attrs.int(0) as usize;
        let inner = (c.ct * c.out).sum(&[dim]).expand(&c.out.shape());
        smallvec![Some(c.out * (c.ct - inner))]
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: || {
        elementwise_shapes()
            .iter()
            .filter(|d| !d.is_empty())
            .map(|d| Sample::new(vec![Gen::normal(d)]).attr(Attr::Int(d.len() as i64 - 1)))
            .collect()
    },
    ..BASE
};
