//! A loaded program and its runs.
//!
//! A run first takes all memory that it will need, so that it cannot fail for want of it halfway; then it
//! binds buffers to memory; then it runs the steps. A donated input is overwritten in place only if `run`
//! holds its only reference and no later step can fail: on error the inputs are as they were.

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
use torsh_ir::exec::{BufferRef, Executable};
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
    /// By buffer.
    constants: Vec<Option<Arc<CpuBuffer>>>,
    constant_bytes: usize,
    /// Per input: the first step that overwrites it, if donated.
    first_write: Vec<Option<usize>>,
    /// What a run on as many threads as there were at load time needs.
    sizing: Sizing,
    /// The program takes long enough to ask for interrupts.
    interruptible: bool,
    /// The last step that can fail.
    last_fallible: Option<usize>,
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
        let first_write = first_writes(&program);
        let last_fallible = program.steps.iter().rposition(|s| can_fail(&s.op));
        let sizing = Sizing::new(&program, code.kernels(), shared.threads.count());
        let interruptible = actions.len() > FEW_STEPS || takes_long(&program, code.kernels());
        let seconds = start.elapsed().as_secs_f64();
        Ok(CpuExecutable {
            shared,
            program,
            code,
            kernels,
            actions,
            constants,
            constant_bytes,
            first_write,
            last_fallible,
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
            LibCall::Attention(_) | LibCall::AttentionGrad(_) => false,
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
    first
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
    spans: Vec<Span>,
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
            let (count, each) = match &step.op {
                StepOp::Kernel { .. } => continue,
                StepOp::Dot(dot) => lib_calls::scratch(dot, program.buffers[dot.out.0 as usize].ty.dtype, threads),
                StepOp::Lib { call, .. } => lib_calls::attention::scratch(call, threads),
            };
            let (most, largest) = sizing.tiles;
            sizing.tiles = (most.max(count), largest.max(each * size_of::<f32>()));
        }
        sizing
    }
}

/// Scratch of one worker of a kernel, so that the next one's is aligned too.
fn scratch_each(kernel: &KernelFn) -> usize {
    kernel.info().scratch_bytes.next_multiple_of(64)
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

    fn run(&self, inputs: &mut [BufferRef]) -> Result<Vec<BufferRef>> {
        self.check_inputs(inputs)?;
        let held = self.hold_inputs(inputs)?;
        let in_place = self.in_place(inputs);
        let made = self.allocate(&held, &in_place)?;
        let threads = self.shared.threads.count();
        let other: Sizing;
        let sizing = if self.sizing.threads == threads {
            &self.sizing
        } else {
            other = Sizing::new(&self.program, self.code.kernels(), threads);
            &other
        };
        let pool = &self.shared.pool;
        let scratch = pool.take(sizing.scratch_bytes, &|| "scratch memory of a kernel".to_string())?;
        let (count, each) = sizing.tiles;
        let tiles = (0..count).map(|_| pool.take(each, &|| "the tiles of a matrix product".to_string()));
        let tiles = Mutex::new(tiles.collect::<Result<Vec<Loan>>>()?);
        let arena = pool.take(self.program.arena_bytes, &|| "the arena of a program".to_string())?;
        let spans = self.bind(&held, &made, &in_place, &arena)?;
        let run = Run { exe: self, spans, scratch: span(&scratch)?, sizing, tiles };
        let overwritten =
            self.first_write.iter().zip(&in_place).filter_map(|(&first, &taken)| first.filter(|_| taken)).min();
        for (i, action) in self.actions.iter().enumerate() {
            if self.interruptible && overwritten.is_none_or(|first| i <= first) && interrupted() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted between kernels"));
            }
            run.step(action).map_err(|e| self.blame(e, i))?;
        }
        self.outputs(inputs, &made, &in_place)
    }
}

fn span(loan: &Loan) -> Result<Span> {
    loan.span().ok_or_else(|| Error::internal("a block of memory without memory"))
}

