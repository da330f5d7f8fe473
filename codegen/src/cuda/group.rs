//! Threads that share a row, and how they combine what each has folded: along a tree that depends on nothing but the
//! number of threads.

use super::scalar::{accumulator, combine, constant, value_type};
use std::fmt::Write;
use torsh_ir::scalar::{ReduceOp, identity};
use torsh_ir::{DType, Result, Scalar};

/// Which threads share a row.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Group {
    /// So many neighbours of a warp: a power of two up to 32. Blocks have `threads` threads.
    Warp {
        /// Threads of a row.
        lanes: usize,
        /// Threads of a block.
        threads: usize,
    },
    /// A whole block.
    Block {
        /// Threads of a block.
        threads: usize,
    },
    /// Threads of a block with the same x, of 32 rows side by side.
    Column {
        /// Threads of a row.
        lanes: usize,
    },
}

/// Rows of a block whose threads share rows in columns.
pub(super) const COLUMNS: usize = 32;

impl Group {
    /// Threads of a row.
    pub fn lanes(self) -> usize {
        match self {
            Group::Warp { lanes, .. } | Group::Column { lanes } => lanes,
            Group::Block { threads } => threads,
        }
    }
    /// Rows of a block.
    pub fn rows(self) -> usize {
        match self {
            Group::Warp { lanes, threads } => threads / lanes,
            Group::Block { .. } => 1,
            Group::Column { .. } => COLUMNS,
        }
    }
    /// Threads of a block.
    pub fn block(self) -> [u32; 3] {
        match self {
            Group::Warp { threads, .. } | Group::Block { threads } => [threads as u32, 1, 1],
            Group::Column { lanes } => [COLUMNS as u32, lanes as u32, 1],
        }
    }
    /// A thread's place in its row, and its row's place in the block.
    pub fn places(self) -> (String, String) {
        match self {
            Group::Warp { lanes: 1, .. } => ("0".to_string(), "(int)threadIdx.x".to_string()),
            Group::Warp { lanes, .. } => {
                (format!("(int)(threadIdx.x & {}u)", lanes - 1), format!("(int)(threadIdx.x / {lanes}u)"))
            }
            Group::Block { .. } => ("(int)threadIdx.x".to_string(), "0".to_string()),
            Group::Column { .. } => ("(int)threadIdx.y".to_string(), "(int)threadIdx.x".to_string()),
        }
    }
    /// A barrier of the threads of a row.
    pub fn sync(self) -> &'static str {
        match self {
            Group::Warp { .. } => "    __syncwarp();\n",
            Group::Block { .. } | Group::Column { .. } => "    __syncthreads();\n",
        }
    }
    /// Bytes of shared memory for one reduction.
    pub fn shared(self, fold: &Fold) -> usize {
        let slots = match self {
            Group::Warp { .. } => 0,
            Group::Block { threads } => threads / 32,
            Group::Column { lanes: 1 } => 0,
            Group::Column { lanes } => lanes * COLUMNS,
        };
        slots * (fold.wide.size() + if fold.is_position() { 8 } else { 0 })
    }
}

/// A reduction under way: variables `<name>` and, of positions, `<name>p`.
pub(super) struct Fold {
    pub op: ReduceOp,
    /// The dtype of the values folded.
    pub dtype: DType,
    /// The dtype of the accumulator.
    pub wide: DType,
    pub name: String,
}

/// The position of nothing.
const NOWHERE: &str = "0x7fffffffffffffffll";

impl Fold {
    pub fn new(op: ReduceOp, dtype: DType, name: String) -> Fold {
        let (wide, _) = accumulator(op, dtype);
        Fold { op, dtype, wide, name }
    }

    /// The result is a position.
    pub fn is_position(&self) -> bool {
        matches!(self.op, ReduceOp::ArgMax | ReduceOp::ArgMin)
    }

    /// What changes nothing when folded in.
    fn neutral(&self) -> String {
        match self.op {
            // Keeps the sign of a sum of negative zeros.
            ReduceOp::Sum if self.dtype.is_float() => constant(Scalar::Float(-0.0), DType::F64),
            op => accumulator(op, self.dtype).1,
        }
    }

