//! Rows and elements by number. An index out of range is recorded and replaced by 0; no access leaves its buffer.

use super::LaunchArg;
use super::access::Width;
use super::copies::copy;
use super::generate::{Gen, Source, around, buffer, simple_grid};
use super::scalar::{constant, from_memory, memory_type, op, to_memory, value_type, word_type};
use super::sort;
use std::fmt::Write;
use torsh_ir::program::{BufId, ScatterMode};
use torsh_ir::scalar::{BinOp, ScalarOp};
use torsh_ir::{DType, Error, Result, Scalar};

/// Threads of a block.
const THREADS: u32 = 256;
/// Updates of so few elements a line are made one after the other by one thread.
const IN_ORDER: usize = 64;
/// Lines that fill a device.
const MANY_LINES: usize = 32_768;

/// Statements that read index `at` into `r`, checked against `size`; `negative` ones count from the end.
fn read_index(out: &mut String, at: &str, size: usize, check: u32, negative: bool, indent: &str) {
    let _ = writeln!(out, "{indent}const long long raw = index[{at}];");
    let from = if negative { format!("raw < 0 ? raw + {size}ll : raw") } else { "raw".to_string() };
    let _ = writeln!(out, "{indent}long long r = {from};");
    let _ = writeln!(
        out,
        "{indent}if (r < 0 || r >= {size}ll) {{ t_fail(error, {check}u, (unsigned long long)({at}), raw); r = 0; }}"
    );
}

fn flat(width: Width, total: usize) -> String {
    let u = width.unsigned();
    format!(
        "    const {u} at = ({u})blockIdx.x * {THREADS}u + threadIdx.x;\n    if (at >= {}) return;\n",
        width.ulit(total)
    )
}

fn source(stem: &str, params: String, body: String) -> Source {
    Source { stem: stem.to_string(), params, body, block: [THREADS, 1, 1], ..Source::default() }
}

/// Checks indices of an operation that has nothing else to do.
fn check_only(g: &mut Gen<'_>, index: BufId, n: usize, size: usize, check: u32, negative: bool) -> Result<()> {
    let mut body = flat(Width { wide: true }, n);
    read_index(&mut body, "at", size, check, negative, "    ");
    let params = "const long long* __restrict__ index, unsigned long long* error".to_string();
    let args = vec![buffer(index), LaunchArg::Error];
    g.launch(source("check_index", params, body), simple_grid(n, THREADS), 0, args)
}

/// `out[.., j, ..] = x[.., index[j], ..]`.
pub(super) fn take(g: &mut Gen<'_>, dim: usize, x: BufId, index: BufId, out: BufId) -> Result<()> {
    let ty = g.buffer(x)?.ty.clone();
    let n = g.buffer(index)?.ty.numel();
    let (outer, size, inner) = around(&ty, dim)?;
    let check = g.check(dim, size)?;
    let total = outer * n * inner;
    if total == 0 || size == 0 {
        return check_only(g, index, n, size, check, true);
    }
    let row = inner * ty.dtype.size();
    let (word, inner) = if row.is_multiple_of(16) { (16, row / 16) } else { (ty.dtype.size(), inner) };
    let total = outer * n * inner;
    let width = Width { wide: g.options.wide || total.max(outer * size * inner) >= 1 << 30 };
    let mut body = flat(width, total);
    let (split, c) = width.split("at", &[outer, n, inner], "c", "    ");
    body.push_str(&split);
    let c: Vec<String> = c.into_iter().map(|c| c.unwrap_or_else(|| "0".to_string())).collect();
    read_index(&mut body, &c[1], size, check, true, "    ");
    let row = format!("(({})({} * {}) + ({})r)", width.ty(), c[0], width.lit(size as i64), width.ty());
    let _ = writeln!(body, "    p1[at] = __ldg(p0 + {row} * {} + {});", width.lit(inner as i64), c[2]);
    let t = word_type(word);
    let params =
        format!("const {t}* __restrict__ p0, const long long* __restrict__ index, {t}* p1, unsigned long long* error");
    let args = vec![buffer(x), buffer(index), buffer(out), LaunchArg::Error];
    g.launch(source("take", params, body), simple_grid(total, THREADS), 0, args)
}

