//! Layouts: affine maps of a row-major position, the algebra in which views fold.
//!
//! A layout sends the positions `0..n` of one contiguous index space to positions of another. It splits a
//! position into mixed-radix digits, outermost first, and is affine in the digits. Reshape is the identity;
//! permute, expand, slice and flip are layouts; a chain of views is a composition. Layouts are kept
//! canonical (no digit of extent 1, no two digits that could be one), so equal maps compare equal.
//!
//! A kernel iterates over [`Axes`]: a factorisation of one such space, each axis marked as reduced or not.
//! [`Axes::refine`] splits axes until every layout of the kernel is affine in them.

use smallvec::SmallVec;
use torsh_ir::shape::{Ints, Shape};

/// One digit: extent and stride.
pub type Factor = (usize, i64);
/// Digits, outermost first.
pub type Factors = SmallVec<[Factor; 4]>;

/// `offset + sum(digit[i] * stride[i])`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Layout {
    /// Position of the first element.
    pub offset: i64,
    /// Digits, outermost first; their extents multiply to the size of the source space.
    pub factors: Factors,
}

impl Layout {
    /// A canonical layout from arbitrary digits.
    pub fn new(offset: i64, digits: impl IntoIterator<Item = Factor>) -> Layout {
        let mut factors = Factors::new();
        for (extent, stride) in digits {
            if extent == 1 {
                continue;
            }
            match factors.last_mut() {
                Some(last) if last.1 == stride * extent as i64 => *last = (last.0 * extent, stride),
                _ => factors.push((extent, stride)),
            }
        }
        Layout { offset, factors }
    }

    /// The identity on `0..n`.
    pub fn identity(n: usize) -> Layout {
        Layout::new(0, [(n, 1)])
    }

    /// Everything to position 0.
    pub fn zero(n: usize) -> Layout {
        Layout::new(0, [(n, 0)])
    }

    /// Row-major over `shape` with one stride per dim.
    pub fn strided(offset: i64, shape: &[usize], strides: &[i64]) -> Layout {
        Layout::new(offset, shape.iter().copied().zip(strides.iter().copied()))
    }

    /// True for the identity on `0..n`.
    pub fn is_identity(&self, n: usize) -> bool {
        *self == Layout::identity(n)
    }

    /// Size of the source space.
    pub fn len(&self) -> usize {
        self.factors.iter().map(|f| f.0).product()
    }

    /// Number of distinct positions that are reached, at most.
    pub fn reach(&self) -> usize {
        self.factors.iter().filter(|f| f.1 != 0).map(|f| f.0).product()
    }

    /// `outer` after `self`: a position goes through `self`, then through `outer`. `None` when the result is
    /// not affine in any digits found by splitting those of `self`.
    pub fn then(&self, outer: &Layout) -> Option<Layout> {
        if outer.offset == 0 && outer.factors.len() <= 1 && outer.factors.first().is_none_or(|f| f.1 == 1) {
            return Some(self.clone());
        }
        if self.offset == 0 && self.factors.len() == 1 && self.factors[0] == (outer.len(), 1) {
            return Some(outer.clone());
        }
        Composer::new(outer).compose(self)
    }

    /// Strides along the axes, in the axes' order; `None` when some axis crosses a digit.
    fn along(&self, extents: impl DoubleEndedIterator<Item = usize> + ExactSizeIterator) -> Option<Ints> {
        let mut strides = Ints::from_elem(0, extents.len());
        let mut digits = self.factors.iter().rev();
        let (mut left, mut stride) = (1, 0);
        for (i, extent) in extents.enumerate().rev() {
            if extent == 1 {
                continue;
            }
            if left == 1 {
                (left, stride) = *digits.next()?;
            }
            if left % extent != 0 {
                return None;
            }
            strides[i] = stride;
            stride *= extent as i64;
            left /= extent;
        }
        (left == 1 && digits.next().is_none()).then_some(strides)
    }
}

/// Composition: digits of the outer layout with their weights.
struct Composer<'a> {
    outer: &'a Layout,
    weights: SmallVec<[i64; 4]>,
    /// Largest digit value used so far.
    used: SmallVec<[i64; 4]>,
}

