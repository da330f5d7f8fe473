//! Sorting. Every lane is sorted by (key, position), where the key of an element is an integer that orders
//! as the element does: so equal elements keep their order, whatever the algorithm.

use super::element::{Element, with_element};
use super::{Par, around};
use crate::sys::slices::{elements, elements_mut};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// Positions along `dim` that sort `x`.
pub(super) fn argsort(dim: usize, descending: bool, (xt, x): (&Type, &[u8]), out: &mut [u8], par: &Par) -> Result<()> {
    let (_, size, inner) = around(xt, dim)?;
    let out = elements_mut::<i64>(out)?;
    if out.len() != xt.numel() {
        return Err(Error::internal("argsort into a buffer of another size"));
    }
    if out.is_empty() {
        return Ok(());
    }
    let block = size * inner;
    with_element!(xt.dtype, T => {
        let x = elements::<T>(x)?;
        // A part is a number of whole blocks, of about 64 Ki elements.
        let part = block * (65_536 / block).max(1);
        par.for_each_chunk(out, part, &|i, chunk| {
            let mut lane: Vec<(u64, usize)> = Vec::with_capacity(size);
            for (b, out) in chunk.chunks_exact_mut(block).enumerate() {
                let x = &x[i * part + b * block..][..block];
                for j in 0..inner {
                    lane.clear();
                    lane.extend(x[j..].iter().step_by(inner).enumerate().map(|(p, v)| {
                        let key = v.key();
                        (if descending { !key } else { key }, p)
                    }));
                    lane.sort_unstable();
                    for (o, &(_, p)) in out[j..].iter_mut().step_by(inner).zip(&lane) {
                        *o = p as i64;
                    }
                }
            }
        });
        Ok(())
    })
}