/// Statements that give the place in a tensor of the strides of `shape` for coordinates `c`, `dim` left out.
fn place(width: Width, strides: &[i64], c: &[Option<String>], dim: usize) -> String {
    let terms = c.iter().zip(strides).enumerate().filter(|(d, _)| *d != dim);
    width.sum(0, terms.filter_map(|(_, (c, &s))| Some((c.clone()?, s))))
}

/// `out[i][j] = x[index[i][j]][j]`.
pub(super) fn gather(g: &mut Gen<'_>, dim: usize, x: BufId, index: BufId, out: BufId) -> Result<()> {
    let (xt, it) = (g.buffer(x)?.ty.clone(), g.buffer(index)?.ty.clone());
    if xt.rank() != it.rank() || dim >= xt.rank() {
        return Err(Error::internal(format!("an index of type {it} into {xt} along dim {dim}")));
    }
    let total = it.numel();
    let size = xt.shape[dim];
    let check = g.check(dim, size)?;
    if xt.numel() == 0 {
        return check_only(g, index, total, size, check, false);
    }
    let width = Width { wide: g.options.wide || total.max(xt.numel()) >= 1 << 30 };
    let mut body = flat(width, total);
    let (split, c) = width.split("at", &it.shape, "c", "    ");
    body.push_str(&split);
    read_index(&mut body, "at", size, check, false, "    ");
    let strides = xt.shape.strides();
    let at = place(width, &strides, &c, dim);
    let _ = writeln!(body, "    p1[at] = __ldg(p0 + ({at} + ({})r * {}));", width.ty(), width.lit(strides[dim]));
    let t = word_type(xt.dtype.size());
    let params =
        format!("const {t}* __restrict__ p0, const long long* __restrict__ index, {t}* p1, unsigned long long* error");
    let args = vec![buffer(x), buffer(index), buffer(out), LaunchArg::Error];
    g.launch(source("gather", params, body), simple_grid(total, THREADS), 0, args)
}

/// `a (mode)= b` as an expression.
fn combine(mode: ScatterMode, dtype: DType, a: &str, b: &str) -> Result<String> {
    let bin = match mode {
        ScatterMode::Set => return Ok(b.to_string()),
        ScatterMode::Add => BinOp::Add,
        ScatterMode::Prod => BinOp::Mul,
        ScatterMode::Max => BinOp::Max,
        ScatterMode::Min => BinOp::Min,
    };
    op(ScalarOp::Bin(bin), dtype, dtype, &[a, b])
}

/// An update: where each element of the source goes.
struct Update {
    mode: ScatterMode,
    dtype: DType,
    index: BufId,
    src: BufId,
    out: BufId,
    /// Of the destination's dim.
    size: usize,
}

impl Update {
    /// Sums whose order makes no difference, or may.
    fn atomic(&self, g: &Gen<'_>) -> bool {
        match (self.mode, self.dtype) {
            (ScatterMode::Add, DType::I32 | DType::I64) => true,
            (ScatterMode::Add, DType::F32 | DType::F64) => !g.options.deterministic,
            _ => false,
        }
    }

    fn args(&self) -> Vec<LaunchArg> {
        vec![buffer(self.src), buffer(self.index), buffer(self.out), LaunchArg::Error]
    }

    fn params(&self) -> String {
        let t = memory_type(self.dtype);
        format!("const {t}* __restrict__ p0, const long long* __restrict__ index, {t}* p1, unsigned long long* error")
    }

    /// `p1[to] (mode)= p0[from]` without regard to the order.
    fn add(&self, to: &str, from: &str) -> String {
        match self.dtype {
            // Two's complement: signed sums are unsigned ones.
            DType::I64 => {
                format!("atomicAdd((unsigned long long*)p1 + ({to}), (unsigned long long)__ldg(p0 + ({from})));")
            }
            _ => format!("atomicAdd(p1 + ({to}), __ldg(p0 + ({from})));"),
        }
    }

    /// `p1[to] (mode)= p0[from]` by the only thread that touches it now.
    fn apply(&self, to: &str, from: &str) -> Result<String> {
        let t = value_type(self.dtype);
        let new = combine(self.mode, self.dtype, "old", "add")?;
        let old = if self.mode == ScatterMode::Set {
            String::new()
        } else {
            format!("const {t} old = {}; ", from_memory(self.dtype, "p1[to]"))
        };
        Ok(format!(
            "const long long to = {to}; const {t} add = {}; {old}p1[to] = {};",
            from_memory(self.dtype, &format!("__ldg(p0 + ({from}))")),
            to_memory(self.dtype, &format!("({new})"))
        ))
    }
}

