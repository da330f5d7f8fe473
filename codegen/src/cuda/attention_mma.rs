//! Attention of f16 and bf16 on tensor cores (Dao, FlashAttention-2, 2023): `mma.sync` of 16 x 8 tiles with f32 sums, of
//! rows of up to [`LONGEST`] elements.
//!
//! # The floor
//! Of L queries and S keys, rows of D and values of W elements, a head takes 2 L S (D + W) operations of tensor cores, half
//! of that under a causal mask, and 2 (L D + S (D + W) + L W) bytes of memory: each operand once, the result once. Blocks
//! of queries read the same keys and values, which they find in the second-level cache. In a block, a fragment of keys or
//! values (512 bytes of shared memory for 16 x 16) serves as many tiles of 16 queries as a warp has.
//!
//! # The schedule
//! A warp has one or two tiles of 16 queries for the whole run: queries as fragments in registers, scores, running maximum
//! and sum, the result. A block of keys and one of values lie in shared memory; while a block multiplies the keys the values
//! are on their way, while it multiplies the values the next keys are. Rows in shared memory are 16 bytes longer than
//! they need be, an odd number of 16 bytes: the eight rows that `ldmatrix` reads at once are in different banks.
//! The accumulators of the scores are, two tiles side by side, the left operand of the second product: weights never leave
//! registers. Results of 16 bits go through shared memory, a warp's own rows, to leave in pieces of 16 bytes.
//!
//! # Numbers
//! Scores, maxima, sums and results are f32; queries are not scaled before the product. Weights, between 0 and 1, are
//! rounded to the operands' dtype before they multiply the values, their sum is that of the unrounded ones: half an epsilon
//! of the dtype for each weight. Weights are `ex2.approx` of scores in units of ln 2 (relative error 2^-22). Those of f16 are
//! 2^[`SHIFT`] times as large, which the division takes back: its smallest normal number is 2^-14, and many small weights
//! would be lost from the result and not from their sum. What dropout multiplies kept weights by comes in at the end, so that
//! it makes no weight larger. Elements of the result that are not finite, and rows whose every product is -inf though keys take
//! part, are computed again (`attention_again`).

use super::attention::Call;
use super::attention_again::{Mine, Of, odd};
use super::attention_text::{BODY, END};
use super::generate::{Gen, Source};
use super::scalar::constant;
use std::f64::consts::{LN_2, LOG2_E};
use std::fmt::Write;
use torsh_ir::program::{Attend, BufId, Side};
use torsh_ir::{DType, Error, Result, Scalar};

/// Elements of a row at most; longer ones need more registers than threads have.
pub(super) const LONGEST: usize = 128;
/// Warps of a block.
const WARPS: usize = 4;
const THREADS: usize = 32 * WARPS;
/// Keys of a block.
const KEYS: usize = 64;
const _: () = assert!(KEYS / 8 * 4 <= 32, "dropout has a word of bits for a tile");

/// Weights of f16 are 2 to this times as large as they are.
const SHIFT: i32 = 12;

const INF: &str = "__int_as_float((int)0xff800000u)";

/// Whether the forward pass is taken.
pub(super) fn fits(a: &Attend) -> bool {
    a.dtype.size() == 2 && a.depth.max(a.width) <= LONGEST
}

/// The kernel as it is emitted.
struct Flash<'a> {
    call: Call<'a>,
    /// Tiles of 16 queries of a warp.
    tiles: usize,
    /// Columns of the tiles in shared memory: those of the operands, and zeros up to whole fragments.
    depth: usize,
    width: usize,
}

