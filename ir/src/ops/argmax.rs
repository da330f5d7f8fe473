//! `argmax`: position of the largest element.

use super::{arg_reduction, one_dim_reduce_samples, reduce_eval};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Position as i64 of the first largest element along the one dim in `dims`, which stays with size 1; the first NaN wins. 0 where there is none.\n\n>>> torsh.argmax(torsh.tensor([3., 7., 7., 1.])).item()\n1",
    vjp: Vjp::None("a position is an integer"),
    samples: || one_dim_reduce_samples(Values::Distinct),
    ..arg_reduction("argmax", ReduceOp::ArgMax, |c| reduce_eval(c, ReduceOp::ArgMax))
};
