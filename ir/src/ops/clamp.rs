//! `clamp`: a number kept between bounds.

use super::composite::{float, keep, unary_samples, with_attrs};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::op::{DTypeSet, OpDef, Vjp};
use crate::scalar::{ReduceOp, identity};
use smallvec::smallvec;

/// The op. Only comparisons and choices: exact.
pub static DEF: OpDef = OpDef {
    name: "clamp",
    doc: "`min(max(x, min), max)`. An absent bound is `-inf` or `inf`, for integers too: bounds are converted to \
        `x`'s dtype and saturate. NaN stays NaN. The gradient is `ct` where `min <= x <= max`, else 0.\n\n\
        >>> torsh.clamp(torsh.tensor([-2., 0.5, 7.]), 0, 1).tolist()\n[0.0, 0.5, 1.0]",
    attrs: &[attr("min", AttrKind::Scalar), attr("max", AttrKind::Scalar)],
    dtypes: DTypeSet::NUMBERS,
    decompose: Some(|c| {
        let x = c.x[0];
        let above = bound(x, c.attrs, 0).map_or(x, |lo| x.maximum(lo));
        bound(x, c.attrs, 1).map_or(above, |hi| above.minimum(hi))
    }),
    vjp: Vjp::Rule(|c| {
        let x = c.x[0];
        let above = bound(x, c.attrs, 0).map(|lo| x.ge(lo));
        let below = bound(x, c.attrs, 1).map(|hi| x.le(hi));
        let inside = match (above, below) {
            (Some(a), Some(b)) => Some(a.bitwise_and(b)),
            (a, b) => a.or(b),
        };
        smallvec![Some(inside.map_or(c.ct, |inside| keep(inside, c.ct)))]
    }),
    samples: || {
        let bounds = [(-0.5, 0.75), (f64::NEG_INFINITY, 0.25), (0.25, f64::INFINITY), (1.0, -1.0)];
        bounds.iter().flat_map(|&(lo, hi)| with_attrs(unary_samples(), &[float(lo), float(hi)])).collect()
    },
    ..BASE
};

/// Bound `i` in `x`'s type, or `None` where it bounds nothing.
fn bound<'b>(x: Val<'b>, a: &[Attr], i: usize) -> Option<Val<'b>> {
    let value: Scalar = a.scalar(i).to_dtype(x.dtype());
    let nothing = identity(if i == 0 { ReduceOp::Max } else { ReduceOp::Min }, x.dtype());
    (value != nothing).then(|| x.builder().full(value, x.dtype(), &x.shape()))
}
