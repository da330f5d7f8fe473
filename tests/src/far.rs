//! A stand-in for devices whose memory the host cannot see: the CPU's executor behind buffers that hide their bytes
//! and know their device. A buffer of one device given to another is an error, and what crosses over is counted.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::exec::{
    Buffer, BufferRef, Device, DeviceKind, DeviceProperties, DeviceProvider, Event, Executable, Executor, MemoryStats,
    Outputs, Stream, Target,
};
use torsh_ir::program::Program;
use torsh_ir::{Error, Result, Type};
use torsh_runtime::CpuExecutor;

struct Far {
    inner: BufferRef,
    device: Device,
}

impl Buffer for Far {
    fn nbytes(&self) -> usize {
        self.inner.nbytes()
    }
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
    fn device(&self) -> Device {
        self.device
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn inside(buffer: &dyn Buffer, device: Device) -> Result<&BufferRef> {
    match buffer.as_any().downcast_ref::<Far>() {
        Some(far) if far.device == device => Ok(&far.inner),
        _ => Err(Error::internal(format!("{device} was given a buffer of {}", buffer.device()))),
    }
}

/// What has crossed to and from a device, and how many programs ran on it.
#[derive(Default, Debug)]
pub struct Traffic {
    /// Uploads, copies from other devices included.
    pub uploads: AtomicUsize,
    /// Downloads.
    pub downloads: AtomicUsize,
    /// Parts of buffers copied on the device.
    pub slices: AtomicUsize,
    /// Programs loaded.
    pub loads: AtomicUsize,
    /// Programs run.
    pub runs: AtomicUsize,
}

impl Traffic {
    /// Uploads, downloads, loads and runs so far.
    pub fn now(&self) -> [usize; 4] {
        [&self.uploads, &self.downloads, &self.loads, &self.runs].map(|n| n.load(Ordering::Relaxed))
    }
}

/// The executor of a stand-in.
pub struct FarExecutor {
    inner: CpuExecutor,
    device: Device,
    traffic: Arc<Traffic>,
}

impl FarExecutor {
    fn wrap(&self, inner: BufferRef) -> BufferRef {
        Arc::new(Far { inner, device: self.device })
    }
}

impl Executor for FarExecutor {
    fn target(&self) -> Target {
        Target { device: self.device, ..self.inner.target() }
    }
    fn device(&self) -> Device {
        self.device
    }
    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        self.traffic.uploads.fetch_add(1, Ordering::Relaxed);
        Ok(self.wrap(self.inner.upload(ty, bytes)?))
    }
    fn download(&self, buffer: &dyn Buffer, out: &mut [u8]) -> Result<()> {
        self.traffic.downloads.fetch_add(1, Ordering::Relaxed);
        self.inner.download(&**inside(buffer, self.device)?, out)
    }
    fn slice(&self, ty: &Type, buffer: &dyn Buffer, start: usize) -> Result<Option<BufferRef>> {
        self.traffic.slices.fetch_add(1, Ordering::Relaxed);
        let mut bytes = vec![0; buffer.nbytes()];
        self.inner.download(&**inside(buffer, self.device)?, &mut bytes)?;
        let part = bytes.get(start..start + ty.nbytes()).ok_or_else(|| Error::internal("a slice out of bounds"))?;
        Ok(Some(self.wrap(self.inner.upload(ty, part)?)))
    }
    fn load(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>> {
        self.traffic.loads.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.load(program)?;
        Ok(Arc::new(FarExecutable { inner, device: self.device, traffic: self.traffic.clone() }))
    }
    fn memory_stats(&self) -> MemoryStats {
        self.inner.memory_stats()
    }
    fn reset_peak_memory_stats(&self) {
        self.inner.reset_peak_memory_stats();
    }
    fn set_memory_limit(&self, bytes: u64) {
        self.inner.set_memory_limit(bytes);
    }
    fn empty_cache(&self) {
        self.inner.empty_cache();
    }
    fn set_threads(&self, threads: Option<usize>) -> Result<()> {
        self.inner.set_threads(threads)
    }
    fn threads(&self) -> usize {
        self.inner.threads()
    }
    fn new_stream(&self, _priority: i32) -> Result<Arc<dyn Stream>> {
        Err(Error::device("a stand-in has no streams"))
    }
    fn new_event(&self, _timing: bool, _blocking: bool) -> Result<Arc<dyn Event>> {
        Err(Error::device("a stand-in has no events"))
    }
}

struct FarExecutable {
    inner: Arc<dyn Executable>,
    device: Device,
    traffic: Arc<Traffic>,
}

impl Executable for FarExecutable {
    fn program(&self) -> &Program {
        self.inner.program()
    }
    fn code_bytes(&self) -> usize {
        self.inner.code_bytes()
    }
    fn codegen_seconds(&self) -> f64 {
        self.inner.codegen_seconds()
    }
    fn listing(&self) -> String {
        self.inner.listing()
    }
    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        self.traffic.runs.fetch_add(1, Ordering::Relaxed);
        // The inner buffers have a second reference in `inputs`, so that nothing is written in place.
        let mut buffers: Vec<BufferRef> =
            inputs.iter().map(|b| inside(&**b, self.device).cloned()).collect::<Result<_>>()?;
        let outputs = self.inner.run(&mut buffers)?;
        Ok(outputs.into_iter().map(|inner| Arc::new(Far { inner, device: self.device }) as BufferRef).collect())
    }
}

/// Opens stand-ins under the names of CUDA devices.
pub struct FarProvider {
    traffic: Vec<Arc<Traffic>>,
    refusals: Mutex<usize>,
}

impl FarProvider {
    /// As many devices as asked for, of which the first `refusals` attempts to open one fail.
    pub fn new(count: usize, refusals: usize) -> FarProvider {
        FarProvider { traffic: (0..count).map(|_| Arc::default()).collect(), refusals: Mutex::new(refusals) }
    }
    /// Traffic of a device.
    pub fn traffic(&self, index: usize) -> Arc<Traffic> {
        self.traffic[index].clone()
    }
    fn known(&self, device: Device) -> Result<&Arc<Traffic>> {
        match device {
            Device::Cuda(i) => self.traffic.get(i as usize),
            Device::Cpu | Device::Metal => None,
        }
        .ok_or_else(|| Error::device(format!("device {device} is not available: {} stand-ins", self.traffic.len())))
    }
}

impl DeviceProvider for FarProvider {
    fn count(&self, kind: DeviceKind) -> Result<u32> {
        match kind {
            DeviceKind::Cuda => Ok(self.traffic.len() as u32),
            kind => Err(Error::device(format!("no stand-ins for {}", kind.name()))),
        }
    }
    fn open(&self, device: Device) -> Result<Arc<dyn Executor>> {
        let traffic = self.known(device)?.clone();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if *refusals > 0 {
            *refusals -= 1;
            return Err(Error::device(format!("device {device} is busy")));
        }
        Ok(Arc::new(FarExecutor { inner: CpuExecutor::new()?, device, traffic }))
    }
    fn properties(&self, device: Device) -> Result<DeviceProperties> {
        self.known(device)?;
        Ok(DeviceProperties { name: "stand-in".into(), ..DeviceProperties::default() })
    }
}
