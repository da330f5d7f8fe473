//! Pieces of convolution and pooling: sizes along the spatial dims (all but the first two), padding that may
//! also take elements away, strided slices at a position of the window, and the spreading of cotangents. No
//! facts of a single op stand here.

use crate::Val;
use crate::attr::{Attr, AttrKind, AttrSpec, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Attributes of the convolutions.
pub(super) const CONV_ATTRS: &[AttrSpec] = &[
    super::attr("stride", AttrKind::Ints),
    super::attr("lo", AttrKind::Ints),
    super::attr("hi", AttrKind::Ints),
    super::attr("dilation", AttrKind::Ints),
    super::attr("groups", AttrKind::Int),
];

/// Windows of more positions than this are folded by a reduction or a product; those of fewer by a chain of
/// elementwise operations on strided slices, along whose rows vectors run.
pub(super) const MAX_CHAIN: usize = 64;

/// How windows lie over the spatial dims: one entry per dim. `lo` and `hi` are elements added before and
/// after; negative ones are taken away.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Windows {
    pub kernel: Vec<i64>,
    pub stride: Vec<i64>,
    pub lo: Vec<i64>,
    pub hi: Vec<i64>,
    pub dilation: Vec<i64>,
}

impl Windows {
    /// From the attributes of a convolution, checked.
    pub fn conv(kernel: &[usize], a: &[Attr]) -> Result<Windows> {
        let kernel: Vec<i64> = kernel.iter().map(|&k| i64::try_from(k).unwrap_or(i64::MAX)).collect();
        Windows::new(&kernel, [a.ints(0), a.ints(1), a.ints(2), a.ints(3)])
    }

    /// From lists stride, lo, hi, dilation, checked.
    pub fn new(kernel: &[i64], [stride, lo, hi, dilation]: [&[i64]; 4]) -> Result<Windows> {
        let n = kernel.len();
        if n == 0 || [stride, lo, hi, dilation].iter().any(|l| l.len() != n) {
            return Err(Error::value(format!("expected one entry per spatial dim, of which there are {n}")));
        }
        for (name, list) in [("kernel size", kernel), ("stride", stride), ("dilation", dilation)] {
            if list.iter().any(|&v| v < 1) {
                return Err(Error::value(format!("{name} must be at least 1, got {list:?}")));
            }
        }
        let own = |l: &[i64]| l.to_vec();
        Ok(Windows { kernel: own(kernel), stride: own(stride), lo: own(lo), hi: own(hi), dilation: own(dilation) })
    }

    /// Spatial dims.
    pub fn dims(&self) -> usize {
        self.kernel.len()
    }

    /// Elements between the first and the last of a window, per dim.
    pub fn reach(&self, d: usize) -> Result<i64> {
        // The span, one more, is a number too.
        let reach = (self.kernel[d] - 1).checked_mul(self.dilation[d]).filter(|&r| r < i64::MAX);
        reach.ok_or_else(|| Error::limit("the size of a window overflows"))
    }

    /// Number of windows along each dim of `sizes` elements.
    pub fn counts(&self, sizes: &[usize]) -> Result<Vec<usize>> {
        let overflow = || Error::limit("the padded size overflows");
        let mut padded = Vec::new();
        for (d, &size) in sizes.iter().enumerate() {
            let size = i64::try_from(size).ok().and_then(|s| s.checked_add(self.lo[d]));
            padded.push(size.and_then(|s| s.checked_add(self.hi[d])).ok_or_else(overflow)?);
        }
        let mut out = Vec::new();
        for (d, &size) in padded.iter().enumerate() {
            let room = size.checked_sub(self.reach(d)?).ok_or_else(overflow)?;
            if room < 1 {
                let joined = |l: &[i64]| l.iter().map(i64::to_string).collect::<Vec<_>>().join(" x ");
                let spans: Vec<i64> = (0..self.dims()).map(|d| self.reach(d).map(|r| r + 1)).collect::<Result<_>>()?;
                return Err(Error::shape(format!(
                    "Calculated padded input size per channel: ({}). Kernel size: ({}). Kernel size can't be greater \
                     than actual input size",
                    joined(&padded),
                    joined(&spans)
                )));
            }
            out.push(((room - 1) / self.stride[d] + 1) as usize);
        }
        Ok(out)
    }

