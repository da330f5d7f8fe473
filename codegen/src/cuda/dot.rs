//! Matrix products: which kernel, in which tiles, cut along k where there are too few tiles to fill the device.
//!
//! Operands are any strides and digits, so loads go element by element, neighbouring threads along the axis of stride
//! one. Sizes and single strides are arguments; only digits are part of the text.

use super::copies::fill_bytes;
use super::generate::{Gen, Source, buffer, simple_grid};
use super::scalar::{cast, memory_type, narrow, to_memory, value_type};
use super::{Compute, LaunchArg, MatmulPlan, MatrixLayout, dot_mma, dot_pipe, dot_tile};
use std::fmt::Write;
use torsh_ir::program::{Digits, DotOperand, DotStep, digits, single_stride};
use torsh_ir::{DType, Error, Result};

/// Most parts that a contraction is cut into, and the length of a part at least.
const PARTS: usize = 32;
const PART: usize = 256;

/// How products are computed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Multiplications and additions of threads, in this dtype.
    Plain(DType),
    /// Tensor cores, operands of this dtype: f16, bf16, or f32 as TF32.
    Tensor(DType),
}

/// A product as it is emitted.
pub(super) struct Product {
    pub step: DotStep,
    pub dtype: DType,
    pub way: Way,
    /// Addresses need 64 bits.
    pub wide: bool,
    /// Parts of the contraction.
    pub parts: usize,
}

/// Takes batch axes along which the right operand is the same into the rows.
fn flatten(step: &DotStep) -> DotStep {
    let mut s = step.clone();
    while let (Some(&n), Some(&l), Some(&r)) = (s.batch.last(), s.lhs.batch_strides.last(), s.rhs.batch_strides.last())
    {
        let (true, Some(m)) = (n == 1 || r == 0, s.m.checked_mul(n)) else { break };
        s.lhs.rows = digits([(n, l)].into_iter().chain(s.lhs.rows));
        s.m = m;
        s.batch.pop();
        s.lhs.batch_strides.pop();
        s.rhs.batch_strides.pop();
    }
    s
}

/// Batch axes of an operand as digits.
fn batch_digits(step: &DotStep, x: &DotOperand) -> Digits {
    digits(step.batch.iter().copied().zip(x.batch_strides.iter().copied()))
}

/// What cublasLt can compute: one stride an axis, one of them 1.
fn library(step: &DotStep, dtype: DType, tf32: bool) -> Option<MatmulPlan> {
    let compute = match dtype {
        DType::F64 => Compute::F64,
        DType::F32 if tf32 => Compute::Tf32,
        DType::F32 | DType::F16 | DType::BF16 => Compute::F32,
        _ => return None,
    };
    let layout = |x: &DotOperand, rows: usize, cols: usize| {
        let (r, c) = (single_stride(&x.rows)?, single_stride(&x.cols)?);
        let batch_stride = single_stride(&batch_digits(step, x))?;
        // An axis of one position has whatever stride suits the other one.
        let (r, c) = match (rows, cols) {
            (1, 1) => (1, 1),
            (1, n) if c == 1 => (n as i64, 1),
            (n, 1) if r == 1 => (1, n as i64),
            (1, _) => (1, c),
            (_, 1) => (r, 1),
            _ => (r, c),
        };
        let good = (c == 1 && r >= cols as i64) || (r == 1 && c >= rows as i64);
        (good && batch_stride >= 0).then_some(MatrixLayout {
            buf: x.buf,
            offset: x.offset,
            row_stride: r,
            col_stride: c,
            batch_stride,
        })
    };
    let out = MatrixLayout {
        buf: step.out,
        offset: 0,
        row_stride: step.n as i64,
        col_stride: 1,
        batch_stride: i64::try_from(step.m.checked_mul(step.n)?).ok()?,
    };
    Some(MatmulPlan {
        dtype,
        compute,
        batch: step.batch.iter().product(),
        m: step.m,
        n: step.n,
        k: step.k,
        lhs: layout(&step.lhs, step.m, step.k)?,
        rhs: layout(&step.rhs, step.k, step.n)?,
        out,
    })
}

