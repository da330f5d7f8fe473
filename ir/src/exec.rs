//! The contract between the front and the runtime: plain data in, buffers out.

use crate::error::Result;
use crate::program::Program;
use crate::shape::Type;
use smallvec::SmallVec;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Where a tensor lives.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Device {
    /// The host.
    #[default]
    Cpu,
    /// A CUDA device.
    Cuda(u32),
    /// Apple's GPU.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(i) => write!(f, "cuda:{i}"),
            Device::Metal => f.write_str("metal"),
        }
    }
}

/// Memory of one tensor: contiguous, row-major, little-endian.
pub trait Buffer: Any + Send + Sync {
    /// Size in bytes.
    fn nbytes(&self) -> usize;
    /// The bytes, when the host can address them.
    fn host_bytes(&self) -> Option<&[u8]>;
    /// For the runtime to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// A shared buffer. A buffer is never written while a second reference to it exists.
pub type BufferRef = Arc<dyn Buffer>;

/// What a run returns: one buffer per output.
pub type Outputs = SmallVec<[BufferRef; 4]>;

/// What code is generated for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Device.
    pub device: Device,
    /// Instruction set level: `portable`, `avx2`, `avx512`, `neon`, or `interpreter`.
    pub isa: &'static str,
    /// Worker threads.
    pub threads: usize,
    /// Bytes of first-level data cache, per core.
    pub l1_bytes: usize,
    /// Bytes of second-level cache, per core.
    pub l2_bytes: usize,
}

/// Figures of the accounting allocator, in bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryStats {
    /// Held by tensors and running programs.
    pub live: u64,
    /// The largest `live` since the last reset.
    pub peak: u64,
    /// Kept for reuse.
    pub cached: u64,
    /// The cap on `live + cached`.
    pub limit: u64,
    /// Allocations since start.
    pub allocations: u64,
    /// Bytes of machine code held.
    pub code: u64,
}

/// Compiles and runs programs and owns their memory.
pub trait Executor: Send + Sync {
    /// What it generates code for.
    fn target(&self) -> Target;
    /// Copies host bytes into a new buffer. `bytes.len()` must be `ty.nbytes()`.
    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef>;
    /// Generates code for a program.
    fn load(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>>;
    /// Memory figures.
    fn memory_stats(&self) -> MemoryStats;
    /// Sets `peak` to `live`.
    fn reset_peak_memory_stats(&self);
    /// Sets the cap; what is live stays.
    fn set_memory_limit(&self, bytes: u64);
    /// Returns cached memory to the system.
    fn empty_cache(&self);
    /// Number of worker threads used by later runs; `None` asks for the default.
    fn set_threads(&self, threads: Option<usize>) -> Result<()>;
    /// Current number of worker threads.
    fn threads(&self) -> usize;
}

/// How one step of a loaded program runs, for `explain()`.
#[derive(Clone, PartialEq, Debug)]
pub struct StepDetail {
    /// How its code was written: a schedule, or `library`.
    pub schedule: &'static str,
    /// Why so.
    pub reason: &'static str,
    /// Threads that work on it.
    pub threads: usize,
    /// Number of the unit that it runs in; steps of one unit run together.
    pub unit: usize,
    /// What the unit is: `step`, `chain` (kernels on the rows of a product while these are in cache) or `region`
    /// (independent kernels side by side).
    pub together: &'static str,
    /// Nanoseconds that the cost model expects on one core; 0 where it has no opinion.
    pub cost_ns: f64,
}

/// A loaded program. May be run from several threads at once.
pub trait Executable: Send + Sync {
    /// The program.
    fn program(&self) -> &Program;
    /// Bytes of machine code and constants, for the cache's budget.
    fn code_bytes(&self) -> usize;
    /// Seconds that code generation took.
    fn codegen_seconds(&self) -> f64;
    /// Nanoseconds that a run takes on the calling thread, roughly; infinite when nobody knows. A caller may
    /// keep its own locks during a short run.
    fn cost_ns(&self) -> f64 {
        f64::INFINITY
    }
    /// Text of the generated code, for `TORSH_DUMP` and `explain()`.
    fn listing(&self) -> String;
    /// How each step runs; empty where nothing is known.
    fn details(&self) -> Vec<StepDetail> {
        Vec::new()
    }
    /// Runs on one buffer per input, in order, and returns one buffer per output. A donated input is
    /// written in place when `inputs` holds its only reference; then that entry is left holding the
    /// output. On error nothing in `inputs` has been changed.
    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs>;
}