/// Memory made for a run, by buffer.
type Made = Vec<Option<Arc<CpuBuffer>>>;

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

    fn check_inputs(&self, inputs: &[BufferRef]) -> Result<()> {
        let types = &self.program.inputs;
        if types.len() != inputs.len() {
            return Err(Error::internal(format!("{} inputs expected, got {}", types.len(), inputs.len())));
        }
        for (i, (ty, buffer)) in types.iter().zip(inputs).enumerate() {
            if buffer.nbytes() != ty.nbytes() {
                let got = buffer.nbytes();
                return Err(Error::internal(format!("input {i} of type {ty} takes {} bytes, got {got}", ty.nbytes())));
            }
        }
        Ok(())
    }

    /// The memory of every input; buffers of other executors are copied.
    fn hold_inputs(&self, inputs: &[BufferRef]) -> Result<Vec<HeldInput>> {
        let mut held = Vec::with_capacity(inputs.len());
        for (buffer, ty) in inputs.iter().zip(&self.program.inputs) {
            if let Some(own) = buffer.as_any().downcast_ref::<CpuBuffer>() {
                let span = own.span().ok_or_else(|| Error::internal("an input without memory"))?;
                held.push(HeldInput { span, copy: None });
                continue;
            }
            let bytes = buffer.host_bytes().ok_or_else(|| Error::device("the CPU reads host memory only"))?;
            let copy = CpuBuffer::copy(&self.shared.pool, bytes, &|| format!("a copy of an input of type {ty}"))?;
            let span = copy.span().ok_or_else(|| Error::internal("an input without memory"))?;
            held.push(HeldInput { span, copy: Some(copy) });
        }
        Ok(held)
    }

    /// The donated inputs that this run may overwrite.
    fn in_place(&self, inputs: &mut [BufferRef]) -> Vec<bool> {
        let taken = |(first, buffer): (&Option<usize>, &mut BufferRef)| {
            let safe = first.is_some_and(|first| self.last_fallible.is_none_or(|last| last < first));
            safe && buffer.as_any().is::<CpuBuffer>() && Arc::get_mut(buffer).is_some()
        };
        self.first_write.iter().zip(inputs).map(taken).collect()
    }

    /// Outputs, and copies of donated inputs that must not be overwritten.
    fn allocate(&self, held: &[HeldInput], in_place: &[bool]) -> Result<Made> {
        let mut made: Made = vec![None; self.program.buffers.len()];
        let mut copies: HashMap<u32, Arc<CpuBuffer>> = HashMap::new();
        for (i, buf) in self.program.buffers.iter().enumerate() {
            let what = || format!("an output of type {}", buf.ty);
            match buf.place {
                Place::Output => {
                    made[i] = Some(Arc::new(CpuBuffer::new(&self.shared.pool, buf.ty.nbytes(), &what)?));
                }
                Place::Donated(input) if !is_taken(in_place, input) => {
                    let copy = match copies.get(&input) {
                        Some(copy) => copy.clone(),
                        None => {
                            let copy = Arc::new(CpuBuffer::new(&self.shared.pool, buf.ty.nbytes(), &what)?);
                            let from = held.get(input as usize).map(|h| h.span);
                            let copied = copy.span().zip(from).is_some_and(|(to, from)| to.copy_from(&from));
                            if !copied {
                                return Err(Error::internal("a donated input of another size"));
                            }
                            copies.insert(input, copy.clone());
                            copy
                        }
                    };
                    made[i] = Some(copy);
                }
                Place::Input(_) | Place::Donated(_) | Place::Arena { .. } | Place::Const(_) => {}
            }
        }
        Ok(made)
    }

    /// The memory of every buffer.
    fn bind(&self, held: &[HeldInput], made: &Made, in_place: &[bool], arena: &Loan) -> Result<Vec<Span>> {
        let arena = span(arena)?;
        let mut spans = Vec::with_capacity(self.program.buffers.len());
        for (i, buf) in self.program.buffers.iter().enumerate() {
            let own = || made[i].as_ref().and_then(|b| b.span());
            let found = match &buf.place {
                Place::Input(n) => held.get(*n as usize).map(|h| h.span),
                Place::Donated(n) if is_taken(in_place, *n) => held.get(*n as usize).map(|h| h.span),
                Place::Output | Place::Donated(_) => own(),
                Place::Arena { offset } => {
                    offset.checked_add(buf.ty.nbytes()).and_then(|end| arena.slice(*offset..end))
                }
                Place::Const(_) => self.constants[i].as_ref().and_then(|b| b.span()),
            };
            spans.push(found.ok_or_else(|| Error::internal(format!("buffer b{i} has no memory")))?);
        }
        Ok(spans)
    }

    fn outputs(&self, inputs: &[BufferRef], made: &Made, in_place: &[bool]) -> Result<Vec<BufferRef>> {
        let mut outputs: Vec<BufferRef> = Vec::with_capacity(self.program.outputs.len());
        for &BufId(id) in &self.program.outputs {
            let place = &self.program.buffers[id as usize].place;
            let buffer: Option<BufferRef> = match place {
                Place::Input(n) => inputs.get(*n as usize).cloned(),
                Place::Donated(n) if is_taken(in_place, *n) => inputs.get(*n as usize).cloned(),
                Place::Output | Place::Donated(_) => shared(made, id),
                Place::Const(_) => shared(&self.constants, id),
                Place::Arena { .. } => None,
            };
            outputs.push(buffer.ok_or_else(|| Error::internal(format!("output b{id} has no memory")))?);
        }
        Ok(outputs)
    }
}

