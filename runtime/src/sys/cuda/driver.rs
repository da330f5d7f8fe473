//! The CUDA driver: a table of its functions, contexts, memory, streams, events, modules and graphs.
//!
//! Every call is made with the device's primary context current on the calling thread ([`Context::enter`]), and
//! every code but success becomes a [`Error`] of kind `Device` that names the call, the code and the driver's text.
//! Codes after which the driver refuses all further work of the process on the device poison the context: later
//! calls end at once with the first message. Handles are freed when dropped; what fails there is kept and reported by
//! the next [`Context::check`].

use super::load::{self, Code, functions};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};
use libloading::Library;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use torsh_ir::{Error, Result};

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
const OUT_OF_MEMORY: Code = CUresult::CUDA_ERROR_OUT_OF_MEMORY as Code;
const NOT_READY: Code = CUresult::CUDA_ERROR_NOT_READY as Code;
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

type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> Code;
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
            return Err(format!("no CUDA driver was found: {}", tried.join("; ")));
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
    fn free(&self, free: impl FnOnce(&Entered<'_>) -> Result<()>) {
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
        if self.device.driver.same_process().is_ok() {
            // SAFETY: takes no pointers; the context was retained once for `self`. An error leaves nothing to do.
            let _: Code = unsafe { (self.device.driver.table.cuDevicePrimaryCtxRelease_v2)(self.device.device) };
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
    fn table(&self) -> &'static Table {
        &self.context.device.driver.table
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

/// A stream of a context.
pub struct Stream {
    context: Arc<Context>,
    stream: CUstream,
    priority: i32,
}

// SAFETY: the driver's functions take a stream from any thread, and order what they are asked for by themselves.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// `CU_STREAM_NON_BLOCKING`: the default stream does not wait for it, nor it for the default stream.
const NON_BLOCKING: c_uint = 1;

impl Stream {
    /// The default stream, which other libraries of the process use too.
    pub fn default_of(context: &Arc<Context>) -> Stream {
        Stream { context: context.clone(), stream: ptr::null_mut(), priority: 0 }
    }

    /// A stream of its own. Priorities that the device does not have are taken as the nearest.
    pub fn new(context: &Arc<Context>, priority: i32) -> Result<Stream> {
        let entered = context.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: `stream` lives through the call.
        let code = unsafe { (entered.table().cuStreamCreateWithPriority)(&raw mut stream, NON_BLOCKING, priority) };
        entered.check("cuStreamCreateWithPriority", code)?;
        Ok(Stream { context: context.clone(), stream, priority })
    }

    /// The context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The handle as a number; 0 for the default stream.
    pub fn handle(&self) -> u64 {
        self.stream as u64
    }

    /// Lower is more urgent.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    pub(super) fn raw(&self) -> CUstream {
        self.stream
    }

    /// Waits on the host until its work is done.
    pub fn synchronize(&self) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: the stream lives.
        entered.check("cuStreamSynchronize", unsafe { (entered.table().cuStreamSynchronize)(self.stream) })
    }

    /// Marks this moment in an event.
    pub fn record(&self, event: &Event) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live.
        entered.check("cuEventRecord", unsafe { (entered.table().cuEventRecord)(event.event, self.stream) })
    }

    /// Later work here starts after what the event marks.
    pub fn wait(&self, event: &Event) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live; the driver keeps what it needs of the event.
        entered.check("cuStreamWaitEvent", unsafe { (entered.table().cuStreamWaitEvent)(self.stream, event.event, 0) })
    }

    /// Later work here starts after all work that `other` has been given.
    pub fn wait_for(&self, other: &Stream) -> Result<()> {
        let event = Event::new(&other.context, false, false)?;
        other.record(&event)?;
        self.wait(&event)
    }

    /// Copies pinned host memory from its start to the device. The caller keeps both, and writes neither, until the
    /// copy is done.
    pub(crate) fn copy_in(&self, to: &Block, at: usize, from: &Pinned, len: usize) -> Result<()> {
        check_range(at, len, to.len)?;
        check_range(0, len, from.len)?;
        let entered = self.context.enter()?;
        // SAFETY: both ranges lie within their memory; the caller keeps both until the copy is done.
        let code = unsafe {
            (entered.table().cuMemcpyHtoDAsync_v2)(to.address + at as u64, from.at.as_ptr().cast(), len, self.stream)
        };
        entered.check("cuMemcpyHtoDAsync_v2", code)
    }

    /// Copies from the device to the start of pinned host memory. As `copy_in`.
    pub(crate) fn copy_out(&self, to: &mut Pinned, from: &Block, at: usize, len: usize) -> Result<()> {
        check_range(at, len, from.len)?;
        check_range(0, len, to.len)?;
        let entered = self.context.enter()?;
        // SAFETY: as in `copy_in`.
        let code = unsafe {
            (entered.table().cuMemcpyDtoHAsync_v2)(to.at.as_ptr().cast(), from.address + at as u64, len, self.stream)
        };
        entered.check("cuMemcpyDtoHAsync_v2", code)
    }

    /// Copies within the device. The caller keeps both blocks until the copy is done.
    pub(crate) fn copy(&self, to: (&Block, usize), from: (&Block, usize), len: usize) -> Result<()> {
        check_range(to.1, len, to.0.len)?;
        check_range(from.1, len, from.0.len)?;
        if len == 0 {
            return Ok(());
        }
        let (to, from) = (to.0.address + to.1 as u64, from.0.address + from.1 as u64);
        let entered = self.context.enter()?;
        // SAFETY: both ranges lie within their blocks.
        let code = unsafe { (entered.table().cuMemcpyDtoDAsync_v2)(to, from, len, self.stream) };
        entered.check("cuMemcpyDtoDAsync_v2", code)
    }

    /// Copies from an address of the device to the start of a block. The caller answers for the address.
    pub(crate) fn copy_from_address(&self, to: &Block, from: u64, len: usize) -> Result<()> {
        check_range(0, len, to.len)?;
        let entered = self.context.enter()?;
        // SAFETY: the target lies within its block; the source is device memory, which no host memory overlaps.
        let code = unsafe { (entered.table().cuMemcpyDtoDAsync_v2)(to.address, from, len, self.stream) };
        entered.check("cuMemcpyDtoDAsync_v2", code)
    }

    /// Fills `len` bytes of a block from `at` on.
    pub(crate) fn fill_range(&self, to: &Block, at: usize, value: u8, len: usize) -> Result<()> {
        check_range(at, len, to.len)?;
        let entered = self.context.enter()?;
        // SAFETY: the range lies within the block.
        let code = unsafe { (entered.table().cuMemsetD8Async)(to.address + at as u64, value, len, self.stream) };
        entered.check("cuMemsetD8Async", code)
    }

    /// Begins to record what is asked of the stream instead of doing it; [`Stream::end_capture`] ends that.
    pub fn begin_capture(&self) -> Result<()> {
        let entered = self.context.enter()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        let code = unsafe { (entered.table().cuStreamBeginCapture_v2)(self.stream, mode) };
        entered.check("cuStreamBeginCapture_v2", code)
    }

    /// What was recorded, ready to launch.
    pub fn end_capture(&self) -> Result<Graph> {
        let entered = self.context.enter()?;
        let mut graph = ptr::null_mut();
        // SAFETY: `graph` lives through the call.
        let code = unsafe { (entered.table().cuStreamEndCapture)(self.stream, &raw mut graph) };
        if code != 0 {
            // The stream must not go on recording. Where it does not any more, this fails too, and changes nothing.
            // SAFETY: as above; a graph that is given after all is destroyed once.
            unsafe {
                let ended = (entered.table().cuStreamEndCapture)(self.stream, &raw mut graph);
                if ended == 0 && !graph.is_null() {
                    let _: Code = (entered.table().cuGraphDestroy)(graph);
                }
            }
        }
        entered.check("cuStreamEndCapture", code)?;
        let mut exec = ptr::null_mut();
        // SAFETY: `exec` lives through the call, and the graph is destroyed after it.
        let (made, destroyed) = unsafe {
            let made = (entered.table().cuGraphInstantiateWithFlags)(&raw mut exec, graph, 0);
            (made, (entered.table().cuGraphDestroy)(graph))
        };
        entered.check("cuGraphInstantiateWithFlags", made)?;
        let graph = Graph { context: self.context.clone(), exec };
        entered.check("cuGraphDestroy", destroyed)?;
        Ok(graph)
    }

    /// Launches a graph.
    pub fn launch_graph(&self, graph: &Graph) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live; the driver keeps what it needs of the graph until it is done.
        entered.check("cuGraphLaunch", unsafe { (entered.table().cuGraphLaunch)(graph.exec, self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.stream.is_null() {
            return;
        }
        self.context.free(|entered| {
            // SAFETY: it was created by `new` and is destroyed once; the driver finishes its work first.
            entered.check("cuStreamDestroy_v2", unsafe { (entered.table().cuStreamDestroy_v2)(self.stream) })
        });
    }
}

fn check_range(at: usize, len: usize, all: usize) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= all => Ok(()),
        _ => Err(Error::internal(format!("{len} bytes from {at} on of a block of {all}"))),
    }
}

