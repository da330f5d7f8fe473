//! A loaded program and its runs.
//!
//! Steps run in units (see [`crate::units`]): one by one, as the chain of a product and the kernels on its rows, or
//! as a region of independent kernels.
//!
//! A run first takes all memory that it will need, so that it cannot fail for want of it halfway; then it
//! binds buffers to memory; then it runs the steps. A donated input is overwritten in place only if `run`
//! holds its only reference and no later step can fail: on error the inputs are as they were.

use crate::bind::{Binding, Memory};
use crate::executor::{Shared, interrupted};
use crate::lib_calls::{PackKey, Par};
use crate::memory::{CpuBuffer, Loan};
use crate::sys::jit::{self, Code};
use crate::units::Unit;
use crate::verified;
use run::Run;
use sizing::{FEW_STEPS, Sizing, cost_ns, takes_long};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use torsh_codegen::cpu::Options;
use torsh_ir::exec::{BufferRef, Executable, Outputs, StepDetail};
use torsh_ir::kernel::Kernel;
use torsh_ir::program::{BufId, DotStep, LibCall, Place, Program, StepOp};
use torsh_ir::{Error, ErrorKind, Result, env};

mod resolve;
mod run;
mod sizing;

pub(crate) use resolve::{Aliases, aliases, first_writes, last_fallible, wanted, writes};
use resolve::{options, resolve};

/// A step, resolved.
enum Action {
    Kernel {
        kernel: usize,
        args: Vec<BufId>,
    },
    /// A product, and what a packed copy of its right operand would be made from, where that may stay the same.
    Dot(Box<DotStep>, Option<Box<PackKey>>),
    Lib {
        call: LibCall,
        args: Vec<BufId>,
        out: BufId,
    },
}

/// A program with its machine code and constants.
pub(crate) struct CpuExecutable {
    shared: Arc<Shared>,
    program: Arc<Program>,
    code: Code,
    kernels: Vec<(Arc<Kernel>, Options)>,
    actions: Vec<Action>,
    constant_bytes: usize,
    binding: Binding,
    /// What a run takes on one thread, in nanoseconds.
    cost_ns: f64,
    /// What a run on as many threads as there were at load time needs, and one on another number of them.
    sizing: Sizing,
    other_sizing: Mutex<Option<Arc<Sizing>>>,
    /// The program takes long enough to ask for interrupts.
    interruptible: bool,
    seconds: f64,
    /// Counts runs: every other one reads large operands from their ends on.
    runs: AtomicUsize,
}

impl CpuExecutable {
    /// Generates code and uploads constants.
    pub fn new(shared: Arc<Shared>, program: Arc<Program>) -> Result<CpuExecutable> {
        // Everything below, the machine code above all, trusts what the verifier establishes.
        verified::check(&program)?;
        let start = Instant::now();
        let (kernels, actions) = resolve(&program, &options(&shared), shared.product_level);
        let threads = shared.threads.count();
        let run = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
            shared.threads.for_each(threads, parts, |_, part| work(part));
        };
        let code = Code::compile(&shared.isa, &shared.symbols, &kernels, &Par { threads, run: &run })?;
        shared.pool.count_code(code.bytes() as i64);
        let mut constants = vec![None; program.buffers.len()];
        let mut constant_bytes = 0;
        for (i, buf) in program.buffers.iter().enumerate() {
            if let Place::Const(bytes) = &buf.place {
                let copy = CpuBuffer::copy(&shared.pool, bytes, &|| format!("a constant of type {}", buf.ty))?;
                constant_bytes += bytes.len();
                constants[i] = Some(Arc::new(copy));
            }
        }
        let last_fallible = last_fallible(&program);
        let binding = Binding::new(&program, &constants, first_writes(&program), last_fallible)?;
        let sizing = Sizing::new(&program, &actions, code.kernels(), shared.threads.count(), &shared);
        let interruptible = actions.len() > FEW_STEPS || takes_long(&program, code.kernels());
        let cost_ns = cost_ns(&program, &actions, code.kernels());
        let seconds = start.elapsed().as_secs_f64();
        if env::log().time {
            let (n, bytes) = (kernels.len(), code.bytes());
            let found = match code.found() {
                0 => String::new(),
                found => format!(", {found} of them from a package"),
            };
            env::say(&format!("generated {n} kernels{found}, {bytes} bytes, in {:.2} ms", seconds * 1e3));
        }
        Ok(CpuExecutable {
            shared,
            program,
            code,
            kernels,
            actions,
            constant_bytes,
            binding,
            cost_ns,
            sizing,
            other_sizing: Mutex::new(None),
            interruptible,
            seconds,
            runs: AtomicUsize::new(0),
        })
    }
}

impl Drop for CpuExecutable {
    fn drop(&mut self) {
        self.shared.pool.count_code(-(self.code.bytes() as i64));
    }
}

