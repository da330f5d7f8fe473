//! A CUDA device as an executor: what it generates code for, its memory, its streams, and copies.

use super::arena::Arena;
use super::buffer::CudaBuffer;
use super::compiler::Compiler;
use super::executable::CudaExecutable;
use super::matmul::Blas;
use super::selftest;
use super::stream::{self, CudaEvent, CudaStream};
use super::transfer::Staging;
use crate::sys::cuda::driver::{self, Attribute, Context, DeviceHandle};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_codegen::cuda::Options;
use torsh_ir::exec::{
    Buffer, BufferRef, Device, DeviceProperties, Event, Executable, Executor, MemoryStats, Stream, Target,
};
use torsh_ir::program::Program;
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result, env};

/// The least compute capability, times ten.
const MIN_SM: u32 = 80;
/// From this size on uploads have a stream of their own, so that kernels run meanwhile.
const OWN_STREAM: usize = 1 << 20;

/// What executables of a device share.
pub(crate) struct Shared {
    pub device: Device,
    pub context: Arc<Context>,
    pub arena: Arena,
    pub staging: Staging,
    pub default_stream: Arc<driver::Stream>,
    pub compiler: Compiler,
    pub blas: Blas,
    /// What code is generated with, but for the choice of TF32.
    pub options: Options,
    /// Programs are launched as graphs.
    pub graphs: bool,
    copy_stream: Arc<driver::Stream>,
    /// On which graphs are recorded, one at a time.
    capture_stream: Mutex<driver::Stream>,
    isa: &'static str,
    properties: DeviceProperties,
    /// Tells executors apart in the threads' lists of streams.
    id: u64,
}

impl Shared {
    /// The stream of the calling thread.
    pub fn stream(&self) -> Arc<driver::Stream> {
        stream::current(self.id).unwrap_or_else(|| self.default_stream.clone())
    }

    /// Records what `launch` launches on the stream that it is given.
    pub fn capture(&self, launch: impl FnOnce(&driver::Stream) -> Result<()>) -> Result<driver::Graph> {
        let stream = self.capture_stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.begin_capture()?;
        let launched = launch(&stream);
        let graph = stream.end_capture();
        launched.and(graph)
    }

    /// The device's own buffer behind a shared one.
    pub fn own<'a>(&self, buffer: &'a dyn Buffer) -> Result<&'a CudaBuffer> {
        match buffer.as_any().downcast_ref::<CudaBuffer>() {
            Some(own) if own.device() == self.device => Ok(own),
            _ => Err(Error::device(format!("{} was given a buffer of {}", self.device, buffer.device()))),
        }
    }

    /// Copies host bytes into a new buffer.
    pub fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<CudaBuffer> {
        if bytes.len() != ty.nbytes() {
            return Err(Error::internal(format!("{ty} takes {} bytes, got {}", ty.nbytes(), bytes.len())));
        }
        let stream = if bytes.len() >= OWN_STREAM { self.copy_stream.clone() } else { self.stream() };
        let buffer = CudaBuffer::new(&self.arena, self.device, ty, &stream)?;
        if let Some(block) = buffer.block() {
            self.staging.upload(&stream, block, bytes)?;
        }
        Ok(buffer)
    }
}

