//! Running reductions.

use super::HostTensor;
use crate::attr::Scalar;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scalar::{BinOp, ReduceOp, eval_bin};

/// Folds `x` along `dim`, keeping every partial result. Sum and Prod of floats accumulate in f64, and each
/// result is rounded once.
pub fn scan(op: ReduceOp, x: &HostTensor, dim: usize) -> Result<HostTensor> {
    let step = match op {
        ReduceOp::Sum => BinOp::Add,
        ReduceOp::Prod => BinOp::Mul,
        ReduceOp::Max => BinOp::Max,
        ReduceOp::Min => BinOp::Min,
        ReduceOp::Any | ReduceOp::All | ReduceOp::ArgMax | ReduceOp::ArgMin => {
            return Err(Error::internal(format!("no scan by {}", op.name())));
        }
    };
    let dtype = x.dtype();
    let acc_dtype = match step {
        BinOp::Add | BinOp::Mul if dtype.is_float() => DType::F64,
        _ => dtype,
    };
    let (stride, size) = (x.ty.shape.strides()[dim] as usize, x.ty.shape[dim]);
    // The unrounded partial result at each element; the one before it along `dim` lies `stride` earlier.
    let mut acc: Vec<Scalar> = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let v = x.get(i);
        acc.push(if i / stride % size == 0 { v } else { eval_bin(step, acc[i - stride], v, acc_dtype) });
    }
    Ok(HostTensor::from_fn(x.ty.clone(), |i| acc[i]))
}
