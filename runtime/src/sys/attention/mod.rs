//! Kernels of attention on packed blocks: products of small matrices, rows of exponentials, masks. Blocks are
//! slices that their caller owns; every kernel checks their extents once and then works without checks.
//!
//! Each kernel is compiled once per ISA level. Products of all levels with FMA give the same bits, since every
//! element of a result is one chain of fused multiply-adds in the order of the depth, and so do the others: sums
//! of a row go by 16 lanes at every level.

mod rows;
mod simd;

pub use rows::LANES;

use simd::Simd;
use torsh_ir::{Error, Result};

/// `c[i, j] (+)= sum_p a[i, p] * b[p, j]`. Row `p` of a panel of [`PANEL`] columns of `b` begins at
/// `panel * b_panel + p * b_row`.
pub struct Product<'a> {
    /// Rows of the result, a multiple of [`ROWS`].
    pub rows: usize,
    /// Columns, a multiple of [`LANES`].
    pub cols: usize,
    /// Length of the sums.
    pub depth: usize,
    /// Left operand with its strides.
    pub a: &'a [f32],
    /// Distance of groups of [`ROWS`] rows.
    pub a_group: usize,
    /// Stride from row to row within a group: 1 or [`SCORES`].
    pub a_row: usize,
    /// Stride along the sum.
    pub a_col: usize,
    /// Right operand.
    pub b: &'a [f32],
    /// Stride along the sum.
    pub b_row: usize,
    /// Distance of panels.
    pub b_panel: usize,
    /// Result.
    pub c: &'a mut [f32],
    /// Stride from row to row.
    pub c_row: usize,
    /// Adds to the result.
    pub add: bool,
    /// What each row is multiplied by before it is added to; none: 1.
    pub factors: Option<&'a [f32]>,
}

/// Columns of a panel.
pub const PANEL: usize = 2 * LANES;
/// Rows of a tile.
pub const ROWS: usize = 8;
/// Length of a row of a block of scores.
pub const SCORES: usize = 128;

impl Product<'_> {
    /// Whether all that will be addressed is in the slices.
    fn fits(&self) -> bool {
        let end = |parts: &[(usize, usize)], last: usize| {
            let sum = parts.iter().try_fold(0usize, |at, &(n, stride)| at.checked_add((n - 1).checked_mul(stride)?));
            sum.and_then(|at| at.checked_add(last))
        };
        let panels = self.cols.div_ceil(PANEL);
        let last = if self.cols.is_multiple_of(PANEL) { PANEL } else { LANES };
        self.rows.is_multiple_of(ROWS)
            && self.cols.is_multiple_of(LANES)
            && self.depth > 0
            && matches!(self.a_row, 1 | SCORES)
            && end(&[(self.rows / ROWS, self.a_group), (ROWS, self.a_row), (self.depth, self.a_col)], 1)
                .is_some_and(|n| n <= self.a.len())
            && end(&[(panels, self.b_panel), (self.depth, self.b_row)], last).is_some_and(|n| n <= self.b.len())
            && (panels == 1
                || end(&[(panels - 1, self.b_panel), (self.depth, self.b_row)], PANEL)
                    .is_some_and(|n| n <= self.b.len()))
            && end(&[(self.rows, self.c_row)], self.cols).is_some_and(|n| n <= self.c.len())
            && self.factors.is_none_or(|f| f.len() >= self.rows)
    }
}

/// Runs a product.
///
/// # Safety
/// `p.fits()`, no extent is 0, and the CPU has the features of `S`.
#[inline(always)]
unsafe fn product<S: Simd, const R: usize, const C: usize>(p: &mut Product) {
    // SAFETY: same contract; the stride of rows is one of the two by `fits`.
    unsafe {
        if p.a_row == 1 {
            product_by::<S, R, C, 1>(p);
        } else {
            product_by::<S, R, C, SCORES>(p);
        }
    }
}

