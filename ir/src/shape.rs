//! Shapes, strides and broadcasting, in checked arithmetic.

use crate::dtype::DType;
use crate::error::{Error, Result};
use smallvec::SmallVec;
use std::fmt;
use std::ops::Deref;

/// A short list of sizes, indices or dims.
pub type Dims = SmallVec<[usize; 6]>;
/// A short list of signed numbers: strides, steps, dims counted from the end.
pub type Ints = SmallVec<[i64; 6]>;

/// Sizes of a tensor, outermost first. Always satisfies `numel * 8 <= i64::MAX`
/// when made by [`Shape::new`] or checked by [`Shape::numel`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Dims);

impl Shape {
    /// A shape from sizes, refused when the element count cannot be addressed.
    pub fn new(dims: &[usize]) -> Result<Shape> {
        let shape = Shape(Dims::from_slice(dims));
        shape.checked_numel()?;
        Ok(shape)
    }

    /// A shape whose element count is known to fit, such as one derived from an existing tensor.
    pub fn of(dims: &[usize]) -> Shape {
        Shape(Dims::from_slice(dims))
    }

    /// The 0-d shape.
    pub fn scalar() -> Shape {
        Shape::default()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Element count; the constructor has checked that it fits.
    pub fn numel(&self) -> usize {
        self.0.iter().fold(1usize, |a, &d| a.saturating_mul(d))
    }

    /// Element count, refused beyond `i64::MAX / 8` (so that a byte size always fits too). Sizes of zero count
    /// as one in this check: no product of some of the sizes overflows either.
    pub fn checked_numel(&self) -> Result<usize> {
        let mut n: u64 = 1;
        for &d in &self.0 {
            n = n.checked_mul(d.max(1) as u64).filter(|&n| n <= (i64::MAX as u64) / 8).ok_or_else(|| {
                Error::limit(format!("a tensor of shape {self} has more elements than can be addressed"))
            })?;
        }
        Ok(if self.0.contains(&0) { 0 } else { n as usize })
    }

    /// Row-major element strides.
    pub fn strides(&self) -> Ints {
        let mut strides = Ints::from_elem(1, self.rank());
        let mut acc = 1i64;
        for i in (0..self.rank()).rev() {
            strides[i] = acc;
            acc = acc.wrapping_mul(self.0[i].max(1) as i64);
        }
        strides
    }

    /// NumPy broadcasting of two shapes.
    pub fn broadcast(a: &Shape, b: &Shape) -> Result<Shape> {
        let rank = a.rank().max(b.rank());
        let mut out = Dims::from_elem(1, rank);
        for i in 0..rank {
            let da = if i + a.rank() >= rank { a.0[i + a.rank() - rank] } else { 1 };
            let db = if i + b.rank() >= rank { b.0[i + b.rank() - rank] } else { 1 };
            out[i] = match (da, db) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                (x, y) => {
                    return Err(Error::shape(format!(
                        "shapes {a} and {b} cannot be broadcast together: sizes {x} and {y} differ at dimension {i} of {rank} and neither is 1"
                    )));
                }
            };
        }
        Shape::new(&out)
    }

    /// Normalises a dim that may count from the end; 0-d tensors accept 0 and -1.
    pub fn dim(&self, dim: i64) -> Result<usize> {
        let rank = self.rank().max(1) as i64;
        if dim < -rank || dim >= rank {
            return Err(Error::index(format!(
                "Dimension out of range (expected to be in range of [{}, {}], but got {dim})",
                -rank,
                rank - 1
            )));
        }
        Ok(if dim < 0 { dim + rank } else { dim } as usize)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Dtype and shape of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: Shape) -> Type {
        Type { dtype, shape }
    }
    /// A 0-d type.
    pub fn scalar(dtype: DType) -> Type {
        Type::new(dtype, Shape::scalar())
    }
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }
    /// Element count.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }
    /// Size in bytes; fits because [`Shape`] bounds the element count.
    pub fn nbytes(&self) -> usize {
        self.numel().saturating_mul(self.dtype.size())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype.short(), self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_shapes_are_refused_and_zero_sizes_are_not() {
        assert!(Shape::new(&[1 << 31, 1 << 31, 4]).is_err());
        assert_eq!(Shape::new(&[1 << 40, 0]).unwrap().numel(), 0);
        assert!(Shape::new(&[1 << 40, 1 << 40, 0]).is_err());
    }

    #[test]
    fn broadcasting() {
        let s = |d: &[usize]| Shape::of(d);
        assert_eq!(Shape::broadcast(&s(&[3, 1]), &s(&[4])).unwrap(), s(&[3, 4]));
        assert_eq!(Shape::broadcast(&s(&[0]), &s(&[1])).unwrap(), s(&[0]));
        assert!(Shape::broadcast(&s(&[2]), &s(&[3])).is_err());
    }
}
