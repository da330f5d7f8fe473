//! `amax`: largest element.

use super::{extreme_vjp, reduce_eval, reduce_samples, reduction};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "The largest element over `dims`, which stay with size 1; NaN propagates. Equal extremes share the gradient evenly. Nothing to compare gives -inf or the smallest integer.\n\n>>> torsh.amax(torsh.tensor([[1., 5.], [7., 3.]]), 1).tolist()\n[5.0, 7.0]",
    vjp: Vjp::Rule(extreme_vjp),
    samples: || reduce_samples(Values::Distinct),
    ..reduction("amax", ReduceOp::Max, |c| reduce_eval(c, ReduceOp::Max))
};
