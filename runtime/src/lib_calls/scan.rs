//! Running reductions, in place. Sums and products of floats accumulate in f64 and each result is rounded
//! once, as in the interpreter.

use super::element::{Element, with_element};
use super::{Par, around};
use crate::sys::slices::elements_mut;
use torsh_ir::scalar::ReduceOp;
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// Folds along `dim`, keeping every partial result.
pub(super) fn scan(op: ReduceOp, dim: usize, ty: &Type, out: &mut [u8], par: &Par) -> Result<()> {
    let (_, size, inner) = around(ty, dim)?;
    if out.is_empty() {
        return Ok(());
    }
    with_element!(ty.dtype, T => {
        let out = elements_mut::<T>(out)?;
        let block = size * inner;
        let part = block * (65_536 / block).max(1);
        let fold: fn(&mut [T], usize) = match op {
            ReduceOp::Sum => |b, inner| wide::<T>(b, inner, T::wide_add),
            ReduceOp::Prod => |b, inner| wide::<T>(b, inner, T::wide_mul),
            ReduceOp::Max => |b, inner| plain::<T>(b, inner, T::larger),
            ReduceOp::Min => |b, inner| plain::<T>(b, inner, T::smaller),
            ReduceOp::Any | ReduceOp::All | ReduceOp::ArgMax | ReduceOp::ArgMin => {
                return Err(Error::internal(format!("no scan by {}", op.name())));
            }
        };
        par.for_each_chunk(out, part, &|_, chunk| {
            chunk.chunks_exact_mut(block).for_each(|b| fold(b, inner));
        });
        Ok(())
    })
}

/// Scans the rows of `inner` elements of one block, accumulating unrounded.
fn wide<T: Element>(block: &mut [T], inner: usize, step: impl Fn(T::Wide, T::Wide) -> T::Wide) {
    let (first, rest) = block.split_at_mut(inner);
    let mut acc: Vec<T::Wide> = first.iter().map(|x| x.wide()).collect();
    for row in rest.chunks_exact_mut(inner) {
        for (x, a) in row.iter_mut().zip(&mut acc) {
            *a = step(*a, x.wide());
            *x = T::narrow(*a);
        }
    }
}

/// Scans the rows of `inner` elements of one block.
fn plain<T: Element>(block: &mut [T], inner: usize, step: impl Fn(T, T) -> T) {
    for i in inner..block.len() {
        block[i] = step(block[i - inner], block[i]);
    }
}
