//! Bytes of a file that tensors may be views of: mapped, or read into memory.

use crate::memory::Loan;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io;

/// Read-only bytes, shared by every tensor that lies in them.
pub struct Mapping(Kind);

enum Kind {
    Mapped(Mmap),
    // The memory, and how much of it the bytes are.
    Read(Loan, usize),
}

impl Mapping {
    /// Maps `len` bytes of a file from `offset` on, privately and read-only.
    ///
    /// A file that gets shorter takes its pages with it: touching them then ends the process. So a caller maps only
    /// files that nobody but this user (or root) can change, and reads all others; see [`Mapping::read`].
    pub fn map(file: &File, offset: u64, len: usize) -> io::Result<Mapping> {
        // SAFETY: the mapping is private and read-only, so that nothing is written through it. The bytes could change
        // under a shared reference only if this user or root rewrote the file in place while it is loaded: the
        // exporter never does (it renames a new file over the old one), and others cannot, as the caller has checked.
        // Whatever the bytes, they are only ever numbers: no bool, pointer or length is read from a tensor after
        // validation without being checked again by the kernel that uses it, bools excepted, and packages with some are read.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map_copy_read_only(file)? };
        Ok(Mapping(Kind::Mapped(map)))
    }

    /// The first `len` bytes of memory that is counted.
    pub(crate) fn owned(memory: Loan, len: usize) -> Mapping {
        Mapping(Kind::Read(memory, len))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(map) => map,
            Kind::Read(memory, len) => memory.bytes(*len),
        }
    }

    /// Whether the bytes are a mapping of a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Kind::Mapped(_))
    }
}

/// The user whose rights this process has.
#[cfg(unix)]
pub fn user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
