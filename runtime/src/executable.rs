//! A loaded program and its runs.
//!
//! Steps run in units (see [`crate::units`]): one by one, as the chain of a product and the kernels on its rows, or
//! as a region of independent kernels.
//!
//! A run first takes all memory that it will need, so that it cannot fail for want of it halfway; then it
//! binds buffers to memory; then it runs the steps. A donated input is overwritten in place only if `run`
//! holds its only reference and no later step can fail: on error the inputs are as they were.

use crate::bind::{Binding, Memory, Spans};
use crate::executor::{Shared, interrupted};
use crate::lib_calls::{self, Epilogue, Means, PackKey, Par, Prologue as MakesRows};
use crate::memory::{CpuBuffer, Loan};
use crate::sys::call::{KernelFn, Part, Span, View, reads, views};
use crate::sys::jit::{self, Code};
use crate::sys::slices::elements_mut;
use crate::units::{self, OnRows, Prologue, Unit};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use torsh_codegen::cpu::{Level, Options};
use torsh_ir::exec::{BufferRef, Executable, Outputs, StepDetail};
use torsh_ir::kernel::{Access, Kernel};
use torsh_ir::program::{BufDecl, BufId, DotStep, LibCall, Place, Program, StepOp};
use torsh_ir::shape::Type;
use torsh_ir::{Error, ErrorKind, Result, env};

/// Work below this is not worth waking threads for; above, each thread gets at least so much.
const SERIAL_NS: f64 = 20_000.0;
const THREAD_NS: f64 = 10_000.0;
/// Parts per thread: enough to even out what other processes take from some of them.
const PARTS_PER_THREAD: usize = 4;
/// Fewer columns are not worth a part of their own.
const MIN_PART_COLS: usize = 2048;

/// A program of no more steps is over before an interrupt matters, unless it has large work: kernels of so
/// many nanoseconds, a product of so many multiplications, or a library call with a result of so many bytes.
const FEW_STEPS: usize = 4;
const LONG_NS: f64 = 1_000_000.0;
const LONG_PRODUCT: usize = 10_000_000;
const LONG_CALL_BYTES: usize = 1 << 20;

/// For the cost of a run: multiplications in a nanosecond, and nanoseconds for a byte of a library call.
const PRODUCTS_PER_NS: f64 = 4.0;
const CALL_NS_PER_BYTE: f64 = 2.0;

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
        program.verify()?;
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
        let last_fallible = program.steps.iter().rposition(|s| can_fail(&s.op));
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

/// Index errors are the only ones that steps raise: memory is taken before the first step, and work for which
/// no thread can be had is done by the caller.
pub(crate) fn can_fail(op: &StepOp) -> bool {
    match op {
        StepOp::Kernel { .. } | StepOp::Dot(_) => false,
        StepOp::Lib { call, .. } => match call {
            LibCall::Take { .. } | LibCall::Gather { .. } | LibCall::Scatter { .. } | LibCall::IndexPut { .. } => true,
            LibCall::Attention(_) | LibCall::AttentionGrad(_) => false,
            LibCall::ArgSort { .. } | LibCall::Scan { .. } | LibCall::Fill(_) | LibCall::Copy => false,
        },
    }
}

/// The buffers that a step writes.
pub(crate) fn writes(op: &StepOp) -> Vec<BufId> {
    match op {
        StepOp::Kernel { kernel, args } => {
            let written = kernel.params.iter().zip(args).filter(|(p, _)| p.access != Access::Read);
            written.map(|(_, &b)| b).collect()
        }
        StepOp::Dot(dot) => vec![dot.out],
        StepOp::Lib { out, .. } => vec![*out],
    }
}

/// Per input: the first step that overwrites it, if donated; empty when no step does.
pub(crate) fn first_writes(program: &Program) -> Vec<Option<usize>> {
    let mut first = vec![None; program.inputs.len()];
    for (i, step) in program.steps.iter().enumerate() {
        for buf in writes(&step.op) {
            if let Place::Donated(input) = program.buffers[buf.0 as usize].place
                && let Some(first) = first.get_mut(input as usize)
            {
                first.get_or_insert(i);
            }
        }
    }
    if first.iter().all(Option::is_none) { Vec::new() } else { first }
}

