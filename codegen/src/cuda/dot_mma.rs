//! Products on tensor cores: `mma.sync` of 16 x 8 tiles, f16 and bf16 operands with 16 elements of the contraction, f32
//! ones as TF32 with 8. Both operands lie in shared memory with the contraction along rows, which are 20 words apart: the
//! words that a warp reads for a fragment are in 32 different banks.

use super::dot::{self, Product, Way};
use super::generate::Source;
use std::fmt::Write;
use torsh_ir::program::DotStep;
use torsh_ir::{DType, Error, Result};

/// Words between rows in shared memory: 16 of operands, 4 of padding.
const ROW_WORDS: usize = 20;

/// Warps of a block along rows and columns, and tiles of 16 x 8 of a warp.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    pub warp_rows: usize,
    pub warp_cols: usize,
    pub row_tiles: usize,
    pub col_tiles: usize,
}

impl Tile {
    /// Rows and columns of a block.
    pub fn sides(&self) -> (usize, usize) {
        (self.warp_rows * self.row_tiles * 16, self.warp_cols * self.col_tiles * 8)
    }
}

/// The tile for a product.
pub(super) fn tile(s: &DotStep, processors: usize) -> dot::Tile {
    let batch: usize = s.batch.iter().product();
    let large = s.m.div_ceil(128) * s.n.div_ceil(128) * batch >= processors;
    dot::Tile::Tensor(match large {
        true => Tile { warp_rows: 2, warp_cols: 4, row_tiles: 4, col_tiles: 4 },
        false => Tile { warp_rows: 2, warp_cols: 2, row_tiles: 2, col_tiles: 4 },
    })
}

/// The kernel.
pub(super) fn source(p: &Product, t: Tile) -> Result<Source> {
    let Way::Tensor(dtype) = p.way else { return Err(Error::internal("not a product of tensor cores")) };
    let (rows, cols) = t.sides();
    let threads = 32 * t.warp_rows * t.warp_cols;
    let per_word = 4 / dtype.size();
    let depth = 16 * per_word;
    let (raw, call) = match dtype {
        DType::F16 => ("unsigned short", "t_mma_f16"),
        DType::BF16 => ("unsigned short", "t_mma_bf16"),
        DType::F32 => ("float", "t_mma_tf32"),
        other => return Err(Error::internal(format!("tensor cores have no {other}"))),
    };
    let i = p.int();
    let mut out = String::new();
    let _ = writeln!(out, "    __shared__ __align__(16) unsigned as[{rows}][{ROW_WORDS}];");
    let _ = writeln!(out, "    __shared__ __align__(16) unsigned bs[{cols}][{ROW_WORDS}];");
    out.push_str(&p.head(rows, cols));
    out.push_str("    const int lane = (int)(threadIdx.x & 31u);\n    const int warp = (int)(threadIdx.x >> 5);\n");
    let _ = writeln!(out, "    const int wr = warp / {} * {};", t.warp_cols, t.row_tiles * 16);
    let _ = writeln!(out, "    const int wc = warp % {} * {};", t.warp_cols, t.col_tiles * 8);
    out.push_str("    const int group = lane >> 2;\n    const int place = lane & 3;\n");
    let _ = writeln!(out, "    float acc[{}][{}][4] = {{}};", t.row_tiles, t.col_tiles);
    let (la, lb) = (rows * 16 / threads, cols * 16 / threads);
    let _ = writeln!(out, "    unsigned ta[{la}];\n    unsigned tb[{lb}];");
    let sides = [
        ("a", "m", rows, la, p.is_unit("ak"), "p0", "am", "ak"),
        ("b", "n", cols, lb, !p.is_unit("bn") && p.is_unit("bk"), "p1", "bn", "bk"),
    ];
    let load = |kt: &str, indent: &str| {
        let mut text = String::new();
        for (side, axis, extent, count, along_k, pointer, mn, kn) in sides {
            let (pos, word) = split(threads, extent, along_k);
            let _ = writeln!(text, "{indent}#pragma unroll\n{indent}for (int q = 0; q < {count}; ++q) {{");
            let _ = writeln!(text, "{indent}    const {i} x = {axis}0 + {pos};");
            let _ = writeln!(text, "{indent}    const {i} y = {kt} + {word} * {per_word};");
            let mut words = Vec::new();
            for e in 0..per_word {
                let at = format!("{} + {}", p.offset(mn, "x"), p.offset(kn, &format!("(y + {e})")));
                let _ = writeln!(text, "{indent}    {raw} v{e} = 0;");
                let _ = writeln!(text, "{indent}    if (x < {axis} && y + {e} < k1) v{e} = __ldg({pointer} + ({at}));");
                words.push(if per_word == 1 {
                    "t_tf32(v0)".to_string()
                } else {
                    format!("((unsigned)v{e} << {})", 16 * e)
                });
            }
            let _ = writeln!(text, "{indent}    t{side}[q] = {};\n{indent}}}", words.join(" | "));
        }
        text
    };
    out.push_str(&load("k0", "    "));
    let _ = writeln!(out, "    for ({i} kt = k0; kt < k1; kt += {depth}) {{\n        __syncthreads();");
    for (side, _, extent, count, along_k, ..) in sides {
        let (pos, word) = split(threads, extent, along_k);
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int q = 0; q < {count}; ++q) {side}s[{pos}][{word}] = t{side}[q];"
        );
    }
    let _ = writeln!(out, "        __syncthreads();\n        if (kt + {depth} < k1) {{");
    out.push_str(&load(&format!("kt + {depth}"), "            "));
    out.push_str("        }\n        #pragma unroll\n        for (int w = 0; w < 16; w += 8) {\n");
    let _ = writeln!(out, "            unsigned a[{}][4];\n            unsigned b[{}][2];", t.row_tiles, t.col_tiles);
    let _ = writeln!(out, "            #pragma unroll\n            for (int r = 0; r < {}; ++r) {{", t.row_tiles);
    out.push_str(
        "                const int row = wr + r * 16 + group;
                a[r][0] = as[row][w + place];
                a[r][1] = as[row + 8][w + place];
                a[r][2] = as[row][w + place + 4];
                a[r][3] = as[row + 8][w + place + 4];
            }
