//! Matrices in device memory: element types, layouts, reading and writing.

use torsh_ptx_sim::soft::{self, BF16, F16, Format, Rnd, TF32};

use crate::driver;

/// Element types, by their numbers in `cudaDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I32,
}

impl Type {
    pub fn from_number(n: i32) -> Option<Type> {
        Some(match n {
            0 => Type::F32,
            1 => Type::F64,
            2 => Type::F16,
            3 => Type::I8,
            10 => Type::I32,
            14 => Type::Bf16,
            _ => return None,
        })
    }

    pub fn bytes(self) -> u64 {
        match self {
            Type::F64 => 8,
            Type::F32 | Type::I32 => 4,
            Type::F16 | Type::Bf16 => 2,
            Type::I8 => 1,
        }
    }

    /// The value of an element; i32 and everything narrower than f64 is exact.
    pub fn decode(self, b: &[u8]) -> f64 {
        let word = |n: usize| b[..n].iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
        match self {
            Type::F32 => f64::from(f32::from_bits(word(4) as u32)),
            Type::F64 => f64::from_bits(word(8)),
            Type::F16 => soft::widen(word(2) as u32, F16),
            Type::Bf16 => soft::widen(word(2) as u32, BF16),
            Type::I8 => f64::from(b[0] as i8),
            Type::I32 => f64::from(word(4) as u32 as i32),
        }
    }

    pub fn encode(self, x: f64, out: &mut [u8]) {
        let narrow = |f: Format| soft::narrow(x, f, Rnd::Rn).to_le_bytes();
        match self {
            Type::F32 => out.copy_from_slice(&(x as f32).to_le_bytes()),
            Type::F64 => out.copy_from_slice(&x.to_le_bytes()),
            Type::F16 => out.copy_from_slice(&narrow(F16)[..2]),
            Type::Bf16 => out.copy_from_slice(&narrow(BF16)[..2]),
            Type::I8 => out[0] = (x.round_ties_even().clamp(-128.0, 127.0) as i8) as u8,
            Type::I32 => out.copy_from_slice(&(x as i64 as i32).to_le_bytes()),
        }
    }
}

/// What operands are rounded to before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rounding {
    None,
    Tf32,
    F16,
    Bf16,
}

impl Rounding {
    pub fn apply(self, x: f64) -> f64 {
        let through = |f: Format, r: Rnd| soft::widen(soft::narrow(x, f, r), f);
        match self {
            Rounding::None => x,
            Rounding::Tf32 => through(TF32, Rnd::Rna),
            Rounding::F16 => through(F16, Rnd::Rn),
            Rounding::Bf16 => through(BF16, Rnd::Rn),
        }
    }
}

/// A layout descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub ty: Type,
    pub rows: u64,
    pub cols: u64,
    pub ld: i64,
    pub row_major: bool,
    pub batch: i32,
    pub stride: i64,
}

impl Layout {
    /// Contiguous vectors: their number and length.
    fn vectors(&self) -> (u64, u64) {
        if self.row_major { (self.rows, self.cols) } else { (self.cols, self.rows) }
    }

    /// Elements from the first to one past the last of one matrix.
    pub fn span(&self) -> u64 {
        let (n, len) = self.vectors();
        if n == 0 || len == 0 { 0 } else { (n - 1) * self.ld as u64 + len }
    }

    /// First byte and length of all matrices of the batch.
    pub fn extent(&self, at: u64) -> (u64, u64) {
        let far = self.stride.saturating_mul(i64::from(self.batch - 1)) * self.ty.bytes() as i64;
        let bytes = self.span() * self.ty.bytes();
        if far < 0 { (at.wrapping_add_signed(far), bytes + far.unsigned_abs()) } else { (at, bytes + far as u64) }
    }

    /// What is wrong with the layout by itself.
    pub fn problem(&self) -> Option<String> {
        let (_, len) = self.vectors();
        if self.rows == 0 || self.cols == 0 {
            return Some(format!("{} x {}: no extent may be zero", self.rows, self.cols));
        }
        if self.ld < 0 || (self.ld as u64) < len {
            return Some(format!("leading dimension {} is below {len}", self.ld));
        }
        (self.batch < 1).then(|| format!("batch count {}", self.batch))
    }

    /// Where one matrix of the batch begins.
    pub fn matrix(&self, at: u64, index: i32) -> u64 {
        at.wrapping_add_signed(self.stride * i64::from(index) * self.ty.bytes() as i64)
    }

    /// Reads a matrix of the batch by rows. Gaps between vectors are not touched.
    pub fn read(&self, at: u64, index: i32) -> Result<Vec<f64>, i32> {
        let (n, len) = self.vectors();
        let size = self.ty.bytes();
        let mut out = vec![0.0; (self.rows * self.cols) as usize];
        let mut buf = vec![0u8; (len * size) as usize];
        for v in 0..n {
            driver::read(self.matrix(at, index) + v * self.ld as u64 * size, &mut buf)?;
            for (k, b) in buf.chunks_exact(size as usize).enumerate() {
                let (row, col) = if self.row_major { (v, k as u64) } else { (k as u64, v) };
                out[(row * self.cols + col) as usize] = self.ty.decode(b);
            }
        }
        Ok(out)
    }

    /// Writes a matrix of the batch from its elements by rows.
    pub fn write(&self, at: u64, index: i32, data: &[f64]) -> Result<(), i32> {
        let (n, len) = self.vectors();
        let size = self.ty.bytes();
        let mut buf = vec![0u8; (len * size) as usize];
        for v in 0..n {
            for (k, b) in buf.chunks_exact_mut(size as usize).enumerate() {
                let (row, col) = if self.row_major { (v, k as u64) } else { (k as u64, v) };
                self.ty.encode(data[(row * self.cols + col) as usize], b);
            }
            driver::write(self.matrix(at, index) + v * self.ld as u64 * size, &buf)?;
        }
        Ok(())
    }
}
