//! The reference interpreter: the meaning of the IR. Slow, obvious, and independent of every pass and
//! backend.

mod host;

pub use host::HostTensor;

use crate::attr::Scalar;
use crate::error::Result;
use crate::scalar::{self, ReduceOp};
use crate::shape::Type;

/// Folds `x` into the shape of `ty`, whose reduced dims are 1, in row-major order. Sum and Prod of floats
/// accumulate in f64 and round once. ArgMax/ArgMin give the row-major position among the reduced dims.
pub fn reduce(op: ReduceOp, x: &HostTensor, ty: &Type) -> Result<HostTensor> {
    let dtype = x.dtype();
    let acc_dtype = if dtype.is_float() { crate::dtype::DType::F64 } else { dtype };
    let (in_shape, out_strides) = (&x.ty.shape, ty.shape.strides());
    let mut acc: Vec<Option<Scalar>> = vec![None; ty.numel()];
    let mut arg: Vec<(i64, i64)> = vec![(0, 0); ty.numel()]; // (best position, next position)
    let in_strides = in_shape.strides();
    for i in 0..x.len() {
        let mut o = 0;
        for d in 0..in_shape.rank() {
            let pos = i / in_strides[d] as usize % in_shape[d];
            if ty.shape[d] != 1 {
                o += pos * out_strides[d] as usize;
            }
        }
        let v = x.get(i);
        let next = arg[o].1;
        let new = match acc[o] {
            None => v,
            Some(a) => match op {
                ReduceOp::Sum => scalar::eval_bin(scalar::BinOp::Add, a, v, acc_dtype),
                ReduceOp::Prod => scalar::eval_bin(scalar::BinOp::Mul, a, v, acc_dtype),
                ReduceOp::Max => scalar::eval_bin(scalar::BinOp::Max, a, v, dtype),
                ReduceOp::Min => scalar::eval_bin(scalar::BinOp::Min, a, v, dtype),
                ReduceOp::Any => Scalar::Bool(a.as_i64() != 0 || v.as_i64() != 0),
                ReduceOp::All => Scalar::Bool(a.as_i64() != 0 && v.as_i64() != 0),
                ReduceOp::ArgMax | ReduceOp::ArgMin => {
                    let cmp = if op == ReduceOp::ArgMax { scalar::CmpOp::Gt } else { scalar::CmpOp::Lt };
                    let is_nan = |s: Scalar| dtype.is_float() && s.as_f64().is_nan();
                    let better = !is_nan(a) && (is_nan(v) || scalar::eval_cmp(cmp, v, a, dtype));
                    if better {
                        arg[o].0 = next;
                        v
                    } else {
                        a
                    }
                }
            },
        };
        acc[o] = Some(new);
        arg[o].1 = next + 1;
    }
    let is_arg = matches!(op, ReduceOp::ArgMax | ReduceOp::ArgMin);
    Ok(HostTensor::from_fn(ty.clone(), |i| {
        if is_arg { Scalar::Int(arg[i].0) } else { acc[i].unwrap_or_else(|| scalar::identity(op, dtype)) }
    }))
}