/// What a device is.
pub(super) fn properties(handle: &DeviceHandle) -> Result<DeviceProperties> {
    use Attribute as A;
    let major = handle.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = handle.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceProperties {
        name: handle.name()?,
        capability: (major, minor),
        total_memory: handle.total_memory()?,
        multiprocessors: handle.attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads_per_multiprocessor: handle.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        warp_size: handle.attribute(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
        shared_memory_per_block: handle.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
        shared_memory_per_block_optin: handle.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        registers_per_multiprocessor: handle.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        l2_bytes: u64::from(handle.attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
    })
}

/// What code is generated with for a device.
pub(super) fn options(found: &DeviceProperties) -> Options {
    Options {
        sm: found.capability.0 * 10 + found.capability.1,
        processors: found.multiprocessors,
        shared_bytes: found.shared_memory_per_block_optin.max(found.shared_memory_per_block),
        ..Options::default()
    }
}

/// Compiles programs with NVRTC and runs them on one CUDA device.
pub struct CudaExecutor {
    shared: Arc<Shared>,
}

impl CudaExecutor {
    /// Opens a device: its context, its memory, and a test with known answers. `folders` are those of NVIDIA's
    /// wheels.
    pub(super) fn open(handle: DeviceHandle, index: u32, folders: &[PathBuf]) -> Result<CudaExecutor> {
        let device = Device::Cuda(index);
        let properties = properties(&handle)?;
        let (major, minor) = properties.capability;
        let sm = major * 10 + minor;
        if sm < MIN_SM || properties.warp_size != 32 {
            let name = &properties.name;
            return Err(Error::device(format!(
                "device {device} ({name}) has compute capability {major}.{minor}; torsh needs 8.0 or newer"
            )));
        }
        let context = handle.context()?;
        let (free, _) = context.enter()?.memory_info()?;
        // Code, cublasLt and the driver's own needs have no part in the accounting.
        let limit = env::max_memory().unwrap_or(u64::MAX).min(free - free / 16);
        let driver = handle.driver();
        let max_version = driver.version().map(|v| v / 1000);
        let options = options(&properties);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shared = Arc::new(Shared {
            device,
            arena: Arena::new(&context, device, limit),
            staging: Staging::new(&context),
            default_stream: Arc::new(driver::Stream::default_of(&context)),
            copy_stream: Arc::new(driver::Stream::new(&context, 0)?),
            capture_stream: Mutex::new(driver::Stream::new(&context, 0)?),
            compiler: Compiler::new(sm, driver.is_simulator(), folders, max_version),
            blas: Blas::new(&context, folders, max_version),
            graphs: env::cuda_graphs(),
            isa: isa(sm),
            properties,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            context,
            options,
        });
        selftest::run(&shared, &shared.options)?;
        Ok(CudaExecutor { shared })
    }
}

/// The name of an architecture. There are few, and each is made once.
fn isa(sm: u32) -> &'static str {
    use std::collections::HashMap;
    static NAMES: Mutex<Option<HashMap<u32, &'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.get_or_insert_default().entry(sm).or_insert_with(|| Box::leak(format!("sm_{sm}").into_boxed_str()))
}

