//! The memory of one run: which bytes every buffer of a program stands for, and which of them the caller gets.
//!
//! All memory is taken before the first step, so that a run cannot fail for want of it halfway. What does not
//! depend on the run is settled when the program is loaded; a run of a small program then touches no heap but for
//! its outputs.
//!
//! A donated input is overwritten in place if nobody else holds it and no step after its first write can fail; otherwise a
//! copy is written. A failed run has changed no input.

use crate::executable::is_safe;
use crate::memory::{CpuBuffer, Loan, Pool};
use crate::sys::call::Span;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Outputs};
use torsh_ir::program::{BufId, Place, Program};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// Memory of inputs or buffers, in order. Programs of an expression or two have so few that they need no heap.
pub(crate) type Spans = SmallVec<[Span; 8]>;
/// Per input: whether the run overwrites it; empty when the program overwrites none.
pub(crate) type InPlace = SmallVec<[bool; 16]>;

/// Where the memory of a buffer comes from.
enum Home {
    Input(usize),
    /// Made for the run, with its place among what is made.
    Fresh(usize),
    /// A donated input's own memory, or a copy at this place among what is made.
    Donated(usize, usize),
    Arena(Range<usize>),
    Const(Arc<CpuBuffer>),
}

/// Where an output comes from; `last`: no later output is the same buffer.
struct Taken {
    buffer: usize,
    last: bool,
}

/// The part of binding that is the same for every run.
pub(crate) struct Binding {
    homes: Vec<Home>,
    /// Bytes of each input.
    inputs: Vec<usize>,
    /// What is made for each run: the buffer, and its size.
    fresh: Vec<(usize, usize)>,
    outputs: Vec<Taken>,
    arena_bytes: usize,
    /// Per input: the first step that overwrites it, if donated; empty when no step does.
    first_write: Vec<Option<usize>>,
    /// The last step that can fail.
    last_fallible: Option<usize>,
}

/// The memory of a run.
#[derive(Default)]
pub(crate) struct Memory {
    /// Of every buffer.
    pub spans: Spans,
    in_place: InPlace,
    made: SmallVec<[Option<Arc<CpuBuffer>>; 4]>,
    /// Copies of inputs that belong to other executors, held for their memory.
    copies: Vec<CpuBuffer>,
}

impl Binding {
    /// Settles what can be. `constants` has the constants by buffer.
    pub fn new(
        program: &Program,
        constants: &[Option<Arc<CpuBuffer>>],
        first_write: Vec<Option<usize>>,
        last_fallible: Option<usize>,
    ) -> Result<Binding> {
        let mut fresh = Vec::new();
        let mut homes = Vec::with_capacity(program.buffers.len());
        for (i, buf) in program.buffers.iter().enumerate() {
            let bytes = buf.ty.nbytes();
            let lost = || Error::internal(format!("buffer b{i} has no memory"));
            let mut new = || {
                fresh.push((i, bytes));
                fresh.len() - 1
            };
            homes.push(match &buf.place {
                Place::Input(n) => Home::Input(*n as usize),
                Place::Output => Home::Fresh(new()),
                Place::Donated(n) => Home::Donated(*n as usize, new()),
                Place::Arena { offset } => {
                    let end = offset.checked_add(bytes).filter(|&end| end <= program.arena_bytes);
                    Home::Arena(*offset..end.ok_or_else(lost)?)
                }
                Place::Const(_) => Home::Const(constants.get(i).cloned().flatten().ok_or_else(lost)?),
            });
        }
        let last = |at: usize, id: &BufId| !program.outputs[at + 1..].contains(id);
        let outputs = program.outputs.iter().enumerate();
        Ok(Binding {
            homes,
            inputs: program.inputs.iter().map(Type::nbytes).collect(),
            fresh,
            outputs: outputs.map(|(at, id)| Taken { buffer: id.0 as usize, last: last(at, id) }).collect(),
            arena_bytes: program.arena_bytes,
            first_write,
            last_fallible,
        })
    }

    /// The first step that overwrites an input of this run.
    pub fn overwritten(&self, memory: &Memory) -> Option<usize> {
        self.first_write.iter().zip(&memory.in_place).filter_map(|(&first, &taken)| first.filter(|_| taken)).min()
    }

    /// Finds the memory of every buffer, and takes what is new from the pool. `workspace` has the arena in front.
    pub fn bind(
        &self,
        program: &Program,
        pool: &Pool,
        inputs: &mut [BufferRef],
        workspace: Option<&Loan>,
        memory: &mut Memory,
    ) -> Result<()> {
        let mut held = Spans::new();
        self.hold(program, pool, inputs, &mut held, &mut memory.copies)?;
        for (first, buffer) in self.first_write.iter().zip(inputs) {
            let safe = first.is_some_and(|first| is_safe(first, self.last_fallible));
            let taken = safe && is_writable(buffer) && Arc::get_mut(buffer).is_some();
            if let (true, Some(own)) = (taken, buffer.as_any().downcast_ref::<CpuBuffer>()) {
                own.changes();
            }
            memory.in_place.push(taken);
        }
        self.make(program, pool, &held, memory)?;
        let arena = workspace.and_then(Loan::span).unwrap_or_default();
        memory.spans.reserve(self.homes.len());
        for (i, home) in self.homes.iter().enumerate() {
            let made = |slot: &usize| memory.made.get(*slot).and_then(|b| b.as_ref()?.span());
            let found = match home {
                Home::Input(n) => held.get(*n).copied(),
                Home::Donated(n, _) if is_taken(&memory.in_place, *n) => held.get(*n).copied(),
                Home::Fresh(slot) | Home::Donated(_, slot) => made(slot),
                Home::Arena(range) => arena.slice(range.clone()),
                Home::Const(buffer) => buffer.span(),
            };
            memory.spans.push(found.ok_or_else(|| Error::internal(format!("buffer b{i} has no memory")))?);
        }
        Ok(())
    }

