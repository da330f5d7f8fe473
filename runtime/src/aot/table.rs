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

/// Words of the step that begins with one, which are its head, operands, and the size of a copy.
pub(super) fn length(head: u64) -> usize {
    1 + (head as usize >> 2) % OPERANDS + usize::from(head & 3 == COPY)
}

/// What steps of one kind and number have in common, as a number below [`Table::heads`]: `T_HEAD` in C.
pub(super) fn head(head: u64) -> u64 {
    head >> 16 << 2 | head & 3
}

/// Kinds of steps.
const KERNEL: u64 = 0;
const PRODUCT: u64 = 1;
const COPY: u64 = 2;

/// Writes a table.
fn table(out: &mut String, ty: &str, name: &str, numbers: &[u64]) {
    line!(*out, "static const {ty} {name}[] = {{");
    for numbers in numbers.chunks(12) {
        let numbers: String = numbers.iter().map(|n| format!("{n}u,")).collect();
        line!(*out, "    {numbers}");
    }
    line!(*out, "}};");
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
        let fits = self.step(KERNEL, number, operands);
        if fits && !self.kernels.contains(&number) {
            self.kernels.push(number);
        }
        fits
    }

    /// Adds a product: left side, right side, result; false where it does not fit.
    pub fn product(&mut self, number: usize, operands: &[u64]) -> bool {
        let fits = self.step(PRODUCT, number, operands);
        self.products |= fits;
        fits
    }

    /// Adds a copy.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.step(COPY, 0, &[to, from]);
        self.words.push(bytes as u64);
    }

    /// The words since the last call, if there are any.
    pub fn flush(&mut self) -> Option<(usize, usize)> {
        let (from, to) = (self.run, self.words.len());
        self.run = to;
        (from < to).then_some((from, to))
    }

    /// All words.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// One more than the most that [`head`] makes of a head.
    pub fn heads(&self) -> u64 {
        let (mut at, mut heads) = (0, 1);
        while let Some(&first) = self.words.get(at) {
            heads = heads.max(head(first) + 1);
            at += length(first);
        }
        heads
    }

    /// Every word once, and the steps as their numbers: operands come again in many steps.
    fn numbered(&self) -> (Vec<u64>, Vec<u64>) {
        let mut numbers = HashMap::new();
        let (mut values, mut steps) = (Vec::new(), Vec::new());
        for &word in &self.words {
            steps.push(*numbers.entry(word).or_insert_with(|| {
                values.push(word);
                values.len() as u64 - 1
            }));
        }
        (values, steps)
    }

    /// Bytes of the tables of [`Table::plain`], whose words have `bytes`.
    pub fn plain_bytes(&self, bytes: usize) -> usize {
        let (values, steps) = self.numbered();
        values.len() * bytes + steps.len() * if values.len() > 1 << 16 { 4 } else { 2 }
    }

    /// The words as tables; nothing where there are none.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        let (values, steps) = self.numbered();
        if !steps.is_empty() {
            table(&mut out, "t_word", "t_values", &values);
            line!(out, "typedef uint{}_t t_step;", if values.len() > 1 << 16 { 32 } else { 16 });
            table(&mut out, "t_step", "t_words", &steps);
            line!(out, "#define T_WORD(s) t_values[*(s)++]");
        }
        out
    }

    /// The loop that reads the words; nothing where there are none.
    pub fn runner(&self, object: &Object, inner: &str) -> String {
        let mut out = String::new();
        if self.words.is_empty() {
            return out;
        }
        line!(
            out,
            "static __attribute__((noinline)) void t_steps(const t_step *s, const t_step *end, void *const *bases, \
             void *const *ports) {{"
        );
        // A kernel of no operands has an array nevertheless.
        line!(out, "    void *a[{}];\n    while (s < end) {{", self.most.max(1));
        line!(out, "        const t_word head = T_WORD(s), n = head >> 2 & {}u;\n        t_word i;", OPERANDS - 1);
        line!(out, "        for (i = 0; i < n; i++) {{\n            const t_word x = T_WORD(s);");
        line!(
            out,
            "            a[i] = (x & 3u) == 3u ? ports[x >> 2] : (unsigned char *)bases[x & 3u] + (x >> 2);\n        }}"
        );
        line!(out, "        if ((head & 3u) == 2u) {{ memcpy(a[0], a[1], T_WORD(s)); continue; }}");
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

    #[test]
    fn a_word_is_there_once() {
        let mut table = Table::default();
        assert!(table.product(3, &[word(0, 64), word(1, 64), word(0, 64)]));
        table.copy(word(3, 1), word(0, 64), 100);
        assert_eq!((table.flush(), table.flush()), (Some((0, 8)), None));
        let text = table.plain();
        // Head, two addresses; head of the copy, what the caller gives, bytes.
        assert!(text.contains("t_word t_values[] = {\n    196621u,256u,257u,10u,7u,100u,\n}"), "{text}");
        assert!(text.contains("t_step t_words[] = {\n    0u,1u,2u,1u,3u,4u,1u,5u,\n}"), "{text}");
        assert_eq!(table.plain_bytes(4), 6 * 4 + 8 * 2);
        let object = Object { bytes: Vec::new(), kernels: Vec::new(), of_step: Vec::new(), prims: Vec::new() };
        assert!(table.runner(&object, "x__").contains("void *a[3]"));
    }

    #[test]
    fn lengths_and_heads_are_those_of_the_steps() {
        let mut table = Table::default();
        assert!(table.kernel(7, &[0, 0]));
        assert!(table.product(3, &[0, 0, 0]));
        table.copy(0, 0, 8);
        let [kernel, product, copy] = [0, 3, 7].map(|i| table.words[i]);
        assert_eq!([length(kernel), length(product), length(copy)], [3, 4, 4]);
        assert_eq!([head(kernel), head(product), head(copy)], [28, 13, 2]);
        assert_eq!(table.heads(), 29);
    }

    #[test]
    fn what_a_head_cannot_hold_is_refused() {
        let mut table = Table::default();
        assert!(!table.kernel(NUMBERS, &[0]));
        assert!(!table.kernel(0, &vec![0; OPERANDS]));
        assert!(table.flush().is_none());
        assert!(table.plain().is_empty());
    }
}
