//! A tensor on the host, element by element.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scalar::{from_bits, to_bits};
use crate::shape::Type;

/// A dense row-major tensor; each element is the bit pattern of its dtype, zero-extended to 64 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostTensor {
    /// Dtype and shape.
    pub ty: Type,
    bits: Vec<u64>,
}

impl HostTensor {
    /// All zero bits.
    pub fn zeros(ty: Type) -> HostTensor {
        let n = ty.numel();
        HostTensor { ty, bits: vec![0; n] }
    }

    /// From a function of the row-major position.
    pub fn from_fn(ty: Type, mut f: impl FnMut(usize) -> Scalar) -> HostTensor {
        let bits = (0..ty.numel()).map(|i| to_bits(f(i).to_dtype(ty.dtype), ty.dtype)).collect();
        HostTensor { ty, bits }
    }

    /// From the bits of each element in row-major order; a wrong count leaves zeros or is cut.
    pub fn from_bits(ty: Type, mut bits: Vec<u64>) -> HostTensor {
        bits.resize(ty.numel(), 0);
        HostTensor { ty, bits }
    }

    /// From little-endian bytes.
    pub fn from_bytes(ty: Type, bytes: &[u8]) -> Result<HostTensor> {
        if bytes.len() != ty.nbytes() {
            return Err(Error::internal(format!("{ty} takes {} bytes, got {}", ty.nbytes(), bytes.len())));
        }
        let size = ty.dtype.size();
        let bits = bytes
            .chunks_exact(size)
            .map(|c| {
                let mut b = [0; 8];
                b[..size].copy_from_slice(c);
                u64::from_le_bytes(b)
            })
            .collect();
        Ok(HostTensor { ty, bits })
    }

    /// Little-endian bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.ty.dtype.size();
        self.bits.iter().flat_map(|b| b.to_le_bytes().into_iter().take(size)).collect()
    }

    /// The element at a row-major position.
    pub fn get(&self, i: usize) -> Scalar {
        from_bits(self.bits[i], self.ty.dtype)
    }
    /// The raw bits at a row-major position.
    pub fn bits(&self, i: usize) -> u64 {
        self.bits[i]
    }
    /// Sets raw bits.
    pub fn set_bits(&mut self, i: usize, bits: u64) {
        self.bits[i] = bits;
    }
    /// Sets an element; `value` is represented in the tensor's dtype first.
    pub fn set(&mut self, i: usize, value: Scalar) {
        self.bits[i] = to_bits(value.to_dtype(self.ty.dtype), self.ty.dtype);
    }
    /// Element count.
    pub fn len(&self) -> usize {
        self.bits.len()
    }
    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }
    /// All elements as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.get(i).as_f64()).collect()
    }
}
