//! The accounting allocator: every byte of a tensor or of a running program is taken here, against a hard
//! cap. Freed blocks are kept for reuse (fresh pages cost as much as a kernel), as long as they fit under
//! the cap and are no more than what was live at the peak.

use crate::packed::Copies;
use crate::sys::call::Span;
use crate::sys::map::Mapping;
use crate::sys::mem::{ALIGN, Block};
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use torsh_ir::exec::{Buffer, MemoryStats};
use torsh_ir::{Error, Result};

/// So much is kept for reuse whatever the peak was.
const MIN_CACHE: u64 = 64 << 20;

/// Blocks kept for reuse, by size class. The last one given back, which is most likely still in a cache of the
/// processor, is the first one taken.
type Cache = Vec<Vec<Block>>;

#[derive(Default)]
struct State {
    stats: MemoryStats,
    free: Cache,
    /// Bytes of packed operands, which are live, and the buffers that have some (see [`crate::packed`]).
    packed: u64,
    packers: Vec<Weak<Copies>>,
}

impl State {
    /// Takes the cached blocks out. The caller frees them after it has given the lock back: unmapping takes
    /// time that other threads would wait for.
    #[must_use]
    fn take_cache(&mut self) -> Cache {
        self.stats.cached = 0;
        std::mem::take(&mut self.free)
    }
}

/// The allocator. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<State>>);

/// A block on loan from a pool; it returns there.
pub struct Loan {
    block: Option<Block>,
    pool: Pool,
}

/// Sizes up to this one differ by a cache line.
const SMALL: usize = 1024;
/// Number of small classes, the empty one included.
const SMALL_CLASSES: usize = SMALL / ALIGN + 1;
/// Classes of an octave above.
const STEPS: usize = 8;

/// Rounds a size up so that similar sizes share blocks: to a cache line, then to an eighth of an octave. The
/// number of the class, and its size; `None` beyond what can be addressed.
pub(crate) fn size_class(bytes: usize) -> Option<(usize, usize)> {
    if bytes <= SMALL {
        let class = bytes.div_ceil(ALIGN);
        return Some((class, class * ALIGN));
    }
    let octave = bytes.checked_next_power_of_two()?;
    let step = octave / 2 / STEPS;
    let above = (bytes - octave / 2).div_ceil(step);
    let octaves = (octave / 2 / SMALL).trailing_zeros() as usize;
    Some((SMALL_CLASSES + octaves * STEPS + above - 1, octave / 2 + above * step))
}

