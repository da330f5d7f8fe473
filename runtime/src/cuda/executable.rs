//! A loaded program and its runs on a CUDA device.
//!
//! A run first takes all memory that it will need, then binds buffers to addresses, then launches the steps. Steps up
//! to the last one that can fail come first; the error record is read back; what follows is launched, as a graph
//! where these addresses were met before.

use super::arena::{Loan, Purpose};
use super::buffer::CudaBuffer;
use super::device::Shared;
use super::graphs::{Graphs, Met};
use super::images::REASON;
use super::kernels::{self, Kernels};
use super::matmul::LibraryProduct;
use crate::executable::{first_writes, last_fallible, writes};
use crate::executor::interrupted;
use crate::sys::cuda::driver::{Arg, Stream};
use crate::verified;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use torsh_codegen::cuda::{ERROR_BYTES, Launch, LaunchArg, MatrixLayout, Module as Plan, Options, generate};
use torsh_ir::exec::{Buffer, BufferRef, Executable, Outputs, StepDetail};
use torsh_ir::program::{BufId, Place, Program, Step};
use torsh_ir::{Error, ErrorKind, Result, env};

/// What every address is a multiple of: the widest access of a kernel.
const ALIGN: u64 = 16;
/// Alignment of the parts of a run's block of memory.
const PART: usize = 256;
/// A graph is not worth while for fewer launches.
const MIN_LAUNCHES: usize = 2;
/// A program of no more steps is launched before an interrupt matters.
const FEW_STEPS: usize = 4;

/// Where the memory of a buffer comes from.
enum Home {
    Input(usize),
    /// Made for the run.
    Fresh,
    /// A donated input's own memory, or a copy.
    Donated(usize),
    /// Within the run's block.
    Arena(usize),
    Const(Arc<CudaBuffer>),
}

/// A program with its code and constants.
pub(crate) struct CudaExecutable {
    shared: Arc<Shared>,
    program: Arc<Program>,
    homes: Vec<Home>,
    /// Per input: the first step that overwrites it, if donated; empty when no step does.
    first_write: Vec<Option<usize>>,
    /// For strict products, and for TF32.
    codes: [OnceLock<Code>; 2],
    compiling: Mutex<()>,
    constant_bytes: usize,
    seconds: f64,
}

/// The code of a program.
struct Code {
    plan: Plan,
    kernels: Kernels,
    /// Some step may write the error record.
    records: bool,
    last_fallible: Option<usize>,
    graphs: Option<Mutex<Graphs>>,
}

/// Where the parts of a run's block of memory begin, and its size.
struct Parts {
    scratch: usize,
    error: usize,
    total: usize,
}

impl CudaExecutable {
    /// Generates and compiles code, and uploads constants.
    pub fn new(shared: Arc<Shared>, program: Arc<Program>) -> Result<CudaExecutable> {
        // Kernels trust what the verifier establishes.
        verified::check(&program)?;
        let start = Instant::now();
        let mut constant_bytes = 0;
        let mut homes = Vec::with_capacity(program.buffers.len());
        for (i, buf) in program.buffers.iter().enumerate() {
            homes.push(match &buf.place {
                Place::Input(n) => Home::Input(*n as usize),
                Place::Output => Home::Fresh,
                Place::Donated(n) => Home::Donated(*n as usize),
                Place::Arena { offset } => {
                    let end = offset.checked_add(buf.ty.nbytes());
                    if end.is_none_or(|end| end > program.arena_bytes) {
                        return Err(Error::internal(format!("buffer b{i} lies outside of the arena")));
                    }
                    Home::Arena(*offset)
                }
                Place::Const(bytes) => {
                    constant_bytes += bytes.len();
                    Home::Const(Arc::new(shared.upload(&buf.ty, bytes)?))
                }
            });
        }
        let mut exe = CudaExecutable {
            first_write: first_writes(&program),
            shared,
            program,
            homes,
            codes: [OnceLock::new(), OnceLock::new()],
            compiling: Mutex::default(),
            constant_bytes,
            seconds: 0.0,
        };
        exe.code()?;
        exe.seconds = start.elapsed().as_secs_f64();
        if env::log().time {
            let Kernels { functions, bytes, found } = &exe.code()?.kernels;
            let found = match found.iter().filter(|found| **found).count() {
                0 => String::new(),
                found => format!(", {found} of them from a package"),
            };
            let (n, ms) = (functions.len(), exe.seconds * 1e3);
            env::say(&format!("generated {n} CUDA kernels{found}, {bytes} bytes, in {ms:.2} ms"));
        }
        Ok(exe)
    }

