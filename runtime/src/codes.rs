//! Machine code of kernels that a file brought, for those who believe the file: its form, and where it is looked for.
//!
//! Code is known by what it was made from: a digest of the generator (its sources, Cranelift, the target and its
//! flags, the level) and of the kernel with its options. A kernel whose digest is met again would be compiled to code
//! with the same results, so that code is used for whatever program has that kernel; any other kernel is compiled. What was
//! believed is held by the package that brought it and looked at no more when that is gone; programs that were compiled
//! with it, which sessions keep for equal graphs, have copies of their own.
//!
//! What says that the code does what the digest stands for is the word of whoever is believed, nothing else: a
//! reader can check form and ranges, and does.

use crate::sys::link::{Source, Wanted};
use cranelift::codegen::isa::OwnedTargetIsa;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use torsh_codegen::cpu::prims::Prim;
use torsh_codegen::cpu::{self, Emitted, GENERATOR, Level, Made, Options, PIECE_ALIGN, Piece, Schedule, To};
use torsh_ir::kernel::Kernel;
use torsh_ir::{Error, Result};

/// How a kernel came to its code, for `explain()`.
pub(crate) const REASON: &str = "machine code of the package";

const MAGIC: &[u8; 8] = b"torshMC\n";
const FORMAT: u32 = 1;
/// Marks an offset of the same piece in place of the number of a name.
const OWN: u32 = 1 << 31;
const MAX_NAMES: usize = 4096;
const MAX_NAME: usize = 64;
const MAX_ROW_BLOCK: u32 = 1 << 20;
const MAX_SCRATCH: u64 = 1 << 40;
const ITEM_BYTES: usize = 32 + 4 + 4 + 4 + 4 + 8 + 4 + 4;
const FIX_BYTES: usize = 8;

/// A digest.
pub(crate) type Key = [u8; 32];

/// Feeds what is hashed to a digest.
struct Feed(Sha256);

impl Hasher for Feed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        0
    }
}

/// What code of this build for a target and level is made by.
pub(crate) fn generator(isa: &OwnedTargetIsa, level: Option<Level>) -> Key {
    let mut hash = Sha256::new();
    let (sources, cranelift) = GENERATOR;
    let mut text = format!("torsh kernels {} {sources} {cranelift} {} {level:?}\n", crate::VERSION, isa.triple());
    // Whether Cranelift checks itself changes no code.
    let flags = isa.flags().to_string();
    flags.lines().filter(|l| !l.starts_with("enable_verifier")).for_each(|l| text.extend([l, "\n"]));
    isa.isa_flags().iter().for_each(|flag| text.push_str(&format!("{flag}\n")));
    hash.update(text);
    hash.finalize().into()
}

/// The digest of a kernel's code. The sizes of caches are no part of it: they weigh costs and say how far ahead is
/// fetched, and the bits are the same in any case.
pub(crate) fn key(generator: &Key, kernel: &Kernel, options: &Options) -> Key {
    let mut feed = Feed(Sha256::new());
    feed.0.update(generator);
    (options.schedule, options.block, &options.aliases, options.vectors, options.level).hash(&mut feed);
    (&kernel.params, &kernel.grid, &kernel.inner, &kernel.values, &kernel.stages).hash(&mut feed);
    feed.0.finalize().into()
}

/// Code of many kernels at one level, in the form of a file.
#[derive(Debug)]
pub(crate) struct Codes {
    bytes: Vec<u8>,
    names: Vec<String>,
    // In ascending order of their keys.
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    key: Key,
    code: Range<usize>,
    made: Made,
    fixes: Vec<(u32, u32)>,
}

const SCHEDULES: [Schedule; 3] = [Schedule::Block, Schedule::Inline, Schedule::Vector];

