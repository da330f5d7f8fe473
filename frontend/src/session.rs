//! The session: an executor per device, and the cache of executables, keyed by device and graph structure and bounded
//! in bytes. The CPU's executor is there from the start; others are opened by the provider when first asked for.

use crate::node::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use torsh_ir::exec::{Buffer, BufferRef, Device, DeviceKind, DeviceProperties, DeviceProvider, Executable, Executor};
use torsh_ir::interp::InterpExecutor;
use torsh_ir::limits::{self, Limits};
use torsh_ir::program::Program;
use torsh_ir::{DType, Error, Graph, Result, Type, env};
pub use torsh_passes::pipeline::Dump;
use torsh_passes::pipeline::{self, Options};

static SESSION: OnceLock<Session> = OnceLock::new();

/// Devices other than the CPU that the session can hold: Metal and this many less one of CUDA.
const SLOTS: usize = 65;

/// True once a device other than the CPU has been opened. Until then everything is on the CPU and nobody need ask.
static OTHERS: AtomicBool = AtomicBool::new(false);

/// True once a device other than the CPU has been opened.
pub fn others() -> bool {
    OTHERS.load(Ordering::Relaxed)
}

/// Settings that the environment chooses.
#[derive(Clone)]
pub struct Config {
    /// Evaluate level-1 graphs in the reference interpreter instead of compiling them.
    pub interpret: bool,
    /// Fuse kernels.
    pub fusion: bool,
    /// Verify after every pass.
    pub verify: bool,
    /// Receives the graph after each pass.
    pub dump: Option<Dump>,
    /// Bytes that the executable cache may hold.
    pub cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { interpret: false, fusion: true, verify: cfg!(debug_assertions), dump: None, cache_bytes: 256 << 20 }
    }
}

/// The executors and the cache.
pub struct Session {
    executor: Arc<dyn Executor>,
    provider: OnceLock<Arc<dyn DeviceProvider>>,
    // By `slot`; each is set once, under `opening`.
    devices: [OnceLock<Arc<dyn Executor>>; SLOTS],
    opening: Mutex<()>,
    interpreter: Option<InterpExecutor>,
    config: Config,
    cache: Mutex<Cache>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

/// A compiled graph.
pub struct Compiled {
    /// What runs.
    pub exe: Arc<dyn Executable>,
    // The graph that was compiled first, with lines that its nodes are known by; none where a program was known.
    graph: Option<Arc<Graph>>,
    /// Seconds from graph to loaded code.
    pub seconds: f64,
    /// Bytes that it counts in the cache.
    pub bytes: usize,
}

impl Compiled {
    /// An error of a run of `graph`, which is equal to the one that was compiled but may come from other lines: the
    /// error names the line of its node in `graph`.
    pub fn located(&self, error: Error, graph: &Graph) -> Error {
        let node = self.graph.as_ref().zip(error.location()).and_then(|(own, loc)| own.node_at(loc));
        match node.and_then(|id| graph.loc(id)) {
            Some(loc) => error.moved_to(loc.clone()),
            None => error,
        }
    }
}

/// Pairs (input, output) of which the output may take the input's memory.
pub type Donations = Vec<(usize, usize)>;

/// A lowered program that somebody vouches for, and what is known of the graph that it stands for.
pub struct Known<'a> {
    /// The program.
    pub program: &'a Arc<Program>,
    /// Types of the graph's inputs.
    pub inputs: Vec<Type>,
    /// Types of the graph's outputs.
    pub outputs: Vec<Type>,
    /// What the program overwrites.
    pub donate: Donations,
    /// The graph, which is asked for where a program that was lowered for another target may not be the one for this.
    pub graph: &'a dyn Fn() -> Result<&'a Arc<Graph>>,
}

struct Entry {
    device: Device,
    donate: Donations,
    // What the graph was checked against; under other limits it is checked again.
    limits: Limits,
    // The program that was believed instead of running the passes. It serves those alone who believe that very one.
    known: Option<Arc<Program>>,
    compiled: Arc<Compiled>,
    used: u64,
}

#[derive(Default)]
struct Cache {
    entries: HashMap<u64, Vec<Entry>>,
    bytes: usize,
    clock: u64,
}

