//! Tables of a library in less room: the steps of its programs, and sizes and names of its state, as bytes that the
//! library unpacks when it is loaded.
//!
//! Layers that are alike run the same kernels on operands that lie equally far apart, and have the same names but for a
//! number. So each operand is written as its distance from that of the last step with the same head, each size without
//! the offset that follows from those before it, and all of it in the block format of LZ4 (`unpack.c`).

use super::ALIGN;
use super::state::States;
use super::steps::line;
use super::table::{Table, head, length};
use std::collections::HashMap;

const UNPACK: &str = include_str!("unpack.c");
/// Bytes of code, about, that unpacking takes.
const CODE: usize = 600;
/// Of a match: the least bytes, how far back it lies at most, and how far from the end of all bytes it begins at least.
const LEAST: usize = 4;
const FAR: usize = u16::MAX as usize;
const END: usize = 12;
/// Bytes at the end that are no part of a match.
const LAST: usize = 5;
/// Places of the same four bytes that a search looks at.
const SEARCH: usize = 64;

/// The tables, packed where that is less. They define `t_word`, and for steps `t_step` and `T_WORD`, which reads one.
pub(super) fn source(table: &Table, states: &States<'_>) -> String {
    let mut out = String::new();
    let most = |words: &[u64]| words.iter().copied().max().unwrap_or(0);
    let widest = states.entries.iter().map(|e| most(e)).max().unwrap_or(0).max(most(table.words()));
    let bytes = word_bytes(widest);
    line!(out, "typedef uint{}_t t_word;\n#define T_STATES {}", bytes * 8, states.entries.len());
    if let Some(packed) = packed(table, states, bytes) {
        out.push_str(&packed);
        return out;
    }
    out.push_str(&states.plain());
    out.push_str(&table.plain());
    out
}

/// Bytes of a word where the largest number is `widest`; sizes with their kind are four times as much.
fn word_bytes(widest: u64) -> usize {
    if widest < 1 << 30 { 4 } else { 8 }
}

/// The packed tables, if they are less.
fn packed(table: &Table, states: &States<'_>, bytes: usize) -> Option<String> {
    let words = distances(table.words());
    let sizes = states.sizes()?;
    let mut all: Vec<u8> = words.iter().chain(&sizes).flat_map(|w| w.to_le_bytes().into_iter().take(bytes)).collect();
    all.extend_from_slice(&states.names);
    let data = compress(&all);
    let plain = states.names.len() + 4 * bytes * sizes.len() + table.plain_bytes(bytes);
    if data.len() + CODE >= plain {
        return None;
    }
    let mut out = String::new();
    line!(out, "static const unsigned char t_packed[] = {{");
    for bytes in data.chunks(32) {
        let bytes: String = bytes.iter().map(|b| format!("{b},")).collect();
        line!(out, "    {bytes}");
    }
    line!(out, "}};\n#define T_ALIGN {ALIGN}\n#define T_WORDS {}\n#define T_NAMES {}", words.len(), states.names.len());
    line!(out, "#define T_HEADS {}", table.heads());
    out.push_str(UNPACK);
    Some(out)
}

/// The words of steps with operands as distances from those of the last step with the same head; at first as they are.
fn distances(words: &[u64]) -> Vec<u64> {
    let mut last: HashMap<u64, usize> = HashMap::new();
    let mut out = Vec::with_capacity(words.len());
    let mut at = 0;
    while let Some(&first) = words.get(at) {
        let n = length(first).min(words.len() - at);
        let before = last.insert(head(first), at);
        out.push(first);
        for i in 1..n {
            out.push(words[at + i].wrapping_sub(before.map_or(0, |b| words[b + i])));
        }
        at += n;
    }
    out
}

/// Adds a length of which the token says the first 15.
fn more(out: &mut Vec<u8>, n: usize) {
    if let Some(mut rest) = n.checked_sub(15) {
        while rest >= 255 {
            out.push(255);
            rest -= 255;
        }
        out.push(rest as u8);
    }
}

/// Adds literals, and a match of `(length, distance)` that follows them.
fn sequence(out: &mut Vec<u8>, literals: &[u8], found: Option<(usize, usize)>) {
    let extra = found.map_or(0, |(length, _)| length - LEAST);
    out.push((literals.len().min(15) << 4 | extra.min(15)) as u8);
    more(out, literals.len());
    out.extend_from_slice(literals);
    if let Some((_, distance)) = found {
        out.extend_from_slice(&(distance as u16).to_le_bytes());
        more(out, extra);
    }
}

