//! The one form of a package's archive: which bytes stand round the data of its entries.
//!
//! Names, sizes and checksums of the entries, in order, decide every other byte of the file: dates, attributes, versions
//! and padding have one value each. The writer writes what is computed here, and the reader compares, so that contents
//! have one file only and no byte is free to carry anything else.
//!
//! Entries are stored. Padding before the data stands in the extra field that the zip format has for it. Sizes and offsets
//! that do not fit 32 bits stand in 64-bit fields; no others do.

use super::format::ALIGN;

pub(super) const LOCAL: u32 = 0x0403_4b50;
pub(super) const CENTRAL: u32 = 0x0201_4b50;
pub(super) const END: u32 = 0x0605_4b50;
pub(super) const END64: u32 = 0x0606_4b50;
pub(super) const LOCATOR64: u32 = 0x0706_4b50;
/// Fixed parts of the records.
pub(super) const LOCAL_BYTES: usize = 30;
pub(super) const CENTRAL_BYTES: usize = 46;
pub(super) const END_BYTES: u64 = 22;
pub(super) const END64_BYTES: u64 = 56;
pub(super) const LOCATOR64_BYTES: u64 = 20;
/// Stands for a number that a 64-bit field has.
const WIDE: u64 = 0xffff_ffff;
/// Version of the format that a reader needs: stored entries, 64-bit sizes.
const PLAIN_VERSION: u16 = 10;
const WIDE_VERSION: u16 = 45;
/// A file of Unix made it.
const UNIX: u16 = 3 << 8;
/// 1980-01-01, the first day that the format knows.
const DATE: u16 = 0x21;
/// A plain file, readable by all.
const ATTRIBUTES: u32 = 0o100_644 << 16;
/// The extra field of padding: its own head, then the alignment, then zeros.
const PADDING: u16 = 0xa11e;
const PADDING_HEAD: u64 = 6;

/// An entry without its data.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Facts<'a> {
    /// Name, in ASCII.
    pub name: &'a str,
    /// Bytes of data.
    pub bytes: u64,
    /// CRC-32 of the data.
    pub crc: u32,
}

impl<'a> Facts<'a> {
    /// Those of an entry with this data.
    pub fn of(name: &'a str, data: &[u8]) -> Facts<'a> {
        Facts { name, bytes: data.len() as u64, crc: crc32fast::hash(data) }
    }
}

/// Every byte of an archive but the data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Per entry, what stands before its data, padding included.
    pub heads: Vec<Vec<u8>>,
    /// Directory and end.
    pub tail: Vec<u8>,
}

/// Little-endian numbers, one after the other.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u16(mut self, x: u16) -> Out {
        self.0.extend_from_slice(&x.to_le_bytes());
        self
    }
    fn u32(mut self, x: u32) -> Out {
        self.0.extend_from_slice(&x.to_le_bytes());
        self
    }
    fn u64(mut self, x: u64) -> Out {
        self.0.extend_from_slice(&x.to_le_bytes());
        self
    }
    /// A number, or what says that it stands elsewhere.
    fn clamped(self, x: u64) -> Out {
        self.u32(x.min(WIDE) as u32)
    }
    fn bytes(mut self, bytes: &[u8]) -> Out {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The 64-bit field of these numbers, as far as they need it.
fn wide(numbers: &[u64]) -> Vec<u8> {
    let large: Vec<u64> = numbers.iter().copied().filter(|&n| n >= WIDE).collect();
    if large.is_empty() {
        return Vec::new();
    }
    large.iter().fold(Out::default().u16(1).u16(8 * large.len() as u16), |out, &n| out.u64(n)).0
}

fn version(extra: &[u8]) -> u16 {
    if extra.is_empty() { PLAIN_VERSION } else { WIDE_VERSION }
}

/// The padding after `end` bytes; none where what follows is aligned anyway.
fn padding(end: u64) -> Vec<u8> {
    let mut len = end.next_multiple_of(ALIGN) - end;
    if len == 0 {
        return Vec::new();
    }
    if len < PADDING_HEAD {
        len += ALIGN;
    }
    let mut field = Out::default().u16(PADDING).u16((len - 4) as u16).u16(ALIGN as u16).0;
    field.resize(len as usize, 0);
    field
}

/// The layout of entries in this order; `None` beyond what 64 bits can count.
pub fn layout(entries: &[Facts<'_>]) -> Option<Layout> {
    let mut heads = Vec::with_capacity(entries.len());
    let mut directory = Out::default();
    let mut at = 0u64;
    for entry in entries {
        let (name, bytes) = (entry.name.as_bytes(), entry.bytes);
        let mut extra = wide(&[bytes, bytes]);
        let needed = version(&extra);
        let end = at.checked_add((LOCAL_BYTES + name.len() + extra.len()) as u64)?;
        extra.extend(padding(end));
        let head = Out::default().u32(LOCAL).u16(needed).u16(0).u16(0).u16(0).u16(DATE).u32(entry.crc);
        let head = head.clamped(bytes).clamped(bytes).u16(name.len() as u16).u16(extra.len() as u16);
        let head = head.bytes(name).bytes(&extra).0;

        let extra = wide(&[bytes, bytes, at]);
        let needed = version(&extra);
        directory = directory.u32(CENTRAL).u16(UNIX | needed).u16(needed).u16(0).u16(0).u16(0).u16(DATE);
        directory = directory.u32(entry.crc).clamped(bytes).clamped(bytes);
        directory = directory.u16(name.len() as u16).u16(extra.len() as u16).u16(0).u16(0).u16(0).u32(ATTRIBUTES);
        directory = directory.clamped(at).bytes(name).bytes(&extra);

        at = at.checked_add(head.len() as u64)?.checked_add(bytes)?;
        heads.push(head);
    }
    let (count, len) = (entries.len() as u64, directory.0.len() as u64);
    let mut tail = directory;
    if at >= WIDE {
        let here = at.checked_add(len)?;
        tail = tail.u32(END64).u64(END64_BYTES - 12).u16(UNIX | WIDE_VERSION).u16(WIDE_VERSION).u32(0).u32(0);
        tail = tail.u64(count).u64(count).u64(len).u64(at).u32(LOCATOR64).u32(0).u64(here).u32(1);
    }
    tail = tail.u32(END).u16(0).u16(0).u16(count as u16).u16(count as u16).u32(len as u32).clamped(at).u16(0);
    Some(Layout { heads, tail: tail.0 })
}

/// An archive in memory, of entries as they are: for tests, which want some that no writer makes.
pub fn pack<N: AsRef<str>, D: AsRef<[u8]>>(entries: &[(N, D)]) -> Option<Vec<u8>> {
    let facts: Vec<Facts<'_>> = entries.iter().map(|(name, data)| Facts::of(name.as_ref(), data.as_ref())).collect();
    let Layout { heads, tail } = layout(&facts)?;
    let mut out = Vec::new();
    for (head, (_, data)) in heads.iter().zip(entries) {
        out.extend_from_slice(head);
        out.extend_from_slice(data.as_ref());
    }
    out.extend_from_slice(&tail);
    Some(out)
}