    /// Declares the accumulator.
    pub fn declare(&self) -> String {
        let mut out = format!("    {} {} = {};\n", value_type(self.wide), self.name, self.neutral());
        if self.is_position() {
            let _ = writeln!(out, "    long long {}p = {NOWHERE};", self.name);
        }
        out
    }

    /// Folds in the value `x` (of the accumulator's dtype) at `position`, if `ok`.
    pub fn push(&self, x: &str, position: &str, ok: Option<&str>) -> Result<String> {
        let a = &self.name;
        if self.is_position() {
            return Ok(self.replace(x, position, ok));
        }
        let both = combine(self.op, self.wide, a, x)?;
        Ok(match ok {
            Some(ok) => format!("{a} = {ok} ? {both} : {a};"),
            None => format!("{a} = {both};"),
        })
    }

    /// Takes `(x, position)` if it beats the accumulator: NaN first, then the extreme, then the first.
    fn replace(&self, x: &str, position: &str, ok: Option<&str>) -> String {
        let a = &self.name;
        let sign = if self.op == ReduceOp::ArgMax { ">" } else { "<" };
        let (wx, wa) = (super::scalar::widen(self.dtype, x), super::scalar::widen(self.dtype, a));
        let beats = if self.dtype.is_float() {
            format!(
                "(({wx} != {wx}) != ({wa} != {wa}) ? {wx} != {wx} : {wx} == {wx} && {wx} != {wa} ? {wx} {sign} {wa} : {position} < {a}p)"
            )
        } else {
            format!("({wx} != {wa} ? {wx} {sign} {wa} : {position} < {a}p)")
        };
        let ok = ok.map_or(String::new(), |ok| format!("{ok} && "));
        format!("if ({ok}{beats}) {{ {a} = {x}; {a}p = {position}; }}")
    }

    /// `name` of the thread whose number differs in `mask`, as an expression.
    fn shuffled(&self, mask: usize) -> String {
        let a = &self.name;
        match self.wide {
            DType::Bool => format!("__shfl_xor_sync(0xffffffffu, {a} ? 1 : 0, {mask}) != 0"),
            d if d.size() < 4 => {
                format!("({})__shfl_xor_sync(0xffffffffu, (int){a}, {mask})", value_type(d))
            }
            _ => format!("__shfl_xor_sync(0xffffffffu, {a}, {mask})"),
        }
    }

    fn shuffle_step(&self, out: &mut String, mask: usize) -> Result<()> {
        let (a, ty) = (&self.name, value_type(self.wide));
        let _ = writeln!(out, "    {{\n        const {ty} o = {};", self.shuffled(mask));
        if self.is_position() {
            let _ = writeln!(out, "        const long long op = __shfl_xor_sync(0xffffffffu, {a}p, {mask});");
            let _ = writeln!(out, "        {}", self.replace("o", "op", None));
        } else if self.wide.is_float() && matches!(self.op, ReduceOp::Max | ReduceOp::Min) {
            // The same operand first on both sides, so that zeros of either sign come out alike.
            let upper = format!("((threadIdx.x & {mask}u) != 0u)");
            let _ = writeln!(out, "        const {ty} lo = {upper} ? o : {a};");
            let _ = writeln!(out, "        const {ty} hi = {upper} ? {a} : o;");
            let _ = writeln!(out, "        {a} = {};", combine(self.op, self.wide, "lo", "hi")?);
        } else {
            let _ = writeln!(out, "        {a} = {};", combine(self.op, self.wide, a, "o")?);
        }
        out.push_str("    }\n");
        Ok(())
    }

    /// The result as a value of the reduction's dtype; i64 of positions. `empty` says that nothing was folded.
    pub fn result(&self, empty: bool) -> String {
        if empty {
            let dtype = if self.is_position() { DType::I64 } else { self.dtype };
            return constant(identity(self.op, dtype), dtype);
        }
        if self.is_position() {
            return format!("({0}p == {NOWHERE} ? 0ll : {0}p)", self.name);
        }
        super::scalar::from_accumulator(self.op, self.dtype, &self.name)
    }

