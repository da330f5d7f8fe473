//! What the driver knows: the devices with a primary context each, and everything that has a handle.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use torsh_ptx_sim::{Config, Device, Fault, FaultKind, Module, Order, Report};

use crate::capture::Capture;
use crate::code::{self, Code};
use crate::device::current;

/// A C function that a stream calls, with its data; the return value is a driver code.
#[derive(Debug)]
pub(crate) struct HostOp {
    pub run: unsafe extern "C" fn(*mut c_void) -> i32,
    pub data: usize,
    pub drop: Option<unsafe extern "C" fn(*mut c_void)>,
}

impl Drop for HostOp {
    fn drop(&mut self) {
        if let Some(f) = self.drop {
            // SAFETY: whoever handed the data over promised that this function takes it back, once.
            unsafe { f(self.data as *mut c_void) };
        }
    }
}

/// One piece of work of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Cmd {
    Kernel {
        f: Arc<Function>,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: Vec<u8>,
    },
    HtoD {
        dst: u64,
        src: usize,
        bytes: usize,
    },
    DtoH {
        dst: usize,
        src: u64,
        bytes: usize,
    },
    DtoD {
        dst: u64,
        src: u64,
        bytes: usize,
    },
    /// From one device to another.
    Peer {
        dst: u64,
        src: u64,
        bytes: usize,
    },
    Set {
        dst: u64,
        unit: [u8; 4],
        width: usize,
        count: usize,
    },
    Host(Arc<HostOp>),
    /// A node without work, as an event leaves it.
    Empty,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(crate) struct Function {
    /// The device that the module was loaded on.
    pub device: usize,
    pub module: Arc<Module>,
    pub name: String,
    /// Dynamic shared memory that `cuFuncSetAttribute` allowed.
    pub max_dynamic: Mutex<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Those that always exist are of every device.
    pub device: usize,
    pub non_blocking: bool,
    pub priority: i32,
    /// The capture that the stream is part of.
    pub capture: Option<u64>,
    /// Pieces of work in the capture, and how many of them something later waits for.
    pub tail: u64,
    pub joined: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Event {
    pub device: usize,
    pub no_timing: bool,
    pub recorded: Option<Instant>,
    /// Capture, stream and place in it, when last recorded while capturing.
    pub captured: Option<(u64, u64, u64)>,
}

/// One device, and its primary context.
pub(crate) struct Gpu {
    pub device: Device,
    pub context_refs: u32,
    /// What a fault left with the context.
    pub sticky: Option<Code>,
}

impl Gpu {
    fn new(config: Config, index: usize) -> Gpu {
        Gpu { device: Device::beginning_at(config, index as u64 * SPAN), context_refs: 0, sticky: None }
    }
}

/// The most devices.
pub(crate) const MAX_DEVICES: usize = 8;
/// Addresses of a device: so an address tells whose it is.
const SPAN: u64 = 1 << 44;

pub(crate) struct State {
    pub initialised: bool,
    /// There is at least one.
    gpus: Vec<Gpu>,
    next: u64,
    pub streams: HashMap<u64, Stream>,
    pub events: HashMap<u64, Event>,
    /// Device, module, and handles of its functions.
    pub modules: HashMap<u64, (usize, Arc<Module>, Vec<u64>)>,
    pub functions: HashMap<u64, Arc<Function>>,
    pub graphs: HashMap<u64, Arc<Vec<Cmd>>>,
    pub execs: HashMap<u64, Arc<Vec<Cmd>>>,
    pub captures: HashMap<u64, Capture>,
    pub host: HashMap<usize, usize>,
    pub last_fault: CString,
    pub quiet: bool,
    pub calls: BTreeMap<&'static str, u64>,
    pub kernels: BTreeMap<String, Report>,
    pub graph_launches: u64,
    /// Kernels that launches of graphs ran.
    pub graph_kernels: u64,
    pub copies: [u64; 3],
    pub allocations: u64,
    /// (function, calls until it fails, code).
    pub injections: Vec<(String, u64, Code)>,
    pub fail_alloc: Option<u64>,
    /// PTX of CUBIN images.
    pub given: Vec<(Vec<u8>, String)>,
}

/// Handles of the streams that always exist.
pub(crate) const LEGACY: [u64; 3] = [0, 1, 2];

/// The one state of the process.
pub(crate) fn lock() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let m = STATE.get_or_init(|| Mutex::new(State::new(Config::default())));
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, to: &mut T) -> Result<(), String> {
    if let Some(v) = variable(name) {
        *to = v.parse().map_err(|_| format!("{name}={v}: a number is expected"))?;
    }
    Ok(())
}

