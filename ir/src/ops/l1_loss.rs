//! `l1_loss`: absolute differences.

use super::attr;
use super::composite::{fold_loss, loss, loss_ct, loss_samples, wide};
use crate::attr::AttrKind;
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`|x - y|`, folded by `reduction` (none, mean or sum).\n\n\
        >>> torsh.nn.functional.l1_loss(torsh.tensor([1., 2.]), torsh.tensor([1., 4.])).item()\n1.0",
    decompose: Some(|c| fold_loss(c, (wide(c.x[0]) - wide(c.x[1])).abs())),
    vjp: Vjp::Rule(|c| {
        let d = loss_ct(c) * (wide(c.x[0]) - wide(c.x[1])).sign();
        let dtype = c.x[0].dtype();
        smallvec![Some(d.cast(dtype)), Some((-d).cast(dtype))]
    }),
    samples: || loss_samples(Gen::normal, Gen::normal, &[]),
    ..loss("l1_loss", &[attr("reduction", AttrKind::Str)])
};
