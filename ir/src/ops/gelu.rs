//! `gelu`: the Gaussian error linear unit.

use super::composite::{float_map, map, map_vjp};
use crate::Val;
use crate::op::{OpDef, Vjp};
use std::f64::consts::FRAC_1_SQRT_2;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`x * P(X <= x)` for standard normal `X`: `x * 0.5 * (1 + erf(x / sqrt(2)))` (Hendrycks and Gimpel, \
        arXiv:1606.08415).\n\n\
        >>> torsh.nn.functional.gelu(torsh.tensor([0., 100.])).tolist()\n[0.0, 100.0]",
    decompose: Some(|c| map(c, |x| x * below(x))),
    // d x = ct * (P(X <= x) + x * density(x))
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let density = (x * x).scale(-0.5).exp().scale(1.0 / (2.0 * std::f64::consts::PI).sqrt());
            ct * (below(x) + x * density)
        })
    }),
    ..float_map("gelu")
};

/// `P(X <= x)` for standard normal `X`.
fn below(x: Val<'_>) -> Val<'_> {
    x.scale(FRAC_1_SQRT_2).erf().offset(1.0).scale(0.5)
}
