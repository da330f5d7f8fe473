//! The directory of a package: the part of the zip format that the writer uses, read strictly.
//!
//! A general reader searches for the directory, tolerates bytes in front, holes, duplicates and disagreement between the
//! two headers of an entry. None of that is needed here, and each such freedom is one more way for two programs to see
//! two different files. So: the end record ends the file and has no comment; the directory ends where it begins; entries
//! follow each other without holes from the first byte on, in the order of the directory; the two headers of an entry
//! agree; every entry is stored, not encrypted, a plain file in the top folder, and its data is aligned. Last, all bytes
//! outside of the data are compared with the one form that they may have ([`super::layout`]). Work is linear in the number
//! of entries, of which there are few.

use super::format::{ALIGN, MAX_ENTRIES, MAX_ENTRY_NAME, bad};
use super::layout::{
    CENTRAL, CENTRAL_BYTES, END, END_BYTES, END64, END64_BYTES, Facts, LOCAL, LOCAL_BYTES, LOCATOR64, LOCATOR64_BYTES,
    layout,
};
use std::fs::File;
use std::ops::Range;
use torsh_ir::Result;

/// Extra data of a header: alignment and 64-bit sizes.
const MAX_EXTRA: usize = 256;
/// Names are UTF-8: the only flag.
const UTF8: u16 = 1 << 11;
const THE_DIRECTORY: &str = "the directory of the file";

/// An entry: its name and where its data lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Name.
    pub name: String,
    /// Bytes of the file.
    pub data: Range<u64>,
    /// CRC-32 of the data, as both headers say.
    pub crc: u32,
}

/// Bytes at an offset of a file.
pub(super) fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(not(unix))]
    {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}

/// Little-endian numbers of a record, read from its front.
struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.0.split_at_checked(n) {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(head)
            }
            None => Err(bad(THE_DIRECTORY, "a record ends too early")),
        }
    }
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |all, &b| all << 8 | u64::from(b)))
    }
    fn u16(&mut self) -> Result<u16> {
        Ok(self.number(2)? as u16)
    }
    fn u32(&mut self) -> Result<u32> {
        Ok(self.number(4)? as u32)
    }
}

fn bytes_at(file: &File, offset: u64, len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| bad(THE_DIRECTORY, "a record is too long"))?;
    let mut bytes = vec![0; len];
    read_at(file, offset, &mut bytes).map_err(|e| bad(THE_DIRECTORY, format!("cannot be read: {e}")))?;
    Ok(bytes)
}

/// Where the directory lies and how many entries it has.
fn end(file: &File, size: u64) -> Result<(Range<u64>, u64)> {
    let at = size.checked_sub(END_BYTES);
    let at = at.ok_or_else(|| bad(THE_DIRECTORY, format!("{size} bytes are no package: the file is too short")))?;
    let bytes = bytes_at(file, at, END_BYTES)?;
    let mut r = Record(&bytes);
    if r.u32()? != END {
        return Err(bad(
            THE_DIRECTORY,
            "no end record at the end: the file is truncated, has bytes after its end, or is no package",
        ));
    }
    if r.number(4)? != 0 {
        return Err(bad(THE_DIRECTORY, "the archive spans several disks"));
    }
    let (here, all) = (r.number(2)?, r.number(2)?);
    let (len, start) = (r.number(4)?, r.number(4)?);
    if r.number(2)? != 0 {
        return Err(bad(THE_DIRECTORY, "the archive has a comment"));
    }
    if here != all {
        return Err(bad(THE_DIRECTORY, "the counts of entries differ"));
    }
    if here != 0xffff && len != 0xffff_ffff && start != 0xffff_ffff {
        if start.checked_add(len) != Some(at) {
            return Err(bad(THE_DIRECTORY, "it does not end where the end record begins"));
        }
        return Ok((start..at, here));
    }
    // 64-bit sizes: a record and its locator stand before the end record.
    let records = at.checked_sub(END64_BYTES + LOCATOR64_BYTES);
    let records = records.ok_or_else(|| bad(THE_DIRECTORY, "the 64-bit end record is missing"))?;
    let bytes = bytes_at(file, records, END64_BYTES + LOCATOR64_BYTES)?;
    let mut r = Record(&bytes);
    let whole = r.u32()? == END64 && r.number(8)? == END64_BYTES - 12;
    r.take(4)?;
    let one_disk = r.number(8)? == 0;
    let (here, all) = (r.number(8)?, r.number(8)?);
    let (len, start) = (r.number(8)?, r.number(8)?);
    let located = r.u32()? == LOCATOR64 && r.u32()? == 0 && r.number(8)? == records && r.u32()? == 1;
    if !whole || !one_disk || here != all || !located || start.checked_add(len) != Some(records) {
        return Err(bad(THE_DIRECTORY, "the 64-bit end record is malformed"));
    }
    Ok((start..records, here))
}

