//! `leaky_relu`: a kink at zero.

use super::attr;
use super::composite::{float, float_map, map, map_vjp, unary_samples, with_attrs};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`x` where `x > 0`, else `negative_slope * x`.\n\n\
        >>> torsh.nn.functional.leaky_relu(torsh.tensor([-2., 3.]), 0.5).tolist()\n[-1.0, 3.0]",
    attrs: &[attr("negative_slope", AttrKind::Scalar)],
    decompose: Some(|c| {
        map(c, |x| x.gt(x.zeros_like()).select(x, x.scale(c.attrs.scalar(0).as_f64())))
    }),
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| x.gt(x.zeros_like()).select(ct, ct.scale(c.attrs.scalar(0).as_f64())))
    }),
    samples: || with_attrs(unary_samples(), &[float(0.01)]),
    ..float_map("leaky_relu")
};