impl Executor for CudaExecutor {
    fn target(&self) -> Target {
        let p = &self.shared.properties;
        Target {
            device: self.shared.device,
            isa: self.shared.isa,
            threads: 1,
            l1_bytes: p.shared_memory_per_block as usize,
            l2_bytes: p.l2_bytes as usize,
        }
    }

    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        Ok(Arc::new(self.shared.upload(ty, bytes)?))
    }

    fn download(&self, buffer: &dyn Buffer, out: &mut [u8]) -> Result<()> {
        let buffer = self.shared.own(buffer)?;
        if buffer.nbytes() != out.len() {
            return Err(Error::internal(format!("a buffer of {} bytes was read as {}", buffer.nbytes(), out.len())));
        }
        let stream = self.shared.stream();
        buffer.read(&stream)?;
        match buffer.block() {
            Some(block) => self.shared.staging.download(&stream, block, out),
            None => Ok(()),
        }
    }

    /// From another CUDA device without the host in between; this device waits for what was written there, and whoever
    /// writes there next waits for the copy.
    fn copy_from(&self, ty: &Type, buffer: &dyn Buffer, from: &dyn Executor) -> Result<BufferRef> {
        if let Some(bytes) = buffer.host_bytes() {
            return self.upload(ty, bytes);
        }
        let Some(source) = buffer.as_any().downcast_ref::<CudaBuffer>() else {
            let mut bytes = vec![0; buffer.nbytes()];
            from.download(buffer, &mut bytes)?;
            return self.upload(ty, &bytes);
        };
        if source.nbytes() != ty.nbytes() {
            return Err(Error::internal(format!("{ty} takes {} bytes, got {}", ty.nbytes(), source.nbytes())));
        }
        let stream = self.shared.stream();
        let to = CudaBuffer::new(&self.shared.arena, self.shared.device, ty, &stream)?;
        source.read(&stream)?;
        if let (Some(to), Some(from)) = (to.block(), source.block()) {
            stream.copy_peer(to, from, ty.nbytes())?;
        }
        Ok(Arc::new(to))
    }

    fn slice(&self, ty: &Type, buffer: &dyn Buffer, start: usize) -> Result<Option<BufferRef>> {
        let from = self.shared.own(buffer)?;
        let bytes = ty.nbytes();
        if start.checked_add(bytes).is_none_or(|end| end > from.nbytes()) {
            return Err(Error::internal(format!("{bytes} bytes from {start} on of a buffer of {}", from.nbytes())));
        }
        let stream = self.shared.stream();
        let to = CudaBuffer::new(&self.shared.arena, self.shared.device, ty, &stream)?;
        from.read(&stream)?;
        if let (Some(to), Some(from)) = (to.block(), from.block()) {
            stream.copy((to, 0), (from, start), bytes)?;
        }
        Ok(Some(Arc::new(to)))
    }

    fn synchronize(&self) -> Result<()> {
        self.shared.context.enter()?.synchronize()?;
        self.shared.context.check()
    }

    fn new_stream(&self, priority: i32) -> Result<Arc<dyn Stream>> {
        let raw = Arc::new(driver::Stream::new(&self.shared.context, priority)?);
        Ok(Arc::new(CudaStream { device: self.shared.device, raw }))
    }

    fn default_stream(&self) -> Result<Arc<dyn Stream>> {
        Ok(Arc::new(CudaStream { device: self.shared.device, raw: self.shared.default_stream.clone() }))
    }

    fn current_stream(&self) -> Result<Arc<dyn Stream>> {
        Ok(Arc::new(CudaStream { device: self.shared.device, raw: self.shared.stream() }))
    }

    fn set_stream(&self, stream: &Arc<dyn Stream>) -> Result<()> {
        match stream.as_any().downcast_ref::<CudaStream>() {
            Some(own) if own.device == self.shared.device => {
                let default = Arc::ptr_eq(&own.raw, &self.shared.default_stream);
                stream::set_current(self.shared.id, (!default).then(|| own.raw.clone()));
                Ok(())
            }
            _ => Err(Error::device(format!("{} was given a stream of {}", self.shared.device, stream.device()))),
        }
    }

    fn new_event(&self, timing: bool, blocking: bool) -> Result<Arc<dyn Event>> {
        let raw = driver::Event::new(&self.shared.context, timing, blocking)?;
        Ok(Arc::new(CudaEvent::new(self.shared.device, raw)))
    }

    fn memory_info(&self) -> Result<(u64, u64)> {
        self.shared.context.enter()?.memory_info()
    }

    fn load(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>> {
        Ok(Arc::new(CudaExecutable::new(self.shared.clone(), program)?))
    }

    fn memory_stats(&self) -> MemoryStats {
        self.shared.arena.stats()
    }

    fn reset_peak_memory_stats(&self) {
        self.shared.arena.reset_peak();
    }

    fn set_memory_limit(&self, bytes: u64) {
        self.shared.arena.set_limit(bytes);
    }

    fn empty_cache(&self) {
        // The trait has no way to report an error here; `synchronize` does.
        let emptied = self.shared.arena.empty_cache().and(self.shared.staging.empty());
        if let Err(e) = emptied {
            self.shared.context.keep(&e);
        }
    }

    /// A device has no worker threads: the number is that of the host's, and changes nothing.
    fn set_threads(&self, _threads: Option<usize>) -> Result<()> {
        Ok(())
    }

    fn threads(&self) -> usize {
        1
    }
}