/// Plans a product.
pub(super) fn step(g: &mut Gen<'_>, dot: &DotStep) -> Result<()> {
    let dtype = g.buffer(dot.out)?.ty.dtype;
    let batch: usize = dot.batch.iter().product();
    let total = batch * dot.m * dot.n;
    if total == 0 {
        return Ok(());
    }
    if dot.k == 0 {
        return fill_bytes(g, buffer(dot.out), 0, total * dtype.size());
    }
    let step = flatten(dot);
    if let Some(plan) = library(&step, dtype, g.options.tf32) {
        g.library(plan);
    }
    let way = match dtype {
        DType::F16 | DType::BF16 if step.m.min(step.n) >= 8 => Way::Tensor(dtype),
        DType::F32 if g.options.tf32 && step.m.min(step.n) >= 8 => Way::Tensor(dtype),
        DType::F16 | DType::BF16 => Way::Plain(DType::F32),
        DType::Bool | DType::U8 | DType::I8 | DType::I16 => Way::Plain(DType::I32),
        other => Way::Plain(other),
    };
    let tile = match way {
        Way::Plain(d) => dot_tile::tile(&step, d, g.options.processors as usize),
        Way::Tensor(_) => dot_mma::tile(&step, g.options.processors as usize),
    };
    let (rows, cols) = tile.sides();
    let batch: usize = step.batch.iter().product();
    let tiles = step.m.div_ceil(rows) * step.n.div_ceil(cols) * batch;
    let wanted = (2 * g.options.processors as usize).div_ceil(tiles);
    let parts = if tiles < g.options.processors as usize { wanted.min(step.k / PART).clamp(1, PARTS) } else { 1 };
    let reach = |x: &DotOperand| {
        let axes = x.rows.iter().chain(&x.cols).copied().chain(batch_digits(&step, x));
        axes.map(|(e, s)| (e as i128) * i128::from(s).abs()).sum::<i128>()
    };
    let limit = 1i128 << 30;
    let wide = g.options.wide
        || reach(&step.lhs) >= limit
        || reach(&step.rhs) >= limit
        || [step.m, step.n, step.k].iter().any(|&x| x >= 1 << 29)
        || total * parts >= 1 << 30;
    let p = Product { step, dtype, way, wide, parts };
    let (source, shared) = match tile {
        Tile::Plain(t) => (dot_tile::source(&p, t)?, 0),
        Tile::Tensor(t) if dot_pipe::fits(&p) => dot_pipe::source(&p, t)?,
        Tile::Tensor(t) => (dot_mma::source(&p, t)?, 0),
    };
    let mut args = p.args(&source)?;
    let blocks = [(tiles * parts) as u64, 1, 1];
    if parts == 1 {
        return g.launch(source, blocks, shared, args);
    }
    let (compute, size) = (p.compute(), p.compute().size());
    let bytes =
        total.checked_mul(parts * size).ok_or_else(|| Error::limit("scratch memory beyond the address space"))?;
    let scratch = g.scratch(bytes)?;
    args[2] = scratch.clone();
    g.launch(source, blocks, shared, args)?;
    let args = vec![scratch, buffer(dot.out), LaunchArg::U64(total as u64), LaunchArg::U32(parts as u32)];
    g.launch(sum_parts(dtype, compute), simple_grid(total, 256), 0, args)
}

