//! `softmax`: normalised exponentials.

use super::composite::{along_dim, map, wide};
use super::{BASE, attr, elementwise_shapes};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{DTypeSet, Gen, OpDef, Sample, Tolerance, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "softmax",
    doc: "`e * (1 / sum(e))` along `dim`, with `e = exp(x - max(x))`.\n\n\
        >>> torsh.softmax(torsh.zeros(4), 0).tolist()\n[0.25, 0.25, 0.25, 0.25]",
    attrs: &[attr("dim", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    infer: along_dim,
    decompose: Some(|c| {
        map(c, |x| {
            let (dim, shape) = (c.attrs.int(0) as usize, x.shape());
            let e = (x - x.reduce("amax", &[dim]).expand(&shape)).exp();
            // The sum is at least 1, so its inverse, taken once a row, costs half a unit in the last place and no more.
            let total = e.sum(&[dim]);
            e * (total.full_like(1.0) / total).expand(&shape)
        })
    }),
    // d x = out * (ct - sum(ct * out))
    vjp: Vjp::Rule(|c| {
        let (dim, out, ct) = (c.attrs.int(0) as usize, wide(c.out), wide(c.ct));
        let inner = (ct * out).sum(&[dim]).expand(&out.shape());
        smallvec![Some((out * (ct - inner)).cast(c.x[0].dtype()))]
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: || {
        let s = |d: &[usize], dim: usize| Sample::new(vec![Gen::normal(d)]).attr(Attr::Int(dim as i64));
        let mut out: Vec<_> =
            elementwise_shapes().iter().filter(|d| !d.is_empty()).map(|d| s(d, d.len() - 1)).collect();
        out.push(s(&[5, 33], 0));
        out.push(s(&[2, 7, 3], 1));
        out
    },
    ..BASE
};
