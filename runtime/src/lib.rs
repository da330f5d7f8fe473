//! Executes torsh programs. On the CPU: machine code from `torsh-codegen`, precompiled block primitives, library
//! calls, memory and threads. On CUDA devices: [`cuda`]. All `unsafe` of the crate is in [`sys`].

mod bind;
pub mod cuda;
mod executable;
mod executor;
mod lib_calls;
mod machine;
mod memory;
mod packed;
pub mod sys;
mod threads;
mod units;

pub use executor::{Config, CpuExecutor, set_interrupt_check};
