//! `gelu_tanh`: gelu approximated by a hyperbolic tangent.

use super::composite::{float_map, map, map_vjp};
use crate::Val;
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))` (Hendrycks and Gimpel, arXiv:1606.08415).\n\n\
        >>> torsh.nn.functional.gelu(torsh.tensor([0., 100.]), approximate='tanh').tolist()\n[0.0, 100.0]",
    decompose: Some(|c| map(c, |x| x.scale(0.5) * bend(x).offset(1.0))),
    // With t the tangent: d x = ct * (0.5 * (1 + t) + 0.5 * x * (1 - t^2) * k * (1 + 3 * 0.044715 * x^2))
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let t = bend(x);
            let inner = (x * x).scale(3.0 * CUBIC).offset(1.0).scale(slope());
            let steep = x.scale(0.5) * ((-(t * t)).offset(1.0) * inner);
            ct * (t.offset(1.0).scale(0.5) + steep)
        })
    }),
    ..float_map("gelu_tanh")
};

const CUBIC: f64 = 0.044715;

fn slope() -> f64 {
    (2.0 / std::f64::consts::PI).sqrt()
}

fn bend(x: Val<'_>) -> Val<'_> {
    (x + (x * x * x).scale(CUBIC)).scale(slope()).tanh()
}
