//! Functions of the simulator's own, for tests: texts of faults, figures, errors on demand, work of other libraries.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use torsh_ptx_sim::{Config, Device, Order};

use crate::capture::submit;
use crate::code::{self, Code};
use crate::guard::put;
use crate::state::{Cmd, HostOp, State, lock};

thread_local! {
    /// Texts that were handed out stay until the next call on their thread.
    static TEXT: RefCell<CString> = RefCell::new(CString::default());
}

fn hand_out(text: CString) -> *const c_char {
    TEXT.with(|t| {
        *t.borrow_mut() = text;
        t.borrow().as_ptr()
    })
}

/// The version of this interface. Present in the simulator only, so a program can tell it from a driver.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_version() -> u32 {
    1
}

/// The whole text of the last fault or refusal, empty if there was none; valid until the next call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_last_fault() -> *const c_char {
    hand_out(lock().last_fault.clone())
}

/// Figures as a JSON object, valid until the next call on this thread: `live_allocations`, `live_bytes`,
/// `peak_bytes`, `allocations`, `launches`, `graph_launches`, `graph_kernels` (run by them), `bytes_to_device`, `bytes_to_host`,
/// `bytes_on_device`, `calls` by function, and `kernels` with the figures of the interpreter by name.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_counters() -> *const c_char {
    let s = lock();
    let all = |figure: &dyn Fn(&Device) -> u64| s.gpus().iter().map(|g| figure(&g.device)).sum::<u64>();
    let (live, live_bytes) = (all(&|d| d.live().0), all(&|d| d.live().1));
    let launches: u64 = s.kernels.values().map(|r| r.launches).sum();
    let join = |parts: Vec<String>| parts.join(",");
    let calls = join(s.calls.iter().map(|(k, n)| format!("\"{k}\":{n}")).collect());
    let kernels = join(s.kernels.iter().map(|(k, r)| format!("\"{}\":{}", k.escape_default(), r.json())).collect());
    let text = format!(
        concat!(
            "{{\"live_allocations\":{},\"live_bytes\":{},\"peak_bytes\":{},\"allocations\":{},\"launches\":{},",
            "\"graph_launches\":{},\"graph_kernels\":{},\"bytes_to_device\":{},\"bytes_to_host\":{},\"bytes_on_device\":{},",
            "\"calls\":{{{}}},\"kernels\":{{{}}}}}"
        ),
        live,
        live_bytes,
        all(&|d| d.bytes().1),
        s.allocations,
        launches,
        s.graph_launches,
        s.graph_kernels,
        s.copies[0],
        s.copies[1],
        s.copies[2],
        calls,
        kernels
    );
    drop(s);
    hand_out(CString::new(text).unwrap_or_default())
}

/// Sets the figures back to zero; what is alive stays counted.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_reset_counters() {
    let mut s = lock();
    s.calls.clear();
    s.kernels.clear();
    (s.graph_launches, s.graph_kernels, s.copies, s.allocations) = (0, 0, [0; 3], 0);
}

/// Makes the n-th call of a function from now on (1 is the next) return a code, once.
///
/// # Safety
/// `function` must be a text that ends in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_fail(function: *const c_char, nth: u64, code: Code) -> Code {
    if function.is_null() || nth == 0 {
        return code::INVALID_VALUE;
    }
    // SAFETY: the caller promises a text that ends in a zero byte.
    let name = unsafe { CStr::from_ptr(function) }.to_string_lossy().into_owned();
    lock().injections.push((name, nth, code));
    0
}

/// Makes the n-th allocation from now on (1 is the next) fail with `CUDA_ERROR_OUT_OF_MEMORY`, once; 0 takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_fail_alloc(nth: u64) {
    lock().fail_alloc = (nth > 0).then_some(nth);
}

/// Takes back all errors on demand, and the error that a fault left with the context.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_clear_errors() {
    let mut s = lock();
    s.injections.clear();
    s.fail_alloc = None;
    s.gpus_mut().iter_mut().for_each(|g| g.sticky = None);
    s.last_fault = CString::default();
}

/// Order of blocks and warps (1 for reversed), search for races (1 for on), memory in bytes (0 leaves it).
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_configure(reversed: i32, races: i32, memory: u64) {
    let mut s = lock();
    for g in s.gpus_mut() {
        let c = g.device.config_mut();
        c.order = if reversed == 0 { Order::Forward } else { Order::Reversed };
        c.races = races != 0;
        if memory != 0 {
            c.memory = memory;
        }
    }
}