",
    );
    let _ = writeln!(out, "            #pragma unroll\n            for (int c = 0; c < {}; ++c) {{", t.col_tiles);
    out.push_str(
        "                const int col = wc + c * 8 + group;
                b[c][0] = bs[col][w + place];
                b[c][1] = bs[col][w + place + 4];
            }
",
    );
    let _ = writeln!(out, "            #pragma unroll\n            for (int r = 0; r < {}; ++r) {{", t.row_tiles);
    let _ = writeln!(
        out,
        "                #pragma unroll\n                for (int c = 0; c < {}; ++c) {call}(acc[r][c], a[r], b[c]);",
        t.col_tiles
    );
    out.push_str("            }\n        }\n    }\n");
    stores(&mut out, p, t);
    Ok(Source {
        stem: format!("mma_{}_{rows}x{cols}x{depth}", p.dtype.short()),
        params: p.params(),
        body: out,
        block: [threads as u32, 1, 1],
        static_shared: (4 * ROW_WORDS * (rows + cols)) as u32,
        min_blocks: 1,
    })
}

/// Stores the accumulators `acc[row tile][column tile][4]`: a thread has two neighbours of two rows of each tile, which
/// go together where every row has an even number of elements.
pub(super) fn stores(out: &mut String, p: &Product, t: Tile) {
    let i = p.int();
    let pairs = p.step.n.is_multiple_of(2);
    let _ = writeln!(out, "    #pragma unroll\n    for (int r = 0; r < {}; ++r) {{", t.row_tiles);
    let _ = writeln!(out, "        #pragma unroll\n        for (int c = 0; c < {}; ++c) {{", t.col_tiles);
    let step = if pairs { 2 } else { 1 };
    let _ = writeln!(out, "            #pragma unroll\n            for (int e = 0; e < 4; e += {step}) {{");
    let _ = writeln!(
        out,
        "                const {i} x = m0 + wr + r * 16 + ((int)(threadIdx.x & 31u) >> 2) + (e >> 1) * 8;"
    );
    let _ = writeln!(out, "                const {i} y = n0 + wc + c * 8 + (int)(threadIdx.x & 3u) * 2 + (e & 1);");
    let store = match pairs {
        true => p.store_pair("x", "y", "acc[r][c][e]", "acc[r][c][e + 1]"),
        false => p.store("x", "y", "acc[r][c][e]"),
    };
    let _ = writeln!(out, "                if (x < m && y < n) {{ {store} }}");
    out.push_str("            }\n        }\n    }\n");
}

/// Position and word along the depth of word `q` that a thread loads.
fn split(threads: usize, extent: usize, along_k: bool) -> (String, String) {
    let at = format!("((int)threadIdx.x + q * {threads})");
    if along_k {
        (format!("({at} / 16)"), format!("({at} % 16)"))
    } else {
        (format!("({at} % {extent})"), format!("({at} / {extent})"))
    }
}

/// The instructions.
pub(super) const HELPERS: &str = r#"
static __device__ __forceinline__ void t_mma_f16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void t_mma_bf16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void t_mma_tf32(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ unsigned t_tf32(float x) {
    unsigned r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
}
"#;
