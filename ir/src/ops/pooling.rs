//! Pieces of the pooling ops: PyTorch's rules for sizes, chains over the positions of a window, and the way
//! back from windows to elements. No facts of a single op stand here.

use super::rules::ints;
use super::spatial::{MAX_CHAIN, Windows, pad};
use super::windows::overlap_add;
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrSpec, AttrsExt, Scalar};
use crate::builder::Builder;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interp::HostTensor;
use crate::op::{Gen, Sample, Values};
use crate::scalar::{ReduceOp, identity};
use crate::shape::{Shape, Type};

/// Rows of a window from this length on are worth a vector of their own.
const LONG: i64 = 16;

/// Attributes of the pooling ops that look for a maximum.
pub(super) const POOL_ATTRS: &[AttrSpec] = &[
    super::attr("kernel", AttrKind::Ints),
    super::attr("stride", AttrKind::Ints),
    super::attr("padding", AttrKind::Ints),
    super::attr("dilation", AttrKind::Ints),
    super::attr("ceil_mode", AttrKind::Bool),
];

/// Type rule: the operand's dtype, the number of windows along the last dims.
pub(super) fn infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    Ok(Type::new(x[0].dtype, Pool::new(&x[0].shape, a)?.shape(&x[0].shape)?))
}

/// What is never larger than another number.
pub(super) fn lowest(dtype: DType) -> Scalar {
    identity(ReduceOp::Max, dtype)
}

/// A pooling of the last dims.
pub(super) struct Pool {
    pub windows: Windows,
    /// The first pooled dim.
    pub first: usize,
    /// Windows along each pooled dim.
    pub counts: Vec<usize>,
}

impl Pool {
    /// From the operand's shape and [`POOL_ATTRS`], checked.
    pub fn new(x: &Shape, a: &[Attr]) -> Result<Pool> {
        let (kernel, stride, padding, dilation) = (a.ints(0), a.ints(1), a.ints(2), a.ints(3));
        let mut windows = Windows::new(kernel, [stride, padding, padding, dilation])?;
        let n = kernel.len();
        let Some(first) = x.rank().checked_sub(n) else {
            return Err(Error::shape(format!("expected at least {n} dims, got shape {x}")));
        };
        let sizes = &x[first..];
        for d in 0..n {
            if padding[d] < 0 || padding[d] > (windows.reach(d)? + 1) / 2 {
                return Err(Error::value(format!(
                    "pad should be at least 0 and at most half of effective kernel size, but got pad={}, kernel_size={} \
                     and dilation={}",
                    padding[d], kernel[d], dilation[d]
                )));
            }
            if sizes[d] == 0 {
                return Err(Error::shape(format!("the pooled dims must have elements, got shape {x}")));
            }
        }
        let mut counts = windows.counts_of(sizes, a.bool(4))?;
        for d in 0..n {
            let overflow = || Error::limit("the size of a pooling overflows");
            let size = sizes[d] as i64 + padding[d];
            if a.bool(4) && (counts[d] as i64 - 1).checked_mul(stride[d]).ok_or_else(overflow)? >= size {
                // The last window must begin inside.
                counts[d] -= 1;
            }
            let end =
                (counts[d] as i64 - 1).checked_mul(stride[d]).and_then(|at| at.checked_add(windows.reach(d).ok()?));
            windows.hi[d] = (end.ok_or_else(overflow)? + 1 - size).max(0);
        }
        windows.check(&x[..first], sizes, &counts)?;
        Ok(Pool { windows, first, counts })
    }

    /// The shape of the result.
    pub fn shape(&self, x: &Shape) -> Result<Shape> {
        Shape::new(&[&x[..self.first], &self.counts].concat())
    }

    /// Whether windows are folded by a chain of elementwise operations.
    pub fn chained(&self) -> bool {
        self.windows.positions() <= MAX_CHAIN
    }

    /// The dtype of positions: floats hold those of chained windows exactly.
    pub fn position_dtype(&self, x: DType) -> DType {
        if self.chained() && x.is_float() { x.compute() } else { DType::I64 }
    }