impl<'a> Composer<'a> {
    fn new(outer: &'a Layout) -> Composer<'a> {
        let mut weights = SmallVec::from_elem(1, outer.factors.len());
        for i in (1..outer.factors.len()).rev() {
            weights[i - 1] = weights[i] * outer.factors[i].0 as i64;
        }
        let used = SmallVec::from_elem(0, outer.factors.len());
        Composer { outer, weights, used }
    }

    fn compose(mut self, inner: &Layout) -> Option<Layout> {
        // Count downward digits from their other end, so that every contribution is positive.
        let base = inner.factors.iter().fold(inner.offset, |b, f| b + f.1.min(0) * (f.0 as i64 - 1));
        let mut offset = self.outer.offset;
        let mut rest = base;
        for (i, &(_, stride)) in self.outer.factors.iter().enumerate() {
            let digit = rest / self.weights[i];
            rest %= self.weights[i];
            self.used[i] = digit;
            offset += digit * stride;
        }
        let mut digits = Factors::new();
        for &(extent, stride) in &inner.factors {
            let at = digits.len();
            self.split(extent, stride.abs(), &mut digits)?;
            if stride < 0 {
                for d in &mut digits[at..] {
                    offset += d.1 * (d.0 as i64 - 1);
                    d.1 = -d.1;
                }
            }
        }
        let fits = self.used.iter().zip(&self.outer.factors).all(|(&u, f)| u < f.0 as i64);
        fits.then(|| Layout::new(offset, digits))
    }

    /// Splits a digit of the inner layout so that each part stays within one digit of the outer layout.
    fn split(&mut self, extent: usize, stride: i64, out: &mut Factors) -> Option<()> {
        if stride == 0 {
            out.push((extent, 0));
            return Some(());
        }
        let i = self.weights.iter().position(|&w| w <= stride)?;
        if stride % self.weights[i] != 0 {
            return None;
        }
        let step = stride / self.weights[i];
        let (size, outer_stride) = self.outer.factors[i];
        let top = self.used[i] + step * (extent as i64 - 1);
        let (mut low, size) = (extent, size as i64);
        if top >= size && i > 0 {
            // The digit overflows: it must do so evenly.
            if size % step != 0 {
                return None;
            }
            low = (size / step) as usize;
            if low == 0 || !extent.is_multiple_of(low) {
                return None;
            }
            self.split(extent / low, self.weights[i - 1], out)?;
        }
        self.used[i] += step * (low as i64 - 1);
        out.push((low, outer_stride * step));
        Some(())
    }
}

/// One axis of an iteration space.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// Extent.
    pub extent: usize,
    /// True for a reduced axis.
    pub inner: bool,
}

/// An iteration space in row-major order, every axis longer than 1.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Axes(pub SmallVec<[Axis; 6]>);

impl Axes {
    /// Axes from extents and marks; neighbours alike are joined.
    pub fn new(axes: impl IntoIterator<Item = (usize, bool)>) -> Axes {
        let mut out: SmallVec<[Axis; 6]> = SmallVec::new();
        for (extent, inner) in axes {
            if extent == 1 {
                continue;
            }
            match out.last_mut() {
                Some(last) if last.inner == inner => last.extent *= extent,
                _ => out.push(Axis { extent, inner }),
            }
        }
        Axes(out)
    }

    /// Points of the whole space.
    pub fn points(&self) -> usize {
        self.0.iter().map(|a| a.extent).product()
    }

    /// Points of the space without the reduced axes.
    pub fn rows(&self) -> usize {
        self.0.iter().filter(|a| !a.inner).map(|a| a.extent).product()
    }

    /// True when some axis is reduced.
    pub fn reduces(&self) -> bool {
        self.0.iter().any(|a| a.inner)
    }

    /// True for reductions whose innermost axis is not reduced.
    pub fn is_column(&self) -> bool {
        self.reduces() && self.0.last().is_some_and(|a| !a.inner)
    }

    /// Splits axes so that a layout over the whole space (or over the rows) is affine in them. False, and
    /// nothing changed, when extents do not divide each other.
    pub fn refine(&mut self, layout: &Layout, rows: bool) -> bool {
        let mut out: SmallVec<[Axis; 6]> = SmallVec::new();
        let mut digits = layout.factors.iter().rev().map(|f| f.0);
        let mut left = 1;
        for axis in self.0.iter().rev() {
            if rows && axis.inner {
                out.push(*axis);
                continue;
            }
            let mut extent = axis.extent;
            while extent > 1 {
                if left == 1 {
                    match digits.next() {
                        Some(d) => left = d,
                        None => return false,
                    }
                }
                let part = extent.min(left);
                if extent % part != 0 || left % part != 0 {
                    return false;
                }
                out.push(Axis { extent: part, inner: axis.inner });
                extent /= part;
                left /= part;
            }
        }
        if left != 1 || digits.next().is_some() {
            return false;
        }
        out.reverse();
        self.0 = out;
        true
    }

