//! The gradient of attention: weights again from the logarithm of each row's sum, block by block.
//!
//! With `p` the weights after dropout and `ds = p * (drop(ct v') - delta)`, `delta` the product of each row's result and
//! cotangent: `dv = p' ct`, `dk = ds' q scale`, `dq = ds k scale`. Three launches: `delta`, `dq` by blocks of queries,
//! `dk` and `dv` by blocks of keys; each of the last two computes the weights for itself, so nothing is added up by
//! several blocks.

use super::LaunchArg;
use super::attention::{Call, SIDE};
use super::attention_again::{Mine, Of, odd};
use super::generate::{Gen, Source};
use super::scalar::{constant, narrow};
use std::fmt::Write;
use torsh_ir::program::BufId;
use torsh_ir::{DType, Error, Result, Scalar};

/// Plans the launches.
pub(super) fn step(g: &mut Gen<'_>, call: &Call<'_>, args: &[BufId], out: BufId) -> Result<()> {
    let s = call.a.sizes();
    let bytes = call.grad_floats() * 4;
    if bytes > g.options.shared_bytes as usize {
        return Err(Error::compile(format!(
            "the gradient of attention over rows of {} numbers needs {bytes} bytes of shared memory, blocks have {}",
            s.depth.max(s.width),
            g.options.shared_bytes
        )));
    }
    let delta = g.scratch(s.batch * s.queries * 4)?;
    let mut all: Vec<LaunchArg> = call.args(args, out);
    all.push(delta);
    let source = |stem: &str, delta: &str, body: String, block: [u32; 3]| Source {
        stem: stem.to_string(),
        params: format!("{}, {delta}float* delta", call.params(false)),
        body,
        block,
        min_blocks: 1,
        ..Source::default()
    };
    let rows = s.batch * s.queries;
    let deltas = source("attention_delta", "", call.deltas()?, [128, 1, 1]);
    g.launch(deltas, [rows.div_ceil(4) as u64, 1, 1], 0, all.clone())?;
    let block = [SIDE as u32, SIDE as u32, 1];
    let by_queries = source("attention_dq", "const ", call.by_queries()?, block);
    let blocks = s.batch * s.queries.div_ceil(call.queries);
    g.launch(by_queries, [blocks as u64, 1, 1], bytes as u32, all.clone())?;
    let by_keys = source("attention_dkv", "const ", call.by_keys()?, block);
    let blocks = s.batch * s.keys.div_ceil(call.keys);
    g.launch(by_keys, [blocks as u64, 1, 1], bytes as u32, all)
}

