//! `conv`: convolution (cross-correlation) over any number of spatial dims.

use super::composite::wide;
use super::rules::{ints, same_dtype};
use super::spatial::{CONV_ATTRS, MAX_CHAIN, Windows};
use super::BASE;
use crate::Val;
use crate::attr::{Attr, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::op::{Arity, Call, DTypeSet, Gen, OpDef, Sample, Tolerance, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "conv",
    doc: "`conv(x, weight; stride, lo, hi, dilation, groups)`: `out[n, o, p] = sum over c, k of x[n, c, p * stride + \
        k * dilation - lo] * weight[o, c, k]` with zeros outside x: x is `[N, C, spatial..]`, weight `[O, C / groups, \
        kernel..]`, and channel group g of the result sees group g of x. `lo` and `hi` count the zeros before and after \
        each spatial dim. A product over a view of windows: the matrix of windows is never stored.\n\n\
        >>> torsh.nn.functional.conv1d(torsh.tensor([[[1., 2., 3.]]]), torsh.tensor([[[1., 1.]]])).tolist()\n\
        [[[3.0, 5.0]]]",
    arity: Arity::Fixed(2),
    attrs: CONV_ATTRS,
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        same_dtype(&x[0], &x[1])?;
        let c = Conv::new(&x[0].shape, &x[1].shape, a)?;
        let mut out = vec![x[0].shape[0], x[1].shape[0]];
        out.extend(c.windows.counts(&x[0].shape[2..])?);
        Ok(Type::new(x[0].dtype, Shape::new(&out)?))
    },
    decompose: Some(decompose),
    // Its two gradients, and theirs, are the three convolution ops themselves.
    vjp: Vjp::Rule(|c| {
        let (x, w, b) = (c.x[0], c.x[1], c.ct.builder());
        let with = |last: &[usize]| [c.attrs, &[Attr::from(last)]].concat();
        smallvec![
            Some(b.op("conv_transpose", &[c.ct, w], &with(&x.shape()[2..]))),
            Some(b.op("conv_weight", &[x, c.ct], &with(&w.shape()[2..])))
        ]
    }),
    // That of dot_general: the depth is that of a window times the channels.
    tolerance: Tolerance::scaled(128.0),
    samples,
    ..BASE
};

/// The shapes of a convolution.
pub(super) struct Conv {
    pub windows: Windows,
    pub groups: usize,
    /// Channels of the operand and of the result, per group.
    pub inner: usize,
    pub outer: usize,
}

impl Conv {
    /// From operand and weight, checked.
    pub fn new(x: &Shape, w: &Shape, a: &[Attr]) -> Result<Conv> {
        if x.rank() < 3 || x.rank() != w.rank() {
            return Err(Error::shape(format!(
                "expected an operand [N, C, spatial..] and a weight of the same rank, got {x} and {w}"
            )));
        }
        let groups = usize::try_from(a.int(4)).ok().filter(|&g| g > 0);
        let groups = groups.ok_or_else(|| Error::value(format!("groups must be at least 1, got {}", a.int(4))))?;
        if !w[0].is_multiple_of(groups) || w[1].checked_mul(groups) != Some(x[1]) {
            return Err(Error::shape(format!(
                "Given groups={groups}, weight of size {w}, expected input {x} to have {} channels, but got {} channels \
                 instead, and the {} channels of the result to be a multiple of groups",
                w[1].saturating_mul(groups),
                x[1],
                w[0]
            )));
        }
        let windows = Windows::conv(&w[2..], a)?;
        windows.check(&[x[0], x[1].max(w[0])], &x[2..], &windows.counts(&x[2..])?)?;
        Ok(Conv { windows, groups, inner: w[1], outer: w[0] / groups })
    }

    /// Whether a chain of products per channel beats a matrix product: one channel in, few out.
    pub fn depthwise(&self) -> bool {
        self.inner == 1 && self.outer <= 4 && self.windows.positions() <= MAX_CHAIN
    }
}

