//! Products of f16 and bf16 on tensor cores where both operands can be copied 16 bytes at a time: asynchronous copies to
//! shared memory in three stages, fragments by `ldmatrix`.
//!
//! An operand lies in shared memory as in global memory: along the contraction or along the other axis. Eight rows, 16
//! bytes of each, must be in 32 different banks: rows along the contraction, of 64 bytes, have their pieces of 16 bytes in
//! an order that changes from one pair of rows to the next; longer ones are 16 bytes longer than they need be.

use super::dot::{Product, Way};
use super::dot_mma::{self, Tile};
use super::generate::Source;
use std::fmt::Write;
use torsh_ir::{DType, Error, Result};

/// Elements of the contraction in a stage.
const DEPTH: usize = 32;
/// Stages under way.
const STAGES: usize = 3;
/// Padding of a row in shared memory, in elements.
const PAD: usize = 8;

/// One operand: its names, and how it lies.
struct Side {
    pointer: &'static str,
    /// The axis that is not contracted: bound, first position, stride, and the contraction's stride.
    bound: &'static str,
    other: &'static str,
    depth: &'static str,
    /// Positions of a block.
    extent: usize,
    /// Neighbours in memory are neighbours along the contraction.
    along_k: bool,
}

impl Side {
    /// Rows in shared memory and elements of a row without padding.
    fn shape(&self) -> (usize, usize) {
        if self.along_k { (self.extent, DEPTH) } else { (DEPTH, self.extent) }
    }
    /// Elements from row to row.
    fn pitch(&self) -> usize {
        if self.along_k { DEPTH } else { self.extent + PAD }
    }
    /// Elements of a stage.
    fn elements(&self) -> usize {
        self.shape().0 * self.pitch()
    }
    /// The place of the 16 bytes that begin at column `c` (a multiple of 8) of row `r`, in elements.
    fn place(&self, r: &str, c: &str) -> String {
        if self.along_k {
            format!("(({r}) * {DEPTH} + (({c}) ^ (((({r}) >> 1) & 3) * 8)))")
        } else {
            format!("(({r}) * {} + {c})", self.pitch())
        }
    }
}

fn sides(p: &Product, t: Tile) -> [Side; 2] {
    let (rows, cols) = t.sides();
    [
        Side { pointer: "p0", bound: "m", other: "am", depth: "ak", extent: rows, along_k: p.is_unit("ak") },
        Side {
            pointer: "p1",
            bound: "n",
            other: "bn",
            depth: "bk",
            extent: cols,
            along_k: p.is_unit("bk") && !p.is_unit("bn"),
        },
    ]
}

/// True when every 16 bytes of both operands are aligned, and inside or outside as a whole.
pub(super) fn fits(p: &Product) -> bool {
    let Way::Tensor(DType::F16 | DType::BF16) = p.way else { return false };
    let s = &p.step;
    let whole = |x: i64| x % 8 == 0;
    [(&s.lhs, s.m, ["am", "ak", "ab"]), (&s.rhs, s.n, ["bn", "bk", "bb"])].into_iter().all(
        |(x, extent, [mn, k, batch])| {
            let strides = [mn, k, batch].map(|name| p.single(name));
            let [Some(other), Some(along), Some(batch)] = strides else { return false };
            let unit_k = along == 1 && whole(other) && whole(s.k as i64);
            let unit_other = other == 1 && whole(along) && whole(extent as i64);
            whole(x.offset) && whole(batch) && s.k > 1 && extent > 1 && (unit_k || unit_other)
        },
    )
}

