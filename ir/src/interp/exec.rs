//! The interpreter behind the runtime's contract: `TORSH_INTERPRET=1` runs everything here.

use super::{HostTensor, eval_graph, run_program};
use crate::error::{Error, Result};
use crate::exec::{Buffer, BufferRef, Device, Executable, Executor, MemoryStats, Outputs, Target};
use crate::graph::Graph;
use crate::limits;
use crate::program::{BufDecl, BufId, Place, Program};
use crate::shape::Type;
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Alignment of host buffers in bytes.
const ALIGN: usize = 64;

/// Bytes held by buffers, against a cap.
struct Account(Mutex<MemoryStats>);

impl Account {
    fn stats(&self) -> MutexGuard<'_, MemoryStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64, what: &str) -> Result<()> {
        let mut s = self.stats();
        match s.live.checked_add(bytes) {
            Some(live) if live <= s.limit => {
                s.live = live;
                s.peak = s.peak.max(live);
                s.allocations += 1;
                Ok(())
            }
            _ => Err(Error::limit(format!(
                "{what} needs {bytes} bytes, {} of {} bytes are in use; raise the limit with torsh.limits or TORSH_MAX_MEMORY",
                s.live, s.limit
            ))),
        }
    }

    fn give(&self, bytes: u64) {
        let mut s = self.stats();
        s.live = s.live.saturating_sub(bytes);
    }
}

/// A tensor's memory on the host, 64-byte aligned, counted while it lives.
pub struct HostBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    account: Arc<Account>,
}

