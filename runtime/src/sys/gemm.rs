//! Matrix products of strided operands, by the `gemm` crate for f32 and f64 and by plain loops for
//! integers. All extents are checked before a pointer is formed; tiles of the result are computed in parallel.

use super::par::{Par, Shared};
use super::slices::{Bool, Plain};
use gemm::Parallelism;
use torsh_ir::{Error, Result};

/// A strided operand: element `[b, i, j]` is at `offset + b . batch + i * row + j * col`.
pub struct Operand<'a, T> {
    /// Its memory.
    pub data: &'a [T],
    /// Index of the first element.
    pub offset: i64,
    /// One stride per batch axis.
    pub batch: &'a [i64],
    /// Stride of rows.
    pub row: i64,
    /// Stride of columns.
    pub col: i64,
}

impl<T> Operand<'_, T> {
    /// Whether every element of a `rows` x `cols` matrix for each of `batch` lies in `data`. No extent is 0.
    fn fits(&self, batch: &[usize], rows: usize, cols: usize) -> bool {
        let (mut lo, mut hi) = (i128::from(self.offset), i128::from(self.offset));
        let axes = batch.iter().copied().zip(self.batch.iter().copied());
        for (n, stride) in axes.chain([(rows, self.row), (cols, self.col)]) {
            let reach = (n as i128 - 1) * i128::from(stride);
            lo += reach.min(0);
            hi += reach.max(0);
        }
        self.batch.len() == batch.len() && lo >= 0 && hi < self.data.len() as i128
    }

    /// Index of the first element of batch `b`.
    fn at(&self, batch: &[usize], mut b: usize) -> i64 {
        let mut at = self.offset;
        for (&n, &stride) in batch.iter().zip(self.batch).rev() {
            at += (b % n) as i64 * stride;
            b /= n;
        }
        at
    }
}

/// Extents of a product.
pub struct Extents<'a> {
    /// Batch axes.
    pub batch: &'a [usize],
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
}

/// A tile: `out[m, n] = sum_k lhs[m, k] * rhs[k, n]` over pointers to the first elements.
pub struct Tile<T> {
    m: usize,
    n: usize,
    k: usize,
    out: *mut T,
    out_row: isize,
    lhs: *const T,
    lhs_row: isize,
    lhs_col: isize,
    rhs: *const T,
    rhs_row: isize,
    rhs_col: isize,
}

/// Elements that can be multiplied.
pub trait Element: Plain {
    /// Zero.
    const ZERO: Self;
    /// Computes a tile.
    ///
    /// # Safety
    /// Every element of the three matrices is in bounds, those of `out` belong to the caller alone and lie
    /// `out_row` apart with unit column stride, and `k > 0`.
    unsafe fn tile(t: &Tile<Self>);
}

macro_rules! by_crate {
    ($($t:ident)*) => { $(impl Element for $t {
        const ZERO: $t = 0.0;
        unsafe fn tile(t: &Tile<$t>) {
            // SAFETY: pointers and strides are in bounds by the contract; the result is not read.
            unsafe {
                gemm::gemm(
                    t.m, t.n, t.k,
                    t.out, 1, t.out_row, false,
                    t.lhs, t.lhs_col, t.lhs_row,
                    t.rhs, t.rhs_col, t.rhs_row,
                    0.0, 1.0, false, false, false,
                    Parallelism::None,
                );
            }
        }
    })* };
}
by_crate!(f32 f64);

macro_rules! by_loops {
    ($($t:ident $zero:expr, |$acc:ident, $a:ident, $b:ident| $step:expr;)*) => { $(impl Element for $t {
        const ZERO: $t = $zero;
        unsafe fn tile(t: &Tile<$t>) {
            /// Columns whose sums stay in the first-level cache.
            const BLOCK: usize = 1024;
            let mut panel = [$zero; BLOCK];
            for j0 in (0..t.n).step_by(BLOCK) {
                let width = BLOCK.min(t.n - j0);
                for i in 0..t.m {
                    // SAFETY: `i < m`, `j0 + width <= n`.
                    let out = unsafe {
                        std::slice::from_raw_parts_mut(t.out.offset(i as isize * t.out_row).add(j0), width)
                    };
                    out.fill($zero);
                    for l in 0..t.k {
                        // SAFETY: `i < m`, `l < k`.
                        let $a = unsafe { *t.lhs.offset(i as isize * t.lhs_row + l as isize * t.lhs_col) };
                        // SAFETY: `l < k`, `j0 < n`.
                        let first = unsafe { t.rhs.offset(l as isize * t.rhs_row + j0 as isize * t.rhs_col) };
                        let row = if t.rhs_col == 1 {
                            // SAFETY: `j0 + width <= n` elements side by side.
                            unsafe { std::slice::from_raw_parts(first, width) }
                        } else {
                            for (j, p) in panel[..width].iter_mut().enumerate() {
                                // SAFETY: `j0 + j < n`.
                                *p = unsafe { *first.offset(j as isize * t.rhs_col) };
                            }
                            &panel[..width]
                        };
                        for (o, &$b) in out.iter_mut().zip(row) {
                            let $acc = *o;
                            *o = $step;
                        }
                    }
                }
            }
        }
    })* };
}
by_loops! {
    u8 0, |s, a, b| s.wrapping_add(a.wrapping_mul(b));
    i8 0, |s, a, b| s.wrapping_add(a.wrapping_mul(b));
    i16 0, |s, a, b| s.wrapping_add(a.wrapping_mul(b));
    i32 0, |s, a, b| s.wrapping_add(a.wrapping_mul(b));
    i64 0, |s, a, b| s.wrapping_add(a.wrapping_mul(b));
    Bool Bool(0), |s, a, b| Bool(s.0 | (a.0 & b.0));
}

