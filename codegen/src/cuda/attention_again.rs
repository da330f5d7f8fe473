//! Elements of attention and its gradient that are not finite, computed again by the ops' meaning
//! (`torsh_ir::ops::attention_rows`): sums in f64, in the order of the meaning. Blocks round each step to f32, scale
//! queries first and divide by the sum of the weights at the end, so that they overflow where the meaning is finite.
//!
//! A thread does it for elements that it has stored, after the last barrier of its launch. Those that are NaN by the
//! meaning too are mostly found without computing them.

use super::attention::{Call, SIDE};
use super::scalar::{constant, memory_type, narrow, widen};
use std::fmt::Write;
use torsh_ir::{DType, Error, Result, Scalar};

const INF: &str = "__int_as_float((int)0xff800000u)";
const NAN: &str = "__int_as_float(0x7fc00000)";

/// Whether `x` is infinite or NaN.
pub fn odd(x: &str) -> String {
    format!("!(__fsub_rn({x}, {x}) == 0.0f)")
}

fn nan(x: &str) -> String {
    format!("!({x} == {x})")
}

/// What is computed again.
#[derive(Copy, Clone, PartialEq)]
pub enum Of {
    Forward,
    Query,
    Key,
    Value,
}

/// The elements of a result that a thread has stored.
pub struct Mine {
    /// A variable with a bit for each row, set where the row holds something that is not finite.
    pub odds: String,
    /// Row `i` and column `j`.
    pub row: String,
    pub col: String,
    /// How many of each.
    pub counts: (usize, usize),
    /// Rows and columns that the result has; others do not exist.
    pub extents: (usize, usize),
    /// Where the result begins in its buffer.
    pub first: u64,
}

impl Mine {
    /// Those of threads in a square: every `SIDE`th row from `start` and column.
    pub fn of_tiles(odds: &str, start: &str, counts: (usize, usize), extents: (usize, usize), first: u64) -> Mine {
        let (row, col) = (format!("{start} + ty + i * {SIDE}"), format!("tx + j * {SIDE}"));
        Mine { odds: odds.to_string(), row, col, counts, extents, first }
    }
}

