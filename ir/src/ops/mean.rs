//! `mean`: the average.

use super::composite::{dims_of, map, mean, reduction_samples};
use super::{BASE, attr, reduce_infer};
use crate::attr::AttrKind;
use crate::op::{DTypeSet, OpDef, Tolerance};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "mean",
    doc: "`sum(x) / n` over `dims`, which stay with size 1; NaN where nothing is folded.\n\n\
        >>> torsh.mean(torsh.tensor([1., 2., 6.])).item()\n3.0",
    attrs: &[attr("dims", AttrKind::Ints)],
    dtypes: DTypeSet::FLOATS,
    infer: reduce_infer,
    decompose: Some(|c| map(c, |x| mean(x, &dims_of(c.attrs, 0)))),
    // The sum's own tolerance and one division.
    tolerance: Tolerance::scaled(2.0),
    samples: || reduction_samples(&[]),
    ..BASE
};