/// A moment of a stream.
pub struct Event {
    context: Arc<Context>,
    event: CUevent,
    timing: bool,
}

// SAFETY: the driver's functions take an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

/// `CU_EVENT_BLOCKING_SYNC` and `CU_EVENT_DISABLE_TIMING`.
const BLOCKING: c_uint = 1;
const NO_TIMING: c_uint = 2;

impl Event {
    /// A new event. `timing`: its time is taken; `blocking`: a host that waits for it sleeps.
    pub fn new(context: &Arc<Context>, timing: bool, blocking: bool) -> Result<Event> {
        let entered = context.enter()?;
        let flags = if blocking { BLOCKING } else { 0 } | if timing { 0 } else { NO_TIMING };
        let mut event = ptr::null_mut();
        // SAFETY: `event` lives through the call.
        entered.check("cuEventCreate", unsafe { (entered.table().cuEventCreate)(&raw mut event, flags) })?;
        Ok(Event { context: context.clone(), event, timing })
    }

    /// The handle as a number.
    pub fn handle(&self) -> u64 {
        self.event as u64
    }

    /// True when what it marks is done.
    pub fn query(&self) -> Result<bool> {
        let entered = self.context.enter()?;
        // SAFETY: the event lives.
        let code = unsafe { (entered.table().cuEventQuery)(self.event) };
        if code == NOT_READY {
            return Ok(false);
        }
        entered.check("cuEventQuery", code).map(|()| true)
    }

