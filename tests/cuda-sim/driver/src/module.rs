//! Modules, kernels, their attributes and launches, occupancy.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use torsh_ptx_sim::{KernelInfo, Module};

use crate::capture::submit;
use crate::code::{self, Code};
use crate::device::current;
use crate::guard::put;
use crate::state::{Cmd, Function, State, lock};

/// Dynamic and static shared memory that a kernel may have without asking for more.
const SHARED_DEFAULT: u32 = 48 * 1024;

/// Length of an ELF image by its headers: the end of the section and program tables.
fn elf_len(head: &[u8; 64]) -> usize {
    let n64 = |at: usize| usize::from_le_bytes(std::array::from_fn(|k| head[at + k]));
    let n16 = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let programs = n64(32).saturating_add(n16(54) * n16(56));
    n64(40).saturating_add(n16(58) * n16(60)).max(programs)
}

/// The PTX of an image, or why there is none.
fn text_of(image: *const c_void) -> Result<String, Code> {
    if image.is_null() {
        return Err(code::INVALID_VALUE);
    }
    let p = image.cast::<u8>();
    // SAFETY: an image is PTX text that ends in a zero byte, or begins with a magic number of four bytes; the bytes
    // are read one after another and a zero byte ends the reading.
    let magic: Vec<u8> = unsafe { (0..4).map(|k| p.add(k).read()).take_while(|b| *b != 0).collect() };
    if magic == [0x7f, b'E', b'L', b'F'] {
        // SAFETY: an ELF image has a header of 64 bytes.
        let head: [u8; 64] = unsafe { p.cast::<[u8; 64]>().read_unaligned() };
        let len = elf_len(&head);
        // SAFETY: its tables end inside the image.
        let bytes = unsafe { std::slice::from_raw_parts(p, len) };
        let mut s = lock();
        if let Some((_, ptx)) = s.given.iter().find(|(b, _)| b.len() >= len && b[..len] == *bytes) {
            return Ok(ptx.clone());
        }
        return s.refuse(
            code::INVALID_IMAGE,
            "the image is a CUBIN, whose machine code is not simulated: load PTX, or give the PTX of the CUBIN with \
             torsh_cuda_sim_give_ptx before",
        );
    }
    if magic == [0x50, 0xed, 0x55, 0xba] {
        return lock().refuse(code::INVALID_IMAGE, "the image is a fat binary: load PTX");
    }
    // SAFETY: PTX text ends in a zero byte.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    match text.to_str() {
        Ok(t) => Ok(t.to_string()),
        Err(_) => lock().refuse(code::INVALID_IMAGE, "the image is neither PTX text nor a CUBIN"),
    }
}

fn load(to: *mut u64, image: *const c_void) -> Result<(), Code> {
    let text = text_of(image)?;
    let mut s = lock();
    let module = match Module::parse(&text) {
        Ok(m) => m,
        Err(e) => return s.refuse(code::INVALID_PTX, e.to_string()),
    };
    let device = current();
    if let Err(e) = s.gpu(device).device.load(&module) {
        return s.refuse(code::NO_BINARY_FOR_GPU, e.to_string());
    }
    let h = s.handle();
    s.modules.insert(h, (device, Arc::new(module), Vec::new()));
    drop(s);
    put(to, h)
}

fn name_of(name: *const c_char) -> Result<String, Code> {
    if name.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller promises a text that ends in a zero byte.
    let text = unsafe { CStr::from_ptr(name) };
    Ok(text.to_string_lossy().into_owned())
}

impl State {
    pub fn function(&self, f: u64) -> Result<(Arc<Function>, KernelInfo), Code> {
        let f = self.functions.get(&f).ok_or(code::INVALID_HANDLE)?;
        let info = f.module.kernel(&f.name).ok_or(code::NOT_FOUND)?;
        Ok((f.clone(), info))
    }