    /// Refuses sizes at which a padded operand, a spread cotangent or a view of windows cannot be addressed.
    /// `lead` are the dims in front of those of `sizes`.
    pub fn check(&self, lead: &[usize], sizes: &[usize], counts: &[usize]) -> Result<()> {
        let overflow = || Error::limit("the padded size overflows");
        let (mut padded, mut view) = (lead.to_vec(), [lead, counts].concat());
        for (d, &size) in sizes.iter().enumerate() {
            let around =
                self.lo[d].max(0).checked_add(self.hi[d].max(0)).and_then(|p| p.checked_add(self.reach(d).ok()?));
            let around = around.ok_or_else(overflow)?;
            padded.push(size.checked_add(around as usize).ok_or_else(overflow)?);
            view.push(self.kernel[d] as usize);
        }
        Shape::new(&padded).and_then(|_| Shape::new(&view)).map(|_| ())
    }

    /// Number of windows along each dim of `sizes` elements; in `ceil` mode one more where elements are left
    /// that a full window does not reach.
    pub fn counts_of(&self, sizes: &[usize], ceil: bool) -> Result<Vec<usize>> {
        if !ceil {
            return self.counts(sizes);
        }
        let more =
            |(&h, &s): (&i64, &i64)| h.checked_add(s - 1).ok_or_else(|| Error::limit("the padded size overflows"));
        let hi = self.hi.iter().zip(&self.stride).map(more).collect::<Result<Vec<i64>>>()?;
        Windows { hi, ..self.clone() }.counts(sizes)
    }

    /// Positions in a window.
    pub fn positions(&self) -> usize {
        self.kernel.iter().fold(1usize, |n, &k| n.saturating_mul(k as usize))
    }

    /// Coordinates of position `k` in row-major order.
    pub fn position(&self, mut k: usize) -> Vec<usize> {
        let mut at = vec![0; self.dims()];
        for d in (0..self.dims()).rev() {
            at[d] = k % self.kernel[d] as usize;
            k /= self.kernel[d] as usize;
        }
        at
    }

    /// Whether no element lies in two windows and none is skipped between them.
    pub fn tiles(&self) -> bool {
        self.kernel == self.stride && self.dilation.iter().zip(&self.kernel).all(|(&d, &k)| d == 1 || k == 1)
    }