fn switch(name: &str, to: &mut bool) -> Result<(), String> {
    match variable(name).as_deref() {
        None => {}
        Some("0") => *to = false,
        Some("1") => *to = true,
        Some(v) => return Err(format!("{name}={v}: 0 or 1 is expected")),
    }
    Ok(())
}

/// The configuration that the environment asks for.
pub(crate) fn configuration() -> Result<(Config, usize, bool), String> {
    let mut c = Config::default();
    number("TORSH_CUDA_SIM_SM", &mut c.sm)?;
    match c.sm {
        // An A100: 108 multiprocessors, 163 KiB of shared memory a block.
        80 => (c.sms, c.shared_limit) = (108, 163 * 1024),
        90 => {}
        sm => return Err(format!("TORSH_CUDA_SIM_SM={sm}: 80 and 90 are known")),
    }
    number("TORSH_CUDA_SIM_MEMORY", &mut c.memory)?;
    number("TORSH_CUDA_SIM_BUDGET", &mut c.budget)?;
    number("TORSH_CUDA_SIM_THREADS", &mut c.threads)?;
    switch("TORSH_CUDA_SIM_RACES", &mut c.races)?;
    switch("TORSH_CUDA_SIM_UNINIT", &mut c.check_uninit)?;
    switch("TORSH_CUDA_SIM_PERTURB", &mut c.perturb)?;
    c.order = match variable("TORSH_CUDA_SIM_ORDER").as_deref() {
        None | Some("forward") => Order::Forward,
        Some("reversed") => Order::Reversed,
        Some(v) => return Err(format!("TORSH_CUDA_SIM_ORDER={v}: forward or reversed is expected")),
    };
    let mut quiet = false;
    switch("TORSH_CUDA_SIM_QUIET", &mut quiet)?;
    let mut devices = 1;
    number("TORSH_CUDA_SIM_DEVICES", &mut devices)?;
    if !(1..=MAX_DEVICES).contains(&devices) {
        return Err(format!("TORSH_CUDA_SIM_DEVICES={devices}: 1 to {MAX_DEVICES} are possible"));
    }
    Ok((c, devices, quiet))
}

