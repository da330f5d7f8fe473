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
pub use operand::{Digits, Operand};

use super::par::{Par, Shared};
use drive::{Job, Sides};
use kernels::Kernels;
use operand::Side;
use plan::{Plan, Shape};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use torsh_ir::{Error, Result};

/// Extents of a product. No batch axes is one matrix.
#[derive(Copy, Clone)]
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

/// What a product works with.
pub struct Means<'a> {
    /// The instruction set.
    pub level: Level,
    /// As many bytes as [`scratch_bytes`] says.
    pub scratch: &'a mut [u8],
    /// Threads.
    pub par: &'a Par<'a>,
}

/// Bytes of scratch memory for a product of such extents on so many threads, whatever the strides;
/// `usize::MAX` if there cannot be so much.
pub fn scratch_bytes<T: Element>(e: &Extents<'_>, level: Level, threads: usize) -> usize {
    if e.batch.contains(&0) || e.m == 0 || e.n == 0 || e.k == 0 {
        return 0;
    }
    if !is_finite(e) {
        return usize::MAX;
    }
    let (e, _) = seen(e);
    let s = shape(&T::kernels(level), e.m);
    [false, true].map(|direct| Plan::new(&e, s, direct, threads).bytes()).into_iter().fold(0, usize::max)
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
    let all = e.batch.iter().chain([&e.m, &e.n]).try_fold(1usize, |n, &x| n.checked_mul(x));
    // An extent of 0 makes the result empty whatever the others are.
    let empty = e.batch.contains(&0) || e.m == 0 || e.n == 0;
    if all.filter(|&all| all == out.len()).is_none() && !(empty && out.is_empty()) {
        let (batch, m, n) = (e.batch, e.m, e.n);
        return Err(Error::internal(format!("a product of {batch:?} x {m} x {n} into {} elements", out.len())));
    }
    if empty {
        return Ok(());
    }
    if e.k == 0 {
        for (i, row) in out.chunks_exact_mut(e.n).enumerate() {
            row.fill(T::NOTHING);
            if let Some(hook) = epilogue {
                hook(0, i / e.m, i % e.m..i % e.m + 1);
            }
        }
        return Ok(());
    }
    if !is_finite(e) {
        return Err(Error::limit("a matrix product of more than 2^60 multiplications"));
    }
    lhs.check(e.batch, e.m, e.k)?;
    rhs.check(e.batch, e.k, e.n)?;
    let (e, swapped) = seen(e);
    let turn = |x: &Operand<'a, T>| Operand { rows: x.cols, cols: x.rows, ..*x };
    let (lhs, rhs) = if swapped { (turn(rhs), turn(lhs)) } else { (*lhs, *rhs) };
    let sides = Sides {
        lhs_rows: Side::new(lhs.rows),
        lhs_cols: Side::new(lhs.cols),
        rhs_rows: Side::new(rhs.rows),
        rhs_cols: Side::new(rhs.cols),
    };
    let kernels = T::kernels(with.level);
    let direct = kernels.round.is_none()
        && sides.rhs_cols.stride() == Some(1)
        && sides.rhs_rows.stride().is_some_and(|row| row >= 0);
    let plan = Plan::new(&e, shape(&kernels, e.m), direct, with.par.threads);
    if with.scratch.len() < plan.bytes() {
        return Err(Error::internal("too little scratch memory for a matrix product"));
    }
    let start = with.scratch.as_mut_ptr();
    let scratch = Shared(start.wrapping_add(start.align_offset(super::mem::ALIGN)));
    let out = Shared(out.as_mut_ptr());
    let missing = AtomicBool::new(false);
    let job = Job { e, plan, kernels, lhs, rhs, sides, out, scratch, hook: epilogue, swapped, missing };
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
