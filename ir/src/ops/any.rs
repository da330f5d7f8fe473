//! `any`: logical or of elements.

use super::{reduce_eval, reduce_samples, reduction};
use crate::op::{DTypeSet, OpDef, Values, Vjp};
use crate::scalar::ReduceOp;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Whether some element is true over `dims`, which stay with size 1; false where there is none.\n\n>>> torsh.tensor([[True, False], [True, True]]).any(1).tolist()\n[True, True]",
    dtypes: DTypeSet::BOOL,
    vjp: Vjp::None("bool has no gradient"),
    samples: || reduce_samples(Values::Normal),
    ..reduction("any", ReduceOp::Any, |c| reduce_eval(c, ReduceOp::Any))
};
