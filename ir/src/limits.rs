//! The limits that a graph must respect before anything is allocated or compiled. Process-wide, set by
//! `torsh.limits` and the environment.

use std::sync::RwLock;

/// Limits on graphs; all in elements, bytes or counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Dims per tensor.
    pub max_rank: u64,
    /// Elements per tensor.
    pub max_elements: u64,
    /// Bytes per tensor.
    pub max_tensor_bytes: u64,
    /// Nodes per graph.
    pub max_nodes: u64,
    /// Instructions per kernel; fusion stops there.
    pub max_kernel_insts: u64,
    /// Bytes of constants per graph.
    pub max_constant_bytes: u64,
    /// Bytes that one program may need beyond its inputs.
    pub max_peak_bytes: u64,
}

impl Limits {
    /// The defaults, with `memory` bytes as the machine's (or cgroup's) size.
    pub const fn with_memory(memory: u64) -> Limits {
        Limits {
            max_rank: 64,
            max_elements: 1 << 40,
            max_tensor_bytes: memory / 4 * 3,
            max_nodes: 1_000_000,
            max_kernel_insts: 512,
            max_constant_bytes: 1 << 30,
            max_peak_bytes: memory / 4 * 3,
        }
    }
}

static LIMITS: RwLock<Limits> = RwLock::new(Limits::with_memory(8 << 30));

/// The limits now in force.
pub fn get() -> Limits {
    *LIMITS.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Replaces the limits.
pub fn set(limits: Limits) {
    *LIMITS.write().unwrap_or_else(std::sync::PoisonError::into_inner) = limits;
}
