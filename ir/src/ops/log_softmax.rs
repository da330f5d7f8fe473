//! `log_softmax`: logarithm of normalised exponentials.

use super::composite::{along_dim, map, wide};
use super::{BASE, attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{DTypeSet, OpDef, Tolerance, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "log_softmax",
    doc: "`(x - max) - log(sum(exp(x - max)))` along `dim`.\n\n\
        >>> torsh.log_softmax(torsh.zeros(4), 0).exp().tolist()\n[0.25, 0.25, 0.25, 0.25]",
    attrs: &[attr("dim", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    infer: along_dim,
    decompose: Some(|c| {
        map(c, |x| {
            let (dim, shape) = (c.attrs.int(0) as usize, x.shape());
            let shifted = x - x.reduce("amax", &[dim]).expand(&shape);
            shifted - shifted.exp().sum(&[dim]).log().expand(&shape)
        })
    }),
    // d x = ct - softmax * sum(ct)
    vjp: Vjp::Rule(|c| {
        let (dim, out, ct) = (c.attrs.int(0) as usize, wide(c.out), wide(c.ct));
        let total = ct.sum(&[dim]).expand(&out.shape());
        smallvec![Some((ct - out.exp() * total).cast(c.x[0].dtype()))]
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: super::softmax::DEF.samples,
    ..BASE
};
