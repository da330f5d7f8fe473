//! Rows and elements by number. All indices are checked before the result is touched.

use super::element::{Element, with_element, with_word};
use super::{Arg, Par, around};
use crate::sys::slices::{Plain, elements, elements_mut};
use torsh_ir::program::ScatterMode;
use torsh_ir::shape::{Dims, Type};
use torsh_ir::{Error, Result};

/// A buffer with its type.
type Typed<'a> = (&'a Type, &'a [u8]);

/// Bytes per part of a parallel copy.
const PART: usize = 1 << 18;

fn out_of_bounds(index: i64, size: usize, dim: usize) -> Error {
    Error::index(format!("index {index} is out of bounds for dimension {dim} with size {size}"))
}

/// The rows that a 1-d index names; negative ones count from the end.
fn rows(index: &[u8], size: usize, dim: usize) -> Result<Vec<usize>> {
    let row = |&i: &i64| {
        let p = if i < 0 { i.checked_add(size as i64) } else { Some(i) };
        match p.and_then(|p| usize::try_from(p).ok()) {
            Some(p) if p < size => Ok(p),
            _ => Err(out_of_bounds(i, size, dim)),
        }
    };
    elements::<i64>(index)?.iter().map(row).collect()
}

/// Checks the indices of a gather or scatter, which may not be negative.
fn check(index: &[i64], size: usize, dim: usize) -> Result<()> {
    match index.iter().find(|&&i| i < 0 || i as u64 >= size as u64) {
        Some(&i) => Err(out_of_bounds(i, size, dim)),
        None => Ok(()),
    }
}

/// `out[.., j, ..] = x[.., index[j], ..]`.
pub(super) fn take(dim: usize, (xt, x): Typed, (_, index): Typed, out: &mut [u8], par: &Par) -> Result<()> {
    let (outer, size, inner) = around(xt, dim)?;
    let rows = rows(index, size, dim)?;
    if out.len() != outer * rows.len() * inner * xt.dtype.size() {
        return Err(Error::internal("take into a buffer of another size"));
    }
    if out.is_empty() {
        return Ok(());
    }
    if inner > 1 {
        return take_rows(size, inner * xt.dtype.size(), &rows, x, out, par);
    }
    with_word!(xt.dtype, T => {
        let (x, out) = (elements::<T>(x)?, elements_mut::<T>(out)?);
        for (from, to) in x.chunks_exact(size).zip(out.chunks_exact_mut(rows.len())) {
            for (o, &r) in to.iter_mut().zip(&rows) {
                *o = from[r];
            }
        }
        Ok(())
    })
}

/// Rows of `row` bytes, `size` of them in each block of `x`.
fn take_rows(size: usize, row: usize, rows: &[usize], x: &[u8], out: &mut [u8], par: &Par) -> Result<()> {
    let per_part = (PART / row).max(1);
    par.for_each_chunk(out, per_part * row, &|part, chunk| {
        for (i, to) in chunk.chunks_exact_mut(row).enumerate() {
            let at = part * per_part + i;
            let from = (at / rows.len() * size + rows[at % rows.len()]) * row;
            to.copy_from_slice(&x[from..from + row]);
        }
    });
    Ok(())
}

/// Calls `visit(first, place, index stride)` for each run of the last axis of `ty`, where `first` is the
/// row-major position of the run in `ty` and `place` its position in a tensor of `other` sizes, `dim` left
/// out. Along the run, places advance by `step`.
fn for_each_run(ty: &Type, other: &Type, dim: usize, mut visit: impl FnMut(usize, usize)) {
    let strides = other.shape.strides();
    let rank = ty.rank();
    let last = ty.shape[rank - 1];
    let mut at = Dims::from_elem(0, rank);
    let runs = ty.numel() / last.max(1);
    for run in 0..runs {
        let place: usize = (0..rank - 1).filter(|&d| d != dim).map(|d| at[d] * strides[d] as usize).sum();
        visit(run * last, place);
        for d in (0..rank - 1).rev() {
            at[d] += 1;
            if at[d] < ty.shape[d] {
                break;
            }
            at[d] = 0;
        }
    }
}

/// How places advance along the last axis and with the index.
fn steps(other: &Type, dim: usize) -> (usize, usize) {
    let along = usize::from(dim + 1 != other.rank());
    (along, other.shape.strides()[dim] as usize)
}

fn ranks_agree(a: &Type, b: &Type, dim: usize) -> Result<()> {
    if a.rank() == b.rank() && dim < a.rank() {
        return Ok(());
    }
    Err(Error::internal(format!("an index of type {a} into {b} along dim {dim}")))
}

