//! Attention in one pass over blocks of keys: running maximum, sum and result of each query (Dao et al.,
//! FlashAttention-2, 2023), on operands of any strides. The products of 16-bit operands are those of tensor cores where
//! their rows are not too long (`attention_mma`); here they are multiplications and additions in f32, and 16-bit operands
//! become f32 as they are loaded.
//!
//! A block of 16 x 16 threads has some queries. A thread computes the scores of every 16th query and key, and of the
//! result every 16th column: so the 16 threads of a query are neighbours in a warp. The random stream of dropout and the
//! treatment of rows without a key are those of `torsh_ir::ops::attention`.

use super::attention_again::Mine;
use super::attention_again::Of;
use super::generate::{Gen, Source, buffer};
use super::scalar::{constant, memory_type, narrow, widen};
use super::{LaunchArg, attention_again, attention_grad, attention_mma};
use std::fmt::Write;
use torsh_ir::program::{Attend, BufId, Side};
use torsh_ir::shape::Ints;
use torsh_ir::{DType, Error, Result, Scalar};

/// Threads along each side of a block.
pub(super) const SIDE: usize = 16;

/// An attention with what its text needs.
pub(super) struct Call<'a> {
    pub a: &'a Attend,
    /// The mask's dtype, if there is a mask.
    pub mask: Option<DType>,
    /// Queries and keys of a block.
    pub queries: usize,
    pub keys: usize,
}

/// Plans an attention or its gradient.
pub(super) fn step(g: &mut Gen<'_>, a: &Attend, forward: bool, args: &[BufId], out: BufId) -> Result<()> {
    if a.sides.len() != args.len() || args.len() != a.extents(forward).len() {
        return Err(Error::internal("an attention on other operands than its own"));
    }
    if a.numel(forward) == Some(0) {
        return Ok(());
    }
    let mask = if a.mask { Some(g.buffer(args[3])?.ty.dtype) } else { None };
    let longest = a.depth.max(a.width);
    let (queries, keys) = match (forward, longest) {
        (true, 0..=64) => (64, 64),
        (true, 65..=128) => (32, 32),
        (true, 129..=256) => (16, 32),
        (false, 0..=128) => (32, 32),
        _ => (16, 16),
    };
    let call = Call { a, mask, queries, keys };
    if !forward {
        return attention_grad::step(g, &call, args, out);
    }
    if attention_mma::fits(a) {
        return attention_mma::step(g, a, mask, args, out);
    }
    let bytes = call.forward_floats() * 4;
    if bytes > g.options.shared_bytes as usize {
        return Err(Error::compile(format!(
            "attention over rows of {longest} numbers needs {bytes} bytes of shared memory, blocks have {}",
            g.options.shared_bytes
        )));
    }
    let s = a.sizes();
    let source = Source {
        stem: "attention".to_string(),
        params: call.params(true),
        body: call.forward()?,
        block: [SIDE as u32, SIDE as u32, 1],
        min_blocks: 1,
        ..Source::default()
    };
    let blocks = s.batch * s.queries.div_ceil(queries);
    g.launch(source, [blocks as u64, 1, 1], bytes as u32, call.args(args, out))
}

/// What position `b` of the batch adds to an address.
fn batch_offset(extents: &[usize], strides: &Ints) -> String {
    let mut terms = Vec::new();
    let mut below = 1usize;
    for (&n, &stride) in extents.iter().zip(strides).rev() {
        if n > 1 && stride != 0 {
            terms.push(format!("(long long)(batch / {below}u % {n}u) * ({stride}ll)"));
        }
        below = below.saturating_mul(n);
    }
    if terms.is_empty() { "0ll".to_string() } else { terms.join(" + ") }
}

