//! `gelu_tanh`: gelu approximated by a hyperbolic tangent.

use super::composite::{float_map, map, map_vjp};
use crate::Val;
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))` (Hendrycks and Gimpel, arXiv:1606.08415).\n\n\
        >>> torsh.nn.functional.gelu(torsh.tensor([0., 100.]), approximate='tanh').tolist()\n[0.0, 100.0]",
    // 0.5 * (1 + tanh(u)) is sigmoid(2 u): fewer operations, and no difference of near numbers where x is negative.
    decompose: Some(|c| map(c, |x| x * below(x))),
    // With s the sigmoid of v = slope x (1 + CUBIC x^2): d x = ct * (s + x * s * (1 - s) * d v)
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let s = below(x);
            let inner = (x * x).scale(3.0 * CUBIC * slope()).offset(slope());
            ct * (s + x * (s * ((-s).offset(1.0) * inner)))
        })
    }),
    ..float_map("gelu_tanh")
};

const CUBIC: f64 = 0.044715;

/// Of the sigmoid's argument at zero.
fn slope() -> f64 {
    2.0 * (2.0 / std::f64::consts::PI).sqrt()
}

/// `sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`.
fn below(x: Val<'_>) -> Val<'_> {
    (x * (x * x).scale(CUBIC * slope()).offset(slope())).sigmoid()
}
