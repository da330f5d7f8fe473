//! Products by multiplications and additions of threads: tiles of both operands in shared memory, a small tile of the
//! result in each thread's registers. The next tiles are loaded while the present ones are multiplied.

use super::dot::{self, Product};
use super::generate::Source;
use super::scalar::{value_type, widen};
use std::fmt::Write;
use torsh_ir::program::DotStep;
use torsh_ir::{DType, Error, Result};

/// Rows and columns of a block, of a thread, and elements of the contraction in one step.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    pub rows: usize,
    pub cols: usize,
    pub thread_rows: usize,
    pub thread_cols: usize,
    pub depth: usize,
}

impl Tile {
    fn threads(self) -> usize {
        self.rows / self.thread_rows * (self.cols / self.thread_cols)
    }
}

/// The tile for a product.
pub(super) fn tile(s: &DotStep, compute: DType, processors: usize) -> dot::Tile {
    let batch: usize = s.batch.iter().product();
    let t = |rows, cols, thread_rows, thread_cols, depth| {
        dot::Tile::Plain(Tile { rows, cols, thread_rows, thread_cols, depth })
    };
    let large = s.m.div_ceil(128) * s.n.div_ceil(128) * batch >= processors;
    match (s.m, s.n) {
        (_, n) if n <= 16 => t(128, 16, 8, 1, 16),
        (m, _) if m <= 16 => t(16, 128, 1, 8, 16),
        _ if large && compute == DType::F32 => t(128, 128, 8, 8, 8),
        _ => t(64, 64, 4, 4, 16),
    }
}

