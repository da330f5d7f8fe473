//! Matrix products: the extents and strides of a step for [`crate::sys::gemm`].

use crate::sys::call::Span;
use crate::sys::gemm::{self, Element, Extents, Hooks, Level, Means, Operand};
use crate::sys::par::Par;
use crate::sys::slices::{Bool, elements};
use half::{bf16, f16};
use std::ops::Range;
use torsh_ir::program::{Digits, DotOperand, DotStep, digits};
use torsh_ir::{DType, Result};

/// Called as `(worker, rows)` by the thread that has completed these rows of the result, seen as one matrix of
/// all batches below each other; see [`gemm::Rows`].
pub(crate) type Epilogue<'a> = dyn Fn(usize, Range<usize>) + Sync + 'a;

/// Called as `(worker, rows, memory)` before these rows of the left operand, seen in the same way, are read: puts them at
/// `memory`; see [`gemm::Front`].
pub(crate) type Prologue<'a> = dyn Fn(usize, Range<usize>, Span) + Sync + 'a;

/// Whether a [`Prologue`] can make the rows of the left operand of a product: they lie one after another, and there is
/// a result of several columns.
pub(crate) fn takes_rows(step: &DotStep) -> bool {
    let l = &step.lhs;
    step.n > 1 && step.k > 0 && gemm::by_rows((l.offset, &step.batch, &l.batch_strides), &l.rows, &l.cols)
}

/// Calls `$f::<T>` for the element type of a dtype.
macro_rules! by_dtype {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F64 => $f::<f64>($($arg),*),
            DType::F16 => $f::<f16>($($arg),*),
            DType::BF16 => $f::<bf16>($($arg),*),
            DType::Bool => $f::<Bool>($($arg),*),
            DType::U8 => $f::<u8>($($arg),*),
            DType::I8 => $f::<i8>($($arg),*),
            DType::I16 => $f::<i16>($($arg),*),
            DType::I32 => $f::<i32>($($arg),*),
            DType::I64 => $f::<i64>($($arg),*),
        }
    };
}

/// Runs a product on the bytes of its operands (left, right), all of dtype `dtype`, with as much scratch memory
/// as [`scratch`] asks for. The run that calls owns `out`.
pub(crate) fn dot(
    step: &DotStep,
    dtype: DType,
    operands: (&[u8], &[u8]),
    out: &Span,
    hooks: (Option<&Prologue<'_>>, Option<&Epilogue<'_>>),
    means: &mut Means<'_>,
) -> Result<()> {
    by_dtype!(dtype, product(&flatten(step), operands, out, hooks, means))
}

/// Bytes of scratch memory for a product on `threads` threads, with or without a prologue. A run takes them before its first step, so that
/// no product fails for want of memory when inputs have already been overwritten.
pub(crate) fn scratch(step: &DotStep, dtype: DType, level: Level, threads: usize, prologue: bool) -> usize {
    fn bytes<T: Element>(step: &DotStep, level: Level, threads: usize, prologue: bool) -> usize {
        gemm::scratch_bytes::<T>(&extents(step), level, threads, prologue)
    }
    by_dtype!(dtype, bytes(&flatten(step), level, threads, prologue))
}

/// More rows than these spend little of their time on packing the right operand.
const MOST_ROWS: usize = 512;
/// Bytes of the smallest right operand that is worth a packed copy: those whose rows lie side by side are multiplied
/// where they are up to a size (see `gemm::plan`).
const LEAST_BYTES: usize = 1 << 10;
const LEAST_BYTES_OF_ROWS: usize = 64 << 10;

/// What a packed right operand was made from: two products with the same key read the same panels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PackKey {
    dtype: DType,
    // Levels have panels of different widths.
    level: Level,
    k: usize,
    n: usize,
    offset: i64,
    rows: Digits,
    cols: Digits,
    /// Bytes of the panels.
    pub bytes: usize,
}

