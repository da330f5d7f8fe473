//! The inner loops, generic over the vectors of [`super::lanes`] and compiled once for each instruction set:
//! the microkernel, which keeps a tile of the result in registers, packing, and the rounding to 16 bits.
#![allow(clippy::needless_range_loop, reason = "indices of loops over registers, which are unrolled")]

use super::lanes::{Array, Lanes, MAX_LANES, Number, Reads, Widen};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::plan::KC;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::sys::slices::Bool;
use half::{bf16, f16};

/// A tile of the result: `rows x cols` sums over `k` products (rows and vectors are those of the microkernel).
pub struct Tile<A> {
    /// Length of the sums.
    pub k: usize,
    /// `k` columns of the left operand, each its rows side by side.
    pub a: *const A,
    /// `k` rows of the right operand.
    pub b: *const A,
    /// From one of them to the next.
    pub b_row: usize,
    /// The first element of the result.
    pub c: *mut A,
    /// From one of its rows to the next.
    pub c_row: usize,
    /// Numbers, at any address, that are asked for meanwhile: `soon_step` at each step of the sums.
    pub soon: *const A,
    /// See `soon`.
    pub soon_step: usize,
    /// How many columns are stored.
    pub cols: usize,
    /// Whether the sums are stored; else they are added to what is there.
    pub first: bool,
}

/// A microkernel for a number of rows and of vectors to each row.
///
/// # Safety
/// `a` holds `k * rows` numbers, each of the `k` rows of `b` holds as many as `vectors` vectors, and `rows`
/// rows of `cols` numbers at `c` belong to the caller alone. The instruction set exists.
pub type Micro<A> = unsafe fn(&Tile<A>);

/// Lines of an operand to be packed side by side: rows of the left one, columns of the right one.
pub struct Lines<'a, T, A> {
    /// The operand's first element.
    pub src: *const T,
    /// Offset of each line from there.
    pub lines: &'a [isize],
    /// Offsets along the lines.
    pub depth: Depth<'a>,
    /// Length of the lines.
    pub k: usize,
    /// Where they go: panels of `panel` lines (the last one may be narrower), `panel_step` numbers apart, in
    /// each of which element `p` of line `i` is at `p * width of the panel + i`.
    pub dst: *mut A,
    /// Lines of a panel.
    pub panel: usize,
    /// From one panel to the next.
    pub panel_step: usize,
    /// Width of the last panel: its lines, then zeros.
    pub last: usize,
    /// From a line to the one that is packed in its place after a group of lines, where it is always the same:
    /// what is asked for meanwhile, at any address.
    pub next: isize,
}

/// Offsets along a line.
#[derive(Copy, Clone)]
pub enum Depth<'a> {
    /// Multiples of a stride.
    Stride(isize),
    /// Any.
    Table(&'a [isize]),
}

impl Depth<'_> {
    #[inline(always)]
    fn at(&self, p: usize) -> isize {
        match self {
            Depth::Stride(s) => p as isize * s,
            Depth::Table(t) => t[p],
        }
    }

    /// The end of the run of unit stride that begins at `p`, at most `k`.
    #[inline(always)]
    fn run(&self, p: usize, k: usize) -> usize {
        match self {
            Depth::Stride(1) => k,
            Depth::Stride(_) => p + 1,
            Depth::Table(t) => {
                let mut end = p + 1;
                while end < k && t[end] == t[end - 1] + 1 {
                    end += 1;
                }
                end
            }
        }
    }
}