/// A product whose left rows lie `A` apart: a constant, so that a tile addresses them without arithmetic.
///
/// # Safety
/// As [`product`], and `p.a_row` is `A`.
#[inline(always)]
unsafe fn product_by<S: Simd, const R: usize, const C: usize, const A: usize>(p: &mut Product) {
    let (a, b, c) = (p.a.as_ptr(), p.b.as_ptr(), p.c.as_mut_ptr());
    for panel in 0..p.cols.div_ceil(PANEL) {
        let first = panel * PANEL;
        let mut col = first;
        while col < p.cols.min(first + PANEL) {
            let wide = col + C * LANES <= p.cols;
            for row in (0..p.rows).step_by(R) {
                let at = Tile {
                    depth: p.depth,
                    // SAFETY: `fits` bounds the last element of each operand; `row < rows`, `col < cols`.
                    a: unsafe { a.add(row / ROWS * p.a_group + row % ROWS * A) },
                    a_col: p.a_col,
                    // SAFETY: as above.
                    b: unsafe { b.add(panel * p.b_panel + (col - first)) },
                    b_row: p.b_row,
                    // SAFETY: as above.
                    c: unsafe { c.add(row * p.c_row + col) },
                    c_row: p.c_row,
                    add: p.add,
                    factors: p.factors.map(|f| f[row..].as_ptr()),
                };
                // SAFETY: a tile of R rows (R divides ROWS) and C or 1 vectors inside the matrices.
                unsafe {
                    if wide {
                        tile::<S, R, C, A>(&at);
                    } else {
                        tile::<S, R, 1, A>(&at);
                    }
                }
            }
            col += if wide { C * LANES } else { LANES };
        }
    }
}

struct Tile {
    depth: usize,
    a: *const f32,
    a_col: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    add: bool,
    factors: Option<*const f32>,
}

/// R rows of C vectors, all sums in registers.
///
/// # Safety
/// The tile lies in its matrices, `c` belongs to the caller alone.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const C: usize, const A: usize>(t: &Tile) {
    // SAFETY: rows below R, vectors below C and steps below `depth` are inside by the contract.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        if t.add {
            let mut c = t.c;
            for (r, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(c.add(i * LANES));
                    if let Some(factors) = t.factors {
                        *sum = S::mul(*sum, S::splat(*factors.add(r)));
                    }
                }
                c = c.wrapping_add(t.c_row);
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            let mut right = [S::splat(0.0); C];
            for (i, v) in right.iter_mut().enumerate() {
                *v = S::load(b.add(i * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = S::splat(*a.add(r * A));
                for (sum, &v) in sums.iter_mut().zip(&right) {
                    *sum = S::fma(left, v, *sum);
                }
            }
            // Beyond the last step nothing is read.
            a = a.wrapping_add(t.a_col);
            b = b.wrapping_add(t.b_row);
        }
        let mut c = t.c;
        for sums in &sums {
            for (i, &sum) in sums.iter().enumerate() {
                S::store(c.add(i * LANES), sum);
            }
            c = c.wrapping_add(t.c_row);
        }
    }
}