impl Call<'_> {
    fn grad_floats(&self) -> usize {
        let (d, w) = (self.a.depth, self.a.width);
        (self.queries + self.keys) * ((d | 1) + (w | 1)) + 2 * self.queries * (self.keys + 1)
    }

    fn row_offset(&self) -> Result<i64> {
        Ok(self.side("row").ok_or_else(|| Error::internal("a gradient without its forward pass"))?.offset)
    }

    /// A warp a row.
    fn deltas(&self) -> Result<String> {
        let s = self.a.sizes();
        let side = self.side("ct").ok_or_else(|| Error::internal("a gradient without its cotangent"))?;
        let (rows, w) = (s.batch * s.queries, s.width);
        let mut out = String::new();
        out.push_str("    const int lane = (int)(threadIdx.x & 31u);\n");
        out.push_str("    const long long at0 = (long long)blockIdx.x * 4 + (threadIdx.x >> 5);\n");
        let _ =
            writeln!(out, "    const bool live = at0 < {rows}ll;\n    const long long at = live ? at0 : {rows}ll - 1;");
        let _ = writeln!(
            out,
            "    const unsigned batch = (unsigned)(at / {0}ll);\n    const int r = (int)(at % {0}ll);",
            s.queries
        );
        out.push_str(&self.pointers(&["ct"])?);
        let _ = writeln!(out, "    row += {}ll + at * {w}ll;", self.row_offset()?);
        out.push_str("    double sum = 0.0;\n");
        let _ = writeln!(out, "    for (int c = lane; c < {w}; c += 32) {{");
        let at = format!("(long long)r * ({}ll) + (long long)c * ({}ll)", side.row, side.col);
        let _ = writeln!(out, "        const float y = {};", self.load("ct", &at));
        out.push_str("        sum = __fma_rn((double)__ldg(row + c), (double)y, sum);\n    }\n    #pragma unroll\n");
        out.push_str(
            "    for (int x = 16; x > 0; x >>= 1) sum = __dadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, x));\n",
        );
        out.push_str("    if (lane == 0 && live) delta[at] = __double2float_rn(sum);\n");
        Ok(out)
    }

    /// Shared tiles and pointers.
    fn open(&self, out: &mut String) -> Result<()> {
        let (nq, nk, d, w) = (self.queries, self.keys, self.a.depth, self.a.width);
        out.push_str("    extern __shared__ __align__(16) unsigned char room[];\n");
        let _ = writeln!(out, "    float* const qs = (float*)room;\n    float* const cs = qs + {};", nq * (d | 1));
        let _ =
            writeln!(out, "    float* const ks = cs + {};\n    float* const vs = ks + {};", nq * (w | 1), nk * (d | 1));
        let _ = writeln!(
            out,
            "    float* const ps = vs + {};\n    float* const ds = ps + {};",
            nk * (w | 1),
            nq * (nk + 1)
        );
        self.threads(out);
        Ok(())
    }

    fn close_pointers(&self, out: &mut String) -> Result<()> {
        let s = self.a.sizes();
        let mut names = vec!["q", "k", "v", "ct"];
        names.extend(self.a.mask.then_some("mask"));
        out.push_str(&self.pointers(&names)?);
        let lse = self.row_offset()? as i128 + (s.batch as i128) * (s.queries as i128) * (s.width as i128);
        let _ = writeln!(out, "    const float* const lses = row + ({lse}ll + (long long)batch * {}ll);", s.queries);
        let _ = writeln!(out, "    const float* const deltas = delta + (long long)batch * {}ll;", s.queries);
        out.push_str(&self.seed());
        Ok(())
    }

    /// Weights into `ps` (after dropout) and gradients of scores into `ds`, both `[query][key]`.
    fn weights(&self, out: &mut String) {
        let s = self.a.sizes();
        let (nq, nk) = (self.queries, self.keys);
        let (ri, ci) = (nq / SIDE, nk / SIDE);
        self.scores(out, "s", ("qs", "ks", s.depth), (ri, ci));
        self.scores(out, "d", ("cs", "vs", s.width), (ri, ci));
        let inf = "__int_as_float((int)0xff800000u)";
        // Rows without a key have no weights, or NaN.
        let none = if self.a.safe && self.a.mask { "__int_as_float(0x7f800000)" } else { "__int_as_float(0x7fc00000)" };
        let _ = writeln!(out, "    #pragma unroll\n    for (int i = 0; i < {ri}; ++i) {{");
        let _ = writeln!(
            out,
            "        const int row = q0 + ty + i * {SIDE};\n        const bool real = row < {};",
            s.queries
        );
        out.push_str("        float lse = real ? __ldg(lses + row) : __int_as_float(0x7f800000);\n");
        let _ = writeln!(out, "        lse = lse == {inf} ? {none} : lse;");
        out.push_str("        const float less = real ? __ldg(deltas + row) : 0.0f;\n");
        let _ = writeln!(out, "        #pragma unroll\n        for (int j = 0; j < {ci}; ++j) {{");
        let _ = writeln!(out, "            const int key = k0 + tx + j * {SIDE};");
        let _ =
            writeln!(out, "            const bool inside = real && key < {};\n            float s = sc[i][j];", s.keys);
        out.push_str(&self.masked("            "));
        // Points outside have no weight, whatever the row's logarithm is.
        out.push_str(
            "            const float p = inside ? t_exp(__fsub_rn(s, lse)) : 0.0f;\n            float dp = dc[i][j];\n",
        );
        let at = format!("(ty + i * {SIDE}) * {} + tx + j * {SIDE}", nk + 1);
        match (self.dropped("p"), self.dropped("dp")) {
            (Some(p), Some(dp)) => {
                let _ = writeln!(out, "            ps[{at}] = {p};\n            dp = {dp};");
            }
            _ => {
                let _ = writeln!(out, "            ps[{at}] = p;");
            }
        }
        let _ = writeln!(
            out,
            "            ds[{at}] = inside ? __fmul_rn(p, __fsub_rn(dp, less)) : 0.0f;\n        }}\n    }}"
        );
        out.push_str("    __syncthreads();\n");
    }

    fn by_queries(&self) -> Result<String> {
        let s = self.a.sizes();
        let (nq, nk, d, w) = (self.queries, self.keys, s.depth, s.width);
        let (ri, di) = (nq / SIDE, d.div_ceil(SIDE));
        let scale = constant(Scalar::Float(self.a.scale.as_f64()), DType::F32);
        let mut out = String::new();
        self.open(&mut out)?;
        let blocks = s.queries.div_ceil(nq);
        let _ = writeln!(out, "    const unsigned batch = blockIdx.x / {blocks}u;");
        let _ = writeln!(out, "    const int q0 = (int)(blockIdx.x % {blocks}u) * {nq};");
        self.close_pointers(&mut out)?;
        let (queries, keys) = (s.queries.to_string(), s.keys.to_string());
        out.push_str(&self.tile("q", "qs", ("q0", nq, &queries), d, Some(&scale))?);
        out.push_str(&self.tile("ct", "cs", ("q0", nq, &queries), w, None)?);
        let _ = writeln!(out, "    float acc[{ri}][{di}] = {{}};");
        let end = match self.a.causal {
            true => format!("(q0 + {nq} < {0} ? q0 + {nq} : {0})", s.keys),
            false => keys.clone(),
        };
        let _ = writeln!(out, "    for (int k0 = 0; k0 < {end}; k0 += {nk}) {{\n    __syncthreads();");
        out.push_str(&self.tile("k", "ks", ("k0", nk, &keys), d, None)?);
        out.push_str(&self.tile("v", "vs", ("k0", nk, &keys), w, None)?);
        out.push_str("    __syncthreads();\n");
        self.weights(&mut out);
        self.onto(&mut out, "acc", (ri, di, d), nk, ("ds", nk + 1, 1), ("ks", d | 1));
        out.push_str("    }\n");
        self.put(&mut out, "acc", "q0", (ri, di), (s.queries, d), 0, Some(&scale));
        self.again(&mut out, Of::Query, &Mine::of_tiles("odd_acc", "q0", (ri, di), (s.queries, d), 0))?;
        Ok(out)
    }

    fn by_keys(&self) -> Result<String> {
        let s = self.a.sizes();
        let (nq, nk, d, w) = (self.queries, self.keys, s.depth, s.width);
        let (ki, di, wi) = (nk / SIDE, d.div_ceil(SIDE), w.div_ceil(SIDE));
        let scale = constant(Scalar::Float(self.a.scale.as_f64()), DType::F32);
        let mut out = String::new();
        self.open(&mut out)?;
        let blocks = s.keys.div_ceil(nk);
        let _ = writeln!(out, "    const unsigned batch = blockIdx.x / {blocks}u;");
        let _ = writeln!(out, "    const int k0 = (int)(blockIdx.x % {blocks}u) * {nk};");
        self.close_pointers(&mut out)?;
        let (queries, keys) = (s.queries.to_string(), s.keys.to_string());
        out.push_str(&self.tile("k", "ks", ("k0", nk, &keys), d, None)?);
        out.push_str(&self.tile("v", "vs", ("k0", nk, &keys), w, None)?);
        let _ = writeln!(out, "    float dk[{ki}][{di}] = {{}};\n    float dv[{ki}][{wi}] = {{}};");
        // Causal: queries before the first key of the block see none of it.
        let begin = if self.a.causal { format!("k0 / {nq} * {nq}") } else { "0".to_string() };
        let _ = writeln!(out, "    for (int q0 = {begin}; q0 < {queries}; q0 += {nq}) {{\n    __syncthreads();");
        out.push_str(&self.tile("q", "qs", ("q0", nq, &queries), d, Some(&scale))?);
        out.push_str(&self.tile("ct", "cs", ("q0", nq, &queries), w, None)?);
        out.push_str("    __syncthreads();\n");
        self.weights(&mut out);
        self.onto(&mut out, "dv", (ki, wi, w), nq, ("ps", 1, nk + 1), ("cs", w | 1));
        self.onto(&mut out, "dk", (ki, di, d), nq, ("ds", 1, nk + 1), ("qs", d | 1));
        out.push_str("    }\n");
        let dk = s.batch as u64 * s.queries as u64 * d as u64;
        let dv = dk + s.batch as u64 * s.keys as u64 * d as u64;
        self.put(&mut out, "dk", "k0", (ki, di), (s.keys, d), dk, None);
        self.put(&mut out, "dv", "k0", (ki, wi), (s.keys, w), dv, None);
        self.again(&mut out, Of::Key, &Mine::of_tiles("odd_dk", "k0", (ki, di), (s.keys, d), dk))?;
        self.again(&mut out, Of::Value, &Mine::of_tiles("odd_dv", "k0", (ki, wi), (s.keys, w), dv))?;
        Ok(out)
    }

    /// Stores an accumulator to the rows from `start` of the matrix that begins at `first` of the result; declares the bits
    /// `odd_<acc>` of rows that hold something that is not finite.
    #[allow(clippy::too_many_arguments, reason = "one store, each of whose parts differs among its three uses")]
    fn put(
        &self,
        out: &mut String,
        acc: &str,
        start: &str,
        (ri, ci): (usize, usize),
        (rows, cols): (usize, usize),
        first: u64,
        scale: Option<&str>,
    ) {
        let value = format!("{acc}[i][j]");
        let value = scale.map_or(value.clone(), |s| format!("__fmul_rn({value}, {s})"));
        let _ = writeln!(
            out,
            "    unsigned odd_{acc} = 0u;
    #pragma unroll
    for (int i = 0; i < {ri}; ++i) {{
        const int r = {start} + ty + i * {SIDE};
        #pragma unroll
        for (int j = 0; j < {ci}; ++j) {{
            const int c = tx + j * {SIDE};
            const float y = {value};
            if (r < {rows} && c < {cols}) out[{first}ll + ((long long)batch * {rows}ll + r) * {cols}ll + c] = {rounded};
            if ({odd}) odd_{acc} |= 1u << i;
        }}
    }}",
            rounded = narrow(self.a.result(false), "y"),
            odd = odd("y")
        );
    }
}
