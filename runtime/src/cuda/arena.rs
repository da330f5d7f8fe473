//! The accounting allocator of a device: as on the CPU ([`crate::memory`]), every byte of a tensor or of a running
//! program is taken here against a hard cap, and freed blocks are kept for reuse.
//!
//! # When a block is used again
//! Work runs behind the caller, so a block that is given back may still be read or written by kernels. A block knows
//! the streams of its last uses ([`Uses`]). Reuse on the same stream needs nothing: the stream runs in order. For
//! another stream, that stream first waits for an event, which large blocks get when they are given back, and small
//! ones, for which that would cost more than it gives, when they are taken. Memory goes back to the driver after the
//! streams of its uses are waited for.

use crate::memory::size_class;
use crate::sys::cuda::driver::{Block, Context, Event, Stream};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use torsh_ir::error::OutOfMemory;
use torsh_ir::exec::{Device, MemoryStats};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// So much is kept for reuse whatever the peak was.
const MIN_CACHE: u64 = 64 << 20;
/// From this size on a block given back is marked by an event at once.
const MARKED: usize = 1 << 20;
/// How many of the largest allocations an error names.
const NAMED: usize = 3;

/// What memory is for, for errors.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// A tensor.
    Tensor(Type),
    /// Something that a program needs.
    Program(&'static str),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Tensor(ty) => write!(f, "a tensor of type {ty}"),
            Purpose::Program(what) => f.write_str(what),
        }
    }
}

/// The streams on which memory was used: the last one that wrote it, and those that read that. Each reader has
/// waited for the writer.
#[derive(Default)]
pub(crate) struct Uses {
    writer: Option<Arc<Stream>>,
    readers: SmallVec<[Arc<Stream>; 1]>,
}

impl Uses {
    /// Memory that `stream` writes.
    pub fn written(stream: &Arc<Stream>) -> Uses {
        Uses { writer: Some(stream.clone()), readers: SmallVec::new() }
    }

    fn is_reader(&self, stream: &Arc<Stream>) -> bool {
        self.readers.iter().any(|s| Arc::ptr_eq(s, stream))
    }

    /// `stream` is about to read.
    pub fn read(&mut self, stream: &Arc<Stream>) -> Result<()> {
        match &self.writer {
            Some(writer) if Arc::ptr_eq(writer, stream) => return Ok(()),
            _ if self.is_reader(stream) => return Ok(()),
            Some(writer) => stream.wait_for(writer)?,
            None => {}
        }
        self.readers.push(stream.clone());
        Ok(())
    }

    /// `stream` is about to write.
    pub fn write(&mut self, stream: &Arc<Stream>) -> Result<()> {
        for other in self.last().iter().filter(|s| !Arc::ptr_eq(s, stream)) {
            stream.wait_for(other)?;
        }
        *self = Uses::written(stream);
        Ok(())
    }

    /// The streams whose work so far covers every use. The writer's own later reads are not listed, so it counts.
    pub fn last(&self) -> SmallVec<[Arc<Stream>; 2]> {
        self.writer.iter().chain(&self.readers).cloned().collect()
    }
}

/// A block that waits for its next use.
struct Idle {
    block: Block,
    /// The streams of its last uses, with the moment of the last one where that was marked.
    marks: SmallVec<[(Arc<Stream>, Option<Event>); 1]>,
}

impl Idle {
    fn is_ready_on(&self, stream: &Arc<Stream>) -> bool {
        self.marks.iter().all(|(s, _)| Arc::ptr_eq(s, stream))
    }

    /// Makes `stream` wait for the last uses.
    fn ready(&self, stream: &Arc<Stream>) -> Result<()> {
        for (other, event) in self.marks.iter().filter(|(s, _)| !Arc::ptr_eq(s, stream)) {
            match event {
                Some(event) => stream.wait(event)?,
                None => stream.wait_for(other)?,
            }
        }
        Ok(())
    }
}

type Cache = Vec<Vec<Idle>>;

#[derive(Default)]
struct State {
    stats: MemoryStats,
    free: Cache,
    /// What is live, by address.
    live: HashMap<u64, (u64, Purpose)>,
}

