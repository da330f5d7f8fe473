//! Builds the executor and the session from the environment.

use pyo3::prelude::*;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use torsh_frontend::loan;
use torsh_frontend::session::{self, Config, Dump};
use torsh_ir::exec::{Device, DeviceKind, DeviceProperties, DeviceProvider, Executor};
use torsh_ir::interp::InterpExecutor;
use torsh_ir::{Error, Result, env, limits};

use torsh_runtime::CpuExecutor;

/// Installs the session.
pub fn init() -> Result<()> {
    env::warn_unknown();
    let interpret = env::interpret();
    let executor: Arc<dyn Executor> =
        if interpret { Arc::new(InterpExecutor::new()) } else { Arc::new(CpuExecutor::new()?) };
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
    session::get()?.set_provider(Arc::new(Provider));
    Ok(())
}

/// Finds the devices of this machine other than its CPU, for which this build has no runtime.
struct Provider;

fn absent(kind: DeviceKind) -> Error {
    Error::device(format!(
        "no {} device is available: this build of torsh has the CPU's runtime only, so no driver was looked for",
        kind.name()
    ))
}

impl DeviceProvider for Provider {
    fn count(&self, kind: DeviceKind) -> Result<u32> {
        Err(absent(kind))
    }
    fn open(&self, device: Device) -> Result<Arc<dyn Executor>> {
        Err(absent(device.kind()))
    }
    fn properties(&self, device: Device) -> Result<DeviceProperties> {
        Err(absent(device.kind()))
    }
}

/// Writes each stage of each compilation to a numbered file.
fn dump_to(dir: PathBuf) -> Dump {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Arc::new(move |pass: &str, text: &str| {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{n:05}-{pass}.txt"));
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
        if let Err(e) = written {
            eprintln!("torsh: warning: TORSH_DUMP cannot write {}: {e}", path.display());
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