    /// The code for the products that are asked for now.
    fn code(&self) -> Result<&Code> {
        let tf32 = super::tf32();
        let slot = &self.codes[usize::from(tf32)];
        if let Some(code) = slot.get() {
            return Ok(code);
        }
        let _compiling = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = slot.get() {
            return Ok(code);
        }
        let code = Code::new(&self.shared, &self.program, tf32)?;
        self.shared.arena.count_code(code.kernels.bytes as i64);
        Ok(slot.get_or_init(|| code))
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

    /// Adds what the user wrote to an error of making memory for a buffer, or for the intermediate values, of which
    /// the largest is named.
    fn blame_memory(&self, e: Error, buffer: Option<usize>) -> Error {
        let within = |i: &usize| matches!(self.homes[*i], Home::Arena(_));
        let bytes = |i: &usize| self.program.buffers[*i].ty.nbytes();
        let buffer = buffer.or_else(|| (0..self.homes.len()).filter(within).max_by_key(bytes));
        let fills = |step: &Step| writes(&step.op).iter().any(|b| Some(b.0 as usize) == buffer);
        match self.program.steps.iter().position(fills) {
            Some(i) => self.blame(e, i),
            None => e,
        }
    }
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        for code in self.codes.iter().filter_map(OnceLock::get) {
            self.shared.arena.count_code(-(code.kernels.bytes as i64));
        }
    }
}

impl Code {
    fn new(shared: &Shared, program: &Program, tf32: bool) -> Result<Code> {
        let options = Options { tf32, ..shared.options.clone() };
        let plan = generate(program, &options)?;
        let kernels = kernels::load(shared, &options, &plan)?;
        let records = plan.steps.iter().any(|s| s.may_fail);
        let last_fallible = last_fallible(program);
        let launches: usize = plan.steps.iter().map(|s| s.launches.len()).sum();
        let graphs = shared.graphs && last_fallible.is_none() && launches >= MIN_LAUNCHES;
        Ok(Code { plan, kernels, records, last_fallible, graphs: graphs.then(Mutex::default) })
    }

    fn parts(&self, program: &Program) -> Result<Parts> {
        let too_large = || Error::limit("a program that needs more memory than there are addresses");
        let round = |n: usize| n.checked_next_multiple_of(PART);
        let scratch = round(program.arena_bytes).ok_or_else(too_large)?;
        let error = round(self.plan.scratch_bytes).and_then(|s| scratch.checked_add(s)).ok_or_else(too_large)?;
        let record = if self.records { ERROR_BYTES } else { 0 };
        let total = error.checked_add(record).ok_or_else(too_large)?;
        Ok(Parts { scratch, error, total })
    }
}

impl Executable for CudaExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn code_bytes(&self) -> usize {
        self.codes.iter().filter_map(OnceLock::get).map(|c| c.kernels.bytes).sum::<usize>() + self.constant_bytes
    }

    fn codegen_seconds(&self) -> f64 {
        self.seconds
    }

    fn listing(&self) -> String {
        self.code().map_or_else(|e| e.to_string(), |c| c.plan.source.clone())
    }

    fn details(&self) -> Vec<StepDetail> {
        let Ok(code) = self.code() else { return Vec::new() };
        let found = |launch: &Launch| code.kernels.found.get(launch.kernel) == Some(&true);
        let detail = |(unit, step): (usize, &torsh_codegen::cuda::StepPlan)| StepDetail {
            schedule: if step.library.is_some() { "library" } else { "cuda" },
            reason: match step.library {
                Some(_) => "cublasLt where it is installed",
                None if !step.launches.is_empty() && step.launches.iter().all(found) => REASON,
                None => "one or more launches",
            },
            threads: 1,
            unit,
            together: "step",
            cost_ns: 0.0,
        };
        code.plan.steps.iter().enumerate().map(detail).collect()
    }

    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        if interrupted() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted before a program was launched"));
        }
        let code = self.code()?;
        let stream = self.shared.stream();
        let mut run = Run::bind(self, code, &stream, inputs)?;
        match run.steps() {
            Ok(()) => run.outputs(inputs),
            Err(e) if !run.overwriting => Err(e),
            Err(e) => {
                let mut lost = 0;
                for (input, _) in inputs.iter().zip(&run.in_place).filter(|(_, taken)| **taken) {
                    self.shared.own(&**input)?.lose(&e);
                    lost += 1;
                }
                let what = if lost == 1 {
                    "the value of a tensor is".to_string()
                } else {
                    format!("the values of {lost} tensors are")
                };
                Err(e.with_note(&format!("{what} lost, which the program was updating in place")))
            }
        }
    }
}

