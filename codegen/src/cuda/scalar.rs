//! Scalar operations as CUDA expressions, with the meaning of `torsh_ir::scalar`.
//!
//! A value is a variable of the C type [`value_type`]: 16-bit floats are their bits, so that moves keep them, and
//! every operation on them converts to f32 and rounds back. Arguments are names of variables.

use super::math;
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp, to_bits};
use torsh_ir::{DType, Error, Result, Scalar};

/// C type of a value in registers.
pub(super) fn value_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "bool",
        other => memory_type(other),
    }
}

/// C type of an element in memory.
pub(super) fn memory_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::U8 => "unsigned char",
        DType::I8 => "signed char",
        DType::I16 => "short",
        DType::I32 => "int",
        DType::I64 => "long long",
        DType::F16 | DType::BF16 => "unsigned short",
        DType::F32 => "float",
        DType::F64 => "double",
    }
}

/// Unsigned C type of a word of so many bytes, for moves.
pub(super) fn word_type(bytes: usize) -> &'static str {
    match bytes {
        1 => "unsigned char",
        2 => "unsigned short",
        4 => "unsigned",
        8 => "unsigned long long",
        _ => "uint4",
    }
}

/// An element read from memory, as a value.
pub(super) fn from_memory(dtype: DType, x: &str) -> String {
    if dtype == DType::Bool { format!("({x} != 0)") } else { x.to_string() }
}

/// A value as it is written to memory.
pub(super) fn to_memory(dtype: DType, x: &str) -> String {
    if dtype == DType::Bool { format!("(unsigned char)({x} ? 1 : 0)") } else { x.to_string() }
}

/// A constant.
pub(super) fn constant(c: Scalar, dtype: DType) -> String {
    let c = c.to_dtype(dtype);
    let bits = to_bits(c, dtype);
    match dtype {
        DType::Bool => if c.as_i64() != 0 { "true" } else { "false" }.to_string(),
        DType::U8 => format!("(unsigned char){bits}"),
        DType::I8 => format!("(signed char)({})", c.as_i64()),
        DType::I16 => format!("(short)({})", c.as_i64()),
        DType::I32 => format!("(int){bits:#x}u"),
        DType::I64 => format!("(long long){bits:#x}ull"),
        DType::F16 | DType::BF16 => format!("(unsigned short){bits:#06x}u"),
        DType::F32 => format!("__int_as_float({bits:#010x})"),
        DType::F64 => format!("__longlong_as_double((long long){bits:#018x}ull)"),
    }
}

/// A 16-bit float as f32; other values as they are.
pub(super) fn widen(dtype: DType, x: &str) -> String {
    match dtype {
        DType::F16 => format!("t_h2f({x})"),
        DType::BF16 => format!("t_b2f({x})"),
        _ => x.to_string(),
    }
}

/// An f32 rounded to a 16-bit float; other values as they are.
pub(super) fn narrow(dtype: DType, x: &str) -> String {
    match dtype {
        DType::F16 => format!("t_f2h({x})"),
        DType::BF16 => format!("t_f2b({x})"),
        _ => x.to_string(),
    }
}

fn undefined(op: &str, dtype: DType) -> Error {
    Error::compile(format!("{op} is not defined on {dtype}"))
}

/// `op` on arguments of `from`, giving `to`.
pub(super) fn op(op: ScalarOp, from: DType, to: DType, x: &[&str]) -> Result<String> {
    match op {
        ScalarOp::Un(un) => unary(un, from, x[0]),
        ScalarOp::Bin(bin) => binary(bin, from, x[0], x[1]),
        ScalarOp::Cmp(cmp) => {
            let (a, b) = (widen(from, x[0]), widen(from, x[1]));
            let sign = match cmp {
                CmpOp::Eq => "==",
                CmpOp::Ne => "!=",
                CmpOp::Lt => "<",
                CmpOp::Le => "<=",
                CmpOp::Gt => ">",
                CmpOp::Ge => ">=",
            };
            Ok(format!("({a} {sign} {b})"))
        }
        ScalarOp::Select => Ok(format!("({} ? {} : {})", x[0], x[1], x[2])),
        ScalarOp::Cast => Ok(cast(from, to, x[0])),
        ScalarOp::Bitcast => bitcast(from, to, x[0]),
    }
}

