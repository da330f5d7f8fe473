//! `kl_div`: the Kullback-Leibler divergence, element by element.

use super::attr;
use super::composite::{fold_loss, keep, loss, loss_ct, loss_samples, wide};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op. `xlogy` stays a node of its own here, because its gradient rule knows `0 * log 0`.
pub static DEF: OpDef = OpDef {
    doc: "`y * (log(y) - x)` for log-probabilities `x` (0 where `y` is 0), or `exp(y) * (y - x)` where `log_target`, \
        folded by `reduction` (none, mean or sum; `batchmean` is a sum that the caller divides).\n\n\
        >>> torsh.nn.functional.kl_div(torsh.tensor([0.]), torsh.tensor([1.]), reduction='sum').item()\n0.0",
    decompose: Some(|c| {
        let (x, y) = (wide(c.x[0]), wide(c.x[1]));
        let losses = match c.attrs.bool(1) {
            true => y.exp() * (y - x),
            false => y.builder().op("xlogy", &[y, y], &[]) - y * x,
        };
        fold_loss(c, losses)
    }),
    vjp: Vjp::Rule(|c| {
        let (x, y, g, dtype) = (wide(c.x[0]), wide(c.x[1]), loss_ct(c), c.x[0].dtype());
        let (dx, dy) = if c.attrs.bool(1) {
            let p = y.exp();
            (-(g * p), g * p * (y - x).offset(1.0))
        } else {
            let some = y.ne(y.zeros_like());
            let log = some.select(y, y.full_like(1.0)).log();
            (-(g * y), keep(some, g * (log.offset(1.0) - x)))
        };
        smallvec![Some(dx.cast(dtype)), Some(dy.cast(dtype))]
    }),
    samples: || {
        let mut s = loss_samples(Gen::normal, |d| Gen::range(d, 0.1, 1.0), &[false.into()]);
        s.extend(loss_samples(Gen::normal, |d| Gen::range(d, -3.0, 0.0), &[true.into()]));
        s
    },
    ..loss("kl_div", &[attr("reduction", AttrKind::Str), attr("log_target", AttrKind::Bool)])
};