/// Where the same four bytes were before.
#[derive(Default)]
struct Seen(HashMap<[u8; LEAST], Vec<usize>>);

impl Seen {
    fn key(data: &[u8], at: usize) -> Option<[u8; LEAST]> {
        data.get(at..at + LEAST).and_then(|d| d.try_into().ok())
    }

    fn add(&mut self, data: &[u8], at: usize) {
        if let Some(key) = Seen::key(data, at) {
            self.0.entry(key).or_default().push(at);
        }
    }

    /// The longest match at a place: its length, and how far back it begins.
    fn longest(&self, data: &[u8], at: usize) -> Option<(usize, usize)> {
        if at + END > data.len() {
            return None;
        }
        let places = self.0.get(&Seen::key(data, at)?)?;
        let room = data.len() - LAST - at;
        let same = |from: usize| (0..room).take_while(|&i| data[from + i] == data[at + i]).count();
        let near = places.iter().rev().take(SEARCH).filter(|&&from| at - from <= FAR);
        near.map(|&from| (same(from), at - from)).max_by_key(|&(length, distance)| (length, FAR - distance))
    }
}

/// Bytes in the block format of LZ4.
fn compress(data: &[u8]) -> Vec<u8> {
    let (mut out, mut seen) = (Vec::new(), Seen::default());
    let (mut begin, mut at) = (0, 0);
    while at < data.len() {
        let found = seen.longest(data, at);
        seen.add(data, at);
        let Some((length, distance)) = found else {
            at += 1;
            continue;
        };
        // A longer one a byte later is worth the literal.
        if seen.longest(data, at + 1).is_some_and(|(next, _)| next > length + 1) {
            at += 1;
            continue;
        }
        sequence(&mut out, &data[begin..at], Some((length, distance)));
        (at + 1..at + length).for_each(|i| seen.add(data, i));
        at += length;
        begin = at;
    }
    sequence(&mut out, &data[begin..], None);
    out
}

#[cfg(test)]
mod tests {
    use super::super::table::word;
    use super::*;

    fn decompress(mut data: &[u8]) -> Vec<u8> {
        fn length(data: &mut &[u8], mut n: usize) -> usize {
            let mut more = if n == 15 { 255 } else { 0 };
            while more == 255 {
                more = data[0];
                n += usize::from(more);
                *data = &data[1..];
            }
            n
        }
        let mut out = Vec::new();
        loop {
            let token = data[0];
            data = &data[1..];
            let n = length(&mut data, usize::from(token >> 4));
            out.extend_from_slice(&data[..n]);
            data = &data[n..];
            if data.is_empty() {
                return out;
            }
            let back = usize::from(u16::from_le_bytes([data[0], data[1]]));
            data = &data[2..];
            for _ in 0..length(&mut data, usize::from(token & 15)) + LEAST {
                out.push(out[out.len() - back]);
            }
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let mut state = 7u32;
        for n in (0..40).chain([254, 255, 256, 270, 5000, 90_000]) {
            for spread in [1, 3, 250] {
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 16) % spread
                };
                let data: Vec<u8> = (0..n).map(|_| next() as u8).collect();
                assert_eq!(decompress(&compress(&data)), data, "{n} {spread}");
            }
        }
        let layers: Vec<u8> = (0..200).flat_map(|i| format!("model.blocks.{i}.weight\0").into_bytes()).collect();
        assert!(compress(&layers).len() * 4 < layers.len());
    }

    #[test]
    fn numbers_beyond_32_bits_have_wide_words() {
        assert_eq!([word_bytes((1 << 30) - 1), word_bytes(1 << 30), word_bytes(word(0, 1 << 33))], [4, 8, 8]);
    }

    #[test]
    fn steps_that_are_alike_are_distances() {
        let mut table = Table::default();
        for layer in 0..3 {
            assert!(table.kernel(5, &[word(0, 64 + 128 * layer), word(1, 640)]));
            table.copy(word(3, 0), word(0, 64 * layer), 256);
        }
        let kernel = table.words()[0];
        let copy = table.words()[3];
        let first = [kernel, 256, 2561, copy, 3, 0, 256];
        let other = [kernel, 512, 0, copy, 0, 256, 0];
        assert_eq!(distances(table.words()), [first, other, other].concat());
    }
}
