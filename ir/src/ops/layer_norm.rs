//! `layer_norm`: rows brought to mean 0 and variance 1.

use super::composite::{centre, float, last_dims, mean, norm_infer, wide};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{Arity, Cotangents, DTypeSet, Gen, OpDef, Sample, Tolerance, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "layer_norm",
    doc: "`layer_norm(x, weight?, bias?; ndims, eps)`: `(x - mean) / sqrt(var + eps) * weight + bias` over the last \
        `ndims` dims, with the two-pass variance divided by n (Ba et al., arXiv:1607.06450). Weight and bias have the \
        shape of those dims.\n\n\
        >>> torsh.nn.functional.layer_norm(torsh.tensor([[1., 1.]]), (2,)).tolist()\n[[0.0, 0.0]]",
    arity: Arity::AtLeast(1),
    attrs: &[attr("ndims", AttrKind::Int), attr("eps", AttrKind::Scalar)],
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| norm_infer(x, a, 3),
    decompose: Some(|c| {
        let (normal, _) = normalise(c.x[0], c.attrs);
        let shape = normal.shape();
        let scaled = c.x.get(1).map_or(normal, |w| normal * wide(*w).broadcast_to(&shape));
        c.x.get(2).map_or(scaled, |b| scaled + wide(*b).broadcast_to(&shape)).cast(c.ty.dtype)
    }),
    // With n the normalised x and g = ct * weight: d x = (g - mean(g) - n * mean(g * n)) / sqrt(var + eps)
    vjp: Vjp::Rule(|c| {
        let (normal, inverse) = normalise(c.x[0], c.attrs);
        let (ct, shape, dtype) = (wide(c.ct), normal.shape(), c.ct.dtype());
        let dims = last_dims(shape.rank(), c.attrs.int(0));
        let g = c.x.get(1).map_or(ct, |w| ct * wide(*w).broadcast_to(&shape));
        let along = normal * mean(g * normal, &dims).expand(&shape);
        let dx = (centre(g, &dims) - along) * inverse.expand(&shape);
        let mut out: Cotangents<'_> = [Some(dx.cast(dtype))].into_iter().collect();
        out.extend(c.x.get(1).map(|w| Some((ct * normal).sum_to(&w.shape()).cast(dtype))));
        out.extend(c.x.get(2).map(|b| Some(ct.sum_to(&b.shape()).cast(dtype))));
        out
    }),
    // Rounding of the mean and the variance, divided by a standard deviation near 1.
    tolerance: Tolerance::scaled(16.0),
    samples: || samples(3),
    ..BASE
};

/// The normalised x and `1 / sqrt(var + eps)`, in working precision.
fn normalise<'b>(x: Val<'b>, a: &[Attr]) -> (Val<'b>, Val<'b>) {
    let x = wide(x);
    let dims = last_dims(x.rank(), a.int(0));
    let d = centre(x, &dims);
    let inverse = mean(d * d, &dims).offset(a.scalar(1).as_f64()).rsqrt();
    (d * inverse.expand(&x.shape()), inverse)
}

/// Samples with up to `most` operands.
pub(super) fn samples(most: usize) -> Vec<Sample> {
    let mut out = Vec::new();
    for (shape, ndims) in
        [(&[17][..], 1), (&[3, 33], 1), (&[3, 5], 2), (&[2, 3, 130], 1), (&[2, 3, 5], 2), (&[0, 7], 1)]
    {
        for operands in 1..=most {
            let mut inputs = vec![Gen::normal(shape)];
            inputs.extend((1..operands).map(|_| Gen::normal(&shape[shape.len() - ndims..])));
            out.push(Sample::new(inputs).attr(Attr::Int(ndims as i64)).attr(float(1e-5)));
        }
    }
    out
}
