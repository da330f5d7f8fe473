//! `all`: logical and of elements.

use super::{reduce_eval, reduce_samples, reduction};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Whether all elements are true over `dims`, which stay with size 1; true where there is none.\n\n>>> torsh.tensor([[True, False], [True, True]]).all(1).tolist()\n[False, True]",
    dtypes: DTypeSet::BOOL,
    vjp: Vjp::None("bool has no gradient"),
    samples: || reduce_samples(Values::Normal),
    ..reduction("all", ReduceOp::All, |c| reduce_eval(c, ReduceOp::All))
};
