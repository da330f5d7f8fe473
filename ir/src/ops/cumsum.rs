//! `cumsum`: running sum.

use super::{scan, scan_eval, scan_op, scan_samples};
use crate::attr::AttrsExt;
use crate::op::{DTypeSet, OpDef, Tolerance, Values, Vjp};
use crate::scalar::ReduceOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`out_i = x_0 + .. + x_i` along `dim`. Floats accumulate in f64 and round each result once; integers wrap.\n\n>>> torsh.cumsum(torsh.tensor([1., 2., 3.]), 0).tolist()\n[1.0, 3.0, 6.0]",
    dtypes: DTypeSet::NUMBERS,
    // As `sum`.
    tolerance: Tolerance::scaled(16.0),
    // The cotangent of an element is the sum of those of its own and all later results.
    vjp: Vjp::Rule(|c| {
        let dim = c.attrs.int(0) as usize;
        smallvec![Some(scan(c.ct.flip(&[dim]), "cumsum", dim).flip(&[dim]))]
    }),
    samples: || scan_samples(Values::Normal),
    ..scan_op("cumsum", ReduceOp::Sum, |c| scan_eval(c, ReduceOp::Sum))
};
