//! Block primitives as C: for each row of [`super::super::prims`] the macro of its family (`base.c`) with the
//! operation written in. The values are those of `torsh_ir::scalar`.

use super::math;
use crate::cpu::prims::{Form, Prim, accumulator};
use std::collections::BTreeSet;
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, UnOp};
use torsh_ir::{DType, Error, Result};

/// The C type of an element in memory.
pub fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::U8 => "uint8_t",
        DType::I8 => "int8_t",
        DType::I16 => "int16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::F16 | DType::BF16 => "uint16_t",
        DType::F32 => "float",
        DType::F64 => "double",
    }
}

/// The unsigned type of so many bytes.
pub(super) fn word(bytes: usize) -> &'static str {
    match bytes {
        1 => "uint8_t",
        2 => "uint16_t",
        4 => "uint32_t",
        _ => "uint64_t",
    }
}

fn undefined(prim: Prim) -> Error {
    Error::compile(format!("the primitive {} has no C text", prim.name()))
}

/// The functions of f32 that a primitive needs.
pub(super) fn needs(prim: Prim, found: &mut BTreeSet<UnOp>) {
    if let Prim::Unary(op, DType::F32) = prim
        && math::function(op).is_some()
    {
        found.insert(op);
    }
}

/// Whether the family of a primitive has a version for processors with AVX2 and FMA.
pub(super) fn has_levels(prim: Prim) -> bool {
    match prim {
        Prim::Unary(..) | Prim::Binary(..) | Prim::Compare(..) | Prim::Select(..) | Prim::Cast(..) => true,
        Prim::Round(_) | Prim::Splat(_) | Prim::Iota => true,
        Prim::Copy(_) | Prim::Load(_) | Prim::Store(_) => false,
        Prim::Reduce(op, _) | Prim::Col(op, _) => !matches!(op, ReduceOp::ArgMax | ReduceOp::ArgMin),
    }
}

/// A definition of the primitive as the C function `name`.
pub(super) fn define(prim: Prim, name: &str) -> Result<String> {
    let text = match prim {
        Prim::Unary(op, dt) => {
            let (t, e) = (c_type(dt), unary(op, dt).ok_or_else(|| undefined(prim))?);
            if dt == DType::F32 && math::is_trig(op) {
                let bound = math_bound();
                format!("T_UN_RARE({name}, {t}, {e}, !(fabsf(x) <= {bound}), {}((double)x))", op.name())
            } else {
                format!("T_UN({name}, {t}, {t}, {e})")
            }
        }
        Prim::Binary(op, dt, form) => {
            let e = binary(op, dt).ok_or_else(|| undefined(prim))?;
            let result = if op == BinOp::Philox { "int32_t" } else { c_type(dt) };
            format!("T_BIN_{}({name}, {}, {result}, {e})", form.name(), c_type(dt))
        }
        Prim::Compare(op, dt, form) => {
            let sign = match op {
                CmpOp::Eq => "==",
                CmpOp::Ne => "!=",
                CmpOp::Lt => "<",
                CmpOp::Le => "<=",
                CmpOp::Gt => ">",
                CmpOp::Ge => ">=",
            };
            format!("T_BIN_{}({name}, {}, uint8_t, x {sign} y)", form.name(), c_type(dt))
        }
        Prim::Select(bytes, a, b) => {
            let (a, b) = (if a { "a[i]" } else { "a0" }, if b { "b[i]" } else { "b0" });
            format!("T_SELECT({name}, {}, {a}, {b})", word(bytes))
        }
        Prim::Cast(from, to) => format!("T_UN({name}, {}, {}, {})", c_type(from), c_type(to), cast(from, to, "x")),
        Prim::Round(DType::F16) => format!("T_UN({name}, float, float, t_h2f(t_f2h(x)))"),
        Prim::Round(DType::BF16) => format!("T_UN({name}, float, float, t_b2f(t_f2b(x)))"),
        Prim::Round(_) => return Err(undefined(prim)),
        Prim::Splat(bytes) => format!("T_SPLAT({name}, {})", word(bytes)),
        Prim::Copy(bytes) => format!("T_COPY({name}, {})", word(bytes)),
        Prim::Load(bytes) => format!("T_LOAD({name}, {})", word(bytes)),
        Prim::Store(bytes) => format!("T_STORE({name}, {})", word(bytes)),
        Prim::Iota => format!("T_IOTA({name})"),
        Prim::Reduce(op, dt) => match op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => format!("T_ARG({name}, {}, {})", c_type(dt), better(op, dt)),
            _ => {
                let wide = accumulator(op, dt);
                let (identity, step) = fold(op, dt).ok_or_else(|| undefined(prim))?;
                // Lanes as in the compiled primitives: maxima have narrower elements.
                let lanes = if matches!(op, ReduceOp::Sum | ReduceOp::Prod) { 16 } else { 32 };
                format!("T_FOLD({name}, {}, {}, {identity}, {lanes}, {step})", c_type(dt), c_type(wide))
            }
        },
        Prim::Col(op, dt) => match op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => format!("T_COL_ARG({name}, {}, {})", c_type(dt), better(op, dt)),
            _ => {
                let (_, step) = fold(op, dt).ok_or_else(|| undefined(prim))?;
                format!("T_COL({name}, {}, {}, {step})", c_type(dt), c_type(accumulator(op, dt)))
            }
        },
    };
    debug_assert!(matches!(prim, Prim::Binary(_, _, Form::Vv | Form::Vs | Form::Sv)) || !text.is_empty());
    Ok(text + "\n")
}

