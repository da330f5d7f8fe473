//! Strided operands whose rows and columns may each be several digits: the index of a row is a number written
//! in mixed radix, and each digit has a stride. So a convolution is a product without a copy of its patches.

use smallvec::SmallVec;
use torsh_ir::{Error, Result};

/// One side of an operand: `(extent, stride)` of each digit in row-major order. Index `i` has the offset
/// `sum digit_j(i) * stride_j`.
pub type Digits<'a> = &'a [(usize, i64)];

/// A strided operand: element `[b, i, j]` is at `offset + b . batch + rows(i) + cols(j)`.
#[derive(Copy, Clone)]
pub struct Operand<'a, T> {
    /// Its memory.
    pub data: &'a [T],
    /// Index of the first element.
    pub offset: i64,
    /// One stride per batch axis.
    pub batch: &'a [i64],
    /// Rows: M of the left operand, K of the right one.
    pub rows: Digits<'a>,
    /// Columns: K of the left operand, N of the right one.
    pub cols: Digits<'a>,
}

impl<T> Operand<'_, T> {
    /// Checks that rows and columns are as many as stated and that every element of every matrix lies in
    /// `data`. No extent is 0.
    pub(super) fn check(&self, batch: &[usize], rows: usize, cols: usize) -> Result<()> {
        let count = |d: Digits<'_>| d.iter().try_fold(1usize, |n, &(e, _)| n.checked_mul(e));
        if self.batch.len() != batch.len() || count(self.rows) != Some(rows) || count(self.cols) != Some(cols) {
            return Err(Error::internal("an operand of a matrix product of another shape than its digits"));
        }
        let (mut lo, mut hi) = (i128::from(self.offset), i128::from(self.offset));
        let axes = batch.iter().copied().zip(self.batch.iter().copied());
        for (n, stride) in axes.chain(self.rows.iter().copied()).chain(self.cols.iter().copied()) {
            // Below 2^64 * 2^63, and there are fewer than 2^60 digits larger than 1 in a checked product.
            let reach = (n as i128 - 1) * i128::from(stride);
            lo = lo.saturating_add(reach.min(0));
            hi = hi.saturating_add(reach.max(0));
        }
        if lo < 0 || hi >= self.data.len() as i128 {
            return Err(Error::internal("an operand of a matrix product reaches beyond its buffer"));
        }
        Ok(())
    }

    /// Checks an operand whose rows are made when they are wanted: row `i` of matrix `b` lies within elements
    /// `(b * rows + i) * cols .. (b * rows + i + 1) * cols`, whatever there is of `data`. No extent is 0.
    pub(super) fn check_rows(&self, batch: &[usize], rows: usize, cols: usize) -> Result<()> {
        let count = |d: Digits<'_>| d.iter().try_fold(1usize, |n, &(e, _)| n.checked_mul(e));
        if self.batch.len() != batch.len()
            || count(self.rows) != Some(rows)
            || !by_rows((self.offset, batch, self.batch), self.rows, self.cols)
        {
            return Err(Error::internal("an operand of a matrix product whose rows are not apart"));
        }
        if count(self.cols) == Some(cols) {
            return Ok(());
        }
        Err(Error::internal("an operand of a matrix product of another shape than its digits"))
    }

    /// Offset of matrix `b`.
    pub(super) fn at(&self, batch: &[usize], mut b: usize) -> i64 {
        let mut at = self.offset;
        for (&n, &stride) in batch.iter().zip(self.batch).rev() {
            at += (b % n) as i64 * stride;
            b /= n;
        }
        at
    }
}

/// Whether row `i` of matrix `b` of an operand, all of them counted through, has its elements in a part of the
/// memory of its own, as many as there are columns, in the order of the rows. The operand is given by its offset, its
/// batch axes and their strides, its rows and its columns.
pub fn by_rows((offset, batch, strides): (i64, &[usize], &[i64]), rows: Digits<'_>, cols: Digits<'_>) -> bool {
    let axes = batch.iter().copied().zip(strides.iter().copied());
    let axes: SmallVec<[(usize, i64); 6]> = axes.chain(rows.iter().copied()).collect();
    let mut step = cols.iter().fold(1i128, |n, &(e, _)| n.saturating_mul(e as i128));
    let share = step;
    for &(extent, stride) in axes.iter().rev() {
        if extent > 1 && i128::from(stride) != step {
            return false;
        }
        step = step.saturating_mul(extent as i128);
    }
    let (mut lo, mut hi) = (i128::from(offset), i128::from(offset));
    for &(extent, stride) in cols {
        let reach = (extent as i128 - 1).saturating_mul(i128::from(stride));
        lo = lo.saturating_add(reach.min(0));
        hi = hi.saturating_add(reach.max(0));
    }
    lo >= 0 && hi < share
}

/// Digits without those of extent 1 and with those merged that go on in one stride; never empty.
pub(super) struct Side(SmallVec<[(usize, isize); 4]>);

impl Side {
    pub fn new(digits: Digits<'_>) -> Side {
        let mut merged: SmallVec<[(usize, isize); 4]> = SmallVec::new();
        for (extent, stride) in digits.iter().filter(|d| d.0 != 1).map(|&(n, s)| (n, s as isize)) {
            match merged.last_mut() {
                Some(last) if stride.checked_mul(extent as isize) == Some(last.1) => {
                    *last = (last.0.saturating_mul(extent), stride);
                }
                _ => merged.push((extent, stride)),
            }
        }
        if merged.is_empty() {
            merged.push((1, 1));
        }
        Side(merged)
    }

    /// The stride, if there is one digit only.
    pub fn stride(&self) -> Option<isize> {
        if self.0.len() == 1 { Some(self.0[0].1) } else { None }
    }

    /// Offsets of the indices from `first` on, all of which exist.
    pub fn offsets(&self, first: usize, to: &mut [isize]) {
        if let Some(stride) = self.stride() {
            let mut at = first as isize * stride;
            for t in to {
                *t = at;
                at = at.wrapping_add(stride);
            }
            return;
        }
        let last = self.0.len() - 1;
        let (inner, step) = self.0[last];
        let mut done = 0;
        while done < to.len() {
            let i = first + done;
            let mut left = i / inner;
            let mut at = (i % inner) as isize * step;
            for &(n, stride) in self.0[..last].iter().rev() {
                at += (left % n) as isize * stride;
                left /= n;
            }
            // To the end of the innermost digit in one stride.
            let run = (inner - i % inner).min(to.len() - done);
            for t in &mut to[done..done + run] {
                *t = at;
                at = at.wrapping_add(step);
            }
            done += run;
        }
    }
}