impl Executable for CpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn code_bytes(&self) -> usize {
        self.code.bytes() + self.constant_bytes
    }

    fn codegen_seconds(&self) -> f64 {
        self.seconds
    }

    fn listing(&self) -> String {
        let kernels: Vec<(Arc<Kernel>, Options)> =
            self.kernels.iter().map(|(k, o)| (k.clone(), Options { listing: true, ..o.clone() })).collect();
        jit::listing(&self.shared.isa, &self.shared.symbols, &kernels).unwrap_or_else(|e| e.to_string())
    }

    fn details(&self) -> Vec<StepDetail> {
        let other;
        let sizing = match self.other_sizing(self.shared.threads.count()) {
            None => &self.sizing,
            Some(found) => {
                other = found;
                &*other
            }
        };
        let mut details = Vec::with_capacity(self.actions.len());
        for (unit, spread) in sizing.units.iter().enumerate() {
            for step in spread.unit.steps() {
                let together = spread.unit.name(step);
                let detail = |schedule, reason, threads, cost_ns| StepDetail {
                    schedule,
                    reason,
                    threads,
                    unit,
                    together,
                    cost_ns,
                };
                details.push(match &self.actions[step] {
                    Action::Kernel { kernel, .. } => {
                        let info = self.code.kernels()[*kernel].info();
                        detail(info.schedule.name(), info.reason, spread.workers, info.cost_ns)
                    }
                    Action::Dot(_, Some(_)) => {
                        detail("library", "packs its right operand once if it stays the same", sizing.threads, 0.0)
                    }
                    Action::Dot(..) | Action::Lib { .. } => detail("library", "not generated", sizing.threads, 0.0),
                });
            }
        }
        details
    }

    fn cost_ns(&self) -> f64 {
        self.cost_ns
    }

    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        let threads = self.shared.threads.count();
        let other;
        let sizing = match self.other_sizing(threads) {
            None => &self.sizing,
            Some(found) => {
                other = found;
                &*other
            }
        };
        let (workspace, scratch_at) = self.workspace(sizing.scratch_bytes)?;
        let packed = match sizing.packed_bytes {
            0 => None,
            bytes => Some(self.shared.pool.take(bytes, &|| "scratch memory of a matrix product".to_string())?),
        };
        let packed = Mutex::new(packed);
        let scratch = workspace.as_ref().and_then(Loan::span).unwrap_or_default();
        let scratch = scratch.slice(scratch_at..scratch.len());
        let scratch = scratch.ok_or_else(|| Error::internal("scratch memory outside of its block"))?;
        let mut memory = Memory::default();
        self.binding.bind(&self.program, &self.shared.pool, inputs, workspace.as_ref(), &mut memory)?;
        let overwritten = self.binding.overwritten(&memory);
        let back = self.runs.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let run = Run { exe: self, inputs, memory: &memory, back, spans: &memory.spans, scratch, sizing, packed };
        let mut log = env::log().steps.then(String::new);
        for spread in &sizing.units {
            let steps = spread.unit.steps();
            if self.interruptible && overwritten.is_none_or(|first| steps.start <= first) && interrupted() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted between kernels"));
            }
            let start = log.as_ref().map(|_| Instant::now());
            run.unit(spread).map_err(|e| self.blame(e, steps.start))?;
            if let (Some(log), Some(start)) = (&mut log, start) {
                self.log_unit(log, &spread.unit, start.elapsed().as_secs_f64());
            }
        }
        if let Some(log) = log {
            let (steps, units) = (self.actions.len(), sizing.units.len());
            env::say(&format!("ran {steps} steps in {units} units on {threads} threads\n{log}"));
        }
        self.binding.outputs(inputs, &mut memory)
    }
}

impl CpuExecutable {
    /// How runs on `threads` threads are spread, where that is not the number at load time.
    fn other_sizing(&self, threads: usize) -> Option<Arc<Sizing>> {
        if self.sizing.threads == threads {
            return None;
        }
        let mut last = self.other_sizing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|s| s.threads == threads) {
            return Some(known.clone());
        }
        let new = Arc::new(Sizing::new(&self.program, &self.actions, self.code.kernels(), threads, &self.shared));
        *last = Some(new.clone());
        Some(new)
    }

    /// What a unit took and what it is, for the log.
    fn log_unit(&self, log: &mut String, unit: &Unit, seconds: f64) {
        let mut time = format!("{:>10.1} us", seconds * 1e6);
        for i in unit.steps() {
            let step = &self.program.steps[i];
            let what = match &step.op {
                StepOp::Kernel { kernel, .. } => format!("kernel {:?}x{:?}", kernel.grid, kernel.inner),
                StepOp::Dot(d) => format!("dot {:?} {}x{}x{}", d.batch, d.m, d.k, d.n),
                StepOp::Lib { call, out, .. } => format!("{call:?} {}", self.program.buffers[out.0 as usize].ty),
            };
            log.push_str(&format!("  {time} {i:>5} {what}: {}\n", step.ops.join(" ")));
            // The rest of a unit is in the first line's time.
            time = format!("{:>13}", if matches!(unit, Unit::Chain { .. }) { "on its rows" } else { "with it" });
        }
    }

    /// Adds what the user wrote to an error of step `i`.
    fn blame(&self, e: Error, i: usize) -> Error {
        let step = &self.program.steps[i];
        let e = match step.ops.last() {
            Some(op) => e.with_op(op),
            None => e,
        };
        e.with_loc(step.loc.clone())
    }

    /// The arena of a run and scratch memory for its kernels behind it, in one block, and where scratch begins.
    fn workspace(&self, scratch_bytes: usize) -> Result<(Option<Loan>, usize)> {
        let at = self.binding.arena_end();
        let total = at.and_then(|at| at.checked_add(scratch_bytes)).unwrap_or(usize::MAX);
        if total == 0 {
            return Ok((None, 0));
        }
        let arena = self.program.arena_bytes >= scratch_bytes;
        let what = || if arena { "the arena of a program" } else { "scratch memory of a kernel" }.to_string();
        Ok((Some(self.shared.pool.take(total, &what)?), at.unwrap_or(0)))
    }
}
