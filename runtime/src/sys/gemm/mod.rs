//! Matrix products of strided operands, in loops of our own: packed panels under a microkernel for each
//! instruction set, with a hook that goes on with finished rows while they are in the cache. All extents are
//! checked before a pointer is formed.
//!
//! * [`operand`]: what operands look like.
//! * [`plan`]: how a product is cut for threads and caches.
//! * [`lanes`], `x86`, `neon`: vectors of the instruction sets.
//! * [`kernels`]: the inner loops.
//! * [`drive`]: the loops around them.

mod drive;
mod kernels;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operand;
mod plan;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernels::{Element, Level};
pub use lanes::{Number, Widen};
pub use operand::{Digits, Operand, by_rows};
pub use plan::FRONT_BYTES;

use super::call::Span;
use super::par::{Par, Shared};
use super::slices::{elements, elements_mut};
use drive::{Job, Packing, Sides};
use kernels::Kernels;
use operand::Side;
use plan::{CLAIM, KC, Plan, Right, Shape};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use torsh_ir::{Error, Result};

/// Extents of a product. No batch axes is one matrix.
#[derive(Copy, Clone, Debug)]
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

/// Called as `(worker, batch, rows)` by the thread that has completed these rows of matrix `batch` over all
/// columns, while they are in its cache; exactly once for every row of a result that has columns. Workers
/// that run at the same time have different numbers, below the threads of the product.
pub type Rows<'a> = dyn Fn(usize, usize, Range<usize>) + Sync + 'a;

/// Called as `(worker, batch, rows, memory)` before these rows of matrix `batch` of the left operand are read, exactly
/// once for every row: puts them at `memory`, one after another, each as many elements as the sums are long.
pub type Front<'a> = dyn Fn(usize, usize, Range<usize>, Span) + Sync + 'a;

/// What the caller does while a product is computed.
#[derive(Copy, Clone, Default)]
pub struct Hooks<'a> {
    /// Makes the left operand, whose own memory is not read then. Its rows are apart (see [`by_rows`]), and the result
    /// has several columns.
    pub front: Option<&'a Front<'a>>,
    /// Goes on with the result.
    pub rows: Option<&'a Rows<'a>>,
}

/// What a product works with.
pub struct Means<'a> {
    /// The instruction set.
    pub level: Level,
    /// As many bytes as [`scratch_bytes`] says.
    pub scratch: &'a mut [u8],
    /// Threads.
    pub par: &'a Par<'a>,
    /// The right operand as [`prepack`] has left it.
    pub packed: Option<&'a [u8]>,
    /// Whether to read a large right operand from its end on, where that makes no difference: who multiplies by one
    /// again and again, to and fro, finds a part of it in the cache.
    pub back: bool,
}

/// Bytes of scratch memory for a product of such extents on so many threads, whatever the strides, with or without
/// a [`Front`]; `usize::MAX` if there cannot be so much.
pub fn scratch_bytes<T: Element>(e: &Extents<'_>, level: Level, threads: usize, front: bool) -> usize {
    if e.batch.contains(&0) || e.m == 0 || e.n == 0 || e.k == 0 {
        return 0;
    }
    if !is_finite(e) {
        return usize::MAX;
    }
    let (e, _) = seen(e);
    let s = shape(&T::kernels(level), e.m);
    Right::ALL.map(|right| Plan::new(&e, s, right, threads, front).bytes()).into_iter().fold(0, usize::max)
}

/// Bytes of the packed form of a right operand of `k` rows and `n` columns; `usize::MAX` if there cannot be so many.
pub fn prepacked_bytes<T: Element>(k: usize, n: usize, level: Level) -> usize {
    let cols = n.checked_next_multiple_of(T::kernels(level).lanes).unwrap_or(usize::MAX);
    cols.saturating_mul(k).saturating_mul(size_of::<T::Acc>())
}

