//! `avg_pool`: the mean of each window.

use super::composite::wide;
use super::pooling::{self, Pool};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::{Error, Result};
use crate::op::{DTypeSet, OpDef, Sample, Tolerance, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "avg_pool",
    doc: "`avg_pool(x; kernel, stride, padding, ceil_mode, count_include_pad, divisor)`: the sum of each window over the \
        last dims of x, divided by `divisor` or, where that is 0, by the number of elements in the window: those of the \
        padding, which are 0, count if `count_include_pad`.\n\n\
        >>> torsh.nn.functional.avg_pool1d(torsh.tensor([[1., 3., 2., 0.]]), 2).tolist()\n[[2.0, 1.0]]",
    attrs: &[
        attr("kernel", AttrKind::Ints),
        attr("stride", AttrKind::Ints),
        attr("padding", AttrKind::Ints),
        attr("ceil_mode", AttrKind::Bool),
        attr("count_include_pad", AttrKind::Bool),
        attr("divisor", AttrKind::Int),
    ],
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        let pool = average(&x[0].shape, a)?;
        if a.int(5) < 0 {
            return Err(Error::value(format!("divisor must not be negative, got {}", a.int(5))));
        }
        Ok(Type::new(x[0].dtype, pool.shape(&x[0].shape)?))
    },
    decompose: Some(|c| {
        let Ok(pool) = average(&c.x[0].shape(), c.attrs) else { return c.x[0] };
        let x = pool.windows.pad(wide(c.x[0]), pool.first, Scalar::Int(0));
        let sums = pool.fold(x, |a, b| a + b, "sum").reshape(&c.ty.shape);
        divided(sums, &pool, &c.x[0].shape(), c.attrs).cast(c.ty.dtype)
    }),
    vjp: Vjp::Rule(|c| {
        let shape = c.x[0].shape();
        let Ok(pool) = average(&shape, c.attrs) else { return smallvec![None] };
        let share = divided(wide(c.ct), &pool, &shape, c.attrs);
        smallvec![Some(pool.back(share, &shape, None).cast(c.ct.dtype()))]
    }),
    // Sums of a window, one rounding each.
    tolerance: Tolerance::scaled(16.0),
    samples: || {
        let mut out = Vec::new();
        for (i, s) in pooling::samples(false).into_iter().enumerate() {
            // Without a dilation, which a mean has not.
            let dilated = s.attrs.ints(3).iter().any(|&d| d != 1);
            if dilated {
                continue;
            }
            let mut attrs = s.attrs.clone();
            attrs.remove(3);
            let divisor = if i % 4 == 3 { 7 } else { 0 };
            attrs.extend([Attr::Bool(i % 2 == 0), Attr::Int(divisor)]);
            out.push(Sample { attrs, ..s });
        }
        out
    },
    ..BASE
};

fn average(x: &Shape, a: &[Attr]) -> Result<Pool> {
    let ones: Attr = vec![1i64; a.ints(0).len()].as_slice().into();
    Pool::new(x, &[a[0].clone(), a[1].clone(), a[2].clone(), ones, a[3].clone()])
}

/// Divides the sum of each window by what attributes 4 and 5 ask for.
fn divided<'b>(sums: Val<'b>, pool: &Pool, x: &Shape, a: &[Attr]) -> Val<'b> {
    let n = pool.windows.dims();
    if a.int(5) != 0 {
        return sums / sums.full_like(a.int(5) as f64);
    }
    let mut constant = 1.0;
    let mut count: Option<Val<'b>> = None;
    let shape = sums.shape();
    for d in 0..n {
        let (size, lo, kernel) = (x[pool.first + d] as i64, pool.windows.lo[d], pool.windows.kernel[d]);
        let members = |o: usize| {
            let begin = o as i64 * pool.windows.stride[d] - lo;
            if a.bool(4) { (size + lo).min(begin + kernel) - begin } else { size.min(begin + kernel) - begin.max(0) }
        };
        let counts = pool.counts[d];
        if (1..counts).all(|o| members(o) == members(0)) {
            constant *= members(0) as f64;
            continue;
        }
        let own = pooling::along(sums.builder(), sums.dtype(), &shape, pool.first + d, |o| Scalar::Int(members(o)));
        count = Some(count.map_or(own, |c| c * own));
    }
    match count {
        None => sums / sums.full_like(constant),
        Some(c) => sums / c.scale(constant),
    }
}