    /// Address of a place of partial results in scratch memory: places have 8 bytes, two of positions.
    pub fn places(&self) -> usize {
        if self.is_position() { 2 } else { 1 }
    }

    /// Stores the accumulator at place `at` of the scratch memory `base`.
    pub fn save(&self, base: &str, at: &str) -> String {
        let (a, n) = (&self.name, self.places());
        let ty = value_type(self.wide);
        let mut out = format!("*({ty}*)({base} + 8 * {n} * (unsigned long long)({at})) = {a};");
        if self.is_position() {
            let _ = write!(out, " *(long long*)({base} + 8 * ({n} * (unsigned long long)({at}) + 1)) = {a}p;");
        }
        out
    }

    /// Folds in what [`Fold::save`] stored, if `ok`.
    pub fn restore(&self, base: &str, at: &str, ok: &str) -> Result<String> {
        let n = self.places();
        let ty = value_type(self.wide);
        let read = format!("const {ty} o = *(const {ty}*)({base} + 8 * {n} * (unsigned long long)({at}));");
        let push = if self.is_position() {
            format!(
                "const long long op = *(const long long*)({base} + 8 * ({n} * (unsigned long long)({at}) + 1)); {}",
                self.replace("o", "op", None)
            )
        } else {
            self.push("o", "0", None)?
        };
        Ok(format!("if ({ok}) {{ {read} {push} }}"))
    }
}

/// Combines accumulators of the threads of each row; every thread has the results then.
pub(super) fn combine_all(group: Group, folds: &[Fold]) -> Result<String> {
    let mut out = String::new();
    if folds.is_empty() {
        return Ok(out);
    }
    let within = match group {
        Group::Warp { lanes, .. } => lanes,
        Group::Block { .. } => 32,
        Group::Column { .. } => 1,
    };
    let mut mask = within / 2;
    while mask > 0 {
        for f in folds {
            f.shuffle_step(&mut out, mask)?;
        }
        mask /= 2;
    }
    let (slots, write, own, read) = match group {
        Group::Warp { .. } | Group::Column { lanes: 1 } => return Ok(out),
        Group::Block { threads } => (
            format!("[{}]", threads / 32),
            "if ((threadIdx.x & 31u) == 0u) ",
            "[threadIdx.x >> 5]".to_string(),
            "[w]".to_string(),
        ),
        Group::Column { lanes } => (
            format!("[{lanes}][{COLUMNS}]"),
            "",
            "[threadIdx.y][threadIdx.x]".to_string(),
            "[w][threadIdx.x]".to_string(),
        ),
    };
    let count = match group {
        Group::Block { threads } => threads / 32,
        other => other.lanes(),
    };
    for f in folds {
        let (a, ty) = (&f.name, value_type(f.wide));
        let _ = writeln!(out, "    __shared__ {ty} x{a}{slots};");
        if f.is_position() {
            let _ = writeln!(out, "    __shared__ long long x{a}p{slots};");
        }
        let position = if f.is_position() { format!(" x{a}p{own} = {a}p;") } else { String::new() };
        let _ = writeln!(out, "    {write}{{ x{a}{own} = {a};{position} }}");
    }
    out.push_str("    __syncthreads();\n");
    for f in folds {
        let a = &f.name;
        let first = read.replace('w', "0");
        let position = if f.is_position() { format!(" {a}p = x{a}p{first};") } else { String::new() };
        let _ = writeln!(out, "    {a} = x{a}{first};{position}");
        let _ = writeln!(out, "    #pragma unroll\n    for (int w = 1; w < {count}; ++w) {{");
        let ty = value_type(f.wide);
        let _ = writeln!(out, "        const {ty} o = x{a}{read};");
        if f.is_position() {
            let _ = writeln!(out, "        const long long op = x{a}p{read};");
            let _ = writeln!(out, "        {}", f.replace("o", "op", None));
        } else {
            let _ = writeln!(out, "        {}", f.push("o", "0", None)?);
        }
        out.push_str("    }\n");
    }
    Ok(out)
}
