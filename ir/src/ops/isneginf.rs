//! `isneginf`: minus infinity.

use super::composite::predicate;
use crate::attr::Scalar;
use crate::op::OpDef;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "True where `x` is `-inf`.\n\n\
        >>> torsh.isneginf(torsh.tensor([float('inf'), -float('inf')])).tolist()\n[False, True]",
    decompose: Some(|c| {
        let x = c.x[0];
        if !x.dtype().is_float() {
            return x.builder().full(Scalar::Bool(false), c.ty.dtype, &c.ty.shape);
        }
        x.eq(x.full_like(f64::NEG_INFINITY))
    }),
    ..predicate("isneginf")
};