/// The kernel.
pub(super) fn source(p: &Product, t: Tile) -> Result<Source> {
    let c = value_type(p.compute());
    let threads = t.threads();
    let (i, depth) = (p.int(), t.depth);
    let mut out = String::new();
    let pad = if p.compute().size() == 8 { 2 } else { 4 };
    let _ = writeln!(out, "    __shared__ __align__(16) {c} as[{depth}][{}];", t.rows + pad);
    let _ = writeln!(out, "    __shared__ __align__(16) {c} bs[{depth}][{}];", t.cols + pad);
    out.push_str(&p.head(t.rows, t.cols));
    let _ = writeln!(out, "    const int tx = (int)threadIdx.x % {};", t.cols / t.thread_cols);
    let _ = writeln!(out, "    const int ty = (int)threadIdx.x / {};", t.cols / t.thread_cols);
    let _ = writeln!(out, "    {c} acc[{}][{}] = {{}};", t.thread_rows, t.thread_cols);
    let (la, lb) = (t.rows * depth / threads, t.cols * depth / threads);
    let _ = writeln!(out, "    {c} ta[{la}];\n    {c} tb[{lb}];");
    let load = |kt: &str, indent: &str| {
        let mut text = String::new();
        let sides =
            [("a", "m", t.rows, la, p.is_unit("ak")), ("b", "n", t.cols, lb, !p.is_unit("bn") && p.is_unit("bk"))];
        for (side, axis, extent, count, along_k) in sides {
            let (pos, kk) = split(threads, extent, depth, along_k);
            let (pointer, mn, kn) = if side == "a" { ("p0", "am", "ak") } else { ("p1", "bn", "bk") };
            let _ = writeln!(text, "{indent}#pragma unroll\n{indent}for (int q = 0; q < {count}; ++q) {{");
            let _ =
                writeln!(text, "{indent}    const {i} x = {axis}0 + {pos};\n{indent}    const {i} y = {kt} + {kk};");
            let _ = writeln!(text, "{indent}    {c} v = 0;");
            let at = format!("{} + {}", p.offset(mn, "x"), p.offset(kn, "y"));
            let raw = widen(p.dtype, &format!("__ldg({pointer} + ({at}))"));
            let _ = writeln!(text, "{indent}    if (x < {axis} && y < k1) v = ({c}){raw};");
            let _ = writeln!(text, "{indent}    t{side}[q] = v;\n{indent}}}");
        }
        text
    };
    out.push_str(&load("k0", "    "));
    let _ = writeln!(out, "    for ({i} kt = k0; kt < k1; kt += {depth}) {{");
    out.push_str("        __syncthreads();\n");
    for (side, extent, count, along_k) in
        [("a", t.rows, la, p.is_unit("ak")), ("b", t.cols, lb, !p.is_unit("bn") && p.is_unit("bk"))]
    {
        let (pos, kk) = split(threads, extent, depth, along_k);
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int q = 0; q < {count}; ++q) {side}s[{kk}][{pos}] = t{side}[q];"
        );
    }
    out.push_str("        __syncthreads();\n");
    let _ = writeln!(out, "        if (kt + {depth} < k1) {{");
    out.push_str(&load(&format!("kt + {depth}"), "            "));
    out.push_str("        }\n");
    let _ = writeln!(out, "        #pragma unroll\n        for (int kk = 0; kk < {depth}; ++kk) {{");
    let _ = writeln!(out, "            {c} a[{}];\n            {c} b[{}];", t.thread_rows, t.thread_cols);
    let _ = writeln!(
        out,
        "            #pragma unroll\n            for (int r = 0; r < {0}; ++r) a[r] = as[kk][ty * {0} + r];",
        t.thread_rows
    );
    let stride = t.cols / t.thread_cols;
    let _ = writeln!(
        out,
        "            #pragma unroll\n            for (int s = 0; s < {}; ++s) b[s] = bs[kk][tx + s * {stride}];",
        t.thread_cols
    );
    let _ = writeln!(out, "            #pragma unroll\n            for (int r = 0; r < {}; ++r) {{", t.thread_rows);
    let _ =
        writeln!(out, "                #pragma unroll\n                for (int s = 0; s < {}; ++s) {{", t.thread_cols);
    let add = match (p.compute(), p.dtype) {
        (DType::F32, _) => "__fmaf_rn(a[r], b[s], acc[r][s])".to_string(),
        (DType::F64, _) => "__fma_rn(a[r], b[s], acc[r][s])".to_string(),
        (_, DType::Bool) => "acc[r][s] | (a[r] & b[s])".to_string(),
        (DType::I32, _) => "(int)((unsigned)acc[r][s] + (unsigned)a[r] * (unsigned)b[s])".to_string(),
        (DType::I64, _) => {
            let u = "(unsigned long long)";
            format!("(long long)({u}acc[r][s] + {u}a[r] * {u}b[s])")
        }
        (other, _) => return Err(Error::internal(format!("products in {other}"))),
    };
    let _ =
        writeln!(out, "                    acc[r][s] = {add};\n                }}\n            }}\n        }}\n    }}");
    let _ = writeln!(out, "    #pragma unroll\n    for (int r = 0; r < {}; ++r) {{", t.thread_rows);
    let _ = writeln!(out, "        const {i} x = m0 + ty * {} + r;", t.thread_rows);
    let _ = writeln!(out, "        #pragma unroll\n        for (int s = 0; s < {}; ++s) {{", t.thread_cols);
    let _ = writeln!(out, "            const {i} y = n0 + tx + s * {stride};");
    let _ = writeln!(out, "            if (x < m && y < n) {}", p.store("x", "y", "acc[r][s]"));
    out.push_str("        }\n    }\n");
    let shared = depth * (t.rows + t.cols + 2 * pad) * p.compute().size();
    Ok(Source {
        stem: format!("dot_{}_{}x{}x{depth}", p.dtype.short(), t.rows, t.cols),
        params: p.params(),
        body: out,
        block: [threads as u32, 1, 1],
        static_shared: shared as u32,
        min_blocks: if t.thread_rows * t.thread_cols >= 64 { 1 } else { 2 },
    })
}

/// Position and depth of element `q` that a thread loads, with neighbours along the depth or the other axis.
fn split(threads: usize, extent: usize, depth: usize, along_k: bool) -> (String, String) {
    let at = format!("((int)threadIdx.x + q * {threads})");
    if along_k {
        (format!("({at} / {depth})"), format!("({at} % {depth})"))
    } else {
        (format!("({at} % {extent})"), format!("({at} / {extent})"))
    }
}
