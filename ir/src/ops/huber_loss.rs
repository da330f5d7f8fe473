//! `huber_loss`: squares near zero, straight lines far from it.

use super::attr;
use super::composite::{float, fold_loss, loss, loss_ct, loss_infer, loss_samples, wide};
use crate::attr::{AttrKind, AttrsExt};
use crate::error::Error;
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "With `d = |x - y|`: `d^2 / 2` where `d <= delta`, else `delta * (d - delta / 2)`, folded by `reduction` \
        (none, mean or sum); `delta > 0` (Huber, 1964).\n\n\
        >>> torsh.nn.functional.huber_loss(torsh.tensor([1., 2.]), torsh.tensor([0., 5.])).item()\n1.5",
    infer: |x, a| match a.scalar(1).as_f64() {
        delta if delta > 0.0 => loss_infer(x, a),
        delta => Err(Error::value(format!("delta must be positive, got {delta}"))),
    },
    decompose: Some(|c| {
        let (d, delta) = ((wide(c.x[0]) - wide(c.x[1])).abs(), c.attrs.scalar(1).as_f64());
        let near = (d * d).scale(0.5);
        fold_loss(c, d.le(d.full_like(delta)).select(near, d.offset(-0.5 * delta).scale(delta)))
    }),
    vjp: Vjp::Rule(|c| {
        let (d, delta) = (wide(c.x[0]) - wide(c.x[1]), c.attrs.scalar(1).as_f64());
        let slope = d.abs().le(d.full_like(delta)).select(d, d.sign().scale(delta));
        let (d, dtype) = (loss_ct(c) * slope, c.x[0].dtype());
        smallvec![Some(d.cast(dtype)), Some((-d).cast(dtype))]
    }),
    samples: || [1.0, 0.3].iter().flat_map(|&b| loss_samples(Gen::normal, Gen::normal, &[float(b)])).collect(),
    ..loss("huber_loss", &[attr("reduction", AttrKind::Str), attr("delta", AttrKind::Scalar)])
};