impl Pool {
    /// A pool with a cap in bytes.
    pub fn new(limit: u64) -> Pool {
        let stats = MemoryStats { limit, ..MemoryStats::default() };
        Pool(Arc::new(Mutex::new(State { stats, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `bytes` bytes. `what` says for whom, in the error.
    pub fn take(&self, bytes: usize, what: &dyn Fn() -> String) -> Result<Loan> {
        match self.try_take(bytes, what) {
            Err(_) if self.give_up_packed() => self.try_take(bytes, what),
            taken => taken,
        }
    }

    /// A block for the packed copy of an operand, if so much memory is spare: copies take a quarter of the limit at
    /// most, and half of it stays for others.
    pub fn take_spare(&self, bytes: usize) -> Option<Loan> {
        let size = size_class(bytes)?.1 as u64;
        let mut state = self.state();
        let MemoryStats { live, limit, .. } = state.stats;
        if live.saturating_add(size) > limit / 2 || state.packed.saturating_add(bytes as u64) > limit / 4 {
            return None;
        }
        state.packed += bytes as u64;
        drop(state);
        let taken = self.try_take(bytes, &|| "a packed operand".to_string());
        if taken.is_err() {
            self.count_packed(-(bytes as i64));
        }
        taken.ok()
    }

    /// Adds bytes of packed operands and takes them off again.
    pub fn count_packed(&self, bytes: i64) {
        let mut state = self.state();
        state.packed = state.packed.saturating_add_signed(bytes);
    }

    /// Remembers who has packed operands, to ask for them when memory runs out.
    pub fn remember_packed(&self, copies: &Arc<Copies>) {
        let mut state = self.state();
        if state.packers.len() == state.packers.capacity() {
            state.packers.retain(|other| other.strong_count() > 0);
        }
        state.packers.push(Arc::downgrade(copies));
    }

    /// Gives up all packed operands; false if there were none.
    fn give_up_packed(&self) -> bool {
        let packers = std::mem::take(&mut self.state().packers);
        let mut some = false;
        let mut kept = Vec::new();
        for copies in packers.iter().filter_map(Weak::upgrade) {
            match copies.give_up() {
                true => some = true,
                // Somebody is at them just now: they are asked again another time.
                false => kept.push(Arc::downgrade(&copies)),
            }
        }
        self.state().packers.append(&mut kept);
        some
    }

    fn try_take(&self, bytes: usize, what: &dyn Fn() -> String) -> Result<Loan> {
        if bytes == 0 {
            return Ok(Loan { block: Block::new(0), pool: self.clone() });
        }
        let (class, size) = size_class(bytes).unwrap_or((usize::MAX, bytes));
        let mut state = self.state();
        let refuse = |stats: &MemoryStats| {
            Error::limit(format!(
                "{} needs {bytes} bytes, but {} of the limit of {} bytes are in use; raise it with torsh.limits or TORSH_MAX_MEMORY",
                what(),
                stats.live,
                stats.limit
            ))
        };
        let live = state.stats.live.checked_add(size as u64).filter(|&live| live <= state.stats.limit);
        let Some(live) = live else { return Err(refuse(&state.stats)) };
        let reused = state.free.get_mut(class).and_then(Vec::pop);
        let mut dropped = Cache::new();
        if reused.is_some() {
            state.stats.cached -= (size as u64).min(state.stats.cached);
        } else if live + state.stats.cached > state.stats.limit {
            dropped = state.take_cache();
        }
        state.stats.live = live;
        state.stats.peak = state.stats.peak.max(live);
        state.stats.allocations += 1;
        drop(state);
        // The bytes are counted; memory comes and goes without the lock.
        drop(dropped);
        let block = reused.or_else(|| Block::new(size)).or_else(|| {
            self.empty_cache();
            Block::new(size)
        });
        if block.is_none() {
            let mut state = self.state();
            state.stats.live = state.stats.live.saturating_sub(size as u64);
            return Err(refuse(&state.stats));
        }
        Ok(Loan { block, pool: self.clone() })
    }

    fn give(&self, block: Block) {
        let mut state = self.state();
        let size = block.len() as u64;
        state.stats.live = state.stats.live.saturating_sub(size);
        let stats = &mut state.stats;
        let room = stats.peak.max(MIN_CACHE).min(stats.limit.saturating_sub(stats.live));
        let class = size_class(block.len()).filter(|_| stats.cached + size <= room);
        if let Some((class, _)) = class {
            stats.cached += size;
            if state.free.len() <= class {
                state.free.resize_with(class + 1, Vec::new);
            }
            state.free[class].push(block);
        } else {
            drop(state);
            drop(block);
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
            drop(dropped);
        }
    }

    /// Returns cached memory to the system, that of packed operands, too.
    pub fn empty_cache(&self) {
        self.give_up_packed();
        let dropped = self.state().take_cache();
        drop(dropped);
    }
}

impl Loan {
    /// All of it, as a span.
    pub fn span(&self) -> Option<Span> {
        self.block.as_ref().and_then(|b| Span::of(b, 0..b.len()))
    }

    /// The first `len` bytes.
    pub fn bytes(&self, len: usize) -> &[u8] {
        self.block.as_ref().map_or(&[], |b| b.bytes(len))
    }

    /// The first `len` bytes, for writing.
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        self.block.as_mut().map_or(&mut [], |b| b.bytes_mut(len))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(block) = self.block.take().filter(|b| b.len() > 0) {
            self.pool.give(block);
        }
    }
}

/// A tensor's memory.
pub struct CpuBuffer {
    home: Home,
    len: usize,
    packed: OnceLock<Arc<Copies>>,
}

enum Home {
    /// Memory of the pool.
    Loan(Loan),
    /// Part of a file, which is read only and not counted.
    File(Arc<Mapping>, Range<usize>),
}

impl CpuBuffer {
    /// A buffer of `len` bytes; what they are is unspecified until written.
    pub fn new(pool: &Pool, len: usize, what: &dyn Fn() -> String) -> Result<CpuBuffer> {
        Ok(CpuBuffer { home: Home::Loan(pool.take(len, what)?), len, packed: OnceLock::new() })
    }

    /// A copy of bytes.
    pub fn copy(pool: &Pool, bytes: &[u8], what: &dyn Fn() -> String) -> Result<CpuBuffer> {
        let mut loan = pool.take(bytes.len(), what)?;
        loan.bytes_mut(bytes.len()).copy_from_slice(bytes);
        Ok(CpuBuffer { home: Home::Loan(loan), len: bytes.len(), packed: OnceLock::new() })
    }

    /// Part of a file, without a copy; `None` outside of it.
    pub(crate) fn file(file: Arc<Mapping>, range: Range<usize>) -> Option<CpuBuffer> {
        let len = file.bytes().get(range.clone())?.len();
        Some(CpuBuffer { home: Home::File(file, range), len, packed: OnceLock::new() })
    }

    /// Its packed copies.
    pub fn packed(&self) -> &Arc<Copies> {
        self.packed.get_or_init(Arc::default)
    }

    /// To be called by a run that will overwrite the buffer.
    pub fn changes(&self) {
        if let Some(copies) = self.packed.get() {
            copies.forget();
        }
    }

    /// The memory, as a span.
    pub fn span(&self) -> Option<Span> {
        match &self.home {
            Home::Loan(loan) => loan.span().and_then(|s| s.slice(0..self.len)),
            Home::File(file, range) => file.bytes().get(range.clone()).map(Span::read_only),
        }
    }

    /// Whether a run that alone holds the buffer may write it.
    pub fn is_writable(&self) -> bool {
        matches!(self.home, Home::Loan(_))
    }
}

impl Buffer for CpuBuffer {
    fn nbytes(&self) -> usize {
        self.len
    }
    fn host_bytes(&self) -> Option<&[u8]> {
        match &self.home {
            Home::Loan(loan) => loan.block.as_ref().map(|b| b.bytes(self.len)),
            Home::File(file, range) => file.bytes().get(range.clone()),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what() -> String {
        "a test".to_string()
    }

    #[test]
    fn classes_waste_little() {
        for bytes in [1usize, 64, 65, 1000, 5000, 1 << 20, (1 << 20) + 1, 100 << 20, (1 << 30) - 3] {
            let (_, size) = size_class(bytes).unwrap();
            assert!(size >= bytes && size.is_multiple_of(ALIGN));
            assert!(size <= bytes + bytes / 7 + ALIGN);
        }
        assert_eq!(size_class(0), Some((0, 0)));
        assert_eq!(size_class(usize::MAX), None);
    }

    #[test]
    fn a_class_has_one_size() {
        let mut last = (0, 0);
        for bytes in (0..70_000).chain((70_000..9_000_000).step_by(977)) {
            let (class, size) = size_class(bytes).unwrap();
            assert_eq!(size_class(size), Some((class, size)), "a block of {bytes} bytes returns to another class");
            assert!(class == last.0 && size == last.1 || class > last.0 && size > last.1);
            assert!(bytes > last.1 || class == last.0, "{bytes} bytes fit the class before");
            last = (class, size);
        }
    }

    #[test]
    fn the_cap_holds_and_names_the_figures() {
        let pool = Pool::new(10_000);
        let first = pool.take(6000, &what).unwrap();
        let e = pool.take(6000, &what).err().unwrap();
        assert_eq!(e.kind(), torsh_ir::ErrorKind::Limit);
        assert!(e.message().contains("6000") && e.message().contains("10000"));
        drop(first);
        assert!(pool.stats().cached > 0);
        // Cached blocks of other sizes give way.
        let other = pool.take(9000, &what).unwrap();
        assert_eq!(pool.stats().cached, 0);
        drop(other);
        assert_eq!(pool.stats().live, 0);
        assert!(pool.stats().peak >= 9000);
        pool.empty_cache();
        assert_eq!(pool.stats().cached, 0);
        assert!(pool.take(usize::MAX, &what).is_err());
    }

    #[test]
    fn blocks_are_reused() {
        let pool = Pool::new(1 << 30);
        let at = pool.take(5 << 20, &what).unwrap().span().unwrap().address();
        let again = pool.take(5 << 20, &what).unwrap().span().unwrap().address();
        assert_eq!(at, again);
    }
}