fn math_bound() -> String {
    format!("t_float({:#010x}u)", crate::cpu::math::TRIG_BOUND.to_bits())
}

/// An operation on `x`.
fn unary(op: UnOp, dt: DType) -> Option<String> {
    if !dt.is_float() {
        return Some(match (op, dt) {
            (UnOp::Neg, _) => "0u - (uint64_t)x".to_string(),
            (UnOp::Abs, DType::U8) => "x".to_string(),
            (UnOp::Abs, _) => "x < 0 ? 0u - (uint64_t)x : (uint64_t)x".to_string(),
            (UnOp::Sign, _) => "(x > 0) - (x < 0)".to_string(),
            (UnOp::Not, _) => "~x".to_string(),
            _ => return None,
        });
    }
    let f = if dt == DType::F32 { "f" } else { "" };
    let one = if dt == DType::F32 { "1.0f" } else { "1.0" };
    let short = dt.short();
    Some(match op {
        UnOp::Not => return None,
        UnOp::Neg => "-x".to_string(),
        UnOp::Abs => format!("fabs{f}(x)"),
        UnOp::Sign => format!("t_sign_{short}(x)"),
        UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Sqrt => format!("{}{f}(x)", op.name()),
        UnOp::Round => format!("rint{f}(x)"),
        UnOp::Rsqrt => format!("{one} / sqrt{f}(x)"),
        UnOp::Recip => format!("{one} / x"),
        UnOp::Exp | UnOp::Exp2 | UnOp::Log | UnOp::Sigmoid | UnOp::Acosh => format!("t_{}_{short}(x)", op.name()),
        UnOp::Expm1
        | UnOp::Log2
        | UnOp::Log10
        | UnOp::Log1p
        | UnOp::Sin
        | UnOp::Cos
        | UnOp::Tan
        | UnOp::Asin
        | UnOp::Acos
        | UnOp::Atan
        | UnOp::Sinh
        | UnOp::Cosh
        | UnOp::Tanh
        | UnOp::Asinh
        | UnOp::Atanh
        | UnOp::Erf => match dt {
            DType::F32 => format!("t_{}_f32(x)", op.name()),
            // Those of the C library, which have these names.
            _ => format!("{}(x)", op.name()),
        },
    })
}

