//! The CUDA driver: a table of its functions, devices and contexts.
//!
//! Every call is made with the device's primary context current on the calling thread ([`Context::enter`]), and
//! every code but success becomes a [`Error`] of kind `Device` that names the call, the code and the driver's text.
//! Codes after which the driver refuses all further work of the process on the device poison the context: later
//! calls end at once with the first message. Handles are freed when dropped; what fails there is kept and reported by
//! the next [`Context::check`], or logged when the context goes before that.

use super::load::{self, Code, functions};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};
use libloading::Library;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::io::Write;
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use torsh_ir::{Error, Result};

pub use super::memory::{Block, Pinned};
pub use super::module::{Arg, Expected, Function, Module};
pub use super::stream::{Event, Graph, Stream};
pub use cudarc::driver::sys::CUdevice_attribute as Attribute;

functions! {
    /// The functions of the driver that are used.
    Table, cudarc::driver::sys, CUresult;
    cuInit(c_uint);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxGetCurrent(*mut CUcontext);
    cuCtxSetCurrent(CUcontext);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemcpyPeerAsync(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, c_uchar, usize, CUstream);
    cuStreamCreateWithPriority(*mut CUstream, c_uint, c_int);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamWaitEvent(CUstream, CUevent, c_uint);
    cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
    cuStreamEndCapture(CUstream, *mut CUgraph);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventDestroy_v2(CUevent);
    cuEventQuery(CUevent);
    cuEventRecord(CUevent, CUstream);
    cuEventSynchronize(CUevent);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncGetAttribute(*mut c_int, CUfunction_attribute, CUfunction);
    cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
    cuLaunchKernel(CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void);
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuGraphExecDestroy(CUgraphExec);
    cuGraphDestroy(CUgraph);
}

/// The codes that are looked at.
pub(super) const OUT_OF_MEMORY: Code = CUresult::CUDA_ERROR_OUT_OF_MEMORY as Code;
pub(super) const NOT_READY: Code = CUresult::CUDA_ERROR_NOT_READY as Code;
/// After these no work of the process on the device succeeds any more.
const STICKY: &[CUresult] = &[
    CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    CUresult::CUDA_ERROR_DEINITIALIZED,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    CUresult::CUDA_ERROR_ASSERT,
    CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUresult::CUDA_ERROR_INVALID_PC,
    CUresult::CUDA_ERROR_LAUNCH_FAILED,
    CUresult::CUDA_ERROR_UNKNOWN,
];

/// A driver that has been loaded and initialised. It stays loaded as long as the process lives.
pub struct Driver {
    table: Table,
    library: Library,
    simulated: bool,
    /// What it was opened by.
    name: OsString,
    process: u32,
    error_name: Describe,
    error_text: Describe,
    elapsed: Elapsed,
}

pub(super) type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> Code;
type Describe = unsafe extern "C" fn(Code, *mut *const c_char) -> Code;

/// The symbol by which the simulator is known.
const SIMULATOR: &str = "torsh_cuda_sim_version";

impl Driver {
    /// Opens the first of `names` that can be opened, and initialises it. On failure says why, for each name.
    pub fn open(names: &[OsString]) -> Result<Driver, String> {
        let mut tried = Vec::new();
        let opened = names.iter().find_map(|name| match load::open(name) {
            Ok(library) => Some((library, name)),
            Err(e) => {
                tried.push(e);
                None
            }
        });
        let Some((library, name)) = opened else {
            let looked: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
            return Err(format!(
                "no CUDA driver was found: looked for {}, by path or where the system looks for libraries ({})",
                looked.join(", "),
                tried.join("; ")
            ));
        };
        let at = name.to_string_lossy();
        let table = Table::resolve(&library)
            .map_err(|missing| format!("the CUDA driver {at} is too old or broken: it lacks {}", missing.join(", ")))?;
        let describe = |symbol: &str| {
            // SAFETY: both functions take a code and the place of a string that is never freed.
            let found = unsafe { library.get::<Describe>(symbol.as_bytes()) };
            found.map(|f| *f).map_err(|_| format!("the CUDA driver {at} is too old or broken: it lacks {symbol}"))
        };
        let (error_name, error_text) = (describe("cuGetErrorName")?, describe("cuGetErrorString")?);
        // Drivers before 12.8 have the first name only.
        let elapsed = ["cuEventElapsedTime", "cuEventElapsedTime_v2"].into_iter().rev().find_map(|symbol| {
            // SAFETY: both take the place of a number and two events.
            unsafe { library.get::<Elapsed>(symbol.as_bytes()) }.ok().map(|f| *f)
        });
        let elapsed =
            elapsed.ok_or_else(|| format!("the CUDA driver {at} is too old or broken: it lacks cuEventElapsedTime"))?;
        let simulated = load::has_symbol(&library, SIMULATOR);
        let process = std::process::id();
        let driver = Driver { table, simulated, name: name.clone(), process, error_name, error_text, elapsed, library };
        // SAFETY: takes no pointers.
        driver
            .code("cuInit", unsafe { (driver.table.cuInit)(0) })
            .map_err(|f| format!("the CUDA driver {at} does not start: {}", f.text))?;
        Ok(driver)
    }