fn unary(op: UnOp, dtype: DType, x: &str) -> Result<String> {
    if !dtype.is_float() {
        return int_unary(op, dtype, x);
    }
    let wide = widen(dtype, x);
    let e = match (op, dtype == DType::F64) {
        (UnOp::Not, _) => return Err(undefined(op.name(), dtype)),
        // Bits, so that NaN keeps its own; the compiler makes one instruction of it.
        (UnOp::Neg, _) if dtype.size() == 2 => return Ok(format!("(unsigned short)({x} ^ 0x8000u)")),
        (UnOp::Abs, _) if dtype.size() == 2 => return Ok(format!("(unsigned short)({x} & 0x7fffu)")),
        (UnOp::Neg, _) => format!("-{wide}"),
        (UnOp::Abs, false) => format!("fabsf({wide})"),
        (UnOp::Abs, true) => format!("fabs({wide})"),
        (UnOp::Sign, false) => format!("t_sign_f32({wide})"),
        (UnOp::Sign, true) => format!("t_sign_f64({wide})"),
        (UnOp::Floor, false) => format!("floorf({wide})"),
        (UnOp::Floor, true) => format!("floor({wide})"),
        (UnOp::Ceil, false) => format!("ceilf({wide})"),
        (UnOp::Ceil, true) => format!("ceil({wide})"),
        (UnOp::Round, false) => format!("rintf({wide})"),
        (UnOp::Round, true) => format!("rint({wide})"),
        (UnOp::Trunc, false) => format!("truncf({wide})"),
        (UnOp::Trunc, true) => format!("trunc({wide})"),
        (UnOp::Sqrt, false) => format!("__fsqrt_rn({wide})"),
        (UnOp::Sqrt, true) => format!("__dsqrt_rn({wide})"),
        (UnOp::Rsqrt, false) => format!("__fdiv_rn(1.0f, __fsqrt_rn({wide}))"),
        (UnOp::Rsqrt, true) => format!("__ddiv_rn(1.0, __dsqrt_rn({wide}))"),
        (UnOp::Recip, false) => format!("__fdiv_rn(1.0f, {wide})"),
        (UnOp::Recip, true) => format!("__ddiv_rn(1.0, {wide})"),
        (UnOp::Sigmoid, true) => format!("t_sigmoid_f64({wide})"),
        // The functions: our own of f32, CUDA's of f64, which has them under the same names.
        (_, true) => format!("{}({wide})", op.name()),
        (_, false) => format!("t_{}({wide})", op.name()),
    };
    debug_assert!(dtype == DType::F64 || math::function(op).is_none() || e.starts_with("t_"));
    Ok(narrow(dtype, &e))
}

fn int_unary(op: UnOp, dtype: DType, x: &str) -> Result<String> {
    let t = value_type(dtype);
    Ok(match (op, dtype) {
        (UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc, _) => x.to_string(),
        (UnOp::Not, DType::Bool) => format!("!{x}"),
        (UnOp::Neg | UnOp::Abs | UnOp::Sign, DType::Bool) | (UnOp::Abs, DType::U8) => x.to_string(),
        (UnOp::Not, _) => format!("({t})~{x}"),
        (UnOp::Neg, DType::I64) => format!("(long long)(0ull - (unsigned long long){x})"),
        (UnOp::Neg, _) => format!("({t})(0u - (unsigned){x})"),
        (UnOp::Abs, DType::I64) => format!("({x} < 0 ? (long long)(0ull - (unsigned long long){x}) : {x})"),
        (UnOp::Abs, _) => format!("({t})({x} < 0 ? 0u - (unsigned){x} : (unsigned){x})"),
        (UnOp::Sign, _) => format!("({t})(({x} > 0) - ({x} < 0))"),
        _ => return Err(undefined(op.name(), dtype)),
    })
}

fn binary(op: BinOp, dtype: DType, a: &str, b: &str) -> Result<String> {
    if dtype.is_float() {
        float_binary(op, dtype, a, b)
    } else if dtype == DType::Bool {
        bool_binary(op, a, b)
    } else {
        int_binary(op, dtype, a, b)
    }
}