/// How an executor emits kernels that share no memory.
fn options(shared: &Shared) -> Options {
    Options {
        schedule: shared.schedule,
        l2_bytes: shared.l2_bytes,
        vectors: crate::machine::has_vectors(),
        level: Level::parse(shared.level),
        ..Options::default()
    }
}

/// The kernels whose code a program needs, as an executor of another schedule and level would emit them.
pub(crate) fn wanted(program: &Program, options: &Options) -> Vec<(Arc<Kernel>, Options)> {
    // The level of products is no part of any kernel.
    let (kernels, _) = resolve(program, options, lib_calls::Level::of("portable"));
    jit::own(&kernels).into_iter().map(|i| kernels[i].clone()).collect()
}

/// The distinct kernels of a program, and its steps over them.
fn resolve(
    program: &Program,
    base: &Options,
    product_level: lib_calls::Level,
) -> (Vec<(Arc<Kernel>, Options)>, Vec<Action>) {
    let mut index: HashMap<(Arc<Kernel>, Aliases), usize> = HashMap::new();
    let mut kernels = Vec::new();
    let mut actions = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        actions.push(match &step.op {
            StepOp::Kernel { kernel, args } => {
                let aliases = aliases(program, kernel, args);
                let options = Options { aliases: aliases.clone(), ..base.clone() };
                let next = kernels.len();
                let at = *index.entry((kernel.clone(), aliases)).or_insert(next);
                if at == next {
                    kernels.push((kernel.clone(), options));
                }
                Action::Kernel { kernel: at, args: args.clone() }
            }
            StepOp::Dot(dot) => {
                let decl = |buf: BufId| &program.buffers[buf.0 as usize];
                let key = match decl(dot.rhs.buf).place {
                    Place::Input(_) | Place::Const(_) => {
                        lib_calls::pack_key(dot, decl(dot.out).ty.dtype, product_level)
                    }
                    Place::Arena { .. } | Place::Output | Place::Donated(_) => None,
                };
                Action::Dot(Box::new(dot.clone()), key.map(Box::new))
            }
            StepOp::Lib { call, args, out } => Action::Lib { call: call.clone(), args: args.clone(), out: *out },
        });
    }
    // Longest first: shorter kernels of the same kind run on the code of a longer one.
    let mut order: Vec<usize> = (0..kernels.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(kernels[i].0.row_len()));
    let mut place = vec![0; kernels.len()];
    order.iter().enumerate().for_each(|(to, &from)| place[from] = to);
    for action in &mut actions {
        if let Action::Kernel { kernel, .. } = action {
            *kernel = place[*kernel];
        }
    }
    let kernels = order.into_iter().map(|i| kernels[i].clone()).collect();
    (kernels, actions)
}

/// Pairs of a written parameter and another one that share memory.
pub(crate) type Aliases = Vec<(u32, u32)>;

pub(crate) fn aliases(program: &Program, kernel: &Kernel, args: &[BufId]) -> Aliases {
    let mut pairs = Vec::new();
    for (w, _) in kernel.params.iter().enumerate().filter(|(_, p)| p.access != Access::Read) {
        for (r, &other) in args.iter().enumerate() {
            if w != r && share_memory(program, args[w], other) {
                pairs.push((w as u32, r as u32));
            }
        }
    }
    pairs
}

fn share_memory(program: &Program, a: BufId, b: BufId) -> bool {
    let (x, y): (&BufDecl, &BufDecl) = (&program.buffers[a.0 as usize], &program.buffers[b.0 as usize]);
    match (&x.place, &y.place) {
        _ if a == b => true,
        (Place::Arena { offset: p }, Place::Arena { offset: q }) => {
            p < &(q + y.ty.nbytes()) && q < &(p + x.ty.nbytes())
        }
        (Place::Input(i) | Place::Donated(i), Place::Input(j) | Place::Donated(j)) => i == j,
        _ => false,
    }
}

