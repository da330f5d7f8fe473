//! A tensor's memory on a device.

use super::arena::{Arena, Loan, Purpose, Uses};
use crate::sys::cuda::driver::{Block, Stream};
use std::any::Any;
use std::sync::{Arc, MutexGuard, OnceLock};
use torsh_ir::exec::{Buffer, Device};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// Memory of one tensor.
pub(crate) struct CudaBuffer {
    loan: Loan,
    len: usize,
    device: Device,
    /// Why the value is lost: an update in place that failed halfway.
    lost: OnceLock<String>,
}

impl CudaBuffer {
    /// A buffer that `stream` is to write.
    pub fn new(arena: &Arena, device: Device, ty: &Type, stream: &Arc<Stream>) -> Result<CudaBuffer> {
        let len = ty.nbytes();
        let loan = arena.take(len, stream, &Purpose::Tensor(ty.clone()))?;
        Ok(CudaBuffer { loan, len, device, lost: OnceLock::new() })
    }

    /// The block; `None` for no bytes.
    pub fn block(&self) -> Option<&Block> {
        self.loan.block()
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.loan.address()
    }

    /// Says that `stream` is about to read it.
    pub fn read(&self, stream: &Arc<Stream>) -> Result<()> {
        self.uses()?.read(stream)
    }

    /// Says that `stream` is about to write it.
    pub fn write(&self, stream: &Arc<Stream>) -> Result<()> {
        self.uses()?.write(stream)
    }

    fn uses(&self) -> Result<MutexGuard<'_, Uses>> {
        match self.lost.get() {
            Some(why) => Err(Error::device(format!(
                "this tensor's value is lost: it was being updated in place when {why}; make it anew, or load it again"
            ))),
            None => Ok(self.loan.uses()),
        }
    }

    /// The value can no longer be read.
    pub fn lose(&self, why: &Error) {
        self.lost.get_or_init(|| why.message().to_string());
    }
}

impl Buffer for CudaBuffer {
    fn nbytes(&self) -> usize {
        self.len
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
