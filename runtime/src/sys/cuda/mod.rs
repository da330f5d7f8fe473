//! The libraries of CUDA, opened at run time: the driver, NVRTC and cublasLt. Thin, and safe from outside but for
//! what kernels do: they are launched on addresses that their generator and the memory plan answer for.

pub mod cublaslt;
pub mod driver;
pub mod load;
mod memory;
mod module;
pub mod nvrtc;
mod stream;