/// Packs lines.
///
/// # Safety
/// Element `p` of line `i` is readable at `src + lines[i] + depth(p)` for all `p < k`. The `k * panel` numbers
/// at each whole panel of `dst` and the `k * last` at the last one belong to the caller alone; there is a line,
/// and `last` is at least the number of lines of the last panel. The instruction set exists.
pub type Pack<T, A> = unsafe fn(&Lines<'_, T, A>);

/// Rounds `n` sums to the stored type.
///
/// # Safety
/// `n` numbers are readable and `n` elements writable, which do not overlap. The instruction set exists.
pub type Round<T, A> = unsafe fn(*const A, *mut T, usize);

/// A row of numbers times a matrix that is read where it is.
pub struct Row<'a, T, A> {
    /// The numbers, `k` of them.
    pub x: *const A,
    /// Length of the sums.
    pub k: usize,
    /// The first element of the matrix.
    pub b: *const T,
    /// Offset of each column from there, as many as a vector has lanes at most, for [`Kernels::down`].
    pub lines: &'a [isize],
    /// From a column to the one that takes its place in the next call, which is asked for meanwhile; any address
    /// will do.
    pub next: isize,
    /// From one row to the next, for [`Kernels::along`], whose columns lie side by side.
    pub b_row: isize,
    /// Columns.
    pub cols: usize,
    /// The sums.
    pub sums: *mut A,
}

