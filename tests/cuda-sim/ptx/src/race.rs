//! Shadow memory for races: who touched each byte last, and in which stretch between barriers.
//!
//! Two accesses are ordered when they are made by one thread, or in one block with a barrier of the block between
//! them, or in one warp with `bar.warp.sync` between them. Nothing orders two blocks of one launch. Two accesses
//! that are not ordered, of which one writes and one is not atomic, are a race. A page is kept by words until
//! something narrower touches it, then by bytes.

use std::collections::HashMap;

/// Who made an access, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub valid: bool,
    pub atomic: bool,
    /// 32 stands for several lanes.
    pub lane: u8,
    pub warp: u16,
    pub block: u32,
    pub epoch: u32,
    pub warp_epoch: u32,
    pub line: u32,
}

impl Stamp {
    fn same_stretch(&self, o: &Stamp) -> bool {
        self.valid && (self.block, self.epoch, self.warp, self.warp_epoch) == (o.block, o.epoch, o.warp, o.warp_epoch)
    }

    /// Nothing orders this earlier access and the later one `now`.
    fn unordered(&self, now: &Stamp) -> bool {
        if !self.valid || (self.atomic && now.atomic) {
            return false;
        }
        if self.block != now.block {
            return true;
        }
        if self.epoch != now.epoch {
            return false;
        }
        if self.warp != now.warp {
            return true;
        }
        self.warp_epoch == now.warp_epoch && self.lane != now.lane
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    writer: Stamp,
    /// The last reader, one of another warp of its block, and one of another block.
    reader: Stamp,
    other_warp: Stamp,
    other_block: Stamp,
    non_coherent: bool,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    ReadNonCoherent,
    Write,
}

/// Why an access is refused: the earlier access, and whether the non-coherent path is the reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub earlier: Stamp,
    pub earlier_wrote: bool,
    pub non_coherent: bool,
}

impl Cell {
    fn access(&mut self, now: Stamp, kind: Kind) -> Option<Conflict> {
        let conflict = |earlier: Stamp, wrote, nc| Some(Conflict { earlier, earlier_wrote: wrote, non_coherent: nc });
        if kind == Kind::Write {
            if self.non_coherent {
                return conflict(self.reader, false, true);
            }
            if self.writer.unordered(&now) {
                return conflict(self.writer, true, false);
            }
            if let Some(r) = [self.reader, self.other_warp, self.other_block].into_iter().find(|r| r.unordered(&now)) {
                return conflict(r, false, false);
            }
            self.writer = now;
            return None;
        }
        if kind == Kind::ReadNonCoherent && self.writer.valid {
            return conflict(self.writer, true, true);
        }
        if self.writer.unordered(&now) {
            return conflict(self.writer, true, false);
        }
        self.non_coherent |= kind == Kind::ReadNonCoherent;
        if self.reader.same_stretch(&now) {
            if self.reader.lane != now.lane {
                self.reader.lane = 32;
            }
            self.reader.atomic &= now.atomic;
            return None;
        }
        if self.reader.valid && self.reader.block != now.block {
            self.other_block = self.reader;
            self.other_warp = Stamp::default();
        } else if self.reader.valid && self.reader.warp != now.warp {
            self.other_warp = self.reader;
        }
        self.reader = now;
        None
    }
}

const PAGE: u64 = 256;

struct Page {
    /// 64 words or 256 bytes.
    cells: Vec<Cell>,
}

impl Page {
    fn new() -> Page {
        Page { cells: vec![Cell::default(); 64] }
    }
}

/// The shadow of one address space.
#[derive(Default)]
pub(crate) struct Shadow {
    index: HashMap<u64, usize>,
    pages: Vec<Page>,
    /// The page that was used last, and where it is.
    last: Option<(u64, usize)>,
}

impl Shadow {
    /// Notes an access; the address of the first byte in conflict comes with the reason.
    pub fn access(&mut self, addr: u64, bytes: u64, now: Stamp, kind: Kind) -> Option<(u64, Conflict)> {
        let words = addr.is_multiple_of(4) && bytes.is_multiple_of(4);
        let mut at = addr;
        while at < addr + bytes {
            let page = self.page(at / PAGE);
            if !words && page.cells.len() == 64 {
                page.cells = page.cells.iter().flat_map(|c| [*c; 4]).collect();
            }
            let step = if page.cells.len() == 64 { 4 } else { 1 };
            let end = (addr + bytes).min((at / PAGE + 1) * PAGE);
            while at < end {
                if let Some(c) = page.cells[(at % PAGE / step) as usize].access(now, kind) {
                    return Some((at, c));
                }
                at += step;
            }
        }
        None
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let i = match self.last {
            Some((n, i)) if n == number => i,
            _ => {
                let pages = &mut self.pages;
                *self.index.entry(number).or_insert_with(|| {
                    pages.push(Page::new());
                    pages.len() - 1
                })
            }
        };
        self.last = Some((number, i));
        &mut self.pages[i]
    }

    pub fn clear(&mut self) {
        self.index.clear();
        self.pages.clear();
        self.last = None;
    }
}
