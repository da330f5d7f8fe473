//! Memory of a device, and memory of the host that a device reads and writes by itself.

use super::driver::{Context, OUT_OF_MEMORY};
use cudarc::driver::sys::CUdeviceptr;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use torsh_ir::{Error, Result};

/// A block of device memory.
pub struct Block {
    context: Arc<Context>,
    address: CUdeviceptr,
    len: usize,
}

impl Block {
    /// Allocates; `None` when the device has no more memory.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Option<Block>> {
        let entered = context.enter()?;
        let mut address = 0;
        // SAFETY: `address` lives through the call.
        let code = unsafe { (entered.table().cuMemAlloc_v2)(&raw mut address, len) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        entered.check("cuMemAlloc_v2", code)?;
        Ok(Some(Block { context: context.clone(), address, len }))
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The context that it belongs to.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Where it begins on the device.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: the block was allocated in this context and is freed once; who drops it has waited for the
            // work on it.
            entered.check("cuMemFree_v2", unsafe { (entered.table().cuMemFree_v2)(self.address) })
        });
    }
}

/// Host memory that the device reads and writes by itself.
pub struct Pinned {
    context: Arc<Context>,
    at: ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates zeroed memory; `len` is not 0.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Pinned> {
        let entered = context.enter()?;
        let mut at = ptr::null_mut();
        // SAFETY: `at` lives through the call.
        entered.check("cuMemHostAlloc", unsafe { (entered.table().cuMemHostAlloc)(&raw mut at, len, 0) })?;
        let at = ptr::NonNull::new(at.cast::<u8>());
        let at = at.ok_or_else(|| Error::device("cuMemHostAlloc gave no memory"))?;
        // SAFETY: the driver gave `len` writable bytes.
        unsafe { at.as_ptr().write_bytes(0, len) };
        Ok(Pinned { context: context.clone(), at, len })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it begins.
    pub(super) fn start(&self) -> *mut c_void {
        self.at.as_ptr().cast()
    }

    /// The bytes, for reading. The caller has waited for copies to them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory was initialised by `new` and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The bytes, for writing. The caller has waited for copies from them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: it was allocated by `cuMemHostAlloc` and is freed once; the driver waits for copies of it.
            entered.check("cuMemFreeHost", unsafe { (entered.table().cuMemFreeHost)(self.at.as_ptr().cast()) })
        });
    }
}