impl State {
    pub fn new(config: Config) -> State {
        State {
            initialised: false,
            gpus: vec![Gpu::new(config, 0)],
            next: 0x1000,
            streams: LEGACY.iter().map(|h| (*h, Stream::default())).collect(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            captures: HashMap::new(),
            host: HashMap::new(),
            last_fault: CString::default(),
            quiet: false,
            calls: BTreeMap::new(),
            kernels: BTreeMap::new(),
            graph_launches: 0,
            graph_kernels: 0,
            copies: [0; 3],
            allocations: 0,
            injections: Vec::new(),
            fail_alloc: None,
            given: Vec::new(),
        }
    }

    /// So many devices, all alike and empty.
    pub fn configure(&mut self, config: &Config, devices: usize) {
        self.gpus = (0..devices).map(|i| Gpu::new(config.clone(), i)).collect();
    }

    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    pub fn gpus_mut(&mut self) -> &mut [Gpu] {
        &mut self.gpus
    }

    /// The device of a number that was checked, or of the context that is current on this thread.
    pub fn gpu(&mut self, index: usize) -> &mut Gpu {
        let last = self.gpus.len() - 1;
        &mut self.gpus[index.min(last)]
    }

    /// The device whose context is current on this thread, the first one where none is.
    pub fn here(&mut self) -> &mut Gpu {
        self.gpu(current())
    }

    /// The device that an address belongs to.
    pub fn holder(&mut self, address: u64) -> &mut Device {
        &mut self.gpu((address / SPAN) as usize).device
    }

    /// The device of a stream: those that always exist stand for the current context's.
    pub fn stream_device(&self, stream: u64) -> Option<usize> {
        let s = self.streams.get(&stream)?;
        Some(if LEGACY.contains(&stream) { current() } else { s.device })
    }

    /// A handle that no object had before.
    pub fn handle(&mut self) -> u64 {
        self.next += 0x10;
        self.next
    }

    /// Keeps a text for the caller to ask for, and shows it.
    pub fn complain(&mut self, text: String) {
        if !self.quiet {
            eprintln!("torsh-cuda-sim: {text}");
        }
        self.last_fault = CString::new(text.replace('\0', " ")).unwrap_or_default();
    }

    /// An error with its text, that leaves the context as it is.
    pub fn refuse<T>(&mut self, code: Code, text: impl Into<String>) -> Result<T, Code> {
        self.complain(text.into());
        Err(code)
    }

    /// A fault of a copy, which stays with the current context.
    pub fn fault<T>(&mut self, f: &Fault) -> Result<T, Code> {
        self.fault_of(current(), f)
    }

    /// A fault of a device's kernel or copy. All but refusals of the launch itself stay with the device's context.
    fn fault_of<T>(&mut self, device: usize, f: &Fault) -> Result<T, Code> {
        let code = code::of_fault(f.kind);
        self.complain(f.to_string());
        if !matches!(f.kind, FaultKind::Launch | FaultKind::SharedLimit) {
            self.gpu(device).sticky = Some(code);
        }
        Err(code)
    }

    pub fn injected(&mut self, name: &str) -> Option<Code> {
        let mut hit = None;
        self.injections.retain_mut(|(f, left, code)| {
            if f != name {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                hit = hit.or(Some(*code));
            }
            *left > 0
        });
        hit
    }

    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Code> {
        if let Some(left) = &mut self.fail_alloc {
            *left -= 1;
            if *left == 0 {
                self.fail_alloc = None;
                return Err(code::OUT_OF_MEMORY);
            }
        }
        if bytes == 0 {
            return self.refuse(code::INVALID_VALUE, "an allocation of zero bytes");
        }
        let at = self.here().device.alloc(bytes).map_err(|_| code::OUT_OF_MEMORY)?;
        self.allocations += 1;
        Ok(at)
    }

    pub fn free(&mut self, at: u64) -> Result<(), Code> {
        match self.holder(at).free(at) {
            Ok(_) => Ok(()),
            Err(f) => self.refuse(code::INVALID_VALUE, f.to_string()),
        }
    }
}

/// Does a piece of work now. The state is not locked while a host function runs.
pub(crate) fn execute(cmd: &Cmd) -> Result<(), Code> {
    let mut guard = lock();
    let s = &mut *guard;
    match cmd {
        Cmd::Empty => Ok(()),
        Cmd::Kernel { f, grid, block, shared, params } => {
            match s.gpu(f.device).device.launch(&f.module, &f.name, *grid, *block, *shared, params) {
                Ok(r) => {
                    s.kernels.entry(f.name.clone()).or_default().add(&r);
                    Ok(())
                }
                Err(fault) => s.fault_of(f.device, &fault),
            }
        }
        Cmd::HtoD { dst, src, bytes } => {
            // SAFETY: the caller promised so many readable bytes at the source, until the work is done.
            let data = unsafe { std::slice::from_raw_parts(*src as *const u8, *bytes) };
            s.copies[0] += *bytes as u64;
            s.holder(*dst).write(*dst, data).or_else(|f| s.fault(&f))
        }
        Cmd::DtoH { dst, src, bytes } => {
            let mut data = vec![0u8; *bytes];
            s.copies[1] += *bytes as u64;
            s.holder(*src).read(*src, &mut data).or_else(|f| s.fault(&f))?;
            // SAFETY: the caller promised so many writable bytes at the destination, until the work is done.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), *dst as *mut u8, *bytes) };
            Ok(())
        }
        Cmd::DtoD { dst, src, bytes } => {
            s.copies[2] += *bytes as u64;
            s.holder(*dst).copy(*dst, *src, *bytes as u64).or_else(|f| s.fault(&f))
        }
        Cmd::Peer { dst, src, bytes } => {
            s.copies[2] += *bytes as u64;
            let mut data = vec![0u8; *bytes];
            s.holder(*src).read(*src, &mut data).or_else(|f| s.fault(&f))?;
            s.holder(*dst).write(*dst, &data).or_else(|f| s.fault(&f))
        }
        Cmd::Set { dst, unit, width, count } => {
            s.holder(*dst).write(*dst, &unit[..*width].repeat(*count)).or_else(|f| s.fault(&f))
        }
        Cmd::Host(op) => {
            drop(guard);
            // SAFETY: whoever handed the function and its data over promised that they go together.
            match unsafe { (op.run)(op.data as *mut c_void) } {
                0 => Ok(()),
                code => {
                    lock().here().sticky = Some(code);
                    Err(code)
                }
            }
        }
    }
}