    /// Waits on the host until what it marks is done.
    pub fn synchronize(&self) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: the event lives.
        entered.check("cuEventSynchronize", unsafe { (entered.table().cuEventSynchronize)(self.event) })
    }

    /// Milliseconds to a later event.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f64> {
        if !self.timing || !end.timing {
            return Err(Error::new(torsh_ir::ErrorKind::Runtime, "both events must be made with enable_timing=True"));
        }
        let entered = self.context.enter()?;
        let mut ms = 0f32;
        // SAFETY: both events live, and `ms` does through the call.
        let code = unsafe { (self.context.device.driver.elapsed)(&raw mut ms, self.event, end.event) };
        entered.check("cuEventElapsedTime", code)?;
        Ok(f64::from(ms))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: it is destroyed once; the driver keeps what waits for it.
            entered.check("cuEventDestroy_v2", unsafe { (entered.table().cuEventDestroy_v2)(self.event) })
        });
    }
}

/// A recorded sequence of work, ready to launch. Its addresses are those of the recording.
pub struct Graph {
    context: Arc<Context>,
    exec: CUgraphExec,
}

// SAFETY: the driver's functions take a graph from any thread; launches of one graph follow one another.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: it is destroyed once; the driver finishes launches of it first.
            entered.check("cuGraphExecDestroy", unsafe { (entered.table().cuGraphExecDestroy)(self.exec) })
        });
    }
}

/// Machine code on a device.
pub struct Module {
    context: Arc<Context>,
    module: CUmodule,
}

// SAFETY: the driver's functions take a module from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module, with what it can be launched with.
pub struct Function {
    module: Arc<Module>,
    function: CUfunction,
    name: String,
    params: Vec<u32>,
    block: [u32; 3],
    dynamic_shared: u32,
}

// SAFETY: as for modules.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// What a kernel is expected to be.
pub struct Expected<'a> {
    /// Its symbol.
    pub name: &'a str,
    /// Bytes of each parameter, 4 or 8.
    pub params: &'a [u32],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory that it declares.
    pub static_shared: u32,
    /// The largest dynamic shared memory that it is launched with.
    pub dynamic_shared: u32,
}

impl Module {
    /// Loads a CUBIN, or, on the simulator, PTX.
    pub fn new(context: &Arc<Context>, image: &[u8]) -> Result<Arc<Module>> {
        // Text ends with a zero, and so a zero does no harm behind a CUBIN.
        let mut text = image.to_vec();
        text.push(0);
        let entered = context.enter()?;
        let mut module = ptr::null_mut();
        // SAFETY: `text` is an image that NVRTC made, ended by a zero, and both places live through the call.
        let code = unsafe { (entered.table().cuModuleLoadData)(&raw mut module, text.as_ptr().cast()) };
        entered.check("cuModuleLoadData", code)?;
        Ok(Arc::new(Module { context: context.clone(), module }))
    }

