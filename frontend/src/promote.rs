//! PyTorch's promotion: dtypes of tensors with dims win over 0-d tensors, which win over Python numbers,
//! unless the latter are of a higher category.

use crate::tensor::Tensor;
use torsh_ir::{DType, Scalar, Shape};

/// An operand: a tensor or a Python number.
#[derive(Clone)]
pub enum Arg {
    /// A tensor.
    Tensor(Tensor),
    /// A Python number; `float` stands for the default float dtype.
    Scalar(Scalar),
}

impl Arg {
    /// Shape; numbers are 0-d.
    pub fn shape(&self) -> Shape {
        match self {
            Arg::Tensor(t) => t.shape(),
            Arg::Scalar(_) => Shape::scalar(),
        }
    }

    fn rank_of_claim(&self) -> Claim {
        match self {
            Arg::Tensor(t) if t.is_weak() => Claim::Number,
            Arg::Tensor(t) if t.rank() == 0 => Claim::ZeroDim,
            Arg::Tensor(_) => Claim::Dims,
            Arg::Scalar(_) => Claim::Number,
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Arg::Tensor(t) if t.is_weak() && t.dtype().is_float() => DType::F32,
            Arg::Tensor(t) => t.dtype(),
            Arg::Scalar(Scalar::Bool(_)) => DType::Bool,
            Arg::Scalar(Scalar::Int(_)) => DType::I64,
            Arg::Scalar(Scalar::Float(_)) => DType::F32,
        }
    }

    /// True for Python numbers and tensors that stand for one.
    pub fn is_number(&self) -> bool {
        self.rank_of_claim() == Claim::Number
    }
}

impl From<&Tensor> for Arg {
    fn from(t: &Tensor) -> Arg {
        Arg::Tensor(t.clone())
    }
}

#[derive(Copy, Clone, PartialEq)]
enum Claim {
    Dims,
    ZeroDim,
    Number,
}

/// The dtype in which an operation on these operands is computed (torch.result_type).
pub fn result_type(args: &[Arg]) -> DType {
    let mut by_claim: [Option<DType>; 3] = [None; 3];
    for arg in args {
        let slot = &mut by_claim[arg.rank_of_claim() as usize];
        *slot = merge(*slot, Some(arg.dtype()));
    }
    let [dims, zero, number] = by_claim;
    combine(dims, combine(zero, number)).unwrap_or(DType::F32)
}

fn merge(a: Option<DType>, b: Option<DType>) -> Option<DType> {
    match (a, b) {
        (Some(a), Some(b)) => Some(DType::promote(a, b)),
        (a, b) => a.or(b),
    }
}

fn combine(higher: Option<DType>, lower: Option<DType>) -> Option<DType> {
    match (higher, lower) {
        (Some(h), _) if h.is_float() => Some(h),
        (Some(DType::Bool), _) => merge(higher, lower),
        (_, Some(l)) if l.is_float() => merge(higher, lower),
        (Some(h), _) => Some(h),
        (None, l) => l,
    }
}

/// Whether a result of dtype `from` may be stored in a tensor of dtype `to` in place (torch.can_cast).
pub fn can_cast(from: DType, to: DType) -> bool {
    (to.is_float() || !from.is_float()) && (to != DType::Bool || from == DType::Bool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_yield_to_no_tensor_at_all() {
        let of = |s: &[Scalar]| result_type(&s.iter().map(|&s| Arg::Scalar(s)).collect::<Vec<_>>());
        assert_eq!(of(&[Scalar::Bool(true)]), DType::Bool);
        assert_eq!(of(&[Scalar::Bool(true), Scalar::Int(1)]), DType::I64);
        assert_eq!(of(&[Scalar::Int(1), Scalar::Float(1.0)]), DType::F32);
    }

    #[test]
    fn categories_combine_as_in_pytorch() {
        use DType::*;
        assert_eq!(combine(Some(I8), Some(I64)), Some(I8));
        assert_eq!(combine(Some(I8), Some(F64)), Some(F64));
        assert_eq!(combine(Some(F16), Some(F64)), Some(F16));
        assert_eq!(combine(Some(Bool), Some(U8)), Some(U8));
        assert_eq!(combine(None, Some(F32)), Some(F32));
        assert!(can_cast(I64, F16) && !can_cast(F32, I64) && !can_cast(I8, Bool) && can_cast(Bool, I8));
    }
}
