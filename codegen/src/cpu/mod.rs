//! Code generation for the CPU.

pub mod prims;
