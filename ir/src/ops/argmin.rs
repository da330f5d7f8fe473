//! `argmin`: position of the smallest element.

use super::{arg_reduction, one_dim_reduce_samples, reduce_eval};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Position as i64 of the first smallest element along the one dim in `dims`, which stays with size 1; the first NaN wins. 0 where there is none.\n\n>>> torsh.argmin(torsh.tensor([3., 7., 7., 1.])).item()\n3",
    vjp: Vjp::None("a position is an integer"),
    samples: || one_dim_reduce_samples(Values::Distinct),
    ..arg_reduction("argmin", ReduceOp::ArgMin, |c| reduce_eval(c, ReduceOp::ArgMin))
};
