//! `mish`: x times the hyperbolic tangent of its softplus.

use super::composite::{float, float_map, map, map_vjp};
use crate::Val;
use crate::op::{OpDef, Vjp};

/// The op. `softplus` stays a node of its own here, because its gradient rule is finite everywhere.
pub static DEF: OpDef = OpDef {
    doc: "`x * tanh(log(1 + exp(x)))` (Misra, arXiv:1908.08681).\n\n\
        >>> torsh.nn.functional.mish(torsh.tensor([0., 100.])).tolist()\n[0.0, 100.0]",
    decompose: Some(|c| map(c, |x| x * bend(x))),
    // With t the tangent: d x = ct * (t + x * sigmoid(x) * (1 - t^2))
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let t = bend(x);
            ct * (t + x * x.sigmoid() * (-(t * t)).offset(1.0))
        })
    }),
    ..float_map("mish")
};

fn bend(x: Val<'_>) -> Val<'_> {
    x.builder().op("softplus", &[x], &[float(1.0), float(20.0)]).tanh()
}
