//! `max_pool`: the largest element of each window.

use super::BASE;
use super::pooling::{self, POOL_ATTRS, Pool};
use crate::op::{DTypeSet, OpDef, Tolerance, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "max_pool",
    doc: "`max_pool(x; kernel, stride, padding, dilation, ceil_mode)`: the largest element of each window over the last \
        dims of x; the dims in front are images and channels. `padding` is what lies before and after each dim and is \
        never the largest; with `ceil_mode` a last window may reach beyond it, if it begins inside. The gradient goes \
        to the first largest element of a window in row-major order; NaN counts as largest.\n\n\
        >>> torsh.nn.functional.max_pool1d(torsh.tensor([[1., 3., 2., 0.]]), 2).tolist()\n[[3.0, 2.0]]",
    attrs: POOL_ATTRS,
    dtypes: DTypeSet::NUMBERS,
    infer: pooling::infer,
    decompose: Some(|c| {
        let Ok(pool) = Pool::new(&c.x[0].shape(), c.attrs) else { return c.x[0] };
        pool.fold(pool.lowest_padded(c.x[0]), |a, b| a.maximum(b), "amax").reshape(&c.ty.shape)
    }),
    // One kernel gives each element the cotangents of the windows whose first largest it is: no scatter.
    vjp: Vjp::Rule(|c| {
        let Ok(pool) = Pool::new(&c.x[0].shape(), c.attrs) else { return smallvec![None] };
        let at = c.ct.builder().op("max_pool_position", &[c.x[0]], c.attrs);
        smallvec![Some(pool.back(c.ct, &c.x[0].shape(), Some(at)))]
    }),
    tolerance: Tolerance::EXACT,
    samples: || pooling::samples(true),
    ..BASE
};
