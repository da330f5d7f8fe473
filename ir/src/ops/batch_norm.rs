//! `batch_norm`: channels brought to mean 0 and variance 1 over the batch.

use super::composite::{centre, float, mean, wide};
use super::rules::same_dtype;
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::error::{Error, Result};
use crate::op::{Arity, Cotangents, DTypeSet, Gen, OpDef, Sample, Tolerance, Vjp};
use crate::shape::{Shape, Type};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "batch_norm",
    doc: "`batch_norm(x, weight?, bias?; eps)`: `(x - mean) / sqrt(var + eps) * weight + bias` for each channel, dim 1 of \
        x, with mean and two-pass variance (divided by n) over all other dims (Ioffe and Szegedy, arXiv:1502.03167). \
        Weight and bias have a number for each channel.\n\n\
        >>> torsh.nn.functional.batch_norm(torsh.tensor([[1.], [1.]]), None, None, training=True).tolist()\n\
        [[0.0], [0.0]]",
    arity: Arity::AtLeast(1),
    attrs: &[attr("eps", AttrKind::Scalar)],
    dtypes: DTypeSet::FLOATS,
    infer: |x, _| infer(x),
    decompose: Some(|c| {
        let (normal, _) = normalise(c.x[0], c.attrs);
        let scaled = c.x.get(1).map_or(normal, |w| normal * column(*w, normal));
        c.x.get(2).map_or(scaled, |b| scaled + column(*b, normal)).cast(c.ty.dtype)
    }),
    // With n the normalised x and g = ct * weight: d x = (g - mean(g) - n * mean(g * n)) / sqrt(var + eps). Sums
    // of ct and ct * n over a channel are the gradients of bias and weight, and with the channel's weight taken
    // out of the means they serve d x too.
    vjp: Vjp::Rule(|c| {
        let (normal, inverse) = normalise(c.x[0], c.attrs);
        let (ct, shape, dtype) = (wide(c.ct), normal.shape(), c.ct.dtype());
        let dims = other_dims(&shape);
        let along = normal * mean(ct * normal, &dims).expand(&shape);
        let scale = match c.x.get(1) {
            Some(w) => inverse * column_of(wide(*w), &inverse.shape()),
            None => inverse,
        };
        let dx = (centre(ct, &dims) - along) * scale.expand(&shape);
        let mut out: Cotangents<'_> = [Some(dx.cast(dtype))].into_iter().collect();
        let (by_weight, by_bias) = (ct * normal, ct);
        let channels = [shape[1]];
        let all = [by_weight, by_bias].into_iter().map(|v| v.sum(&dims).reshape(&channels).cast(dtype));
        out.extend(all.take(c.x.len() - 1).map(Some));
        out
    }),
    // Rounding of the mean and the variance, divided by a standard deviation near 1.
    tolerance: Tolerance::scaled(16.0),
    samples,
    ..BASE
};

fn infer(x: &[Type]) -> Result<Type> {
    if x.len() > 3 {
        return Err(Error::value(format!("expected at most 3 operands, got {}", x.len())));
    }
    if x[0].rank() < 2 {
        return Err(Error::shape(format!("expected at least 2 dims, images and channels, got shape {}", x[0].shape)));
    }
    for other in &x[1..] {
        same_dtype(&x[0], other)?;
        if other.shape.dims() != [x[0].shape[1]] {
            return Err(Error::shape(format!("weight and bias must have shape [{}], got {}", x[0].shape[1], other.shape)));
        }
    }
    Ok(x[0].clone())
}

fn other_dims(shape: &Shape) -> Vec<usize> {
    (0..shape.rank()).filter(|&d| d != 1).collect()
}

/// A number for each channel, of shape `[1, C, 1..]`.
fn column_of<'b>(w: Val<'b>, shape: &Shape) -> Val<'b> {
    let mut dims = vec![1; shape.rank()];
    dims[1] = shape[1];
    w.reshape(&dims)
}

/// A number for each channel, repeated over `like`.
fn column<'b>(w: Val<'b>, like: Val<'b>) -> Val<'b> {
    let shape = like.shape();
    column_of(wide(w), &shape).expand(&shape)
}

/// The normalised x and `1 / sqrt(var + eps)`, in working precision.
fn normalise<'b>(x: Val<'b>, a: &[Attr]) -> (Val<'b>, Val<'b>) {
    let x = wide(x);
    let dims = other_dims(&x.shape());
    let d = centre(x, &dims);
    let inverse = mean(d * d, &dims).offset(a.scalar(0).as_f64()).rsqrt();
    (d * inverse.expand(&x.shape()), inverse)
}

fn samples() -> Vec<Sample> {
    let mut out = Vec::new();
    for shape in [&[5, 3][..], &[4, 1], &[3, 2, 17], &[2, 3, 4, 5], &[2, 3, 2, 3, 2], &[1, 3, 7], &[17, 33]] {
        for operands in 1..=3 {
            let mut inputs = vec![Gen::normal(shape)];
            inputs.extend((1..operands).map(|_| Gen::normal(&shape[1..2])));
            out.push(Sample::new(inputs).attr(float(1e-5)));
        }
    }
    out
}
