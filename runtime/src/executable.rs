//! A loaded program and its runs.
//!
//! A run first takes all memory that it will need, so that it cannot fail for want of it halfway; then it
//! binds buffers to memory; then it runs the steps. A donated input is overwritten in place only if `run`
//! holds its only reference and no later step can fail: on error the inputs are as they were.

use crate::bind::{Binding, Memory, Spans};
use crate::executor::{Shared, interrupted};
use crate::lib_calls::{self, Par};
use crate::memory::{CpuBuffer, Loan};
use crate::sys::call::{KernelFn, Part, Span, View, views};
use crate::sys::jit::{self, Code};
use crate::sys::slices::elements_mut;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use torsh_codegen::cpu::Options;
use torsh_ir::exec::{BufferRef, Executable, Outputs};
use torsh_ir::kernel::{Access, Kernel};
use torsh_ir::program::{BufDecl, BufId, DotStep, LibCall, Place, Program, StepOp};
use torsh_ir::shape::Type;
use torsh_ir::{Error, ErrorKind, Result};

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
    Kernel { kernel: usize, args: Vec<BufId> },
    Dot(Box<DotStep>),
    Lib { call: LibCall, args: Vec<BufId>, out: BufId },
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
    /// What a run on as many threads as there were at load time needs.
    sizing: Sizing,
    /// The program takes long enough to ask for interrupts.
    interruptible: bool,
    seconds: f64,
}

