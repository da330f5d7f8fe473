//! Running reductions along a dim. Sums and products of floats accumulate in f64; each result is rounded once.
//!
//! A block scans a line step by step; where lines lie beside each other in memory, or are short, a thread does. Few long lines
//! are cut into parts: one launch folds each part but the last, and each block (thread) of a second one begins with what
//! the parts before its own came to. So no block waits for another, and the order of a fold never depends on timing.

use super::access::{Width, share_memory};
use super::generate::{Gen, Source, around, buffer, simple_grid};
use super::scalar::{
    accumulator, combine, constant, from_accumulator, from_memory, memory_type, to_accumulator, to_memory, value_type,
};
use std::fmt::Write;
use torsh_ir::program::BufId;
use torsh_ir::scalar::ReduceOp;
use torsh_ir::{DType, Error, Result, Scalar};

/// Elements of a thread in one step along a long line.
const EACH: usize = 4;
/// Fewest elements of a part that a block scans.
const BLOCK_PART: usize = 4096;
/// Fewest elements of a part that a thread scans, and threads that keep a multiprocessor busy.
const THREAD_PART: usize = 32;
const BUSY: usize = 256;

/// Folds along `dim`, keeping every partial result.
pub(super) fn scan(g: &mut Gen<'_>, reduce: ReduceOp, dim: usize, x: BufId, out: BufId) -> Result<()> {
    if !matches!(reduce, ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min) {
        return Err(Error::internal(format!("no scan by {}", reduce.name())));
    }
    let ty = g.buffer(x)?.ty.clone();
    let (outer, size, inner) = around(&ty, dim)?;
    if ty.numel() == 0 {
        return Ok(());
    }
    let shared = share_memory(g.program, x, out)?;
    let (wide, start) = accumulator(reduce, ty.dtype);
    let start = match reduce {
        // Keeps the sign of a sum of negative zeros.
        ReduceOp::Sum if ty.dtype.is_float() => constant(Scalar::Float(-0.0), DType::F64),
        _ => start,
    };
    let (lines, processors) = (outer * inner, g.options.processors as usize);
    let by_thread = inner >= 8 || size <= 8;
    let threads = if by_thread { 128 } else { size.div_ceil(EACH).next_power_of_two().clamp(32, 512) };
    let chunk = if by_thread {
        // Before its own part a thread goes through the totals of those before: no more of them than it has elements.
        let parts = (processors * BUSY / lines).min(size / THREAD_PART).min(size.isqrt());
        size.div_ceil(parts.max(1))
    } else {
        let few = lines < processors / 2;
        let parts = if few { (2 * processors / lines).min(size / BLOCK_PART) } else { 1 };
        size.div_ceil(parts.max(1)).next_multiple_of(threads * EACH)
    };
    let parts = size.div_ceil(chunk);
    let s =
        Scan { reduce, dtype: ty.dtype, wide, start, outer, size, inner, parts, chunk, shared, far: g.options.wide };
    let (m, t) = (memory_type(ty.dtype), value_type(wide));
    let grid = |parts: usize| match by_thread {
        true => simple_grid(lines * parts, threads as u32),
        false => [(lines * parts) as u64, 1, 1],
    };
    let source = |stem: &str, params: String, what: What| -> Result<Source> {
        Ok(Source {
            stem: stem.into(),
            params,
            body: if by_thread { s.lines(what)? } else { s.blocks(threads, what)? },
            block: [threads as u32, 1, 1],
            static_shared: if by_thread { 0 } else { (threads / 32 * wide.size()) as u32 },
            ..Source::default()
        })
    };
    let stem = if by_thread { "scan_lines" } else { "scan" };
    let params =
        if shared { format!("const {m}* p0, {m}* p1") } else { format!("const {m}* __restrict__ p0, {m}* p1") };
    let mut args = vec![buffer(x), buffer(out)];
    if parts == 1 {
        return g.launch(source(stem, params, What::Whole)?, grid(1), 0, args);
    }
    let bytes = lines.checked_mul((parts - 1) * wide.size());
    let totals = g.scratch(bytes.ok_or_else(|| Error::limit("scratch memory beyond the address space"))?)?;
    let totals_params = format!("const {m}* __restrict__ p0, {t}* p1");
    g.launch(
        source(&format!("{stem}_totals"), totals_params, What::Totals)?,
        grid(parts - 1),
        0,
        vec![buffer(x), totals.clone()],
    )?;
    args.push(totals);
    let params = format!("{params}, const {t}* __restrict__ p2");
    g.launch(source(&format!("{stem}_parts"), params, What::Parts)?, grid(parts), 0, args)
}