/// Figures of the executable cache.
#[derive(Clone, Debug, Default)]
pub struct CacheInfo {
    /// Graphs found.
    pub hits: u64,
    /// Graphs compiled.
    pub misses: u64,
    /// Executables dropped for room.
    pub evictions: u64,
    /// Executables held.
    pub entries: usize,
    /// Bytes held.
    pub bytes: usize,
    /// Bytes allowed.
    pub limit: usize,
}

/// Installs the session; the first call wins.
pub fn init(executor: Arc<dyn Executor>, config: Config) {
    let _ = SESSION.set(Session::new(executor, config));
}

/// The session of this process.
pub fn get() -> Result<&'static Session> {
    SESSION.get().ok_or_else(|| Error::internal("no session: torsh_frontend::session::init was not called"))
}

// Place of a device in the list of executors.
fn slot(device: Device) -> Option<usize> {
    match device {
        Device::Cpu => None,
        Device::Metal => Some(0),
        Device::Cuda(i) => Some(i as usize + 1).filter(|&slot| slot < SLOTS),
    }
}

impl Session {
    fn new(executor: Arc<dyn Executor>, config: Config) -> Session {
        Session {
            executor,
            provider: OnceLock::new(),
            devices: [const { OnceLock::new() }; SLOTS],
            opening: Mutex::new(()),
            interpreter: config.interpret.then(InterpExecutor::new),
            config,
            cache: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// Installs what opens devices other than the CPU; the first call wins.
    pub fn set_provider(&self, provider: Arc<dyn DeviceProvider>) {
        let _ = self.provider.set(provider);
    }

    fn provider(&self, kind: DeviceKind) -> Result<&dyn DeviceProvider> {
        match self.provider.get() {
            Some(provider) => Ok(&**provider),
            None => {
                Err(Error::device(format!("no {} device is available: this program has the CPU only", kind.name())))
            }
        }
    }

    /// The executor of a device, which is opened if need be.
    ///
    /// # Errors
    /// A `Device` error that says what was looked for when the device is not there.
    pub fn on(&self, device: Device) -> Result<&dyn Executor> {
        if device == Device::Cpu {
            return Ok(self.executor());
        }
        match self.opened(device) {
            Some(executor) => Ok(executor),
            None => self.open(device),
        }
    }

    /// The executor of a device that has been opened.
    pub fn opened(&self, device: Device) -> Option<&dyn Executor> {
        match slot(device) {
            None if device == Device::Cpu => Some(self.executor()),
            None => None,
            Some(slot) => self.devices[slot].get().map(|e| &**e),
        }
    }

    #[cold]
    fn open(&self, device: Device) -> Result<&dyn Executor> {
        let provider = self.provider(device.kind())?;
        let _one = lock(&self.opening);
        let place = slot(device)
            .map(|slot| &self.devices[slot])
            .ok_or_else(|| Error::device(format!("device {device} is not available: there are at most {SLOTS}")))?;
        if let Some(executor) = place.get() {
            return Ok(&**executor);
        }
        let executor = provider.open(device)?;
        OTHERS.store(true, Ordering::Relaxed);
        Ok(&**place.get_or_init(|| executor))
    }

    /// How many devices of a kind there are.
    ///
    /// # Errors
    /// A `Device` error when that cannot be found out, say without a driver.
    pub fn device_count(&self, kind: DeviceKind) -> Result<u32> {
        match kind {
            DeviceKind::Cpu => Ok(1),
            kind => self.provider(kind)?.count(kind),
        }
    }

    /// What a device is.
    ///
    /// # Errors
    /// A `Device` error when the device is not there, or is the CPU.
    pub fn properties(&self, device: Device) -> Result<DeviceProperties> {
        match device {
            Device::Cpu => Err(Error::device("the CPU has no device properties")),
            other => self.provider(other.kind())?.properties(other),
        }
    }

    /// Copies a buffer to the host.
    pub fn download(&self, buffer: &dyn Buffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buffer.nbytes()];
        self.on(buffer.device())?.download(buffer, &mut bytes)?;
        Ok(bytes)
    }

    /// The same elements on another device; the buffer itself where it is there already.
    pub fn copy(&self, ty: &Type, buffer: &BufferRef, to: Device) -> Result<BufferRef> {
        let from = buffer.device();
        if from == to {
            return Ok(buffer.clone());
        }
        self.on(to)?.copy_from(ty, &**buffer, self.on(from)?)
    }

    /// The CPU's executor.
    pub fn executor(&self) -> &dyn Executor {
        match &self.interpreter {
            Some(interpreter) => interpreter,
            None => &*self.executor,
        }
    }

    /// True when everything runs in the reference interpreter.
    pub fn interprets(&self) -> bool {
        self.interpreter.is_some()
    }

    /// Copies host bytes into a buffer of the CPU.
    pub fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        self.upload_to(Device::Cpu, ty, bytes)
    }