    /// A kernel; what the code says of itself must agree with what is expected and with the device's limits.
    pub fn function(self: &Arc<Self>, expected: &Expected<'_>, shared_limit: u32) -> Result<Function> {
        let entered = self.context.enter()?;
        let name = CString::new(expected.name).map_err(|_| Error::internal("a zero in the name of a kernel"))?;
        let mut function = ptr::null_mut();
        // SAFETY: `name` ends with a zero, and both places live through the call.
        let code = unsafe { (entered.table().cuModuleGetFunction)(&raw mut function, self.module, name.as_ptr()) };
        entered.check("cuModuleGetFunction", code)?;
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: the function belongs to the module, which lives, and `value` does through the call.
            let code = unsafe { (entered.table().cuFuncGetAttribute)(&raw mut value, attribute, function) };
            entered.check("cuFuncGetAttribute", code).map(|()| u32::try_from(value).unwrap_or(0))
        };
        let threads = expected.block.iter().try_fold(1u32, |n, &b| n.checked_mul(b)).unwrap_or(u32::MAX);
        let most = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let declared = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let shared = declared.saturating_add(expected.dynamic_shared);
        if threads > most || shared > shared_limit || declared > expected.static_shared {
            return Err(Error::compile(format!(
                "kernel {} has blocks of {threads} threads (its code allows {most}) and {shared} bytes of shared memory, {declared} of them declared (expected {}; the device allows {shared_limit})",
                expected.name, expected.static_shared
            )));
        }
        if expected.dynamic_shared > 0 && shared > DEFAULT_SHARED {
            let value = c_int::try_from(expected.dynamic_shared).unwrap_or(c_int::MAX);
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the module, which lives.
            let code = unsafe { (entered.table().cuFuncSetAttribute)(function, attribute, value) };
            entered.check("cuFuncSetAttribute", code)?;
        }
        Ok(Function {
            module: self.clone(),
            function,
            name: expected.name.to_string(),
            params: expected.params.to_vec(),
            block: expected.block,
            dynamic_shared: expected.dynamic_shared,
        })
    }
}

/// What a block may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

impl Drop for Module {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // Kernels of the module may still run.
            entered.synchronize()?;
            // SAFETY: it is unloaded once, and no function of it outlives it.
            entered.check("cuModuleUnload", unsafe { (entered.table().cuModuleUnload)(self.module) })
        });
    }
}

/// An argument of a launch.
#[derive(Copy, Clone, Debug)]
pub enum Arg {
    /// A 32-bit word.
    U32(u32),
    /// A 64-bit word or an address.
    U64(u64),
}

impl Function {
    /// Launches. Arguments, block and shared memory must be those that the kernel was made for. Addresses among
    /// the arguments are the caller's to answer for: the kernel reads and writes what its generator says.
    pub(crate) fn launch(
        &self,
        stream: &Stream,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        let sizes = args.iter().map(|a| match a {
            Arg::U32(_) => 4,
            Arg::U64(_) => 8,
        });
        let fits = sizes.eq(self.params.iter().copied());
        if !fits || block != self.block || shared > self.dynamic_shared || grid.contains(&0) {
            return Err(Error::internal(format!("kernel {} is launched with other arguments than its own", self.name)));
        }
        // Little-endian words: a 32-bit parameter is read from the first four bytes.
        let mut words: smallvec::SmallVec<[u64; 24]> = args
            .iter()
            .map(|a| match *a {
                Arg::U32(w) => u64::from(w).to_le(),
                Arg::U64(w) => w,
            })
            .collect();
        let mut places: smallvec::SmallVec<[*mut c_void; 24]> =
            words.iter_mut().map(|w| ptr::from_mut(w).cast::<c_void>()).collect();
        let entered = self.module.context.enter()?;
        let [gx, gy, gz] = grid;
        let [bx, by, bz] = block;
        // SAFETY: there is one place for each parameter, of its size, and all live through the call; the driver
        // copies them. The function belongs to a module that lives.
        let code = unsafe {
            let places = places.as_mut_ptr();
            let launch = entered.table().cuLaunchKernel;
            launch(self.function, gx, gy, gz, bx, by, bz, shared, stream.stream, places, ptr::null_mut())
        };
        entered.check("cuLaunchKernel", code)
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