/// One run.
struct Run<'a> {
    exe: &'a CudaExecutable,
    code: &'a Code,
    stream: &'a Arc<Stream>,
    /// The address of every buffer.
    addresses: SmallVec<[u64; 16]>,
    /// What was made for the run, by buffer.
    made: Vec<Option<Arc<CudaBuffer>>>,
    /// Copies of inputs in host memory.
    _copies: Vec<CudaBuffer>,
    in_place: SmallVec<[bool; 16]>,
    /// Library products, by step.
    products: Vec<(usize, LibraryProduct)>,
    block: Loan,
    parts: Parts,
    workspace: Loan,
    /// Steps from this one on overwrite donated inputs.
    first_overwrite: Option<usize>,
    /// A step that overwrites a donated input has been launched.
    overwriting: bool,
}

impl<'a> Run<'a> {
    /// Takes all memory, and finds every address.
    fn bind(
        exe: &'a CudaExecutable,
        code: &'a Code,
        stream: &'a Arc<Stream>,
        inputs: &mut [BufferRef],
    ) -> Result<Run<'a>> {
        let (shared, program) = (&*exe.shared, &*exe.program);
        if inputs.len() != program.inputs.len() {
            return Err(Error::internal(format!("{} inputs expected, got {}", program.inputs.len(), inputs.len())));
        }
        let parts = code.parts(program)?;
        let block = shared.arena.take(parts.total, stream, &Purpose::Program("the intermediate values of a program"));
        let block = block.map_err(|e| exe.blame_memory(e, None))?;
        let nothing = shared.arena.take(0, stream, &Purpose::Program("nothing"))?;
        let mut run = Run {
            exe,
            code,
            stream,
            addresses: SmallVec::new(),
            made: vec![None; program.buffers.len()],
            _copies: Vec::new(),
            in_place: SmallVec::new(),
            products: Vec::new(),
            block,
            parts,
            workspace: nothing,
            first_overwrite: None,
            overwriting: false,
        };
        let held = run.hold(inputs)?;
        run.make(&held)?;
        for (i, home) in exe.homes.iter().enumerate() {
            let made = || run.made[i].as_ref().map(|b| b.address());
            let address = match home {
                Home::Input(n) => held.get(*n).copied(),
                Home::Donated(n) if run.is_taken(*n) => held.get(*n).copied(),
                Home::Fresh | Home::Donated(_) => made(),
                Home::Arena(offset) => Some(run.block.address() + *offset as u64),
                Home::Const(buffer) => {
                    buffer.read(stream)?;
                    Some(buffer.address())
                }
            };
            let address = address.ok_or_else(|| Error::internal(format!("buffer b{i} has no memory")))?;
            if !address.is_multiple_of(ALIGN) {
                return Err(Error::internal(format!("buffer b{i} lies at {address:#x}, which is not aligned")));
            }
            run.addresses.push(address);
        }
        run.library()?;
        let overwritten = exe.first_write.iter().zip(&run.in_place);
        run.first_overwrite = overwritten.filter_map(|(&first, &taken)| first.filter(|_| taken)).min();
        Ok(run)
    }

    /// The address of every input, which the stream may use from here on; those of the host are copied.
    fn hold(&mut self, inputs: &mut [BufferRef]) -> Result<SmallVec<[u64; 16]>> {
        let shared = &*self.exe.shared;
        let mut held = SmallVec::new();
        for (i, (buffer, ty)) in inputs.iter_mut().zip(&self.exe.program.inputs).enumerate() {
            if buffer.nbytes() != ty.nbytes() {
                let (want, got) = (ty.nbytes(), buffer.nbytes());
                return Err(Error::internal(format!("input {i} of type {ty} takes {want} bytes, got {got}")));
            }
            if let Some(bytes) = buffer.host_bytes() {
                let copy = shared.upload(ty, bytes)?;
                copy.read(self.stream)?;
                held.push(copy.address());
                self._copies.push(copy);
                self.in_place.push(false);
                continue;
            }
            let first = self.exe.first_write.get(i).copied().flatten();
            // A kernel finds a bad index while it writes: here the step itself must be one that cannot fail.
            let safe = first.is_some_and(|first| self.code.last_fallible.is_none_or(|last| last < first));
            let taken = safe && Arc::get_mut(buffer).is_some();
            let own = shared.own(&**buffer)?;
            if taken {
                own.write(self.stream)?;
            } else {
                own.read(self.stream)?;
            }
            held.push(own.address());
            self.in_place.push(taken);
        }
        Ok(held)
    }

    fn is_taken(&self, input: usize) -> bool {
        self.in_place.get(input).copied().unwrap_or(false)
    }

    /// Outputs, and copies of donated inputs that must not be overwritten.
    fn make(&mut self, held: &[u64]) -> Result<()> {
        let (shared, program) = (&*self.exe.shared, &*self.exe.program);
        let mut copies: Vec<(usize, Arc<CudaBuffer>)> = Vec::new();
        for (i, home) in self.exe.homes.iter().enumerate() {
            let new =
                || CudaBuffer::new(&shared.arena, shared.device, &program.buffers[i].ty, self.stream).map(Arc::new);
            match home {
                Home::Fresh => self.made[i] = Some(new().map_err(|e| self.exe.blame_memory(e, Some(i)))?),
                Home::Donated(input) if !self.is_taken(*input) => {
                    if let Some((_, copy)) = copies.iter().find(|(n, _)| n == input) {
                        self.made[i] = Some(copy.clone());
                        continue;
                    }
                    let copy = new().map_err(|e| self.exe.blame_memory(e, Some(i)))?;
                    let from = held.get(*input).copied().unwrap_or(0);
                    let bytes = program.inputs.get(*input).map_or(0, torsh_ir::Type::nbytes);
                    if bytes != copy.nbytes() {
                        return Err(Error::internal("a donated input of another size"));
                    }
                    if let Some(block) = copy.block() {
                        self.stream.copy_from_address(block, from, bytes)?;
                    }
                    copies.push((*input, copy.clone()));
                    self.made[i] = Some(copy);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Chooses what the library computes, and takes its workspace.
    fn library(&mut self) -> Result<()> {
        let mut workspace = 0;
        for (i, step) in self.code.plan.steps.iter().enumerate() {
            let Some(plan) = &step.library else { continue };
            let size = plan.dtype.size() as i64;
            let address = |layout: &MatrixLayout| {
                let base = self.addresses.get(layout.buf.0 as usize).copied().unwrap_or(0);
                base.wrapping_add_signed(layout.offset.wrapping_mul(size))
            };
            let found = self.exe.shared.blas.product(plan, &address).map_err(|e| self.exe.blame(e, i))?;
            if let Some(product) = found {
                workspace = workspace.max(product.plan.workspace());
                self.products.push((i, product));
            }
        }
        self.workspace = self.exe.shared.arena.take(
            workspace,
            self.stream,
            &Purpose::Program("the workspace of a matrix product"),
        )?;
        Ok(())
    }

    /// Launches everything, and reads back whether it went well as far as that must be known.
    fn steps(&mut self) -> Result<()> {
        let all = self.code.plan.steps.len();
        let Some(last) = self.code.last_fallible else {
            return match &self.code.graphs {
                Some(graphs) if !env::log().steps => self.graph(graphs),
                _ => self.each(0..all),
            };
        };
        if let Some(block) = self.block.block() {
            self.stream.fill_range(block, self.parts.error, 0xff, ERROR_BYTES)?;
        }
        self.each(0..last + 1)?;
        self.check_record()?;
        self.each(last + 1..all)
    }

    fn check_record(&self) -> Result<()> {
        let Some(block) = self.block.block() else {
            return Err(Error::internal("a program that can fail has no error record"));
        };
        let mut bytes = [0; ERROR_BYTES];
        self.exe.shared.staging.download_range(self.stream, block, self.parts.error, &mut bytes)?;
        let mut words = [0u64; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b));
        }
        self.code.plan.failure(&self.exe.program, words).map_or(Ok(()), Err)
    }

    /// Launches steps one by one.
    fn each(&mut self, steps: Range<usize>) -> Result<()> {
        let many = self.code.plan.steps.len() > FEW_STEPS;
        let mut log = env::log().steps.then(String::new);
        for i in steps {
            let late = self.first_overwrite.is_some_and(|first| first <= i);
            if many && !late && interrupted() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted between kernels"));
            }
            self.overwriting |= late;
            let start = Instant::now();
            self.step(i, self.stream)?;
            if let Some(log) = &mut log {
                self.stream.synchronize()?;
                let (us, ops) = (start.elapsed().as_secs_f64() * 1e6, self.exe.program.steps[i].ops.join(" "));
                log.push_str(&format!("  {us:>10.1} us {i:>5} {ops}\n"));
            }
        }
        if let Some(log) = log {
            env::say(&format!("ran steps on {}\n{log}", self.exe.shared.device));
        }
        Ok(())
    }

    /// Launches all steps as a graph, or one by one where these addresses are new.
    fn graph(&mut self, graphs: &Mutex<Graphs>) -> Result<()> {
        let steps = 0..self.code.plan.steps.len();
        let mut key: SmallVec<[u64; 24]> = self.addresses.iter().copied().collect();
        key.extend([self.block.address(), self.workspace.address()]);
        let met = graphs.lock().unwrap_or_else(PoisonError::into_inner).meet(&key);
        let graph = match met {
            Met::New => return self.each(steps),
            Met::Recorded(graph) => graph,
            Met::Again => {
                let graph =
                    Arc::new(self.exe.shared.capture(|stream| steps.clone().try_for_each(|i| self.step(i, stream)))?);
                graphs.lock().unwrap_or_else(PoisonError::into_inner).keep(&key, graph.clone());
                graph
            }
        };
        // All of it is launched, or nothing.
        self.stream.launch_graph(&graph)
    }

    fn step(&self, i: usize, stream: &Stream) -> Result<()> {
        let launched = match self.products.iter().find(|(step, _)| *step == i) {
            Some((_, p)) => p.plan.run(stream, p.a, p.b, p.d, self.workspace.address()),
            None => self.code.plan.steps[i].launches.iter().try_for_each(|launch| self.launch(launch, stream)),
        };
        launched.map_err(|e| self.exe.blame(e, i))
    }

    fn launch(&self, launch: &Launch, stream: &Stream) -> Result<()> {
        let function =
            self.code.kernels.functions.get(launch.kernel).ok_or_else(|| Error::internal("a launch of no kernel"))?;
        let mut args: SmallVec<[Arg; 24]> = SmallVec::new();
        for arg in &launch.args {
            args.push(match *arg {
                LaunchArg::Buffer { buf, offset } => Arg::U64(self.buffer(buf, offset)?),
                LaunchArg::Scratch { offset } => {
                    if offset > self.code.plan.scratch_bytes {
                        return Err(Error::internal("a kernel's scratch memory begins outside of it"));
                    }
                    Arg::U64(self.block.address() + (self.parts.scratch + offset) as u64)
                }
                LaunchArg::Error if self.code.records => Arg::U64(self.block.address() + self.parts.error as u64),
                LaunchArg::Error => return Err(Error::internal("a kernel writes an error record that is not there")),
                LaunchArg::U32(word) => Arg::U32(word),
                LaunchArg::U64(word) => Arg::U64(word),
            });
        }
        function.launch(stream, launch.grid, launch.block, launch.dynamic_shared, &args)
    }

    fn buffer(&self, id: BufId, offset: usize) -> Result<u64> {
        let bytes = self.exe.program.buffers.get(id.0 as usize).map(|b| b.ty.nbytes());
        match (self.addresses.get(id.0 as usize), bytes) {
            (Some(address), Some(bytes)) if offset <= bytes => Ok(address + offset as u64),
            _ => Err(Error::internal(format!("a kernel's argument begins outside of b{}", id.0))),
        }
    }

    /// What the caller gets.
    fn outputs(&self, inputs: &[BufferRef]) -> Result<Outputs> {
        let mut outputs = Outputs::new();
        for id in &self.exe.program.outputs {
            let i = id.0 as usize;
            let found: Option<BufferRef> = match &self.exe.homes[i] {
                Home::Input(n) => inputs.get(*n).cloned(),
                Home::Donated(n) if self.is_taken(*n) => inputs.get(*n).cloned(),
                Home::Fresh | Home::Donated(_) => self.made[i].clone().map(|b| b as BufferRef),
                Home::Const(buffer) => Some(buffer.clone()),
                Home::Arena(_) => None,
            };
            outputs.push(found.ok_or_else(|| Error::internal(format!("output b{i} has no memory")))?);
        }
        Ok(outputs)
    }
}
