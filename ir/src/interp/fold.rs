//! The one fold behind reductions of both levels.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::scalar::{self, BinOp, CmpOp, ReduceOp};

/// A running reduction. Values arrive in row-major order. Sum and Prod of floats accumulate in f64 and
/// round once in [`Fold::finish`]; ArgMax/ArgMin give the position of the winner.
#[derive(Clone)]
pub(super) struct Fold {
    op: ReduceOp,
    dtype: DType,
    acc: Option<Scalar>,
    best: i64,
    next: i64,
}

impl Fold {
    /// An empty fold of values of `dtype`.
    pub fn new(op: ReduceOp, dtype: DType) -> Fold {
        Fold { op, dtype, acc: None, best: 0, next: 0 }
    }

    /// Folds in the next value.
    pub fn push(&mut self, v: Scalar) {
        let wide = if self.dtype.is_float() { DType::F64 } else { self.dtype };
        let new = match self.acc {
            None => v,
            Some(a) => match self.op {
                ReduceOp::Sum => scalar::eval_bin(BinOp::Add, a, v, wide),
                ReduceOp::Prod => scalar::eval_bin(BinOp::Mul, a, v, wide),
                ReduceOp::Max => scalar::eval_bin(BinOp::Max, a, v, self.dtype),
                ReduceOp::Min => scalar::eval_bin(BinOp::Min, a, v, self.dtype),
                ReduceOp::Any => Scalar::Bool(a.as_i64() != 0 || v.as_i64() != 0),
                ReduceOp::All => Scalar::Bool(a.as_i64() != 0 && v.as_i64() != 0),
                ReduceOp::ArgMax => self.arg(CmpOp::Gt, a, v),
                ReduceOp::ArgMin => self.arg(CmpOp::Lt, a, v),
            },
        };
        self.acc = Some(new);
        self.next += 1;
    }

    fn arg(&mut self, better: CmpOp, a: Scalar, v: Scalar) -> Scalar {
        let nan = |s: Scalar| self.dtype.is_float() && s.as_f64().is_nan();
        if !nan(a) && (nan(v) || scalar::eval_cmp(better, v, a, self.dtype)) {
            self.best = self.next;
            v
        } else {
            a
        }
    }

    /// The result: the identity when nothing was folded.
    pub fn finish(&self) -> Scalar {
        match self.op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => Scalar::Int(self.best),
            op => self.acc.unwrap_or_else(|| scalar::identity(op, self.dtype)),
        }
    }
}
