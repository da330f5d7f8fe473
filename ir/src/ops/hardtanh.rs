//! `hardtanh`: a line between two bounds.

use super::composite::unary_samples;
use super::composite::{float, with_attrs};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::op::{DTypeSet, OpDef, Vjp};
use smallvec::smallvec;

/// The op. Only comparisons and choices: exact.
pub static DEF: OpDef = OpDef {
    name: "hardtanh",
    doc: "`min(max(x, min_val), max_val)`; `relu6` has bounds 0 and 6. Unlike `clamp`, the gradient at the bounds \
        is 0.\n\n\
        >>> torsh.nn.functional.relu6(torsh.tensor([-1., 3., 9.])).tolist()\n[0.0, 3.0, 6.0]",
    attrs: &[attr("min_val", AttrKind::Scalar), attr("max_val", AttrKind::Scalar)],
    dtypes: DTypeSet::NUMBERS,
    decompose: Some(|c| {
        let (lo, hi) = bounds(c.x[0], c.attrs);
        c.x[0].maximum(lo).minimum(hi)
    }),
    vjp: Vjp::Rule(|c| {
        let (lo, hi) = bounds(c.x[0], c.attrs);
        let outside = c.x[0].le(lo).bitwise_or(c.x[0].ge(hi));
        smallvec![Some(outside.select(c.ct.zeros_like(), c.ct))]
    }),
    samples: || {
        let mut s = with_attrs(unary_samples(), &[float(-1.0), float(1.0)]);
        s.extend(with_attrs(unary_samples(), &[float(0.0), float(6.0)]));
        s
    },
    ..BASE
};

/// The two bounds in the operand's type.
fn bounds<'b>(x: Val<'b>, a: &[Attr]) -> (Val<'b>, Val<'b>) {
    let full = |i: usize| x.builder().full(a.scalar(i), x.dtype(), &x.shape());
    (full(0), full(1))
}