/// What a kernel does along a line.
#[derive(Copy, Clone, PartialEq, Eq)]
enum What {
    /// The whole scan.
    Whole,
    /// Folds each part but the last.
    Totals,
    /// Scans each part, beginning with the totals before it.
    Parts,
}

struct Scan {
    reduce: ReduceOp,
    dtype: DType,
    /// Of the accumulator.
    wide: DType,
    start: String,
    outer: usize,
    size: usize,
    inner: usize,
    /// Parts of a line, and elements of each but the last.
    parts: usize,
    chunk: usize,
    /// The result has the operand's memory.
    shared: bool,
    /// 64-bit positions where 32 would do.
    far: bool,
}

impl Scan {
    fn width(&self) -> Width {
        Width { wide: self.far || self.outer * self.size * self.inner >= 1 << 29 }
    }

    fn load(&self, at: &str) -> String {
        let raw = if self.shared { format!("p0[{at}]") } else { format!("__ldg(p0 + ({at}))") };
        let name = from_memory(self.dtype, &raw);
        to_accumulator(self.reduce, self.dtype, &name)
    }

    fn store(&self, at: &str, x: &str) -> String {
        let y = from_accumulator(self.reduce, self.dtype, x);
        format!("p1[{at}] = {};", to_memory(self.dtype, &y))
    }

