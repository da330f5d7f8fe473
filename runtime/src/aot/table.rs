//! Steps of long programs as data, which one loop reads: calls of kernels, products of float32, and copies. As calls in
//! line each would take an instruction or two for every operand, four times the size of its word here.
//!
//! A step is a head and its operands. The low two bits of a head say what it is, the next 14 how many operands follow,
//! and the rest is the number of the kernel or product. An operand is a base in two bits and an offset, or the number of
//! what the caller gives. A copy ends with its number of bytes.

use super::object::Object;
use super::steps::line;
use std::collections::HashMap;

/// Operands that a head can count, and kernels or products that it can number.
const OPERANDS: usize = 1 << 14;
const NUMBERS: usize = 1 << 16;

/// Steps, one after the other.
#[derive(Default)]
pub(super) struct Table {
    words: Vec<u64>,
    /// Words that the function already runs.
    run: usize,
    /// Operands of the step that has most.
    most: usize,
    kernels: Vec<usize>,
    products: bool,
}

/// An operand: the memory of the context (0), the weights (1), the constants (2), or what the caller gives (3).
pub(super) fn word(base: u64, at: usize) -> u64 {
    (at as u64) << 2 | base
}

/// Writes a table of the narrowest type that holds its numbers and `least`, which is the result.
fn table(out: &mut String, name: &str, numbers: &[u64], least: u64) -> &'static str {
    let most = numbers.iter().copied().max().unwrap_or(0).max(least);
    let (ty, suffix) = match most {
        0..=0xffff => ("uint16_t", "u"),
        0x1_0000..=0xffff_ffff => ("uint32_t", "u"),
        _ => ("uint64_t", "ull"),
    };
    line!(*out, "static const {ty} {name}[] = {{");
    for numbers in numbers.chunks(12) {
        let numbers: String = numbers.iter().map(|n| format!("{n}{suffix},")).collect();
        line!(*out, "    {numbers}");
    }
    line!(*out, "}};");
    ty
}

impl Table {
    fn step(&mut self, kind: u64, number: usize, operands: &[u64]) -> bool {
        let fits = operands.len() < OPERANDS && number < NUMBERS;
        if fits {
            self.words.push(kind | (operands.len() as u64) << 2 | (number as u64) << 16);
            self.words.extend(operands);
            self.most = self.most.max(operands.len());
        }
        fits
    }

    /// Adds the run of a kernel; false where it does not fit.
    pub fn kernel(&mut self, number: usize, operands: &[u64]) -> bool {
        let fits = self.step(0, number, operands);
        if fits && !self.kernels.contains(&number) {
            self.kernels.push(number);
        }
        fits
    }

    /// Adds a product: left side, right side, result; false where it does not fit.
    pub fn product(&mut self, number: usize, operands: &[u64]) -> bool {
        let fits = self.step(1, number, operands);
        self.products |= fits;
        fits
    }

    /// Adds a copy.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.step(2, 0, &[to, from]);
        self.words.push(bytes as u64);
    }

    /// The words since the last call, if there are any.
    pub fn flush(&mut self) -> Option<(usize, usize)> {
        let (from, to) = (self.run, self.words.len());
        self.run = to;
        (from < to).then_some((from, to))
    }

    /// The words and the loop that reads them; nothing where there are none.
    pub fn source(&self, object: &Object, inner: &str) -> String {
        let mut out = String::new();
        if self.words.is_empty() {
            return out;
        }
        // Every word once, and the steps as their numbers: operands come again in many steps.
        let mut numbers = HashMap::new();
        let (mut values, mut steps) = (Vec::new(), Vec::new());
        for &word in &self.words {
            steps.push(*numbers.entry(word).or_insert_with(|| {
                values.push(word);
                values.len() as u64 - 1
            }));
        }
        let value = table(&mut out, "t_values", &values, u64::from(u16::MAX) + 1);
        let step = table(&mut out, "t_words", &steps, 0);
        line!(
            out,
            "static __attribute__((noinline)) void t_steps(const {step} *s, const {step} *end, void *const *bases, \
             void *const *ports) {{"
        );
        // A kernel of no operands has an array nevertheless.
        line!(out, "    void *a[{}];\n    while (s < end) {{", self.most.max(1));
        line!(
            out,
            "        const {value} head = t_values[*s++], n = head >> 2 & {}u;\n        {value} i;",
            OPERANDS - 1
        );
        line!(out, "        for (i = 0; i < n; i++) {{\n            const {value} x = t_values[*s++];");
        line!(
            out,
            "            a[i] = (x & 3u) == 3u ? ports[x >> 2] : (unsigned char *)bases[x & 3u] + (x >> 2);\n        }}"
        );
        line!(out, "        if ((head & 3u) == 2u) {{ memcpy(a[0], a[1], t_values[*s++]); continue; }}");
        if self.products {
            line!(
                out,
                "        if ((head & 3u) == 1u) {{ t_product_f32(t_products + (head >> 16), a[0], a[1], a[2], bases[3]); \
                 continue; }}"
            );
        }
        line!(out, "        switch (head >> 16) {{");
        for &k in &self.kernels {
            let (rows, cols) = (object.kernels[k].rows, object.kernels[k].cols);
            let function = object.function(k);
            line!(out, "        case {k}: {inner}kernel{function}(a, 0, {rows}, 0, {cols}, bases[3]); break;");
        }
        line!(out, "        default: break;\n        }}\n    }}\n}}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(table: &Table) -> String {
        let object = Object { bytes: Vec::new(), kernels: Vec::new(), of_step: Vec::new(), prims: Vec::new() };
        table.source(&object, "x__")
    }

    #[test]
    fn a_word_is_there_once() {
        let mut table = Table::default();
        assert!(table.product(3, &[word(0, 64), word(1, 64), word(0, 64)]));
        table.copy(word(3, 1), word(0, 64), 100);
        assert_eq!((table.flush(), table.flush()), (Some((0, 8)), None));
        let text = source(&table);
        // Head, two addresses; head of the copy, what the caller gives, bytes.
        assert!(text.contains("uint32_t t_values[] = {\n    196621u,256u,257u,10u,7u,100u,\n}"), "{text}");
        assert!(text.contains("uint16_t t_words[] = {\n    0u,1u,2u,1u,3u,4u,1u,5u,\n}"), "{text}");
        assert!(text.contains("void *a[3]"), "{text}");
    }

    #[test]
    fn addresses_beyond_32_bits_have_wide_words() {
        let mut table = Table::default();
        table.copy(word(0, 1 << 33), word(0, 0), 8);
        assert!(source(&table).contains("uint64_t t_values[]"));
    }

    #[test]
    fn what_a_head_cannot_hold_is_refused() {
        let mut table = Table::default();
        assert!(!table.kernel(NUMBERS, &[0]));
        assert!(!table.kernel(0, &vec![0; OPERANDS]));
        assert!(table.flush().is_none());
        assert!(source(&table).is_empty());
    }
}