/// An input's memory.
struct HeldInput {
    span: Span,
    /// Keeps a copy of a foreign buffer alive.
    #[allow(dead_code, reason = "held for its memory")]
    copy: Option<CpuBuffer>,
}

/// A buffer by its number, for the caller.
fn shared(buffers: &[Option<Arc<CpuBuffer>>], id: u32) -> Option<BufferRef> {
    buffers.get(id as usize).and_then(|b| b.clone()).map(|b| b as BufferRef)
}

/// Whether the run overwrites an input in place.
fn is_taken(in_place: &[bool], input: u32) -> bool {
    in_place.get(input as usize).copied().unwrap_or(false)
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

    /// The scratch memory of library calls, a slice for each thread.
    fn slices<'l>(&self, loans: &'l mut [Loan]) -> Result<Mutex<Vec<&'l mut [f32]>>> {
        let bytes = self.sizing.tiles.1;
        let tiles = loans.iter_mut().map(|loan| elements_mut::<f32>(loan.bytes_mut(bytes)));
        Ok(Mutex::new(tiles.collect::<Result<Vec<&mut [f32]>>>()?))
    }

    fn dot(&self, dot: &DotStep) -> Result<()> {
        let dtype = self.exe.program.buffers[dot.out.0 as usize].ty.dtype;
        let args = [self.span(dot.lhs.buf)?, self.span(dot.rhs.buf)?];
        let mut out = self.span(dot.out)?;
        let mut loans = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        let tiles = self.slices(&mut loans)?;
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
        if call.attend().is_some() {
            let mut loans = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
            let tiles = self.slices(&mut loans)?;
            let level = self.exe.shared.level;
            return self.with_threads(|par| lib_calls::attention::run(call, &types, &args, bytes, level, &tiles, par));
        }
        self.with_threads(|par| lib_calls::run(call, &types, &args, ty(out), bytes, par))
    }

    fn kernel(&self, kernel: usize, args: &[BufId]) -> Result<()> {
        let (workers, parts) = &self.sizing.kernels[kernel];
        let kernel = &self.exe.code.kernels()[kernel];
        let each = scratch_each(kernel);
        let args = args.iter().map(|&a| self.span(a)).collect::<Result<Vec<Span>>>()?;
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
