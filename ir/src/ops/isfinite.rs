//! `isfinite`: neither infinite nor NaN.

use super::composite::predicate;
use crate::attr::Scalar;
use crate::op::OpDef;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "True where `x` is neither infinite nor NaN.\n\n\
        >>> torsh.isfinite(torsh.tensor([1., float('inf')])).tolist()\n[True, False]",
    decompose: Some(|c| {
        let x = c.x[0];
        if !x.dtype().is_float() {
            return x.builder().full(Scalar::Bool(true), c.ty.dtype, &c.ty.shape);
        }
        x.abs().lt(x.full_like(f64::INFINITY))
    }),
    ..predicate("isfinite")
};
