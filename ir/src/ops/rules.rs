//! Pieces that several op files share: index maps for the interpreter, type rules of slices and indices,
//! and the gradient of scatters. No facts of a single op stand here.

use crate::Val;
use crate::attr::{Attr, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interp::HostTensor;
use crate::op::{Cotangents, EvalCall, VjpCall};
use crate::program::ScatterMode;
use crate::scalar::{self, BinOp};
use crate::shape::{Dims, Shape, Type};
use smallvec::smallvec;

/// Coordinates of row-major position `i`.
pub(super) fn unravel(mut i: usize, shape: &[usize]) -> Dims {
    let mut at = Dims::from_elem(0, shape.len());
    for d in (0..shape.len()).rev() {
        at[d] = i % shape[d];
        i /= shape[d];
    }
    at
}

/// Row-major position of coordinates.
pub(super) fn ravel(at: &[usize], shape: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |acc, (&a, &d)| acc * d + a)
}

/// A result whose element at each coordinate is operand 0's at `map` of it, or `fill` where that is `None`.
pub(super) fn eval_view(c: &EvalCall<'_>, fill: Scalar, map: impl Fn(&[usize]) -> Option<Dims>) -> HostTensor {
    let (x, fill) = (c.x[0], scalar::to_bits(fill, c.ty.dtype));
    let mut out = HostTensor::zeros(c.ty.clone());
    for i in 0..out.len() {
        let from = map(&unravel(i, &c.ty.shape));
        out.set_bits(i, from.map_or(fill, |at| x.bits(ravel(&at, &x.ty.shape))));
    }
    out
}

/// A list attribute.
pub(super) fn ints(values: &[i64]) -> Attr {
    Attr::from(values)
}

/// One dim out of an attribute.
pub(super) fn dim_attr(dim: i64, rank: usize) -> Result<usize> {
    super::dims_attr(&[dim], rank).map(|d| d[0])
}

/// Sizes of the slice of `shape` that attributes `at..at + 3` (starts, stops, steps) select.
pub(super) fn slice_sizes(shape: &Shape, a: &[Attr], at: usize) -> Result<Dims> {
    let (starts, stops, steps) = (a.ints(at), a.ints(at + 1), a.ints(at + 2));
    let rank = shape.rank();
    if starts.len() != rank || stops.len() != rank || steps.len() != rank {
        return Err(Error::value(format!("starts, stops and steps must have {rank} entries each, one per dim")));
    }
    let mut out = Dims::new();
    for d in 0..rank {
        let (start, stop, step) = (starts[d], stops[d], steps[d]);
        if start < 0 || start > stop || stop as u64 > shape[d] as u64 || step < 1 {
            return Err(Error::index(format!(
                "slice {start}:{stop}:{step} of dim {d} must satisfy 0 <= start <= stop <= {} and step >= 1",
                shape[d]
            )));
        }
        out.push(((stop - start) as u64).div_ceil(step as u64) as usize);
    }
    Ok(out)
}

/// A value attribute must be represented in `dtype`, so that equal nodes have equal attributes.
pub(super) fn check_value(value: Scalar, dtype: DType) -> Result<()> {
    if value.to_dtype(dtype) != value {
        return Err(Error::value(format!("{value:?} is not represented in {dtype}")));
    }
    Ok(())
}

/// Two operands must have one dtype.
pub(super) fn same_dtype(a: &Type, b: &Type) -> Result<()> {
    if a.dtype != b.dtype {
        return Err(Error::dtype(format!("operands must have one dtype, got {} and {}", a.dtype, b.dtype)));
    }
    Ok(())
}

/// An index operand must be i64.
pub(super) fn index_dtype(index: &Type) -> Result<()> {
    if index.dtype != DType::I64 {
        return Err(Error::dtype(format!("the index must be int64, got {}", index.dtype)));
    }
    Ok(())
}

/// An index operand of `take` and `index_put`: i64 and 1-d.
pub(super) fn index_vector(index: &Type) -> Result<usize> {
    index_dtype(index)?;
    match index.shape.dims() {
        [n] => Ok(*n),
        _ => Err(Error::shape(format!("the index must be 1-d, got shape {}", index.shape))),
    }
}

