//! `logsumexp`: the logarithm of a sum of exponentials.

use super::composite::{dims_of, map, map_vjp, reduction_samples};
use super::{BASE, attr, reduce_infer};
use crate::Val;
use crate::attr::{Attr, AttrKind};
use crate::op::{DTypeSet, Gen, OpDef, Sample, Tolerance, Values, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "logsumexp",
    doc: "`log(sum(exp(x)))` over `dims`, which stay with size 1, as `m + log(sum(exp(x - m)))` with `m` the \
        maximum, or 0 where that is infinite: rows of `-inf` give `-inf`, rows with `inf` give `inf`.\n\n\
        >>> torsh.logsumexp(torsh.zeros(4), 0).exp().round().item()\n4.0",
    attrs: &[attr("dims", AttrKind::Ints)],
    dtypes: DTypeSet::FLOATS,
    infer: reduce_infer,
    decompose: Some(|c| {
        map(c, |x| {
            let dims = dims_of(c.attrs, 0);
            let (powers, top) = powers(x, &dims);
            powers.sum(&dims).log() + top
        })
    }),
    // d x = ct * softmax(x), from the powers, because x - out would lose digits; a row of -inf has gradient 0.
    vjp: Vjp::Rule(|c| {
        map_vjp(c, |x, ct| {
            let dims = dims_of(c.attrs, 0);
            let (powers, _) = powers(x, &dims);
            let sum = powers.sum(&dims);
            let sum = sum.eq(sum.zeros_like()).select(sum.full_like(1.0), sum);
            powers * (ct / sum).expand(&x.shape())
        })
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: || {
        let mut s = reduction_samples(&[]);
        s.push(Sample::new(vec![Gen::range(&[3, 33], 500.0, 1000.0)]).attr(Attr::from(&[1i64][..])));
        s.push(Sample::new(vec![Gen::of(&[67, 3], Values::Special)]).attr(Attr::from(&[1i64][..])).no_grad());
        s
    },
    ..BASE
};

/// `exp(x - m)`, and m: the maximum over `dims`, or 0 where that is infinite.
fn powers<'b>(x: Val<'b>, dims: &[usize]) -> (Val<'b>, Val<'b>) {
    let top = x.reduce("amax", dims);
    let infinite = top.abs().eq(top.full_like(f64::INFINITY));
    let top = infinite.select(top.zeros_like(), top);
    ((x - top.expand(&x.shape())).exp(), top)
}