    /// True for the simulator of `tests/cuda-sim`.
    pub fn is_simulator(&self) -> bool {
        self.simulated
    }

    /// What it was opened by.
    pub fn name(&self) -> &OsString {
        &self.name
    }

    /// The simulator's own functions; `None` for a real driver.
    pub fn simulator(&self) -> Option<Simulator> {
        // SAFETY: the simulator's functions of these names have these signatures (tests/cuda-sim/driver).
        unsafe {
            Some(Simulator {
                fail: *self.library.get(b"torsh_cuda_sim_fail").ok()?,
                fail_alloc: *self.library.get(b"torsh_cuda_sim_fail_alloc").ok()?,
                clear_errors: *self.library.get(b"torsh_cuda_sim_clear_errors").ok()?,
                counters: *self.library.get(b"torsh_cuda_sim_counters").ok()?,
                last_fault: *self.library.get(b"torsh_cuda_sim_last_fault").ok()?,
            })
        }
    }

    /// The version of CUDA that it knows: 1000 times the major one and 10 times the minor one.
    pub fn version(&self) -> Option<u32> {
        // SAFETY: the function takes the place of a number.
        let ask =
            unsafe { self.library.get::<unsafe extern "C" fn(*mut c_int) -> Code>(b"cuDriverGetVersion") }.ok()?;
        let mut version = 0;
        // SAFETY: as above; `version` lives through the call.
        let code = unsafe { ask(&raw mut version) };
        u32::try_from(version).ok().filter(|&v| code == 0 && v > 0)
    }

