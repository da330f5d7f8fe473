//! `nan_to_num`: numbers in place of NaN and infinities.

use super::composite::{float, float_map, keep, unary_samples, with_attrs};
use super::attr;
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{OpDef, Tolerance, Vjp};
use smallvec::smallvec;

/// The op. Only comparisons and choices: exact.
pub static DEF: OpDef = OpDef {
    doc: "`x` with NaN replaced by `nan`, `inf` by `posinf` and `-inf` by `neginf`; the gradient there is 0.\n\n\
        >>> torsh.nan_to_num(torsh.tensor([float('nan'), 2.])).tolist()\n[0.0, 2.0]",
    attrs: &[attr("nan", AttrKind::Scalar), attr("posinf", AttrKind::Scalar), attr("neginf", AttrKind::Scalar)],
    decompose: Some(|c| {
        let x = c.x[0];
        let full = |i: usize| x.builder().full(c.attrs.scalar(i), x.dtype(), &x.shape());
        let out = x.ne(x).select(full(0), x);
        let out = x.eq(x.full_like(f64::INFINITY)).select(full(1), out);
        x.eq(x.full_like(f64::NEG_INFINITY)).select(full(2), out)
    }),
    vjp: Vjp::Rule(|c| {
        let x = c.x[0];
        smallvec![Some(keep(x.abs().lt(x.full_like(f64::INFINITY)), c.ct))]
    }),
    tolerance: Tolerance::EXACT,
    samples: || with_attrs(unary_samples(), &[float(0.0), float(100.0), float(-100.0)]),
    ..float_map("nan_to_num")
};