/// Packs a right operand of `k` rows and `n` columns, neither of them 0, for any number of products. `to` has as many
/// bytes as [`prepacked_bytes`] says.
pub fn prepack<T: Element>(
    rhs: &Operand<'_, T>,
    (k, n): (usize, usize),
    level: Level,
    to: &mut [u8],
    par: &Par<'_>,
) -> Result<()> {
    rhs.check(&[], k, n)?;
    if k == 0 || n == 0 || to.len() != prepacked_bytes::<T>(k, n, level) {
        return Err(Error::internal("memory of another size than a packed operand"));
    }
    let kernels = T::kernels(level);
    let (rows, cols) = (Side::new(rhs.rows), Side::new(rhs.cols));
    let panel = kernels.lanes * kernels.vectors;
    let to = Shared(elements_mut::<T::Acc>(to)?.as_mut_ptr());
    let start = Shared(rhs.data.as_ptr().wrapping_offset(rhs.at(&[], 0) as isize).cast_mut());
    let (to, start, rows, cols, kernels) = (&to, &start, &rows, &cols, &kernels);
    let claim = CLAIM * panel;
    par.for_each(n.div_ceil(claim), &|part| {
        let packing = Packing { kernels, src: start.0.cast_const(), rows, cols, panel };
        let cols = part * claim..n.min((part + 1) * claim);
        let dst = to.0.wrapping_add(cols.start * k);
        for k0 in (0..k).step_by(KC) {
            // SAFETY: `check` has bounded every element; `to` has room for all panels, and each part has its own.
            unsafe { packing.panels(&cols, (k0, KC.min(k - k0)), dst, panel * k, k0) }
        }
    });
    Ok(())
}

/// `out[b, m, n] = sum_k lhs[b, m, k] * rhs[b, k, n]`; `out` is contiguous. Sums of length 0 are 0. 16-bit
/// floats are summed in f32 and rounded once. The bits of the result depend neither on the threads nor on the
/// other rows and columns.
pub fn product<'a, T: Element>(
    e: &Extents<'a>,
    lhs: &Operand<'a, T>,
    rhs: &Operand<'a, T>,
    out: &mut [T],
    epilogue: Option<&'a Rows<'a>>,
    with: &mut Means<'_>,
) -> Result<()> {
    product_at(e, lhs, rhs, &Span::of_slice(out), Hooks { front: None, rows: epilogue }, with)
}

