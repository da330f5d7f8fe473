//! `amin`: smallest element.

use super::{extreme_vjp, reduce_eval, reduce_samples, reduction};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "The smallest element over `dims`, which stay with size 1; NaN propagates. Equal extremes share the gradient evenly. Nothing to compare gives inf or the largest integer.\n\n>>> torsh.amin(torsh.tensor([[1., 5.], [7., 3.]]), 1).tolist()\n[1.0, 3.0]",
    vjp: Vjp::Rule(extreme_vjp),
    samples: || reduce_samples(Values::Distinct),
    ..reduction("amin", ReduceOp::Min, |c| reduce_eval(c, ReduceOp::Min))
};