    /// Splits axes as those of another space are split. Marks must agree, unless `other` has none.
    pub fn unify(&mut self, other: &Axes) -> bool {
        let marked = other.reduces() && self.reduces();
        let mut out: SmallVec<[Axis; 6]> = SmallVec::new();
        let (mut a, mut b) = (self.0.iter().rev(), other.0.iter().rev());
        let (mut x, mut y): (Option<Axis>, Option<Axis>) = (a.next().copied(), b.next().copied());
        while let (Some(p), Some(q)) = (x.as_mut(), y.as_mut()) {
            let part = p.extent.min(q.extent);
            if p.extent % part != 0 || q.extent % part != 0 || (marked && p.inner != q.inner) {
                return false;
            }
            out.push(Axis { extent: part, inner: p.inner || q.inner });
            p.extent /= part;
            q.extent /= part;
            if p.extent == 1 {
                x = a.next().copied();
            }
            if y.is_some_and(|q| q.extent == 1) {
                y = b.next().copied();
            }
        }
        if x.is_some() || y.is_some() {
            return false;
        }
        out.reverse();
        self.0 = out;
        true
    }

    /// Splits the axes that are not reduced as those of `rows` (a space without marks) are split.
    pub fn unify_rows(&mut self, rows: &Axes) -> bool {
        let layout = Layout { offset: 0, factors: rows.0.iter().map(|a| (a.extent, 0)).collect() };
        self.refine(&layout, true)
    }

    /// The layout that sends each point to its row.
    pub fn to_row(&self) -> Layout {
        let mut stride = self.rows() as i64;
        let digits: Factors = self
            .0
            .iter()
            .map(|a| {
                if a.inner {
                    return (a.extent, 0);
                }
                stride /= a.extent as i64;
                (a.extent, stride)
            })
            .collect();
        Layout::new(0, digits)
    }

    /// Strides of a layout along every axis (0 along reduced ones when it is a layout over the rows).
    pub fn strides(&self, layout: &Layout, rows: bool) -> Option<Ints> {
        if !rows {
            return layout.along(self.0.iter().map(|a| a.extent));
        }
        let extents: SmallVec<[usize; 6]> = self.0.iter().filter(|a| !a.inner).map(|a| a.extent).collect();
        let mut row = layout.along(extents.iter().copied())?.into_iter();
        Some(self.0.iter().map(|a| if a.inner { 0 } else { row.next().unwrap_or(0) }).collect())
    }

    /// For a layout over the whole space that is constant along each row: the layout over the rows.
    pub fn row_part(&self, layout: &Layout) -> Option<Layout> {
        let mut axes = self.clone();
        if !axes.refine(layout, false) {
            return None;
        }
        let strides = axes.strides(layout, false)?;
        let pairs = || axes.0.iter().zip(&strides);
        if pairs().any(|(a, &s)| a.inner && s != 0) {
            return None;
        }
        Some(Layout::new(layout.offset, pairs().filter(|(a, _)| !a.inner).map(|(a, &s)| (a.extent, s))))
    }
}

/// The layout of a permutation: from positions of the result to positions of `shape`.
pub fn permute(shape: &Shape, dims: &[i64]) -> Layout {
    let strides = shape.strides();
    Layout::new(0, dims.iter().map(|&d| (shape[d as usize], strides[d as usize])))
}

/// The layout of an expansion from `from` to `to` (same rank).
pub fn expand(from: &Shape, to: &Shape) -> Layout {
    let strides = from.strides();
    Layout::new(0, (0..to.rank()).map(|d| (to[d], if from[d] == 1 { 0 } else { strides[d] })))
}

/// The layout of a slice with result shape `part`: from positions of the part to positions of `shape`.
pub fn slice(shape: &Shape, part: &Shape, starts: &[i64], steps: &[i64]) -> Layout {
    let strides = shape.strides();
    let offset = starts.iter().zip(&strides).map(|(a, s)| a * s).sum();
    // A step may be longer than the dim where only one element is taken.
    let stride = |d: usize| if part[d] == 1 { 0 } else { strides[d] * steps[d] };
    Layout::new(offset, (0..part.rank()).map(|d| (part[d], stride(d))))
}

