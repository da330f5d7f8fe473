//! Raw memory blocks: aligned, initialised, and handed out as bytes only to whoever owns them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every block: a cache line, and the widest vector.
pub const ALIGN: usize = 64;
/// From this size on, blocks are mapped by themselves, aligned to huge pages.
pub const HUGE: usize = 2 << 20;

/// An owned block of memory. Its bytes are initialised from the start (zeroed by the system).
pub struct Block {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a block owns its memory and has no interior aliasing of its own; whoever writes through
// `address` answers for exclusivity (see `call.rs`).
unsafe impl Send for Block {}
// SAFETY: as above; shared access is reading only.
unsafe impl Sync for Block {}

impl Block {
    /// A zeroed block of `len` bytes; `None` when the system has no more memory.
    pub fn new(len: usize) -> Option<Block> {
        if len == 0 {
            return Some(Block { ptr: NonNull::new(ALIGN as *mut u8)?, len });
        }
        #[cfg(unix)]
        if len >= HUGE {
            return map(len);
        }
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Block { ptr, len })
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

/// Maps whole huge pages, aligned, and asks the kernel to back them by huge pages.
#[cfg(unix)]
fn map(len: usize) -> Option<Block> {
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
    NonNull::new(aligned as *mut u8).map(|ptr| Block { ptr, len })
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
    fn absurd_sizes_are_refused() {
        assert!(Block::new(usize::MAX).is_none());
        assert!(Block::new(usize::MAX / 2).is_none());
    }
}
