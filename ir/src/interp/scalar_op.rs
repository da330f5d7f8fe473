//! Scalar operations on raw bits, shared by both levels: moves keep every bit of a NaN.

use crate::dtype::DType;
use crate::scalar::{self, ScalarOp, from_bits, to_bits};

/// Applies `op` to operands given as bits of their dtypes; the result is bits of `out`.
pub(super) fn apply(op: ScalarOp, x: &[u64], dtypes: &[DType], out: DType) -> u64 {
    let arg = |i: usize| from_bits(x[i], dtypes[i]);
    match op {
        ScalarOp::Un(u) => to_bits(scalar::eval_un(u, arg(0), dtypes[0]), out),
        ScalarOp::Bin(b) => to_bits(scalar::eval_bin(b, arg(0), arg(1), dtypes[0]), out),
        ScalarOp::Cmp(c) => u64::from(scalar::eval_cmp(c, arg(0), arg(1), dtypes[0])),
        ScalarOp::Select => {
            if x[0] as u8 != 0 {
                x[1]
            } else {
                x[2]
            }
        }
        ScalarOp::Cast if dtypes[0] == out => x[0],
        ScalarOp::Cast => to_bits(scalar::convert(arg(0), out), out),
        ScalarOp::Bitcast => x[0],
    }
}
