//! What is called instead of generated: matrix products and the data movements whose addresses are data.
//! Operands are the bytes of contiguous buffers; their types are those of the verified program. No `unsafe`
//! here: typed views and parallel writes come from [`crate::sys`].

pub(crate) mod attention;
mod copies;
mod dot;
mod element;
mod index;
mod order;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use crate::sys::gemm::{FRONT_BYTES, Level, Means};
pub(crate) use crate::sys::par::Par;
pub(crate) use dot::{Epilogue, PackKey, Prologue, dot, flatten, pack, pack_key, scratch, takes_rows};

use torsh_ir::program::LibCall;
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// An argument of a library call.
#[derive(Copy, Clone)]
pub(crate) enum Arg<'a> {
    /// Its own memory.
    Bytes(&'a [u8]),
    /// The memory of the result: an update in place.
    Out,
}

/// Runs a library call. `types` are those of `args`; `out_ty` is that of `out`.
pub(crate) fn run(
    call: &LibCall,
    types: &[&Type],
    args: &[Arg],
    out_ty: &Type,
    out: &mut [u8],
    par: &Par,
) -> Result<()> {
    let sizes_hold = types.len() == args.len()
        && out.len() == out_ty.nbytes()
        && types.iter().zip(args).all(|(t, a)| match a {
            Arg::Bytes(b) => b.len() == t.nbytes(),
            Arg::Out => t.nbytes() == out.len(),
        });
    if !sizes_hold {
        return Err(Error::internal("a library call on buffers of other sizes than its types"));
    }
    match (call, args, types) {
        (LibCall::Take { dim }, [Arg::Bytes(x), Arg::Bytes(index)], [xt, it]) => {
            index::take(*dim, (xt, x), (it, index), out, par)
        }
        (LibCall::Gather { dim }, [Arg::Bytes(x), Arg::Bytes(index)], [xt, it]) => {
            index::gather(*dim, (xt, x), (it, index), out)
        }
        (LibCall::Scatter { dim, mode }, [base, Arg::Bytes(index), Arg::Bytes(src)], [_, it, _]) => {
            index::scatter(*dim, *mode, *base, (it, index), src, (out_ty, out))
        }
        (LibCall::IndexPut { dim, mode }, [base, Arg::Bytes(index), Arg::Bytes(src)], [_, it, _]) => {
            index::index_put(*dim, *mode, *base, (it, index), src, (out_ty, out))
        }
        (LibCall::ArgSort { dim, descending }, [Arg::Bytes(x)], [xt]) => {
            order::argsort(*dim, *descending, (xt, x), out, par)
        }
        (LibCall::Scan { op, dim }, [x], [xt]) => {
            copies::copy(*x, out, par);
            scan::scan(*op, *dim, xt, out, par)
        }
        (LibCall::Fill(value), [], []) => copies::fill(*value, out_ty.dtype, out, par),
        (LibCall::Copy, [x], [_]) => {
            copies::copy(*x, out, par);
            Ok(())
        }
        _ => Err(Error::internal(format!("{call:?} on {} arguments", args.len()))),
    }
}

/// `(outer, size, inner)`: the extents before, at and after `dim`.
fn around(ty: &Type, dim: usize) -> Result<(usize, usize, usize)> {
    let dims = ty.shape.dims();
    match dims.get(dim) {
        Some(&size) => Ok((product(&dims[..dim]), size, product(&dims[dim + 1..]))),
        None => Err(Error::internal(format!("dim {dim} of {ty}"))),
    }
}

/// The product of extents; it saturates where another extent of the type is 0.
fn product(dims: &[usize]) -> usize {
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}