/// Adds the parts of a contraction, in f64 where they are floats.
fn sum_parts(dtype: DType, compute: DType) -> Source {
    let t = value_type(compute);
    let mut body = String::new();
    body.push_str("    const unsigned long long at = (unsigned long long)blockIdx.x * 256u + threadIdx.x;\n");
    body.push_str("    if (at >= n) return;\n");
    let (acc, add) = if compute.is_float() {
        ("double", "__dadd_rn(sum, (double)p0[i * n + at])")
    } else {
        ("unsigned long long", "sum + (unsigned long long)p0[i * n + at]")
    };
    let add = if dtype == DType::Bool { "sum | (unsigned long long)p0[i * n + at]" } else { add };
    let _ = writeln!(body, "    {acc} sum = 0;");
    let _ = writeln!(body, "    #pragma unroll 4\n    for (unsigned i = 0; i < parts; ++i) sum = {add};");
    let result = match (compute.is_float(), dtype) {
        (true, _) => cast(DType::F64, dtype, "sum"),
        (false, DType::Bool) => "(sum != 0)".to_string(),
        (false, _) => format!("({})sum", value_type(dtype)),
    };
    let _ = writeln!(body, "    p1[at] = {};", to_memory(dtype, &result));
    Source {
        stem: "dot_sum".to_string(),
        params: format!("const {t}* __restrict__ p0, {}* p1, unsigned long long n, unsigned parts", memory_type(dtype)),
        body,
        block: [256, 1, 1],
        ..Source::default()
    }
}

/// Tiles of either way.
pub(super) enum Tile {
    Plain(dot_tile::Tile),
    Tensor(dot_mma::Tile),
}

impl Tile {
    fn sides(&self) -> (usize, usize) {
        match self {
            Tile::Plain(t) => (t.rows, t.cols),
            Tile::Tensor(t) => t.sides(),
        }
    }
}

/// The axes whose single strides are arguments, in their order.
const AXES: [&str; 6] = ["am", "ak", "bk", "bn", "ab", "bb"];

impl Product {
    /// The dtype of accumulators and parts.
    pub fn compute(&self) -> DType {
        match self.way {
            Way::Plain(d) => d,
            Way::Tensor(_) => DType::F32,
        }
    }

