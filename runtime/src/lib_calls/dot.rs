//! Matrix products: f32 and f64 by the `gemm` crate, the 16-bit floats tile by tile through f32 (summed in
//! f32, rounded once), integers by wrapping loops, bool as the or of ands.

use super::Par;
use crate::sys::gemm::{self, Extents, Operand};
use crate::sys::par::SERIAL;
use crate::sys::slices::{Bool, Plain, elements, elements_mut};
use half::{bf16, f16};
use torsh_ir::program::{DotOperand, DotStep};
use torsh_ir::{DType, Error, Result};

/// Runs a product on the bytes of its buffers, all of dtype `dtype`.
pub(crate) fn dot(step: &DotStep, dtype: DType, lhs: &[u8], rhs: &[u8], out: &mut [u8], par: &Par) -> Result<()> {
    let step = &flatten(step);
    match dtype {
        DType::F32 => product::<f32>(step, lhs, rhs, out, par),
        DType::F64 => product::<f64>(step, lhs, rhs, out, par),
        DType::F16 => halves::<f16>(step, lhs, rhs, out, par),
        DType::BF16 => halves::<bf16>(step, lhs, rhs, out, par),
        DType::Bool => product::<Bool>(step, lhs, rhs, out, par),
        DType::U8 => product::<u8>(step, lhs, rhs, out, par),
        DType::I8 => product::<i8>(step, lhs, rhs, out, par),
        DType::I16 => product::<i16>(step, lhs, rhs, out, par),
        DType::I32 => product::<i32>(step, lhs, rhs, out, par),
        DType::I64 => product::<i64>(step, lhs, rhs, out, par),
    }
}

/// Takes batch axes along which the right operand is the same and the left one goes on by whole matrices
/// into the rows: one large product for many small ones.
fn flatten(step: &DotStep) -> DotStep {
    let mut s = step.clone();
    while let (Some(&n), Some(&l), Some(&r)) = (s.batch.last(), s.lhs.batch_strides.last(), s.rhs.batch_strides.last())
    {
        let rows = i64::try_from(s.m).ok().and_then(|m| m.checked_mul(s.lhs.row_stride));
        let (true, Some(m)) = (n == 1 || (r == 0 && rows == Some(l)), s.m.checked_mul(n)) else { break };
        s.m = m;
        s.batch.pop();
        s.lhs.batch_strides.pop();
        s.rhs.batch_strides.pop();
    }
    s
}

fn operand<'a, T>(data: &'a [T], x: &'a DotOperand) -> Operand<'a, T> {
    Operand { data, offset: x.offset, batch: &x.batch_strides, row: x.row_stride, col: x.col_stride }
}

fn product<T: gemm::Element>(step: &DotStep, lhs: &[u8], rhs: &[u8], out: &mut [u8], par: &Par) -> Result<()> {
    let e = Extents { batch: &step.batch, m: step.m, n: step.n, k: step.k };
    let (lhs, rhs, out) = (elements::<T>(lhs)?, elements::<T>(rhs)?, elements_mut::<T>(out)?);
    gemm::product(&e, &operand(lhs, &step.lhs), &operand(rhs, &step.rhs), out, par)
}