/// `out[i][j] = x[index[i][j]][j]`.
pub(super) fn gather(dim: usize, (xt, x): Typed, (it, index): Typed, out: &mut [u8]) -> Result<()> {
    ranks_agree(it, xt, dim)?;
    let index = elements::<i64>(index)?;
    check(index, xt.shape[dim], dim)?;
    if index.is_empty() {
        return Ok(());
    }
    with_word!(xt.dtype, T => gather_words(dim, xt, elements::<T>(x)?, it, index, elements_mut::<T>(out)?))
}

fn gather_words<T: Plain>(dim: usize, xt: &Type, x: &[T], it: &Type, index: &[i64], out: &mut [T]) -> Result<()> {
    let ((along, by_index), last) = (steps(xt, dim), it.shape[it.rank() - 1]);
    let mut fits = true;
    for_each_run(it, xt, dim, |first, place| {
        let run = first..first + last;
        let (Some(index), Some(out)) = (index.get(run.clone()), out.get_mut(run)) else {
            fits = false;
            return;
        };
        for (j, (o, &i)) in out.iter_mut().zip(index).enumerate() {
            match x.get(place + i as usize * by_index + j * along) {
                Some(&v) => *o = v,
                None => fits = false,
            }
        }
    });
    if fits { Ok(()) } else { Err(Error::internal("gather beyond its buffers")) }
}

/// How a mode combines elements.
fn combine<T: Element>(mode: ScatterMode) -> fn(T, T) -> T {
    match mode {
        ScatterMode::Set => |_, b| b,
        ScatterMode::Add => T::plus,
        ScatterMode::Prod => T::times,
        ScatterMode::Max => T::larger,
        ScatterMode::Min => T::smaller,
    }
}

/// `out = base; out[index[i][j]][j] (mode)= src[i][j]`, in row-major order of `src`.
pub(super) fn scatter(
    dim: usize,
    mode: ScatterMode,
    base: Arg,
    (it, index): Typed,
    src: &[u8],
    (ot, out): (&Type, &mut [u8]),
) -> Result<()> {
    ranks_agree(it, ot, dim)?;
    let index = elements::<i64>(index)?;
    check(index, ot.shape[dim], dim)?;
    start_from(base, out);
    if index.is_empty() {
        return Ok(());
    }
    with_element!(ot.dtype, T => {
        let (src, out) = (elements::<T>(src)?, elements_mut::<T>(out)?);
        let ((along, by_index), last) = (steps(ot, dim), it.shape[it.rank() - 1]);
        let combine = combine::<T>(mode);
        let mut fits = true;
        for_each_run(it, ot, dim, |first, place| {
            let run = first..first + last;
            let (Some(index), Some(src)) = (index.get(run.clone()), src.get(run)) else {
                fits = false;
                return;
            };
            for (j, (&s, &i)) in src.iter().zip(index).enumerate() {
                match out.get_mut(place + i as usize * by_index + j * along) {
                    Some(o) => *o = combine(*o, s),
                    None => fits = false,
                }
            }
        });
        if fits { Ok(()) } else { Err(Error::internal("scatter beyond its buffers")) }
    })
}

/// `out = base; out[.., index[j], ..] (mode)= src[.., j, ..]`.
pub(super) fn index_put(
    dim: usize,
    mode: ScatterMode,
    base: Arg,
    (_, index): Typed,
    src: &[u8],
    (ot, out): (&Type, &mut [u8]),
) -> Result<()> {
    let (outer, size, inner) = around(ot, dim)?;
    let rows = rows(index, size, dim)?;
    if src.len() != outer * rows.len() * inner * ot.dtype.size() {
        return Err(Error::internal("index_put from a buffer of another size"));
    }
    start_from(base, out);
    if src.is_empty() || out.is_empty() {
        return Ok(());
    }
    with_element!(ot.dtype, T => {
        let (src, out) = (elements::<T>(src)?, elements_mut::<T>(out)?);
        let combine = combine::<T>(mode);
        for (i, from) in src.chunks_exact(inner).enumerate() {
            let at = (i / rows.len() * size + rows[i % rows.len()]) * inner;
            let to = &mut out[at..at + inner];
            if mode == ScatterMode::Set {
                to.copy_from_slice(from);
            } else {
                for (o, &s) in to.iter_mut().zip(from) {
                    *o = combine(*o, s);
                }
            }
        }
        Ok(())
    })
}

fn start_from(base: Arg, out: &mut [u8]) {
    if let Arg::Bytes(base) = base {
        out.copy_from_slice(base);
    }
}