/// The bytes of an entry.
pub(crate) fn encode(generator: &Key, pieces: &BTreeMap<Key, Piece>) -> Result<Vec<u8>> {
    let large = || Error::compile("machine code of too many bytes for a file");
    let n32 = |n: usize| u32::try_from(n).ok().filter(|&n| n < OWN).map(u32::to_le_bytes).ok_or_else(large);
    let called = pieces.values().flat_map(|p| &p.fixes);
    let names: BTreeSet<String> =
        called.filter_map(|fix| if let To::Prim(prim) = fix.to { Some(prim.name()) } else { None }).collect();
    let place = |prim: Prim| names.range(..prim.name()).count();
    let mut out = [MAGIC, &FORMAT.to_le_bytes()[..], generator].concat();
    out.extend([n32(pieces.len())?, n32(names.len())?].concat());
    for name in &names {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
    let mut end = 0usize;
    for (key, piece) in pieces {
        let start = end.next_multiple_of(PIECE_ALIGN);
        end = start + piece.code.len();
        out.extend_from_slice(key);
        let schedule = SCHEDULES.iter().position(|&s| s == piece.made.schedule);
        let schedule = schedule.ok_or_else(|| Error::internal("code of no schedule"))?;
        for number in [start, piece.code.len(), schedule, piece.made.row_block] {
            out.extend(n32(number)?);
        }
        out.extend((piece.made.scratch_bytes as u64).to_le_bytes());
        out.extend([n32(piece.fixes.len())?, [0; 4]].concat());
    }
    for fix in pieces.values().flat_map(|p| &p.fixes) {
        let to = match fix.to {
            To::Prim(prim) => place(prim) as u32,
            To::Own(offset) => offset | OWN,
        };
        out.extend([fix.at.to_le_bytes(), to.to_le_bytes()].concat());
    }
    out.resize(out.len().next_multiple_of(PIECE_ALIGN), 0);
    let code = out.len();
    for piece in pieces.values() {
        out.resize(code + (out.len() - code).next_multiple_of(PIECE_ALIGN), 0);
        out.extend_from_slice(&piece.code);
    }
    Ok(out)
}

/// Numbers and bytes from the front of an entry.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

type Why = &'static str;

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> std::result::Result<&'b [u8], Why> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or("it ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self) -> std::result::Result<[u8; N], Why> {
        self.take(N)?.try_into().map_err(|_| "it ends too early")
    }
    fn u32(&mut self) -> std::result::Result<u32, Why> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> std::result::Result<u64, Why> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
    /// Steps over zeros up to a multiple of the alignment of pieces.
    fn align(&mut self) -> std::result::Result<(), Why> {
        let gap = self.at.next_multiple_of(PIECE_ALIGN) - self.at;
        if self.take(gap.min(self.left()))?.iter().any(|&b| b != 0) { Err("padding that is not zero") } else { Ok(()) }
    }
}

/// Whether an entry is of this form and was written by this generator: only then does the rest of it mean anything here.
pub(crate) fn is_from(bytes: &[u8], generator: &Key) -> bool {
    let head = [MAGIC, &FORMAT.to_le_bytes()[..], generator].concat();
    bytes.starts_with(&head)
}

/// Reads an entry that [`is_from`] this generator. It has one form, and every length, offset and fact is in its range. The
/// error says what is wrong with it.
pub(crate) fn decode(bytes: Vec<u8>) -> std::result::Result<Codes, Why> {
    let mut r = Reader { bytes: &bytes, at: 0 };
    r.take(MAGIC.len() + 4 + 32)?;
    let (count, named) = (r.u32()? as usize, r.u32()? as usize);
    let names = names(&mut r, named)?;
    if r.left() / ITEM_BYTES < count {
        return Err("more kernels than it has room for");
    }
    let mut items: Vec<Item> = Vec::with_capacity(count);
    let mut counts = Vec::with_capacity(count);
    let mut end = 0usize;
    for _ in 0..count {
        let key: Key = r.array()?;
        if items.last().is_some_and(|last| last.key >= key) {
            return Err("kernels that are not in order");
        }
        let (start, len, schedule, row_block) = (r.u32()? as usize, r.u32()? as usize, r.u32()?, r.u32()?);
        let scratch = r.u64()?;
        counts.push(r.u32()? as usize);
        if start != end.next_multiple_of(PIECE_ALIGN) || len == 0 || r.u32()? != 0 {
            return Err("a kernel that does not begin where the one before it ends, or is empty");
        }
        end = start.checked_add(len).ok_or("a kernel that does not end")?;
        let schedule = *SCHEDULES.get(schedule as usize).ok_or("an unknown schedule")?;
        if row_block == 0 || row_block > MAX_ROW_BLOCK || scratch > MAX_SCRATCH {
            return Err("a block of rows or scratch memory out of range");
        }
        let made = Made { schedule, row_block: row_block as usize, scratch_bytes: scratch as usize };
        items.push(Item { key, code: start..end, made, fixes: Vec::new() });
    }
    for (item, count) in items.iter_mut().zip(counts) {
        if r.left() / FIX_BYTES < count {
            return Err("more references than it has room for");
        }
        item.fixes = (0..count).map(|_| Ok((r.u32()?, r.u32()?))).collect::<std::result::Result<_, Why>>()?;
    }
    r.align()?;
    let first = r.at;
    if bytes.len() - first != end {
        return Err("code of another size than its kernels have");
    }
    let mut last = first;
    for item in &mut items {
        item.code = first + item.code.start..first + item.code.end;
        if bytes[last..item.code.start].iter().any(|&b| b != 0) {
            return Err("padding that is not zero");
        }
        last = item.code.end;
        check_fixes(&bytes[item.code.clone()], &item.fixes, names.len())?;
    }
    Ok(Codes { bytes, names, items })
}

