//! `silu`: x times its logistic function.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`x * sigmoid(x)`.\n\n>>> torsh.nn.functional.silu(torsh.tensor([0., 100.])).tolist()\n[0.0, 100.0]",
    decompose: Some(|c| map(c, |x| x * x.sigmoid())),
    // d x = ct * s * (1 + x * (1 - s))
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let s = x.sigmoid();
            ct * s * (x * (-s).offset(1.0)).offset(1.0)
        })
    }),
    ..float_map("silu")
};
