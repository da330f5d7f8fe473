//! `libcublasLt` without a GPU: the functions that cudarc's `cublaslt::result` calls, over the simulated driver.
//!
//! A product is checked when it is asked for, and computed in the order of its stream (or recorded, when the stream
//! is capturing). Checked are: shapes under transposition, leading dimensions, batch counts and strides, that results
//! of a batch do not overlap, types against the compute and scale types, pointer alignment against what the algorithm
//! was chosen for, that every byte of every operand lies inside one live allocation, that the result overlaps no
//! operand, the workspace, and that an algorithm is used for the problem it was chosen for. The text of a refusal is
//! the driver's `torsh_cuda_sim_last_fault`.
//!
//! Sums are exact products added in f64 and rounded once to the result. With a compute type that allows it, operands
//! are first rounded to TF32, f16 or bf16, so that a wrong compute type shows in the result. The workspace is
//! overwritten with junk, so that live data in it shows, too.
//!
//! Layouts are column or row major. Epilogues: none, ReLU, GELU (the form with tanh), each with or without bias.
//! Scaling pointers, auxiliary results, and 8-bit floats are refused with `CUBLAS_STATUS_NOT_SUPPORTED`.

mod api;
mod driver;
mod matrix;
mod problem;
