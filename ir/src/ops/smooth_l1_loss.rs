//! `smooth_l1_loss`: squares near zero, absolute differences far from it.

use super::attr;
use super::composite::{float, fold_loss, loss, loss_ct, loss_infer, loss_samples, wide};
use crate::attr::{AttrKind, AttrsExt};
use crate::error::Error;
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "With `d = |x - y|`: `d^2 / (2 * beta)` where `d < beta`, else `d - beta / 2`, folded by `reduction` (none, \
        mean or sum); `beta >= 0` (Girshick, arXiv:1504.08083).\n\n\
        >>> torsh.nn.functional.smooth_l1_loss(torsh.tensor([1., 2.]), torsh.tensor([0., 5.])).item()\n1.5",
    infer: |x, a| match a.scalar(1).as_f64() {
        beta if beta >= 0.0 => loss_infer(x, a),
        beta => Err(Error::value(format!("beta must not be negative, got {beta}"))),
    },
    decompose: Some(|c| {
        let (d, beta) = ((wide(c.x[0]) - wide(c.x[1])).abs(), c.attrs.scalar(1).as_f64());
        if beta == 0.0 {
            return fold_loss(c, d);
        }
        let near = (d * d).scale(0.5) / d.full_like(beta);
        fold_loss(c, d.lt(d.full_like(beta)).select(near, d.offset(-0.5 * beta)))
    }),
    vjp: Vjp::Rule(|c| {
        let (d, beta) = (wide(c.x[0]) - wide(c.x[1]), c.attrs.scalar(1).as_f64());
        let slope = match beta {
            0.0 => d.sign(),
            _ => d.abs().lt(d.full_like(beta)).select(d / d.full_like(beta), d.sign()),
        };
        let (d, dtype) = (loss_ct(c) * slope, c.x[0].dtype());
        smallvec![Some(d.cast(dtype)), Some((-d).cast(dtype))]
    }),
    samples: || [1.0, 0.3, 0.0].iter().flat_map(|&b| loss_samples(Gen::normal, Gen::normal, &[float(b)])).collect(),
    ..loss("smooth_l1_loss", &[attr("reduction", AttrKind::Str), attr("beta", AttrKind::Scalar)])
};
