//! `isposinf`: plus infinity.

use super::composite::predicate;
use crate::attr::Scalar;
use crate::op::OpDef;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "True where `x` is `inf`.\n\n\
        >>> torsh.isposinf(torsh.tensor([float('inf'), -float('inf')])).tolist()\n[True, False]",
    decompose: Some(|c| {
        let x = c.x[0];
        if !x.dtype().is_float() {
            return x.builder().full(Scalar::Bool(false), c.ty.dtype, &c.ty.shape);
        }
        x.eq(x.full_like(f64::INFINITY))
    }),
    ..predicate("isposinf")
};
