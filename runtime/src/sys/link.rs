//! Machine code from a file, placed in memory: laid down in pages that are writable, given the addresses that it wants,
//! and executable only afterwards, never both.
//!
//! There is one kind of reference: a whole address of 8 bytes, of a primitive by its name or of a function of the same
//! piece. Every offset is checked where it is used, whatever a reader has checked before.

use super::jit::Symbols;
use memmap2::{Mmap, MmapMut};
use torsh_codegen::cpu::PIECE_ALIGN;
use torsh_ir::{Error, Result};

/// What lies between pieces: a breakpoint on x86.
const BETWEEN: u8 = 0xcc;

/// Code of a kernel, and where it wants addresses.
pub struct Source<'c> {
    /// Its bytes.
    pub code: &'c [u8],
    /// Where 8 bytes of an address belong, and whose.
    pub fixes: Vec<(usize, Wanted<'c>)>,
}

/// Whose address is wanted.
#[derive(Copy, Clone)]
pub enum Wanted<'c> {
    /// That of a primitive.
    Prim(&'c str),
    /// That of this offset of the same piece.
    Own(usize),
}

/// Pieces in executable memory, which goes when this does.
pub struct Placed {
    map: Mmap,
    starts: Vec<usize>,
}

/// Places pieces. Errors: `Package` for a reference that cannot be followed, `Compile` where the system gives no memory.
pub fn place(sources: &[Source<'_>], symbols: &Symbols) -> Result<Placed> {
    let far = || Error::package("machine code that is larger than memory");
    let mut starts = Vec::with_capacity(sources.len());
    let mut len = 0usize;
    for source in sources {
        let start = len.checked_next_multiple_of(PIECE_ALIGN).ok_or_else(far)?;
        starts.push(start);
        len = start.checked_add(source.code.len()).ok_or_else(far)?;
    }
    let system = |e: std::io::Error| Error::compile(format!("cannot map machine code: {e}"));
    // A mapping of no bytes is none.
    let mut map = MmapMut::map_anon(len.max(1)).map_err(system)?;
    let base = map.as_ptr() as usize;
    map.fill(BETWEEN);
    for (source, &start) in sources.iter().zip(&starts) {
        let to = &mut map[start..start + source.code.len()];
        to.copy_from_slice(source.code);
        for &(at, wanted) in &source.fixes {
            let address = match wanted {
                Wanted::Prim(name) => symbols.address(name).map(|a| a as usize),
                Wanted::Own(offset) => (offset < source.code.len()).then(|| base + start + offset),
            };
            let field = at.checked_add(8).and_then(|end| to.get_mut(at..end));
            let (Some(address), Some(field)) = (address, field) else {
                return Err(Error::package("machine code with a reference that leads nowhere"));
            };
            field.copy_from_slice(&(address as u64).to_le_bytes());
        }
    }
    let map = map.make_exec().map_err(system)?;
    Ok(Placed { map, starts })
}

impl Placed {
    /// Where a piece begins.
    pub fn address(&self, piece: usize) -> Option<*const u8> {
        self.starts.get(piece).map(|&start| self.map.as_ptr().wrapping_add(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        Symbols::new([("iota".to_string(), 0x1122_3344_5566_7788usize as *const u8)])
    }

    #[test]
    fn addresses_are_written_where_they_belong() {
        let code = [0x90u8; 80];
        let sources = [
            Source { code: &code[..3], fixes: vec![] },
            Source { code: &code, fixes: vec![(2, Wanted::Prim("iota")), (72, Wanted::Own(64))] },
        ];
        let placed = place(&sources, &symbols()).unwrap();
        let at = placed.address(1).unwrap() as usize;
        assert_eq!(at % PIECE_ALIGN, 0);
        let bytes = &placed.map[placed.starts[1]..];
        assert_eq!(bytes[2..10], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(bytes[72..80], ((at + 64) as u64).to_le_bytes());
        assert_eq!((&bytes[..2], &bytes[10..72]), (&code[..2], &code[..62]));
        assert_eq!(placed.map[3..64], [BETWEEN; 61]);
        assert!(placed.address(2).is_none());
    }

    #[test]
    fn references_outside_are_refused() {
        let code = [0x90u8; 16];
        for fix in [
            (9, Wanted::Prim("iota")),
            (usize::MAX, Wanted::Prim("iota")),
            (0, Wanted::Prim("system")),
            (0, Wanted::Own(16)),
        ] {
            assert!(place(&[Source { code: &code, fixes: vec![fix] }], &symbols()).is_err());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pages_are_never_writable_and_executable() {
        let placed = place(&[Source { code: &[0xc3], fixes: vec![] }], &symbols()).unwrap();
        let at = placed.address(0).unwrap() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(from)..number(to)).contains(&at)
        });
        assert!(line.unwrap().contains(" r-xp "), "{line:?}");
    }
}
