//! Stable argsort: elements become integers that order as they do (NaN last, both zeros equal), and (integer, position)
//! pairs, which are all different, are sorted. Short lines are sorted in shared memory by a bitonic network; long ones in
//! pieces, which are merged pairwise: each element finds its place in the other piece by binary search.

use super::LaunchArg;
use super::generate::{Gen, Source, around, buffer, simple_grid};
use super::scalar::{from_memory, memory_type, widen};
use std::fmt::Write;
use torsh_ir::program::BufId;
use torsh_ir::{DType, Error, Result};

/// Elements sorted in shared memory.
const PIECE: usize = 1024;

/// Lines of `size` elements along a dim.
#[derive(Copy, Clone)]
pub(super) struct Lines {
    /// Extents before the dim.
    pub outer: usize,
    /// The dim's.
    pub size: usize,
    /// Extents after it.
    pub inner: usize,
}

/// Positions along `dim` that sort `x`.
pub(super) fn argsort(g: &mut Gen<'_>, dim: usize, descending: bool, x: BufId, out: BufId) -> Result<()> {
    let ty = g.buffer(x)?.ty.clone();
    let (outer, size, inner) = around(&ty, dim)?;
    positions(g, ty.dtype, descending, Lines { outer, size, inner }, buffer(x), buffer(out))
}

/// C type of keys.
fn key_type(dtype: DType) -> (&'static str, usize) {
    match dtype {
        DType::I64 | DType::F64 => ("unsigned long long", 8),
        _ => ("unsigned", 4),
    }
}

/// Statements that define `key` from the element `x` in memory.
fn key(dtype: DType, descending: bool, x: &str) -> String {
    let (t, _) = key_type(dtype);
    let e = from_memory(dtype, x);
    let up = match dtype {
        DType::Bool => format!("{t} key = {e} ? 1u : 0u;"),
        DType::U8 => format!("{t} key = {e};"),
        DType::I8 | DType::I16 | DType::I32 => format!("{t} key = (unsigned)(int){e} ^ 0x80000000u;"),
        DType::I64 => format!("{t} key = (unsigned long long){e} ^ 0x8000000000000000ull;"),
        // Adding zero makes -0.0 the other zero; then negative numbers order backwards.
        DType::F16 | DType::BF16 | DType::F32 => format!(
            "const float value = {}; const unsigned bits = (unsigned)__float_as_int(__fadd_rn(value, 0.0f)); \
             {t} key = value != value ? 0xffffffffu : (bits >> 31) != 0u ? ~bits : bits | 0x80000000u;",
            widen(dtype, &e)
        ),
        DType::F64 => format!(
            "const double value = {e}; const unsigned long long bits = (unsigned long long)__double_as_longlong(__dadd_rn(value, 0.0)); \
             {t} key = value != value ? 0xffffffffffffffffull : (bits >> 63) != 0ull ? ~bits : bits | 0x8000000000000000ull;"
        ),
    };
    if descending { format!("{up} key = ~key;") } else { up }
}

/// Sorts every line; `out` receives positions as i64 in the layout of `x`.
pub(super) fn positions(
    g: &mut Gen<'_>,
    dtype: DType,
    descending: bool,
    lines: Lines,
    x: LaunchArg,
    out: LaunchArg,
) -> Result<()> {
    let Lines { outer, size, inner } = lines;
    let count = outer * inner;
    if count == 0 || size == 0 {
        return Ok(());
    }
    if size >= i32::MAX as usize {
        return Err(Error::compile(format!("sorting lines of {size} elements")));
    }
    let s = Sort { dtype, descending, size, inner };
    let pieces = size.div_ceil(PIECE);
    if pieces == 1 {
        return g.launch(s.pieces(size.next_power_of_two().max(2), true), [count as u64, 1, 1], 0, vec![x, out]);
    }
    let total = count.checked_mul(size);
    let bytes = |each: usize| {
        total.and_then(|t| t.checked_mul(each)).ok_or_else(|| Error::limit("scratch memory beyond the address space"))
    };
    let key_bytes = bytes(key_type(dtype).1)?;
    let mut here = (g.scratch(key_bytes)?, g.scratch(bytes(4)?)?);
    // The last merge writes the result: one alone needs no second copy.
    let mut there = if pieces > 2 { (g.scratch(key_bytes)?, g.scratch(bytes(4)?)?) } else { here.clone() };
    let blocks = [(count * pieces) as u64, 1, 1];
    g.launch(s.pieces(PIECE, false), blocks, 0, vec![x, here.0.clone(), here.1.clone()])?;
    let mut run = PIECE;
    while run < size {
        let last = 2 * run >= size;
        let grid = simple_grid(count * size, 256);
        let mut args = vec![here.0.clone(), here.1.clone()];
        if last {
            args.push(out.clone());
        } else {
            args.extend([there.0.clone(), there.1.clone()]);
        }
        args.push(LaunchArg::U32(run as u32));
        g.launch(s.merge(count * size, last), grid, 0, args)?;
        std::mem::swap(&mut here, &mut there);
        run *= 2;
    }
    Ok(())
}

struct Sort {
    dtype: DType,
    descending: bool,
    size: usize,
    inner: usize,
}

