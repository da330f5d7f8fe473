//! `libcuda.so.1` without a GPU: the CUDA driver functions that cudarc and NVRTC call, over the PTX interpreter of
//! `torsh-ptx-sim`.
//!
//! Everything is done at once, in the order of the calls, so streams never overlap; captures are really recorded and
//! graphs replay what they recorded, and the rules of capture are checked. A kernel that breaks a rule makes the
//! launch (or the graph launch) fail with the code that hardware would give sooner or later, and the context then
//! gives the same code for every call, as a real one does. The whole text of the fault goes to standard error and to
//! [`torsh_cuda_sim_last_fault`](control::torsh_cuda_sim_last_fault).
//!
//! Environment, read by the first `cuInit`:
//!
//! | variable | meaning |
//! |---|---|
//! | `TORSH_CUDA_SIM_SM` | compute capability, 80 or 90 (default 90) |
//! | `TORSH_CUDA_SIM_DEVICES` | devices, all alike (default 1) |
//! | `TORSH_CUDA_SIM_MEMORY` | bytes of device memory (default 1 GiB) |
//! | `TORSH_CUDA_SIM_ORDER` | `reversed` runs blocks and warps from the last to the first |
//! | `TORSH_CUDA_SIM_RACES` | `1` looks for races |
//! | `TORSH_CUDA_SIM_UNINIT` | `0` allows loads of bytes that nobody wrote |
//! | `TORSH_CUDA_SIM_PERTURB` | `1` moves results of `.approx` instructions inside their bounds |
//! | `TORSH_CUDA_SIM_BUDGET` | warp instructions that one block may execute |
//! | `TORSH_CUDA_SIM_THREADS` | host threads that run blocks (default 2) |
//! | `TORSH_CUDA_SIM_QUIET` | `1` keeps faults off standard error |
//!
//! A variable with a value that is not understood makes `cuInit` fail with `CUDA_ERROR_INVALID_VALUE`.
//!
//! A CUBIN is refused with `CUDA_ERROR_INVALID_IMAGE`, unless
//! [`torsh_cuda_sim_give_ptx`](control::torsh_cuda_sim_give_ptx) was told its PTX before.

#[macro_use]
mod guard;
mod capture;
pub mod code;
pub mod control;
mod device;
mod memory;
mod module;
mod state;
mod stream;