    /// `x` with what is never the largest around it.
    pub fn lowest_padded<'b>(&self, x: Val<'b>) -> Val<'b> {
        self.windows.pad(x, self.first, lowest(x.dtype()))
    }

    /// The elements of a padded operand at position `k` of each window.
    pub fn part<'b>(&self, x: Val<'b>, k: usize) -> Val<'b> {
        self.windows.slice(x, self.first, &self.windows.position(k), &self.counts)
    }

    /// Folds the windows of a padded operand; dims of size 1 may be left at the end.
    pub fn fold<'b>(&self, x: Val<'b>, f: impl Fn(Val<'b>, Val<'b>) -> Val<'b>, reduce: &str) -> Val<'b> {
        if self.chained() {
            return (1..self.windows.positions()).fold(self.part(x, 0), |all, k| f(all, self.part(x, k)));
        }
        let rank = x.rank();
        let over: Vec<usize> = (rank..rank + self.windows.dims()).collect();
        self.windows.view(x, self.first).reduce(reduce, &over)
    }

    /// The first position of the largest element of each window of a padded operand, as int64, and that
    /// element; both with one dim more.
    pub fn arg<'b>(&self, x: Val<'b>) -> (Val<'b>, Val<'b>) {
        let rank = x.rank();
        let mut flat = self.windows.view(x, self.first).shape().to_vec();
        flat.truncate(rank);
        flat.push(self.windows.positions());
        let flat = self.windows.view(x, self.first).reshape(&flat);
        (flat.reduce("argmax", &[rank]), flat.reduce("amax", &[rank]))
    }

    /// For each window the first position that lies inside the operand.
    pub fn first_inside<'b>(&self, b: &'b Builder, dtype: DType, shape: &Shape) -> Val<'b> {
        let mut at = b.full(Scalar::Int(0), dtype, shape);
        let mut weight = 1i64;
        for d in (0..self.windows.dims()).rev() {
            let Windows { kernel, stride, lo, dilation, .. } = &self.windows;
            let (kernel, stride, lo, dilation) = (kernel[d], stride[d], lo[d], dilation[d]);
            let first = |o: usize| {
                let missing = lo - o as i64 * stride;
                (missing.max(0) + dilation - 1).div_euclid(dilation).min(kernel - 1) * weight
            };
            if lo > 0 {
                at = at + along(b, dtype, shape, self.first + d, |o| Scalar::Int(first(o)));
            }
            weight = weight.saturating_mul(kernel);
        }
        at
    }

    /// Gives each element of an operand of shape `x` the sum of `ct` over the windows that hold it; with `at`
    /// only over those whose position it is. In working precision until the end, which has `ct`'s dtype.
    pub fn back<'b>(&self, ct: Val<'b>, x: &Shape, at: Option<Val<'b>>) -> Val<'b> {
        let (dtype, wide) = (ct.dtype(), ct.cast(ct.dtype().compute()));
        let sizes = &x[self.first..];
        if self.windows.tiles() {
            return self.back_tiles(wide, sizes, at).cast(dtype);
        }
        if !self.chained() {
            return self.back_wide(wide, sizes, at).cast(dtype);
        }
        let spread = self.windows.spread(wide, self.first, sizes, Scalar::Int(0));
        let at = at.map(|at| self.windows.spread(at, self.first, sizes, Scalar::Int(-1)));
        let (back, last) = (self.windows.backward(), self.windows.positions() - 1);
        let part = |k: usize| {
            let mirrored = back.position(last - k);
            let value = back.slice(spread, self.first, &mirrored, sizes);
            let Some(at) = at else { return value };
            let at = back.slice(at, self.first, &mirrored, sizes);
            let here = at.eq(at.builder().full(Scalar::Int(k as i64), at.dtype(), &at.shape()));
            here.select(value, value.zeros_like())
        };
        (1..=last).fold(part(0), |sum, k| sum + part(k)).cast(dtype)
    }

    /// Windows side by side: each element is in one at most.
    fn back_tiles<'b>(&self, ct: Val<'b>, sizes: &[usize], at: Option<Val<'b>>) -> Val<'b> {
        let (n, w) = (self.windows.dims(), &self.windows);
        let long = w.kernel.last().is_some_and(|&k| k >= LONG);
        let all = if long || !self.chained() { self.repeat(ct, at) } else { self.interleave(ct, at, 0, 0) };
        let lo: Vec<i64> = w.lo.iter().map(|&l| -l).collect();
        let hi: Vec<i64> = (0..n).map(|d| sizes[d] as i64 + w.lo[d] - self.counts[d] as i64 * w.kernel[d]).collect();
        pad(all, self.first, &lo, &hi, Scalar::Int(0))
    }

    /// The cotangents at all positions of side by side windows by repetition: for long rows of a window.
    fn repeat<'b>(&self, ct: Val<'b>, at: Option<Val<'b>>) -> Val<'b> {
        let (n, shape) = (self.windows.dims(), ct.shape());
        let lead = &shape[..self.first];
        let (mut narrow, mut full, mut joined) = (lead.to_vec(), lead.to_vec(), lead.to_vec());
        for d in 0..n {
            let kernel = self.windows.kernel[d] as usize;
            narrow.extend([self.counts[d], 1]);
            full.extend([self.counts[d], kernel]);
            joined.push(self.counts[d] * kernel);
        }
        let mut all = ct.reshape(&narrow).expand(&full);
        if let Some(at) = at {
            let dims: Vec<usize> = (0..n).map(|d| self.first + 2 * d + 1).collect();
            let here = at.reshape(&narrow).expand(&full).eq(self.numbers(at, &full, &dims));
            all = here.select(all, all.zeros_like());
        }
        all.reshape(&joined)
    }

    /// The same position by position, dims from `d` on interleaved: vectors run along the windows, which for
    /// short rows of a window are many more. `k` is the position in the dims before.
    fn interleave<'b>(&self, ct: Val<'b>, at: Option<Val<'b>>, d: usize, k: usize) -> Val<'b> {
        if d == self.windows.dims() {
            let Some(at) = at else { return ct };
            let here = at.eq(at.builder().full(Scalar::Int(k as i64), at.dtype(), &at.shape()));
            return here.select(ct, ct.zeros_like());
        }
        let (kernel, dim) = (self.windows.kernel[d] as usize, self.first + d);
        let mut joined = Vec::new();
        let parts: Vec<Val<'b>> = (0..kernel)
            .map(|i| {
                let part = self.interleave(ct, at, d + 1, k * kernel + i);
                joined = part.shape().to_vec();
                let mut apart = joined.clone();
                apart.insert(dim + 1, 1);
                part.reshape(&apart)
            })
            .collect();
        joined[dim] *= kernel;
        ct.builder().concat(&parts, dim + 1).reshape(&joined)
    }

    /// Large overlapping windows: one dim after the other, over a tensor with all positions.
    fn back_wide<'b>(&self, ct: Val<'b>, sizes: &[usize], at: Option<Val<'b>>) -> Val<'b> {
        let (n, shape, w) = (self.windows.dims(), ct.shape(), &self.windows);
        let (mut narrow, mut full) = (shape.to_vec(), shape.to_vec());
        for d in 0..n {
            narrow.push(1);
            full.push(w.kernel[d] as usize);
        }
        let mut all = ct.reshape(&narrow).expand(&full);
        if let Some(at) = at {
            let dims: Vec<usize> = (shape.rank()..shape.rank() + n).collect();
            let here = at.reshape(&narrow).expand(&full).eq(self.numbers(at, &full, &dims));
            all = here.select(all, all.zeros_like());
        }
        for d in (0..n).rev() {
            let size = (sizes[d] as i64 + w.lo[d] + w.hi[d]) as usize;
            all = overlap_add(all, self.first + d, size, w.stride[d] as usize, w.dilation[d] as usize);
        }
        let [lo, hi] = [&w.lo, &w.hi].map(|l| l.iter().map(|&v| -v).collect::<Vec<i64>>());
        pad(all, self.first, &lo, &hi, Scalar::Int(0))
    }

    /// Row-major numbers of the positions, which count along `dims` of `shape`; of the type of `like`.
    fn numbers<'b>(&self, like: Val<'b>, shape: &[usize], dims: &[usize]) -> Val<'b> {
        let (b, dtype, shape) = (like.builder(), like.dtype(), Shape::of(shape));
        let mut weight = 1.0;
        let mut sum: Option<Val<'b>> = None;
        for (&dim, &kernel) in dims.iter().zip(&self.windows.kernel).rev() {
            let own = b.iota(dim, dtype, &shape);
            let own = if weight == 1.0 { own } else { own.scale(weight) };
            sum = Some(sum.map_or(own, |s| own + s));
            weight *= kernel as f64;
        }
        sum.unwrap_or_else(|| b.full(Scalar::Int(0), dtype, &shape))
    }
}