    /// The number of devices.
    pub fn device_count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: `count` lives through the call.
        self.call("cuDeviceGetCount", unsafe { (self.table.cuDeviceGetCount)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// A device by number; the number must be below the count.
    pub fn device(&'static self, ordinal: u32) -> Result<DeviceHandle> {
        let mut device = 0;
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: `device` lives through the call.
        self.call("cuDeviceGet", unsafe { (self.table.cuDeviceGet)(&raw mut device, number) })?;
        Ok(DeviceHandle { driver: self, device, ordinal })
    }

    fn text(describe: Describe, code: Code) -> Option<String> {
        let mut text = ptr::null();
        // SAFETY: `text` lives through the call; the driver never frees the string that it gives.
        unsafe {
            if describe(code, &raw mut text) != 0 || text.is_null() {
                return None;
            }
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    fn code(&self, call: &'static str, code: Code) -> Result<(), Failure> {
        if code == 0 {
            return Ok(());
        }
        let name = Driver::text(self.error_name, code).unwrap_or_else(|| "an unknown error".to_string());
        let text = Driver::text(self.error_text, code).map_or(String::new(), |t| format!(": {t}"));
        Err(Failure { code, text: format!("{call} failed with {name} ({code}){text}") })
    }

    /// For calls outside of a context.
    fn call(&self, call: &'static str, code: Code) -> Result<()> {
        self.same_process()?;
        self.code(call, code).map_err(|f| Error::device(f.text))
    }

    fn same_process(&self) -> Result<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        Err(Error::device(
            "CUDA cannot be used in a process that was forked after CUDA was first used: start it with \"spawn\"",
        ))
    }
}

/// The simulator's own functions, for tests.
pub struct Simulator {
    fail: unsafe extern "C" fn(*const c_char, u64, c_int) -> c_int,
    fail_alloc: unsafe extern "C" fn(u64),
    clear_errors: unsafe extern "C" fn(),
    counters: unsafe extern "C" fn() -> *const c_char,
    last_fault: unsafe extern "C" fn() -> *const c_char,
}

impl Simulator {
    /// Makes the n-th call of a function from now on return a code, once.
    pub fn fail(&self, function: &str, nth: u64, code: i32) {
        if let Ok(function) = CString::new(function) {
            // SAFETY: the name ends with a zero. The simulator refuses 0 for `nth`, and nothing is failed then.
            let _: c_int = unsafe { (self.fail)(function.as_ptr(), nth, code) };
        }
    }

    /// Makes the n-th allocation from now on fail for want of memory, once; 0 takes it back.
    pub fn fail_alloc(&self, nth: u64) {
        // SAFETY: takes a number.
        unsafe { (self.fail_alloc)(nth) }
    }

    /// Takes back all errors.
    pub fn clear_errors(&self) {
        // SAFETY: takes nothing.
        unsafe { (self.clear_errors)() }
    }

    /// Its figures, as JSON.
    pub fn counters(&self) -> String {
        // SAFETY: the text ends with a zero, and lives until the next call on this thread.
        unsafe { CStr::from_ptr((self.counters)()) }.to_string_lossy().into_owned()
    }

    /// What the last kernel that broke a rule did.
    pub fn last_fault(&self) -> String {
        // SAFETY: as above.
        unsafe { CStr::from_ptr((self.last_fault)()) }.to_string_lossy().into_owned()
    }
}

/// A code of the driver that is not success.
pub struct Failure {
    code: Code,
    text: String,
}

/// A device of a driver.
#[derive(Clone, Copy)]
pub struct DeviceHandle {
    driver: &'static Driver,
    device: CUdevice,
    ordinal: u32,
}

impl DeviceHandle {
    /// The driver.
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Its name.
    pub fn name(&self) -> Result<String> {
        let mut name = [0 as c_char; 256];
        // SAFETY: the buffer holds as many bytes as the driver is told.
        let code = unsafe { (self.driver.table.cuDeviceGetName)(name.as_mut_ptr(), 255, self.device) };
        self.driver.call("cuDeviceGetName", code)?;
        // SAFETY: the last byte of the buffer was never written, so the string ends within it.
        Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// An attribute.
    pub fn attribute(&self, attribute: Attribute) -> Result<u32> {
        let mut value = 0;
        // SAFETY: `value` lives through the call.
        let code = unsafe { (self.driver.table.cuDeviceGetAttribute)(&raw mut value, attribute, self.device) };
        self.driver.call("cuDeviceGetAttribute", code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Bytes of memory.
    pub fn total_memory(&self) -> Result<u64> {
        let mut bytes = 0;
        // SAFETY: `bytes` lives through the call.
        let code = unsafe { (self.driver.table.cuDeviceTotalMem_v2)(&raw mut bytes, self.device) };
        self.driver.call("cuDeviceTotalMem_v2", code)?;
        Ok(bytes as u64)
    }

    /// Its primary context, which other libraries of the process use too.
    pub fn context(&self) -> Result<Arc<Context>> {
        let mut context = ptr::null_mut();
        // SAFETY: `context` lives through the call.
        let code = unsafe { (self.driver.table.cuDevicePrimaryCtxRetain)(&raw mut context, self.device) };
        self.driver.call("cuDevicePrimaryCtxRetain", code)?;
        Ok(Arc::new(Context { device: *self, context, poison: OnceLock::new(), late: Mutex::new(None) }))
    }
}

/// A device's primary context.
pub struct Context {
    device: DeviceHandle,
    context: CUcontext,
    poison: OnceLock<String>,
    late: Mutex<Option<String>>,
}

// SAFETY: a context may be made current on any number of threads, and the driver's functions may be called from any.
unsafe impl Send for Context {}
// SAFETY: as above; the other fields are locked.
unsafe impl Sync for Context {}

impl Context {
    /// The device.
    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    /// The handle. It stays valid while `self` lives.
    pub(super) fn raw(&self) -> CUcontext {
        self.context
    }

    /// Makes the context current until the result is dropped. Fails where the context is poisoned or the process
    /// was forked.
    pub fn enter(&self) -> Result<Entered<'_>> {
        self.device.driver.same_process()?;
        if let Some(first) = self.poison.get() {
            return Err(Error::device(format!(
                "device cuda:{} can no longer be used in this process; its first error was: {first}",
                self.device.ordinal
            )));
        }
        let table = &self.device.driver.table;
        let mut before = ptr::null_mut();
        // SAFETY: `before` lives through the call.
        self.check_code("cuCtxGetCurrent", unsafe { (table.cuCtxGetCurrent)(&raw mut before) })?;
        if before != self.context {
            // SAFETY: the context is retained until `self` is dropped.
            self.check_code("cuCtxSetCurrent", unsafe { (table.cuCtxSetCurrent)(self.context) })?;
        }
        Ok(Entered { context: self, before, thread: PhantomData })
    }

    /// Makes an error of a code; remembers what cannot be recovered from.
    fn check_code(&self, call: &'static str, code: Code) -> Result<()> {
        self.device.driver.code(call, code).map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: Failure) -> Error {
        let text = format!("{} (on cuda:{})", failure.text, self.device.ordinal);
        if STICKY.iter().any(|&sticky| sticky as Code == failure.code) {
            self.poison.get_or_init(|| text.clone());
        }
        Error::device(text)
    }

    /// The context can no longer be used.
    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Keeps an error that arose where none can be returned.
    pub(crate) fn keep(&self, e: &Error) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.get_or_insert_with(|| e.message().to_string());
    }

    /// The error that was kept, once.
    pub fn check(&self) -> Result<()> {
        match self.late.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(text) => Err(Error::device(text)),
            None => Ok(()),
        }
    }

    /// Frees something: whether that is possible is asked first, and errors are kept.
    pub(super) fn free(&self, free: impl FnOnce(&Entered<'_>) -> Result<()>) {
        // A poisoned context has lost all that it held, and a forked child owns nothing of it.
        if self.is_poisoned() || self.device.driver.same_process().is_err() {
            return;
        }
        if let Err(e) = self.enter().and_then(|entered| free(&entered)) {
            self.keep(&e);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nobody is left to ask for an error that was kept: it is logged. A log that cannot be written changes nothing.
        let log = |text: &str| drop(writeln!(std::io::stderr(), "torsh: warning: {text}"));
        let late = self.late.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // What a poisoned context refuses was said by the error that poisoned it.
        if let Some(text) = late.filter(|_| self.poison.get().is_none()) {
            log(&format!("an error that was not asked for before cuda:{} was closed: {text}", self.device.ordinal));
        }
        if self.device.driver.same_process().is_ok() {
            // SAFETY: takes no pointers; the context was retained once for `self`.
            let code = unsafe { (self.device.driver.table.cuDevicePrimaryCtxRelease_v2)(self.device.device) };
            if let Err(failure) = self.device.driver.code("cuDevicePrimaryCtxRelease_v2", code)
                && !self.is_poisoned()
            {
                log(&failure.text);
            }
        }
    }
}

/// A context that is current on this thread.
pub struct Entered<'a> {
    context: &'a Context,
    before: CUcontext,
    /// What is current belongs to the thread.
    thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.before != self.context.context && !self.before.is_null() {
            // SAFETY: it was current when this one was entered, so its owner keeps it.
            let code = unsafe { (self.context.device.driver.table.cuCtxSetCurrent)(self.before) };
            if let Err(e) = self.context.check_code("cuCtxSetCurrent", code) {
                self.context.keep(&e);
            }
        }
    }
}

impl Entered<'_> {
    pub(super) fn table(&self) -> &'static Table {
        &self.context.device.driver.table
    }

    /// The driver's function of its name, or of that of older ones.
    pub(super) fn elapsed(&self) -> Elapsed {
        self.context.device.driver.elapsed
    }

    /// Makes an error of a code.
    pub(super) fn check(&self, call: &'static str, code: Code) -> Result<()> {
        self.context.check_code(call, code)
    }

    /// Waits until all work of the device is done.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: takes no pointers.
        self.check("cuCtxSynchronize", unsafe { (self.table().cuCtxSynchronize)() })
    }

    /// Bytes of memory: free, and in all.
    pub fn memory_info(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places live through the call.
        self.check("cuMemGetInfo_v2", unsafe { (self.table().cuMemGetInfo_v2)(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_driver_is_an_error_that_says_where_it_was_looked_for() {
        let e = Driver::open(&["/nowhere/libcuda.so.1".into(), "libtorsh-no-such.so".into()]).err().unwrap();
        assert!(e.contains("no CUDA driver was found"), "{e}");
        assert!(e.contains("/nowhere/libcuda.so.1") && e.contains("libtorsh-no-such.so"), "{e}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_is_no_driver_is_an_error_that_says_what_it_lacks() {
        let e = Driver::open(&["libc.so.6".into()]).err().unwrap();
        assert!(e.contains("libc.so.6") && e.contains("cuInit") && e.contains("cuLaunchKernel"), "{e}");
    }
}