    /// The type of positions along a line, with room for a step beyond the end.
    fn along(&self) -> &'static str {
        if self.size < (1 << 31) - 4096 { "int" } else { "long long" }
    }

    /// Where the line and its part begin: `line` numbers `(outer, part, inner)`, or `(outer, inner)` of whole lines.
    /// Defines `first`, `from` and `to`, which are constants of the text of whole lines.
    fn begin(&self, out: &mut String, line: &str, what: What) -> (String, String) {
        let (w, k) = (self.width(), self.along());
        let (u, i, whole) = (w.unsigned(), w.ulit(self.inner), w.ulit(self.size * self.inner));
        if what == What::Whole {
            let _ = writeln!(out, "    const {u} first = {line} / {i} * {whole} + {line} % {i};");
            return ("0".into(), self.size.to_string());
        }
        let parts = self.parts - usize::from(what == What::Totals);
        let _ = writeln!(out, "    const {u} rest = {line} / {i};");
        let _ = writeln!(out, "    const {k} part = ({k})(rest % {});", w.ulit(parts));
        let _ = writeln!(out, "    const {u} first = rest / {} * {whole} + {line} % {i};", w.ulit(parts));
        let _ = writeln!(out, "    const {k} from = part * {};", self.chunk);
        let end = match what {
            What::Totals => format!("from + {}", self.chunk),
            _ => format!("part == {} ? {} : from + {}", parts - 1, self.size, self.chunk),
        };
        let _ = writeln!(out, "    const {k} to = {end};");
        ("from".into(), "to".into())
    }

    /// Folds the totals of the parts before into the accumulator `a`, from left to right.
    fn totals_before(&self, out: &mut String, line: &str, a: &str) -> Result<()> {
        let (w, t) = (self.width(), value_type(self.wide));
        let (u, i) = (w.unsigned(), w.ulit(self.inner));
        let _ = writeln!(
            out,
            "    const {t}* totals_of = p2 + (rest / {} * {} + {line} % {i});",
            w.ulit(self.parts),
            w.ulit((self.parts - 1) * self.inner)
        );
        let _ = writeln!(out, "    #pragma unroll 8\n    for (int q = 0; q < (int)part; ++q) {{");
        let _ = writeln!(out, "        const {t} o = totals_of[({u})q * {i}];");
        let _ = writeln!(out, "        {a} = {};\n    }}", combine(self.reduce, self.wide, a, "o")?);
        Ok(())
    }

    /// A thread a line, or a part of one.
    fn lines(&self, what: What) -> Result<String> {
        let (w, inner) = (self.width(), self.inner);
        let (u, t, k) = (w.unsigned(), value_type(self.wide), self.along());
        let parts = match what {
            What::Whole => 1,
            What::Totals => self.parts - 1,
            What::Parts => self.parts,
        };
        let mut out = String::new();
        let _ = writeln!(out, "    const {u} at = ({u})blockIdx.x * 128u + threadIdx.x;");
        let _ = writeln!(out, "    if (at >= {}) return;", w.ulit(self.outer * inner * parts));
        let (from, to) = self.begin(&mut out, "at", what);
        let _ = writeln!(out, "    {t} a = {};", self.start);
        if what == What::Parts {
            self.totals_before(&mut out, "at", "a")?;
        }
        let _ = writeln!(out, "    #pragma unroll 4\n    for ({k} k = {from}; k < {to}; ++k) {{");
        let _ = writeln!(out, "        const {u} p = first + ({u})k * {};", w.ulit(inner));
        let _ = writeln!(out, "        const {t} x = {};", self.load("p"));
        let _ = writeln!(out, "        a = {};", combine(self.reduce, self.wide, "a", "x")?);
        if what == What::Totals {
            out.push_str("    }\n    p1[at] = a;\n");
        } else {
            let _ = writeln!(out, "        {}\n    }}", self.store("p", "a"));
        }
        Ok(out)
    }

    /// The accumulator of the thread `d` to the left.
    fn of_left(&self, x: &str, d: &str) -> String {
        match self.wide {
            DType::Bool => format!("__shfl_up_sync(0xffffffffu, {x} ? 1 : 0, {d}) != 0"),
            t if t.size() < 4 => format!("({})__shfl_up_sync(0xffffffffu, (int){x}, {d})", value_type(t)),
            _ => format!("__shfl_up_sync(0xffffffffu, {x}, {d})"),
        }
    }

    /// A block a line, or a part of one, step by step along it.
    fn blocks(&self, threads: usize, what: What) -> Result<String> {
        let (w, inner, warps) = (self.width(), self.inner, threads / 32);
        let (u, t, k) = (w.unsigned(), value_type(self.wide), self.along());
        let both = |a: &str, b: &str| combine(self.reduce, self.wide, a, b);
        let mut out = String::new();
        let _ = writeln!(out, "    __shared__ {t} totals[{warps}];");
        let _ = writeln!(out, "    const int lane = (int)(threadIdx.x & 31u);");
        let _ = writeln!(out, "    const int warp = (int)(threadIdx.x >> 5);");
        let _ = writeln!(out, "    const {u} line = blockIdx.x;");
        let (from, to) = self.begin(&mut out, "line", what);
        let _ = writeln!(out, "    {t} carry = {};", self.start);
        if what == What::Parts {
            self.totals_before(&mut out, "line", "carry")?;
        }
        let step = threads * EACH;
        let _ = writeln!(out, "    for ({k} c = {from}; c < {to}; c += {step}) {{");
        let _ = writeln!(out, "        {t} x[{EACH}];\n        {t} sum = {};", self.start);
        let _ = writeln!(out, "        #pragma unroll\n        for (int e = 0; e < {EACH}; ++e) {{");
        let place = format!("const {k} k = c + (int)threadIdx.x * {EACH} + e;");
        let _ = writeln!(out, "            {place}");
        let _ = writeln!(out, "            {t} v = {};", self.start);
        let at = format!("first + ({u})k * {}", w.ulit(inner));
        let _ = writeln!(out, "            if (k < {to}) v = {};", self.load(&at));
        let _ = writeln!(out, "            sum = {};\n            x[e] = sum;\n        }}", both("sum", "v")?);
        let _ = writeln!(out, "        {t} upto = sum;");
        let _ = writeln!(out, "        #pragma unroll\n        for (int d = 1; d < 32; d <<= 1) {{");
        let _ = writeln!(out, "            const {t} left = {};", self.of_left("upto", "d"));
        let _ = writeln!(out, "            upto = lane >= d ? {} : upto;\n        }}", both("left", "upto")?);
        let _ = writeln!(out, "        if (lane == 31) totals[warp] = upto;\n        __syncthreads();");
        if what == What::Totals {
            let _ = writeln!(out, "        for (int q = 0; q < {warps}; ++q) carry = {};", both("carry", "totals[q]")?);
            out.push_str("        __syncthreads();\n    }\n    if (threadIdx.x == 0u) p1[line] = carry;\n");
            return Ok(out);
        }
        let _ = writeln!(out, "        {t} before = carry;");
        let _ = writeln!(out, "        for (int q = 0; q < {warps}; ++q) {{");
        let _ = writeln!(out, "            const {t} o = totals[q];");
        let _ = writeln!(out, "            before = q < warp ? {} : before;", both("before", "o")?);
        let _ = writeln!(out, "            carry = {};\n        }}", both("carry", "o")?);
        let _ = writeln!(out, "        const {t} left = {};", self.of_left("upto", "1"));
        let _ = writeln!(out, "        before = lane > 0 ? {} : before;", both("before", "left")?);
        let _ = writeln!(out, "        #pragma unroll\n        for (int e = 0; e < {EACH}; ++e) {{");
        let _ = writeln!(out, "            {place}");
        let _ = writeln!(out, "            const {t} y = {};", both("before", "x[e]")?);
        let _ = writeln!(out, "            if (k < {to}) {}\n        }}", self.store(&at, "y"));
        let _ = writeln!(out, "        __syncthreads();\n    }}");
        Ok(out)
    }
}
