//! Devices: their names, what is known of them, who opens them, and the streams and events of those that run
//! behind the caller.

use crate::error::{Error, Result};
use crate::exec::Executor;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Where a tensor lives.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub enum Device {
    /// The host.
    #[default]
    Cpu,
    /// A CUDA device.
    Cuda(u32),
    /// Apple's GPU.
    Metal,
}

/// A device without its number.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum DeviceKind {
    /// The host.
    Cpu,
    /// CUDA devices.
    Cuda,
    /// Apple's GPU.
    Metal,
}

impl DeviceKind {
    /// `cpu`, `cuda` or `metal`.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Metal => "metal",
        }
    }
}

impl Device {
    /// The device without its number.
    pub fn kind(self) -> DeviceKind {
        match self {
            Device::Cpu => DeviceKind::Cpu,
            Device::Cuda(_) => DeviceKind::Cuda,
            Device::Metal => DeviceKind::Metal,
        }
    }
    /// The number; 0 where there is one device only.
    pub fn index(self) -> u32 {
        match self {
            Device::Cuda(i) => i,
            Device::Cpu | Device::Metal => 0,
        }
    }
    /// Kind and number as one number, for an attribute; `from_code` reads it.
    pub fn code(self) -> i64 {
        match self {
            Device::Cpu => 0,
            Device::Metal => 1,
            Device::Cuda(i) => 2 + i64::from(i),
        }
    }
    /// The device of a code.
    pub fn from_code(code: i64) -> Device {
        match code {
            0 => Device::Cpu,
            1 => Device::Metal,
            n => Device::Cuda(u32::try_from(n - 2).unwrap_or_default()),
        }
    }
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

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceProperties {
    /// The vendor's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of its memory.
    pub total_memory: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Resident threads of one multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Threads of a warp.
    pub warp_size: u32,
    /// Bytes of shared memory that a block may have without asking.
    pub shared_memory_per_block: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_memory_per_block_optin: u32,
    /// 32-bit registers of one multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Bytes of second-level cache.
    pub l2_bytes: u64,
}

/// Finds and opens devices other than the CPU. Nothing is loaded before it is asked for, and no method panics
/// where the driver is absent.
pub trait DeviceProvider: Send + Sync {
    /// How many devices of a kind there are. Where the driver is absent: `Err` with a `Device` error that says
    /// what was looked for and where.
    fn count(&self, kind: DeviceKind) -> Result<u32>;
    /// Makes the executor of a device. The session calls this once per device and keeps the result; a call that
    /// failed is made again when the device is next asked for.
    fn open(&self, device: Device) -> Result<Arc<dyn Executor>>;
    /// What a device is.
    fn properties(&self, device: Device) -> Result<DeviceProperties>;
}

/// A queue of work on a device. Work of one stream runs in order; that of two runs in any order unless an event
/// orders it.
pub trait Stream: Send + Sync {
    /// The device.
    fn device(&self) -> Device;
    /// The driver's handle as a number; 0 for the default stream.
    fn handle(&self) -> u64;
    /// Lower is more urgent; 0 is the default.
    fn priority(&self) -> i32;
    /// True when all work given to it is done.
    fn query(&self) -> Result<bool>;
    /// Waits on the host until all work given to it is done.
    fn synchronize(&self) -> Result<()>;
    /// Marks this moment of the stream in an event of the same device.
    fn record(&self, event: &dyn Event) -> Result<()>;
    /// Later work of this stream starts after what the event marks; an event never recorded marks nothing.
    fn wait(&self, event: &dyn Event) -> Result<()>;
    /// For the runtime to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// A moment of a stream.
pub trait Event: Send + Sync {
    /// The device.
    fn device(&self) -> Device;
    /// The driver's handle as a number.
    fn handle(&self) -> u64;
    /// True when the work before it is done; true for an event never recorded.
    fn query(&self) -> Result<bool>;
    /// Waits on the host until the work before it is done.
    fn synchronize(&self) -> Result<()>;
    /// Milliseconds from this event to a later one; both made with timing, recorded and done, else an error.
    fn elapsed_ms(&self, end: &dyn Event) -> Result<f64>;
    /// For the runtime to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// The refusal of a device that runs its work at once, in the caller.
pub fn no_streams(device: Device) -> Error {
    Error::device(format!("device {device} has no streams and events: its work is done when the call returns"))
}