/// What one run works with.
struct Run<'a> {
    exe: &'a CpuExecutable,
    inputs: &'a [BufferRef],
    memory: &'a Memory,
    /// Whether this run goes through large operands from their ends on.
    back: bool,
    /// Memory of every buffer of the program.
    spans: &'a [Span],
    scratch: Span,
    sizing: &'a Sizing,
    /// Scratch memory of products.
    packed: Mutex<Option<Loan>>,
}

/// Slices of scratch memory that an attention needs, and bytes of each, so that the next one is aligned too.
fn attention_scratch(call: &LibCall, threads: usize) -> (usize, usize) {
    let (count, floats) = lib_calls::attention::scratch(call, threads);
    (count, floats.saturating_mul(size_of::<f32>()).next_multiple_of(64))
}

/// How a program is spread over threads, and the scratch memory for that.
struct Sizing {
    threads: usize,
    units: Vec<Spread>,
    scratch_bytes: usize,
    /// Scratch memory of the product that needs most.
    packed_bytes: usize,
}

/// A unit with its work cut up.
struct Spread {
    unit: Unit,
    /// Threads that work on it, and the scratch of each for its kernels.
    workers: usize,
    scratch_each: usize,
    /// The parts of its kernels, by step; a product sees to itself and to what runs on its rows.
    parts: Vec<(usize, Part)>,
}

impl Sizing {
    fn new(program: &Program, actions: &[Action], kernels: &[KernelFn], threads: usize, shared: &Shared) -> Sizing {
        let kernel = |step: usize| match actions.get(step) {
            Some(Action::Kernel { kernel, .. }) => kernels.get(*kernel),
            _ => None,
        };
        let found = units::find(program, &|step| kernel(step).map(KernelFn::info), threads, shared.join);
        let mut sizing = Sizing { threads, units: Vec::with_capacity(found.len()), scratch_bytes: 0, packed_bytes: 0 };
        for unit in found {
            let (first, front) = match &unit {
                Unit::Chain { front, dot, .. } => (*dot, front.is_some()),
                Unit::Step(_) | Unit::Region(_) => (unit.steps().start, false),
            };
            if let StepOp::Dot(dot) = &program.steps[first].op {
                let dtype = program.buffers[dot.out.0 as usize].ty.dtype;
                let bytes = lib_calls::scratch(dot, dtype, shared.product_level, threads, front);
                sizing.packed_bytes = sizing.packed_bytes.max(bytes);
            }
            if let StepOp::Lib { call, .. } = &program.steps[first].op {
                let (count, each) = attention_scratch(call, threads);
                sizing.packed_bytes = sizing.packed_bytes.max(count.saturating_mul(each));
            }
            let spread = Spread::new(unit, &kernel, threads);
            sizing.scratch_bytes = sizing.scratch_bytes.max(spread.scratch_each.saturating_mul(spread.workers));
            sizing.units.push(spread);
        }
        sizing
    }
}

impl Spread {
    fn new<'k>(unit: Unit, kernel: &dyn Fn(usize) -> Option<&'k KernelFn>, threads: usize) -> Spread {
        let functions: Vec<(usize, &KernelFn)> =
            unit.steps().filter_map(|step| kernel(step).map(|k| (step, k))).collect();
        let scratch_each = functions.iter().map(|(_, k)| scratch_each(k)).max().unwrap_or(0);
        let mut spread = Spread { unit, workers: threads, scratch_each, parts: Vec::new() };
        if matches!(spread.unit, Unit::Chain { .. }) {
            return spread;
        }
        let all: f64 = functions.iter().map(|(_, k)| k.info().cost_ns).sum();
        spread.workers = workers(all, threads);
        for (step, kernel) in functions {
            let share = if all > 0.0 { kernel.info().cost_ns / all } else { 1.0 };
            let wanted = ((spread.workers * PARTS_PER_THREAD) as f64 * share).ceil() as usize;
            let wanted = if spread.workers <= 1 { 1 } else { wanted.max(1) };
            spread.parts.extend(parts(kernel, wanted, spread.workers).into_iter().map(|part| (step, part)));
        }
        // `for_each` numbers its workers below both counts.
        spread.workers = spread.workers.min(spread.parts.len());
        spread
    }
}