/// One header's account of an entry.
#[derive(PartialEq, Eq)]
struct Header {
    flags: u16,
    method: u16,
    crc: u32,
    size: u64,
    name: Vec<u8>,
}

/// Sizes beyond 32 bits stand in the extra data, in this order: size, stored size, offset.
fn wide(extra: &[u8], fields: &mut [&mut u64]) -> Result<()> {
    let mut wanted = fields.iter_mut().filter(|f| ***f == 0xffff_ffff).peekable();
    let mut r = Record(extra);
    while r.0.len() >= 4 {
        let (id, len) = (r.u16()?, r.u16()?);
        let mut body = Record(r.take(len as usize)?);
        if id == 1 {
            for field in wanted.by_ref() {
                **field = body.number(8)?;
            }
        }
    }
    if wanted.peek().is_some() {
        return Err(bad(THE_DIRECTORY, "a 64-bit size is missing"));
    }
    Ok(())
}

/// The entries of a file of `size` bytes.
pub fn list(file: &File, size: u64) -> Result<Vec<Item>> {
    let (directory, count) = end(file, size)?;
    if count > MAX_ENTRIES as u64 {
        return Err(bad(THE_DIRECTORY, format!("{count} entries; the most is {MAX_ENTRIES}")));
    }
    let most = count * (CENTRAL_BYTES + MAX_ENTRY_NAME + MAX_EXTRA) as u64;
    if directory.end - directory.start > most {
        return Err(bad(THE_DIRECTORY, format!("it is longer than {count} entries can be")));
    }
    let bytes = bytes_at(file, directory.start, directory.end - directory.start)?;
    let mut r = Record(&bytes);
    let mut items: Vec<Item> = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (header, start) = central(&mut r)?;
        let name = plain_name(&header)?;
        if items.iter().any(|i| i.name == name) {
            return Err(bad(THE_DIRECTORY, format!("the entry {name} stands twice")));
        }
        if start != at {
            return Err(bad(&name, "it does not begin where the entry before it ends"));
        }
        let data = local(file, &header, start, directory.start).map_err(|e| bad(&name, e.message()))?;
        at = data.end;
        items.push(Item { name, data, crc: header.crc });
    }
    if !r.0.is_empty() || at != directory.start {
        return Err(bad(THE_DIRECTORY, "bytes between the last entry and the end of the directory belong to nothing"));
    }
    one_form(file, &items, directory.start, size)?;
    Ok(items)
}

/// Checks that every byte outside of the data has the one value that it may have.
fn one_form(file: &File, items: &[Item], directory: u64, size: u64) -> Result<()> {
    let facts: Vec<Facts<'_>> =
        items.iter().map(|i| Facts { name: &i.name, bytes: i.data.end - i.data.start, crc: i.crc }).collect();
    let wanted = layout(&facts).ok_or_else(|| bad(THE_DIRECTORY, "sizes that cannot be counted"))?;
    let differs = "a field or padding of its header has another value than the one that it may have";
    let mut at = 0;
    for (item, head) in items.iter().zip(&wanted.heads) {
        if item.data.start - at != head.len() as u64 || bytes_at(file, at, head.len() as u64)? != *head {
            return Err(bad(&item.name, differs));
        }
        at = item.data.end;
    }
    if size - directory != wanted.tail.len() as u64 || bytes_at(file, directory, size - directory)? != wanted.tail {
        return Err(bad(THE_DIRECTORY, "a field of it has another value than the one that it may have"));
    }
    Ok(())
}

