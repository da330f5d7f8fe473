//! Memory of the device and of the host, copies and fills.

use std::alloc::Layout;
use std::ffi::c_void;

use crate::capture::submit;
use crate::code::{self, Code};
use crate::device::context_device;
use crate::guard::put;
use crate::state::{Cmd, lock};

/// The default memory pool.
const POOL: u64 = 0xb0;

fn page(bytes: usize) -> Result<Layout, Code> {
    Layout::from_size_align(bytes.max(1), 4096).map_err(|_| code::INVALID_VALUE)
}

/// A copy that the host waits for.
fn now(cmd: &Cmd, what: &str) -> Result<(), Code> {
    lock().forbid_in_capture(what)?;
    crate::state::execute(cmd)
}

fn host(p: usize, bytes: usize) -> Result<(), Code> {
    if p == 0 && bytes != 0 { Err(code::INVALID_VALUE) } else { Ok(()) }
}

fn to_device(dst: u64, src: *const c_void, bytes: usize) -> Result<Cmd, Code> {
    host(src as usize, bytes)?;
    Ok(if bytes == 0 { Cmd::Empty } else { Cmd::HtoD { dst, src: src as usize, bytes } })
}

fn to_host(dst: *mut c_void, src: u64, bytes: usize) -> Result<Cmd, Code> {
    host(dst as usize, bytes)?;
    Ok(if bytes == 0 { Cmd::Empty } else { Cmd::DtoH { dst: dst as usize, src, bytes } })
}

fn fill(dst: u64, value: u32, width: usize, count: usize) -> Result<Cmd, Code> {
    if !dst.is_multiple_of(width as u64) {
        return lock()
            .refuse(code::INVALID_VALUE, format!("a fill by {width} bytes at {dst:#x}, which is no multiple"));
    }
    Ok(if count == 0 { Cmd::Empty } else { Cmd::Set { dst, unit: value.to_le_bytes(), width, count } })
}