/// `x` with its channels split: `[N, groups, channels, spatial..]`.
pub(super) fn grouped(x: Val<'_>, groups: usize) -> Val<'_> {
    let shape = x.shape();
    let mut dims = vec![shape[0], groups, shape[1] / groups];
    dims.extend_from_slice(&shape[2..]);
    x.reshape(&dims)
}

fn decompose<'b>(c: &Call<'b, '_>) -> Val<'b> {
    let Ok(conv) = Conv::new(&c.x[0].shape(), &c.x[1].shape(), c.attrs) else { return c.x[0] };
    if conv.depthwise() {
        return depthwise(c, &conv);
    }
    let n = conv.windows.dims();
    let x = grouped(conv.windows.pad(c.x[0], 2, Scalar::Int(0)), conv.groups);
    let view = conv.windows.view(x, 3);
    // The weight is the same for all images: repeated, which takes no memory.
    let kernel = c.x[1].shape();
    let mut dims = vec![1, conv.groups, conv.outer];
    dims.extend_from_slice(&kernel[1..]);
    let w = c.x[1].reshape(&dims);
    dims[0] = c.ty.shape[0];
    let w = w.expand(&dims);
    let kernel_dims = |first: usize| -> Vec<usize> { (first..first + n).collect() };
    let (left, right) = ([vec![3], kernel_dims(4)].concat(), [vec![2], kernel_dims(3 + n)].concat());
    w.dot_general(view, &[0, 1], &[0, 1], &left, &right).reshape(&c.ty.shape)
}

/// A product and a sum per position of the window, along the rows of the result.
fn depthwise<'b>(c: &Call<'b, '_>, conv: &Conv) -> Val<'b> {
    let x = grouped(conv.windows.pad(wide(c.x[0]), 2, Scalar::Int(0)), conv.groups);
    let positions = conv.windows.positions();
    let w = wide(c.x[1]).reshape(&[conv.groups, conv.outer, positions]);
    let (counts, mut full) = (&c.ty.shape[2..], vec![c.ty.shape[0], conv.groups, conv.outer]);
    full.extend_from_slice(counts);
    let mut column = vec![1, conv.groups, conv.outer];
    column.extend(counts.iter().map(|_| 1));
    let term = |k: usize| {
        let part = conv.windows.slice(x, 3, &conv.windows.position(k), counts);
        part.expand(&full) * w.slice_dim(2, k, k + 1, 1).reshape(&column).expand(&full)
    };
    (1..positions).fold(term(0), |sum, k| sum + term(k)).reshape(&c.ty.shape).cast(c.ty.dtype)
}

/// Operand and weight shapes with attributes, for all three convolution ops.
pub(super) type Case = (&'static [usize], &'static [usize], [&'static [i64]; 4], i64);

pub(super) const CASES: &[Case] = &[
    (&[1, 1, 5], &[1, 1, 3], [&[1], &[0], &[0], &[1]], 1),
    (&[2, 3, 9], &[4, 3, 3], [&[2], &[1], &[1], &[1]], 1),
    (&[2, 4, 8], &[6, 2, 2], [&[3], &[2], &[0], &[2]], 2),
    (&[1, 2, 7], &[3, 2, 2], [&[1], &[-1], &[3], &[1]], 1),
    (&[1, 2, 7], &[3, 2, 2], [&[2], &[3], &[-2], &[1]], 1),
    (&[2, 3, 6, 5], &[4, 3, 3, 2], [&[1, 1], &[1, 0], &[1, 1], &[1, 1]], 1),
    (&[2, 2, 7, 8], &[4, 2, 3, 3], [&[2, 3], &[1, 1], &[1, 1], &[1, 1]], 1),
    (&[1, 4, 6, 7], &[4, 2, 2, 3], [&[1, 2], &[2, 1], &[0, 1], &[2, 1]], 2),
    (&[2, 3, 5, 6], &[3, 1, 3, 3], [&[1, 1], &[1, 1], &[1, 1], &[1, 1]], 3),
    (&[2, 3, 5, 6], &[6, 1, 2, 3], [&[2, 1], &[0, 1], &[1, 1], &[1, 2]], 3),
    (&[3, 5, 4, 4], &[2, 5, 1, 1], [&[1, 1], &[0, 0], &[0, 0], &[1, 1]], 1),
    (&[2, 3, 5, 5], &[2, 3, 1, 1], [&[2, 2], &[0, 0], &[0, 0], &[1, 1]], 1),
    (&[1, 2, 4, 5, 3], &[2, 2, 2, 2, 2], [&[1, 2, 1], &[0, 1, 0], &[0, 0, 1], &[1, 1, 1]], 1),
    (&[0, 2, 5, 5], &[3, 2, 3, 3], [&[1, 1], &[0, 0], &[0, 0], &[1, 1]], 1),
];

/// A sample of operands `a` and `b` with the attributes of a case.
pub(super) fn sample(a: &[usize], b: &[usize], case: &Case) -> Sample {
    let lists = case.2.iter().fold(Sample::new(vec![Gen::normal(a), Gen::normal(b)]), |s, l| s.attr(ints(l)));
    lists.attr(Attr::Int(case.3))
}

/// Spatial sizes of a case's result.
pub(super) fn result(case: &Case) -> Vec<usize> {
    let [stride, lo, hi, dilation] = case.2;
    let sizes = case.0[2..].iter().zip(&case.1[2..]).enumerate();
    let size = |(d, (&s, &k)): (usize, (&usize, &usize))| {
        let room = s as i64 + lo[d] + hi[d] - (k as i64 - 1) * dilation[d] - 1;
        (room / stride[d] + 1) as usize
    };
    [vec![case.0[0], case.1[0]], sizes.map(size).collect()].concat()
}

fn samples() -> Vec<Sample> {
    let mut out: Vec<Sample> = CASES.iter().map(|c| sample(c.0, c.1, c)).collect();
    let deep: Case = (&[2, 17, 6, 9], &[33, 17, 3, 3], [&[1, 1], &[1, 1], &[1, 1], &[1, 1]], 1);
    out.push(sample(deep.0, deep.1, &deep).no_grad());
    out
}