/// The allocator. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Arena(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    device: Device,
    state: Mutex<State>,
}

/// A block on loan; it returns to its arena.
pub(crate) struct Loan {
    block: Option<Block>,
    uses: Mutex<Uses>,
    arena: Arena,
}

impl Arena {
    /// An arena with a cap in bytes.
    pub fn new(context: &Arc<Context>, device: Device, limit: u64) -> Arena {
        let stats = MemoryStats { limit, ..MemoryStats::default() };
        let state = Mutex::new(State { stats, ..State::default() });
        Arena(Arc::new(Inner { context: context.clone(), device, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `bytes` bytes, which `stream` may write.
    pub fn take(&self, bytes: usize, stream: &Arc<Stream>, purpose: &Purpose) -> Result<Loan> {
        if bytes == 0 {
            return Ok(Loan { block: None, uses: Mutex::default(), arena: self.clone() });
        }
        let (class, size) = size_class(bytes).unwrap_or((usize::MAX, bytes));
        let mut state = self.state();
        let live = state.stats.live.checked_add(size as u64).filter(|&live| live <= state.stats.limit);
        let Some(live) = live else {
            let why = format!("{} of the limit of {} bytes are in use", state.stats.live, state.stats.limit);
            return Err(state.refuse(self.0.device, bytes, purpose, &why, true));
        };
        let reused = state.free.get_mut(class).and_then(|list| {
            // The last one that needs no waiting, else the one that was given back first.
            let at = list.iter().rposition(|idle| idle.is_ready_on(stream)).or((!list.is_empty()).then_some(0));
            at.map(|at| list.remove(at))
        });
        let mut dropped = Cache::new();
        if reused.is_some() {
            state.stats.cached = state.stats.cached.saturating_sub(size as u64);
        } else if live.saturating_add(state.stats.cached) > state.stats.limit {
            dropped = state.take_cache();
        }
        state.stats.live = live;
        state.stats.peak = state.stats.peak.max(live);
        state.stats.allocations += 1;
        drop(state);
        // The bytes are counted; the driver is asked without the lock.
        let found = release(dropped).and_then(|()| self.obtain(reused, size, stream));
        let mut state = self.state();
        match found {
            Ok(Some(block)) => {
                state.live.insert(block.address(), (size as u64, purpose.clone()));
                Ok(Loan { block: Some(block), uses: Mutex::new(Uses::written(stream)), arena: self.clone() })
            }
            Ok(None) => {
                state.stats.live = state.stats.live.saturating_sub(size as u64);
                let why = format!("the device has no room for it; {} bytes are in use here", state.stats.live);
                Err(state.refuse(self.0.device, bytes, purpose, &why, false))
            }
            Err(e) => {
                state.stats.live = state.stats.live.saturating_sub(size as u64);
                Err(e)
            }
        }
    }

    fn obtain(&self, reused: Option<Idle>, size: usize, stream: &Arc<Stream>) -> Result<Option<Block>> {
        if let Some(idle) = reused {
            // On error the block is freed: who else uses it has been waited for, or the context is lost.
            if let Err(e) = idle.ready(stream) {
                release(vec![vec![idle]])?;
                return Err(e);
            }
            return Ok(Some(idle.block));
        }
        if let Some(block) = Block::new(&self.0.context, size)? {
            return Ok(Some(block));
        }
        self.empty_cache()?;
        Block::new(&self.0.context, size)
    }

    fn give(&self, block: Block, uses: &Uses) {
        let large = block.len() >= MARKED;
        let last = uses.last();
        let several = last.len() > 1;
        let marks = last.into_iter().map(|stream| {
            // Without an event the next user waits for more than it must; that is never wrong.
            let event = (large || several).then(|| {
                let event = Event::new(stream.context(), false, false)?;
                stream.record(&event).map(|()| event)
            });
            (stream, event.and_then(Result::ok))
        });
        let idle = Idle { marks: marks.collect(), block };
        let mut state = self.state();
        let size = idle.block.len() as u64;
        state.live.remove(&idle.block.address());
        let stats = &mut state.stats;
        stats.live = stats.live.saturating_sub(size);
        let room = stats.peak.max(MIN_CACHE).min(stats.limit.saturating_sub(stats.live));
        let keep = stats.cached.saturating_add(size) <= room && !self.0.context.is_poisoned();
        match size_class(idle.block.len()).filter(|_| keep) {
            Some((class, _)) => {
                stats.cached += size;
                if state.free.len() <= class {
                    state.free.resize_with(class + 1, Vec::new);
                }
                state.free[class].push(idle);
            }
            None => {
                drop(state);
                self.keep_error(release(vec![vec![idle]]));
            }
        }
    }

    /// For places that return nothing: the next `check` of the context reports it.
    fn keep_error(&self, result: Result<()>) {
        if let Err(e) = result {
            self.0.context.keep(&e);
        }
    }

    /// The figures.
    pub fn stats(&self) -> MemoryStats {
        self.state().stats
    }

    /// Adds machine code and takes it off again.
    pub fn count_code(&self, bytes: i64) {
        let mut state = self.state();
        state.stats.code = state.stats.code.saturating_add_signed(bytes);
    }

    /// Sets `peak` to `live`.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.stats.peak = state.stats.live;
    }

    /// Sets the cap; cached memory beyond it is returned.
    pub fn set_limit(&self, bytes: u64) {
        let mut state = self.state();
        state.stats.limit = bytes;
        if state.stats.live.saturating_add(state.stats.cached) > bytes {
            let dropped = state.take_cache();
            drop(state);
            self.keep_error(release(dropped));
        }
    }

    /// Returns cached memory to the driver.
    pub fn empty_cache(&self) -> Result<()> {
        let dropped = self.state().take_cache();
        release(dropped)
    }
}

impl State {
    #[must_use]
    fn take_cache(&mut self) -> Cache {
        self.stats.cached = 0;
        std::mem::take(&mut self.free)
    }

    fn refuse(&self, device: Device, bytes: usize, purpose: &Purpose, why: &str, capped: bool) -> Error {
        let mut live: Vec<&(u64, Purpose)> = self.live.values().collect();
        live.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        let largest: Vec<(String, u64)> = live.iter().take(NAMED).map(|(n, what)| (what.to_string(), *n)).collect();
        let named: Vec<String> = largest.iter().map(|(what, size)| format!("{what} ({size} bytes)")).collect();
        let figures =
            OutOfMemory { device, requested: bytes as u64, in_use: self.stats.live, limit: self.stats.limit, largest };
        let named = if named.is_empty() { String::new() } else { format!("; the largest: {}", named.join(", ")) };
        let way =
            if capped { "; raise it with torsh.cuda.set_per_process_memory_fraction or TORSH_MAX_MEMORY" } else { "" };
        let text = format!("CUDA out of memory on {device}: {purpose} needs {bytes} bytes, but {why}{named}{way}");
        Error::out_of_memory(text, figures)
    }
}

/// Frees blocks, after the work on them is done.
fn release(blocks: Cache) -> Result<()> {
    // By the stream itself: the default streams of two devices have the same handle.
    let mut waited: Vec<*const Stream> = Vec::new();
    let mut first = Ok(());
    for (stream, _) in blocks.iter().flatten().flat_map(|idle| &idle.marks) {
        if !waited.contains(&Arc::as_ptr(stream)) {
            waited.push(Arc::as_ptr(stream));
            first = first.and(stream.synchronize());
        }
    }
    drop(blocks);
    first
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = release(state.take_cache()) {
            self.context.keep(&e);
        }
    }
}

impl Loan {
    /// The block; `None` for no bytes.
    pub fn block(&self) -> Option<&Block> {
        self.block.as_ref()
    }

    /// Its address; that of no bytes is 0.
    pub fn address(&self) -> u64 {
        self.block.as_ref().map_or(0, Block::address)
    }

    /// Its uses, to note another.
    pub fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
            self.arena.give(block, uses);
        }
    }
}
