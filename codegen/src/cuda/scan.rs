//! Running reductions along a dim. Sums and products of floats accumulate in f64; each result is rounded once.

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
    let s = Scan { reduce, dtype: ty.dtype, wide, start, outer, size, inner, shared, far: g.options.wide };
    let m = memory_type(ty.dtype);
    let params =
        if shared { format!("const {m}* p0, {m}* p1") } else { format!("const {m}* __restrict__ p0, {m}* p1") };
    let args = vec![buffer(x), buffer(out)];
    if inner >= 8 || size <= 8 {
        let source =
            Source { stem: "scan_lines".into(), params, body: s.lines()?, block: [128, 1, 1], ..Source::default() };
        return g.launch(source, simple_grid(outer * inner, 128), 0, args);
    }
    let threads = size.div_ceil(EACH).next_power_of_two().clamp(32, 512);
    let source = Source {
        stem: "scan".into(),
        params,
        body: s.blocks(threads)?,
        block: [threads as u32, 1, 1],
        static_shared: (threads / 32 * wide.size()) as u32,
        ..Source::default()
    };
    g.launch(source, [(outer * inner) as u64, 1, 1], 0, args)
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

    /// A thread a line.
    fn lines(&self) -> Result<String> {
        let (w, inner) = (self.width(), self.inner);
        let (u, t) = (w.unsigned(), value_type(self.wide));
        let mut out = String::new();
        let _ = writeln!(out, "    const {u} at = ({u})blockIdx.x * 128u + threadIdx.x;");
        let _ = writeln!(out, "    if (at >= {}) return;", w.ulit(self.outer * inner));
        let _ = writeln!(
            out,
            "    const {u} first = at / {i} * {} + at % {i};",
            w.ulit(self.size * inner),
            i = w.ulit(inner)
        );
        let _ = writeln!(out, "    {t} a = {};", self.start);
        let _ = writeln!(out, "    #pragma unroll 4\n    for (int k = 0; k < {}; ++k) {{", self.size);
        let _ = writeln!(out, "        const {u} p = first + ({u})k * {};", w.ulit(inner));
        let _ = writeln!(out, "        const {t} x = {};", self.load("p"));
        let _ = writeln!(out, "        a = {};", combine(self.reduce, self.wide, "a", "x")?);
        let _ = writeln!(out, "        {}\n    }}", self.store("p", "a"));
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

    /// A block a line, step by step along it.
    fn blocks(&self, threads: usize) -> Result<String> {
        let (w, inner, warps) = (self.width(), self.inner, threads / 32);
        let (u, t) = (w.unsigned(), value_type(self.wide));
        let both = |a: &str, b: &str| combine(self.reduce, self.wide, a, b);
        let mut out = String::new();
        let _ = writeln!(out, "    __shared__ {t} totals[{warps}];");
        let _ = writeln!(out, "    const int lane = (int)(threadIdx.x & 31u);");
        let _ = writeln!(out, "    const int warp = (int)(threadIdx.x >> 5);");
        let _ = writeln!(out, "    const {u} line = blockIdx.x;");
        let _ = writeln!(
            out,
            "    const {u} first = line / {i} * {} + line % {i};",
            w.ulit(self.size * inner),
            i = w.ulit(inner)
        );
        let _ = writeln!(out, "    {t} carry = {};", self.start);
        let step = threads * EACH;
        let _ = writeln!(out, "    for (int c = 0; c < {}; c += {step}) {{", self.size);
        let _ = writeln!(out, "        {t} x[{EACH}];\n        {t} sum = {};", self.start);
        let _ = writeln!(out, "        #pragma unroll\n        for (int e = 0; e < {EACH}; ++e) {{");
        let _ = writeln!(out, "            const int k = c + (int)threadIdx.x * {EACH} + e;");
        let _ = writeln!(out, "            {t} v = {};", self.start);
        let at = format!("first + ({u})k * {}", w.ulit(inner));
        let _ = writeln!(out, "            if (k < {}) v = {};", self.size, self.load(&at));
        let _ = writeln!(out, "            sum = {};\n            x[e] = sum;\n        }}", both("sum", "v")?);
        let _ = writeln!(out, "        {t} upto = sum;");
        let _ = writeln!(out, "        #pragma unroll\n        for (int d = 1; d < 32; d <<= 1) {{");
        let _ = writeln!(out, "            const {t} left = {};", self.of_left("upto", "d"));
        let _ = writeln!(out, "            upto = lane >= d ? {} : upto;\n        }}", both("left", "upto")?);
        let _ = writeln!(out, "        if (lane == 31) totals[warp] = upto;\n        __syncthreads();");
        let _ = writeln!(out, "        {t} before = carry;");
        let _ = writeln!(out, "        for (int q = 0; q < {warps}; ++q) {{");
        let _ = writeln!(out, "            const {t} o = totals[q];");
        let _ = writeln!(out, "            before = q < warp ? {} : before;", both("before", "o")?);
        let _ = writeln!(out, "            carry = {};\n        }}", both("carry", "o")?);
        let _ = writeln!(out, "        const {t} left = {};", self.of_left("upto", "1"));
        let _ = writeln!(out, "        before = lane > 0 ? {} : before;", both("before", "left")?);
        let _ = writeln!(out, "        #pragma unroll\n        for (int e = 0; e < {EACH}; ++e) {{");
        let _ = writeln!(out, "            const int k = c + (int)threadIdx.x * {EACH} + e;");
        let _ = writeln!(out, "            const {t} y = {};", both("before", "x[e]")?);
        let _ = writeln!(out, "            if (k < {}) {}\n        }}", self.size, self.store(&at, "y"));
        let _ = writeln!(out, "        __syncthreads();\n    }}");
        Ok(out)
    }
}