/// Plans the forward pass.
pub(super) fn step(g: &mut Gen<'_>, a: &Attend, mask: Option<DType>, args: &[BufId], out: BufId) -> Result<()> {
    let s = a.sizes();
    let processors = g.options.processors as usize;
    // Two tiles of longer rows are more than the registers of a thread.
    let two = a.depth.max(a.width) <= 64 && s.batch * s.queries.div_ceil(32 * WARPS) >= processors;
    let tiles = if two { 2 } else { 1 };
    let queries = 16 * tiles * WARPS;
    let flash = Flash {
        call: Call { a, mask, queries, keys: KEYS },
        tiles,
        depth: a.depth.next_multiple_of(16),
        width: a.width.next_multiple_of(16),
    };
    let bytes = flash.bytes();
    let source = Source {
        stem: format!("attention_mma_{}_{queries}x{KEYS}", a.dtype.short()),
        params: flash.call.params(true),
        body: flash.body()?,
        block: [THREADS as u32, 1, 1],
        min_blocks: 2,
        ..Source::default()
    };
    let blocks = s.batch * s.queries.div_ceil(queries);
    g.launch(source, [blocks as u64, 1, 1], bytes as u32, flash.call.args(args, out))
}

/// Whether rows of `cols` elements can be copied 16 bytes at a time.
fn pieces(side: &Side, cols: usize) -> bool {
    let whole = |x: i64| x % 8 == 0;
    side.col == 1
        && cols.is_multiple_of(8)
        && whole(side.row)
        && whole(side.offset)
        && side.batch.iter().all(|&b| whole(b))
}

/// A text with the names `$name` replaced.
fn fill(text: &str, names: &[(&str, String)]) -> String {
    let mut out = text.to_string();
    // Longer names first: one may begin like another.
    let mut names: Vec<_> = names.iter().collect();
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in names {
        out = out.replace(&format!("${name}"), value);
    }
    out
}