/// [`product`] to memory that the hooks may write, too: the run that calls owns `out`, which no operand overlaps.
pub(crate) fn product_at<'a, T: Element>(
    e: &Extents<'a>,
    lhs: &Operand<'a, T>,
    rhs: &Operand<'a, T>,
    out: &Span,
    hooks: Hooks<'a>,
    with: &mut Means<'_>,
) -> Result<()> {
    let all = e.batch.iter().chain([&e.m, &e.n]).try_fold(1usize, |n, &x| n.checked_mul(x));
    // An extent of 0 makes the result empty whatever the others are.
    let empty = e.batch.contains(&0) || e.m == 0 || e.n == 0;
    let (to, len) = out.elements::<T>()?;
    if all.filter(|&all| all == len).is_none() && !(empty && len == 0) {
        let (batch, m, n) = (e.batch, e.m, e.n);
        return Err(Error::internal(format!("a product of {batch:?} x {m} x {n} into {len} elements")));
    }
    if empty {
        return Ok(());
    }
    if e.k == 0 {
        for i in 0..len / e.n {
            // SAFETY: row `i` of the `len` elements, which the run owns; the slice ends before the hook begins.
            unsafe { std::slice::from_raw_parts_mut(to.wrapping_add(i * e.n), e.n) }.fill(T::NOTHING);
            if let Some(hook) = hooks.rows {
                hook(0, i / e.m, i % e.m..i % e.m + 1);
            }
        }
        return Ok(());
    }
    if !is_finite(e) {
        return Err(Error::limit("a matrix product of more than 2^60 multiplications"));
    }
    match hooks.front {
        Some(_) => lhs.check_rows(e.batch, e.m, e.k)?,
        None => lhs.check(e.batch, e.m, e.k)?,
    }
    rhs.check(e.batch, e.k, e.n)?;
    if out.touches(lhs.data) || out.touches(rhs.data) {
        return Err(Error::internal("a matrix product into one of its operands"));
    }
    let (e, swapped) = seen(e);
    if swapped && hooks.front.is_some() {
        return Err(Error::internal("a matrix product of one column whose left operand is made row by row"));
    }
    let turn = |x: &Operand<'a, T>| Operand { rows: x.cols, cols: x.rows, ..*x };
    let (lhs, rhs) = if swapped { (turn(rhs), turn(lhs)) } else { (*lhs, *rhs) };
    let sides = Sides {
        lhs_rows: Side::new(lhs.rows),
        lhs_cols: Side::new(lhs.cols),
        rhs_rows: Side::new(rhs.rows),
        rhs_cols: Side::new(rhs.cols),
    };
    let kernels = T::kernels(with.level);
    let (packed, right): (&[T::Acc], Right) = match with.packed {
        Some(packed) => (elements(packed)?, Right::Packed),
        None if sides.rhs_cols.stride() == Some(1) && sides.rhs_rows.stride().is_some_and(|row| row >= 0) => {
            (&[], Right::Rows)
        }
        None if sides.rhs_rows.stride() == Some(1) => (&[], Right::Columns),
        None => (&[], Right::Other),
    };
    let bytes = prepacked_bytes::<T>(e.k, e.n, with.level);
    if right == Right::Packed && (swapped || !e.batch.is_empty() || size_of_val(packed) != bytes) {
        return Err(Error::internal("a packed operand of another matrix product"));
    }
    let plan = Plan::new(&e, shape(&kernels, e.m), right, with.par.threads, hooks.front.is_some());
    if with.scratch.len() < plan.bytes() {
        return Err(Error::internal("too little scratch memory for a matrix product"));
    }
    let start = with.scratch.as_mut_ptr();
    let scratch = Shared(start.wrapping_add(start.align_offset(super::mem::ALIGN)));
    let missing = AtomicBool::new(false);
    let (out, back) = (Shared(to), with.back);
    let Hooks { front, rows: hook } = hooks;
    let job = Job { e, plan, kernels, lhs, rhs, sides, packed, back, out, scratch, front, hook, swapped, missing };
    job.run(with.par);
    if job.missing.into_inner() {
        return Err(Error::internal("a tile of a matrix product for which there is no microkernel"));
    }
    Ok(())
}

/// Whether a product can end at all. It bounds what is computed from the extents, too.
fn is_finite(e: &Extents<'_>) -> bool {
    let all = e.batch.iter().chain([&e.m, &e.n, &e.k]).try_fold(1usize, |n, &x| n.checked_mul(x));
    all.is_some_and(|all| all <= 1 << 60)
}

/// The product as it is computed: a result of one column is the row of its transpose, since vectors run
/// along rows. The sums are the same, in the same order.
fn seen<'a>(e: &Extents<'a>) -> (Extents<'a>, bool) {
    let swapped = e.n == 1 && e.m > 1;
    (if swapped { Extents { m: 1, n: e.m, ..*e } } else { *e }, swapped)
}

/// For up to so many rows there are microkernels of any number of vectors up to the most.
const FEW: usize = 2;

fn shape<T: Element>(k: &Kernels<T, T::Acc>, rows: usize) -> Shape {
    Shape {
        rows: k.rows,
        lanes: k.lanes,
        panel: k.lanes * k.vectors,
        wide: k.lanes * if rows <= FEW { (k.wide)(rows) } else { k.vectors },
        size: size_of::<T::Acc>(),
        rounds: k.round.is_some(),
    }
}
