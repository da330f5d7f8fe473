//! `std`: the standard deviation.

use super::composite::{centre, degrees, dims_of, map, map_vjp, reduction_samples, variance, wide};
use super::{BASE, attr, reduce_infer};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{DTypeSet, OpDef, Tolerance, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "std",
    doc: "Square root of `var` over `dims`, which stay with size 1. The gradient is 0 where the result is.\n\n\
        >>> torsh.std(torsh.tensor([1., 3., 5.])).item()\n2.0",
    attrs: &[attr("dims", AttrKind::Ints), attr("correction", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    infer: reduce_infer,
    decompose: Some(|c| map(c, |x| variance(x, &dims_of(c.attrs, 0), c.attrs.int(1)).sqrt())),
    // d x = ct * (x - mean) / (n * std)
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let (dims, shape, out) = (dims_of(c.attrs, 0), x.shape(), wide(c.out));
            let n = degrees(&shape, &dims, c.attrs.int(1));
            let flat = out.eq(out.zeros_like());
            let scale = ct / flat.select(out.full_like(1.0), out).scale(n);
            centre(x, &dims) * flat.select(ct.zeros_like(), scale).expand(&shape)
        })
    }),
    // Rounding of the mean reaches the squares twice.
    tolerance: Tolerance::scaled(16.0),
    samples: || [0, 1].iter().flat_map(|&k| reduction_samples(&[Attr::Int(k)])).collect(),
    ..BASE
};
