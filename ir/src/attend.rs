//! The library calls of attention: sizes, options and strided operands.

use crate::attr::{Attr, Scalar};
use crate::dtype::DType;
use crate::ops::attention::{Options, Sizes};
use crate::program::reach;
use crate::shape::{Dims, Ints, Shape, Type};

/// A strided operand: element `[b, i, j]` is at `offset + b . batch + i * row + j * col`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Side {
    /// Offset of the first element.
    pub offset: i64,
    /// One stride per batch axis.
    pub batch: Ints,
    /// Stride of rows.
    pub row: i64,
    /// Stride of columns.
    pub col: i64,
}

/// An attention over strided operands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attend {
    /// Batch extents.
    pub batch: Dims,
    /// Rows of the query.
    pub queries: usize,
    /// Rows of key and value.
    pub keys: usize,
    /// Columns of query and key.
    pub depth: usize,
    /// Columns of the value.
    pub width: usize,
    /// Dtype of query, key, value and, for the gradient, the cotangent: f32, or a 16-bit float where the target
    /// takes them.
    pub dtype: DType,
    /// Factor of the scores.
    pub scale: Scalar,
    /// Query `i` sees keys `0..=i`.
    pub causal: bool,
    /// Probability with which a weight becomes 0.
    pub dropout: Scalar,
    /// There is a mask.
    pub mask: bool,
    /// Rows without a key give 0 instead of NaN.
    pub safe: bool,
    /// The result goes on with the logarithm of each row's sum (forward only).
    pub lse: bool,
    /// One per operand, in the op's order.
    pub sides: Vec<Side>,
}

impl Attend {
    /// The options.
    pub fn options(&self) -> Options {
        Options {
            scale: self.scale.as_f64(),
            causal: self.causal,
            dropout: self.dropout.as_f64(),
            mask: self.mask,
            safe: self.safe,
        }
    }

    /// The sizes.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            batch: self.batch.iter().fold(1, |n, &b| n.saturating_mul(b)),
            queries: self.queries,
            keys: self.keys,
            depth: self.depth,
            width: self.width,
        }
    }

    /// Attributes of the tensor op.
    pub(crate) fn attrs(&self, forward: bool) -> Vec<Attr> {
        let mut attrs = self.options().attrs().to_vec();
        if forward {
            attrs.push(self.lse.into());
        }
        attrs
    }

    /// Dtype of the result: that of the operands, or f32 where the result goes on with the logarithms.
    pub fn result(&self, forward: bool) -> DType {
        if forward && self.lse { DType::F32 } else { self.dtype }
    }

    /// Elements of the result.
    pub fn numel(&self, forward: bool) -> Option<usize> {
        let s = self.sizes();
        let rows = |n: usize, cols: usize| s.batch.checked_mul(n)?.checked_mul(cols);
        if forward {
            return rows(s.queries, s.width)?.checked_add(if self.lse { rows(s.queries, 1)? } else { 0 });
        }
        rows(s.queries, s.depth)?.checked_add(rows(s.keys, s.depth)?)?.checked_add(rows(s.keys, s.width)?)
    }

    /// Rows and columns of each operand, and whether the batch axes apply; `forward` says which op.
    pub fn extents(&self, forward: bool) -> Vec<(usize, usize, bool)> {
        let s = self.sizes();
        let mut out = vec![(s.queries, s.depth, true), (s.keys, s.depth, true), (s.keys, s.width, true)];
        if self.mask {
            out.push((s.queries, s.keys, true));
        }
        if self.dropout.as_f64() > 0.0 {
            out.push((1, 2, false));
        }
        if !forward {
            let all = s.batch.saturating_mul(s.queries).saturating_mul(s.width.saturating_add(1));
            out.extend([(1, all, false), (s.queries, s.width, true)]);
        }
        out
    }

    /// Types of contiguous operands; the mask's dtype is given.
    pub(crate) fn types(&self, forward: bool, mask: DType) -> Vec<Type> {
        let (o, extents) = (self.options(), self.extents(forward));
        let seed = (o.dropout > 0.0).then(|| o.operands() - 1);
        // The forward pass and its logarithms, which the gradient is given, are one row of f32.
        let row = (!forward).then(|| extents.len() - 2);
        let of = |(i, &(rows, cols, batched)): (usize, &(usize, usize, bool))| {
            let dtype = match i {
                3 if o.mask => mask,
                _ if Some(i) == row => DType::F32,
                _ => self.dtype,
            };
            if batched {
                let dims: Vec<usize> = self.batch.iter().copied().chain([rows, cols]).collect();
                return Type::new(dtype, Shape::of(&dims));
            }
            Type::new(if Some(i) == seed { DType::I64 } else { dtype }, Shape::of(&[cols]))
        };
        extents.iter().enumerate().map(of).collect()
    }

    /// Checks the operands against the buffers they stand in: dtype and number of elements of each.
    pub(crate) fn check(&self, forward: bool, buffers: &[(DType, usize)]) -> Result<(), String> {
        let extents = self.extents(forward);
        if buffers.len() != extents.len() || self.sides.len() != extents.len() {
            return Err(format!("{} operands and {} sides of {}", buffers.len(), self.sides.len(), extents.len()));
        }
        if self.dtype.compute() != DType::F32 {
            return Err(format!("its operands are {}", self.dtype));
        }
        let mask = if self.mask { buffers[3].0 } else { DType::Bool };
        if mask != DType::Bool && mask != self.dtype {
            return Err(format!("the mask is {mask}"));
        }
        for (i, &(rows, cols, batched)) in extents.iter().enumerate() {
            let batch = if batched { self.batch.as_slice() } else { &[] };
            let dims: Vec<usize> = batch.iter().copied().chain([rows, cols]).collect();
            Shape::new(&dims).map_err(|e| format!("operand {i}: {}", e.message()))?;
        }
        for (i, ty) in self.types(forward, mask).iter().enumerate() {
            let (side, (rows, cols, batched), (dtype, n)) = (&self.sides[i], extents[i], buffers[i]);
            if dtype != ty.dtype {
                return Err(format!("operand {i} is {dtype} instead of {}", ty.dtype));
            }
            if side.batch.len() != self.batch.len() || (!batched && side.batch.iter().any(|&s| s != 0)) {
                return Err(format!("operand {i} has batch strides {:?}", side.batch.as_slice()));
            }
            let batch = self.batch.iter().copied().zip(side.batch.iter().copied());
            let axes = batch.chain([(rows, side.row), (cols, side.col)]);
            if axes.clone().any(|(extent, _)| extent == 0) {
                continue;
            }
            match reach(side.offset, axes) {
                Some((lo, hi)) if lo >= 0 && hi < n as i128 => {}
                Some((lo, hi)) => return Err(format!("operand {i} addresses elements {lo} to {hi} of {n}")),
                None => return Err(format!("operand {i} addresses elements far beyond its {n}")),
            }
        }
        Ok(())
    }
}