impl Sort {
    /// Sorts pieces of `n` elements, a power of two; `whole` lines go to the result, others to keys and positions.
    fn pieces(&self, n: usize, whole: bool) -> Source {
        let ((t, bytes), m) = (key_type(self.dtype), memory_type(self.dtype));
        let threads = (n / 2).clamp(32, 512);
        let pieces = self.size.div_ceil(n);
        let (size, inner) = (self.size, self.inner);
        let mut out = String::new();
        let _ = writeln!(out, "    __shared__ {t} keys[{n}];\n    __shared__ unsigned places[{n}];");
        let _ = writeln!(out, "    const long long line = blockIdx.x / {pieces}u;");
        let _ = writeln!(out, "    const int start = (int)(blockIdx.x % {pieces}u) * {n};");
        let _ = writeln!(
            out,
            "    const long long first = line / {inner}ll * {}ll + line % {inner}ll;",
            size as u64 * inner as u64
        );
        let _ = writeln!(out, "    for (int i = (int)threadIdx.x; i < {n}; i += {threads}) {{");
        let _ = writeln!(out, "        {t} sortable = ({t})0 - 1;");
        let _ = writeln!(out, "        if (start + i < {size}) {{");
        let load = format!("__ldg(p0 + (first + (long long)(start + i) * {inner}ll))");
        let _ = writeln!(out, "            {}", key(self.dtype, self.descending, &load));
        let _ = writeln!(out, "            sortable = key;\n        }}");
        let _ = writeln!(out, "        keys[i] = sortable;\n        places[i] = (unsigned)(start + i);\n    }}");
        out.push_str("    __syncthreads();\n");
        let _ = writeln!(out, "    for (int k = 2; k <= {n}; k <<= 1) {{");
        let _ = writeln!(out, "        for (int j = k >> 1; j > 0; j >>= 1) {{");
        let _ = writeln!(out, "            for (int q = (int)threadIdx.x; q < {}; q += {threads}) {{", n / 2);
        out.push_str(
            "                const int a = 2 * q - (q & (j - 1));
                const int b = a + j;
                const bool up = (a & k) == 0;
",
        );
        let _ = writeln!(out, "                const {t} ka = keys[a];\n                const {t} kb = keys[b];");
        out.push_str(
            "                const unsigned pa = places[a];
                const unsigned pb = places[b];
                const bool after = ka != kb ? ka > kb : pa > pb;
                if (after == up) {
                    keys[a] = kb;
                    keys[b] = ka;
                    places[a] = pb;
                    places[b] = pa;
                }
            }
            __syncthreads();
        }
    }
",
        );
        let _ = writeln!(out, "    for (int i = (int)threadIdx.x; i < {n}; i += {threads}) {{");
        let _ = writeln!(out, "        if (start + i < {size}) {{");
        if whole {
            let _ = writeln!(out, "            p1[first + (long long)i * {inner}ll] = (long long)places[i];");
        } else {
            let _ = writeln!(out, "            const long long to = line * {size}ll + start + i;");
            out.push_str("            p1[to] = keys[i];\n            p2[to] = places[i];\n");
        }
        out.push_str("        }\n    }\n");
        let results = if whole { "long long* p1".to_string() } else { format!("{t}* p1, unsigned* p2") };
        Source {
            stem: "sort".to_string(),
            params: format!("const {m}* __restrict__ p0, {results}"),
            body: out,
            block: [threads as u32, 1, 1],
            static_shared: (n * (bytes + 4)) as u32,
            ..Source::default()
        }
    }

    /// Merges neighbouring runs of `run` elements; the `last` time only positions are wanted.
    fn merge(&self, total: usize, last: bool) -> Source {
        let (t, _) = key_type(self.dtype);
        let (size, inner) = (self.size, self.inner);
        let mut out = String::new();
        let _ = writeln!(out, "    const unsigned long long at = (unsigned long long)blockIdx.x * 256u + threadIdx.x;");
        let _ = writeln!(out, "    if (at >= {total}ull) return;");
        let _ = writeln!(out, "    const long long line = (long long)(at / {size}ull);");
        let _ = writeln!(out, "    const unsigned i = (unsigned)(at % {size}ull);");
        let _ = writeln!(out, "    const unsigned mine = i / run;\n    const unsigned pair = (mine & ~1u) * run;");
        let _ = writeln!(out, "    const unsigned other = (mine ^ 1u) * run;");
        let _ = writeln!(out, "    const {t} key = p0[at];\n    const unsigned place = p1[at];");
        let _ = writeln!(out, "    unsigned lo = other < {size}u ? other : {size}u;");
        let _ =
            writeln!(out, "    unsigned hi = {size}u - lo < run ? {size}u : lo + run;\n    const unsigned begin = lo;");
        out.push_str("    while (lo < hi) {\n        const unsigned mid = lo + (hi - lo) / 2u;\n");
        let _ = writeln!(out, "        const long long m = line * {size}ll + mid;");
        let _ = writeln!(out, "        const {t} k = p0[m];");
        out.push_str(
            "        const bool before = k != key ? k < key : p1[m] < place;
        lo = before ? mid + 1u : lo;
        hi = before ? hi : mid;
    }
",
        );
        let _ = writeln!(out, "    const unsigned to = pair + (i - mine * run) + (lo - begin);");
        if last {
            let _ = writeln!(
                out,
                "    p2[line / {inner}ll * {}ll + line % {inner}ll + (long long)to * {inner}ll] = (long long)place;",
                size as u64 * inner as u64
            );
        } else {
            let _ = writeln!(out, "    p2[line * {size}ll + to] = key;\n    p3[line * {size}ll + to] = place;");
        }
        let results = if last { "long long* p2".to_string() } else { format!("{t}* p2, unsigned* p3") };
        Source {
            stem: "merge".to_string(),
            params: format!("const {t}* __restrict__ p0, const unsigned* __restrict__ p1, {results}, unsigned run"),
            body: out,
            block: [256, 1, 1],
            ..Source::default()
        }
    }
}
