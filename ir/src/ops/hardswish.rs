//! `hardswish`: silu in straight pieces.

use super::composite::{float_map, keep, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`x * min(max(x + 3, 0), 6) / 6` (Howard et al., arXiv:1905.02244).\n\n\
        >>> torsh.nn.functional.hardswish(torsh.tensor([-4., 0., 4.])).tolist()\n[-0.0, 0.0, 4.0]",
    decompose: Some(|c| {
        map(c, |x| {
            let gate = x.offset(3.0).maximum(x.zeros_like()).minimum(x.full_like(6.0));
            x * gate / x.full_like(6.0)
        })
    }),
    // 0 below -3, x / 3 + 1 / 2 up to 3, 1 above.
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let middle = ct * (x / x.full_like(3.0)).offset(0.5);
            let right = x.le(x.full_like(3.0)).select(middle, ct);
            keep(x.ge(x.full_like(-3.0)), right)
        })
    }),
    ..float_map("hardswish")
};