/// The layout of a flip.
pub fn flip(shape: &Shape, dims: &[i64]) -> Layout {
    let strides = shape.strides();
    let flipped = |d: usize| dims.contains(&(d as i64));
    let offset = (0..shape.rank()).filter(|&d| flipped(d)).map(|d| (shape[d] as i64 - 1) * strides[d]).sum();
    Layout::new(offset, (0..shape.rank()).map(|d| (shape[d], if flipped(d) { -strides[d] } else { strides[d] })))
}

/// The layout of overlapping windows with result shape `to`: a digit for the windows of each dim, and one for
/// the position in them.
pub fn windows(from: &Shape, to: &Shape, dims: &[i64], steps: &[i64], dilations: &[i64]) -> Layout {
    let strides = from.strides();
    let mut digits: Factors = (0..from.rank()).map(|d| (to[d], strides[d])).collect();
    for ((&d, &step), &dilation) in dims.iter().zip(steps).zip(dilations) {
        let stride = strides[d as usize];
        // A step or dilation may be longer than the dim where only one element is taken.
        let of = |extent: usize, by: i64| (extent, if extent == 1 { 0 } else { stride * by });
        digits[d as usize] = of(to[d as usize], step);
        digits.push(of(to[digits.len()], dilation));
    }
    Layout::new(0, digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(l: &Layout, mut i: usize) -> i64 {
        let mut at = l.offset;
        for &(e, s) in l.factors.iter().rev() {
            at += (i % e) as i64 * s;
            i /= e;
        }
        at
    }

    fn check(inner: &Layout, outer: &Layout) -> bool {
        match inner.then(outer) {
            None => false,
            Some(l) => {
                for i in 0..inner.len() {
                    assert_eq!(apply(&l, i), apply(outer, apply(inner, i) as usize), "{inner:?} then {outer:?} at {i}");
                }
                true
            }
        }
    }

    #[test]
    fn views_of_views_fold() {
        let s = Shape::of(&[4, 6, 5]);
        let layouts = [
            Layout::identity(120),
            permute(&s, &[2, 0, 1]),
            permute(&Shape::of(&[10, 12]), &[1, 0]),
            flip(&s, &[1]),
            flip(&s, &[0, 2]),
            flip(&Shape::of(&[120]), &[0]),
            permute(&Shape::of(&[2, 2, 30]), &[1, 0, 2]),
        ];
        // Windows of 3 x 2 on the last two dims fold into every one whose digits those dims do not cross.
        let view = windows(&s, &Shape::of(&[4, 2, 4, 3, 2]), &[1, 2], &[2, 1], &[1, 1]);
        assert!(check(&view, &permute(&s, &[0, 1, 2])) && check(&view, &permute(&Shape::of(&[6, 5, 4]), &[2, 0, 1])));
        assert!(check(&view, &flip(&s, &[1])));
        let mut folded = 0;
        for a in &layouts {
            for b in &layouts {
                folded += usize::from(check(a, b));
            }
        }
        assert!(folded >= 30, "only {folded} of 49 fold");
    }

    #[test]
    fn slices_and_expansions_fold() {
        let s = Shape::of(&[4, 6]);
        let part = slice(&s, &Shape::of(&[2, 3]), &[1, 0], &[2, 2]);
        assert!(check(&part, &permute(&Shape::of(&[6, 4]), &[1, 0])));
        assert!(check(
            &expand(&Shape::of(&[2, 1]), &Shape::of(&[2, 7])),
            &slice(&s, &Shape::of(&[2, 1]), &[1, 3], &[1, 1])
        ));
        assert!(check(&flip(&Shape::of(&[2, 3]), &[1]), &part));
        // Rows 1..3 of a [3, 4] view of a transposed [4, 3]: digits cross.
        let t = permute(&Shape::of(&[4, 3]), &[1, 0]);
        assert!(!check(&slice(&Shape::of(&[2, 6]), &Shape::of(&[2, 5]), &[0, 0], &[1, 1]), &t));
    }

    #[test]
    fn axes_refine_to_common_digits() {
        let mut axes = Axes::new([(4, false), (6, true)]);
        assert!(axes.refine(&permute(&Shape::of(&[2, 2, 6]), &[1, 0, 2]), false));
        assert_eq!(axes.0.len(), 3);
        assert!(!axes.refine(&permute(&Shape::of(&[4, 6]), &[1, 0]), false));
        assert_eq!(axes.to_row(), Layout::new(0, [(4, 1), (6, 0)]));
        assert_eq!(axes.row_part(&Layout::new(3, [(4, 5), (6, 0)])), Some(Layout::new(3, [(4, 5)])));
        assert_eq!(axes.row_part(&Layout::identity(24)), None);
    }
}