fn float_binary(op: BinOp, dtype: DType, a: &str, b: &str) -> Result<String> {
    let (wa, wb) = (widen(dtype, a), widen(dtype, b));
    let double = dtype == DType::F64;
    let pick = |single: &str, wide: &str| format!("{}({wa}, {wb})", if double { wide } else { single });
    let e = match op {
        BinOp::Add => pick("__fadd_rn", "__dadd_rn"),
        BinOp::Sub => pick("__fsub_rn", "__dsub_rn"),
        BinOp::Mul => pick("__fmul_rn", "__dmul_rn"),
        BinOp::Div => pick("__fdiv_rn", "__ddiv_rn"),
        BinOp::FloorDiv => pick("t_floordiv_f32", "t_floordiv_f64"),
        BinOp::Rem => pick("t_rem_f32", "t_rem_f64"),
        BinOp::Fmod => pick("fmodf", "fmod"),
        BinOp::Max if dtype.size() == 2 => return Ok(format!("({wa} != {wa} || {wa} > {wb} ? {a} : {b})")),
        BinOp::Min if dtype.size() == 2 => return Ok(format!("({wa} != {wa} || {wa} < {wb} ? {a} : {b})")),
        BinOp::Max => pick("t_max_f32", "t_max_f64"),
        BinOp::Min => pick("t_min_f32", "t_min_f64"),
        BinOp::Pow | BinOp::Atan2 => {
            let name = if op == BinOp::Pow { "pow" } else { "atan2" };
            if double {
                format!("{name}({wa}, {wb})")
            } else {
                // Rounded once from f64.
                format!("__double2float_rn({name}((double){wa}, (double){wb}))")
            }
        }
        BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr | BinOp::Philox => {
            return Err(undefined(op.name(), dtype));
        }
    };
    Ok(narrow(dtype, &e))
}

fn bool_binary(op: BinOp, a: &str, b: &str) -> Result<String> {
    Ok(match op {
        BinOp::Add | BinOp::Or | BinOp::Max => format!("({a} || {b})"),
        BinOp::Mul | BinOp::And | BinOp::Min | BinOp::FloorDiv => format!("({a} && {b})"),
        BinOp::Sub | BinOp::Xor => format!("({a} != {b})"),
        BinOp::Rem | BinOp::Fmod => "false".to_string(),
        BinOp::Pow => format!("({a} || !{b})"),
        BinOp::Shl => a.to_string(),
        BinOp::Shr => format!("({a} && !{b})"),
        BinOp::Div | BinOp::Atan2 | BinOp::Philox => return Err(undefined(op.name(), DType::Bool)),
    })
}

fn int_binary(op: BinOp, dtype: DType, a: &str, b: &str) -> Result<String> {
    let t = value_type(dtype);
    let wide = dtype == DType::I64;
    let (u, i) = if wide { ("unsigned long long", "i64") } else { ("unsigned", "i32") };
    let bits = 8 * dtype.size();
    Ok(match op {
        BinOp::Add => format!("({t})(({u}){a} + ({u}){b})"),
        BinOp::Sub => format!("({t})(({u}){a} - ({u}){b})"),
        BinOp::Mul => format!("({t})(({u}){a} * ({u}){b})"),
        BinOp::FloorDiv => format!("({t})t_floordiv_{i}({a}, {b})"),
        BinOp::Rem => format!("({t})t_rem_{i}({a}, {b})"),
        BinOp::Fmod => format!("({t})t_fmod_{i}({a}, {b})"),
        BinOp::Pow => format!("({t})t_pow_{i}({a}, {b})"),
        BinOp::Max => format!("({a} > {b} ? {a} : {b})"),
        BinOp::Min => format!("({a} < {b} ? {a} : {b})"),
        BinOp::And => format!("({t})({a} & {b})"),
        BinOp::Or => format!("({t})({a} | {b})"),
        BinOp::Xor => format!("({t})({a} ^ {b})"),
        BinOp::Shl => format!("({t})(({u}){b} < {bits}u ? ({u}){a} << {b} : 0u)"),
        BinOp::Shr => format!("({t})(({u}){b} < {bits}u ? {a} >> {b} : {a} < 0 ? -1 : 0)"),
        BinOp::Philox if wide => format!("t_philox({a}, {b})"),
        BinOp::Div | BinOp::Atan2 | BinOp::Philox => return Err(undefined(op.name(), dtype)),
    })
}

