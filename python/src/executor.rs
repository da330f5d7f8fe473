//! Builds the executor and the session from the environment.

use pyo3::prelude::*;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use torsh_frontend::loan;
use torsh_frontend::session::{self, Config, Dump};
use torsh_ir::exec::Executor;
use torsh_ir::interp::InterpExecutor;
use torsh_ir::{Error, Result, env, limits};

use torsh_runtime::CpuExecutor;
use torsh_runtime::cuda::CudaProvider;
use torsh_runtime::package::Memory;

static MEMORY: OnceLock<Memory> = OnceLock::new();

/// The memory of the CPU's executor; none where everything is interpreted, which does not count.
pub fn memory() -> Option<Memory> {
    MEMORY.get().cloned()
}

/// Installs the session.
pub fn init(py: Python<'_>) -> Result<()> {
    env::warn_unknown();
    let interpret = env::interpret();
    let executor: Arc<dyn Executor> = if interpret {
        Arc::new(InterpExecutor::new())
    } else {
        let executor = CpuExecutor::new()?;
        // The first session is the only one; see `session::init`.
        let _ = MEMORY.set(executor.memory());
        Arc::new(executor)
    };
    limits::set(env::limits(limits::Limits::with_memory(executor.memory_stats().limit / 3 * 4)));
    torsh_runtime::set_interrupt_check(Some(interrupted));
    loan::set_hooks(loan::Hooks { unlocked, interrupted });
    let config = Config {
        interpret,
        fusion: env::fusion(),
        verify: env::verify(),
        dump: env::dump().map(dump_to),
        ..Config::default()
    };
    session::init(executor, config);
    let wheels = wheels(py).map_err(|e| Error::internal(format!("Python's search path cannot be read: {e}")))?;
    session::get()?.set_provider(Arc::new(CudaProvider::new(wheels)));
    Ok(())
}

/// Folders called `nvidia` on Python's search path, as it is now: that is where NVIDIA's wheels put their libraries.
/// Whether they are there is asked when a device is opened, at which point Python may not be.
pub fn wheels(py: Python<'_>) -> PyResult<Vec<PathBuf>> {
    let path = py.import("sys")?.getattr("path")?;
    // Python passes over what is no text, and so does this.
    let folders = path.try_iter()?.filter_map(|entry| entry.ok()?.extract::<PathBuf>().ok());
    Ok(folders.map(|dir| dir.join("nvidia")).collect())
}

/// Writes each stage of each compilation to a numbered file.
fn dump_to(dir: PathBuf) -> Dump {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Arc::new(move |pass: &str, text: &str| {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{n:05}-{pass}.txt"));
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
        if let Err(e) = written {
            env::warn(format!("TORSH_DUMP cannot write {}: {e}", path.display()));
        }
    })
}

/// Lets other threads have the interpreter while this one waits for one of them.
fn unlocked(wait: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(|| crate::fork::inside(wait)));
}

/// Whether Ctrl-C waits to be seen. Asking takes the interpreter lock, so it is asked 20 times a second at most.
fn interrupted() -> bool {
    const EVERY: Duration = Duration::from_millis(50);
    thread_local!(static LAST: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    match LAST.get() {
        Some(last) if now - last < EVERY => false,
        Some(_) => {
            LAST.set(Some(now));
            Python::attach(crate::errors::signalled)
        }
        None => {
            LAST.set(Some(now));
            false
        }
    }
}