    /// Blocks of a kernel that one multiprocessor holds: threads, shared memory and the number of blocks count,
    /// registers do not, for PTX does not tell them.
    fn blocks_per_sm(&self, info: &KernelInfo, threads: i32, dynamic: usize) -> Result<u32, Code> {
        if threads <= 0 {
            return Err(code::INVALID_VALUE);
        }
        let threads = (threads as u32).next_multiple_of(32);
        if threads > info.max_threads.unwrap_or(1024).next_multiple_of(32) {
            return Ok(0);
        }
        let limit = self.gpus()[0].device.config().shared_limit;
        let shared = u64::from(info.static_shared) + dynamic as u64;
        if shared > u64::from(limit) {
            return Ok(0);
        }
        let by_shared = (u64::from(limit) + 1024) / (shared + 1024);
        Ok((2048 / threads).min(32).min(by_shared as u32))
    }
}

fn dynamic_limit(f: &Function, info: &KernelInfo) -> u32 {
    let asked = *f.max_dynamic.lock().unwrap_or_else(PoisonError::into_inner);
    asked.max(SHARED_DEFAULT.saturating_sub(info.static_shared))
}

#[allow(clippy::too_many_arguments, reason = "the arguments of the driver's function")]
fn launch(
    f: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), Code> {
    let (f, info) = lock().function(f)?;
    if !extra.is_null() {
        return lock().refuse(code::NOT_SUPPORTED, "parameters through `extra` are not simulated: use kernelParams");
    }
    if shared > dynamic_limit(&f, &info) {
        let text = format!(
            "kernel {}: {shared} bytes of dynamic shared memory need cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) first",
            f.name
        );
        return lock().refuse(code::INVALID_VALUE, text);
    }
    let mut bytes = vec![0u8; info.param_bytes as usize];
    if params.is_null() && !info.params.is_empty() {
        return lock().refuse(code::INVALID_VALUE, format!("kernel {} takes parameters, there are none", f.name));
    }
    for (i, (offset, size)) in info.params.iter().enumerate() {
        // SAFETY: the caller promises one pointer for each parameter of the kernel.
        let p = unsafe { params.add(i).read() };
        if p.is_null() {
            return lock().refuse(code::INVALID_VALUE, format!("kernel {}: parameter {i} is a null pointer", f.name));
        }
        let to = &mut bytes[*offset as usize..(*offset + *size) as usize];
        // SAFETY: each of them leads to a value of the parameter's size.
        unsafe { std::ptr::copy_nonoverlapping(p.cast::<u8>(), to.as_mut_ptr(), *size as usize) };
    }
    let on = lock().stream_device(stream);
    if on.is_some_and(|on| on != f.device) {
        let text = format!("kernel {} of device {} is launched on a stream of another device", f.name, f.device);
        return lock().refuse(code::INVALID_HANDLE, text);
    }
    submit(stream, Cmd::Kernel { f, grid, block, shared, params: bytes })
}