/// An operation on `x` and `y`.
fn binary(op: BinOp, dt: DType) -> Option<String> {
    if dt.is_float() {
        let f = if dt == DType::F32 { "f" } else { "" };
        let short = dt.short();
        return Some(match op {
            BinOp::Add => "x + y".to_string(),
            BinOp::Sub => "x - y".to_string(),
            BinOp::Mul => "x * y".to_string(),
            BinOp::Div => "x / y".to_string(),
            BinOp::FloorDiv => format!("t_floordiv_{short}(x, y)"),
            BinOp::Rem => format!("t_rem_{short}(x, y)"),
            BinOp::Fmod => format!("fmod{f}(x, y)"),
            BinOp::Max => "x != x || x > y ? x : y".to_string(),
            BinOp::Min => "x != x || x < y ? x : y".to_string(),
            BinOp::Pow if dt == DType::F32 => {
                "t_beyond_pow(x, y) ? (float)pow((double)x, (double)y) : t_pow_f32(x, y)".to_string()
            }
            BinOp::Pow => "pow(x, y)".to_string(),
            BinOp::Atan2 if dt == DType::F32 => "atan2((double)x, (double)y)".to_string(),
            BinOp::Atan2 => "atan2(x, y)".to_string(),
            BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr | BinOp::Philox => return None,
        });
    }
    let bits = 8 * dt.size();
    Some(match op {
        BinOp::Add => "(uint64_t)x + (uint64_t)y".to_string(),
        BinOp::Sub => "(uint64_t)x - (uint64_t)y".to_string(),
        BinOp::Mul => "(uint64_t)x * (uint64_t)y".to_string(),
        BinOp::FloorDiv => "t_floordiv(x, y)".to_string(),
        BinOp::Rem => "t_rem(x, y)".to_string(),
        BinOp::Fmod => "t_fmod(x, y)".to_string(),
        BinOp::Pow => "t_ipow(x, y)".to_string(),
        BinOp::Max => "x > y ? x : y".to_string(),
        BinOp::Min => "x < y ? x : y".to_string(),
        BinOp::And => "x & y".to_string(),
        BinOp::Or => "x | y".to_string(),
        BinOp::Xor => "x ^ y".to_string(),
        BinOp::Shl => format!("t_shl(x, y, {bits})"),
        BinOp::Shr => format!("t_shr(x, y, {bits})"),
        BinOp::Philox if dt == DType::I64 => "t_philox(x, y)".to_string(),
        BinOp::Div | BinOp::Atan2 | BinOp::Philox => return None,
    })
}

/// Conversion of `x` between dtypes as they are in memory.
pub(super) fn cast(from: DType, to: DType, x: &str) -> String {
    let wide = match from {
        DType::F16 => format!("t_h2f({x})"),
        DType::BF16 => format!("t_b2f({x})"),
        _ => x.to_string(),
    };
    match (from.compute(), to) {
        (_, DType::Bool) => format!("{wide} != 0"),
        // Through f32, as the compiled ones go.
        (_, DType::F16) => format!("t_f2h((float){wide})"),
        (_, DType::BF16) => format!("t_f2b((float){wide})"),
        (source @ (DType::F32 | DType::F64), _) if !to.is_float() => {
            format!("t_{}_{}({wide})", source.short(), to.short())
        }
        _ => format!("({}){wide}", c_type(to)),
    }
}

/// The identity of a fold and its step from `a` by `x`, both of the accumulator's type.
fn fold(op: ReduceOp, dt: DType) -> Option<(String, &'static str)> {
    let float = dt.is_float();
    Some(match op {
        ReduceOp::Sum => ("0".to_string(), if float { "a + x" } else { "(uint64_t)a + (uint64_t)x" }),
        ReduceOp::Prod => ("1".to_string(), if float { "a * x" } else { "(uint64_t)a * (uint64_t)x" }),
        ReduceOp::Max if float => ("-INFINITY".to_string(), "(((x > a) | (x != x)) & !(a != a)) ? x : a"),
        ReduceOp::Min if float => ("INFINITY".to_string(), "(((x < a) | (x != x)) & !(a != a)) ? x : a"),
        ReduceOp::Max | ReduceOp::Min => {
            let (lo, hi) = dt.int_range()?;
            let edge = if op == ReduceOp::Max { lo } else { hi };
            let identity = if edge == i64::MIN { "INT64_MIN".to_string() } else { format!("INT64_C({edge})") };
            (identity, if op == ReduceOp::Max { "x > a ? x : a" } else { "x < a ? x : a" })
        }
        ReduceOp::Any | ReduceOp::All | ReduceOp::ArgMax | ReduceOp::ArgMin => return None,
    })
}

fn better(op: ReduceOp, dt: DType) -> &'static str {
    match (op == ReduceOp::ArgMax, dt.is_float()) {
        (true, true) => "((x > a) | (x != x)) & !(a != a)",
        (false, true) => "((x < a) | (x != x)) & !(a != a)",
        (true, false) => "x > a",
        (false, false) => "x < a",
    }
}
