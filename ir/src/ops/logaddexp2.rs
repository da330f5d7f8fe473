//! `logaddexp2`: binary logarithm of a sum of two powers of two.

use super::composite::{float_binary, map2, map2_vjp};
use super::logaddexp::gap;
use crate::op::{OpDef, Vjp};
use std::f64::consts::{LN_2, LOG2_E};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`log2(2^a + 2^b)` as `max(a, b) + log2(1 + 2^-|a - b|)`; equal infinities give themselves.\n\n\
        >>> torsh.logaddexp2(torsh.tensor([3.]), torsh.tensor([-500.])).tolist()\n[3.0]",
    decompose: Some(|c| map2(c, |a, b| a.maximum(b) + (-gap(a, b).abs()).exp2().log1p().scale(LOG2_E))),
    vjp: Vjp::Rule(|c| {
        map2_vjp(c, |a, b, ct| {
            let gap = gap(a, b).scale(LN_2);
            (ct * gap.sigmoid(), ct * (-gap).sigmoid())
        })
    }),
    ..float_binary("logaddexp2")
};
