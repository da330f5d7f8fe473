//! Everything that needs `unsafe`: thin, and safe from outside. Each block states why it is sound, in terms
//! that can be checked where it stands.
#![allow(unsafe_code, reason = "the one module of this crate that may")]

pub mod attention;
pub(crate) mod call;
pub(crate) mod cpus;
pub(crate) mod crew;
pub(crate) mod cuda;
pub mod gemm;
pub(crate) mod jit;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod mem;
pub mod par;
pub mod prims;
pub mod slices;

/// The user that the process acts as.
#[cfg(unix)]
pub(crate) fn user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
