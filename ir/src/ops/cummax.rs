//! `cummax`: running maximum.

use super::{running_extreme_vjp, scan_eval, scan_op, scan_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "The largest of `x_0 .. x_i` along `dim`; NaN propagates. The gradient goes to the last of equal extremes, as in PyTorch.\n\n>>> torsh.cummax(torsh.tensor([1., 3., 2.]), 0).values.tolist()\n[1.0, 3.0, 3.0]",
    vjp: Vjp::Rule(running_extreme_vjp),
    samples: || scan_samples(Values::Distinct),
    ..scan_op("cummax", ReduceOp::Max, |c| scan_eval(c, ReduceOp::Max))
};
