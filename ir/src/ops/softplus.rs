//! `softplus`: a smooth positive part.

use super::attr;
use super::composite::{float, float_map, map, map_vjp, unary_samples, with_attrs};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`log(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x > threshold`.\n\n\
        >>> torsh.nn.functional.softplus(torsh.tensor([-200., 100.])).tolist()\n[0.0, 100.0]",
    attrs: &[attr("beta", AttrKind::Scalar), attr("threshold", AttrKind::Scalar)],
    decompose: Some(|c| {
        map(c, |x| {
            let (beta, threshold) = (c.attrs.scalar(0).as_f64(), c.attrs.scalar(1).as_f64());
            let z = x.scale(beta);
            let soft = z.exp().log1p();
            z.gt(z.full_like(threshold)).select(x, soft / soft.full_like(beta))
        })
    }),
    // The logistic function is finite where the exponential is not, in higher derivatives too.
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let (beta, threshold) = (c.attrs.scalar(0).as_f64(), c.attrs.scalar(1).as_f64());
            let z = x.scale(beta);
            z.gt(z.full_like(threshold)).select(ct, ct * z.sigmoid())
        })
    }),
    samples: || {
        let mut s = with_attrs(unary_samples(), &[float(1.0), float(20.0)]);
        s.extend(with_attrs(unary_samples(), &[float(2.5), float(3.0)]));
        s
    },
    ..float_map("softplus")
};