impl Flash<'_> {
    /// Elements from row to row of queries, keys and values in shared memory.
    fn pitches(&self) -> [usize; 3] {
        // The result takes the place of the queries.
        [self.depth.max(self.width) + 8, self.depth + 8, self.width + 8]
    }

    /// Where keys and values begin, and the end.
    fn places(&self) -> [usize; 3] {
        let [q, k, v] = self.pitches();
        let keys = self.call.queries * q;
        let values = keys + KEYS * k;
        [keys, values, values + KEYS * v].map(|elements| 2 * elements)
    }

    fn bytes(&self) -> usize {
        self.places()[2]
    }

    /// Scores stay as the product gives them, and their factor comes in with the exponential: without numbers to add, and
    /// where the largest product is the largest score.
    fn unscaled(&self) -> bool {
        self.call.mask.is_none_or(|m| m == DType::Bool) && self.call.a.scale.as_f64() > 0.0
    }

    /// By what power of two weights are larger.
    fn shift(&self) -> i32 {
        if self.call.a.dtype == DType::F16 { SHIFT } else { 0 }
    }

    /// Statements that bring rows from `first` on to shared memory at `place`: 16 bytes at a time in the background where the
    /// operand allows that. What is outside becomes 0.
    fn copy(
        &self,
        name: &str,
        (first, rows, end): (&str, usize, usize),
        (place, pitch): (usize, usize),
    ) -> Result<String> {
        let side = self.call.side(name).ok_or_else(|| Error::internal(format!("an attention without {name}")))?;
        let (cols, padded) =
            if name == "v" { (self.call.a.width, self.width) } else { (self.call.a.depth, self.depth) };
        let fast = pieces(side, cols);
        let (chunks, text) = match fast {
            true => (
                padded / 8,
                "        const bool there = $first + r < $end && c < $chunks;
        t_copy16(base + $placeu + 2u * (unsigned)(r * $pitch + c * 8), there ? $name + ((long long)($first + r) * ($rowll) + c * 8) : $name, there ? 16u : 0u);
",
            ),
            false => (
                padded,
                "        unsigned short x = 0;
        if ($first + r < $end && c < $cols) x = __ldg($name + ((long long)($first + r) * ($rowll) + (long long)c * ($colll)));
        *(unsigned short*)(room + $place + 2 * (r * $pitch + c)) = x;
",
            ),
        };
        // Neighbouring threads along the smaller stride.
        let (r, c) = if fast || side.col.abs() <= side.row.abs() {
            (format!("i / {chunks}"), format!("i % {chunks}"))
        } else {
            (format!("i % {rows}"), format!("i / {rows}"))
        };
        let head = format!(
            "    #pragma unroll{}\n    for (int i = tid; i < {}; i += {THREADS}) {{\n        const int r = {r};\n        const int c = {c};\n",
            if fast { "" } else { " 1" },
            rows * chunks
        );
        let names = [
            ("first", first.to_string()),
            ("end", end.to_string()),
            ("chunks", (cols / 8).to_string()),
            ("cols", cols.to_string()),
            ("place", place.to_string()),
            ("pitch", pitch.to_string()),
            ("name", name.to_string()),
            ("row", side.row.to_string()),
            ("col", side.col.to_string()),
        ];
        Ok(head + &fill(text, &names) + "    }\n")
    }

    fn body(&self) -> Result<String> {
        let (a, s) = (self.call.a, self.call.a.sizes());
        let (nq, [pq, pk, pv], [keys_at, values_at, _]) = (self.call.queries, self.pitches(), self.places());
        let blocks = s.queries.div_ceil(nq);
        let mut names = vec!["q", "k", "v"];
        names.extend(a.mask.then_some("mask"));
        let end = match a.causal {
            true => format!("(q0 + {nq} < {0} ? q0 + {nq} : {0})", s.keys),
            false => s.keys.to_string(),
        };
        // Under a causal mask the last queries have the most keys: they begin first.
        let block = if a.causal {
            format!("({} - (int)(blockIdx.x % {blocks}u))", blocks - 1)
        } else {
            format!("(int)(blockIdx.x % {blocks}u)")
        };
        let f32s = |x: f64| constant(Scalar::Float(x), DType::F32);
        let unit = if self.unscaled() { f32s(a.scale.as_f64() * LOG2_E) } else { f32s(LOG2_E) };
        let call = if a.dtype == DType::F16 { "f16" } else { "bf16" };
        let all = [
            ("queries", s.queries.to_string()),
            ("tiles", self.tiles.to_string()),
            ("rows", (2 * self.tiles).to_string()),
            ("span", (16 * self.tiles).to_string()),
            ("depth", self.depth.to_string()),
            ("steps", (self.depth / 16).to_string()),
            ("nk", KEYS.to_string()),
            ("scores", (KEYS / 8).to_string()),
            ("values", (self.width / 8).to_string()),
            ("blocks", blocks.to_string()),
            ("block", block),
            ("nq", nq.to_string()),
            ("pq", pq.to_string()),
            ("pk", pk.to_string()),
            ("pv", pv.to_string()),
            ("ks", keys_at.to_string()),
            ("vs", values_at.to_string()),
            ("end", end),
            ("inf", INF.to_string()),
            ("unit", unit),
            ("dtype", call.to_string()),
            ("pointers", self.call.pointers(&names)?),
            ("seed", self.call.seed()),
            ("copy_q", self.copy("q", ("q0", nq, s.queries), (0, pq))?),
            ("copy_first", self.copy("k", ("0", KEYS, s.keys), (keys_at, pk))?),
            ("copy_k", self.copy("k", ("next", KEYS, s.keys), (keys_at, pk))?),
            ("copy_v", self.copy("v", ("k0", KEYS, s.keys), (values_at, pv))?),
            ("masks", self.masks()),
            (
                "exponent",
                match (self.unscaled(), self.shift()) {
                    (true, _) => "__fmaf_rn(x, $unit, -less[i])".to_string(),
                    (false, 0) => "__fmul_rn(__fsub_rn(x, less[i]), $unit)".to_string(),
                    (false, n) => format!("__fmaf_rn(__fsub_rn(x, less[i]), $unit, {})", f32s(f64::from(n))),
                },
            ),
            (
                "less",
                match (self.unscaled(), self.shift()) {
                    (false, _) => "level".to_string(),
                    (true, 0) => "__fmul_rn(level, $unit)".to_string(),
                    (true, n) => format!("__fmaf_rn(level, $unit, {})", f32s(f64::from(-n))),
                },
            ),
            (
                "rescale",
                match self.unscaled() {
                    true => "__fsub_rn(before, less[i])",
                    false => "__fmul_rn(__fsub_rn(before, less[i]), $unit)",
                }
                .to_string(),
            ),
            ("low", if a.mask { "    unsigned low = 0u;\n" } else { "" }.to_string()),
            ("dropped", self.dropped()),
        ];
        // Names in names.
        let mut out = fill(&fill(BODY, &all), &all);
        self.finish(&mut out)?;
        Ok(out)
    }

    /// Statements that scale and mask the scores, where there is anything to do.
    fn masks(&self) -> String {
        let (a, s) = (self.call.a, self.call.a.sizes());
        let mut each = String::new();
        if !self.unscaled() {
            let scale = constant(Scalar::Float(a.scale.as_f64()), DType::F32);
            let _ = writeln!(each, "                s = __fmul_rn(s, {scale});");
        }
        each.push_str(&self.call.masked("                "));
        if let Some(taken) = self.call.taken() {
            let _ = writeln!(each, "                if (s == {INF} && {taken}) low |= 1u << (r * 2 + (e >> 1));");
        }
        let rows = if a.mask { format!("row < {} && ", s.queries) } else { String::new() };
        // Only the last keys are beyond the end, only those from the first query on are hidden.
        let mut when = Vec::new();
        if !s.keys.is_multiple_of(KEYS) {
            when.push(format!("k0 + {KEYS} > {}", s.keys));
        }
        if a.causal {
            when.push(format!("k0 + {KEYS} > own + 1"));
        }
        let always = a.mask || !self.unscaled();
        let guard = match (always, when.is_empty()) {
            (true, _) => String::new(),
            (false, true) => return String::new(),
            (false, false) => format!("if ({}) ", when.join(" || ")),
        };
        let keys = s.keys;
        let row = match a.mask || a.causal {
            true => "                const int row = own + r * 16 + group + (e >> 1) * 8;\n",
            false => "",
        };
        format!(
            "        {guard}{{
            #pragma unroll
            for (int at = 0; at < $tiles * $scores * 4; ++at) {{
                const int r = at / ($scores * 4);
                const int c = at / 4 % $scores;
                const int e = at % 4;
{row}                const int key = k0 + c * 8 + place * 2 + (e & 1);
                const bool inside = {rows}key < {keys};
                float s = sc[r][c][e];
{each}                sc[r][c][e] = s;
            }}
        }}
