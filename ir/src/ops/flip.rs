//! `flip`: reversal of dims.

use super::rules::{eval_view, ints};
use super::{BASE, attr, dims_attr};
use crate::attr::{AttrKind, AttrsExt, Scalar};
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "flip",
    doc: "`out[i] = x[size - 1 - i]` along each of `dims`.\n\n\
        >>> torsh.tensor([1, 2, 3]).flip(0).tolist()\n[3, 2, 1]",
    kind: Kind::View(View::Flip),
    attrs: &[attr("dims", AttrKind::Ints)],
    infer: |x, a| dims_attr(a.ints(0), x[0].rank()).map(|_| x[0].clone()),
    eval: Some(|c| {
        let dims = c.attrs.ints(0);
        let at_end = |d: usize, a: usize| if dims.contains(&(d as i64)) { c.ty.shape[d] - 1 - a } else { a };
        Ok(eval_view(c, Scalar::Int(0), |at| Some(at.iter().enumerate().map(|(d, &a)| at_end(d, a)).collect())))
    }),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.builder().op("flip", &[c.ct], c.attrs))]),
    samples: || {
        let s = |shape: &[usize], dims: &[i64]| Sample::new(vec![Gen::normal(shape)]).attr(ints(dims));
        vec![
            s(&[], &[]),
            s(&[1], &[0]),
            s(&[17], &[0]),
            s(&[5, 33], &[0]),
            s(&[5, 33], &[1]),
            s(&[2, 3, 4], &[2, 0]),
            s(&[2, 0, 3], &[1, 2]),
        ]
    },
    ..BASE
};