/// `out[b, m, n] = sum_k lhs[b, m, k] * rhs[b, k, n]`; `out` is contiguous. Sums of length 0 are 0.
pub fn product<T: Element>(e: &Extents, lhs: &Operand<T>, rhs: &Operand<T>, out: &mut [T], par: &Par) -> Result<()> {
    let batches: usize = e.batch.iter().product();
    let matrix =
        e.m.checked_mul(e.n).and_then(|mn| mn.checked_mul(batches).filter(|&all| all == out.len()).map(|_| mn));
    let Some(matrix) = matrix else {
        return Err(Error::internal(format!("a product of {batches} x {} x {} into {} elements", e.m, e.n, out.len())));
    };
    if out.is_empty() || e.k == 0 {
        out.fill(T::ZERO);
        return Ok(());
    }
    if !lhs.fits(e.batch, e.m, e.k) || !rhs.fits(e.batch, e.k, e.n) {
        return Err(Error::internal("an operand of a matrix product reaches beyond its buffer"));
    }
    let tiling = Tiling::new(batches, e, par.threads);
    let base = Shared(out.as_mut_ptr());
    let base = &base;
    let offset = |p: *const T, at: i64| p.wrapping_offset(at as isize);
    par.for_each(tiling.parts(), &|part| {
        for (b, rows, cols) in tiling.tiles(part) {
            let (l, r) = (lhs.at(e.batch, b), rhs.at(e.batch, b));
            let (m0, n0) = (rows.start as i64, cols.start as i64);
            let tile = Tile {
                m: rows.len(),
                n: cols.len(),
                k: e.k,
                out: base.0.wrapping_add(b * matrix + rows.start * e.n + cols.start),
                out_row: e.n as isize,
                lhs: offset(lhs.data.as_ptr(), l + m0 * lhs.row),
                lhs_row: lhs.row as isize,
                lhs_col: lhs.col as isize,
                rhs: offset(rhs.data.as_ptr(), r + n0 * rhs.col),
                rhs_row: rhs.row as isize,
                rhs_col: rhs.col as isize,
            };
            // SAFETY: `fits` has bounded every index of both operands, `out` holds `batches * m * n`
            // elements, `for_each` runs each part once, and the tiles of all parts are disjoint (`Tiling`).
            unsafe { T::tile(&tile) }
        }
    });
    Ok(())
}

/// How a product is cut: whole matrices if there are enough of them, else rows or columns of each.
struct Tiling {
    batches: usize,
    m: usize,
    n: usize,
    /// Matrices per part, if whole.
    group: usize,
    row_step: usize,
    col_step: usize,
}

impl Tiling {
    /// Work below this many multiplications is not worth a thread.
    const GRAIN: usize = 250_000;

    fn new(batches: usize, e: &Extents, threads: usize) -> Tiling {
        let one = e.m.saturating_mul(e.n).saturating_mul(e.k);
        let wanted = threads.min(one.saturating_mul(batches) / Tiling::GRAIN).max(1);
        let mut t = Tiling { batches, m: e.m, n: e.n, group: 1, row_step: e.m, col_step: e.n };
        if wanted <= 1 {
            t.group = batches;
        } else if batches >= wanted {
            // Twice as many parts as threads, to even out what other processes take.
            t.group = batches.div_ceil(wanted * 2).max(1);
        } else {
            let cuts = wanted.div_ceil(batches);
            // A cut along the longer side; 16 rows or 64 columns fill the registers of the product.
            if e.m >= 16 * cuts && e.m >= e.n / 4 {
                t.row_step = e.m.div_ceil(cuts).next_multiple_of(16);
            } else {
                t.col_step = e.n.div_ceil(cuts).next_multiple_of(64);
            }
        }
        t
    }

    fn grid(&self) -> (usize, usize) {
        (self.m.div_ceil(self.row_step), self.n.div_ceil(self.col_step))
    }

    fn parts(&self) -> usize {
        let (r, c) = self.grid();
        self.batches.div_ceil(self.group) * r * c
    }

    /// The tiles of a part: batch, rows, columns.
    fn tiles(&self, part: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let (r, c) = self.grid();
        let (group, row, col) = (part / (r * c), part / c % r, part % c);
        let rows = row * self.row_step..((row + 1) * self.row_step).min(self.m);
        let cols = col * self.col_step..((col + 1) * self.col_step).min(self.n);
        let first = group * self.group;
        (first..(first + self.group).min(self.batches)).map(move |b| (b, rows.clone(), cols.clone()))
    }
}
