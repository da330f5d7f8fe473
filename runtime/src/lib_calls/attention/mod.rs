//! Attention in one pass over blocks of keys: no score matrix beyond [`QUERIES`] x [`KEYS`] a thread.
//!
//! Operands are copied block by block into scratch memory, f32, with columns padded by zeros to whole vectors, so
//! that any strides do. Every element is computed by the same chain of operations however the work is cut, so
//! results do not depend on the number of threads.

mod again;
mod backward;
mod forward;
#[cfg(test)]
mod tests;

use super::{Arg, Par};
use crate::sys::attention::{Kernels, LANES, PANEL, ROWS, SCORES, transpose};
use crate::sys::slices::elements;
use std::sync::{Mutex, PoisonError};
use torsh_ir::ops::attention::MAX_DEPTH;
use torsh_ir::program::{Attend, LibCall, Side};
use torsh_ir::shape::Type;
use torsh_ir::{DType, Error, Result};

/// Queries and keys of a block of scores: few queries, so that a block stays in the first cache and causal ones
/// compute little that is hidden.
const QUERIES: usize = 32;
const KEYS: usize = SCORES;
/// Queries of a part, at most: what is packed per block of keys serves them all.
const PART: usize = 512;
/// Queries of a head whose gradients one part keeps, at most.
const WHOLE: usize = 2048;
/// Fewer products are not worth a thread.
const GRAIN: usize = 250_000;

/// Memory of parts, a slice for each thread (see [`scratch`]).
pub(crate) type Tiles<'a> = Mutex<Vec<&'a mut [f32]>>;

/// How many slices of how many f32 a call needs on `threads` threads.
pub(crate) fn scratch(call: &LibCall, threads: usize) -> (usize, usize) {
    match call {
        LibCall::Attention(a) => forward::scratch(a, threads),
        LibCall::AttentionGrad(a) => backward::scratch(a, threads),
        _ => (0, 0),
    }
}

/// Products of `per_pair` numbers for each pair of a query and a key, by which threads are counted.
fn threads_for(a: &Attend, per_pair: usize, threads: usize) -> usize {
    let s = a.sizes();
    let all = [s.queries, s.keys, per_pair].iter().fold(s.batch, |n, &x| n.saturating_mul(x));
    threads.min(all / GRAIN).max(1)
}

/// Runs an attention on the bytes of its buffers.
pub(crate) fn run(
    call: &LibCall,
    types: &[&Type],
    args: &[Arg],
    out: &mut [u8],
    level: &str,
    tiles: &Tiles<'_>,
    par: &Par,
) -> Result<()> {
    let a = call.attend().ok_or_else(|| Error::internal("not an attention"))?;
    let forward = matches!(call, LibCall::Attention(_));
    if a.dtype != DType::F32 {
        return Err(Error::internal(format!("an attention of {} operands, which the passes make f32 here", a.dtype)));
    }
    let mut bytes = Vec::with_capacity(args.len());
    for arg in args {
        match arg {
            Arg::Bytes(b) => bytes.push(*b),
            Arg::Out => return Err(Error::internal("an attention whose result is an operand")),
        }
    }
    let out = crate::sys::slices::elements_mut::<f32>(out)?;
    let counts = bytes.len() == a.extents(forward).len() && a.sides.len() == bytes.len() && types.len() == bytes.len();
    if !counts || a.numel(forward) != Some(out.len()) {
        return Err(Error::internal("an attention on other operands than its own"));
    }
    if out.is_empty() {
        return Ok(());
    }
    if ![a.depth, a.width].iter().all(|n| (1..=MAX_DEPTH).contains(n)) {
        return Err(Error::internal("an attention over longer rows than its blocks have"));
    }
    let mut mask = None;
    if a.mask {
        mask = Some(match types[3].dtype {
            DType::Bool => Mask::Hide(Matrix { data: bytes[3], side: &a.sides[3] }),
            _ => Mask::Add(Matrix { data: elements(bytes[3])?, side: &a.sides[3] }),
        });
    }
    let o = a.options();
    let state = match o.dropout > 0.0 {
        true => {
            let i = o.operands() - 1;
            let (words, side) = (elements::<i64>(bytes[i])?, &a.sides[i]);
            let word = |j: i64| at(words, side.offset + j * side.col).copied();
            Some((word(0)? as u64, word(1)? as u64))
        }
        false => None,
    };
    let floats = |i: usize| Ok::<_, Error>(Matrix { data: elements::<f32>(bytes[i])?, side: &a.sides[i] });
    let call = Call { a, q: floats(0)?, k: floats(1)?, v: floats(2)?, mask, state, kernels: Kernels::of(level) };
    if forward {
        return forward::run(&call, out, tiles, par);
    }
    let n = bytes.len();
    let row = elements::<f32>(bytes[n - 2])?;
    let first = usize::try_from(a.sides[n - 2].offset).map_err(|_| beyond())?;
    let rows = a.sizes().batch * a.queries;
    let row = row.get(first..first + rows * (a.width + 1)).ok_or_else(beyond)?;
    backward::run(&call, row, floats(n - 1)?, out, tiles, par)
}