    /// A constant, or an input that this run leaves as it is.
    pub fn unchanged<'a>(&'a self, id: BufId, inputs: &'a [BufferRef], memory: &Memory) -> Option<&'a CpuBuffer> {
        match self.homes.get(id.0 as usize)? {
            Home::Input(n) if !is_taken(&memory.in_place, *n) => inputs.get(*n)?.as_any().downcast_ref(),
            Home::Const(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Bytes of the arena, rounded so that what follows it is aligned; `None` when there is no such number.
    pub fn arena_end(&self) -> Option<usize> {
        self.arena_bytes.checked_next_multiple_of(crate::sys::mem::ALIGN)
    }

    // The memory of every input, checked; buffers of other executors are copied.
    fn hold(
        &self,
        program: &Program,
        pool: &Pool,
        inputs: &[BufferRef],
        held: &mut Spans,
        copies: &mut Vec<CpuBuffer>,
    ) -> Result<()> {
        if self.inputs.len() != inputs.len() {
            return Err(Error::internal(format!("{} inputs expected, got {}", self.inputs.len(), inputs.len())));
        }
        held.reserve(inputs.len());
        for (i, (buffer, &bytes)) in inputs.iter().zip(&self.inputs).enumerate() {
            let span = match buffer.as_any().downcast_ref::<CpuBuffer>() {
                Some(own) => own.span(),
                None => {
                    let from = buffer.host_bytes().ok_or_else(|| Error::device("the CPU reads host memory only"))?;
                    let what = || format!("a copy of an input of type {}", program.inputs[i]);
                    copies.push(CpuBuffer::copy(pool, from, &what)?);
                    copies.last().and_then(CpuBuffer::span)
                }
            };
            let span = span.ok_or_else(|| Error::internal("an input without memory"))?;
            if span.len() != bytes {
                let (ty, got) = (&program.inputs[i], span.len());
                return Err(Error::internal(format!("input {i} of type {ty} takes {bytes} bytes, got {got}")));
            }
            held.push(span);
        }
        Ok(())
    }

    // Outputs, and copies of donated inputs that must not be overwritten.
    fn make(&self, program: &Program, pool: &Pool, held: &[Span], memory: &mut Memory) -> Result<()> {
        memory.made.reserve(self.fresh.len());
        let mut copies: Vec<(usize, Arc<CpuBuffer>)> = Vec::new();
        for &(id, bytes) in &self.fresh {
            let new = || {
                let what = || format!("an output of type {}", program.buffers[id].ty);
                CpuBuffer::new(pool, bytes, &what).map(Arc::new)
            };
            let Home::Donated(input, _) = self.homes[id] else {
                memory.made.push(Some(new()?));
                continue;
            };
            if is_taken(&memory.in_place, input) {
                memory.made.push(None);
                continue;
            }
            if let Some((_, copy)) = copies.iter().find(|(i, _)| *i == input) {
                memory.made.push(Some(copy.clone()));
                continue;
            }
            let copy = new()?;
            if !copy.span().zip(held.get(input)).is_some_and(|(to, from)| to.copy_from(from)) {
                return Err(Error::internal("a donated input of another size"));
            }
            copies.push((input, copy.clone()));
            memory.made.push(Some(copy));
        }
        Ok(())
    }

    /// What the caller gets.
    pub fn outputs(&self, inputs: &[BufferRef], memory: &mut Memory) -> Result<Outputs> {
        let mut outputs = Outputs::new();
        outputs.reserve(self.outputs.len());
        for &Taken { buffer: id, last } in &self.outputs {
            let found: Option<BufferRef> = match &self.homes[id] {
                Home::Input(n) => inputs.get(*n).cloned(),
                Home::Donated(n, _) if is_taken(&memory.in_place, *n) => inputs.get(*n).cloned(),
                Home::Fresh(slot) | Home::Donated(_, slot) => {
                    let made = memory.made.get_mut(*slot);
                    let made = made.and_then(|made| if last { made.take() } else { made.clone() });
                    made.map(|b| b as BufferRef)
                }
                Home::Const(buffer) => Some(buffer.clone()),
                Home::Arena(_) => None,
            };
            outputs.push(found.ok_or_else(|| Error::internal(format!("output b{id} has no memory")))?);
        }
        Ok(outputs)
    }
}

/// Whether the buffer is memory of ours that may be written: parts of files are not.
fn is_writable(buffer: &BufferRef) -> bool {
    buffer.as_any().downcast_ref::<CpuBuffer>().is_some_and(CpuBuffer::is_writable)
}

fn is_taken(in_place: &[bool], input: usize) -> bool {
    in_place.get(input).copied().unwrap_or(false)
}
