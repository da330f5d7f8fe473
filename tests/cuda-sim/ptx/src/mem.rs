//! Global memory: allocations that are exact to the byte, with free space between them, poisoned, and with a record
//! of the bytes that were written. Addresses are never used twice, so that a stale pointer is always recognised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::error::{Fault, FaultKind};

/// The first address that is handed out.
const FIRST: u64 = 0x7_0000_0000;
/// Alignment of allocations, as the driver promises it.
const ALIGN: u64 = 512;
/// Free bytes behind every allocation, at least.
const RED: u64 = 4096;
/// What unwritten memory holds: not a number as a float of any width, minus one as an integer.
pub(crate) const POISON: u8 = 0xff;

/// One allocation. Words are atomic so that blocks may run on several threads.
#[derive(Debug)]
pub(crate) struct Alloc {
    pub base: u64,
    pub len: u64,
    words: Vec<AtomicU32>,
    /// One bit for each byte of a word: written or not.
    init: Vec<AtomicU8>,
    pub read_only: bool,
    /// The module variable that this is, if it is one.
    pub name: String,
}

impl Alloc {
    fn new(base: u64, len: u64, name: &str, read_only: bool) -> Alloc {
        let n = len.div_ceil(4) as usize;
        let poison = u32::from_ne_bytes([POISON; 4]);
        Alloc {
            base,
            len,
            words: (0..n).map(|_| AtomicU32::new(poison)).collect(),
            init: (0..n).map(|_| AtomicU8::new(0)).collect(),
            read_only,
            name: name.to_string(),
        }
    }

    /// Copies bytes out; the range is inside the allocation.
    pub fn read(&self, addr: u64, out: &mut [u8]) {
        let mut at = (addr - self.base) as usize;
        if at.is_multiple_of(4) && out.len().is_multiple_of(4) {
            for (chunk, w) in out.chunks_exact_mut(4).zip(&self.words[at / 4..]) {
                chunk.copy_from_slice(&w.load(Relaxed).to_le_bytes());
            }
            return;
        }
        for b in out {
            *b = self.words[at / 4].load(Relaxed).to_le_bytes()[at % 4];
            at += 1;
        }
    }

    /// Copies bytes in and marks them written.
    pub fn write(&self, addr: u64, data: &[u8]) {
        let mut at = (addr - self.base) as usize;
        if at.is_multiple_of(4) && data.len().is_multiple_of(4) {
            for chunk in data.chunks_exact(4) {
                self.words[at / 4].store(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]), Relaxed);
                self.init[at / 4].store(15, Relaxed);
                at += 4;
            }
            return;
        }
        for &b in data {
            let shift = at % 4 * 8;
            let put = |w: u32| Some((w & !(0xff << shift)) | u32::from(b) << shift);
            // The closure always gives a value, so the update cannot fail.
            let _ = self.words[at / 4].fetch_update(Relaxed, Relaxed, put);
            self.init[at / 4].fetch_or(1 << (at % 4), Relaxed);
            at += 1;
        }
    }

    /// The first byte of the range that was never written.
    pub fn unwritten(&self, addr: u64, bytes: u64) -> Option<u64> {
        let start = addr - self.base;
        if start.is_multiple_of(4) && bytes.is_multiple_of(4) {
            let words = &self.init[(start / 4) as usize..((start + bytes) / 4) as usize];
            if words.iter().all(|w| w.load(Relaxed) == 15) {
                return None;
            }
        }
        (start..start + bytes)
            .find(|at| self.init[(at / 4) as usize].load(Relaxed) >> (at % 4) & 1 == 0)
            .map(|at| self.base + at)
    }

    fn forget(&self, addr: u64, bytes: u64) {
        for at in addr - self.base..addr - self.base + bytes {
            self.init[(at / 4) as usize].fetch_and(!(1 << (at % 4)), Relaxed);
        }
    }
}

/// All of global memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    live: BTreeMap<u64, Arc<Alloc>>,
    /// Freed ranges: base to length.
    freed: BTreeMap<u64, u64>,
    next: u64,
    pub live_bytes: u64,
    pub peak_bytes: u64,
}

impl Memory {
    /// Memory whose addresses begin at `first`, or where they begin without it, if that is later.
    pub fn beginning_at(first: u64) -> Memory {
        Memory { next: first.max(FIRST), ..Memory::default() }
    }

