//! Raw memory blocks: aligned, initialised, and handed out as bytes only to whoever owns them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::{Mutex, PoisonError, Weak};

/// Alignment of every block: a cache line, and the widest vector.
pub const ALIGN: usize = 64;
/// From this size on, blocks are mapped by themselves, aligned to huge pages.
pub const HUGE: usize = 2 << 20;

/// From this size on, blocks are cut from slabs.
#[cfg(target_os = "linux")]
const MIDDLE: usize = 64 << 10;
/// Blocks of middle size come from the heap until there were so many bytes of them, so that small programs need no huge page.
#[cfg(target_os = "linux")]
const BEFORE_SLABS: usize = 1 << 20;
/// Size of a slab; only those of its pages are there that have been used.
#[cfg(target_os = "linux")]
const SLAB: usize = 4 * HUGE;
/// Blocks of a slab begin at multiples of this.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// An owned block of memory. Its bytes are initialised from the start (zeroed by the system).
pub struct Block {
    ptr: NonNull<u8>,
    len: usize,
    // What it is a part of.
    slab: Option<Arc<Slab>>,
}

/// Huge pages from which blocks of middle size are cut, one behind the other, each place once: to get a huge page takes a
/// fraction of the time that as many small ones take. It is unmapped when its last block goes.
struct Slab(NonNull<u8>);

// SAFETY: a slab is never read or written through this pointer, only unmapped; its blocks are disjoint.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

// SAFETY: a block owns its memory and has no interior aliasing of its own; whoever writes through
// `address` answers for exclusivity (see `call.rs`).
unsafe impl Send for Block {}
// SAFETY: as above; shared access is reading only.
unsafe impl Sync for Block {}

impl Block {
    /// A zeroed block of `len` bytes; `None` when the system has no more memory.
    pub fn new(len: usize) -> Option<Block> {
        if len == 0 {
            return Some(Block { ptr: NonNull::new(ALIGN as *mut u8)?, len, slab: None });
        }
        #[cfg(unix)]
        if len >= HUGE {
            return map(len).map(|ptr| Block { ptr, len, slab: None });
        }
        #[cfg(target_os = "linux")]
        if len >= MIDDLE
            && let Some(block) = cut(len)
        {
            return Some(block);
        }
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Block { ptr, len, slab: None })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The first `len` bytes. The caller's type system sees to it that nobody writes meanwhile: a block is
    /// written only while one run owns it (see `ir::exec::BufferRef`).
    pub fn bytes(&self, len: usize) -> &[u8] {
        let len = len.min(self.len);
        // SAFETY: the block holds `self.len` initialised bytes for as long as it lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), len) }
    }

    /// The first `len` bytes, for writing.
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(self.len);
        // SAFETY: as in `bytes`, and the block is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        #[cfg(target_os = "linux")]
        if let Some(slab) = self.slab.take() {
            if Arc::strong_count(&slab) > 1 {
                // Others keep the slab: what was this block's goes back to the system without it.
                // SAFETY: the pages are this block's alone, which is gone, and they are never handed out again.
                unsafe {
                    libc::madvise(self.ptr.as_ptr().cast(), self.len.next_multiple_of(PAGE), libc::MADV_DONTNEED);
                }
            }
            return;
        }
        #[cfg(unix)]
        if self.len >= HUGE {
            // SAFETY: `map` mapped exactly these pages for this block.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), mapped_len(self.len)) };
            return;
        }
        if let Ok(layout) = Layout::from_size_align(self.len, ALIGN) {
            // SAFETY: `new` allocated it with the same layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

#[cfg(unix)]
fn mapped_len(len: usize) -> usize {
    len.next_multiple_of(HUGE)
}

impl Drop for Slab {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        // SAFETY: `cut` mapped exactly these pages for this slab, whose blocks are gone.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), SLAB)
        };
    }
}

/// The slab that blocks are cut from, which they alone hold; how much of it is taken; bytes that came from the heap.
#[cfg(target_os = "linux")]
static SLABS: Mutex<(Weak<Slab>, usize, usize)> = Mutex::new((Weak::new(), 0, 0));

/// A block of a slab; `None` where the heap will do.
#[cfg(target_os = "linux")]
fn cut(len: usize) -> Option<Block> {
    let size = len.next_multiple_of(PAGE);
    let mut slabs = SLABS.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, taken, from_heap) = &mut *slabs;
    if *from_heap + size <= BEFORE_SLABS {
        *from_heap += size;
        return None;
    }
    let slab = match last.upgrade().filter(|_| *taken + size <= SLAB) {
        Some(slab) => slab,
        None => {
            let slab = Arc::new(Slab(map(SLAB)?));
            (*last, *taken) = (Arc::downgrade(&slab), 0);
            slab
        }
    };
    let ptr = NonNull::new(slab.0.as_ptr().wrapping_add(*taken))?;
    *taken += size;
    Some(Block { ptr, len, slab: Some(slab) })
}

/// Maps whole huge pages, aligned, and asks the kernel to back them by huge pages.
#[cfg(unix)]
fn map(len: usize) -> Option<NonNull<u8>> {
    let wanted = len.checked_next_multiple_of(HUGE)?;
    let total = wanted.checked_add(HUGE)?;
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing of ours.
    let raw = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            total,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if raw == libc::MAP_FAILED {
        return None;
    }
    let start = raw as usize;
    let aligned = start.next_multiple_of(HUGE);
    let (head, tail) = (aligned - start, start + total - (aligned + wanted));
    // SAFETY: head and tail are page-aligned parts of the mapping just made, outside of what we keep.
    unsafe {
        if head > 0 {
            libc::munmap(raw, head);
        }
        if tail > 0 {
            libc::munmap((aligned + wanted) as *mut libc::c_void, tail);
        }
        #[cfg(target_os = "linux")]
        libc::madvise(aligned as *mut libc::c_void, wanted, libc::MADV_HUGEPAGE);
    }
    NonNull::new(aligned as *mut u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zeroed_and_freed() {
        for len in [0, 1, 63, 4096, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut block = Block::new(len).unwrap();
            assert_eq!(block.address() as usize % ALIGN, 0);
            assert_eq!(block.bytes(len).len(), len);
            assert!(block.bytes(len).iter().all(|&b| b == 0));
            block.bytes_mut(len).fill(1);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn blocks_of_a_slab_are_apart_and_go_back() {
        let make = |len: usize, byte: u8| {
            let mut block = Block::new(len).unwrap();
            assert!(block.bytes(len).iter().all(|&b| b == 0));
            block.bytes_mut(len).fill(byte);
            block
        };
        let _from_heap: Vec<Block> = (0..=BEFORE_SLABS / MIDDLE).map(|_| make(MIDDLE, 1)).collect();
        let mut held: Vec<(u8, Block)> = (2..40).map(|i| (i, make(MIDDLE + 1000 * usize::from(i), i))).collect();
        assert!(held.iter().all(|(_, block)| block.slab.is_some()));
        // Every other one goes; its neighbours keep what they have, and new blocks are zeroed.
        held.retain(|(i, _)| i % 2 == 0);
        held.extend((100..110).map(|i| (i, make(HUGE - 1, i))));
        for (i, block) in &held {
            assert!(block.bytes(block.len()).iter().all(|b| b == i));
        }
        drop(held);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Block::new(usize::MAX).is_none());
        assert!(Block::new(usize::MAX / 2).is_none());
    }
}