"
        )
    }

    /// Statements that drop weights: a bit for each of a tile of queries, so that the random stream is computed in a short
    /// loop.
    fn dropped(&self) -> String {
        let Some(kept) = self.call.kept() else { return String::new() };
        format!(
            "        #pragma unroll
        for (int r = 0; r < $tiles; ++r) {{
            unsigned bits = 0u;
            #pragma unroll 1
            for (int at = 0; at < $scores * 4; ++at) {{
                const int row = own + r * 16 + group + (at >> 1 & 1) * 8;
                const int key = k0 + (at >> 2) * 8 + place * 2 + (at & 1);
                bits |= ({kept} ? 1u : 0u) << at;
            }}
            #pragma unroll
            for (int at = 0; at < $scores * 4; ++at) sc[r][at / 4][at % 4] = (bits >> at & 1u) != 0u ? sc[r][at / 4][at % 4] : 0.0f;
        }}
"
        )
    }

    /// Divides by the sums and stores.
    fn finish(&self, out: &mut String) -> Result<()> {
        let (a, s) = (self.call.a, self.call.a.sizes());
        let none = if s.keys == 0 || (a.safe && a.mask) { "0.0f" } else { "__int_as_float(0x7fc00000)" };
        let factor = if a.dropout.as_f64() > 0.0 { a.options().factor() } else { 1.0 };
        let sum = match self.shift() {
            0 => "total".to_string(),
            n => format!("__fmul_rn(total, {})", constant(Scalar::Float(2f64.powi(-n)), DType::F32)),
        };
        let top = match self.unscaled() {
            // In units of ln 2, rounded as in the exponents.
            true => {
                let less = match self.shift() {
                    0 => "less[i]".to_string(),
                    n => format!("__fadd_rn(less[i], {})", constant(Scalar::Float(f64::from(n)), DType::F32)),
                };
                format!("__fmaf_rn({less}, {}, t_log({sum}))", constant(Scalar::Float(LN_2), DType::F32))
            }
            false => format!("__fadd_rn(top[i], t_log({sum}))"),
        };
        let logarithms = match a.lse {
            true => format!(
                "        if (place == 0 && row < {}) out[{}ll + (long long)batch * {}ll + row] = none ? {INF} : {top};\n",
                s.queries,
                s.batch as u64 * s.queries as u64 * s.width as u64,
                s.queries
            ),
            false => String::new(),
        };
        let through = a.result(true).size() == 2;
        let store = match (through, s.width.is_multiple_of(2)) {
            (true, _) => {
                "                *(unsigned*)(room + 2 * (at * $pq + c * 8 + place * 2)) = t_pack_$dtype(y0, y1);
"
            }
            (false, true) => {
                "                if (row < $queries && col < $width) *(float2*)(to + col) = make_float2(y0, y1);
"
            }
            (false, false) => {
                "                if (row < $queries && col < $width) to[col] = y0;
                if (row < $queries && col + 1 < $width) to[col + 1] = y1;
"
            }
        };
        let (last, piece) = match (through, s.width.is_multiple_of(8)) {
            (false, _) => ("", 1),
            (true, true) => (
                "    __syncwarp();
    #pragma unroll
    for (int i = lane; i < $span * $pieces; i += 32) {
        const int r = i / $pieces;
        const int c = i % $pieces * 8;
        if (own + r < $queries) *(uint4*)(out + (((long long)batch * $queriesll + own + r) * $widthll + c)) = *(const uint4*)(room + 2 * ((warp * $span + r) * $pq + c));
    }
    __syncwarp();
",
                8,
            ),
            (true, false) => (
                "    __syncwarp();
    #pragma unroll 1
    for (int i = lane; i < $span * $width; i += 32) {
        const int r = i / $width;
        const int c = i % $width;
        if (own + r < $queries) out[((long long)batch * $queriesll + own + r) * $widthll + c] = *(const unsigned short*)(room + 2 * ((warp * $span + r) * $pq + c));
    }
    __syncwarp();
",
                1,
            ),
        };
        let names = [
            ("rows", (2 * self.tiles).to_string()),
            ("span", (16 * self.tiles).to_string()),
            ("values", (self.width / 8).to_string()),
            ("queries", s.queries.to_string()),
            ("width", s.width.to_string()),
            ("pieces", (s.width / piece).to_string()),
            ("pq", self.pitches()[0].to_string()),
            ("dtype", if a.dtype == DType::F16 { "f16" } else { "bf16" }.to_string()),
            ("none", none.to_string()),
            ("inf", INF.to_string()),
            ("factor", constant(Scalar::Float(factor), DType::F32)),
            (
                "lost",
                match (s.keys, a.mask) {
                    (0, _) => "false",
                    (_, false) => "none",
                    (_, true) => "none && (low >> i & 1u) != 0u",
                }
                .to_string(),
            ),
            (
                "join",
                match a.mask {
                    true => {
                        "    low |= __shfl_xor_sync(0xffffffffu, low, 1);
    low |= __shfl_xor_sync(0xffffffffu, low, 2);
"
                    }
                    false => "",
                }
                .to_string(),
            ),
            ("odd0", odd("y0")),
            ("odd1", odd("y1")),
            ("logarithms", logarithms),
            ("store", store.to_string()),
            (
                "row",
                if through && !a.lse { "" } else { "        const int row = own - warp * $span + at;\n" }.to_string(),
            ),
            (
                "to",
                if through {
                    ""
                } else {
                    "        float* const to = out + ((long long)batch * $queriesll + row) * $widthll;\n"
                }
                .to_string(),
            ),
            ("last", last.to_string()),
        ];
        out.push_str(&fill(&fill(END, &names), &names));
        let mine = Mine {
            odds: "odds".to_string(),
            row: "own + (i >> 1) * 16 + group + (i & 1) * 8".to_string(),
            col: "(j >> 1) * 8 + place * 2 + (j & 1)".to_string(),
            counts: (2 * self.tiles, self.width / 4),
            extents: (s.queries, s.width),
            first: 0,
        };
        self.call.again(out, Of::Forward, &mine)
    }
}
