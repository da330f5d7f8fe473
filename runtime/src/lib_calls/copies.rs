//! Copies and fills, cut into parts where that is faster.

use super::element::{Element, with_element};
use super::{Arg, Par};
use crate::sys::slices::elements_mut;
use torsh_ir::scalar::to_bits;
use torsh_ir::{DType, Result, Scalar};

/// Bytes per part: copying these takes longer than waking a thread.
const PART: usize = 1 << 20;

/// Copies `x` to `out`, of the same length, unless it is there already.
pub(super) fn copy(x: Arg, out: &mut [u8], par: &Par) {
    if let Arg::Bytes(x) = x {
        par.for_each_chunk(out, PART, &|i, part| {
            part.copy_from_slice(&x[i * PART..i * PART + part.len()]);
        });
    }
}

/// Fills `out` with `value`.
pub(super) fn fill(value: Scalar, dtype: DType, out: &mut [u8], par: &Par) -> Result<()> {
    let bits = to_bits(value.to_dtype(dtype), dtype);
    with_element!(dtype, T => {
        let value = T::of_bits(bits);
        let out = elements_mut::<T>(out)?;
        par.for_each_chunk(out, PART / size_of::<T>(), &|_, part| part.fill(value));
        Ok(())
    })
}
