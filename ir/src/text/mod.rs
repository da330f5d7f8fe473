//! Text forms. The graph's is parsed and printed and round-trips exactly: `parse(print(g))` is the same
//! graph, node for node. Kernels and programs are printed, stably, for dumps and golden files.
//!
//! # The graph
//! ```text
//! ; a comment
//! graph {
//!   %0: f32[2, 3] = input(index=0)
//!   %1: f32[2, 1] = sum(%0, dims=[1]) @ "model.py":12
//!   return %1
//! }
//! ```
//! A node is `%name: type = op(operands.., attribute=value..)`, with an optional source line after `@`.
//! Attributes stand in the op's order. An attribute `dtype` or `shape` that repeats the result's type is
//! left out. Values are written by kind: `3`, `true`, `[1, -2]`, `f32`, `"word"`, scalars `true`, `3`,
//! `1.5`, and constant data as `[elements]` or `hex"bytes"`. A float is the shortest decimal that reads
//! back as the same number of the result's dtype (16-bit floats: of f32); the suffix `d` marks an f64 that
//! f32 does not hold; `inf`, `-inf`, `nan`, and `nan:0x..` for a NaN with other than the usual bits.

pub(crate) mod kernel;
mod lex;
mod number;
mod parse;
mod print;
pub(crate) mod program;
pub mod size;
mod template;

pub use kernel::kernel;
pub use parse::{parse, parse_unchecked};
pub use print::{print, print_node, print_with_lines};
pub use program::program;
pub use size::SizeExpr;
pub use template::Template;
