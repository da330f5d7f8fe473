//! The contract between the front and the runtime: plain data in, buffers out.

pub use crate::device::{Device, DeviceKind, DeviceProperties, DeviceProvider, Event, Stream, no_streams};
use crate::error::{Error, Result};
use crate::program::Program;
use crate::shape::Type;
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;

/// Memory of one tensor: contiguous, row-major, little-endian.
pub trait Buffer: Any + Send + Sync {
    /// Size in bytes.
    fn nbytes(&self) -> usize;
    /// The bytes, when the host can address them.
    fn host_bytes(&self) -> Option<&[u8]>;
    /// Where the memory is.
    fn device(&self) -> Device {
        Device::Cpu
    }
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
    /// Instruction set level: `portable`, `avx2`, `avx512`, `neon`, `sm_90` and its like, or `interpreter`.
    pub isa: &'static str,
    /// Worker threads.
    pub threads: usize,
    /// Bytes of first-level data cache, per core.
    pub l1_bytes: usize,
    /// Bytes of second-level cache, per core.
    pub l2_bytes: usize,
}

impl Target {
    /// Whether attention takes 16-bit operands as they are; elsewhere they are converted to f32 first.
    pub fn takes_half_attention(&self) -> bool {
        self.isa.starts_with("sm_")
    }
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

/// Compiles and runs programs on one device and owns their memory.
///
/// Calls come from any thread. A device that runs behind the caller orders what one thread asks for on that thread's
/// current stream: `upload`, `copy_from`, `slice` and `Executable::run` may return before the work is done,
/// `download` returns the value that the buffer has after all work asked for before. It keeps memory that is given
/// back (a dropped buffer) from reuse on another stream until the work on it is done.
pub trait Executor: Send + Sync {
    /// What it generates code for.
    fn target(&self) -> Target;
    /// The device.
    fn device(&self) -> Device {
        self.target().device
    }
    /// Copies host bytes into a new buffer. `bytes.len()` must be `ty.nbytes()`.
    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef>;
    /// Copies a buffer of this device to the host. `out.len()` must be `buffer.nbytes()`.
    fn download(&self, buffer: &dyn Buffer, out: &mut [u8]) -> Result<()> {
        let bytes = buffer
            .host_bytes()
            .ok_or_else(|| Error::internal(format!("a buffer of {} was read as one of the host", buffer.device())))?;
        if bytes.len() != out.len() {
            return Err(Error::internal(format!("a buffer of {} bytes was read as {}", bytes.len(), out.len())));
        }
        out.copy_from_slice(bytes);
        Ok(())
    }
    /// A new buffer here with the bytes of a buffer of another device, whose executor is `from`. By way of the
    /// host unless the device has a shorter one.
    fn copy_from(&self, ty: &Type, buffer: &dyn Buffer, from: &dyn Executor) -> Result<BufferRef> {
        if let Some(bytes) = buffer.host_bytes() {
            return self.upload(ty, bytes);
        }
        let mut bytes = vec![0; buffer.nbytes()];
        from.download(buffer, &mut bytes)?;
        self.upload(ty, &bytes)
    }
    /// A new buffer of type `ty` with the bytes from `start` on of a buffer of this device; `None` where only a
    /// program can copy them.
    fn slice(&self, _ty: &Type, _buffer: &dyn Buffer, _start: usize) -> Result<Option<BufferRef>> {
        Ok(None)
    }
    /// Waits until all work of the device, of every stream and thread, is done; reports errors of that work.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    /// A new stream.
    fn new_stream(&self, _priority: i32) -> Result<Arc<dyn Stream>> {
        Err(no_streams(self.device()))
    }
    /// The stream on which work goes unless another is set.
    fn default_stream(&self) -> Result<Arc<dyn Stream>> {
        Err(no_streams(self.device()))
    }
    /// The stream on which the work of the calling thread goes.
    fn current_stream(&self) -> Result<Arc<dyn Stream>> {
        Err(no_streams(self.device()))
    }
    /// Sets the stream of the calling thread; it must be of this device.
    fn set_stream(&self, _stream: &Arc<dyn Stream>) -> Result<()> {
        Err(no_streams(self.device()))
    }
    /// A new event; `timing`: its time is taken. `blocking`: a host that waits for it sleeps.
    fn new_event(&self, _timing: bool, _blocking: bool) -> Result<Arc<dyn Event>> {
        Err(no_streams(self.device()))
    }
    /// Bytes of the device's memory: free, and in all, other processes' included.
    fn memory_info(&self) -> Result<(u64, u64)> {
        Err(Error::device(format!("device {} does not say how much memory is free", self.device())))
    }
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
    /// (independent kernels side by side); `prologue` for the kernel of a chain that makes the rows of the product's
    /// left operand.
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