/// A number for each position along `dim`, repeated over `shape`.
pub(super) fn along<'b>(
    b: &'b Builder,
    dtype: DType,
    shape: &Shape,
    dim: usize,
    value: impl Fn(usize) -> Scalar,
) -> Val<'b> {
    let mut row = vec![1; shape.rank()];
    row[dim] = shape[dim];
    let ty = Type::new(dtype, Shape::of(&row));
    let data = HostTensor::from_fn(ty.clone(), |i| value(i).to_dtype(dtype)).to_bytes();
    b.op("constant", &[], &[Attr::Bytes(data.into()), dtype.into(), ty.shape.dims().into()]).expand(shape)
}

/// Samples of [`POOL_ATTRS`] over one and two dims: side by side, overlapping, apart, padded, with
/// incomplete windows at the end, and larger than a chain. Maxima are searched among distinct values.
pub(super) fn samples(max: bool) -> Vec<Sample> {
    let values = if max { Values::Distinct } else { Values::Normal };
    let s = |x: &[usize], lists: [&[i64]; 4], ceil: bool| {
        let sample = Sample::new(vec![Gen::of(x, values.clone())]);
        lists.iter().fold(sample, |s, l| s.attr(ints(l))).attr(Attr::Bool(ceil))
    };
    let mut out = vec![
        s(&[4], [&[1], &[1], &[0], &[1]], false),
        s(&[17], [&[2], &[2], &[0], &[1]], false),
        s(&[17], [&[2], &[2], &[0], &[1]], true),
        s(&[17], [&[3], &[3], &[1], &[1]], false),
        s(&[3, 17], [&[3], &[2], &[1], &[1]], true),
        s(&[3, 10], [&[3], &[1], &[1], &[2]], false),
        s(&[9], [&[2], &[4], &[1], &[1]], true),
        s(&[2, 3, 8, 6], [&[2, 2], &[2, 2], &[0, 0], &[1, 1]], false),
        s(&[2, 7, 9], [&[2, 3], &[2, 3], &[1, 1], &[1, 1]], true),
        s(&[2, 7, 9], [&[3, 3], &[2, 2], &[1, 1], &[1, 1]], false),
        s(&[2, 7, 8], [&[3, 2], &[1, 3], &[1, 0], &[1, 2]], true),
        s(&[1, 2, 9, 11], [&[9, 11], &[1, 1], &[0, 0], &[1, 1]], false),
        s(&[1, 10, 11], [&[9, 8], &[2, 2], &[4, 2], &[1, 1]], true),
        s(&[0, 2, 4, 4], [&[2, 2], &[2, 2], &[0, 0], &[1, 1]], false),
    ];
    if max {
        let special = Sample::new(vec![Gen::of(&[67], Values::Special)]).no_grad();
        let lists: [&[i64]; 4] = [&[3], &[2], &[1], &[1]];
        out.push(lists.iter().fold(special, |s, l| s.attr(ints(l))).attr(Attr::Bool(true)));
    }
    out
}
