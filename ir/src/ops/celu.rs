//! `celu`: an exponential linear unit with continuous slope.

use super::attr;
use super::composite::{float, float_map, map, map_vjp, unary_samples, with_attrs};
use crate::Val;
use crate::attr::{AttrKind, AttrsExt};
use crate::error::{Error, Result};
use crate::op::{OpDef, Vjp};
use crate::shape::Type;

/// The op. The exponential sees only `min(x, 0)`, so that the other side stays finite in every derivative.
pub static DEF: OpDef = OpDef {
    doc: "`max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))` (Barron, arXiv:1704.07483); `alpha` is not 0.\n\n\
        >>> torsh.nn.functional.celu(torsh.tensor([-200., 0., 2.])).tolist()\n[-1.0, 0.0, 2.0]",
    attrs: &[attr("alpha", AttrKind::Scalar)],
    infer: |x, a| -> Result<Type> {
        if a.scalar(0).as_f64() == 0.0 {
            return Err(Error::value("alpha must not be 0"));
        }
        Ok(x[0].clone())
    },
    decompose: Some(|c| {
        map(c, |x| {
            let alpha = c.attrs.scalar(0).as_f64();
            let (positive, below) = split(x, alpha);
            positive.select(x, below.expm1().scale(alpha))
        })
    }),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let (positive, below) = split(x, c.attrs.scalar(0).as_f64());
            positive.select(ct, ct * below.exp())
        })
    }),
    samples: || {
        let mut s = with_attrs(unary_samples(), &[float(1.0)]);
        s.extend(with_attrs(unary_samples(), &[float(0.5)]));
        s
    },
    ..float_map("celu")
};

/// Where `x > 0`, and `min(x, 0) / alpha`.
fn split(x: Val<'_>, alpha: f64) -> (Val<'_>, Val<'_>) {
    let positive = x.gt(x.zeros_like());
    let below = positive.select(x.zeros_like(), x);
    (positive, below / below.full_like(alpha))
}