macro_rules! kernels {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {
        /// The kernels of one ISA level.
        #[derive(Copy, Clone)]
        pub struct Kernels {
            product: unsafe fn(&mut Product),
            $($name: unsafe fn($($ty),*),)*
        }
        kernels!(@level portable, PORTABLE, simd::Portable, 4, 1, false, [], $($name($($arg: $ty),*);)*);
        #[cfg(target_arch = "aarch64")]
        kernels!(@level neon, NEON, simd::Neon, 4, 1, true, [#[target_feature(enable = "neon")]],
            $($name($($arg: $ty),*);)*);
        #[cfg(target_arch = "x86_64")]
        kernels!(@level avx2, AVX2, simd::Avx2, 4, 1, true, [#[target_feature(enable = "avx2,fma")]],
            $($name($($arg: $ty),*);)*);
        #[cfg(target_arch = "x86_64")]
        kernels!(@level avx512, AVX512, simd::Avx512, 8, 2, true,
            [#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]], $($name($($arg: $ty),*);)*);
        impl Kernels {
            $(
                #[doc = concat!("See [`rows::", stringify!($name), "`].")]
                pub fn $name(&self, $($arg: $ty),*) {
                    // SAFETY: the body is safe, and `of` gave out a level that this CPU has.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }
    };
    (@product [$(#[$feature:meta])?] $simd:ty, $r:literal, $c:literal) => {
        $(#[$feature])?
        pub(super) unsafe fn product(p: &mut Product) {
            // SAFETY: same contract.
            unsafe { super::product::<$simd, $r, $c>(p) }
        }
    };
    (@row [$(#[$feature:meta])?] $fma:literal, $name:ident($($arg:ident: $ty:ty),*)) => {
        $(#[$feature])?
        pub(super) unsafe fn $name($($arg: $ty),*) {
            rows::$name::<$fma>($($arg),*);
        }
    };
    (@level $module:ident, $static:ident, $simd:ty, $r:literal, $c:literal, $fma:literal, $features:tt,
        $($name:ident($($arg:ident: $ty:ty),*);)*) => {
        mod $module {
            use super::*;
            kernels!(@product $features $simd, $r, $c);
            $(kernels!(@row $features $fma, $name($($arg: $ty),*));)*
        }
        static $static: Kernels = Kernels { product: $module::product, $($name: $module::$name,)* };
    };
}

kernels! {
    maxima(s: &[f32], row: usize, cols: usize, top: &mut [f32], old: &mut [f32]);
    exps(x: &mut [f32]);
    scaled(to: &mut [f32], from: &[f32], factor: f32);
    weights(s: &mut [f32], row: usize, cols: usize, top: &[f32], scale: &[f32], sums: &mut [f32]);
    weights_of(s: &mut [f32], row: usize, cols: usize, lse: &[f32]);
    grads(p: &[f32], dp: &mut [f32], row: usize, cols: usize, delta: &[f32]);
    deltas(out: &[f32], cols: usize, ct: &[f32], row: usize, delta: &mut [f32]);
    hide(s: &mut [f32], mask: &[u8]);
    add(s: &mut [f32], mask: &[f32]);
    drop_words(s: &mut [f32], seed: u64, counter: u64, limit: f32, factor: f32);
}

/// Writes four rows times `factor` as columns `at..at + 4` of rows `width` apart: `to[d * width + at + r]`. Rows that
/// are shorter than the others leave what was there.
pub fn transpose(rows: [&[f32]; 4], factor: f32, to: &mut [f32], at: usize, width: usize) {
    let n = rows.iter().map(|r| r.len()).min().unwrap_or(0);
    #[cfg(not(target_arch = "x86_64"))]
    let d = 0;
    #[cfg(target_arch = "x86_64")]
    let d = {
        use std::arch::x86_64::*;
        let mut d = 0;
        let whole = n / 4 * 4;
        let end = whole.saturating_sub(1).checked_mul(width).and_then(|i| i.checked_add(at.checked_add(4)?));
        if whole > 0 && end.is_some_and(|end| end <= to.len()) {
            let mut next = to.as_mut_ptr().wrapping_add(at);
            while d < whole {
                // SAFETY: SSE is part of x86-64; `d + 4 <= whole <= n` bounds the loads, `end` the last store.
                unsafe {
                    let load = |r: usize| _mm_mul_ps(_mm_loadu_ps(rows[r].as_ptr().add(d)), _mm_set1_ps(factor));
                    let (mut a, mut b, mut c, mut e) = (load(0), load(1), load(2), load(3));
                    _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut e);
                    for v in [a, b, c, e] {
                        _mm_storeu_ps(next, v);
                        next = next.wrapping_add(width);
                    }
                }
                d += 4;
            }
        }
        d
    };
    if d == n {
        return;
    }
    for (r, row) in rows.iter().enumerate() {
        for (to, &x) in to.iter_mut().skip(at + r).step_by(width.max(1)).zip(*row).skip(d) {
            *to = x * factor;
        }
    }
}

impl Kernels {
    /// The kernels of a level of [`super::prims::LEVELS`]; the portable ones where this CPU lacks it.
    pub fn of(level: &str) -> &'static Kernels {
        match level {
            #[cfg(target_arch = "aarch64")]
            "neon" => &NEON,
            #[cfg(target_arch = "x86_64")]
            "avx2" if super::prims::supported(level) => &AVX2,
            #[cfg(target_arch = "x86_64")]
            "avx512" if super::prims::supported(level) => &AVX512,
            _ => &PORTABLE,
        }
    }

    /// Runs a product; an error when an operand is too short.
    pub fn product(&self, mut p: Product) -> Result<()> {
        if p.rows == 0 || p.cols == 0 {
            return Ok(());
        }
        if !p.fits() {
            return Err(Error::internal("a block of an attention is too small"));
        }
        // SAFETY: checked on the spot; `of` gave out a level that this CPU has.
        unsafe { (self.product)(&mut p) }
        Ok(())
    }
}
