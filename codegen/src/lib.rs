//! torsh kernels to machine code: for the CPU by way of Cranelift IR, for CUDA as source text.
//!
//! [`cpu`] turns a loop kernel (`torsh_ir::kernel`) into one Cranelift function. It emits into a module that
//! its caller owns, runs nothing and holds no unsafe code; the runtime supplies the addresses of the block
//! primitives that the function calls, under the names of [`cpu::prims`].
//!
//! [`cuda`] turns a whole program into one CUDA C++ source and a plan of launches.
//! Both write some functions as source text, from one definition (`text`).

pub mod cpu;
pub mod cuda;
mod text;
