//! torsh kernels to machine code, by way of Cranelift IR.
//!
//! [`cpu`] turns a loop kernel (`torsh_ir::kernel`) into one Cranelift function. It emits into a module that
//! its caller owns, runs nothing and holds no unsafe code; the runtime supplies the addresses of the block
//! primitives that the function calls, under the names of [`cpu::prims`].

pub mod cpu;