impl Call<'_> {
    /// An element of an operand as f64.
    fn wide(&self, name: &str, row: &str, col: &str) -> Result<String> {
        let side = self.side(name).ok_or_else(|| Error::internal(format!("an attention without {name}")))?;
        let at = format!("(long long){row} * ({}ll) + (long long){col} * ({}ll)", side.row, side.col);
        Ok(format!("(double){}", self.load(name, &at)))
    }

    /// Statements that declare `s`, the score of `row` and `key` with its mask.
    fn score(&self, pad: &str) -> Result<String> {
        let scale = constant(Scalar::Float(self.a.scale.as_f64()), DType::F64);
        let product = self.product(pad, "qk", ("q", "row"), ("k", "key"), self.a.depth)?;
        let masked = self.masked(pad);
        Ok(format!(
            "{product}{pad}const bool inside = true;\n{pad}float s = __double2float_rn(__dmul_rn(qk, {scale}));\n{masked}"
        ))
    }

    /// Statements that declare `name`, the product of rows of two operands.
    fn product(&self, pad: &str, name: &str, a: (&str, &str), b: (&str, &str), n: usize) -> Result<String> {
        let (x, y) = (self.wide(a.0, a.1, "e")?, self.wide(b.0, b.1, "e")?);
        Ok(format!(
            "{pad}double {name} = 0.0;\n{pad}#pragma unroll 1\n{pad}for (int e = 0; e < {n}; ++e) {name} = __fma_rn({x}, {y}, {name});\n"
        ))
    }

    /// Keys that query `row` sees.
    fn end(&self) -> String {
        let keys = self.a.keys;
        if self.a.causal { format!("(row < {keys} ? row + 1 : {keys})") } else { keys.to_string() }
    }

    /// What dropout makes of `x`.
    fn after_dropout(&self, x: &str) -> String {
        self.dropped(x).unwrap_or_else(|| x.to_string())
    }

    /// Statements that compute elements of the result again: of the rows whose bits are set, those that are not finite.
    pub fn again(&self, out: &mut String, of: Of, mine: &Mine) -> Result<()> {
        let row = if matches!(of, Of::Forward | Of::Query) { "row" } else { "key" };
        let dtype = self.a.result(of == Of::Forward);
        let ((ri, ci), (rows, cols)) = (mine.counts, mine.extents);
        let _ = writeln!(out, "    #pragma unroll 1\n    for (int i = 0; i < {ri}; ++i) {{");
        let _ = writeln!(out, "        if (!({} >> i & 1u)) continue;", mine.odds);
        let _ = writeln!(out, "        const int {row} = {};", mine.row);
        let _ = writeln!(out, "        #pragma unroll 1\n        for (int j = 0; j < {ci}; ++j) {{");
        let _ = writeln!(out, "            const int col = {};", mine.col);
        let _ = writeln!(out, "            if ({row} >= {rows} || col >= {cols}) continue;");
        let _ = writeln!(
            out,
            "            {}* const to = out + ({}ll + ((long long)batch * {rows}ll + {row}) * {cols}ll + col);",
            memory_type(dtype),
            mine.first
        );
        let _ = writeln!(out, "            const float was = {};", widen(dtype, "*to"));
        let _ = writeln!(out, "            if (!({})) continue;", odd("was"));
        match of {
            Of::Forward => self.forward_again(out)?,
            Of::Query => self.query_again(out)?,
            Of::Key | Of::Value => self.key_again(out, of)?,
        }
        out.push_str("        }\n    }\n");
        Ok(())
    }

    /// The sum as an element of the result.
    fn stored(&self, forward: bool) -> String {
        narrow(self.a.result(forward), "__double2float_rn(sum)")
    }

    fn forward_again(&self, out: &mut String) -> Result<()> {
        let (p, end) = ("            ", self.end());
        let score = self.score("                ")?;
        let dropout = self.a.dropout.as_f64() > 0.0;
        if !dropout {
            // Every score of such a query is NaN.
            let q = self.wide("q", "row", "e")?;
            let _ = writeln!(out, "{p}bool lost = false;\n{p}#pragma unroll 1");
            let _ = writeln!(out, "{p}for (int e = 0; e < {} && !lost; ++e) {{", self.a.depth);
            let _ = writeln!(
                out,
                "{p}    const double x = {q};\n{p}    lost = {};\n{p}}}\n{p}if (lost) continue;",
                nan("x")
            );
        }
        let head = format!("{p}#pragma unroll 1\n{p}for (int key = 0; key < {end}; ++key) {{\n{score}");
        let _ =
            writeln!(out, "{p}float most = {INF};\n{head}{p}    most = s > most || {} ? s : most;\n{p}}}", nan("s"));
        // Every key is masked, or its score is -inf by the meaning too.
        let none = if self.a.safe && self.a.mask { "0.0f" } else { NAN };
        let _ = writeln!(out, "{p}if (most == {INF}) {{\n{p}    *to = {};", narrow(self.a.result(true), none));
        if let Some(lse) = self.logarithm(INF) {
            let _ = writeln!(out, "{p}    {lse}");
        }
        let _ = writeln!(out, "{p}    continue;\n{p}}}");
        let _ = writeln!(
            out,
            "{p}double total = 0.0;\n{head}{p}    total = __dadd_rn(total, (double)t_exp(__fsub_rn(s, most)));\n{p}}}"
        );
        let (v, kept) = (self.wide("v", "key", "col")?, self.after_dropout("w"));
        let _ = writeln!(
            out,
            "{p}double sum = 0.0;\n{head}{p}    const float w = __double2float_rn(__ddiv_rn((double)t_exp(__fsub_rn(s, most)), total));"
        );
        let _ =
            writeln!(out, "{p}    sum = __fma_rn((double){kept}, {v}, sum);\n{p}}}\n{p}*to = {};", self.stored(true));
        if let Some(lse) = self.logarithm("__fadd_rn(most, t_log(__double2float_rn(total)))") {
            let _ = writeln!(out, "{p}{lse}");
        }
        Ok(())
    }

    /// A statement that stores the logarithm of the row's sum with its first column, where the result has it.
    fn logarithm(&self, value: &str) -> Option<String> {
        let s = self.a.sizes();
        let first = s.batch as u64 * s.queries as u64 * s.width as u64;
        self.a
            .lse
            .then(|| format!("if (col == 0) out[{first}ll + (long long)batch * {}ll + row] = {value};", s.queries))
    }

    /// Statements that declare, of `row` and `key`, the weight `w` and the cotangent `g` of the score, from `lse` and
    /// `less`.
    fn point(&self, pad: &str) -> Result<String> {
        let mut out = self.score(pad)?;
        let none = if self.a.safe && self.a.mask { "0.0f" } else { NAN };
        out.push_str(&self.product(pad, "cv", ("ct", "row"), ("v", "key"), self.a.width)?);
        let _ = writeln!(out, "{pad}const float w = lse == {INF} ? {none} : t_exp(__fsub_rn(s, lse));");
        let _ = writeln!(out, "{pad}const float y = __double2float_rn(cv);");
        let _ = writeln!(out, "{pad}const float g = __fmul_rn(w, __fsub_rn({}, less));", self.after_dropout("y"));
        Ok(out)
    }

    fn query_again(&self, out: &mut String) -> Result<()> {
        let p = "            ";
        let _ = writeln!(out, "{p}const float lse = __ldg(lses + row);\n{p}const float less = __ldg(deltas + row);");
        // NaN in either is NaN in every score's cotangent.
        let _ = writeln!(out, "{p}if ({} || {}) continue;", nan("lse"), nan("less"));
        let (point, k) = (self.point("                ")?, self.wide("k", "key", "col")?);
        let scale = constant(Scalar::Float(self.a.scale.as_f64()), DType::F64);
        let _ = writeln!(
            out,
            "{p}double sum = 0.0;\n{p}#pragma unroll 1\n{p}for (int key = 0; key < {}; ++key) {{",
            self.end()
        );
        let _ =
            writeln!(out, "{point}{p}    sum = __dadd_rn(sum, __dmul_rn(__dmul_rn((double)g, {scale}), {k}));\n{p}}}");
        let _ = writeln!(out, "{p}*to = {};", self.stored(false));
        Ok(())
    }

    fn key_again(&self, out: &mut String, of: Of) -> Result<()> {
        let p = "            ";
        let begin = if self.a.causal { "key" } else { "0" };
        let queries = self.a.queries;
        let _ = writeln!(out, "{p}bool lost = false;");
        if of == Of::Key || self.a.dropout.as_f64() <= 0.0 {
            let also = if of == Of::Key { format!(" || {}", nan("less")) } else { String::new() };
            let _ =
                writeln!(out, "{p}#pragma unroll 1\n{p}for (int row = {begin}; row < {queries} && !lost; ++row) {{");
            let _ = writeln!(
                out,
                "{p}    const float lse = __ldg(lses + row);\n{p}    const float less = __ldg(deltas + row);"
            );
            let _ = writeln!(out, "{p}    lost = {}{also};\n{p}}}", nan("lse"));
        }
        let _ = writeln!(out, "{p}if (lost) continue;");
        let point = self.point("                ")?;
        let scale = constant(Scalar::Float(self.a.scale.as_f64()), DType::F64);
        let term = match of {
            Of::Key => format!("__dmul_rn(__dmul_rn((double)g, {scale}), {})", self.wide("q", "row", "col")?),
            _ => format!("__dmul_rn((double){}, {})", self.after_dropout("w"), self.wide("ct", "row", "col")?),
        };
        let _ = writeln!(
            out,
            "{p}double sum = 0.0;\n{p}#pragma unroll 1\n{p}for (int row = {begin}; row < {queries}; ++row) {{"
        );
        let _ = writeln!(
            out,
            "{p}    const float lse = __ldg(lses + row);\n{p}    const float less = __ldg(deltas + row);"
        );
        let _ = writeln!(out, "{point}{p}    sum = __dadd_rn(sum, {term});\n{p}}}\n{p}*to = {};", self.stored(false));
        Ok(())
    }
}
