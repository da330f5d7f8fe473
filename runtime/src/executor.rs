//! The CPU executor: what it generates code for, its memory and its threads.

use crate::executable::CpuExecutable;
use crate::lib_calls::Level;
use crate::machine;
use crate::memory::{CpuBuffer, Pool};
use crate::sys::jit::Symbols;
use crate::sys::prims;
use crate::threads::Threads;
use crate::units::Prologues;
use cranelift::codegen::isa::OwnedTargetIsa;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use torsh_codegen::cpu::Schedule;
use torsh_ir::exec::{BufferRef, Device, Executable, Executor, MemoryStats, Target};
use torsh_ir::program::Program;
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result, env};

/// How to set up an executor. The default follows the environment and the machine.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// ISA level; the best that the CPU has when `None`.
    pub isa: Option<&'static str>,
    /// Schedule of kernels.
    pub schedule: Schedule,
    /// Worker threads; as many as the process may use when `None`.
    pub threads: Option<usize>,
    /// Runs each step by itself: no kernels in front of a product or on its rows while it is computed, no joint regions.
    pub separate: bool,
    /// Which kernels in front of products make their left operands panel by panel.
    pub prologues: Prologues,
    /// Cap on memory in bytes; three quarters of what there is when `None`.
    pub memory_limit: Option<u64>,
}

impl Config {
    /// What the environment asks for.
    pub fn from_env() -> Result<Config> {
        Ok(Config {
            isa: env::isa(),
            schedule: Schedule::parse(env::schedule())?,
            threads: env::threads(),
            separate: !env::join(),
            prologues: Prologues::Pay,
            memory_limit: env::max_memory(),
        })
    }
}

static INTERRUPTED: RwLock<Option<fn() -> bool>> = RwLock::new(None);

/// Installs the check that a run makes between steps: when it returns true, the run ends with
/// `ErrorKind::Interrupted`, unless it has begun to overwrite donated inputs.
pub fn set_interrupt_check(check: Option<fn() -> bool>) {
    *INTERRUPTED.write().unwrap_or_else(PoisonError::into_inner) = check;
}

/// Asks the installed check.
pub(crate) fn interrupted() -> bool {
    let check = *INTERRUPTED.read().unwrap_or_else(PoisonError::into_inner);
    check.is_some_and(|check| check())
}

/// What executables share.
pub(crate) struct Shared {
    pub pool: Pool,
    pub threads: Threads,
    pub isa: OwnedTargetIsa,
    pub level: &'static str,
    /// The level of matrix products.
    pub product_level: Level,
    pub symbols: Arc<Symbols>,
    pub schedule: Schedule,
    pub join: Option<Prologues>,
    pub l1_bytes: usize,
    pub l2_bytes: usize,
}

/// Compiles programs with Cranelift and runs them on this machine.
pub struct CpuExecutor {
    shared: Arc<Shared>,
}

impl CpuExecutor {
    /// An executor as the environment asks for it.
    pub fn new() -> Result<CpuExecutor> {
        CpuExecutor::with_config(&Config::from_env()?)
    }

    /// An executor as `config` asks for it.
    pub fn with_config(config: &Config) -> Result<CpuExecutor> {
        let level = prims::choose(config.isa)?;
        let limit = config.memory_limit.unwrap_or_else(|| machine::memory_bytes() / 4 * 3);
        let (l1_bytes, l2_bytes) = machine::cache_bytes();
        Ok(CpuExecutor {
            shared: Arc::new(Shared {
                pool: Pool::new(limit),
                threads: Threads::new(config.threads)?,
                isa: machine::cranelift_isa(level)?,
                level,
                product_level: Level::of(level),
                symbols: symbols(level),
                schedule: config.schedule,
                join: (!config.separate).then_some(config.prologues),
                l1_bytes,
                l2_bytes,
            }),
        })
    }
}

impl CpuExecutor {
    /// Its memory, for weights of packages that are read ([`crate::package::LoadOptions`]).
    pub fn memory(&self) -> crate::package::Memory {
        crate::package::Memory(self.shared.pool.clone())
    }
}

/// The primitives of a level; each table is made once.
fn symbols(level: &'static str) -> Arc<Symbols> {
    static TABLES: Mutex<Option<HashMap<&'static str, Arc<Symbols>>>> = Mutex::new(None);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let tables = tables.get_or_insert_default();
    tables.entry(level).or_insert_with(|| Arc::new(Symbols::new(prims::table(level)))).clone()
}

impl Executor for CpuExecutor {
    fn target(&self) -> Target {
        let s = &*self.shared;
        Target {
            device: Device::Cpu,
            isa: s.level,
            threads: s.threads.count(),
            l1_bytes: s.l1_bytes,
            l2_bytes: s.l2_bytes,
        }
    }

    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        if bytes.len() != ty.nbytes() {
            return Err(Error::internal(format!("{ty} takes {} bytes, got {}", ty.nbytes(), bytes.len())));
        }
        Ok(Arc::new(CpuBuffer::copy(&self.shared.pool, bytes, &|| format!("a tensor of type {ty}"))?))
    }

    fn load(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>> {
        Ok(Arc::new(CpuExecutable::new(self.shared.clone(), program)?))
    }

    fn memory_stats(&self) -> MemoryStats {
        self.shared.pool.stats()
    }

    fn reset_peak_memory_stats(&self) {
        self.shared.pool.reset_peak();
    }

    fn set_memory_limit(&self, bytes: u64) {
        self.shared.pool.set_limit(bytes);
    }

    fn empty_cache(&self) {
        self.shared.pool.empty_cache();
    }

    fn set_threads(&self, threads: Option<usize>) -> Result<()> {
        self.shared.threads.set(threads)
    }

    fn threads(&self) -> usize {
        self.shared.threads.count()
    }
}