/// Scratch of one worker of a kernel, so that the next one's is aligned too.
fn scratch_each(kernel: &KernelFn) -> usize {
    kernel.info().scratch_bytes.next_multiple_of(64)
}

/// What a run takes on one thread, roughly.
fn cost_ns(program: &Program, actions: &[Action], kernels: &[KernelFn]) -> f64 {
    let bytes = |b: &BufId| program.buffers[b.0 as usize].ty.nbytes() as f64;
    let cost = |action: &Action| match action {
        Action::Kernel { kernel, .. } => kernels[*kernel].info().cost_ns,
        Action::Dot(dot, _) => {
            let one = dot.m as f64 * dot.n as f64 * dot.k as f64;
            one * dot.batch.iter().map(|&b| b as f64).product::<f64>() / PRODUCTS_PER_NS
        }
        Action::Lib { args, out, .. } => args.iter().chain([out]).map(bytes).sum::<f64>() * CALL_NS_PER_BYTE,
    };
    actions.iter().map(cost).sum()
}

/// Whether a program is worth asking for interrupts though it has few steps.
fn takes_long(program: &Program, kernels: &[KernelFn]) -> bool {
    kernels.iter().map(|k| k.info().cost_ns).sum::<f64>() > LONG_NS
        || program.steps.iter().any(|step| match &step.op {
            StepOp::Kernel { .. } => false,
            StepOp::Dot(dot) => {
                let one = dot.m.saturating_mul(dot.n).saturating_mul(dot.k);
                dot.batch.iter().fold(one, |n, &b| n.saturating_mul(b)) > LONG_PRODUCT
            }
            StepOp::Lib { out, .. } => program.buffers[out.0 as usize].ty.nbytes() > LONG_CALL_BYTES,
        })
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

fn overlap() -> Error {
    Error::internal("a library call whose result overlaps an operand")
}

/// How many threads so much work is worth.
fn workers(ns: f64, threads: usize) -> usize {
    if ns < SERIAL_NS { 1 } else { threads.min((ns / THREAD_NS) as usize).max(1) }
}

/// Cuts a kernel into about `wanted` parts for `workers` threads: rows, and columns too where rows are few.
fn parts(kernel: &KernelFn, wanted: usize, workers: usize) -> Vec<Part> {
    let info = kernel.info();
    if info.rows == 0 || (info.splits_columns && info.cols == 0) {
        return Vec::new();
    }
    if wanted <= 1 {
        return vec![Part { rows: 0..info.rows, cols: 0..info.cols }];
    }
    let mut row_step = info.rows.div_ceil(wanted).next_multiple_of(info.row_block.max(1));
    let mut col_step = info.cols.max(1);
    let row_parts = info.rows.div_ceil(row_step);
    if info.splits_columns && row_parts < wanted {
        col_step = info.cols.div_ceil(wanted.div_ceil(row_parts)).max(MIN_PART_COLS).next_multiple_of(512);
    } else if row_parts < workers.min(wanted) {
        // Blocks of rows are too few: cut them.
        row_step = info.rows.div_ceil(workers.min(wanted)).max(1);
    }
    let mut parts = Vec::new();
    for row in (0..info.rows).step_by(row_step) {
        let rows = row..(row + row_step).min(info.rows);
        if info.splits_columns {
            for col in (0..info.cols).step_by(col_step) {
                parts.push(Part { rows: rows.clone(), cols: col..(col + col_step).min(info.cols) });
            }
        } else {
            parts.push(Part { rows, cols: 0..info.cols });
        }
    }
    parts
}

impl Run<'_> {
    fn span(&self, buf: BufId) -> Result<Span> {
        let found = self.spans.get(buf.0 as usize).copied();
        found.ok_or_else(|| Error::internal(format!("no buffer b{}", buf.0)))
    }

    fn unit(&self, spread: &Spread) -> Result<()> {
        match &spread.unit {
            Unit::Step(step) => match &self.exe.actions[*step] {
                Action::Kernel { .. } => self.kernels(spread),
                Action::Dot(dot, key) => self.dot(dot, key.as_deref(), (None, None)),
                Action::Lib { call, args, out } => self.lib(call, args, *out),
            },
            Unit::Region(_) => self.kernels(spread),
            Unit::Chain { front, dot, kernels } => match &self.exe.actions[*dot] {
                Action::Dot(dot, key) => self.chain(spread, front.as_ref(), (dot, key.as_deref()), kernels),
                _ => Err(Error::internal("a chain without a product")),
            },
        }
    }

    /// Lends this run's threads to a library call.
    fn with_threads<R>(&self, call: impl FnOnce(&Par<'_>) -> R) -> R {
        let threads = &self.exe.shared.threads;
        let run = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
            threads.for_each(self.sizing.threads, parts, |_, part| work(part));
        };
        call(&Par { threads: self.sizing.threads, run: &run })
    }

    /// A product. The hooks make the rows of its left operand, and are called with rows of its result that are complete.
    fn dot(
        &self,
        dot: &DotStep,
        key: Option<&PackKey>,
        hooks: (Option<&MakesRows<'_>>, Option<&Epilogue<'_>>),
    ) -> Result<()> {
        let dtype = self.exe.program.buffers[dot.out.0 as usize].ty.dtype;
        // A left operand that is made is not where it would be.
        let lhs = if hooks.0.is_some() { Span::default() } else { self.span(dot.lhs.buf)? };
        let args = [lhs, self.span(dot.rhs.buf)?];
        let out = self.span(dot.out)?;
        let [lhs, rhs] = reads(&args, &out).ok_or_else(overlap)?;
        let (level, pool, back) = (self.exe.shared.product_level, &self.exe.shared.pool, self.back);
        let source =
            key.and_then(|key| Some((key, self.exe.binding.unchanged(dot.rhs.buf, self.inputs, self.memory)?)));
        self.with_threads(|par| {
            let panels = match source {
                Some((key, buffer)) => {
                    buffer.packed().panels(key, pool, |to| lib_calls::pack(key, rhs, level, to, par))?
                }
                None => None,
            };
            let packed = panels.as_ref().map(|panels| panels.bytes());
            let mut memory = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
            let scratch: &mut [u8] = memory.as_mut().map_or(&mut [], |p| p.bytes_mut(self.sizing.packed_bytes));
            let means = &mut Means { level, scratch, par, packed, back };
            lib_calls::dot(dot, dtype, (lhs, rhs), &out, hooks, means)
        })
    }

    fn lib(&self, call: &LibCall, args: &[BufId], out: BufId) -> Result<()> {
        let ty = |b: BufId| &self.exe.program.buffers[b.0 as usize].ty;
        let types: Vec<&Type> = args.iter().map(|&a| ty(a)).collect();
        let spans = args.iter().map(|&a| self.span(a)).collect::<Result<Vec<Span>>>()?;
        let mut to = self.span(out)?;
        let (seen, bytes) = views(&spans, &mut to).ok_or_else(overlap)?;
        let args: Vec<lib_calls::Arg<'_>> = seen
            .into_iter()
            .map(|v| match v {
                View::Bytes(b) => lib_calls::Arg::Bytes(b),
                View::Out => lib_calls::Arg::Out,
            })
            .collect();
        if call.attend().is_some() {
            let (count, each) = attention_scratch(call, self.sizing.threads);
            let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
            let memory: &mut [u8] = packed.as_mut().map_or(&mut [], |p| p.bytes_mut(count.saturating_mul(each)));
            let slices = memory.chunks_exact_mut(each.max(1));
            let tiles = Mutex::new(slices.map(elements_mut::<f32>).collect::<Result<Vec<&mut [f32]>>>()?);
            let level = self.exe.shared.level;
            return self.with_threads(|par| lib_calls::attention::run(call, &types, &args, bytes, level, &tiles, par));
        }
        self.with_threads(|par| lib_calls::run(call, &types, &args, ty(out), bytes, par))
    }

    /// The memory of each parameter of a step's kernel.
    fn bound(&self, step: usize) -> Result<Bound<'_>> {
        match &self.exe.actions[step] {
            Action::Kernel { kernel, args } => {
                let mut list = Spans::new();
                for &arg in args {
                    list.push(self.span(arg)?);
                }
                let args = list;
                Ok(Bound { kernel: &self.exe.code.kernels()[*kernel], args })
            }
            _ => Err(Error::internal(format!("step {step} is no kernel"))),
        }
    }

    /// The scratch of one worker of a unit.
    fn scratch(&self, spread: &Spread, worker: usize) -> Option<Span> {
        let start = worker * spread.scratch_each;
        self.scratch.slice(start..start + spread.scratch_each)
    }

    fn kernels(&self, spread: &Spread) -> Result<()> {
        if let [(step, part)] = &spread.parts[..] {
            // Nothing to share out.
            let bound = self.bound(*step)?;
            let done = self.scratch(spread, 0).is_some_and(|scratch| bound.call(part, &scratch));
            return if done { Ok(()) } else { Err(too_small()) };
        }
        let steps = spread.unit.steps();
        let bound = steps.clone().map(|s| self.bound(s)).collect::<Result<SmallVec<[Bound<'_>; 1]>>>()?;
        let failed = AtomicBool::new(false);
        self.exe.shared.threads.for_each(spread.workers, spread.parts.len(), |worker, part| {
            let (step, part) = &spread.parts[part];
            let scratch = self.scratch(spread, worker);
            let done = scratch.is_some_and(|scratch| bound[step - steps.start].call(part, &scratch));
            failed.fetch_or(!done, Ordering::Relaxed);
        });
        if failed.load(Ordering::Relaxed) { Err(too_small()) } else { Ok(()) }
    }

    /// A product, what makes each panel of its rows, and its kernels on each panel that is complete.
    fn chain(
        &self,
        spread: &Spread,
        front: Option<&Prologue>,
        (dot, key): (&DotStep, Option<&PackKey>),
        kernels: &[OnRows],
    ) -> Result<()> {
        let mut bound = Vec::with_capacity(kernels.len());
        for on in kernels {
            bound.push((on, self.bound(on.step)?));
        }
        let front = front.map(|front| Ok((front, self.bound(front.on.step)?))).transpose()?;
        let failed = AtomicBool::new(false);
        let done = |worker: usize, rows: Range<usize>| {
            let run = |(on, kernel): &(&OnRows, Bound<'_>)| {
                let part = on.part(kernel.kernel.info(), &rows);
                self.scratch(spread, worker).is_some_and(|scratch| kernel.call(&part, &scratch))
            };
            failed.fetch_or(!bound.iter().all(run), Ordering::Relaxed);
        };
        let make = front.as_ref().map(|(front, kernel)| {
            let failed = &failed;
            move |worker: usize, rows: Range<usize>, to: Span| {
                let part = front.on.part(kernel.kernel.info(), &rows);
                let scratch = self.scratch(spread, worker);
                let made = scratch.is_some_and(|scratch| kernel.call_apart((front.param, to), &part, &scratch));
                failed.fetch_or(!made, Ordering::Relaxed);
            }
        });
        let make = make.as_ref().map(|make| make as &MakesRows<'_>);
        self.dot(dot, key, (make, if kernels.is_empty() { None } else { Some(&done) }))?;
        if failed.load(Ordering::Relaxed) { Err(too_small()) } else { Ok(()) }
    }
}

/// A kernel with its arguments.
struct Bound<'a> {
    kernel: &'a KernelFn,
    args: Spans,
}

impl Bound<'_> {
    fn call(&self, part: &Part, scratch: &Span) -> bool {
        self.kernel.call(&self.args, part, scratch)
    }

    /// The same, with the memory of one argument elsewhere: see [`KernelFn::call_apart`].
    fn call_apart(&self, (param, memory): (usize, Span), part: &Part, scratch: &Span) -> bool {
        let mut args = self.args.clone();
        let Some(arg) = args.get_mut(param) else { return false };
        *arg = memory;
        self.kernel.call_apart(&args, Some(param), part, scratch)
    }
}

fn too_small() -> Error {
    Error::internal("a kernel was called on memory that is too small")
}