/// Computes the sums of a row: along the rows of a matrix, all columns of some rows at a time, or down its columns.
///
/// # Safety
/// `x` holds `k` numbers; element `p` of column `j < cols` is readable, at `b + p * b_row + j` and at
/// `b + lines[j] + p` respectively; the `cols` sums belong to the caller alone. The instruction set exists.
pub type RowTimes<T, A> = unsafe fn(&Row<'_, T, A>);

/// Rows of the matrix that are added to the sums at a time.
const TOGETHER: usize = 8;

/// A row times a matrix whose rows lie side by side: the matrix is read as one stream, or as few, and the sums stay in
/// the first-level cache. The sums are one piece (see [`super::plan`]).
#[inline(always)]
unsafe fn along<L: Reads<T>, T: Widen<L::E>>(r: &Row<'_, T, L::E>) {
    let whole = r.k / TOGETHER * TOGETHER;
    // SAFETY: same contract, for some of the rows.
    unsafe {
        for p in (0..whole).step_by(TOGETHER) {
            some_rows::<L, T, TOGETHER>(r, p);
        }
        for p in whole..r.k {
            some_rows::<L, T, 1>(r, p);
        }
    }
}

/// Rows `p .. p + R` of [`along`].
#[inline(always)]
unsafe fn some_rows<L: Reads<T>, T: Widen<L::E>, const R: usize>(r: &Row<'_, T, L::E>, p: usize) {
    // SAFETY: `p + R <= k`, and each access is to an element of these rows or to a sum (`RowTimes`).
    unsafe {
        let mut x = [L::zero(); R];
        for i in 0..R {
            x[i] = L::splat(r.x.add(p + i));
        }
        let b = r.b.wrapping_offset(p as isize * r.b_row);
        let whole = r.cols / L::W * L::W;
        for j in (0..whole).step_by(L::W) {
            let to = r.sums.add(j);
            let mut sum = if p == 0 { L::zero() } else { L::load(to) };
            for i in 0..R {
                sum = L::mac(x[i], L::read(b.wrapping_offset(i as isize * r.b_row).add(j)), sum);
            }
            L::store(to, sum);
        }
        let rest = r.cols - whole;
        if rest > 0 {
            let to = r.sums.add(whole);
            let mut sum = if p == 0 { L::zero() } else { L::load_n(to, rest) };
            for i in 0..R {
                sum = L::mac(x[i], L::read_n(b.wrapping_offset(i as isize * r.b_row).add(whole), rest), sum);
            }
            L::store_n(to, sum, rest);
        }
    }
}

/// A row times at most `W` columns, each of which lies side by side: squares of it are transposed in registers. The
/// sums are cut into pieces here.
#[inline(always)]
unsafe fn down<L: Reads<T>, T: Widen<L::E>>(r: &Row<'_, T, L::E>) {
    // SAFETY: each access is to an element of these columns, to a number or to a sum (`RowTimes`).
    unsafe {
        let mut all = L::zero();
        for piece in (0..r.k).step_by(KC) {
            let end = r.k.min(piece + KC);
            let mut sum = L::zero();
            for p in (piece..end).step_by(L::W) {
                let len = L::W.min(end - p);
                let mut m = [L::zero(); MAX_LANES];
                for i in 0..L::W {
                    if i < r.lines.len() {
                        let from = r.b.wrapping_offset(r.lines[i]).wrapping_add(p);
                        L::prefetch_later(from.wrapping_offset(r.next));
                        m[i] = if len == L::W { L::read(from) } else { L::read_n(from, len) };
                    }
                }
                L::transpose(&mut m);
                if len == L::W {
                    for i in 0..L::W {
                        sum = L::mac(L::splat(r.x.add(p + i)), m[i], sum);
                    }
                } else {
                    for i in 0..L::W {
                        if i < len {
                            sum = L::mac(L::splat(r.x.add(p + i)), m[i], sum);
                        }
                    }
                }
            }
            all = if piece == 0 { sum } else { L::add(all, sum) };
        }
        L::store_n(r.sums, all, r.lines.len());
    }
}

/// The microkernel. `R * V` vectors of sums stay in registers; each step of the sums loads `V` vectors and
/// broadcasts `R` numbers.
#[inline(always)]
unsafe fn micro<L: Lanes, const R: usize, const V: usize>(t: &Tile<L::E>) {
    // SAFETY: `Micro` states what is readable and writable.
    unsafe {
        let mut acc = [[L::zero(); V]; R];
        let mut c = t.c;
        for _ in 0..R {
            for v in 0..V {
                L::prefetch(c.wrapping_add(v * L::W));
            }
            c = c.wrapping_add(t.c_row);
        }
        let (mut a, mut b) = (t.a, t.b);
        let ahead = t.b_row.wrapping_mul(AHEAD);
        let mut soon = t.soon;
        for _ in 0..t.k {
            let mut row = [L::zero(); V];
            for v in 0..V {
                row[v] = L::load(b.add(v * L::W));
                // Wide rows are read where they are, each from another page.
                if V > 2 {
                    L::prefetch(b.wrapping_add(ahead).wrapping_add(v * L::W));
                }
            }
            for i in 0..R {
                let x = L::splat(a.add(i));
                for v in 0..V {
                    acc[i][v] = L::mac(x, row[v], acc[i][v]);
                }
            }
            if V <= 2 {
                L::prefetch_later(soon);
                soon = soon.wrapping_add(t.soon_step);
            }
            a = a.add(R);
            b = b.wrapping_add(t.b_row);
        }
        if t.cols == V * L::W {
            keep::<L, R, V>(t, &acc);
        } else {
            keep_some::<L, R, V>(t, &acc);
        }
    }
}

/// Stores a tile of whole vectors.
#[inline(always)]
unsafe fn keep<L: Lanes, const R: usize, const V: usize>(t: &Tile<L::E>, acc: &[[L::V; V]; R]) {
    let mut c = t.c;
    // SAFETY: `R` rows of `V` vectors at `c` are the caller's (`Micro`).
    unsafe {
        if t.first {
            for i in 0..R {
                for v in 0..V {
                    L::store(c.wrapping_add(v * L::W), acc[i][v]);
                }
                c = c.wrapping_add(t.c_row);
            }
        } else {
            for i in 0..R {
                for v in 0..V {
                    let at = c.wrapping_add(v * L::W);
                    L::store(at, L::add(L::load(at), acc[i][v]));
                }
                c = c.wrapping_add(t.c_row);
            }
        }
    }
}

/// Stores the columns that a tile has.
#[inline(always)]
unsafe fn keep_some<L: Lanes, const R: usize, const V: usize>(t: &Tile<L::E>, acc: &[[L::V; V]; R]) {
    let mut c = t.c;
    for i in 0..R {
        for v in 0..V {
            let n = t.cols.saturating_sub(v * L::W).min(L::W);
            let at = c.wrapping_add(v * L::W);
            // SAFETY: `R` rows of `cols` numbers at `c` are the caller's (`Micro`); `n` of them are in vector `v`.
            unsafe {
                let sum = if t.first { acc[i][v] } else { L::add(L::load_n(at, n), acc[i][v]) };
                L::store_n(at, sum, n);
            }
        }
        c = c.wrapping_add(t.c_row);
    }
}

/// Rows of the right operand that are asked for ahead of their use.
const AHEAD: usize = 12;

/// Rows of several panels that are asked for ahead of their packing.
const ROWS_AHEAD: usize = 4;

/// Packs lines: whole rows where they lie side by side, else groups of `W`.
#[inline(always)]
unsafe fn pack<L: Reads<T>, T: Widen<L::E>>(x: &Lines<'_, T, L::E>) {
    let panels = x.lines.len().div_ceil(x.panel);
    let mut whole = 0;
    // Rows of several panels are copied along the memory, so that the cache sees what comes next.
    if panels > 1 && x.panel.is_multiple_of(L::W) && is_run(x.lines) {
        whole = x.lines.len() / x.panel;
        for p in 0..x.k {
            let later = x.src.wrapping_offset(x.lines[0] + x.depth.at((p + ROWS_AHEAD).min(x.k - 1)));
            for i in (0..whole * x.panel).step_by(64 / size_of::<T>()) {
                L::prefetch_later(later.wrapping_add(i));
            }
            // SAFETY: the first `whole * panel` lines lie side by side from the first one on; `Pack`.
            unsafe {
                let mut from = x.src.offset(x.lines[0] + x.depth.at(p));
                let mut to = x.dst.add(p * x.panel);
                for _ in 0..whole {
                    for v in (0..x.panel).step_by(L::W) {
                        L::store(to.add(v), L::read(from));
                        from = from.add(L::W);
                    }
                    to = to.wrapping_add(x.panel_step);
                }
            }
        }
    }
    for panel in whole..panels {
        let lines = &x.lines[panel * x.panel..x.lines.len().min((panel + 1) * x.panel)];
        let width = if panel + 1 == panels { x.last } else { x.panel };
        let dst = x.dst.wrapping_add(panel * x.panel_step);
        for first in (0..width).step_by(L::W) {
            let some = lines.get(first..).unwrap_or(&[]);
            let some = &some[..some.len().min(L::W)];
            // SAFETY: a group of the lines of this panel, whose columns begin at `first`; `Pack`.
            unsafe { group::<L, T>(x, some, dst.add(first), width, L::W.min(width - first)) }
        }
    }
}

/// Whether lines lie side by side.
#[inline(always)]
fn is_run(lines: &[isize]) -> bool {
    lines.windows(2).all(|w| w[1] == w[0] + 1)
}

/// One group of at most `W` lines to `width <= W` columns at `dst`, whose rows lie `dst_row` apart.
#[inline(always)]
unsafe fn group<L: Reads<T>, T: Widen<L::E>>(
    x: &Lines<'_, T, L::E>,
    lines: &[isize],
    dst: *mut L::E,
    dst_row: usize,
    width: usize,
) {
    let n = lines.len();
    // The first line of the second run, if lines lie side by side in at most two runs.
    let mut cut = n;
    let mut runs = 1;
    for i in 1..n {
        if lines[i] != lines[i - 1] + 1 {
            cut = i;
            runs += 1;
        }
    }
    // SAFETY: `Pack` states that every element of every line is readable and that `width` columns of the `k`
    // rows at `dst` may be written; each access below is one of those.
    unsafe {
        if n == 0 {
            for p in 0..x.k {
                L::store_n(dst.add(p * dst_row), L::zero(), width);
            }
        } else if runs == 1 {
            let src = x.src.offset(lines[0]);
            if n == L::W {
                for p in 0..x.k {
                    L::store(dst.add(p * dst_row), L::read(src.offset(x.depth.at(p))));
                }
            } else {
                for p in 0..x.k {
                    L::store_n(dst.add(p * dst_row), L::read_n(src.offset(x.depth.at(p)), n), width);
                }
            }
        } else if runs == 2 && !matches!(x.depth, Depth::Stride(1)) {
            let (one, two) = (x.src.offset(lines[0]), x.src.offset(lines[cut]));
            for p in 0..x.k {
                let (to, at) = (dst.add(p * dst_row), x.depth.at(p));
                L::store_n(to, L::read_n(one.offset(at), cut), cut);
                L::store_n(to.add(cut), L::read_n(two.offset(at), n - cut), width - cut);
            }
        } else {
            let mut p = 0;
            while p < x.k {
                let end = x.depth.run(p, x.k);
                let at = x.depth.at(p);
                if end - p >= 4 {
                    let len = L::W.min(end - p);
                    for &line in lines {
                        L::prefetch_later(x.src.wrapping_offset(line + at + x.next));
                    }
                    square::<L, T>(x.src.offset(at), lines, len, dst.add(p * dst_row), dst_row, width);
                    p += len;
                } else {
                    let to = dst.add(p * dst_row);
                    for (i, &line) in lines.iter().enumerate() {
                        *to.add(i) = (*x.src.offset(line + at)).widen();
                    }
                    for i in n..width {
                        *to.add(i) = L::E::ZERO;
                    }
                    p += 1;
                }
            }
        }
    }
}

/// Transposes `len <= W` elements side by side of each line.
#[inline(always)]
unsafe fn square<L: Reads<T>, T: Widen<L::E>>(
    src: *const T,
    lines: &[isize],
    len: usize,
    dst: *mut L::E,
    dst_row: usize,
    width: usize,
) {
    // SAFETY: `len` elements of each line are readable and `width` columns of `len` rows writable (`Pack`).
    unsafe {
        let mut m = [L::zero(); MAX_LANES];
        for i in 0..L::W {
            if i < lines.len() {
                let from = src.offset(lines[i]);
                m[i] = if len == L::W { L::read(from) } else { L::read_n(from, len) };
            }
        }
        L::transpose(&mut m);
        for j in 0..L::W {
            if j < len {
                L::store_n(dst.add(j * dst_row), m[j], width);
            }
        }
    }
}

/// The kernels of an element type at a level.
pub struct Kernels<T, A> {
    /// Most rows of a tile.
    pub rows: usize,
    /// Lanes of a vector.
    pub lanes: usize,
    /// Vectors in a row of a packed panel of the right operand.
    pub vectors: usize,
    /// The microkernel for `(rows, vectors)`.
    pub micro: fn(usize, usize) -> Option<Micro<A>>,
    /// The most vectors in a row for so few rows that the right operand is not worth packing.
    pub wide: fn(usize) -> usize,
    /// Packing.
    pub pack: Pack<T, A>,
    /// A row times a matrix along its rows.
    pub along: RowTimes<T, A>,
    /// A row times a matrix down its columns.
    pub down: RowTimes<T, A>,
    /// Rounding, if `T` is not `A`.
    pub round: Option<Round<T, A>>,
}

impl<T, A> Clone for Kernels<T, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, A> Copy for Kernels<T, A> {}

/// Compiles the kernels of some vectors for an instruction set, up to `$r` rows and two vectors, and
/// wider for few rows; for one or two rows there is every number of vectors up to the widest.
macro_rules! kernels {
    ($module:ident [$(#[$feature:meta])?] $lanes:ty, $a:ty, rows [$($r:literal)*],
     wide [$($wr:literal x $wv:literal),*], more [$($mr:literal x $mv:literal),*]) => {
        mod $module {
            use super::*;
            $(#[$feature])?
            unsafe fn tile<const R: usize, const V: usize>(t: &Tile<$a>) {
                // SAFETY: same contract; the features of this function are those of the vectors.
                unsafe { micro::<$lanes, R, V>(t) }
            }
            $(#[$feature])?
            unsafe fn lines<T: Widen<$a>>(x: &Lines<'_, T, $a>)
            where
                $lanes: Reads<T>,
            {
                // SAFETY: same contract; the features of this function are those of the vectors.
                unsafe { pack::<$lanes, T>(x) }
            }
            $(#[$feature])?
            unsafe fn rows<T: Widen<$a>>(x: &Row<'_, T, $a>)
            where
                $lanes: Reads<T>,
            {
                // SAFETY: same contract; the features of this function are those of the vectors.
                unsafe { along::<$lanes, T>(x) }
            }
            $(#[$feature])?
            unsafe fn columns<T: Widen<$a>>(x: &Row<'_, T, $a>)
            where
                $lanes: Reads<T>,
            {
                // SAFETY: same contract; the features of this function are those of the vectors.
                unsafe { down::<$lanes, T>(x) }
            }
            fn chosen(rows: usize, vectors: usize) -> Option<Micro<$a>> {
                match (rows, vectors) {
                    $(($r, 1) => Some(tile::<$r, 1>),)*
                    $(($r, 2) => Some(tile::<$r, 2>),)*
                    $(($wr, $wv) => Some(tile::<$wr, $wv>),)*
                    $(($mr, $mv) => Some(tile::<$mr, $mv>),)*
                    _ => None,
                }
            }
            fn wide(rows: usize) -> usize {
                match rows {
                    $($wr => $wv,)*
                    _ => 2,
                }
            }
            pub fn of<T: Widen<$a>>(round: Option<Round<T, $a>>) -> Kernels<T, $a>
            where
                $lanes: Reads<T>,
            {
                Kernels {
                    rows: [$($r),*].len(),
                    lanes: <$lanes>::W,
                    vectors: 2,
                    micro: chosen,
                    wide,
                    pack: lines::<T>,
                    along: rows::<T>,
                    down: columns::<T>,
                    round,
                }
            }
        }
    };
}

kernels!(portable_f32 [] Array<f32, 4>, f32, rows [1 2 3 4 5 6], wide [], more []);
kernels!(portable_f64 [] Array<f64, 2>, f64, rows [1 2 3 4 5 6], wide [], more []);
kernels!(loops_u8 [] Array<u8, 16>, u8, rows [1 2 3 4], wide [], more []);
kernels!(loops_i8 [] Array<i8, 16>, i8, rows [1 2 3 4], wide [], more []);
kernels!(loops_i16 [] Array<i16, 8>, i16, rows [1 2 3 4], wide [], more []);
kernels!(loops_i32 [] Array<i32, 4>, i32, rows [1 2 3 4], wide [], more []);
kernels!(loops_i64 [] Array<i64, 2>, i64, rows [1 2 3 4], wide [], more []);
kernels!(loops_bool [] Array<Bool, 16>, Bool, rows [1 2 3 4], wide [], more []);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_f32 [#[target_feature(enable = "avx2,fma,f16c")]] x86::F32x8, f32, rows [1 2 3 4 5 6],
    wide [1 x 8, 2 x 4, 3 x 4], more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_f64 [#[target_feature(enable = "avx2,fma,f16c")]] x86::F64x4, f64, rows [1 2 3 4 5 6],
    wide [1 x 8, 2 x 4, 3 x 4], more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f32 [#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]] x86::F32x16, f32,
    rows [1 2 3 4 5 6 7 8 9 10 11 12], wide [1 x 8, 2 x 8, 3 x 4, 4 x 4, 5 x 4, 6 x 4],
    more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3, 2 x 4, 2 x 5, 2 x 6, 2 x 7]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f64 [#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]] x86::F64x8, f64,
    rows [1 2 3 4 5 6 7 8 9 10 11 12], wide [1 x 8, 2 x 8, 3 x 4, 4 x 4, 5 x 4, 6 x 4],
    more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3, 2 x 4, 2 x 5, 2 x 6, 2 x 7]);
#[cfg(target_arch = "aarch64")]
kernels!(neon_f32 [#[target_feature(enable = "neon")]] neon::F32x4, f32,
    rows [1 2 3 4 5 6 7 8 9 10 11 12], wide [1 x 8, 2 x 8, 3 x 4, 4 x 4, 5 x 4, 6 x 4],
    more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3, 2 x 4, 2 x 5, 2 x 6, 2 x 7]);
#[cfg(target_arch = "aarch64")]
kernels!(neon_f64 [#[target_feature(enable = "neon")]] neon::F64x2, f64,
    rows [1 2 3 4 5 6 7 8 9 10 11 12], wide [1 x 8, 2 x 8, 3 x 4, 4 x 4, 5 x 4, 6 x 4],
    more [1 x 3, 1 x 4, 1 x 5, 1 x 6, 1 x 7, 2 x 3, 2 x 4, 2 x 5, 2 x 6, 2 x 7]);

/// An instruction set that this CPU has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The level of that name (see [`crate::sys::prims::LEVELS`]); the portable one where the CPU lacks it.
    pub fn of(name: &str) -> Level {
        #[cfg(target_arch = "x86_64")]
        if crate::sys::prims::supported(name) && is_x86_feature_detected!("f16c") {
            match name {
                "avx2" => return Level(Set::Avx2),
                "avx512" => return Level(Set::Avx512),
                _ => {}
            }
        }
        #[cfg(target_arch = "aarch64")]
        if name == "neon" {
            return Level(Set::Neon);
        }
        let _ = name;
        Level(Set::Portable)
    }
}

/// Elements that can be multiplied.
pub trait Element: Widen<Self::Acc> {
    /// What their sums are kept in.
    type Acc: Number;
    /// A sum of nothing.
    const NOTHING: Self;
    /// The loops of a level.
    fn kernels(level: Level) -> Kernels<Self, Self::Acc>;
}

macro_rules! floats {
    ($($t:ident: $a:ident $zero:expr, $portable:ident $neon:ident $avx2:ident $avx512:ident, $round:expr;)*) => { $(impl Element for $t {
        type Acc = $a;
        const NOTHING: $t = $zero;
        fn kernels(level: Level) -> Kernels<$t, $a> {
            let round: fn(Set) -> Option<Round<$t, $a>> = $round;
            let round = round(level.0);
            match level.0 {
                Set::Portable => $portable::of(round),
                #[cfg(target_arch = "aarch64")]
                Set::Neon => $neon::of(round),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => $avx2::of(round),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => $avx512::of(round),
            }
        }
    })* };
}
floats! {
    f32: f32 0.0, portable_f32 neon_f32 avx2_f32 avx512_f32, |_| None;
    f64: f64 0.0, portable_f64 neon_f64 avx2_f64 avx512_f64, |_| None;
    f16: f32 f16::ZERO, portable_f32 neon_f32 avx2_f32 avx512_f32, |set| Some(match set {
        Set::Portable => round_f16,
        #[cfg(target_arch = "aarch64")]
        Set::Neon => round_f16,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => x86::round_f16_avx2,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => x86::round_f16_avx512,
    });
    bf16: f32 bf16::ZERO, portable_f32 neon_f32 avx2_f32 avx512_f32, |set| Some(match set {
        Set::Portable => round_bf16,
        #[cfg(target_arch = "aarch64")]
        Set::Neon => round_bf16,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => x86::round_bf16_avx2,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => x86::round_bf16_avx512,
    });
}

macro_rules! others {
    ($($t:ident $module:ident;)*) => { $(impl Element for $t {
        type Acc = $t;
        const NOTHING: $t = <$t as Number>::ZERO;
        fn kernels(_: Level) -> Kernels<$t, $t> {
            $module::of(None)
        }
    })* };
}
others! {
    u8 loops_u8;
    i8 loops_i8;
    i16 loops_i16;
    i32 loops_i32;
    i64 loops_i64;
    Bool loops_bool;
}

unsafe fn round_f16(src: *const f32, dst: *mut f16, n: usize) {
    for i in 0..n {
        // SAFETY: `i < n` (`Round`).
        unsafe { *dst.add(i) = f16::from_f32(*src.add(i)) }
    }
}

/// To the nearest, ties to even; a NaN stays one.
#[inline(always)]
pub(super) unsafe fn round_bf16(src: *const f32, dst: *mut bf16, n: usize) {
    for i in 0..n {
        // SAFETY: `i < n` (`Round`).
        let x = unsafe { *src.add(i) };
        let bits = x.to_bits();
        let even = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let bits = if x.is_nan() { (bits >> 16) | 0x40 } else { even };
        // SAFETY: as above.
        unsafe { *dst.add(i) = bf16::from_bits(bits as u16) }
    }
}
