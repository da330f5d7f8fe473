//! The functions of the simulated driver that this library stands on.

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use libloading::Library;

type Call = unsafe extern "C" fn(*mut c_void) -> i32;
type Release = unsafe extern "C" fn(*mut c_void);

struct Driver {
    submit: unsafe extern "C" fn(u64, Call, *mut c_void, Release) -> i32,
    range: unsafe extern "C" fn(u64, u64, *mut u64, *mut u64) -> i32,
    read: unsafe extern "C" fn(*mut c_void, u64, usize) -> i32,
    write: unsafe extern "C" fn(u64, *const c_void, usize) -> i32,
    complain: unsafe extern "C" fn(*const c_char),
}

fn driver() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            // SAFETY: opening the driver that the program runs on has no effect of its own.
            let lib: &'static Library = Box::leak(Box::new(unsafe { Library::new("libcuda.so.1") }.ok()?));
            // SAFETY: the types are those of the simulator's functions; a real driver has no such names.
            unsafe {
                Some(Driver {
                    submit: *lib.get("torsh_cuda_sim_submit").ok()?,
                    range: *lib.get("torsh_cuda_sim_range").ok()?,
                    read: *lib.get("torsh_cuda_sim_read").ok()?,
                    write: *lib.get("torsh_cuda_sim_write").ok()?,
                    complain: *lib.get("torsh_cuda_sim_complain").ok()?,
                })
            }
        })
        .as_ref()
}

/// The driver in this process is the simulator.
pub(crate) fn present() -> bool {
    driver().is_some()
}

/// Base and length of the allocation that holds the whole range.
pub(crate) fn range(at: u64, bytes: u64) -> Option<(u64, u64)> {
    let (mut base, mut len) = (0, 0);
    // SAFETY: both pointers lead to variables of this function.
    let code = unsafe { (driver()?.range)(at, bytes, &raw mut base, &raw mut len) };
    (code == 0).then_some((base, len))
}

/// Reads device memory; gives the driver's code when that fails.
pub(crate) fn read(at: u64, out: &mut [u8]) -> Result<(), i32> {
    let d = driver().ok_or(3)?;
    // SAFETY: the slice has so many writable bytes.
    match unsafe { (d.read)(out.as_mut_ptr().cast(), at, out.len()) } {
        0 => Ok(()),
        code => Err(code),
    }
}

/// Writes device memory; gives the driver's code when that fails.
pub(crate) fn write(at: u64, data: &[u8]) -> Result<(), i32> {
    let d = driver().ok_or(3)?;
    // SAFETY: the slice has so many readable bytes.
    match unsafe { (d.write)(at, data.as_ptr().cast(), data.len()) } {
        0 => Ok(()),
        code => Err(code),
    }
}

/// Leaves a text with the driver.
pub(crate) fn complain(text: &str) {
    if let (Some(d), Ok(text)) = (driver(), CString::new(format!("cublasLt: {text}"))) {
        // SAFETY: the text ends in a zero byte.
        unsafe { (d.complain)(text.as_ptr()) }
    }
}

/// Work of a stream.
pub(crate) type Work = Box<dyn Fn() -> Result<(), i32> + Send + Sync>;

unsafe extern "C" fn run(p: *mut c_void) -> i32 {
    // SAFETY: the data of this function is always a `Work`, which lives until it is released.
    let work = unsafe { &*p.cast::<Work>() };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(r) => r.err().unwrap_or(0),
        Err(_) => 999,
    }
}

unsafe extern "C" fn release(p: *mut c_void) {
    // SAFETY: the pointer came from `Box::into_raw`, and this is called once.
    drop(unsafe { Box::from_raw(p.cast::<Work>()) });
}

/// Hands work to a stream.
pub(crate) fn submit(stream: u64, work: Work) -> Result<(), i32> {
    let d = driver().ok_or(3)?;
    let data = Box::into_raw(Box::new(work));
    // SAFETY: `run` and `release` take what was boxed here.
    match unsafe { (d.submit)(stream, run, data.cast(), release) } {
        0 => Ok(()),
        code => Err(code),
    }
}
