//! `conv_weight`: the gradient of a convolution by its weight.

use super::conv::{CASES, Conv, grouped, result, sample};
use super::composite::wide;
use super::rules::same_dtype;
use super::{BASE, attr, shape_attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::op::{Arity, Call, DTypeSet, OpDef, Tolerance, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "conv_weight",
    doc: "`conv_weight(x, ct; stride, lo, hi, dilation, groups, kernel)`: `out[o, c, k] = sum over n, p of ct[n, o, p] * \
        x[n, c, p * stride + k * dilation - lo]`, the gradient of `conv` by a weight with `kernel` positions: a product \
        of the cotangent with a view of windows, contracted over images and positions.\n\n\
        >>> w = torsh.ones(1, 1, 2, requires_grad=True)\n\
        >>> torsh.nn.functional.conv1d(torsh.tensor([[[1., 2., 3.]]]), w).sum().backward()\n\
        >>> w.grad.tolist()\n[[[3.0, 5.0]]]",
    arity: Arity::Fixed(2),
    attrs: ATTRS,
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        same_dtype(&x[0], &x[1])?;
        Ok(Type::new(x[0].dtype, weight(&x[0].shape, &x[1].shape, a)?.0))
    },
    decompose: Some(decompose),
    vjp: Vjp::Rule(|c| {
        let (x, ct, b) = (c.x[0], c.x[1], c.ct.builder());
        let sizes = Attr::from(&x.shape()[2..]);
        smallvec![
            Some(b.op("conv_transpose", &[ct, c.ct], &[&c.attrs[..5], &[sizes]].concat())),
            Some(b.op("conv", &[x, c.ct], &c.attrs[..5]))
        ]
    }),
    tolerance: Tolerance::scaled(128.0),
    samples: || {
        CASES.iter().map(|c| sample(c.0, &result(c), c).attr(&c.1[2..])).collect()
    },
    ..BASE
};

const ATTRS: &[crate::attr::AttrSpec] = &[
    attr("stride", AttrKind::Ints),
    attr("lo", AttrKind::Ints),
    attr("hi", AttrKind::Ints),
    attr("dilation", AttrKind::Ints),
    attr("groups", AttrKind::Int),
    attr("kernel", AttrKind::Ints),
];

/// The shape of the weight for which a convolution of `x` has the shape of `ct`.
fn weight(x: &Shape, ct: &Shape, a: &[Attr]) -> Result<(Shape, Conv)> {
    if x.rank() != ct.rank() || x.rank() < 3 || x[0] != ct[0] {
        return Err(Error::shape(format!("expected [N, C, spatial..] and [N, O, spatial..], got {x} and {ct}")));
    }
    let groups = usize::try_from(a.int(4)).ok().filter(|&g| g > 0);
    let groups = groups.ok_or_else(|| Error::value("groups must be at least 1"))?;
    let mut out = vec![ct[1], x[1] / groups];
    out.extend_from_slice(&shape_attr(a.ints(5))?);
    let out = Shape::new(&out)?;
    let conv = Conv::new(x, &out, a)?;
    if conv.windows.counts(&x[2..])? != ct[2..] {
        return Err(Error::shape(format!("a convolution of {x} with weight {out} has not the result {ct}")));
    }
    Ok((out, conv))
}

fn decompose<'b>(c: &Call<'b, '_>) -> Val<'b> {
    let Ok((_, conv)) = weight(&c.x[0].shape(), &c.x[1].shape(), c.attrs) else { return c.x[0] };
    if conv.depthwise() {
        return depthwise(c, &conv);
    }
    let n = conv.windows.dims();
    let x = grouped(conv.windows.pad(c.x[0], 2, Scalar::Int(0)), conv.groups);
    let (view, ct) = (conv.windows.view(x, 3), grouped(c.x[1], conv.groups));
    let over: Vec<usize> = [0].into_iter().chain(3..3 + n).collect();
    ct.dot_general(view, &[1], &[1], &over, &over).reshape(&c.ty.shape)
}

/// A sum over images and positions for each position of the window.
fn depthwise<'b>(c: &Call<'b, '_>, conv: &Conv) -> Val<'b> {
    let x = grouped(conv.windows.pad(wide(c.x[0]), 2, Scalar::Int(0)), conv.groups);
    let ct = grouped(wide(c.x[1]), conv.groups);
    let full = ct.shape();
    let over: Vec<usize> = [0].into_iter().chain(3..full.rank()).collect();
    let parts: Vec<Val<'b>> = (0..conv.windows.positions())
        .map(|k| {
            let part = conv.windows.slice(x, 3, &conv.windows.position(k), &full[3..]);
            (ct * part.expand(&full)).sum(&over).reshape(&[conv.groups, conv.outer, 1])
        })
        .collect();
    x.builder().concat(&parts, 2).reshape(&c.ty.shape).cast(c.ty.dtype)
}
