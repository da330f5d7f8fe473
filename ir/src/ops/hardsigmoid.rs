//! `hardsigmoid`: the logistic function in straight pieces.

use super::composite::{float_map, keep, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`min(max(x + 3, 0), 6) / 6`.\n\n\
        >>> torsh.nn.functional.hardsigmoid(torsh.tensor([-4., 0., 4.])).tolist()\n[0.0, 0.5, 1.0]",
    decompose: Some(|c| {
        map(c, |x| {
            let gate = x.offset(3.0).maximum(x.zeros_like()).minimum(x.full_like(6.0));
            gate / x.full_like(6.0)
        })
    }),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| keep(x.abs().lt(x.full_like(3.0)), ct / ct.full_like(6.0)))
    }),
    ..float_map("hardsigmoid")
};
