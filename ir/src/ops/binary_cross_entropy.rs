//! `binary_cross_entropy`: cross entropy of coin flips.

use super::attr;
use super::composite::{fold_loss, loss, loss_ct, loss_samples, wide};
use crate::Val;
use crate::attr::AttrKind;
use crate::op::{Gen, OpDef, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`-(y * log(p) + (1 - y) * log(1 - p))` with logarithms kept at or above -100, folded by `reduction` (none, \
        mean or sum); `p` lies in `[0, 1]`. The gradient divides by `max(p * (1 - p), 1e-12)`, as in PyTorch.\n\n\
        >>> torsh.nn.functional.binary_cross_entropy(torsh.tensor([1., 0.]), torsh.tensor([1., 0.])).item()\n0.0",
    decompose: Some(|c| {
        let (p, y) = (wide(c.x[0]), wide(c.x[1]));
        let (yes, no) = logs(p);
        fold_loss(c, y.offset(-1.0) * no - y * yes)
    }),
    vjp: Vjp::Rule(|c| {
        let (p, y, g, dtype) = (wide(c.x[0]), wide(c.x[1]), loss_ct(c), c.x[0].dtype());
        let spread = p * (-p).offset(1.0);
        let dp = g * (p - y) / spread.maximum(spread.full_like(1e-12));
        let (yes, no) = logs(p);
        smallvec![Some(dp.cast(dtype)), Some((g * (no - yes)).cast(dtype))]
    }),
    samples: || {
        let inside = |d: &[usize]| Gen::range(d, 0.05, 0.95);
        let mut s = loss_samples(inside, inside, &[]);
        let ends = |d: &[usize]| Gen::range(d, 0.0, 1.0);
        s.extend(loss_samples(|d| Gen::of(d, crate::op::Values::Range(1.0, 1.0)), ends, &[]).into_iter().map(|s| s.no_grad()));
        s
    },
    ..loss("binary_cross_entropy", &[attr("reduction", AttrKind::Str)])
};

/// `log(p)` and `log(1 - p)`, at least -100.
fn logs(p: Val<'_>) -> (Val<'_>, Val<'_>) {
    let floor = p.full_like(-100.0);
    (p.log().maximum(floor), (-p).log1p().maximum(floor))
}