/// The kernel and its dynamic shared memory.
pub(super) fn source(p: &Product, t: Tile) -> Result<(Source, u32)> {
    let call = match p.way {
        Way::Tensor(DType::F16) => "t_mma_f16",
        Way::Tensor(DType::BF16) => "t_mma_bf16",
        _ => return Err(Error::internal("not a product of 16-bit tensor cores")),
    };
    let (rows, cols) = t.sides();
    let threads = 32 * t.warp_rows * t.warp_cols;
    let i = p.int();
    let sides = sides(p, t);
    let stage: usize = sides.iter().map(Side::elements).sum();
    let mut out = String::new();
    out.push_str("    extern __shared__ __align__(16) unsigned char room[];\n");
    out.push_str(&p.head(rows, cols));
    out.push_str("    const unsigned base = t_shared(room);\n");
    out.push_str("    const int lane = (int)(threadIdx.x & 31u);\n    const int warp = (int)(threadIdx.x >> 5);\n");
    let _ = writeln!(out, "    const int wr = warp / {} * {};", t.warp_cols, t.row_tiles * 16);
    let _ = writeln!(out, "    const int wc = warp % {} * {};", t.warp_cols, t.col_tiles * 8);
    let _ = writeln!(out, "    float acc[{}][{}][4] = {{}};", t.row_tiles, t.col_tiles);
    let _ = writeln!(out, "    #pragma unroll\n    for (int s = 0; s < {}; ++s) {{", STAGES - 1);
    let _ = writeln!(out, "        const {i} kt = k0 + s * {DEPTH};\n        const int slot = s;");
    copies(&mut out, p, &sides, (stage, threads));
    out.push_str("        t_commit();\n    }\n    int step = 0;\n");
    let _ = writeln!(out, "    for ({i} at = k0; at < k1; at += {DEPTH}) {{");
    let _ = writeln!(out, "        t_wait_{}();\n        __syncthreads();", STAGES - 2);
    let _ = writeln!(out, "        const unsigned now = base + (unsigned)step * {}u;", 2 * stage);
    out.push_str("        {\n");
    let _ = writeln!(out, "        const {i} kt = at + {};", (STAGES - 1) * DEPTH);
    // Into the stage that the last step has read: all threads are past it.
    let _ = writeln!(out, "        const int slot = step == 0 ? {} : step - 1;", STAGES - 1);
    copies(&mut out, p, &sides, (stage, threads));
    out.push_str("        t_commit();\n        }\n");
    let _ = writeln!(out, "        #pragma unroll\n        for (int kk = 0; kk < {DEPTH}; kk += 16) {{");
    let _ = writeln!(out, "            unsigned a[{}][4];\n            unsigned b[{}][2];", t.row_tiles, t.col_tiles);
    let _ = writeln!(out, "            #pragma unroll\n            for (int r = 0; r < {}; ++r) {{", t.row_tiles);
    let [a, b] = &sides;
    let (load, r, c) = match a.along_k {
        true => ("t_matrices", "wr + r * 16 + (lane & 15)", "kk + (lane >> 4) * 8"),
        false => ("t_matrices_trans", "kk + (lane >> 4) * 8 + (lane & 7)", "wr + r * 16 + ((lane >> 3) & 1) * 8"),
    };
    let _ = writeln!(out, "                {load}(a[r], now + 2u * (unsigned){});", a.place(r, c));
    let _ = writeln!(
        out,
        "            }}\n            #pragma unroll\n            for (int c = 0; c < {}; c += 2) {{",
        t.col_tiles
    );
    out.push_str("                unsigned both[4];\n");
    let first = 2 * a.elements();
    let (load, r, c) = match b.along_k {
        true => ("t_matrices", "wc + c * 8 + (lane >> 4) * 8 + (lane & 7)", "kk + ((lane >> 3) & 1) * 8"),
        false => ("t_matrices_trans", "kk + ((lane >> 3) & 1) * 8 + (lane & 7)", "wc + c * 8 + (lane >> 4) * 8"),
    };
    let _ = writeln!(out, "                {load}(both, now + {first}u + 2u * (unsigned){});", b.place(r, c));
    out.push_str(
        "                b[c][0] = both[0];
                b[c][1] = both[1];
                b[c + 1][0] = both[2];
                b[c + 1][1] = both[3];
            }
",
    );
    let _ = writeln!(out, "            #pragma unroll\n            for (int r = 0; r < {}; ++r) {{", t.row_tiles);
    let _ = writeln!(
        out,
        "                #pragma unroll\n                for (int c = 0; c < {}; ++c) {call}(acc[r][c], a[r], b[c]);",
        t.col_tiles
    );
    let _ = writeln!(
        out,
        "            }}\n        }}\n        step = step == {} ? 0 : step + 1;\n    }}\n    t_wait_0();",
        STAGES - 1
    );
    dot_mma::stores(&mut out, p, t);
    let source = Source {
        stem: format!("mma_async_{}_{rows}x{cols}x{DEPTH}", p.dtype.short()),
        params: p.params(),
        body: out,
        block: [threads as u32, 1, 1],
        min_blocks: 1,
        ..Source::default()
    };
    Ok((source, (2 * STAGES * stage) as u32))
}

/// Statements that copy the tiles from `kt` on to stage `slot`; what is outside becomes 0.
fn copies(out: &mut String, p: &Product, sides: &[Side; 2], (stage, threads): (usize, usize)) {
    let i = p.int();
    let mut first = 0;
    for s in sides {
        let (rows, cols) = s.shape();
        let chunks = cols / 8;
        let count = rows * chunks / threads;
        let _ = writeln!(out, "        #pragma unroll\n        for (int q = 0; q < {count}; ++q) {{");
        let _ = writeln!(out, "            const int chunk = (int)threadIdx.x + q * {threads};");
        let _ = writeln!(
            out,
            "            const int r = chunk / {chunks};\n            const int c = chunk % {chunks} * 8;"
        );
        let (x, y) = if s.along_k { ("r", "c") } else { ("c", "r") };
        let _ = writeln!(out, "            const {i} x = {}0 + {x};\n            const {i} y = kt + {y};", s.bound);
        let _ = writeln!(out, "            const bool inside = x < {} && y < k1;", s.bound);
        let at = format!("{} + {}", p.offset(s.other, "x"), p.offset(s.depth, "y"));
        let to =
            format!("base + (unsigned)slot * {}u + {}u + 2u * (unsigned){}", 2 * stage, 2 * first, s.place("r", "c"));
        let _ = writeln!(
            out,
            "            t_copy16({to}, inside ? {0} + ({at}) : {0}, inside ? 16u : 0u);\n        }}",
            s.pointer
        );
        first += s.elements();
    }
}

/// The instructions.
pub(super) const HELPERS: &str = r#"
static __device__ __forceinline__ unsigned t_shared(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void t_copy16(unsigned to, const void* from, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void t_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

static __device__ __forceinline__ void t_wait_0() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

static __device__ __forceinline__ void t_wait_1() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

static __device__ __forceinline__ void t_matrices(unsigned* d, unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}

static __device__ __forceinline__ void t_matrices_trans(unsigned* d, unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
"#;
