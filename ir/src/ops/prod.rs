//! `prod`: reduction by multiplication.

use super::{exclusive, reduce_eval, reduce_samples, reduction, scan};
use crate::attr::AttrsExt;
use crate::builder::Val;
use crate::op::{Cotangents, DTypeSet, OpDef, Tolerance, Values, Vjp, VjpCall};
use crate::scalar::ReduceOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Product over `dims`, which stay with size 1; 1 where nothing is multiplied. Floats accumulate in f64 and round once; integers wrap.\n\n>>> torsh.tensor([2., 3., 4.]).prod().item()\n24.0",
    dtypes: DTypeSet::NUMBERS,
    // Accumulated in f64 and rounded once on both sides: the order shows in results in f64. Each factor adds half
    // an ulp.
    tolerance: Tolerance::scaled(64.0),
    vjp: Vjp::Rule(vjp),
    samples: || reduce_samples(Values::Range(0.5, 1.5)),
    ..reduction("prod", ReduceOp::Prod, |c| reduce_eval(c, ReduceOp::Prod))
};

/// One dim after another, so that each step has one dim.
fn vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    let dims: Vec<usize> = c.attrs.ints(0).iter().map(|&d| d as usize).collect();
    let mut partial = vec![c.x[0]];
    for d in dims.iter().take(dims.len().saturating_sub(1)) {
        partial.push(partial[partial.len() - 1].reduce("prod", &[*d]));
    }
    let ct = dims.iter().zip(&partial).rev().fold(c.ct, |ct, (&d, &x)| along(ct, x, d));
    smallvec![Some(ct)]
}

/// The derivative by an element is the product of all others: those before it times those after it. Nothing is
/// divided, so zeros are like any other number, in derivatives of this too.
fn along<'b>(ct: Val<'b>, x: Val<'b>, dim: usize) -> Val<'b> {
    if x.shape()[dim] == 1 {
        return ct;
    }
    let before = exclusive(scan(x, "cumprod", dim), dim);
    let after = exclusive(scan(x.flip(&[dim]), "cumprod", dim), dim).flip(&[dim]);
    ct.expand(&x.shape()) * (before * after)
}