    pub fn alloc(&mut self, len: u64, name: &str, read_only: bool) -> u64 {
        let base = if self.next == 0 { FIRST } else { self.next };
        self.next = (base + len + RED).next_multiple_of(ALIGN);
        self.live.insert(base, Arc::new(Alloc::new(base, len, name, read_only)));
        self.live_bytes += len;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        base
    }

    pub fn free(&mut self, base: u64) -> Result<u64, Box<Fault>> {
        let Some(a) = self.live.remove(&base) else {
            let (kind, text) = self.describe(base, 1);
            return Err(Fault::at(kind, base, format!("free of an address that is no allocation: {text}")));
        };
        self.live_bytes -= a.len;
        self.freed.insert(base, a.len);
        Ok(a.len)
    }

    pub fn live(&self) -> impl Iterator<Item = &Arc<Alloc>> {
        self.live.values()
    }

    /// The allocation that holds the whole range.
    pub fn find(&self, addr: u64, bytes: u64) -> Result<&Arc<Alloc>, Box<Fault>> {
        let hit = self.live.range(..=addr).next_back().map(|(_, a)| a);
        match hit {
            Some(a) if addr - a.base <= a.len && bytes <= a.len - (addr - a.base) => Ok(a),
            _ => {
                let (kind, text) = self.describe(addr, bytes);
                Err(Fault::at(kind, addr, text))
            }
        }
    }

    /// Why a range is not valid.
    pub fn describe(&self, addr: u64, bytes: u64) -> (FaultKind, String) {
        if addr == 0 {
            return (FaultKind::OutOfBounds, format!("{bytes} bytes at the null address"));
        }
        if let Some((base, len)) = self.freed.range(..=addr).next_back()
            && addr - base < *len
        {
            let at = addr - base;
            return (
                FaultKind::UseAfterFree,
                format!("{bytes} bytes at offset {at} of the allocation of {len} bytes at {base:#x}, which was freed"),
            );
        }
        let mut text = format!("{bytes} bytes at an address that belongs to no allocation");
        if let Some(a) = self.live.range(..=addr).next_back().map(|(_, a)| a) {
            let name = if a.name.is_empty() { String::new() } else { format!(" ({})", a.name) };
            let at = addr - a.base;
            text = format!("{bytes} bytes at offset {at} of the allocation of {} bytes at {:#x}{name}", a.len, a.base);
        }
        if let Some(a) = self.live.range(addr..).next().map(|(_, a)| a)
            && a.base - addr < RED
        {
            text += &format!("; {} bytes before the allocation at {:#x}", a.base - addr, a.base);
        }
        (FaultKind::OutOfBounds, text)
    }

    /// Copies between allocations; bytes that were never written stay so.
    pub fn copy(&self, dst: u64, src: u64, bytes: u64) -> Result<(), Box<Fault>> {
        let (d, s) = (self.find(dst, bytes)?, self.find(src, bytes)?);
        let mut data = vec![0; bytes as usize];
        s.read(src, &mut data);
        let unwritten: Vec<bool> = if s.unwritten(src, bytes).is_some() {
            (0..bytes).map(|k| s.unwritten(src + k, 1).is_some()).collect()
        } else {
            Vec::new()
        };
        d.write(dst, &data);
        for (k, _) in unwritten.iter().enumerate().filter(|(_, u)| **u) {
            d.forget(dst + k as u64, 1);
        }
        Ok(())
    }
}

/// The allocations as they are when a kernel starts, for fast look-up.
pub(crate) struct Snapshot {
    allocs: Vec<Arc<Alloc>>,
}

impl Snapshot {
    pub fn new(m: &Memory) -> Snapshot {
        Snapshot { allocs: m.live().cloned().collect() }
    }

    /// The allocation that holds the whole range. `hint` remembers the last one.
    pub fn find(&self, addr: u64, bytes: u64, hint: &mut usize) -> Option<&Alloc> {
        let holds = |a: &Alloc| addr >= a.base && addr - a.base <= a.len && bytes <= a.len - (addr - a.base);
        if let Some(a) = self.allocs.get(*hint)
            && holds(a)
        {
            return Some(a);
        }
        let i = self.allocs.partition_point(|a| a.base <= addr).checked_sub(1)?;
        *hint = i;
        Some(&*self.allocs[i]).filter(|a| holds(a))
    }
}
