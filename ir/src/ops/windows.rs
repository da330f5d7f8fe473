//! `windows`: overlapping parts of dims, as a view.

use super::rules::{eval_view, ints};
use super::{BASE, attr, dims_attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::{Dims, Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "windows",
    doc: "`windows(x; dims, sizes, steps, dilations)`: each dim of `dims` becomes the number of windows of `sizes` \
        elements, `dilations` apart, that begin at multiples of `steps`; the position in the window is a new last dim, \
        in the order of `dims`: `out[.., o, .., k] = x[.., o * step + k * dilation, ..]`. No element is copied.\n\n\
        >>> torsh.tensor([1, 2, 3, 4]).unfold(0, 2, 1).tolist()\n[[1, 2], [2, 3], [3, 4]]",
    kind: Kind::View(View::Windows),
    attrs: &[
        attr("dims", AttrKind::Ints),
        attr("sizes", AttrKind::Ints),
        attr("steps", AttrKind::Ints),
        attr("dilations", AttrKind::Ints),
    ],
    infer: |x, a| Ok(Type::new(x[0].dtype, shape(&x[0].shape, a)?)),
    eval: Some(|c| {
        let rank = c.x[0].ty.rank();
        Ok(eval_view(c, Scalar::Int(0), |at| {
            let mut from: Dims = at[..rank].iter().copied().collect();
            for (i, &d) in c.attrs.ints(0).iter().enumerate() {
                let d = d as usize;
                from[d] = from[d] * c.attrs.ints(2)[i] as usize + at[rank + i] * c.attrs.ints(3)[i] as usize;
            }
            Some(from)
        }))
    }),
    // The cotangents of all windows that hold an element are added up, one dim after the other.
    vjp: Vjp::Rule(|c| {
        let mut ct = c.ct;
        for (i, &d) in c.attrs.ints(0).iter().enumerate().rev() {
            let (step, dilation) = (c.attrs.ints(2)[i] as usize, c.attrs.ints(3)[i] as usize);
            ct = overlap_add(ct, d as usize, c.x[0].shape()[d as usize], step, dilation);
        }
        smallvec![Some(ct)]
    }),
    samples,
    ..BASE
};

fn shape(x: &Shape, a: &[Attr]) -> Result<Shape> {
    let (dims, lists) = (dims_attr(a.ints(0), x.rank())?, [a.ints(1), a.ints(2), a.ints(3)]);
    if lists.iter().any(|l| l.len() != dims.len()) {
        return Err(Error::value("dims, sizes, steps and dilations must have one entry each per dim"));
    }
    let mut out = x.to_vec();
    for (i, &d) in dims.iter().enumerate() {
        let [size, step, dilation] = lists.map(|l| l[i]);
        if size < 1 || step < 1 || dilation < 1 {
            return Err(Error::value(format!(
                "sizes, steps and dilations must be at least 1, got {size}, {step} and {dilation} for dim {d}"
            )));
        }
        let reach = (size - 1).checked_mul(dilation).filter(|&reach| (reach as u64) < x[d] as u64);
        let Some(reach) = reach else {
            return Err(Error::shape(format!(
                "a window of {size} elements, {dilation} apart, does not fit in dim {d} of size {}",
                x[d]
            )));
        };
        out[d] = (x[d] - reach as usize - 1) / step as usize + 1;
        out.push(size as usize);
    }
    Shape::new(&out)
}

/// Undoes one window dim: dim `d` of `ct` counts windows, its last dim the positions; the result has `size`
/// elements along `d` and no last dim.
pub(super) fn overlap_add(ct: Val<'_>, d: usize, size: usize, step: usize, dilation: usize) -> Val<'_> {
    let shape = ct.shape();
    let last = shape.rank() - 1;
    let (count, width) = (shape[d], shape[last]);
    let rest = &shape[..last];
    if dilation == 1 && width <= step {
        // No two windows share an element: their positions and the gaps between them fill the dim in order.
        let mut wide = pad(ct, last, 0, (step - width) as i64);
        let mut order: Vec<usize> = (0..last).collect();
        order.insert(d + 1, last);
        wide = wide.permute(&order);
        let mut flat = rest.to_vec();
        flat[d] = count * step;
        return pad(wide.reshape(&flat), d, 0, size as i64 - (count * step) as i64);
    }
    let reach = (width - 1) * dilation;
    let (spread, covered) = if step == 1 {
        (pad(ct, d, reach, (size - count) as i64), size)
    } else {
        // Windows apart by `step`, zeros between them.
        let mut sizes = shape.to_vec();
        sizes[d] = size + reach;
        let base = ct.builder().full(Scalar::Float(0.0), ct.dtype(), &Shape::of(&sizes));
        let mut region = [vec![0i64; last + 1], sizes.iter().map(|&s| s as i64).collect(), vec![1i64; last + 1]];
        region[0][d] = reach as i64;
        region[1][d] = (reach + (count - 1) * step + 1) as i64;
        region[2][d] = step as i64;
        (ct.builder().op("slice_scatter", &[base, ct], &region.map(|l| Attr::from(l.as_slice()))), size)
    };
    let mut flat = rest.to_vec();
    flat[d] = covered;
    let part = |k: usize| {
        let first = reach - k * dilation;
        spread.slice_dim(last, k, k + 1, 1).slice_dim(d, first, first + covered, 1).reshape(&flat)
    };
    (1..width).fold(part(0), |sum, k| sum + part(k))
}

/// Zeros before and after dim `d`; a negative number after it takes elements away.
fn pad(x: Val<'_>, d: usize, lo: usize, hi: i64) -> Val<'_> {
    if hi < 0 {
        let size = x.shape()[d] as i64 + hi;
        return pad(x.slice_dim(d, 0, size as usize, 1), d, lo, 0);
    }
    if lo == 0 && hi == 0 {
        return x;
    }
    let (mut before, mut after) = (vec![0i64; x.rank()], vec![0i64; x.rank()]);
    (before[d], after[d]) = (lo as i64, hi);
    let zero = Scalar::Int(0).to_dtype(x.dtype());
    x.builder().op("pad", &[x], &[before.as_slice().into(), after.as_slice().into(), zero.into()])
}

fn samples() -> Vec<Sample> {
    let s = |x: &[usize], dims: &[i64], sizes: &[i64], steps: &[i64], dilations: &[i64]| {
        [dims, sizes, steps, dilations].iter().fold(Sample::new(vec![Gen::normal(x)]), |s, l| s.attr(ints(l)))
    };
    vec![
        s(&[3], &[], &[], &[], &[]),
        s(&[1], &[0], &[1], &[1], &[1]),
        s(&[17], &[0], &[3], &[1], &[1]),
        s(&[17], &[0], &[3], &[2], &[2]),
        s(&[17], &[0], &[2], &[5], &[1]),
        s(&[17], &[0], &[2], &[5], &[3]),
        s(&[12], &[0], &[3], &[3], &[1]),
        s(&[3, 70], &[1], &[5], &[1], &[1]),
        s(&[5, 33], &[0], &[2], &[3], &[1]),
        s(&[2, 6, 7], &[1, 2], &[3, 2], &[1, 1], &[1, 2]),
        s(&[2, 6, 7], &[2, 1], &[3, 2], &[2, 3], &[1, 1]),
        s(&[2, 9, 8], &[1, 2], &[2, 2], &[2, 2], &[1, 1]),
        s(&[0, 4], &[1], &[2], &[1], &[1]),
    ]
}