    /// Copies host bytes into a buffer of a device.
    pub fn upload_to(&self, device: Device, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        crate::ops::check_size(ty)?;
        let executor = self.on(device)?;
        // Kernels rely on bools being 0 or 1; foreign memory may hold anything.
        if ty.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            let clean: Vec<u8> = bytes.iter().map(|&b| u8::from(b != 0)).collect();
            return executor.upload(ty, &clean);
        }
        executor.upload(ty, bytes)
    }

    /// The executable of a graph on a device, compiled unless an equal graph is cached.
    pub fn executable(&self, device: Device, graph: &Arc<Graph>, donate: Donations) -> Result<Arc<Compiled>> {
        let same = |e: &Entry| e.known.is_none() && e.compiled.graph.as_ref().is_some_and(|g| g.same(graph));
        self.cached(graph.structural_hash(), (device, donate, None), &same, |donate| {
            self.compile(device, graph, donate)
        })
    }

    /// The executable of a lowered program on a device, of which it is known that it stands for a graph whose inputs and
    /// outputs have these types; `None` where the passes are to be run on that graph all the same. What is made of a known
    /// program serves no caller who did not give that very program.
    pub fn executable_of(&self, device: Device, known: &Known<'_>) -> Result<Option<Arc<Compiled>>> {
        if !self.is_used(device, known)? {
            return Ok(None);
        }
        let program = known.program;
        pipeline::fits(program, &known.inputs, &known.outputs, &known.donate)?;
        let address = Arc::as_ptr(program);
        let same = |e: &Entry| e.known.as_ref().is_some_and(|own| Arc::as_ptr(own) == address);
        let key = (device, known.donate.clone(), Some(program.clone()));
        let load = |_: &Donations| {
            let start = Instant::now();
            let exe = self.loaded(device, program.clone())?;
            let bytes = exe.code_bytes() + program.steps.len() * 256 + 4096;
            Ok(Compiled { exe, graph: None, seconds: start.elapsed().as_secs_f64(), bytes })
        };
        self.cached(address as u64, key, &same, load).map(Some)
    }

    // The entry of this key and hash for which `same` holds, or a new one.
    fn cached(
        &self,
        hash: u64,
        (device, donate, known): (Device, Donations, Option<Arc<Program>>),
        same: &dyn Fn(&Entry) -> bool,
        make: impl FnOnce(&Donations) -> Result<Compiled>,
    ) -> Result<Arc<Compiled>> {
        let limits = limits::get();
        {
            let mut cache = lock(&self.cache);
            cache.clock += 1;
            let now = cache.clock;
            let fits = |e: &&mut Entry| e.device == device && e.donate == donate && e.limits == limits && same(e);
            if let Some(e) = cache.entries.get_mut(&hash).and_then(|list| list.iter_mut().find(fits)) {
                e.used = now;
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(e.compiled.clone());
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let compiled = Arc::new(make(&donate)?);
        let mut cache = lock(&self.cache);
        let used = cache.clock;
        cache.bytes += compiled.bytes;
        // The entry holds the program, so that no other comes to stand at its address.
        let entry = Entry { device, donate, limits, known, compiled: compiled.clone(), used };
        cache.entries.entry(hash).or_default().push(entry);
        let evicted = cache.shrink(self.config.cache_bytes, used);
        drop(cache);
        self.evictions.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        Ok(compiled)
    }

    /// Whether a known program is used instead of the passes.
    fn is_used(&self, device: Device, known: &Known<'_>) -> Result<bool> {
        if device == Device::Cpu && self.interpreter.is_some() {
            return Ok(false);
        }
        // Who wants to see every pass, or to have it verified, wants it run.
        let plain = self.config.fusion == env::fusion() && !self.config.verify && self.config.dump.is_none();
        Ok(plain && pipeline::serves(&|| (known.graph)().map(|graph| &**graph), &self.on(device)?.target())?)
    }

    fn compile(&self, device: Device, graph: &Arc<Graph>, donate: &Donations) -> Result<Compiled> {
        let start = Instant::now();
        let graph = graph.clone().with_parted_locs();
        let exe: Arc<dyn Executable> = match &self.interpreter {
            Some(interpreter) if device == Device::Cpu => {
                torsh_passes::limits::check(&graph, &limits::get())?;
                Arc::new(interpreter.load_graph(Graph::clone(&graph)))
            }
            _ => {
                let options = Options {
                    fusion: self.config.fusion,
                    compact: false,
                    verify: self.config.verify,
                    target: self.on(device)?.target(),
                    donate: donate.clone(),
                    dump: self.config.dump.clone(),
                };
                self.loaded(device, Arc::new(pipeline::compile(&graph, &options)?))?
            }
        };
        let bytes = exe.code_bytes() + graph.len() * 256 + 4096;
        Ok(Compiled { exe, graph: Some(graph), seconds: start.elapsed().as_secs_f64(), bytes })
    }

    fn loaded(&self, device: Device, program: Arc<Program>) -> Result<Arc<dyn Executable>> {
        let exe = self.on(device)?.load(program)?;
        if let Some(dump) = &self.config.dump {
            dump("code", &exe.listing());
        }
        Ok(exe)
    }

    /// Figures of the cache.
    pub fn cache_info(&self) -> CacheInfo {
        let cache = lock(&self.cache);
        CacheInfo {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            entries: cache.entries.values().map(Vec::len).sum(),
            bytes: cache.bytes,
            limit: self.config.cache_bytes,
        }
    }

    /// Drops every cached executable.
    pub fn clear_cache(&self) {
        let old = std::mem::take(&mut *lock(&self.cache));
        drop(old);
    }
}

impl Cache {
    // Drops the least recently used entries until the rest fits; never the one used at `keep`.
    fn shrink(&mut self, limit: usize, keep: u64) -> Vec<Entry> {
        let mut out = Vec::new();
        while self.bytes > limit {
            let oldest = self
                .entries
                .iter()
                .flat_map(|(&h, list)| list.iter().enumerate().map(move |(i, e)| (e.used, h, i)))
                .filter(|&(used, ..)| used != keep)
                .min();
            let Some((_, hash, index)) = oldest else { break };
            let Some(list) = self.entries.get_mut(&hash) else { break };
            let entry = list.swap_remove(index);
            if list.is_empty() {
                self.entries.remove(&hash);
            }
            self.bytes = self.bytes.saturating_sub(entry.compiled.bytes);
            out.push(entry);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::{Builder, Shape};

    fn graph(factor: f64) -> Graph {
        let b = Builder::new(Graph::new());
        let y = b.input(Type::new(DType::F32, Shape::of(&[3]))).scale(factor).id();
        let mut graph = b.finish().expect("well formed");
        graph.set_outputs(vec![y]);
        graph
    }

    #[test]
    fn a_known_program_serves_those_alone_who_know_it() {
        let config = Config { fusion: env::fusion(), verify: false, ..Config::default() };
        let session = Session::new(Arc::new(InterpExecutor::new()), config);
        let wanted = Arc::new(graph(2.0));
        let other = Arc::new(pipeline::compile(&graph(3.0), &Options::default()).expect("it compiles"));
        let get = |known: Option<&Arc<Program>>| match known {
            Some(program) => {
                let (inputs, outputs) = (wanted.input_types(), wanted.output_types());
                let asked = || Err(Error::internal("a CPU takes the program of any target"));
                let known = Known { program, inputs, outputs, donate: Vec::new(), graph: &asked };
                session.executable_of(Device::Cpu, &known).expect("it loads").expect("it is used")
            }
            None => session.executable(Device::Cpu, &wanted, Vec::new()).expect("it loads"),
        };
        let believed = get(Some(&other));
        let plain = get(None);
        assert!(!Arc::ptr_eq(&believed, &plain));
        // Each finds its own, whichever came last.
        assert!(Arc::ptr_eq(&believed, &get(Some(&other))) && Arc::ptr_eq(&plain, &get(None)));
        // An equal program of somebody else's word is another one.
        let again = get(Some(&Arc::new((*other).clone())));
        assert!(!Arc::ptr_eq(&again, &believed) && !Arc::ptr_eq(&again, &plain));
        let info = session.cache_info();
        assert_eq!((info.hits, info.misses, info.entries), (2, 3, 3));
    }
}
