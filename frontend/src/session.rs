//! The session: the executor, and the cache of executables, keyed by graph structure and bounded in bytes.

use crate::node::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use torsh_ir::exec::{BufferRef, Executable, Executor};
use torsh_ir::interp::InterpExecutor;
use torsh_ir::limits::{self, Limits};
use torsh_ir::{DType, Error, Graph, Result, Type};
pub use torsh_passes::pipeline::Dump;
use torsh_passes::pipeline::{self, Options};

static SESSION: OnceLock<Session> = OnceLock::new();

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

/// The executor and the cache.
pub struct Session {
    executor: Arc<dyn Executor>,
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
    /// Seconds from graph to loaded code.
    pub seconds: f64,
    /// Bytes that it counts in the cache.
    pub bytes: usize,
}

/// Pairs (input, output) of which the output may take the input's memory.
pub type Donations = Vec<(usize, usize)>;

struct Entry {
    graph: Graph,
    donate: Donations,
    // What the graph was checked against; under other limits it is checked again.
    limits: Limits,
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
    let _ = SESSION.set(Session {
        executor,
        interpreter: config.interpret.then(InterpExecutor::new),
        config,
        cache: Mutex::default(),
        hits: AtomicU64::new(0),
        misses: AtomicU64::new(0),
        evictions: AtomicU64::new(0),
    });
}

/// The session of this process.
pub fn get() -> Result<&'static Session> {
    SESSION.get().ok_or_else(|| Error::internal("no session: torsh_frontend::session::init was not called"))
}

impl Session {
    /// The executor.
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

    /// Copies host bytes into a buffer.
    pub fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        crate::ops::check_size(ty)?;
        // Kernels rely on bools being 0 or 1; foreign memory may hold anything.
        if ty.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            let clean: Vec<u8> = bytes.iter().map(|&b| u8::from(b != 0)).collect();
            return self.executor().upload(ty, &clean);
        }
        self.executor().upload(ty, bytes)
    }

    /// The executable of a graph, compiled unless an equal graph is cached.
    pub fn executable(&self, graph: Graph, donate: Donations) -> Result<Arc<Compiled>> {
        let hash = graph.structural_hash();
        let limits = limits::get();
        {
            let mut cache = lock(&self.cache);
            cache.clock += 1;
            let now = cache.clock;
            if let Some(list) = cache.entries.get_mut(&hash)
                && let Some(e) =
                    list.iter_mut().find(|e| e.donate == donate && e.limits == limits && e.graph.same(&graph))
            {
                e.used = now;
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(e.compiled.clone());
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let compiled = Arc::new(self.compile(&graph, &donate)?);
        let mut cache = lock(&self.cache);
        let used = cache.clock;
        cache.bytes += compiled.bytes;
        cache.entries.entry(hash).or_default().push(Entry { graph, donate, limits, compiled: compiled.clone(), used });
        let evicted = cache.shrink(self.config.cache_bytes, used);
        drop(cache);
        self.evictions.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        Ok(compiled)
    }

    fn compile(&self, graph: &Graph, donate: &Donations) -> Result<Compiled> {
        let start = Instant::now();
        let exe: Arc<dyn Executable> = match &self.interpreter {
            Some(interpreter) => {
                torsh_passes::limits::run(graph.clone())?;
                Arc::new(interpreter.load_graph(graph.clone()))
            }
            None => {
                let options = Options {
                    fusion: self.config.fusion,
                    verify: self.config.verify,
                    target: self.executor.target(),
                    donate: donate.clone(),
                    dump: self.config.dump.clone(),
                };
                let program = pipeline::compile(graph, &options)?;
                let exe = self.executor.load(Arc::new(program))?;
                if let Some(dump) = &self.config.dump {
                    dump("code", &exe.listing());
                }
                exe
            }
        };
        let bytes = exe.code_bytes() + graph.len() * 256 + 4096;
        Ok(Compiled { exe, seconds: start.elapsed().as_secs_f64(), bytes })
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
