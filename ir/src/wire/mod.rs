//! Programs as bytes, for files: what [`encode`] writes, [`decode`] reads back as it was, but for lines of source and the
//! times of passes.
//!
//! Numbers are LEB128 in their shortest form, signed ones in zigzag order; lists stand behind their length, choices are
//! numbered. A reader believes nothing: every length is held against what is left, and the
//! number of items in all against [`MAX_ITEMS`], so that memory is bounded by the size of the input. What is read is well
//! formed, no more: whether it is a program that may run, [`Program::verify`](crate::program::Program::verify) says.

mod read;
mod write;

pub use read::decode;
pub use write::encode;

/// Buffers, steps, kernels and their parameters, values, stages and instructions that a program may have in all.
pub const MAX_ITEMS: usize = 1 << 20;
/// Parameters, values, stages, or instructions of a stage that one kernel may have: the verifier compares some of them
/// with each other.
const MAX_KERNEL_ITEMS: usize = 2048;
/// Likewise, the product of the numbers of buffers and steps.
const MAX_PAIRS: usize = 1 << 28;
/// The largest extent, that of a tensor whose size in bytes still fits.
const MAX_EXTENT: usize = (i64::MAX / 8) as usize;
/// Bytes of a name or a note.
const MAX_TEXT: usize = 4096;
/// Numbers in a list of sizes, strides or digits.
const MAX_AXES: usize = 64;

#[cfg(test)]
mod tests;