/// Conversion by the rule of [`ScalarOp::Cast`].
pub(super) fn cast(from: DType, to: DType, x: &str) -> String {
    if from == to {
        return x.to_string();
    }
    let x = widen(from, x);
    let source = from.compute();
    match (source, to) {
        (DType::Bool, DType::Bool) => x,
        (_, DType::Bool) => format!("({x} != 0)"),
        (DType::F32 | DType::F64, _) if !to.is_float() => {
            let f = if source == DType::F32 { "f32" } else { "f64" };
            match to {
                DType::I64 => format!("t_{f}_i64({x})"),
                DType::I32 => format!("t_{f}_i32({x})"),
                _ => {
                    let (lo, hi) = to.int_range().unwrap_or((0, 0));
                    format!("({})t_clamp(t_{f}_i32({x}), {lo}, {hi})", value_type(to))
                }
            }
        }
        (_, DType::F64) if source == DType::I64 => format!("__ll2double_rn({x})"),
        (_, DType::F64) => format!("(double){x}"),
        (_, _) if to.is_float() => {
            let single = match source {
                DType::F32 => x,
                DType::F64 => format!("__double2float_rn({x})"),
                DType::I64 => format!("__ll2float_rn({x})"),
                _ => format!("__int2float_rn((int){x})"),
            };
            narrow(to, &single)
        }
        _ => format!("({}){x}", value_type(to)),
    }
}

fn bitcast(from: DType, to: DType, x: &str) -> Result<String> {
    if from == to {
        return Ok(x.to_string());
    }
    if from.size() != to.size() {
        return Err(Error::compile(format!("bitcast of {from} to {to}")));
    }
    Ok(match (from, to) {
        (DType::F32, _) => format!("__float_as_int({x})"),
        (_, DType::F32) => format!("__int_as_float({x})"),
        (DType::F64, _) => format!("__double_as_longlong({x})"),
        (_, DType::F64) => format!("__longlong_as_double({x})"),
        (_, DType::Bool) => format!("({x} != 0)"),
        _ => format!("({}){x}", value_type(to)),
    })
}

/// A reduction's accumulator: its dtype (f64 for sums and products of floats) and start.
pub(super) fn accumulator(op: ReduceOp, dtype: DType) -> (DType, String) {
    let wide = match op {
        ReduceOp::Sum | ReduceOp::Prod if dtype.is_float() => DType::F64,
        ReduceOp::Any | ReduceOp::All => DType::Bool,
        _ => dtype,
    };
    let start = match op {
        ReduceOp::ArgMax => torsh_ir::scalar::identity(ReduceOp::Max, dtype),
        ReduceOp::ArgMin => torsh_ir::scalar::identity(ReduceOp::Min, dtype),
        other => torsh_ir::scalar::identity(other, wide),
    };
    (wide, constant(start, wide))
}

/// A value of `dtype` as a term of its reduction's accumulator.
pub(super) fn to_accumulator(op: ReduceOp, dtype: DType, x: &str) -> String {
    match op {
        ReduceOp::Sum | ReduceOp::Prod if dtype.is_float() => cast(dtype, DType::F64, x),
        ReduceOp::Any | ReduceOp::All => cast(dtype, DType::Bool, x),
        _ => x.to_string(),
    }
}

/// The accumulator's final value as `dtype`.
pub(super) fn from_accumulator(op: ReduceOp, dtype: DType, x: &str) -> String {
    match op {
        ReduceOp::Sum | ReduceOp::Prod if dtype.is_float() => cast(DType::F64, dtype, x),
        _ => x.to_string(),
    }
}

/// `a` and `b` of the accumulator's dtype combined; not for ArgMax and ArgMin.
pub(super) fn combine(reduce: ReduceOp, wide: DType, a: &str, b: &str) -> Result<String> {
    let bin = match reduce {
        ReduceOp::Sum => BinOp::Add,
        ReduceOp::Prod => BinOp::Mul,
        ReduceOp::Max => BinOp::Max,
        ReduceOp::Min => BinOp::Min,
        ReduceOp::Any => BinOp::Or,
        ReduceOp::All => BinOp::And,
        ReduceOp::ArgMax | ReduceOp::ArgMin => return Err(Error::internal("positions are combined with values")),
    };
    binary(bin, wide, a, b)
}