    /// `x` with `value` around its spatial dims, which begin at `first`.
    pub fn pad<'b>(&self, x: Val<'b>, first: usize, value: Scalar) -> Val<'b> {
        pad(x, first, &self.lo, &self.hi, value)
    }

    /// The view of padded `x` with windows over the dims from `first`: their positions are the last dims.
    pub fn view<'b>(&self, x: Val<'b>, first: usize) -> Val<'b> {
        let dims: Vec<i64> = (0..self.dims()).map(|d| (first + d) as i64).collect();
        let lists = [&dims, &self.kernel, &self.stride, &self.dilation];
        x.builder().op("windows", &[x], &lists.map(|l| Attr::from(l.as_slice())))
    }

    /// The elements of padded `x` at one position of every window.
    pub fn slice<'b>(&self, x: Val<'b>, first: usize, at: &[usize], counts: &[usize]) -> Val<'b> {
        let shape = x.shape();
        let mut starts = vec![0i64; shape.rank()];
        let mut stops: Vec<i64> = shape.iter().map(|&s| s as i64).collect();
        let mut steps = vec![1i64; shape.rank()];
        for d in 0..self.dims() {
            let start = at[d] as i64 * self.dilation[d];
            starts[first + d] = start;
            stops[first + d] = start + (counts[d] as i64 - 1) * self.stride[d] + 1;
            steps[first + d] = self.stride[d];
        }
        x.slice(&starts, &stops, &steps)
    }

    /// Window counts back on the grid of the operand: elements apart by the stride with `fill` between and
    /// around, so that the windows of [`Windows::backward`] over the result hold, at mirrored positions, what
    /// each operand element gave to.
    pub fn spread<'b>(&self, ct: Val<'b>, first: usize, sizes: &[usize], fill: Scalar) -> Val<'b> {
        let n = self.dims();
        let reach: Vec<i64> = (0..n).map(|d| (self.kernel[d] - 1) * self.dilation[d]).collect();
        let lo: Vec<i64> = (0..n).map(|d| reach[d] - self.lo[d]).collect();
        let full: Vec<i64> = (0..n).map(|d| sizes[d] as i64 + reach[d]).collect();
        let shape = ct.shape();
        if self.stride.iter().all(|&s| s == 1) {
            let hi: Vec<i64> = (0..n).map(|d| full[d] - lo[d] - shape[first + d] as i64).collect();
            return pad(ct, first, &lo, &hi, fill);
        }
        // Windows that begin outside the grid give nothing to any element of it.
        let mut target = shape.to_vec();
        let (mut from, mut to) = (vec![0i64; shape.rank()], shape.iter().map(|&s| s as i64).collect::<Vec<_>>());
        let ones = vec![1i64; shape.rank()];
        let mut region = [vec![0i64; shape.rank()], to.clone(), ones.clone()];
        for d in 0..n {
            let (at, step) = (first + d, self.stride[d]);
            let skip = if lo[d] < 0 { (-lo[d] - 1) / step + 1 } else { 0 };
            let begin = lo[d] + skip * step;
            let room = if full[d] > begin { (full[d] - begin - 1) / step + 1 } else { 0 };
            let count = (to[at] - skip).clamp(0, room);
            (from[at], to[at]) = (skip.min(to[at]), skip.min(to[at]) + count);
            target[at] = full[d] as usize;
            region[0][at] = if count > 0 { begin } else { 0 };
            region[1][at] = if count > 0 { begin + (count - 1) * step + 1 } else { 0 };
            region[2][at] = step;
        }
        let part = ct.slice(&from, &to, &ones);
        let b = ct.builder();
        let base = b.full(fill, ct.dtype(), &Shape::of(&target));
        b.op("slice_scatter", &[base, part], &region.map(|l| Attr::from(l.as_slice())))
    }

    /// The windows over a spread cotangent that lead back to operands of `sizes` elements.
    pub fn backward(&self) -> Windows {
        let n = self.dims();
        Windows { stride: vec![1; n], lo: vec![0; n], hi: vec![0; n], ..self.clone() }
    }
}

/// `x` with `value` before and after its dims from `first`; negative numbers take elements away.
pub(super) fn pad<'b>(x: Val<'b>, first: usize, lo: &[i64], hi: &[i64], value: Scalar) -> Val<'b> {
    let shape = x.shape();
    let mut starts = vec![0i64; shape.rank()];
    let mut stops: Vec<i64> = shape.iter().map(|&s| s as i64).collect();
    let (mut before, mut after) = (starts.clone(), starts.clone());
    for d in 0..lo.len() {
        let at = first + d;
        starts[at] = (-lo[d]).clamp(0, stops[at]);
        stops[at] = (stops[at] - (-hi[d]).max(0)).max(starts[at]);
        // What cannot be taken from one side because nothing is left comes off the padding of the other.
        let kept = stops[at] - starts[at];
        let wanted = shape[at] as i64 + lo[d] + hi[d];
        before[at] = lo[d].max(0);
        after[at] = (wanted - kept - before[at]).max(0);
        before[at] = (wanted - kept - after[at]).max(0);
    }
    let inner = x.slice(&starts, &stops, &vec![1; shape.rank()]);
    if before.iter().chain(&after).all(|&p| p == 0) {
        return inner;
    }
    let value = value.to_dtype(x.dtype());
    x.builder().op("pad", &[inner], &[before.as_slice().into(), after.as_slice().into(), value.into()])
}
