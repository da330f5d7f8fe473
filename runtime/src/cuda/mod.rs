//! Executes torsh programs on CUDA devices: kernels of [`torsh_codegen::cuda`] compiled by NVRTC, products of
//! cublasLt where it is installed, a caching arena, streams, and graphs.
//!
//! Nothing of CUDA is linked: the driver is opened when a device is first asked for, NVRTC when a kernel is not in
//! the cache on disk, cublasLt when a product wants it. What is missing is a `Device` error that says what was looked
//! for and where.
//!
//! # What runs when
//! A call returns when its work is on the stream of the calling thread. Memory that one stream wrote and another uses
//! is waited for by an event, always, so a program cannot race with itself ([`arena`]). Results become visible by
//! [`Executor::download`], which waits, and by streams and events.
//!
//! # Errors
//! * An index out of range is found on the device, and read back before anything that it could spoil is written in
//!   place: `run` waits for the last step that can fail, and only then launches what follows. Donated inputs that are
//!   overwritten before that step are copied first. So a program that checks indices waits once per run; others never
//!   wait.
//! * An error of the driver names the call, the code and the driver's text. After one that the driver does not recover
//!   from, every later call on the device is refused with the first error.
//! * When a launch fails after earlier steps of the same run have begun to update a tensor in place, that tensor's
//!   value is lost, and whoever uses it is told so.

mod arena;
mod buffer;
mod compiler;
mod cubins;
mod device;
mod executable;
pub(crate) mod export;
mod graphs;
pub(crate) mod images;
mod kernels;
mod libraries;
mod matmul;
mod selftest;
mod stream;
mod transfer;

pub use device::CudaExecutor;

pub use crate::sys::cuda::driver::Simulator;
use crate::sys::cuda::driver::{DeviceHandle, Driver};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::exec::{Device, DeviceKind, DeviceProperties, DeviceProvider, Executor};
use torsh_ir::{Error, Result};

static TF32: AtomicBool = AtomicBool::new(false);

/// Whether products of f32 on CUDA devices may be computed in TF32, from the next run on. Without it they are f32
/// throughout.
pub fn set_tf32(allowed: bool) {
    TF32.store(allowed, Ordering::Relaxed);
}

/// What [`set_tf32`] set; false at first.
pub fn tf32() -> bool {
    TF32.load(Ordering::Relaxed)
}

/// Finds and opens CUDA devices.
pub struct CudaProvider {
    folders: Vec<PathBuf>,
}

impl CudaProvider {
    /// A provider. `folders` may hold NVIDIA's wheels: folders such as `cuda_nvrtc/lib` are looked for in each when a
    /// device is opened. They need not be there.
    pub fn new(folders: Vec<PathBuf>) -> CudaProvider {
        CudaProvider { folders }
    }

    fn handle(&self, device: Device) -> Result<(DeviceHandle, u32)> {
        let Device::Cuda(index) = device else {
            return Err(no_other(device.kind()));
        };
        let driver = driver()?;
        let count = driver.device_count()?;
        if index >= count {
            let have = match count {
                0 => "no CUDA device was found".to_string(),
                1 => "the only CUDA device is cuda:0".to_string(),
                n => format!("CUDA devices are cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::device(format!("device {device} is not there: {have}")));
        }
        Ok((driver.device(index)?, index))
    }
}

fn no_other(kind: DeviceKind) -> Error {
    let kind = kind.name();
    Error::device(format!(
        "no {kind} device is available: this build of torsh has the runtimes of the CPU and of CUDA devices, so no driver was looked for"
    ))
}

/// The driver, opened once; a failure is tried again.
fn driver() -> Result<&'static Driver> {
    static DRIVER: Mutex<Option<&'static Driver>> = Mutex::new(None);
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = *driver {
        return Ok(driver);
    }
    let opened = Driver::open(&libraries::driver()?).map_err(Error::device)?;
    Ok(driver.insert(Box::leak(Box::new(opened))))
}

/// The simulator's own functions, for tests. `None` where the driver is absent or not the simulator.
pub fn simulator() -> Option<Simulator> {
    driver().ok()?.simulator()
}

impl DeviceProvider for CudaProvider {
    fn count(&self, kind: DeviceKind) -> Result<u32> {
        match kind {
            DeviceKind::Cpu => Ok(1),
            DeviceKind::Cuda => driver()?.device_count(),
            DeviceKind::Metal => Err(no_other(kind)),
        }
    }

    fn open(&self, device: Device) -> Result<Arc<dyn Executor>> {
        let (handle, index) = self.handle(device)?;
        Ok(Arc::new(CudaExecutor::open(handle, index, &self.folders)?))
    }

    fn properties(&self, device: Device) -> Result<DeviceProperties> {
        device::properties(&self.handle(device)?.0)
    }
}