impl HostBuffer {
    fn new(account: &Arc<Account>, contents: &[u8], what: &str) -> Result<HostBuffer> {
        account.take(contents.len() as u64, what)?;
        let mut bytes = vec![0; contents.len() + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        bytes[start..start + contents.len()].copy_from_slice(contents);
        Ok(HostBuffer { bytes, start, len: contents.len(), account: account.clone() })
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.account.give(self.len as u64);
    }
}

impl Buffer for HostBuffer {
    fn nbytes(&self) -> usize {
        self.len
    }
    fn host_bytes(&self) -> Option<&[u8]> {
        self.bytes.get(self.start..self.start + self.len)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Runs programs, or graphs directly, in the reference interpreter.
pub struct InterpExecutor {
    account: Arc<Account>,
}

impl Default for InterpExecutor {
    fn default() -> InterpExecutor {
        InterpExecutor::new()
    }
}

impl InterpExecutor {
    /// An executor whose cap is the peak limit now in force.
    pub fn new() -> InterpExecutor {
        let limit = limits::get().max_peak_bytes;
        InterpExecutor { account: Arc::new(Account(Mutex::new(MemoryStats { limit, ..MemoryStats::default() }))) }
    }

    /// An executable that evaluates a level-1 graph node by node, without any pass.
    pub fn load_graph(&self, graph: Graph) -> GraphExecutable {
        GraphExecutable::new(graph, self.account.clone())
    }
}

impl Executor for InterpExecutor {
    fn target(&self) -> Target {
        Target { device: Device::Cpu, isa: "interpreter", threads: 1, l1_bytes: 32 << 10, l2_bytes: 1 << 20 }
    }
    fn upload(&self, ty: &Type, bytes: &[u8]) -> Result<BufferRef> {
        if bytes.len() != ty.nbytes() {
            return Err(Error::internal(format!("{ty} takes {} bytes, got {}", ty.nbytes(), bytes.len())));
        }
        Ok(Arc::new(HostBuffer::new(&self.account, bytes, &format!("a tensor of type {ty}"))?))
    }
    fn load(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>> {
        Ok(Arc::new(ProgramExecutable { program, account: self.account.clone() }))
    }
    fn memory_stats(&self) -> MemoryStats {
        *self.account.stats()
    }
    fn reset_peak_memory_stats(&self) {
        let mut s = self.account.stats();
        s.peak = s.live;
    }
    fn set_memory_limit(&self, bytes: u64) {
        self.account.stats().limit = bytes;
    }
    fn empty_cache(&self) {}
    fn set_threads(&self, _threads: Option<usize>) -> Result<()> {
        Ok(())
    }
    fn threads(&self) -> usize {
        1
    }
}

fn read_inputs(types: &[Type], inputs: &[BufferRef]) -> Result<Vec<HostTensor>> {
    if types.len() != inputs.len() {
        return Err(Error::internal(format!("{} inputs expected, got {}", types.len(), inputs.len())));
    }
    let read = |(ty, buf): (&Type, &BufferRef)| {
        let bytes = buf.host_bytes().ok_or_else(|| Error::device("the interpreter reads host memory only"))?;
        HostTensor::from_bytes(ty.clone(), bytes)
    };
    types.iter().zip(inputs).map(read).collect()
}

struct ProgramExecutable {
    program: Arc<Program>,
    account: Arc<Account>,
}

impl Executable for ProgramExecutable {
    fn program(&self) -> &Program {
        &self.program
    }
    fn code_bytes(&self) -> usize {
        let constant = |b: &BufDecl| if let Place::Const(data) = &b.place { data.len() } else { 0 };
        self.program.buffers.iter().map(constant).sum()
    }
    fn codegen_seconds(&self) -> f64 {
        0.0
    }
    fn listing(&self) -> String {
        "interpreted: no code was generated\n".to_string()
    }

    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        let program = &*self.program;
        let values = read_inputs(&program.inputs, inputs)?;
        let arena = Held::new(&self.account, program.arena_bytes as u64, "the program's arena")?;
        let results = run_program(program, &values)?;
        drop(arena);
        // Buffers shared by several outputs are made once; an input that is an output is the input itself.
        let mut made: Vec<(BufId, BufferRef)> = Vec::new();
        let mut outputs = Outputs::with_capacity(results.len());
        for (&id, value) in program.outputs.iter().zip(&results) {
            let known = made.iter().find(|(m, _)| *m == id).map(|(_, b)| b.clone());
            let place = program.buffers.get(id.0 as usize).map(|b| &b.place);
            let buffer = match (known, place) {
                (Some(buffer), _) => buffer,
                (None, Some(Place::Input(i))) if (*i as usize) < inputs.len() => inputs[*i as usize].clone(),
                _ => {
                    let what = format!("an output of type {}", value.ty);
                    Arc::new(HostBuffer::new(&self.account, &value.to_bytes(), &what)?)
                }
            };
            made.push((id, buffer.clone()));
            outputs.push(buffer);
        }
        for (id, buffer) in made {
            if let Some(Place::Donated(i)) = program.buffers.get(id.0 as usize).map(|b| &b.place)
                && let Some(slot) = inputs.get_mut(*i as usize)
                && Arc::strong_count(slot) == 1
            {
                *slot = buffer;
            }
        }
        Ok(outputs)
    }
}

/// Bytes counted for the duration of a run.
struct Held<'a> {
    account: &'a Account,
    bytes: u64,
}

impl<'a> Held<'a> {
    fn new(account: &'a Account, bytes: u64, what: &str) -> Result<Held<'a>> {
        account.take(bytes, what)?;
        Ok(Held { account, bytes })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}

/// Evaluates a level-1 graph directly.
pub struct GraphExecutable {
    graph: Graph,
    program: Program,
    account: Arc<Account>,
}

impl GraphExecutable {
    fn new(graph: Graph, account: Arc<Account>) -> GraphExecutable {
        // A program without steps carries the types of inputs and outputs.
        let output = |&o: &crate::graph::NodeId| BufDecl { ty: graph.ty(o).clone(), place: Place::Output };
        let buffers: Vec<BufDecl> = graph.outputs().iter().map(output).collect();
        let outputs = (0..buffers.len() as u32).map(BufId).collect();
        let peak_bytes = buffers.iter().fold(0, |a: usize, b| a.saturating_add(b.ty.nbytes()));
        let program = Program { buffers, outputs, inputs: graph.input_types(), peak_bytes, ..Program::default() };
        GraphExecutable { graph, program, account }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
}

impl Executable for GraphExecutable {
    fn program(&self) -> &Program {
        &self.program
    }
    fn code_bytes(&self) -> usize {
        0
    }
    fn codegen_seconds(&self) -> f64 {
        0.0
    }
    fn listing(&self) -> String {
        "interpreted: no code was generated\n".to_string()
    }
    fn run(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        let values = read_inputs(&self.program.inputs, inputs)?;
        let results = eval_graph(&self.graph, &values)?;
        let upload = |t: &HostTensor| -> Result<BufferRef> {
            Ok(Arc::new(HostBuffer::new(&self.account, &t.to_bytes(), &format!("an output of type {}", t.ty))?))
        };
        results.iter().map(upload).collect()
    }
}
