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
    let data = lz4_flex::block::compress(&all);
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

#[cfg(test)]
mod tests {
    use super::super::table::word;
    use super::*;

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