impl Call<'_> {
    /// Names of the operands in order.
    pub fn names(&self, forward: bool) -> Vec<&'static str> {
        let mut names = vec!["q", "k", "v"];
        if self.a.mask {
            names.push("mask");
        }
        if self.a.dropout.as_f64() > 0.0 {
            names.push("state");
        }
        if !forward {
            names.extend(["row", "ct"]);
        }
        names
    }

    /// Parameters: the operands and the result.
    pub fn params(&self, forward: bool) -> String {
        let ty = |name: &&str| memory_type(if *name == "state" { DType::I64 } else { self.dtype(name) });
        let operands: Vec<String> =
            self.names(forward).iter().map(|n| format!("const {}* __restrict__ {n}", ty(n))).collect();
        format!("{}, {}* out", operands.join(", "), memory_type(self.a.result(forward)))
    }

    /// Dtype of a float operand or of the mask.
    fn dtype(&self, name: &str) -> DType {
        match (name, self.mask) {
            ("mask", Some(mask)) => mask,
            ("row", _) => DType::F32,
            _ => self.a.dtype,
        }
    }

    /// Element `at` of a float operand as f32.
    pub fn load(&self, name: &str, at: &str) -> String {
        widen(self.dtype(name), &format!("__ldg({name} + ({at}))"))
    }

    pub fn args(&self, args: &[BufId], out: BufId) -> Vec<LaunchArg> {
        args.iter().chain([&out]).map(|&b| buffer(b)).collect()
    }

    /// Operand `name`'s side.
    pub fn side(&self, name: &str) -> Option<&Side> {
        let forward = self.a.sides.len() == self.names(true).len();
        let at = self.names(forward).iter().position(|n| *n == name)?;
        self.a.sides.get(at)
    }

    /// Statements that move the operands' pointers to batch `batch`.
    pub fn pointers(&self, names: &[&str]) -> Result<String> {
        let mut out = String::new();
        for name in names {
            let side = self.side(name).ok_or_else(|| Error::internal(format!("an attention without {name}")))?;
            let _ = writeln!(out, "    {name} += {}ll + {};", side.offset, batch_offset(&self.a.batch, &side.batch));
        }
        Ok(out)
    }

    /// Statements that load `rows` rows of `cols` numbers from row `first` of an operand to shared memory, times
    /// `factor`; rows from `end` on are 0. Rows of the tile are `cols | 1` apart, an odd number.
    pub fn tile(
        &self,
        name: &str,
        to: &str,
        (first, rows, end): (&str, usize, &str),
        cols: usize,
        factor: Option<&str>,
    ) -> Result<String> {
        let side = self.side(name).ok_or_else(|| Error::internal(format!("an attention without {name}")))?;
        let total = rows * cols;
        // Neighbouring threads along the smaller stride.
        let (row, col) = if side.col.abs() <= side.row.abs() || rows == 1 {
            (format!("i / {cols}"), format!("i % {cols}"))
        } else {
            (format!("i % {rows}"), format!("i / {rows}"))
        };
        let load =
            self.load(name, &format!("(long long)({first} + r) * ({}ll) + (long long)c * ({}ll)", side.row, side.col));
        let load = factor.map_or(load.clone(), |f| format!("__fmul_rn({load}, {f})"));
        Ok(format!(
            "    for (int i = tid; i < {total}; i += {}) {{
        const int r = {row};
        const int c = {col};
        {to}[r * {} + c] = {first} + r < {end} ? {load} : 0.0f;
    }}
",
            SIDE * SIDE,
            cols | 1
        ))
    }

    /// Statements that mask score `s` of query `row` and key `key`, both inside the operands only if `inside`.
    pub fn masked(&self, indent: &str) -> String {
        let mut out = String::new();
        let inf = "__int_as_float((int)0xff800000u)";
        if let (Some(dtype), Some(side)) = (self.mask, self.side("mask")) {
            let at = format!("(long long)row * ({}ll) + (long long)key * ({}ll)", side.row, side.col);
            let text = match dtype {
                DType::Bool => format!("s = __ldg(mask + ({at})) == 0 ? {inf} : s;"),
                _ => format!("s = __fadd_rn(s, {});", self.load("mask", &at)),
            };
            let _ = writeln!(out, "{indent}if (inside) {text}");
        }
        let causal = if self.a.causal { " || key > row" } else { "" };
        let _ = writeln!(out, "{indent}if (!inside{causal}) s = {inf};");
        out
    }

    /// Whether the mask lets `key` take part in the row of `row`, as an expression; `None` without a mask.
    pub fn taken(&self) -> Option<String> {
        let (dtype, side) = (self.mask?, self.side("mask")?);
        let at = format!("(long long)row * ({}ll) + (long long)key * ({}ll)", side.row, side.col);
        let shown = match dtype {
            DType::Bool => format!("__ldg(mask + ({at})) != 0"),
            _ => format!("{} != __int_as_float((int)0xff800000u)", self.load("mask", &at)),
        };
        let causal = if self.a.causal { " && key <= row" } else { "" };
        Some(format!("inside{causal} && {shown}"))
    }

    /// Statements that read the state of the random stream.
    pub fn seed(&self) -> String {
        match self.side("state") {
            Some(side) if self.a.dropout.as_f64() > 0.0 => {
                let second = side.offset + side.col;
                format!(
                    "    const long long seed = __ldg(state + {}ll);\n    const long long first = __ldg(state + {second}ll);\n",
                    side.offset
                )
            }
            _ => String::new(),
        }
    }

    /// `x` after dropout, as an expression; `None` without dropout.
    pub fn dropped(&self, x: &str) -> Option<String> {
        let factor = constant(Scalar::Float(self.a.options().factor()), DType::F32);
        self.kept().map(|kept| format!("({kept} ? __fmul_rn({x}, {factor}) : 0.0f)"))
    }

    /// Whether dropout keeps the weight of `row` and `key`, as an expression; `None` without dropout.
    pub fn kept(&self) -> Option<String> {
        let rate = self.a.dropout.as_f64();
        if rate <= 0.0 {
            return None;
        }
        let s = self.a.sizes();
        let counter = format!(
            "(long long)((unsigned long long)first + ((unsigned long long)batch * {}ull + (unsigned long long)row) * {}ull + (unsigned long long)key)",
            s.queries, s.keys
        );
        let unit =
            format!("__fmul_rn(__uint2float_rn((unsigned)t_philox(seed, {counter}) >> 8), 5.9604644775390625e-8f)");
        let limit = constant(Scalar::Float(rate), DType::F32);
        Some(format!("{unit} >= {limit}"))
    }

    fn forward_floats(&self) -> usize {
        let (d, w) = (self.a.depth, self.a.width);
        self.queries * (d | 1) + self.keys * ((d | 1) + (w | 1)) + self.queries * (self.keys + 1)
    }

    /// The body of the forward pass.
    fn forward(&self) -> Result<String> {
        let a = self.a;
        let s = a.sizes();
        let (nq, nk, d, w) = (self.queries, self.keys, a.depth, a.width);
        let (ri, ci, wi) = (nq / SIDE, nk / SIDE, w.div_ceil(SIDE));
        let scale = constant(Scalar::Float(a.scale.as_f64()), DType::F32);
        let inf = "__int_as_float((int)0xff800000u)";
        let mut out = String::new();
        out.push_str("    extern __shared__ __align__(16) unsigned char room[];\n");
        let _ = writeln!(out, "    float* const qs = (float*)room;\n    float* const ks = qs + {};", nq * (d | 1));
        let _ =
            writeln!(out, "    float* const vs = ks + {};\n    float* const ps = vs + {};", nk * (d | 1), nk * (w | 1));
        self.threads(&mut out);
        let blocks = s.queries.div_ceil(nq);
        let _ = writeln!(out, "    const unsigned batch = blockIdx.x / {blocks}u;");
        let _ = writeln!(out, "    const int q0 = (int)(blockIdx.x % {blocks}u) * {nq};");
        let mut names = vec!["q", "k", "v"];
        names.extend(a.mask.then_some("mask"));
        out.push_str(&self.pointers(&names)?);
        out.push_str(&self.seed());
        out.push_str(&self.tile("q", "qs", ("q0", nq, &s.queries.to_string()), d, Some(&scale))?);
        let _ = writeln!(out, "    float top[{ri}];\n    float sum[{ri}];\n    float acc[{ri}][{wi}];");
        let _ = writeln!(out, "    #pragma unroll\n    for (int i = 0; i < {ri}; ++i) {{");
        let _ = writeln!(out, "        top[i] = {inf};\n        sum[i] = 0.0f;");
        let _ =
            writeln!(out, "        #pragma unroll\n        for (int j = 0; j < {wi}; ++j) acc[i][j] = 0.0f;\n    }}");
        let end = match a.causal {
            true => format!("(q0 + {nq} < {0} ? q0 + {nq} : {0})", s.keys),
            false => s.keys.to_string(),
        };
        let _ = writeln!(out, "    for (int k0 = 0; k0 < {end}; k0 += {nk}) {{\n    __syncthreads();");
        out.push_str(&self.tile("k", "ks", ("k0", nk, &s.keys.to_string()), d, None)?);
        out.push_str(&self.tile("v", "vs", ("k0", nk, &s.keys.to_string()), w, None)?);
        out.push_str("    __syncthreads();\n");
        self.scores(&mut out, "s", ("qs", "ks", d), (ri, ci));
        let _ = writeln!(out, "    #pragma unroll\n    for (int i = 0; i < {ri}; ++i) {{");
        let _ = writeln!(out, "        const int row = q0 + ty + i * {SIDE};\n        float most = top[i];");
        let _ = writeln!(out, "        #pragma unroll\n        for (int j = 0; j < {ci}; ++j) {{");
        let _ = writeln!(out, "            const int key = k0 + tx + j * {SIDE};");
        let _ = writeln!(out, "            const bool inside = row < {} && key < {};", s.queries, s.keys);
        out.push_str("            float s = sc[i][j];\n");
        out.push_str(&self.masked("            "));
        out.push_str("            sc[i][j] = s;\n            most = s > most ? s : most;\n        }\n");
        out.push_str("        #pragma unroll\n        for (int x = 8; x > 0; x >>= 1) {\n");
        out.push_str("            const float o = __shfl_xor_sync(0xffffffffu, most, x);\n");
        out.push_str("            most = o > most ? o : most;\n        }\n");
        let _ = writeln!(out, "        const float base = most == {inf} ? 0.0f : most;");
        out.push_str("        const float factor = t_exp(__fsub_rn(top[i], base));\n");
        out.push_str("        top[i] = most;\n        sum[i] = __fmul_rn(sum[i], factor);\n");
        let _ = writeln!(out, "        #pragma unroll\n        for (int j = 0; j < {ci}; ++j) {{");
        let _ = writeln!(out, "            const int key = k0 + tx + j * {SIDE};");
        out.push_str("            const float p = t_exp(__fsub_rn(sc[i][j], base));\n");
        out.push_str("            sum[i] = __fadd_rn(sum[i], p);\n");
        let p = self.dropped("p").unwrap_or_else(|| "p".to_string());
        let _ = writeln!(out, "            ps[(ty + i * {SIDE}) * {} + tx + j * {SIDE}] = {p};\n        }}", nk + 1);
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int j = 0; j < {wi}; ++j) acc[i][j] = __fmul_rn(acc[i][j], factor);"
        );
        out.push_str("    }\n    __syncthreads();\n");
        // Weights of keys beyond the end are 0, and so are their values in the tile.
        self.onto(&mut out, "acc", (ri, wi, w), nk, ("ps", nk + 1, 1), ("vs", w | 1));
        out.push_str("    }\n");
        self.finish(&mut out, (ri, wi))?;
        Ok(out)
    }

    /// Thread numbers: `tid`, and its place `(tx, ty)`.
    pub fn threads(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "    const int tx = (int)threadIdx.x;\n    const int ty = (int)threadIdx.y;\n    const int tid = ty * {SIDE} + tx;"
        );
    }

    /// Declares `<name>c[ri][ci]`: products of rows of two tiles, `rows` by thread y and `cols` by thread x.
    pub fn scores(&self, out: &mut String, name: &str, (a, b, depth): (&str, &str, usize), (ri, ci): (usize, usize)) {
        let _ = writeln!(out, "    float {name}c[{ri}][{ci}] = {{}};");
        let _ = writeln!(out, "    #pragma unroll 4\n    for (int e = 0; e < {depth}; ++e) {{");
        let _ = writeln!(out, "        float x[{ri}];\n        float y[{ci}];");
        let row = depth | 1;
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int i = 0; i < {ri}; ++i) x[i] = {a}[(ty + i * {SIDE}) * {row} + e];"
        );
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int j = 0; j < {ci}; ++j) y[j] = {b}[(tx + j * {SIDE}) * {row} + e];"
        );
        let _ = writeln!(
            out,
            "        #pragma unroll\n        for (int i = 0; i < {ri}; ++i) {{\n            #pragma unroll"
        );
        let _ = writeln!(
            out,
            "            for (int j = 0; j < {ci}; ++j) {name}c[i][j] = __fmaf_rn(x[i], y[j], {name}c[i][j]);\n        }}\n    }}"
        );
    }

    /// `acc[i][j] += sum_n weight(row i, n) * tile[n][col j]` for `n` below `count`; the weight of row `r` and `n` is at
    /// `r * row + n * col` of its tile.
    pub fn onto(
        &self,
        out: &mut String,
        acc: &str,
        (ri, wi, width): (usize, usize, usize),
        count: usize,
        (weights, row, col): (&str, usize, usize),
        (tile, stride): (&str, usize),
    ) {
        let _ = writeln!(out, "    #pragma unroll 4\n    for (int n = 0; n < {count}; ++n) {{");
        let _ = writeln!(out, "        float x[{ri}];\n        #pragma unroll");
        let _ = writeln!(
            out,
            "        for (int i = 0; i < {ri}; ++i) x[i] = {weights}[(ty + i * {SIDE}) * {row} + n * {col}];"
        );
        let _ = writeln!(out, "        #pragma unroll\n        for (int j = 0; j < {wi}; ++j) {{");
        let guard = if width.is_multiple_of(SIDE) { String::new() } else { format!("tx + j * {SIDE} < {width} ? ") };
        let other = if guard.is_empty() { "" } else { " : 0.0f" };
        let _ = writeln!(out, "            const float y = {guard}{tile}[n * {stride} + tx + j * {SIDE}]{other};");
        let _ = writeln!(
            out,
            "            #pragma unroll\n            for (int i = 0; i < {ri}; ++i) {acc}[i][j] = __fmaf_rn(x[i], y, {acc}[i][j]);"
        );
        out.push_str("        }\n    }\n");
    }

    fn finish(&self, out: &mut String, (ri, wi): (usize, usize)) -> Result<()> {
        let a = self.a;
        let s = a.sizes();
        let none = if s.keys == 0 || (a.safe && a.mask) { "0.0f" } else { "__int_as_float(0x7fc00000)" };
        out.push_str("    unsigned odds = 0u;\n");
        let _ = writeln!(out, "    #pragma unroll\n    for (int i = 0; i < {ri}; ++i) {{");
        out.push_str("        float total = sum[i];\n        #pragma unroll\n        for (int x = 8; x > 0; x >>= 1) total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, x));\n");
        let _ = writeln!(out, "        const int row = q0 + ty + i * {SIDE};");
        let _ = writeln!(out, "        const float inverse = total == 0.0f ? {none} : __fdiv_rn(1.0f, total);");
        let _ = writeln!(out, "        if (row < {}) {{", s.queries);
        let _ = writeln!(out, "            const long long at = (long long)batch * {}ll + row;", s.queries);
        let _ = writeln!(out, "            #pragma unroll\n            for (int j = 0; j < {wi}; ++j) {{");
        let _ = writeln!(out, "                const int col = tx + j * {SIDE};");
        let _ = writeln!(
            out,
            "                const float y = __fmul_rn(acc[i][j], inverse);\n                if (col < {0}) out[at * {0}ll + col] = {2};\n                if (col < {0} && total != 0.0f && {1}) odds |= 1u << i;\n            }}",
            s.width,
            attention_again::odd("y"),
            narrow(a.result(true), "y")
        );
        if a.lse {
            let first = s.batch as u64 * s.queries as u64 * s.width as u64;
            let _ = writeln!(
                out,
                "            if (tx == 0) out[{first}ll + at] = total == 0.0f ? __int_as_float((int)0xff800000u) : __fadd_rn(top[i], t_log(total));"
            );
        }
        out.push_str("        }\n    }\n");
        let mine = Mine::of_tiles("odds", "q0", (ri, wi), (s.queries, s.width), 0);
        self.again(out, Of::Forward, &mine)
    }
}
