//! A PTX parser and a checking interpreter: CUDA kernels without a GPU.
//!
//! [`Module::parse`] reads what NVRTC writes, [`Device::launch`] runs it and answers with a [`Report`] of figures or
//! with a [`Fault`] that names kernel, instruction, block, threads and address.
//!
//! What is modelled: integer and floating-point arithmetic to the bit, directed rounding included; warps in lockstep
//! with a program counter per lane; shared, global, local, constant and parameter memory to the byte; barriers,
//! shuffles, votes, atomics, asynchronous copies (data arrive when they are waited for), matrix loads and products.
//! `.approx` instructions give the rounded true value, or values moved inside the manual's error bounds.
//! What is not: time, caches, memory ordering between blocks (nothing is ordered, and races are faults), clusters,
//! tensor memory, bulk copies, textures, printf, recursion, indirect calls.
//!
//! Checks, each a [`FaultKind`]: out of bounds and use after free to the byte, misaligned access, stores to constants,
//! loads of unwritten bytes, races in shared and global memory, non-coherent loads of written memory, asynchronous
//! copies that nobody waited for, divergent barriers, warp instructions that name inactive lanes, launch limits,
//! shared memory over the limit, and a budget of instructions.

mod alu;
mod args;
mod ast;
mod decode;
mod device;
mod error;
mod exec;
mod inst;
mod lex;
mod mem;
mod module;
mod parse;
mod race;
mod report;
pub mod soft;
mod ty;

pub use args::Args;
pub use device::{Config, Device, Order};
pub use error::{Error, Fault, FaultKind};
pub use module::{KernelInfo, Module};
pub use report::{Report, Shared, Traffic};