fn beyond() -> Error {
    Error::internal("an operand of an attention reaches beyond its buffer")
}

fn at<T>(data: &[T], i: i64) -> Result<&T> {
    usize::try_from(i).ok().and_then(|i| data.get(i)).ok_or_else(beyond)
}

/// A strided operand.
struct Matrix<'a, T> {
    data: &'a [T],
    side: &'a Side,
}

impl<T: Copy> Matrix<'_, T> {
    /// Place of the first element of batch `b`.
    fn start(&self, batch: &[usize], mut b: usize) -> i64 {
        let mut at = self.side.offset;
        for (&n, &stride) in batch.iter().zip(&self.side.batch).rev() {
            at += (b % n) as i64 * stride;
            b /= n;
        }
        at
    }

    /// `n` elements of a row of which the first is at `first`: side by side, or copied to `room`.
    fn row<'r>(&'r self, first: i64, n: usize, room: &'r mut [T]) -> Result<&'r [T]> {
        if self.side.col == 1 || n == 1 {
            let first = usize::try_from(first).map_err(|_| beyond())?;
            return self.data.get(first..).and_then(|x| x.get(..n)).ok_or_else(beyond);
        }
        let room = room.get_mut(..n).ok_or_else(beyond)?;
        for (j, to) in room.iter_mut().enumerate() {
            *to = *at(self.data, first + j as i64 * self.side.col)?;
        }
        Ok(room)
    }
}

/// A mask of the scores.
enum Mask<'a> {
    /// Keys that take part.
    Hide(Matrix<'a, u8>),
    /// Numbers added to the scores.
    Add(Matrix<'a, f32>),
}

/// A call with its operands.
struct Call<'a> {
    a: &'a Attend,
    q: Matrix<'a, f32>,
    k: Matrix<'a, f32>,
    v: Matrix<'a, f32>,
    mask: Option<Mask<'a>>,
    /// Seed and first counter of the random stream.
    state: Option<(u64, u64)>,
    kernels: &'static Kernels,
}

/// Extents of a block of scores: batch, first query and key, counts.
#[derive(Copy, Clone)]
struct Block {
    b: usize,
    i: usize,
    j: usize,
    rows: usize,
    cols: usize,
}

impl Block {
    /// Rows and columns with padding.
    fn padded(&self) -> (usize, usize) {
        (self.rows.next_multiple_of(ROWS), self.cols.next_multiple_of(PANEL))
    }
}

impl Call<'_> {
    /// The block of keys from `j` that queries `i..i + rows` see, cut where they are causally hidden from all.
    fn block(&self, b: usize, (i, rows): (usize, usize), j: usize) -> Option<Block> {
        let end = if self.a.causal { self.a.keys.min(i + rows) } else { self.a.keys };
        (j < end).then(|| Block { b, i, j, rows, cols: KEYS.min(end - j) })
    }

    /// Applies mask and causality to scores, and hides the padding.
    fn mask(&self, s: &mut [f32], block: Block) -> Result<()> {
        let (cols, wide) = (block.cols, block.padded().1);
        let causal = self.a.causal && block.j + cols > block.i + 1;
        if self.mask.is_none() && !causal && wide == cols {
            return Ok(());
        }
        for (r, s) in s.chunks_exact_mut(KEYS).take(block.rows).enumerate() {
            match &self.mask {
                Some(Mask::Hide(m)) => {
                    let first = m.start(&self.a.batch, block.b)
                        + (block.i + r) as i64 * m.side.row
                        + block.j as i64 * m.side.col;
                    let mut room = [0; KEYS];
                    self.kernels.hide(&mut s[..cols], m.row(first, cols, &mut room)?);
                }
                Some(Mask::Add(m)) => {
                    let first = m.start(&self.a.batch, block.b)
                        + (block.i + r) as i64 * m.side.row
                        + block.j as i64 * m.side.col;
                    let mut room = [0.0; KEYS];
                    self.kernels.add(&mut s[..cols], m.row(first, cols, &mut room)?);
                }
                None => {}
            }
            let seen = if causal { (block.i + r + 1).saturating_sub(block.j).min(cols) } else { cols };
            s[seen..wide].fill(f32::NEG_INFINITY);
        }
        Ok(())
    }

    /// Applies dropout to numbers of a block; `factor` is what the kept ones are multiplied by.
    fn drop(&self, s: &mut [f32], block: Block, factor: f32) {
        let Some((seed, offset)) = self.state else { return };
        let limit = self.a.dropout.as_f64() as f32;
        for (r, s) in s.chunks_exact_mut(KEYS).take(block.rows).enumerate() {
            let row = (block.b * self.a.queries + block.i + r) * self.a.keys + block.j;
            let counter = offset.wrapping_add(row as u64);
            self.kernels.drop_words(&mut s[..block.cols], seed, counter, limit, factor);
        }
    }
}

