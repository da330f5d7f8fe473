//! `conv_transpose`: the gradient of a convolution by its operand, which is the transposed convolution.

use super::conv::{CASES, Conv, result, sample};
use super::rules::same_dtype;
use super::spatial::Windows;
use super::{BASE, attr, shape_attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::op::{Arity, Call, DTypeSet, OpDef, Tolerance, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "conv_transpose",
    doc: "`conv_transpose(x, weight; stride, lo, hi, dilation, groups, sizes)`: the linear map that is transposed to \
        `conv(., weight; ..)` on operands of spatial `sizes`: `out[n, c, q] = sum over o, k and p with p * stride + k * \
        dilation - lo = q of x[n, o, p] * weight[o, c, k]`: x is `[N, O, spatial..]`, weight `[O, C / groups, \
        kernel..]`. Computed as a convolution of x, spread by the stride, with the flipped weight.\n\n\
        >>> torsh.nn.functional.conv_transpose1d(torsh.ones(1, 1, 2), torsh.ones(1, 1, 2)).tolist()\n\
        [[[1.0, 2.0, 1.0]]]",
    arity: Arity::Fixed(2),
    attrs: ATTRS,
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        same_dtype(&x[0], &x[1])?;
        let (shape, _) = operand(&x[0].shape, &x[1].shape, a)?;
        Ok(Type::new(x[0].dtype, shape))
    },
    decompose: Some(decompose),
    vjp: Vjp::Rule(|c| {
        let (x, w, b) = (c.x[0], c.x[1], c.ct.builder());
        let kernel = Attr::from(&w.shape()[2..]);
        smallvec![
            Some(b.op("conv", &[c.ct, w], &c.attrs[..5])),
            Some(b.op("conv_weight", &[c.ct, x], &[&c.attrs[..5], &[kernel]].concat()))
        ]
    }),
    tolerance: Tolerance::scaled(128.0),
    samples: || {
        CASES.iter().map(|c| sample(&result(c), c.1, c).attr(&c.0[2..])).collect()
    },
    ..BASE
};

const ATTRS: &[crate::attr::AttrSpec] = &[
    attr("stride", AttrKind::Ints),
    attr("lo", AttrKind::Ints),
    attr("hi", AttrKind::Ints),
    attr("dilation", AttrKind::Ints),
    attr("groups", AttrKind::Int),
    attr("sizes", AttrKind::Ints),
];

/// The shape of the operand of the convolution whose result has the shape of `x`.
fn operand(x: &Shape, w: &Shape, a: &[Attr]) -> Result<(Shape, Conv)> {
    let mut out = vec![x.first().copied().unwrap_or(0), w.get(1).copied().unwrap_or(0)];
    let groups = usize::try_from(a.int(4)).map_err(|_| Error::value("groups must be at least 1"))?;
    out[1] = out[1].checked_mul(groups).ok_or_else(|| Error::limit("the number of channels overflows"))?;
    out.extend_from_slice(&shape_attr(a.ints(5))?);
    let out = Shape::new(&out)?;
    if x.rank() != w.rank() || x.rank() < 3 || x[1] != w[0] {
        return Err(Error::shape(format!(
            "expected an operand [N, O, spatial..] and a weight [O, C / groups, kernel..], got {x} and {w}"
        )));
    }
    let conv = Conv::new(&out, w, a)?;
    if conv.windows.counts(&out[2..])? != x[2..] {
        return Err(Error::shape(format!("a convolution of {out} with weight {w} has not the result {x}")));
    }
    Ok((out, conv))
}

fn decompose<'b>(c: &Call<'b, '_>) -> Val<'b> {
    let w = c.x[1].shape();
    let Ok((out, conv)) = operand(&c.x[0].shape(), &w, c.attrs) else { return c.x[0] };
    let n = conv.windows.dims();
    let spread = conv.windows.spread(c.x[0], 2, &out[2..], Scalar::Int(0));
    let mut split = vec![conv.groups, conv.outer, conv.inner];
    split.extend_from_slice(&w[2..]);
    let mut order: Vec<usize> = (0..3 + n).collect();
    order.swap(1, 2);
    let mut joined = vec![conv.groups * conv.inner, conv.outer];
    joined.extend_from_slice(&w[2..]);
    let flipped = c.x[1].reshape(&split).permute(&order).reshape(&joined).flip(&(2..2 + n).collect::<Vec<_>>());
    let Windows { stride, lo, hi, dilation, .. } = conv.windows.backward();
    let lists = [stride, lo, hi, dilation].map(|l| Attr::from(l.as_slice()));
    c.x[0].builder().op("conv", &[spread, flipped], &[&lists[..], &c.attrs[4..5]].concat())
}
