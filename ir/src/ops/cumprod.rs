//! `cumprod`: running product.

use super::{exclusive, head, pad_dim, scan_eval, scan_op, scan_samples, tail};
use crate::attr::AttrsExt;
use crate::op::{Cotangents, DTypeSet, OpDef, Tolerance, Values, Vjp, VjpCall};
use crate::scalar::ReduceOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`out_i = x_0 * .. * x_i` along `dim`. Floats accumulate in f64 and round each result once; integers wrap.\n\n>>> torsh.cumprod(torsh.tensor([1., 2., 3.]), 0).tolist()\n[1.0, 2.0, 6.0]",
    dtypes: DTypeSet::NUMBERS,
    // As `prod`.
    tolerance: Tolerance::scaled(64.0),
    vjp: Vjp::Rule(vjp),
    samples: || scan_samples(Values::Range(0.5, 1.5)),
    ..scan_op("cumprod", ReduceOp::Prod, |c| scan_eval(c, ReduceOp::Prod))
};

/// `dx_i = (x_0 .. x_(i-1)) r_i` with the linear recurrence `r_i = ct_i + x_(i+1) r_(i+1)`, solved by doubling the
/// reach of each term: after a step of `s`, `sum_i` holds the terms of `2 s` results and `product_i` the factor
/// `x_(i+1) .. x_(i+2s)`. Nothing is divided, so zeros are like any other number, in derivatives of this too.
fn vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    let (x, dim) = (c.x[0], c.attrs.int(0) as usize);
    let n = x.shape()[dim];
    if n < 2 {
        return smallvec![Some(c.ct)];
    }
    let mut sum = c.ct;
    let mut product = tail(x, dim, 1);
    let mut s = 1;
    while s < n {
        sum = sum + pad_dim(product * tail(sum, dim, s), dim, 0, s, 0.0);
        if 2 * s < n {
            product = head(product, dim, n - 2 * s) * tail(product, dim, s);
        }
        s *= 2;
    }
    smallvec![Some(exclusive(c.out, dim) * sum)]
}