/// Columns with padding to whole vectors.
fn padded(cols: usize) -> usize {
    cols.next_multiple_of(LANES)
}

/// Copies rows `first..first + rows` of a matrix times `scale` to rows of `padded(cols)`; the padding and rows up
/// to the end of `to` are 0.
fn pack_rows(
    kernels: &Kernels,
    m: &Matrix<'_, f32>,
    start: i64,
    (first, rows): (usize, usize),
    cols: usize,
    scale: f32,
    to: &mut [f32],
) -> Result<()> {
    let wide = padded(cols);
    let mut room = [0.0; MAX_DEPTH];
    for (r, to) in to.chunks_exact_mut(wide).enumerate() {
        if r >= rows {
            to.fill(0.0);
            continue;
        }
        let from = m.row(start + (first + r) as i64 * m.side.row, cols, &mut room)?;
        kernels.scaled(&mut to[..cols], from, scale);
        to[cols..].fill(0.0);
    }
    Ok(())
}

/// Copies rows `first..first + rows` of a matrix times `scale`, transposed, to panels of `width` of them; the others
/// are 0.
fn pack_panels(
    m: &Matrix<'_, f32>,
    start: i64,
    (first, rows): (usize, usize),
    (cols, scale): (usize, f32),
    width: usize,
    to: &mut [f32],
) -> Result<()> {
    const NONE: [f32; MAX_DEPTH] = [0.0; MAX_DEPTH];
    let mut rooms = [NONE; 4];
    for (panel, to) in to.chunks_exact_mut(width * cols).take(rows.div_ceil(width)).enumerate() {
        for r in (0..width).step_by(4) {
            let mut four = [&NONE[..cols]; 4];
            for (i, (from, room)) in four.iter_mut().zip(&mut rooms).enumerate() {
                let row = panel * width + r + i;
                if row < rows {
                    *from = m.row(start + (first + row) as i64 * m.side.row, cols, room)?;
                }
            }
            transpose(four, scale, to, r, width);
        }
    }
    Ok(())
}

/// Takes the next `n` elements of scratch memory.
fn take<'a>(memory: &mut &'a mut [f32], n: usize) -> Result<&'a mut [f32]> {
    let all = std::mem::take(memory);
    if all.len() < n {
        return Err(Error::internal("too little memory for the blocks of an attention"));
    }
    let (now, later) = all.split_at_mut(n);
    *memory = later;
    Ok(now)
}

/// Runs `work(part, memory)` for each part, with a slice of scratch memory of its own; gives the first error.
fn for_each(
    parts: usize,
    tiles: &Tiles<'_>,
    par: &Par,
    work: &(dyn Fn(usize, &mut [f32]) -> Result<()> + Sync),
) -> Result<()> {
    let failed = Mutex::new(None);
    par.for_each(parts, &|part| {
        let memory = tiles.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let done = match memory {
            Some(memory) => {
                let done = work(part, memory);
                tiles.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
                done
            }
            None => Err(Error::internal("less scratch memory than threads in an attention")),
        };
        if let Err(e) = done {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Splits a slice into consecutive parts of the given lengths, each for one thread.
fn split(mut slice: &mut [f32], lengths: impl Iterator<Item = usize>) -> Result<Vec<Mutex<&mut [f32]>>> {
    let mut out = Vec::new();
    for n in lengths {
        out.push(Mutex::new(take(&mut slice, n)?));
    }
    Ok(out)
}
