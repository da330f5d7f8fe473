//! `sum`: reduction by addition.

use super::{reduce_eval, reduce_samples, reduction};
use crate::op::{DTypeSet, OpDef, Tolerance, Values, Vjp};
use crate::scalar::ReduceOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Sum over `dims`, which stay with size 1; 0 where nothing is summed. Floats accumulate in f64 and round once; integers wrap.\n\n>>> torsh.tensor([[1., 2.], [3., 4.]]).sum(1).tolist()\n[3.0, 7.0]",
    dtypes: DTypeSet::NUMBERS,
    // Accumulated in f64 and rounded once on both sides: the order shows in results in f64, and else in the last
    // place. Errors of some hundred additions grow as the root of their number.
    tolerance: Tolerance::scaled(16.0),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.expand(&c.x[0].shape()))]),
    samples: || reduce_samples(Values::Normal),
    ..reduction("sum", ReduceOp::Sum, |c| reduce_eval(c, ReduceOp::Sum))
};
