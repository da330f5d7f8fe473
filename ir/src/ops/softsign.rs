//! `softsign`: x over one plus its magnitude.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`x / (1 + |x|)`.\n\n>>> torsh.nn.functional.softsign(torsh.tensor([-1., 3.])).tolist()\n[-0.5, 0.75]",
    decompose: Some(|c| map(c, |x| x / x.abs().offset(1.0))),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let d = x.abs().offset(1.0);
            ct / (d * d)
        })
    }),
    ..float_map("softsign")
};
