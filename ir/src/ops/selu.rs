//! `selu`: the self-normalising exponential linear unit.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op. The exponential sees only `min(x, 0)`, so that the other side stays finite in every derivative.
pub static DEF: OpDef = OpDef {
    doc: "`scale * x` where `x > 0`, else `scale * alpha * (exp(x) - 1)`, with the constants of Klambauer et al., \
        arXiv:1706.02515.\n\n\
        >>> torsh.nn.functional.selu(torsh.tensor([0.])).tolist()\n[0.0]",
    decompose: Some(|c| {
        map(c, |x| {
            let positive = x.gt(x.zeros_like());
            let below = positive.select(x.zeros_like(), x);
            positive.select(x.scale(SCALE), below.expm1().scale(SCALE * ALPHA))
        })
    }),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let positive = x.gt(x.zeros_like());
            let below = positive.select(x.zeros_like(), x);
            ct * positive.select(x.full_like(SCALE), below.exp().scale(SCALE * ALPHA))
        })
    }),
    ..float_map("selu")
};

const ALPHA: f64 = 1.673_263_242_354_377_2;
const SCALE: f64 = 1.050_700_987_355_480_5;