/// The names of primitives: known ones, in order.
fn names(r: &mut Reader<'_>, count: usize) -> std::result::Result<Vec<String>, Why> {
    if count > MAX_NAMES {
        return Err("too many names");
    }
    let known: HashSet<String> = Prim::all().into_iter().map(Prim::name).collect();
    let mut names: Vec<String> = Vec::with_capacity(count);
    for _ in 0..count {
        let [len] = r.array::<1>()?;
        if usize::from(len) > MAX_NAME {
            return Err("a name that is too long");
        }
        let name = String::from_utf8_lossy(r.take(usize::from(len))?).into_owned();
        if !known.contains(&name) || names.last().is_some_and(|last| *last >= name) {
            return Err("a name that is that of no primitive, or not in order");
        }
        names.push(name);
    }
    Ok(names)
}

/// References in order, apart from each other, inside of the code, over zeros, and to something.
fn check_fixes(code: &[u8], fixes: &[(u32, u32)], names: usize) -> std::result::Result<(), Why> {
    let mut free = 0usize;
    for &(at, to) in fixes {
        let at = at as usize;
        let field = at.checked_add(8).filter(|_| at >= free).and_then(|end| code.get(at..end));
        if field.is_none_or(|field| field.iter().any(|&b| b != 0)) {
            return Err("a reference that is out of order, outside of its code, or not over zeros");
        }
        let own = (to & !OWN) as usize;
        let leads =
            if to & OWN == 0 { (to as usize) < names } else { own < code.len() && own.is_multiple_of(PIECE_ALIGN) };
        if !leads {
            return Err("a reference that leads nowhere");
        }
        free = at + 8;
    }
    Ok(())
}

impl Codes {
    /// How many kernels it has code of.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    fn source(&self, item: usize) -> Option<Source<'_>> {
        let item = self.items.get(item)?;
        let wanted = |&(at, to): &(u32, u32)| {
            let wanted = match to & OWN {
                0 => Wanted::Prim(self.names.get(to as usize)?),
                _ => Wanted::Own((to & !OWN) as usize),
            };
            Some((at as usize, wanted))
        };
        let fixes = item.fixes.iter().map(wanted).collect::<Option<_>>()?;
        Some(Source { code: self.bytes.get(item.code.clone())?, fixes })
    }
}

static BELIEVED: Mutex<Vec<Weak<Codes>>> = Mutex::new(Vec::new());

/// Makes code known to every program that is loaded, for as long as it is held elsewhere.
pub(crate) fn believe(codes: &Arc<Codes>) {
    let mut all = BELIEVED.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(codes));
}

/// Where the code of kernels is looked for.
pub(crate) struct Shelf {
    all: Vec<Arc<Codes>>,
    generator: Key,
}

/// Code that was found.
pub(crate) struct Found {
    codes: Arc<Codes>,
    item: usize,
    /// What is to be known of it.
    pub info: Emitted,
}

impl Found {
    /// The code.
    pub fn source(&self) -> Option<Source<'_>> {
        self.codes.source(self.item)
    }
}

impl Shelf {
    /// For kernels of a target and level; `None` when there is no code at all.
    pub fn new(isa: &OwnedTargetIsa, level: Option<Level>) -> Option<Shelf> {
        let all: Vec<Arc<Codes>> =
            BELIEVED.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        (!all.is_empty()).then(|| Shelf { all, generator: generator(isa, level) })
    }

    /// The code of a kernel.
    pub fn find(&self, kernel: &Kernel, options: &Options) -> Option<Found> {
        let key = key(&self.generator, kernel, options);
        // What was believed last comes first.
        self.all.iter().rev().find_map(|codes| {
            let item = codes.items.binary_search_by(|item| item.key.cmp(&key)).ok()?;
            let known = &codes.items[item];
            let info = cpu::known(kernel, options, known.made, known.code.len())?;
            Some(Found { codes: codes.clone(), item, info: Emitted { reason: REASON, ..info } })
        })
    }
}