/// The position that `index` names in a dim of `size`; counts from the end where `negative` allows it.
pub(super) fn position(index: Scalar, size: usize, dim: usize, negative: bool) -> Result<usize> {
    let i = index.as_i64();
    let from_end = if negative && i < 0 { i.checked_add(size as i64) } else { Some(i) };
    match from_end.and_then(|p| usize::try_from(p).ok()) {
        Some(p) if p < size => Ok(p),
        _ => Err(Error::index(format!("index {i} is out of bounds for dimension {dim} with size {size}"))),
    }
}

/// The `mode` attribute of scatters.
pub(super) fn mode_attr(text: &str) -> Result<ScatterMode> {
    ScatterMode::parse(text)
        .ok_or_else(|| Error::value(format!("mode must be one of set, add, prod, amax, amin, got {text:?}")))
}

/// Combines an old value with a new one as `mode` says, rounded to `dtype`.
pub(super) fn combine(mode: ScatterMode, old: Scalar, new: Scalar, dtype: DType) -> Scalar {
    match mode {
        ScatterMode::Set => new,
        ScatterMode::Add => scalar::eval_bin(BinOp::Add, old, new, dtype),
        ScatterMode::Prod => scalar::eval_bin(BinOp::Mul, old, new, dtype),
        ScatterMode::Max => scalar::eval_bin(BinOp::Max, old, new, dtype),
        ScatterMode::Min => scalar::eval_bin(BinOp::Min, old, new, dtype),
    }
}

/// Gradient of `put(base, index, src; dim, mode)`, where `pick(x, index; dim)` reads what `put` writes.
///
/// * set: the base keeps its cotangent where nothing was written; of several writes to one place only the
///   last takes the cotangent, as only it is in the result.
/// * add: both take it.
/// * amax, amin: it is shared evenly between all values equal to the result.
/// * prod: the cotangent times the product of the other factors, also where one factor is zero. (Where two
///   are, second derivatives are taken as 0.)
pub(super) fn put_vjp<'b>(c: &VjpCall<'b, '_>, put: &'static str, pick: &'static str) -> Cotangents<'b> {
    let (base, index, src, ct) = (c.x[0], c.x[1], c.x[2], c.ct);
    let b = ct.builder();
    let dim = c.attrs[0].clone();
    let read = |x: Val<'b>| b.op(pick, &[x, index], std::slice::from_ref(&dim));
    let write = |x: Val<'b>, values: Val<'b>, mode: ScatterMode| {
        b.op(put, &[x, index, values], &[dim.clone(), Attr::from(mode.name())])
    };
    let Ok(mode) = mode_attr(c.attrs.str(1)) else { return smallvec![None, None, None] };
    let (d_base, d_src) = match mode {
        ScatterMode::Set => {
            // Each element of src writes its own number; what can be read back was the last write.
            let shape = src.shape();
            let numbers = b.iota(0, DType::I64, &Shape::of(&[shape.numel()])).reshape(&shape);
            let blank = b.full(Scalar::Int(-1), DType::I64, &base.shape());
            let won = read(write(blank, numbers, ScatterMode::Set)).eq(numbers);
            (write(ct, src.zeros_like(), ScatterMode::Set), won.select(read(ct), src.zeros_like()))
        }
        ScatterMode::Add => (ct, read(ct)),
        ScatterMode::Max | ScatterMode::Min => {
            let (base_hit, src_hit) = (base.eq(c.out), src.eq(read(c.out)));
            let dtype = ct.dtype();
            let count = write(base_hit.cast(dtype), src_hit.cast(dtype), ScatterMode::Add);
            let share = ct / count;
            (base_hit.select(share, ct.zeros_like()), src_hit.select(read(share), src.zeros_like()))
        }
        ScatterMode::Prod => {
            let one = src.full_like(1.0);
            let others = write(base.full_like(1.0), src, ScatterMode::Prod);
            let is_zero = src.eq(src.zeros_like());
            let zeros = read(write(base.zeros_like(), is_zero.cast(src.dtype()), ScatterMode::Add));
            let only_zero = is_zero.bitwise_and(zeros.eq(one));
            let without_it = write(base, only_zero.select(one, src), ScatterMode::Prod);
            let divided = read(ct * c.out) / is_zero.select(one, src);
            (ct * others, only_zero.select(read(ct * without_it), divided))
        }
    };
    smallvec![Some(d_base), None, Some(d_src)]
}