api! { Init;
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (memory, live) = {
            let mut s = lock();
            let device = &s.here().device;
            (device.config().memory, device.bytes().0)
        };
        put(free, memory.saturating_sub(live) as usize)?;
        put(total, memory as usize)
    }

    fn cuMemAlloc_v2(ptr: *mut u64, bytes: usize) {
        let mut s = lock();
        s.forbid_in_capture("cuMemAlloc")?;
        let at = s.alloc(bytes as u64)?;
        put(ptr, at)
    }

    fn cuMemFree_v2(ptr: u64) {
        let mut s = lock();
        s.forbid_in_capture("cuMemFree")?;
        if ptr == 0 { Ok(()) } else { s.free(ptr) }
    }

    fn cuMemAllocAsync(ptr: *mut u64, bytes: usize, stream: u64) {
        let mut s = lock();
        s.forbid_on_stream(stream, "an allocation in the order")?;
        let at = s.alloc(bytes as u64)?;
        put(ptr, at)
    }

    fn cuMemAllocFromPoolAsync(ptr: *mut u64, bytes: usize, pool: u64, stream: u64) {
        if pool != POOL {
            return Err(code::INVALID_HANDLE);
        }
        let mut s = lock();
        s.forbid_on_stream(stream, "an allocation in the order")?;
        let at = s.alloc(bytes as u64)?;
        put(ptr, at)
    }

    fn cuMemFreeAsync(ptr: u64, stream: u64) {
        let mut s = lock();
        s.forbid_on_stream(stream, "a free in the order")?;
        s.free(ptr)
    }

    fn cuDeviceGetDefaultMemPool(pool: *mut u64, _dev: i32) { put(pool, POOL) }

    fn cuDeviceGetMemPool(pool: *mut u64, _dev: i32) { put(pool, POOL) }

    fn cuMemPoolSetAttribute(pool: u64, _attr: i32, value: *mut c_void) {
        if pool != POOL || value.is_null() { Err(code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuMemPoolGetAttribute(pool: u64, attr: i32, value: *mut c_void) {
        if pool != POOL {
            return Err(code::INVALID_VALUE);
        }
        let (now, high) = lock().here().device.bytes();
        match attr {
            // Reuse policies are ints; reserved and used bytes, now and at most, are 64 bits.
            1..=3 => put(value.cast::<i32>(), 1),
            5 | 7 => put(value.cast::<u64>(), now),
            6 | 8 => put(value.cast::<u64>(), high),
            _ => put(value.cast::<u64>(), 0),
        }
    }

    fn cuMemPoolTrimTo(pool: u64, _bytes: usize) {
        if pool == POOL { Ok(()) } else { Err(code::INVALID_HANDLE) }
    }

    fn cuMemHostAlloc(ptr: *mut *mut c_void, bytes: usize, _flags: u32) {
        let layout = page(bytes)?;
        // SAFETY: the layout has at least one byte.
        let p = unsafe { std::alloc::alloc(layout) };
        if p.is_null() {
            return Err(code::OUT_OF_MEMORY);
        }
        lock().host.insert(p as usize, bytes);
        put(ptr, p.cast())
    }

    fn cuMemFreeHost(ptr: *mut c_void) {
        let Some(bytes) = lock().host.remove(&(ptr as usize)) else {
            return lock().refuse(code::INVALID_VALUE, "a free of host memory that cuMemHostAlloc did not give");
        };
        let layout = page(bytes)?;
        // SAFETY: the pointer came from `alloc` with this layout, and was taken out of the table just now.
        unsafe { std::alloc::dealloc(ptr.cast(), layout) };
        Ok(())
    }

    fn cuMemcpyHtoD_v2(dst: u64, src: *const c_void, bytes: usize) {
        now(&to_device(dst, src, bytes)?, "cuMemcpyHtoD")
    }

    fn cuMemcpyDtoH_v2(dst: *mut c_void, src: u64, bytes: usize) {
        now(&to_host(dst, src, bytes)?, "cuMemcpyDtoH")
    }

    fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        now(&Cmd::DtoD { dst, src, bytes }, "cuMemcpyDtoD")
    }

    fn cuMemcpyHtoDAsync_v2(dst: u64, src: *const c_void, bytes: usize, stream: u64) {
        submit(stream, to_device(dst, src, bytes)?)
    }

    fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: u64, bytes: usize, stream: u64) {
        submit(stream, to_host(dst, src, bytes)?)
    }

    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) {
        submit(stream, if bytes == 0 { Cmd::Empty } else { Cmd::DtoD { dst, src, bytes } })
    }

    fn cuMemcpyPeerAsync(dst: u64, dst_ctx: u64, src: u64, src_ctx: u64, bytes: usize, stream: u64) {
        for (at, ctx) in [(dst, dst_ctx), (src, src_ctx)] {
            let device = context_device(ctx)?;
            let mut s = lock();
            if s.gpu(device).device.allocation(at, bytes.max(1) as u64).is_err() {
                let text = format!("a copy between devices: {at:#x} is no memory of device {device}");
                return s.refuse(code::INVALID_VALUE, text);
            }
        }
        submit(stream, if bytes == 0 { Cmd::Empty } else { Cmd::Peer { dst, src, bytes } })
    }

    fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) {
        now(&fill(dst, u32::from(value), 1, count)?, "cuMemsetD8")
    }

    fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: u64) {
        submit(stream, fill(dst, u32::from(value), 1, count)?)
    }

    fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: u64) {
        submit(stream, fill(dst, u32::from(value), 2, count)?)
    }

    fn cuMemsetD32Async(dst: u64, value: u32, count: usize, stream: u64) {
        submit(stream, fill(dst, value, 4, count)?)
    }

    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, ptr: u64) {
        let found = lock().holder(ptr).allocation(ptr, 1).map_err(|_| code::NOT_FOUND)?;
        if !base.is_null() {
            put(base, found.0)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, found.1 as usize) }
    }
}