/// `out = base; out[index[i][j]][j] (mode)= src[i][j]`.
pub(super) fn scatter(
    g: &mut Gen<'_>,
    dim: usize,
    mode: ScatterMode,
    (base, index, src): (BufId, BufId, BufId),
    out: BufId,
) -> Result<()> {
    let (ot, it) = (g.buffer(out)?.ty.clone(), g.buffer(index)?.ty.clone());
    if ot.rank() != it.rank() || dim >= ot.rank() {
        return Err(Error::internal(format!("an index of type {it} into {ot} along dim {dim}")));
    }
    copy(g, base, out)?;
    let (n, size) = (it.numel(), ot.shape[dim]);
    let check = g.check(dim, size)?;
    let u = Update { mode, dtype: ot.dtype, index, src, out, size };
    if ot.numel() == 0 || n == 0 {
        return check_only(g, index, n, size, check, false);
    }
    let strides = ot.shape.strides();
    let width = Width { wide: g.options.wide || n.max(ot.numel()) >= 1 << 30 };
    let (extent, lines) = (it.shape[dim], n / it.shape[dim]);
    if !u.atomic(g) && (extent <= IN_ORDER || lines >= MANY_LINES) {
        // A thread for each line along the dim, in order.
        let mut rest = it.shape.to_vec();
        rest[dim] = 1;
        let mut body = flat(width, lines);
        let (split, c) = width.split("at", &rest, "c", "    ");
        body.push_str(&split);
        let from = place(width, &it.shape.strides(), &c, dim);
        let to = place(width, &strides, &c, dim);
        let along = width.lit(it.shape.strides()[dim]);
        let _ = writeln!(body, "    for (int k = 0; k < {extent}; ++k) {{");
        let _ = writeln!(body, "        const {} from = {from} + k * {along};", width.ty());
        read_index(&mut body, "from", size, check, false, "        ");
        let place = format!("{to} + r * {}ll", strides[dim]);
        let _ = writeln!(body, "        {}\n    }}", u.apply(&place, "from")?);
        let source = source(&format!("scatter_{}", mode.name()), u.params(), body);
        return g.launch(source, simple_grid(lines, THREADS), 0, u.args());
    }
    let mut body = flat(width, n);
    let (split, c) = width.split("at", &it.shape, "c", "    ");
    body.push_str(&split);
    read_index(&mut body, "at", size, check, false, "    ");
    let to = format!("{} + r * {}ll", place(width, &strides, &c, dim), strides[dim]);
    if u.atomic(g) {
        let _ = writeln!(body, "    {}", u.add(&to, "at"));
        let source = source("scatter_atomic", u.params(), body);
        return g.launch(source, simple_grid(n, THREADS), 0, u.args());
    }
    // Sort by destination; the first of each destination applies all, in order.
    let _ = writeln!(body, "    keys[at] = {to};");
    sorted(g, &u, body, n, [1, 1])
}