api! { Init;
    fn cuModuleLoadData(module: *mut u64, image: *const c_void) { load(module, image) }

    fn cuModuleLoadDataEx(
        module: *mut u64,
        image: *const c_void,
        _n: u32,
        _options: *mut i32,
        _values: *mut *mut c_void,
    ) {
        load(module, image)
    }

    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        let path = name_of(path)?;
        let Ok(mut bytes) = std::fs::read(&path) else {
            return lock().refuse(code::FILE_NOT_FOUND, format!("{path} cannot be read"));
        };
        // Room for an ELF header, and the zero that ends a text.
        bytes.resize(bytes.len().max(63) + 1, 0);
        load(module, bytes.as_ptr().cast())
    }

    fn cuModuleUnload(module: u64) {
        let mut s = lock();
        let Some((device, m, functions)) = s.modules.remove(&module) else { return Err(code::INVALID_HANDLE) };
        for f in functions {
            s.functions.remove(&f);
        }
        s.gpu(device).device.unload(&m);
        Ok(())
    }

    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) {
        let name = name_of(name)?;
        let mut s = lock();
        let (device, m) = s.modules.get(&module).map(|m| (m.0, m.1.clone())).ok_or(code::INVALID_HANDLE)?;
        if m.kernel(&name).is_none() {
            return s.refuse(code::NOT_FOUND, format!("the module has no kernel `{name}`"));
        }
        let h = s.handle();
        s.functions.insert(h, Arc::new(Function { device, module: m, name, max_dynamic: Mutex::new(0) }));
        if let Some((_, _, functions)) = s.modules.get_mut(&module) {
            functions.push(h);
        }
        drop(s);
        put(function, h)
    }

    fn cuModuleGetGlobal_v2(ptr: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) {
        let name = name_of(name)?;
        let (at, n) = {
            let mut s = lock();
            let (device, m) = s.modules.get(&module).map(|m| (m.0, m.1.clone())).ok_or(code::INVALID_HANDLE)?;
            s.gpu(device).device.global(&m, &name).map_err(|_| code::NOT_FOUND)?
        };
        if !ptr.is_null() {
            put(ptr, at)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, n as usize) }
    }

    fn cuFuncGetAttribute(value: *mut i32, attr: i32, function: u64) {
        let (f, info, sm) = {
            let s = lock();
            let (f, info) = s.function(function)?;
            (f, info, s.gpus()[0].device.config().sm)
        };
        let v = match attr {
            0 => info.max_threads.unwrap_or(1024),
            1 => info.static_shared,
            2 | 7 => 0,
            3 => info.local,
            // PTX does not tell the registers of the machine; this is a number that always fits.
            4 => 32,
            5 | 6 => sm,
            8 => dynamic_limit(&f, &info),
            9 => u32::MAX,
            _ => 0,
        };
        put(value, v as i32)
    }

    fn cuFuncSetAttribute(function: u64, attr: i32, value: i32) {
        let mut s = lock();
        let (f, info) = s.function(function)?;
        if attr == 8 {
            let limit = s.gpus()[0].device.config().shared_limit.saturating_sub(info.static_shared);
            match u32::try_from(value) {
                Ok(v) if v <= limit => *f.max_dynamic.lock().unwrap_or_else(PoisonError::into_inner) = v,
                _ => {
                    let text = format!("kernel {}: {value} bytes of dynamic shared memory, at most {limit} are left", f.name);
                    return s.refuse(code::INVALID_VALUE, text);
                }
            }
        }
        Ok(())
    }

    fn cuFuncSetCacheConfig(function: u64, _config: i32) { lock().function(function).map(|_| ()) }

    fn cuLaunchKernel(
        f: u64,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: u64,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        launch(f, [gx, gy, gz], [bx, by, bz], shared, stream, params, extra)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut i32, f: u64, threads: i32, dynamic: usize) {
        let s = lock();
        let n = s.blocks_per_sm(&s.function(f)?.1, threads, dynamic)?;
        put(blocks, n as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut i32,
        f: u64,
        threads: i32,
        dynamic: usize,
        _flags: u32,
    ) {
        let s = lock();
        let n = s.blocks_per_sm(&s.function(f)?.1, threads, dynamic)?;
        put(blocks, n as i32)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        min_grid: *mut i32,
        block: *mut i32,
        f: u64,
        _of_block: *const c_void,
        dynamic: usize,
        limit: i32,
    ) {
        let (best, grid) = {
            let s = lock();
            let info = s.function(f)?.1;
            let most = info.max_threads.unwrap_or(1024).min(if limit > 0 { limit as u32 } else { 1024 });
            let mut best = (0, 32);
            for t in (32..=most.max(32)).step_by(32) {
                let held = s.blocks_per_sm(&info, t as i32, dynamic)?;
                best = best.max((held * t, t));
            }
            (best, s.gpus()[0].device.config().sms * (best.0 / best.1))
        };
        put(min_grid, grid as i32)?;
        put(block, best.1 as i32)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, f: u64, blocks: i32, threads: i32) {
        if blocks <= 0 || threads <= 0 {
            return Err(code::INVALID_VALUE);
        }
        let s = lock();
        let info = s.function(f)?.1;
        let each = (s.gpus()[0].device.config().shared_limit + 1024) / blocks as u32;
        put(bytes, each.saturating_sub(1024 + info.static_shared) as usize)
    }
}