/// A 16-bit float.
trait Half: Plain {
    fn up(self) -> f32;
    fn down(x: f32) -> Self;
}
impl Half for f16 {
    fn up(self) -> f32 {
        self.to_f32()
    }
    fn down(x: f32) -> f16 {
        f16::from_f32(x)
    }
}
impl Half for bf16 {
    fn up(self) -> f32 {
        self.to_f32()
    }
    fn down(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

/// Rows and columns of a tile of 16-bit floats, which bound the memory for its operands in f32.
const TILE_ROWS: usize = 128;
const TILE_COLS: usize = 512;

fn halves<T: Half>(step: &DotStep, lhs: &[u8], rhs: &[u8], out: &mut [u8], par: &Par) -> Result<()> {
    let (lhs, rhs, out) = (elements::<T>(lhs)?, elements::<T>(rhs)?, elements_mut::<T>(out)?);
    let (m, n) = (step.m, step.n);
    let batches: usize = step.batch.iter().product();
    if m.checked_mul(n).and_then(|mn| mn.checked_mul(batches)) != Some(out.len()) {
        return Err(Error::internal("a product into a buffer of another size"));
    }
    if out.is_empty() {
        return Ok(());
    }
    let failed = std::sync::Mutex::new(None);
    let blocks = m.div_ceil(TILE_ROWS);
    // Strips of rows of one matrix each, contiguous in the result.
    let strips: Vec<(usize, std::ops::Range<usize>)> =
        (0..batches).flat_map(|b| (0..blocks).map(move |i| (b, i * TILE_ROWS..((i + 1) * TILE_ROWS).min(m)))).collect();
    let mut rest = out;
    let mut places = Vec::with_capacity(strips.len());
    for (_, rows) in &strips {
        let (now, later) = rest.split_at_mut(rows.len() * n);
        places.push(std::sync::Mutex::new(now));
        rest = later;
    }
    let work_is_small = m.saturating_mul(n).saturating_mul(step.k).saturating_mul(batches) < 250_000;
    (if work_is_small { &SERIAL } else { par }).for_each(strips.len(), &|i| {
        let (b, rows) = &strips[i];
        let mut out = places[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(e) = strip(step, *b, rows.clone(), lhs, rhs, &mut out) {
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

/// A vector of `n` zeros, or an error where there is no memory for it.
fn zeros(n: usize) -> Result<Vec<f32>> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| Error::limit(format!("no memory for {n} elements of a matrix product")))?;
    v.resize(n, 0.0);
    Ok(v)
}

/// Widens a `rows` x `cols` matrix whose first element is at `at`.
fn widen<T: Half>(
    x: &[T],
    at: i64,
    (rows, row): (usize, i64),
    (cols, col): (usize, i64),
    to: &mut [f32],
) -> Result<()> {
    let beyond = || Error::internal("an operand of a matrix product reaches beyond its buffer");
    for (i, to) in to.chunks_exact_mut(cols.max(1)).take(rows).enumerate() {
        let first = at + i as i64 * row;
        if col == 1 {
            let start = usize::try_from(first).map_err(|_| beyond())?;
            let from = x.get(start..).and_then(|x| x.get(..cols)).ok_or_else(beyond)?;
            to.iter_mut().zip(from).for_each(|(t, v)| *t = v.up());
        } else {
            for (j, t) in to.iter_mut().enumerate() {
                let p = usize::try_from(first + j as i64 * col).map_err(|_| beyond())?;
                *t = x.get(p).ok_or_else(beyond)?.up();
            }
        }
    }
    Ok(())
}

/// Rows `rows` of matrix `b`.
fn strip<T: Half>(
    step: &DotStep,
    b: usize,
    rows: std::ops::Range<usize>,
    lhs: &[T],
    rhs: &[T],
    out: &mut [T],
) -> Result<()> {
    let (m, n, k) = (rows.len(), step.n, step.k);
    let start = |x: &DotOperand| {
        let mut left = b;
        let mut at = x.offset;
        for (&n, &stride) in step.batch.iter().zip(&x.batch_strides).rev() {
            at += (left % n) as i64 * stride;
            left /= n;
        }
        at
    };
    let (l0, r0) = (start(&step.lhs) + rows.start as i64 * step.lhs.row_stride, start(&step.rhs));
    let width = TILE_COLS.min(n);
    let (mut l, mut r, mut o) = (zeros(m * k)?, zeros(k * width)?, zeros(m * width)?);
    widen(lhs, l0, (m, step.lhs.row_stride), (k, step.lhs.col_stride), &mut l)?;
    for j in (0..n).step_by(width) {
        let w = width.min(n - j);
        let (r, o) = (&mut r[..k * w], &mut o[..m * w]);
        widen(rhs, r0 + j as i64 * step.rhs.col_stride, (k, step.rhs.row_stride), (w, step.rhs.col_stride), r)?;
        let e = Extents { batch: &[], m, n: w, k };
        let flat = |data, row: usize| Operand { data, offset: 0, batch: &[], row: row as i64, col: 1 };
        gemm::product(&e, &flat(&l, k), &flat(r, w), o, &SERIAL)?;
        for (to, from) in out.chunks_exact_mut(n).zip(o.chunks_exact(w)) {
            to[j..j + w].iter_mut().zip(from).for_each(|(t, &v)| *t = T::down(v));
        }
    }
    Ok(())
}
