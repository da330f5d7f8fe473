//! Initialisation, the device and its attributes, contexts, errors.

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use crate::code;
use crate::guard::put;
use crate::state::{State, configuration, lock};

/// The handle of the first device's primary context; those of the others follow.
const CONTEXT: u64 = 0xc0;
/// The version that the driver says it is: 13.0.
const VERSION: i32 = 13_000;

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

fn check_device(dev: i32) -> Result<usize, code::Code> {
    usize::try_from(dev).ok().filter(|&d| d < lock().gpus().len()).ok_or(code::INVALID_DEVICE)
}

/// The device of a context.
pub(crate) fn context_device(ctx: u64) -> Result<usize, code::Code> {
    let index = ctx.checked_sub(CONTEXT).and_then(|i| usize::try_from(i).ok());
    index.filter(|&i| i < lock().gpus().len()).ok_or(code::INVALID_CONTEXT)
}

/// The device whose context is current on this thread, the first one where none is.
pub(crate) fn current() -> usize {
    CURRENT.get().saturating_sub(CONTEXT) as usize
}

/// 16 bytes that tell a device from the others.
fn name_of(dev: usize) -> [u8; 16] {
    let mut name = *b"torsh-cuda-sim-0";
    name[15] += dev as u8;
    name
}

/// An attribute of a device by its number in `CUdevice_attribute`.
fn attribute(s: &State, attr: i32) -> i32 {
    let c = s.gpus()[0].device.config();
    let old = c.sm < 90;
    match attr {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65_535,
        8 => 48 * 1024,
        9 => 65_536,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65_536,
        13 => {
            if old {
                1_410_000
            } else {
                1_980_000
            }
        }
        14 => 512,
        16 => c.sms as i32,
        // Overlap, host mapping, concurrent kernels, ECC, unified addressing, priorities, managed memory.
        15 | 19 | 31 | 32 | 41 | 78 | 83 => 1,
        36 => {
            if old {
                1_215_000
            } else {
                2_619_000
            }
        }
        37 => 5120,
        38 => {
            if old {
                40 << 20
            } else {
                50 << 20
            }
        }
        39 => 2048,
        40 => 3,
        75 => (c.sm / 10) as i32,
        76 => (c.sm % 10) as i32,
        81 => {
            if old {
                164 * 1024
            } else {
                228 * 1024
            }
        }
        95 => 1,
        97 => c.shared_limit as i32,
        106 => 32,
        111 => 1024,
        // Memory pools: allocation in stream order.
        115 => 1,
        _ => 0,
    }
}

api! { Nothing;
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        let mut s = lock();
        if s.initialised {
            return Ok(());
        }
        match configuration() {
            Ok((config, devices, quiet)) => {
                s.configure(&config, devices);
                s.quiet = quiet;
                s.initialised = true;
                Ok(())
            }
            Err(text) => s.refuse(code::INVALID_VALUE, text),
        }
    }

    fn cuDriverGetVersion(version: *mut i32) {
        put(version, VERSION)
    }

    fn cuGetErrorName(error: i32, name: *mut *const c_char) {
        match code::describe(error) {
            Some((n, _)) => put(name, n.as_ptr()),
            None => Err(code::INVALID_VALUE),
        }
    }

    fn cuGetErrorString(error: i32, text: *mut *const c_char) {
        match code::describe(error) {
            Some((_, t)) => put(text, t.as_ptr()),
            None => Err(code::INVALID_VALUE),
        }
    }

    fn cuGetExportTable(table: *mut *const c_void, _id: *const c_void) {
        put(table, std::ptr::null())?;
        Err(code::NOT_FOUND)
    }

    fn cuGetProcAddress_v2(
        _name: *const c_char,
        pfn: *mut *mut c_void,
        _version: i32,
        _flags: u64,
        status: *mut i32,
    ) {
        put(pfn, std::ptr::null_mut())?;
        if !status.is_null() {
            put(status, 1)?;
        }
        Err(code::NOT_FOUND)
    }

    fn cuDevicePrimaryCtxRelease_v2(dev: i32) {
        let dev = check_device(dev)?;
        let mut s = lock();
        let g = s.gpu(dev);
        if g.context_refs == 0 {
            return Err(code::INVALID_CONTEXT);
        }
        g.context_refs -= 1;
        if g.context_refs == 0 {
            // With the context goes what a fault left behind.
            g.sticky = None;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(dev: i32) {
        let dev = check_device(dev)?;
        lock().gpu(dev).sticky = None;
        Ok(())
    }

    fn cuProfilerStart() { Ok(()) }

    fn cuProfilerStop() { Ok(()) }
}

api! { Init;
    fn cuDeviceGetCount(count: *mut i32) { put(count, lock().gpus().len() as i32) }

    fn cuDeviceGet(dev: *mut i32, ordinal: i32) {
        check_device(ordinal)?;
        put(dev, ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: i32, dev: i32) {
        check_device(dev)?;
        let text = format!("torsh CUDA simulator sm_{}", lock().gpus()[0].device.config().sm);
        let room = usize::try_from(len).unwrap_or(0);
        if name.is_null() || room == 0 {
            return Err(code::INVALID_VALUE);
        }
        let n = text.len().min(room - 1);
        // SAFETY: the caller promises `len` writable bytes, and n + 1 is no more than that.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast::<u8>(), n);
            name.add(n).write(0);
        }
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], dev: i32) {
        put(uuid, name_of(check_device(dev)?))
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], dev: i32) {
        put(uuid, name_of(check_device(dev)?))
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: i32) {
        check_device(dev)?;
        put(bytes, lock().gpus()[0].device.config().memory as usize)
    }

    fn cuDeviceGetAttribute(value: *mut i32, attr: i32, dev: i32) {
        check_device(dev)?;
        if !(1..=200).contains(&attr) {
            return Err(code::INVALID_VALUE);
        }
        let v = attribute(&lock(), attr);
        put(value, v)
    }

    fn cuDevicePrimaryCtxRetain(ctx: *mut u64, dev: i32) {
        let dev = check_device(dev)?;
        put(ctx, CONTEXT + dev as u64)?;
        lock().gpu(dev).context_refs += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(dev: i32, flags: *mut u32, active: *mut i32) {
        let dev = check_device(dev)?;
        put(flags, 0)?;
        put(active, i32::from(lock().gpu(dev).context_refs > 0))
    }

    fn cuCtxSynchronize() {
        lock().forbid_in_capture("cuCtxSynchronize")
    }

    fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) {
        put(least, 0)?;
        put(greatest, -5)
    }

    fn cuCtxSetFlags(_flags: u32) { Ok(()) }

    fn cuCtxSetLimit(_limit: i32, _value: usize) { Ok(()) }

    fn cuCtxSetCacheConfig(_config: i32) { Ok(()) }
}

api! { Started;
    fn cuCtxGetCurrent(ctx: *mut u64) { put(ctx, CURRENT.get()) }

    fn cuCtxSetCurrent(ctx: u64) {
        if ctx != 0 {
            context_device(ctx)?;
        }
        CURRENT.set(ctx);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(ctx: u64) {
        context_device(ctx)?;
        CURRENT.set(ctx);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(ctx: *mut u64) {
        put(ctx, CURRENT.replace(0))
    }

    fn cuCtxGetDevice(dev: *mut i32) {
        put(dev, context_device(CURRENT.get())? as i32)
    }
}