fn central(r: &mut Record<'_>) -> Result<(Header, u64)> {
    if r.u32()? != CENTRAL {
        return Err(bad(THE_DIRECTORY, "an entry has no header"));
    }
    r.take(4)?;
    let (flags, method) = (r.u16()?, r.u16()?);
    r.take(4)?;
    let crc = r.u32()?;
    let (mut stored, mut size) = (r.number(4)?, r.number(4)?);
    let (name, extra, comment) = (r.u16()? as usize, r.u16()? as usize, r.u16()?);
    let disk = r.u16()?;
    r.take(2)?;
    let attributes = r.u32()?;
    let mut start = r.number(4)?;
    if name > MAX_ENTRY_NAME || extra > MAX_EXTRA || comment != 0 || disk != 0 {
        return Err(bad(THE_DIRECTORY, "an entry has a long name, long extra data, a comment or another disk"));
    }
    let name = r.take(name)?.to_vec();
    wide(r.take(extra)?, &mut [&mut size, &mut stored, &mut start])?;
    // The upper half has the mode of the file where the writer ran on Unix; 0 says nothing.
    let kind = attributes >> 16 & 0o170_000;
    if kind != 0 && kind != 0o100_000 || attributes & 0x10 != 0 {
        return Err(bad(THE_DIRECTORY, "an entry is a link, a folder or a device"));
    }
    if stored != size {
        return Err(bad(THE_DIRECTORY, "an entry has two sizes: it is not stored"));
    }
    Ok((Header { flags, method, crc, size, name }, start))
}

fn plain_name(header: &Header) -> Result<String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let name = &header.name;
    if name.is_empty() || name[0] == b'.' || !name.iter().all(plain) {
        let shown = String::from_utf8_lossy(name).into_owned();
        return Err(bad(THE_DIRECTORY, format!("{shown:?} is no plain name")));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    if header.method != 0 {
        return Err(bad(&name, format!("compression method {}: entries must be stored", header.method)));
    }
    if header.flags & !UTF8 != 0 {
        return Err(bad(&name, "the entry is encrypted, or its sizes follow its data"));
    }
    Ok(name)
}

/// Where the data of an entry lies, from its own header at `start`; it must end before `limit`.
fn local(file: &File, header: &Header, start: u64, limit: u64) -> Result<Range<u64>> {
    let fixed_end = start.checked_add(LOCAL_BYTES as u64).filter(|&end| end <= limit);
    let fixed_end = fixed_end.ok_or_else(|| bad("header", "it lies outside of the file"))?;
    let bytes = bytes_at(file, start, LOCAL_BYTES as u64)?;
    let mut r = Record(&bytes);
    if r.u32()? != LOCAL {
        return Err(bad("header", "it is not there"));
    }
    r.take(2)?;
    let (flags, method) = (r.u16()?, r.u16()?);
    r.take(4)?;
    let crc = r.u32()?;
    let (mut stored, mut size) = (r.number(4)?, r.number(4)?);
    let (name, extra) = (r.u16()? as usize, r.u16()? as usize);
    if name > MAX_ENTRY_NAME || extra > MAX_EXTRA {
        return Err(bad("header", "a long name or long extra data"));
    }
    let data = fixed_end + (name + extra) as u64;
    let end = data.checked_add(header.size).filter(|&end| end <= limit);
    let end = end.ok_or_else(|| bad("data", "it lies outside of the file"))?;
    let tail = bytes_at(file, fixed_end, (name + extra) as u64)?;
    let (name, extra) = tail.split_at(name);
    wide(extra, &mut [&mut size, &mut stored])?;
    let own = Header { flags, method, crc, size, name: name.to_vec() };
    if own != *header || stored != size {
        return Err(bad("header", "it differs from that in the directory"));
    }
    if !data.is_multiple_of(ALIGN) {
        return Err(bad("data", format!("it begins at byte {data}, not at a multiple of {ALIGN}")));
    }
    Ok(data..end)
}
