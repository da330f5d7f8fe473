//! Executes torsh programs. On the CPU: machine code from `torsh-codegen`, precompiled block primitives, library
//! calls, memory and threads. On CUDA devices: [`cuda`]. Packages ([`package`]) run without Python. All `unsafe` of the
//! crate is in [`sys`].

pub mod aot;
mod bind;
mod codes;
pub mod cuda;
mod executable;
mod executor;
mod lib_calls;
mod machine;
mod memory;
pub mod package;
mod packed;
pub mod sys;
mod threads;
mod units;
mod verified;

/// The version of this crate.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use executor::{Config, CpuExecutor, set_interrupt_check};
pub use package::Package;
pub use units::Prologues;
