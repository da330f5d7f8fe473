//! `var`: the variance.

use super::composite::{centre, degrees, dims_of, map, map_vjp, reduction_samples, variance};
use super::{BASE, attr, reduce_infer};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{DTypeSet, OpDef, Tolerance, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "var",
    doc: "`sum((x - mean(x))^2) / max(n - correction, 0)` over `dims`, which stay with size 1, in two passes.\n\n\
        >>> torsh.var(torsh.tensor([1., 2., 3.])).item()\n1.0",
    attrs: &[attr("dims", AttrKind::Ints), attr("correction", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    infer: reduce_infer,
    decompose: Some(|c| map(c, |x| variance(x, &dims_of(c.attrs, 0), c.attrs.int(1)))),
    // The mean's own derivative vanishes because deviations sum to 0.
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let (dims, shape) = (dims_of(c.attrs, 0), x.shape());
            let n = degrees(&shape, &dims, c.attrs.int(1));
            centre(x, &dims) * ct.scale(2.0 / n).expand(&shape)
        })
    }),
    // Rounding of the mean reaches the squares twice.
    tolerance: Tolerance::scaled(16.0),
    samples: || [0, 1].iter().flat_map(|&k| reduction_samples(&[Attr::Int(k)])).collect(),
    ..BASE
};
