//! `elu`: the exponential linear unit.

use super::attr;
use super::composite::{float, float_map, map, map_vjp, unary_samples, with_attrs};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{OpDef, Vjp};

/// The op. The exponential sees only `min(x, 0)`, so that the other side stays finite in every derivative.
pub static DEF: OpDef = OpDef {
    doc: "`x` where `x > 0`, else `alpha * (exp(x) - 1)` (Clevert et al., arXiv:1511.07289).\n\n\
        >>> torsh.nn.functional.elu(torsh.tensor([-200., 0., 2.])).tolist()\n[-1.0, 0.0, 2.0]",
    attrs: &[attr("alpha", AttrKind::Scalar)],
    decompose: Some(|c| {
        map(c, |x| {
            let positive = x.gt(x.zeros_like());
            let below = positive.select(x.zeros_like(), x);
            positive.select(x, below.expm1().scale(c.attrs.scalar(0).as_f64()))
        })
    }),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let positive = x.gt(x.zeros_like());
            let below = positive.select(x.zeros_like(), x);
            positive.select(ct, ct * below.exp().scale(c.attrs.scalar(0).as_f64()))
        })
    }),
    samples: || {
        let mut s = with_attrs(unary_samples(), &[float(1.0)]);
        s.extend(with_attrs(unary_samples(), &[float(0.3)]));
        s
    },
    ..float_map("elu")
};
