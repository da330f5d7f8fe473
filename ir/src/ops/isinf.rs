//! `isinf`: infinite.

use super::composite::predicate;
use crate::attr::Scalar;
use crate::op::OpDef;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "True where `x` is infinite.\n\n\
        >>> torsh.isinf(torsh.tensor([1., -float('inf')])).tolist()\n[False, True]",
    decompose: Some(|c| {
        let x = c.x[0];
        if !x.dtype().is_float() {
            return x.builder().full(Scalar::Bool(false), c.ty.dtype, &c.ty.shape);
        }
        x.abs().eq(x.full_like(f64::INFINITY))
    }),
    ..predicate("isinf")
};
