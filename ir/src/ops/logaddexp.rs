//! `logaddexp`: logarithm of a sum of two exponentials.

use super::composite::{float_binary, map2, map2_vjp};
use crate::Val;
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`log(exp(a) + exp(b))` as `max(a, b) + log(1 + exp(-|a - b|))`; equal infinities give themselves.\n\n\
        >>> torsh.logaddexp(torsh.tensor([-500.]), torsh.tensor([100.])).tolist()\n[100.0]",
    decompose: Some(|c| map2(c, |a, b| a.maximum(b) + (-gap(a, b).abs()).exp().log1p())),
    vjp: Vjp::Rule(|c| {
        map2_vjp(c, |a, b, ct| {
            let gap = gap(a, b);
            (ct * gap.sigmoid(), ct * (-gap).sigmoid())
        })
    }),
    ..float_binary("logaddexp")
};

/// `a - b`, and 0 for equal infinities.
pub(super) fn gap<'b>(a: Val<'b>, b: Val<'b>) -> Val<'b> {
    let infinite = a.abs().eq(a.full_like(f64::INFINITY));
    a.eq(b).bitwise_and(infinite).select(a.zeros_like(), a - b)
}
