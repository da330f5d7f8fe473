//! `max_pool_position`: where in its window the largest element is.

use super::BASE;
use super::pooling::{self, POOL_ATTRS, Pool};
use crate::Val;
use crate::attr::Scalar;
use crate::op::{Call, DTypeSet, OpDef, Tolerance, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "max_pool_position",
    doc: "`max_pool_position(x; kernel, stride, padding, dilation, ceil_mode)`: the row-major position in its window of \
        the element that `max_pool` gives, the first of several; NaN counts as largest. The numbers are held in the \
        working precision of x, which lets kernels compare and choose without conversions, or as int64 for windows too \
        large for that.\n\n\
        >>> torsh.nn.functional.max_pool1d(torsh.tensor([[1., 3., 2., 0.]]), 2, return_indices=True)[1].tolist()\n\
        [[1, 2]]",
    attrs: POOL_ATTRS,
    dtypes: DTypeSet::NUMBERS,
    infer: |x, a| {
        let dtype = Pool::new(&x[0].shape, a)?.position_dtype(x[0].dtype);
        Ok(Type::new(dtype, pooling::infer(x, a)?.shape))
    },
    decompose: Some(decompose),
    vjp: Vjp::None("a position is piecewise constant"),
    tolerance: Tolerance::EXACT,
    samples: || pooling::samples(true).into_iter().map(crate::op::Sample::no_grad).collect(),
    ..BASE
};

fn decompose<'b>(c: &Call<'b, '_>) -> Val<'b> {
    let Ok(pool) = Pool::new(&c.x[0].shape(), c.attrs) else { return c.x[0] };
    let x = pool.lowest_padded(c.x[0]);
    let b = x.builder();
    let first = pool.first_inside(b, c.ty.dtype, &c.ty.shape);
    if !pool.chained() {
        // Padding is found only where nothing is larger: then the first element inside is as large.
        let (at, best) = pool.arg(x);
        let nothing = best.eq(b.full(pooling::lowest(x.dtype()), x.dtype(), &best.shape()));
        return nothing.reshape(&c.ty.shape).select(first, at.cast(c.ty.dtype).reshape(&c.ty.shape));
    }
    let (mut best, mut at) = (pool.part(x, 0), first);
    for k in 1..pool.windows.positions() {
        let next = pool.part(x, k);
        let mut better = next.gt(best);
        if next.dtype().is_float() {
            better = better.bitwise_or(next.ne(next));
        }
        at = better.select(b.full(Scalar::Int(k as i64), c.ty.dtype, &c.ty.shape), at);
        best = best.maximum(next);
    }
    at
}