    /// Signed type of addresses.
    pub fn int(&self) -> &'static str {
        if self.wide { "long long" } else { "int" }
    }

    fn axis(&self, name: &str) -> Digits {
        let s = &self.step;
        match name {
            "am" => s.lhs.rows.clone(),
            "ak" => s.lhs.cols.clone(),
            "bk" => s.rhs.rows.clone(),
            "bn" => s.rhs.cols.clone(),
            "ab" => batch_digits(s, &s.lhs),
            _ => batch_digits(s, &s.rhs),
        }
    }

    /// What position `i` of an axis adds to an address.
    pub fn offset(&self, name: &str, i: &str) -> String {
        let (t, digits) = (self.int(), self.axis(name));
        if digits.len() <= 1 {
            return format!("({t})({i}) * {name}");
        }
        let suffix = if self.wide { "ll" } else { "" };
        let mut below = 1usize;
        let mut terms = Vec::new();
        for (n, &(extent, stride)) in digits.iter().enumerate().rev() {
            let q = if below == 1 { format!("({t})({i})") } else { format!("({t})({i}) / {below}{suffix}") };
            let digit = if n == 0 { q } else { format!("({q}) % {extent}{suffix}") };
            terms.push(format!("({digit}) * ({stride}{suffix})"));
            below = below.saturating_mul(extent);
        }
        format!("({})", terms.join(" + "))
    }

    /// The one stride of an axis.
    pub fn single(&self, name: &str) -> Option<i64> {
        single_stride(&self.axis(name))
    }

    /// True when neighbouring positions of an axis are neighbours in memory.
    pub fn is_unit(&self, name: &str) -> bool {
        self.axis(name).last().is_some_and(|&(_, s)| s == 1)
    }

    /// Parameters: operands, result or parts, sizes, strides, tiles.
    pub fn params(&self) -> String {
        let t = memory_type(self.dtype);
        let out = if self.parts > 1 { value_type(self.compute()) } else { t };
        let i = self.int();
        let mut text = format!(
            "const {t}* __restrict__ p0, const {t}* __restrict__ p1, {out}* p2, {i} m, {i} n, {i} k, {i} each, unsigned tm, unsigned tn, unsigned parts"
        );
        for name in AXES.iter().filter(|n| self.axis(n).len() <= 1) {
            let _ = write!(text, ", {i} {name}");
        }
        text
    }

    /// Arguments for [`Product::params`]; a launch in parts replaces the third.
    fn args(&self, source: &Source) -> Result<Vec<LaunchArg>> {
        let s = &self.step;
        let size = self.dtype.size();
        let at = |x: &DotOperand| {
            let offset = usize::try_from(x.offset).map_err(|_| Error::internal("an operand before its buffer"))?;
            Ok::<_, Error>(LaunchArg::Buffer { buf: x.buf, offset: offset * size })
        };
        let word = |x: i64| match self.wide {
            true => LaunchArg::U64(x.cast_unsigned()),
            false => LaunchArg::U32((x as i32).cast_unsigned()),
        };
        let (rows, cols, depth) = source_tile(source)?;
        let steps = s.k.div_ceil(depth);
        let each = steps.div_ceil(self.parts) * depth;
        let mut args = vec![at(&s.lhs)?, at(&s.rhs)?, buffer(s.out)];
        args.extend([s.m, s.n, s.k, each].map(|x| word(x as i64)));
        args.extend([s.m.div_ceil(rows), s.n.div_ceil(cols), self.parts].map(|x| LaunchArg::U32(x as u32)));
        for name in AXES {
            if let Some(stride) = single_stride(&self.axis(name)) {
                args.push(word(stride));
            }
        }
        Ok(args)
    }

    /// Statements at the start of a kernel: the block's tile, part and batch.
    pub fn head(&self, rows: usize, cols: usize) -> String {
        let i = self.int();
        let (ab, bb) = (self.offset("ab", "batch"), self.offset("bb", "batch"));
        format!(
            "    unsigned block = blockIdx.x;
    const {i} n0 = ({i})(block % tn) * {cols};
    block /= tn;
    const {i} m0 = ({i})(block % tm) * {rows};
    block /= tm;
    const unsigned part = block % parts;
    const unsigned batch = block / parts;
    p0 += {ab};
    p1 += {bb};
    const {i} k0 = ({i})part * each;
    const {i} k1 = k - k0 < each ? k : k0 + each;
"
        )
    }

    /// The place of row `r`, column `c` in the result, or in its part of it.
    fn place(&self, r: &str, c: &str) -> String {
        let i = self.int();
        if self.parts > 1 {
            return format!("((({i})part * ({i})(gridDim.x / (tm * tn * parts)) + ({i})batch) * m + {r}) * n + {c}");
        }
        format!("(({i})batch * m + {r}) * n + {c}")
    }

    /// An accumulator as an element of the result, or of a part.
    fn rounded(&self, x: &str) -> String {
        match self.dtype {
            _ if self.parts > 1 => x.to_string(),
            DType::Bool => to_memory(self.dtype, &format!("({x} != 0)")),
            d if d.size() == 2 && d.is_float() => narrow(d, x),
            d if d.is_float() => x.to_string(),
            d => format!("({}){x}", value_type(d)),
        }
    }

    /// A statement that stores accumulator `x` at row `r`, column `c`.
    pub fn store(&self, r: &str, c: &str, x: &str) -> String {
        format!("p2[{}] = {};", self.place(r, c), self.rounded(x))
    }

    /// The same of two neighbours, the first of which is at an even place; of 16-bit floats and f32.
    pub fn store_pair(&self, r: &str, c: &str, x: &str, y: &str) -> String {
        let (x, y) = (self.rounded(x), self.rounded(y));
        let (word, pair) = match self.dtype.size() {
            2 if self.parts == 1 => ("unsigned", format!("(unsigned){x} | ((unsigned){y} << 16)")),
            _ => ("float2", format!("make_float2({x}, {y})")),
        };
        format!("*({word}*)(p2 + {}) = {pair};", self.place(r, c))
    }
}

/// Rows, columns and depth of a tile, which a source's name ends with.
fn source_tile(source: &Source) -> Result<(usize, usize, usize)> {
    let numbers = source.stem.rsplit('_').next().unwrap_or("");
    let parts: Vec<usize> = numbers.split('x').filter_map(|n| n.parse().ok()).collect();
    match parts[..] {
        [rows, cols, depth] => Ok((rows, cols, depth)),
        _ => Err(Error::internal(format!("{} names no tile", source.stem))),
    }
}
