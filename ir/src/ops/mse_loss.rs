//! `mse_loss`: squared differences.

use super::attr;
use super::composite::{fold_loss, loss, loss_ct, loss_samples, wide};
use crate::attr::AttrKind;
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`(x - y)^2`, folded by `reduction` (none, mean or sum).\n\n\
        >>> torsh.nn.functional.mse_loss(torsh.tensor([1., 2.]), torsh.tensor([1., 4.])).item()\n2.0",
    decompose: Some(|c| {
        let d = wide(c.x[0]) - wide(c.x[1]);
        fold_loss(c, d * d)
    }),
    vjp: Vjp::Rule(|c| {
        let d = loss_ct(c) * (wide(c.x[0]) - wide(c.x[1])).scale(2.0);
        let dtype = c.x[0].dtype();
        smallvec![Some(d.cast(dtype)), Some((-d).cast(dtype))]
    }),
    samples: || loss_samples(Gen::normal, Gen::normal, &[]),
    ..loss("mse_loss", &[attr("reduction", AttrKind::Str)])
};
