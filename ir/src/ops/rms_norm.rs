//! `rms_norm`: rows brought to mean square 1.

use super::composite::{last_dims, mean, norm_infer, wide};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{Arity, Cotangents, DTypeSet, OpDef, Tolerance, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "rms_norm",
    doc: "`rms_norm(x, weight?; ndims, eps)`: `x / sqrt(mean(x^2) + eps) * weight` over the last `ndims` dims \
        (Zhang and Sennrich, arXiv:1910.07467). The weight has the shape of those dims.\n\n\
        >>> torsh.nn.functional.rms_norm(torsh.tensor([[0., 0.]]), (2,)).tolist()\n[[0.0, 0.0]]",
    arity: Arity::AtLeast(1),
    attrs: &[attr("ndims", AttrKind::Int), attr("eps", AttrKind::Scalar)],
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| norm_infer(x, a, 2),
    decompose: Some(|c| {
        let (normal, _) = normalise(c.x[0], c.attrs);
        c.x.get(1).map_or(normal, |w| normal * wide(*w).broadcast_to(&normal.shape())).cast(c.ty.dtype)
    }),
    // With n the normalised x and g = ct * weight: d x = (g - n * mean(g * n)) / sqrt(mean(x^2) + eps)
    vjp: Vjp::Rule(|c| {
        let (normal, inverse) = normalise(c.x[0], c.attrs);
        let (ct, shape, dtype) = (wide(c.ct), normal.shape(), c.ct.dtype());
        let dims = last_dims(shape.rank(), c.attrs.int(0));
        let g = c.x.get(1).map_or(ct, |w| ct * wide(*w).broadcast_to(&shape));
        let along = normal * mean(g * normal, &dims).expand(&shape);
        let dx = (g - along) * inverse.expand(&shape);
        let mut out: Cotangents<'_> = [Some(dx.cast(dtype))].into_iter().collect();
        out.extend(c.x.get(1).map(|w| Some((ct * normal).sum_to(&w.shape()).cast(dtype))));
        out
    }),
    // Rounding of the mean square, divided by its root near 1.
    tolerance: Tolerance::scaled(16.0),
    samples: || super::layer_norm::samples(2),
    ..BASE
};

/// The normalised x and `1 / sqrt(mean(x^2) + eps)`, in working precision.
fn normalise<'b>(x: Val<'b>, a: &[Attr]) -> (Val<'b>, Val<'b>) {
    let x = wide(x);
    let dims = last_dims(x.rank(), a.int(0));
    let inverse = mean(x * x, &dims).offset(a.scalar(1).as_f64()).rsqrt();
    (x * inverse.expand(&x.shape()), inverse)
}