/// `out = base; out[.., index[j], ..] (mode)= src[.., j, ..]`.
pub(super) fn index_put(
    g: &mut Gen<'_>,
    dim: usize,
    mode: ScatterMode,
    (base, index, src): (BufId, BufId, BufId),
    out: BufId,
) -> Result<()> {
    let ot = g.buffer(out)?.ty.clone();
    let n = g.buffer(index)?.ty.numel();
    let (outer, size, inner) = around(&ot, dim)?;
    copy(g, base, out)?;
    let check = g.check(dim, size)?;
    let u = Update { mode, dtype: ot.dtype, index, src, out, size };
    let lines = outer * inner;
    if ot.numel() == 0 || n == 0 {
        return check_only(g, index, n, size, check, true);
    }
    let width = Width { wide: g.options.wide || (n * lines).max(ot.numel()) >= 1 << 30 };
    let w = width.ty();
    if u.atomic(g) {
        let mut body = flat(width, n * lines);
        let (split, c) = width.split("at", &[outer, n, inner], "c", "    ");
        let c: Vec<String> = c.into_iter().map(|c| c.unwrap_or_else(|| "0".to_string())).collect();
        body.push_str(&split);
        read_index(&mut body, &c[1], size, check, true, "    ");
        let to = format!("(({w}){} * {size} + ({w})r) * {inner} + {}", c[0], c[2]);
        let _ = writeln!(body, "    {}", u.add(&to, "at"));
        let source = source("index_add_atomic", u.params(), body);
        return g.launch(source, simple_grid(n * lines, THREADS), 0, u.args());
    }
    if n <= IN_ORDER || lines >= MANY_LINES {
        let mut body = flat(width, lines);
        let (split, c) = width.split("at", &[outer, inner], "c", "    ");
        let c: Vec<String> = c.into_iter().map(|c| c.unwrap_or_else(|| "0".to_string())).collect();
        body.push_str(&split);
        let _ = writeln!(body, "    for (int k = 0; k < {n}; ++k) {{");
        read_index(&mut body, "k", size, check, true, "        ");
        let to = format!("(({w}){} * {size} + ({w})r) * {inner} + {}", c[0], c[1]);
        let from = format!("(({w}){} * {n} + k) * {inner} + {}", c[0], c[1]);
        let _ = writeln!(body, "        {}\n    }}", u.apply(&to, &from)?);
        let source = source(&format!("index_put_{}", mode.name()), u.params(), body);
        return g.launch(source, simple_grid(lines, THREADS), 0, u.args());
    }
    let mut body = flat(width, n);
    read_index(&mut body, "at", size, check, true, "    ");
    body.push_str("    keys[at] = r;\n");
    sorted(g, &u, body, n, [outer, inner])
}

/// Destinations of `n` sources by `keys`, sorted; then each run of equal ones applied in order, for every outer and inner
/// place.
fn sorted(g: &mut Gen<'_>, u: &Update, keys: String, n: usize, [outer, inner]: [usize; 2]) -> Result<()> {
    let bytes = n.checked_mul(8).ok_or_else(|| Error::limit("scratch memory beyond the address space"))?;
    let (key_at, order_at) = (g.scratch(bytes)?, g.scratch(bytes)?);
    let params = "const long long* __restrict__ index, long long* keys, unsigned long long* error".to_string();
    let args = vec![buffer(u.index), key_at.clone(), LaunchArg::Error];
    g.launch(source("destinations", params, keys), simple_grid(n, THREADS), 0, args)?;
    let line = sort::Lines { outer: 1, size: n, inner: 1 };
    sort::positions(g, DType::I64, false, line, key_at.clone(), order_at.clone())?;
    let lines = outer * inner;
    let width = Width { wide: true };
    let mut body = flat(width, n * lines);
    let (split, c) = width.split("at", &[n, outer, inner], "c", "    ");
    let c: Vec<String> = c.into_iter().map(|c| c.unwrap_or_else(|| "0ll".to_string())).collect();
    body.push_str(&split);
    let (t, p) = (value_type(u.dtype), &c[0]);
    let _ = writeln!(body, "    const long long row = keys[order[{p}]];");
    let _ = writeln!(body, "    if ({p} > 0 && keys[order[{p} - 1]] == row) return;");
    let to = format!("({} * {}ll + row) * {inner}ll + {}", c[1], if lines > 1 { u.size } else { 0 }, c[2]);
    let _ = writeln!(body, "    const long long to = {to};");
    let start = match u.mode {
        ScatterMode::Set => constant(Scalar::Int(0), u.dtype),
        _ => from_memory(u.dtype, "p1[to]"),
    };
    let _ = writeln!(body, "    {t} old = {start};");
    let _ = writeln!(body, "    for (long long q = {p}; q < {n}ll; ++q) {{");
    body.push_str("        const long long j = order[q];\n        if (keys[j] != row) break;\n");
    let from = format!("__ldg(p0 + (({} * {n}ll + j) * {inner}ll + {}))", c[1], c[2]);
    let _ = writeln!(body, "        const {t} add = {};", from_memory(u.dtype, &from));
    let _ = writeln!(body, "        old = {};\n    }}", combine(u.mode, u.dtype, "old", "add")?);
    let _ = writeln!(body, "    p1[to] = {};", to_memory(u.dtype, "old"));
    let m = memory_type(u.dtype);
    let params = format!(
        "const {m}* __restrict__ p0, const long long* __restrict__ keys, const long long* __restrict__ order, {m}* p1"
    );
    let args = vec![buffer(u.src), key_at, order_at, buffer(u.out)];
    g.launch(source(&format!("apply_{}", u.mode.name()), params, body), simple_grid(n * lines, THREADS), 0, args)
}
