//! Matrix products: f32 and f64 by the `gemm` crate, the 16-bit floats tile by tile through f32 (summed in
//! f32, rounded once), integers by wrapping loops, bool as the or of ands.

use super::Par;
use crate::sys::gemm::{self, Extents, Operand};
use crate::sys::par::SERIAL;
use crate::sys::slices::{Bool, Plain, elements, elements_mut};
use half::{bf16, f16};
use std::sync::{Mutex, PoisonError};
use torsh_ir::program::{DotOperand, DotStep, single_stride};
use torsh_ir::shape::{Dims, Ints};
use torsh_ir::{DType, Error, Result};

/// Runs a product on the bytes of its buffers (left, right), all of dtype `dtype`, with `tiles` as [`scratch`]
/// asks for.
pub(crate) fn dot(
    step: &DotStep,
    dtype: DType,
    (lhs, rhs): (&[u8], &[u8]),
    out: &mut [u8],
    tiles: &Tiles<'_>,
    par: &Par,
) -> Result<()> {
    let step = &flatten(step)?;
    match dtype {
        DType::F32 => product::<f32>(step, lhs, rhs, out, par),
        DType::F64 => product::<f64>(step, lhs, rhs, out, par),
        DType::F16 => halves::<f16>(step, (lhs, rhs), out, tiles, par),
        DType::BF16 => halves::<bf16>(step, (lhs, rhs), out, tiles, par),
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
fn flatten(step: &DotStep) -> Result<Flat> {
    let side = |x: &DotOperand| {
        let strides = single_stride(&x.rows).zip(single_stride(&x.cols));
        let (row_stride, col_stride) =
            strides.ok_or_else(|| Error::internal("an operand of a matrix product with several strides per axis"))?;
        Ok::<Side, Error>(Side { offset: x.offset, batch_strides: x.batch_strides.clone(), row_stride, col_stride })
    };
    let (lhs, rhs) = (side(&step.lhs)?, side(&step.rhs)?);
    let mut s = Flat { batch: step.batch.clone(), m: step.m, n: step.n, k: step.k, lhs, rhs };
    while let (Some(&n), Some(&l), Some(&r)) = (s.batch.last(), s.lhs.batch_strides.last(), s.rhs.batch_strides.last())
    {
        let rows = i64::try_from(s.m).ok().and_then(|m| m.checked_mul(s.lhs.row_stride));
        let (true, Some(m)) = (n == 1 || (r == 0 && rows == Some(l)), s.m.checked_mul(n)) else { break };
        s.m = m;
        s.batch.pop();
        s.lhs.batch_strides.pop();
        s.rhs.batch_strides.pop();
    }
    Ok(s)
}

/// An operand with one stride per axis.
struct Side {
    offset: i64,
    batch_strides: Ints,
    row_stride: i64,
    col_stride: i64,
}

/// A product of such operands.
struct Flat {
    batch: Dims,
    m: usize,
    n: usize,
    k: usize,
    lhs: Side,
    rhs: Side,
}

fn operand<'a, T>(data: &'a [T], x: &'a Side) -> Operand<'a, T> {
    Operand { data, offset: x.offset, batch: &x.batch_strides, row: x.row_stride, col: x.col_stride }
}

fn product<T: gemm::Element>(step: &Flat, lhs: &[u8], rhs: &[u8], out: &mut [u8], par: &Par) -> Result<()> {
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

/// Rows, columns and length of the sums of a tile of 16-bit floats, which bound the memory for its operands
/// in f32.
const TILE_ROWS: usize = 128;
const TILE_COLS: usize = 512;
const TILE_DEPTH: usize = 512;
/// Fewer multiplications are not worth a thread.
const GRAIN: usize = 250_000;

/// Memory of the tiles of a product, a slice for each thread that works on it (see [`scratch`]).
pub(crate) type Tiles<'a> = Mutex<Vec<&'a mut [f32]>>;

/// How many slices of how many elements [`dot`] needs on `threads` threads. A run takes them before its first
/// step, so that no product fails for want of memory when inputs have already been overwritten.
pub(crate) fn scratch(step: &DotStep, dtype: DType, threads: usize) -> (usize, usize) {
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return (0, 0);
    }
    let Ok(step) = &flatten(step) else { return (0, 0) };
    let strips = step.batch.iter().fold(step.m.div_ceil(TILE_ROWS), |n, &b| n.saturating_mul(b));
    let threads = if is_small(step) { 1 } else { threads };
    (threads.min(strips), TileSizes::of(step).all())
}

fn is_small(step: &Flat) -> bool {
    let one = step.m.saturating_mul(step.n).saturating_mul(step.k);
    step.batch.iter().fold(one, |n, &b| n.saturating_mul(b)) < GRAIN
}

/// Extents of the tiles of a product.
struct TileSizes {
    rows: usize,
    cols: usize,
    depth: usize,
}

impl TileSizes {
    fn of(step: &Flat) -> TileSizes {
        TileSizes { rows: TILE_ROWS.min(step.m), cols: TILE_COLS.min(step.n), depth: TILE_DEPTH.min(step.k) }
    }

    /// Elements of both operands, of the sums and of what is added to them.
    fn all(&self) -> usize {
        self.rows * self.depth + self.depth * self.cols + 2 * self.rows * self.cols
    }
}

fn halves<T: Half>(
    step: &Flat,
    (lhs, rhs): (&[u8], &[u8]),
    out: &mut [u8],
    tiles: &Tiles<'_>,
    par: &Par,
) -> Result<()> {
    let (lhs, rhs, out) = (elements::<T>(lhs)?, elements::<T>(rhs)?, elements_mut::<T>(out)?);
    let (m, n) = (step.m, step.n);
    let batches: usize = step.batch.iter().product();
    if m.checked_mul(n).and_then(|mn| mn.checked_mul(batches)) != Some(out.len()) {
        return Err(Error::internal("a product into a buffer of another size"));
    }
    if out.is_empty() {
        return Ok(());
    }
    let failed = Mutex::new(None);
    let blocks = m.div_ceil(TILE_ROWS);
    // Strips of rows of one matrix each, contiguous in the result.
    let strips: Vec<(usize, std::ops::Range<usize>)> =
        (0..batches).flat_map(|b| (0..blocks).map(move |i| (b, i * TILE_ROWS..((i + 1) * TILE_ROWS).min(m)))).collect();
    let mut rest = out;
    let mut places = Vec::with_capacity(strips.len());
    for (_, rows) in &strips {
        let (now, later) = rest.split_at_mut(rows.len() * n);
        places.push(Mutex::new(now));
        rest = later;
    }
    (if is_small(step) { &SERIAL } else { par }).for_each(strips.len(), &|i| {
        let (b, rows) = &strips[i];
        let mut out = places[i].lock().unwrap_or_else(PoisonError::into_inner);
        let memory = tiles.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let done = match memory {
            Some(memory) => {
                let done = strip(step, *b, rows.clone(), (lhs, rhs), &mut out, memory);
                tiles.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
                done
            }
            None => Err(Error::internal("fewer tiles than threads in a matrix product")),
        };
        if let Err(e) = done {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
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
    step: &Flat,
    b: usize,
    rows: std::ops::Range<usize>,
    (lhs, rhs): (&[T], &[T]),
    out: &mut [T],
    tiles: &mut [f32],
) -> Result<()> {
    let (m, n, k) = (rows.len(), step.n, step.k);
    let start = |x: &Side| {
        let mut left = b;
        let mut at = x.offset;
        for (&n, &stride) in step.batch.iter().zip(&x.batch_strides).rev() {
            at += (left % n) as i64 * stride;
            left /= n;
        }
        at
    };
    let (l0, r0) = (start(&step.lhs) + rows.start as i64 * step.lhs.row_stride, start(&step.rhs));
    let tile = TileSizes::of(step);
    let (width, depth) = (tile.cols, tile.depth);
    if tiles.len() < tile.all() || m > tile.rows {
        return Err(Error::internal("too little memory for the tiles of a matrix product"));
    }
    let (l, rest) = tiles.split_at_mut(tile.rows * depth);
    let (r, rest) = rest.split_at_mut(depth * width);
    let (sums, more) = rest.split_at_mut(tile.rows * width);
    for j in (0..n).step_by(width) {
        let w = width.min(n - j);
        let sums = &mut sums[..m * w];
        sums.fill(0.0);
        for p in (0..k).step_by(depth.max(1)) {
            let d = depth.min(k - p);
            let (l, r, more) = (&mut l[..m * d], &mut r[..d * w], &mut more[..m * w]);
            let (lp, rp) = (p as i64 * step.lhs.col_stride, p as i64 * step.rhs.row_stride);
            let rj = j as i64 * step.rhs.col_stride;
            widen(lhs, l0 + lp, (m, step.lhs.row_stride), (d, step.lhs.col_stride), l)?;
            widen(rhs, r0 + rj + rp, (d, step.rhs.row_stride), (w, step.rhs.col_stride), r)?;
            let e = Extents { batch: &[], m, n: w, k: d };
            let flat = |data, row: usize| Operand { data, offset: 0, batch: &[], row: row as i64, col: 1 };
            if p == 0 {
                gemm::product(&e, &flat(l, d), &flat(r, w), sums, &SERIAL)?;
            } else {
                gemm::product(&e, &flat(l, d), &flat(r, w), more, &SERIAL)?;
                sums.iter_mut().zip(&*more).for_each(|(s, &v)| *s += v);
            }
        }
        for (to, from) in out.chunks_exact_mut(n).zip(sums.chunks_exact(w)) {
            to[j..j + w].iter_mut().zip(from).for_each(|(t, &v)| *t = T::down(v));
        }
    }
    Ok(())
}