/// The key of the right operand of a product, where a packed copy pays if the operand stays the same: rows are few,
/// so that packing takes a good part of the time, but more than one, which is faster multiplied without.
pub(crate) fn pack_key(step: &DotStep, dtype: DType, level: Level) -> Option<PackKey> {
    fn bytes<T: Element>(k: usize, n: usize, level: Level) -> usize {
        gemm::prepacked_bytes::<T>(k, n, level)
    }
    let s = flatten(step);
    let bytes = by_dtype!(dtype, bytes(s.k, s.n, level));
    let least = if s.rhs.cols == digits([(s.n, 1)]) { LEAST_BYTES_OF_ROWS } else { LEAST_BYTES };
    let worth = s.batch.is_empty() && (2..=MOST_ROWS).contains(&s.m) && s.n > 1 && s.k > 0;
    (worth && (least..usize::MAX).contains(&bytes)).then(|| PackKey {
        dtype,
        level,
        k: s.k,
        n: s.n,
        offset: s.rhs.offset,
        rows: s.rhs.rows,
        cols: s.rhs.cols,
        bytes,
    })
}

/// Packs the right operand of a key to so many bytes as the key says.
pub(crate) fn pack(key: &PackKey, rhs: &[u8], level: Level, to: &mut [u8], par: &Par<'_>) -> Result<()> {
    fn run<T: Element>(key: &PackKey, rhs: &[u8], level: Level, to: &mut [u8], par: &Par<'_>) -> Result<()> {
        let (rows, cols) = (&key.rows, &key.cols);
        let rhs = Operand { data: elements::<T>(rhs)?, offset: key.offset, batch: &[], rows, cols };
        gemm::prepack(&rhs, (key.k, key.n), level, to, par)
    }
    by_dtype!(key.dtype, run(key, rhs, level, to, par))
}

/// Takes batch axes along which the right operand is the same into the rows, as one more digit: one large
/// product for many small ones.
pub(crate) fn flatten(step: &DotStep) -> DotStep {
    let mut s = step.clone();
    while let (Some(&n), Some(&l), Some(&r)) = (s.batch.last(), s.lhs.batch_strides.last(), s.rhs.batch_strides.last())
    {
        let (true, Some(m)) = (n == 1 || r == 0, s.m.checked_mul(n)) else { break };
        s.lhs.rows = digits([(n, l)].into_iter().chain(s.lhs.rows));
        s.m = m;
        s.batch.pop();
        s.lhs.batch_strides.pop();
        s.rhs.batch_strides.pop();
    }
    s
}

fn extents(step: &DotStep) -> Extents<'_> {
    Extents { batch: &step.batch, m: step.m, n: step.n, k: step.k }
}

fn product<T: Element>(
    step: &DotStep,
    (lhs, rhs): (&[u8], &[u8]),
    out: &Span,
    (prologue, epilogue): (Option<&Prologue<'_>>, Option<&Epilogue<'_>>),
    means: &mut Means<'_>,
) -> Result<()> {
    let (l, r) = (&step.lhs, &step.rhs);
    let lhs = operand(elements::<T>(lhs)?, l);
    let rhs = operand(elements::<T>(rhs)?, r);
    let e = extents(step);
    let at = |batch: usize, rows: Range<usize>| batch * e.m + rows.start..batch * e.m + rows.end;
    let front = prologue
        .map(|call| move |worker: usize, batch: usize, rows: Range<usize>, to: Span| call(worker, at(batch, rows), to));
    let back =
        epilogue.map(|call| move |worker: usize, batch: usize, rows: Range<usize>| call(worker, at(batch, rows)));
    let hooks = Hooks {
        front: front.as_ref().map(|call| call as &gemm::Front<'_>),
        rows: back.as_ref().map(|call| call as &gemm::Rows<'_>),
    };
    gemm::product_at(&e, &lhs, &rhs, out, hooks, means)
}

fn operand<'a, T>(data: &'a [T], x: &'a DotOperand) -> Operand<'a, T> {
    Operand { data, offset: x.offset, batch: &x.batch_strides, rows: &x.rows, cols: &x.cols }
}