/// Forgets everything, as if the process had just started: memory, handles, figures, errors. The environment is
/// read again by the next `cuInit`. No handle or address of before may be used.
#[unsafe(no_mangle)]
pub extern "C" fn torsh_cuda_sim_reset() -> Code {
    // Host work owns data of other libraries, whose destructors may call back: not under the lock.
    let old = std::mem::replace(&mut *lock(), State::new(Config::default()));
    drop(old);
    0
}

/// Tells the PTX of a CUBIN, so that loading the CUBIN runs the PTX.
///
/// # Safety
/// `cubin` must have `len` readable bytes, `ptx` must be a text that ends in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_give_ptx(cubin: *const u8, len: usize, ptx: *const c_char) -> Code {
    if cubin.is_null() || ptx.is_null() {
        return code::INVALID_VALUE;
    }
    // SAFETY: the caller promises so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(cubin, len) }.to_vec();
    // SAFETY: the caller promises a text that ends in a zero byte.
    let text = unsafe { CStr::from_ptr(ptx) }.to_string_lossy().into_owned();
    lock().given.push((bytes, text));
    0
}

/// Gives a stream a function to call in its order, or records it when the stream is capturing: how a library does
/// work that is no kernel. The function may call the functions of this module, returns a driver code, and is called
/// once for every replay; `release` takes the data back when nothing can call the function any more.
///
/// # Safety
/// `run` and `release` must fit `data`, and may be called on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_submit(
    stream: u64,
    run: unsafe extern "C" fn(*mut c_void) -> i32,
    data: *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
) -> Code {
    let op = Arc::new(HostOp { run, data: data as usize, drop: Some(release) });
    match submit(stream, Cmd::Host(op)) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

/// Base and length of the allocation that holds a range of device memory, or an error if none holds all of it.
///
/// # Safety
/// The result pointers must be valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_range(at: u64, bytes: u64, base: *mut u64, len: *mut u64) -> Code {
    let found = {
        let mut s = lock();
        match s.holder(at).allocation(at, bytes) {
            Ok(f) => f,
            Err(fault) => {
                let code = code::of_fault(fault.kind);
                s.complain(fault.to_string());
                return code;
            }
        }
    };
    put(base, found.0).and_then(|()| put(len, found.1)).err().unwrap_or(0)
}

/// Copies device memory to the host, for functions that a stream calls; bytes that nobody wrote are an error.
///
/// # Safety
/// `to` must have `bytes` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_read(to: *mut c_void, at: u64, bytes: usize) -> Code {
    if bytes == 0 {
        return 0;
    }
    let mut s = lock();
    let mut data = vec![0u8; bytes];
    if let Err(f) = s.holder(at).read(at, &mut data) {
        return s.fault::<()>(&f).err().unwrap_or(0);
    }
    let check = s.holder(at).config().check_uninit;
    if let (true, Ok(Some(hole))) = (check, s.holder(at).unwritten(at, bytes as u64)) {
        s.complain(format!(
            "a library reads {bytes} bytes at {at:#x}, of which the one at {hole:#x} was never written"
        ));
        s.here().sticky = Some(code::LAUNCH_FAILED);
        return code::LAUNCH_FAILED;
    }
    // SAFETY: the caller promises so many writable bytes.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.cast::<u8>(), bytes) };
    0
}

/// Copies from the host to device memory, for functions that a stream calls.
///
/// # Safety
/// `from` must have `bytes` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_write(at: u64, from: *const c_void, bytes: usize) -> Code {
    if bytes == 0 {
        return 0;
    }
    // SAFETY: the caller promises so many readable bytes.
    let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
    let mut s = lock();
    match s.holder(at).write(at, data) {
        Ok(()) => 0,
        Err(f) => s.fault::<()>(&f).err().unwrap_or(0),
    }
}

/// Sets the text of the last fault, for libraries beside the driver.
///
/// # Safety
/// `text` must end in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn torsh_cuda_sim_complain(text: *const c_char) {
    if !text.is_null() {
        // SAFETY: the caller promises a text that ends in a zero byte.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        lock().complain(text);
    }
}