impl CpuExecutable {
    /// Generates code and uploads constants.
    pub fn new(shared: Arc<Shared>, program: Arc<Program>) -> Result<CpuExecutable> {
        // Everything below, the machine code above all, trusts what the verifier establishes.
        program.verify()?;
        let start = Instant::now();
        let (kernels, actions) = resolve(&program, &shared);
        let code = Code::compile(&shared.isa, &shared.symbols, &kernels)?;
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
        let sizing = Sizing::new(&program, code.kernels(), shared.threads.count());
        let interruptible = actions.len() > FEW_STEPS || takes_long(&program, code.kernels());
        let cost_ns = cost_ns(&program, &actions, code.kernels());
        let seconds = start.elapsed().as_secs_f64();
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
            interruptible,
            seconds,
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
fn can_fail(op: &StepOp) -> bool {
    match op {
        StepOp::Kernel { .. } | StepOp::Dot(_) => false,
        StepOp::Lib { call, .. } => match call {
            LibCall::Take { .. } | LibCall::Gather { .. } | LibCall::Scatter { .. } | LibCall::IndexPut { .. } => true,
            LibCall::ArgSort { .. } | LibCall::Scan { .. } | LibCall::Fill(_) | LibCall::Copy => false,
        },
    }
}

/// The buffers that a step writes.
fn writes(op: &StepOp) -> Vec<BufId> {
    match op {
        StepOp::Kernel { kernel, args } => {
            let written = kernel.params.iter().zip(args).filter(|(p, _)| p.access != Access::Read);
            written.map(|(_, &b)| b).collect()
        }
        StepOp::Dot(dot) => vec![dot.out],
        StepOp::Lib { out, .. } => vec![*out],
    }
}

fn first_writes(program: &Program) -> Vec<Option<usize>> {
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

/// The distinct kernels of a program, and its steps over them.
fn resolve(program: &Program, shared: &Shared) -> (Vec<(Arc<Kernel>, Options)>, Vec<Action>) {
    let mut index: HashMap<(Arc<Kernel>, Aliases), usize> = HashMap::new();
    let mut kernels = Vec::new();
    let mut actions = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        actions.push(match &step.op {
            StepOp::Kernel { kernel, args } => {
                let aliases = aliases(program, kernel, args);
                let options = Options {
                    schedule: shared.schedule,
                    aliases: aliases.clone(),
                    l2_bytes: shared.l2_bytes,
                    vectors: crate::machine::has_vectors(),
                    ..Options::default()
                };
                let next = kernels.len();
                let at = *index.entry((kernel.clone(), aliases)).or_insert(next);
                if at == next {
                    kernels.push((kernel.clone(), options));
                }
                Action::Kernel { kernel: at, args: args.clone() }
            }
            StepOp::Dot(dot) => Action::Dot(Box::new(dot.clone())),
            StepOp::Lib { call, args, out } => Action::Lib { call: call.clone(), args: args.clone(), out: *out },
        });
    }
    (kernels, actions)
}

/// Pairs of a written parameter and another one that share memory.
type Aliases = Vec<(u32, u32)>;

fn aliases(program: &Program, kernel: &Kernel, args: &[BufId]) -> Aliases {
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
    /// Memory of every buffer of the program.
    spans: &'a [Span],
    scratch: Span,
    sizing: &'a Sizing,
    /// Memory for the tiles of products.
    tiles: Mutex<Vec<Loan>>,
}

/// How a program is spread over threads, and the scratch memory for that.
struct Sizing {
    threads: usize,
    /// Per kernel: how many threads, and the parts.
    kernels: Vec<(usize, Vec<Part>)>,
    scratch_bytes: usize,
    /// Slices for the tiles of products, and bytes of each.
    tiles: (usize, usize),
}

impl Sizing {
    fn new(program: &Program, kernels: &[KernelFn], threads: usize) -> Sizing {
        let mut sizing =
            Sizing { threads, kernels: Vec::with_capacity(kernels.len()), scratch_bytes: 0, tiles: (0, 0) };
        for kernel in kernels {
            let workers = workers(kernel, threads);
            let parts = parts(kernel, workers);
            // `for_each` numbers its workers below both counts.
            let need = scratch_each(kernel).saturating_mul(workers.min(parts.len()));
            sizing.scratch_bytes = sizing.scratch_bytes.max(need);
            sizing.kernels.push((workers, parts));
        }
        for step in &program.steps {
            if let StepOp::Dot(dot) = &step.op {
                let dtype = program.buffers[dot.out.0 as usize].ty.dtype;
                let (count, each) = lib_calls::scratch(dot, dtype, threads);
                let (most, largest) = sizing.tiles;
                sizing.tiles = (most.max(count), largest.max(each * size_of::<f32>()));
            }
        }
        sizing
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
        Action::Dot(dot) => {
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

    fn cost_ns(&self) -> f64 {
        self.cost_ns
    }

    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        let threads = self.shared.threads.count();
        let other: Sizing;
        let sizing = if self.sizing.threads == threads {
            &self.sizing
        } else {
            other = Sizing::new(&self.program, self.code.kernels(), threads);
            &other
        };
        let (workspace, scratch_at) = self.workspace(sizing.scratch_bytes)?;
        let (count, each) = sizing.tiles;
        let tiles = (0..count).map(|_| self.shared.pool.take(each, &|| "the tiles of a matrix product".to_string()));
        let tiles = Mutex::new(tiles.collect::<Result<Vec<Loan>>>()?);
        let scratch = workspace.as_ref().and_then(Loan::span).unwrap_or_default();
        let scratch = scratch.slice(scratch_at..scratch.len());
        let scratch = scratch.ok_or_else(|| Error::internal("scratch memory outside of its block"))?;
        let mut memory = Memory::default();
        self.binding.bind(&self.program, &self.shared.pool, inputs, workspace.as_ref(), &mut memory)?;
        let overwritten = self.binding.overwritten(&memory);
        let run = Run { exe: self, spans: &memory.spans, scratch, sizing, tiles };
        for (i, action) in self.actions.iter().enumerate() {
            if self.interruptible && overwritten.is_none_or(|first| i <= first) && interrupted() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted between kernels"));
            }
            run.step(action).map_err(|e| self.blame(e, i))?;
        }
        self.binding.outputs(inputs, &mut memory)
    }
}

impl CpuExecutable {
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

/// How many threads a kernel is worth.
fn workers(kernel: &KernelFn, threads: usize) -> usize {
    let ns = kernel.info().cost_ns;
    if ns < SERIAL_NS { 1 } else { threads.min((ns / THREAD_NS) as usize).max(1) }
}

/// Cuts a kernel into parts: rows, and columns too where rows are few.
fn parts(kernel: &KernelFn, workers: usize) -> Vec<Part> {
    let info = kernel.info();
    if info.rows == 0 || (info.splits_columns && info.cols == 0) {
        return Vec::new();
    }
    if workers <= 1 {
        return vec![Part { rows: 0..info.rows, cols: 0..info.cols }];
    }
    let wanted = workers * PARTS_PER_THREAD;
    let mut row_step = info.rows.div_ceil(wanted).next_multiple_of(info.row_block.max(1));
    let mut col_step = info.cols.max(1);
    let row_parts = info.rows.div_ceil(row_step);
    if info.splits_columns && row_parts < wanted {
        col_step = info.cols.div_ceil(wanted.div_ceil(row_parts)).max(MIN_PART_COLS).next_multiple_of(512);
    } else if row_parts < workers {
        // Blocks of rows are too few: cut them.
        row_step = info.rows.div_ceil(workers).max(1);
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

    fn step(&self, action: &Action) -> Result<()> {
        match action {
            Action::Kernel { kernel, args } => self.kernel(*kernel, args),
            Action::Dot(dot) => self.dot(dot),
            Action::Lib { call, args, out } => self.lib(call, args, *out),
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

    fn dot(&self, dot: &DotStep) -> Result<()> {
        let dtype = self.exe.program.buffers[dot.out.0 as usize].ty.dtype;
        let args = [self.span(dot.lhs.buf)?, self.span(dot.rhs.buf)?];
        let mut out = self.span(dot.out)?;
        let mut loans = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.sizing.tiles.1;
        let tiles = loans.iter_mut().map(|loan| elements_mut::<f32>(loan.bytes_mut(bytes)));
        let tiles = Mutex::new(tiles.collect::<Result<Vec<&mut [f32]>>>()?);
        match views(&args, &mut out) {
            Some((seen, out)) => match seen[..] {
                [View::Bytes(lhs), View::Bytes(rhs)] => {
                    self.with_threads(|par| lib_calls::dot(dot, dtype, (lhs, rhs), out, &tiles, par))
                }
                _ => Err(overlap()),
            },
            None => Err(overlap()),
        }
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
        self.with_threads(|par| lib_calls::run(call, &types, &args, ty(out), bytes, par))
    }

    fn kernel(&self, kernel: usize, args: &[BufId]) -> Result<()> {
        let (workers, parts) = &self.sizing.kernels[kernel];
        let kernel = &self.exe.code.kernels()[kernel];
        let each = scratch_each(kernel);
        let mut list = Spans::new();
        for &arg in args {
            list.push(self.span(arg)?);
        }
        let args = list;
        let failed = AtomicBool::new(false);
        self.exe.shared.threads.for_each(*workers, parts.len(), |worker, part| {
            let start = worker * each;
            let scratch = self.scratch.slice(start..start + each);
            let done = scratch.is_some_and(|scratch| kernel.call(&args, &parts[part], &scratch));
            if !done {
                failed.store(true, Ordering::Relaxed);
            }
        });
        if failed.load(Ordering::Relaxed) {
            return Err(Error::internal("a kernel was called on memory that is too small"));
        }
        Ok(())
    }
}
