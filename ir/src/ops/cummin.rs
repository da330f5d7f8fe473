//! `cummin`: running minimum.

use super::{running_extreme_vjp, scan_eval, scan_op, scan_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "The smallest of `x_0 .. x_i` along `dim`; NaN propagates. The gradient goes to the last of equal extremes, as in PyTorch.\n\n>>> torsh.cummin(torsh.tensor([1., 3., 2.]), 0).values.tolist()\n[1.0, 1.0, 1.0]",
    vjp: Vjp::Rule(running_extreme_vjp),
    samples: || scan_samples(Values::Distinct),
    ..scan_op("cummin", ReduceOp::Min, |c| scan_eval(c, ReduceOp::Min))
};
