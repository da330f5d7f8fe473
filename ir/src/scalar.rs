//! The closed set of scalar operations, shared by tensor elementwise ops (level 1) and kernels (level 2),
//! with the one definition of what each computes.
//!
//! Policy, written once for every backend:
//! * Integers wrap. Integer division by zero, shifts out of range and `MIN / -1` have the values stated
//!   at [`BinOp`]; nothing traps.
//! * Floats are IEEE, round to nearest even. `F16`/`BF16` compute in f32 and round after each operation.
//! * `Max`/`Min` propagate NaN. Comparisons with NaN are false, except `Ne`.
//! * No contraction: a product followed by a sum is never fused into one rounding behind the user's back.

use crate::attr::Scalar;
use crate::dtype::DType;
use half::{bf16, f16};

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// Every member.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// Lower-case name, the same in the text IR, in primitive symbols and in dumps.
            pub const fn name(self) -> &'static str { match self { $($name::$variant => $text,)* } }
        }
    };
}

closed_set! {
    /// Operations of one operand; the result has the operand's dtype unless noted.
    UnOp {
        /// `-x`; wraps on integers.
        Neg = "neg",
        /// `|x|`; `MIN` maps to `MIN`.
        Abs = "abs",
        /// -1, 0 or 1; NaN stays NaN; keeps the sign of zero.
        Sign = "sign",
        /// Bitwise complement of an integer, logical not of a bool.
        Not = "not",
        /// Round toward minus infinity.
        Floor = "floor",
        /// Round toward plus infinity.
        Ceil = "ceil",
        /// Round to nearest, ties to even.
        Round = "round",
        /// Round toward zero.
        Trunc = "trunc",
        /// `sqrt(x)`, correctly rounded.
        Sqrt = "sqrt",
        /// `1 / sqrt(x)`: two correctly rounded operations.
        Rsqrt = "rsqrt",
        /// `1 / x`, correctly rounded.
        Recip = "reciprocal",
        /// `e^x`.
        Exp = "exp",
        /// `2^x`.
        Exp2 = "exp2",
        /// `e^x - 1`.
        Expm1 = "expm1",
        /// Natural logarithm.
        Log = "log",
        /// Binary logarithm.
        Log2 = "log2",
        /// Decimal logarithm.
        Log10 = "log10",
        /// `log(1 + x)`.
        Log1p = "log1p",
        /// Sine of radians.
        Sin = "sin",
        /// Cosine of radians.
        Cos = "cos",
        /// Tangent of radians.
        Tan = "tan",
        /// Inverse sine.
        Asin = "asin",
        /// Inverse cosine.
        Acos = "acos",
        /// Inverse tangent.
        Atan = "atan",
        /// Hyperbolic sine.
        Sinh = "sinh",
        /// Hyperbolic cosine.
        Cosh = "cosh",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Inverse hyperbolic sine.
        Asinh = "asinh",
        /// Inverse hyperbolic cosine.
        Acosh = "acosh",
        /// Inverse hyperbolic tangent.
        Atanh = "atanh",
        /// Error function.
        Erf = "erf",
        /// `1 / (1 + e^-x)`, without overflow.
        Sigmoid = "sigmoid",
    }
}

closed_set! {
    /// Operations of two operands of one dtype; the result has that dtype unless noted.
    BinOp {
        /// Sum; logical or on bool.
        Add = "add",
        /// Difference.
        Sub = "sub",
        /// Product; logical and on bool.
        Mul = "mul",
        /// Quotient of floats.
        Div = "div",
        /// Quotient rounded down: of integers `floor(a / b)` (by zero 0, `MIN / -1` wraps), of floats
        /// `(a - a % b) / b` as in Python, so that `a // b * b + a % b` is `a`; see [`floor_quotient`].
        FloorDiv = "floor_divide",
        /// Python's remainder, sign of the divisor; integer remainder by zero gives 0.
        Rem = "remainder",
        /// C's remainder, sign of the dividend; integer remainder by zero gives 0.
        Fmod = "fmod",
        /// `a^b`; integer powers wrap, negative integer exponents give 0 (1 for base 1, +-1 for base -1).
        Pow = "pow",
        /// Maximum, NaN propagates.
        Max = "maximum",
        /// Minimum, NaN propagates.
        Min = "minimum",
        /// Angle of the point `(b, a)`.
        Atan2 = "atan2",
        /// Bitwise and.
        And = "bitwise_and",
        /// Bitwise or.
        Or = "bitwise_or",
        /// Bitwise exclusive or.
        Xor = "bitwise_xor",
        /// Shift left; a count outside `0..bits` gives 0.
        Shl = "bitwise_left_shift",
        /// Arithmetic shift right (logical for u8); a count outside `0..bits` gives the sign fill.
        Shr = "bitwise_right_shift",
        /// `philox(seed: i64, counter: i64) -> i32`: word `counter & 3` of Philox4x32-10 with key
        /// `(seed lo, seed hi)` and counter block `(counter >> 2 lo, hi, 0, 0)` (Salmon et al., SC'11).
        Philox = "philox",
    }
}

closed_set! {
    /// Comparisons of two operands of one dtype; the result is bool.
    CmpOp {
        /// `a == b`.
        Eq = "eq",
        /// `a != b`.
        Ne = "ne",
        /// `a < b`.
        Lt = "lt",
        /// `a <= b`.
        Le = "le",
        /// `a > b`.
        Gt = "gt",
        /// `a >= b`.
        Ge = "ge",
    }
}

closed_set! {
    /// Associative reductions.
    ReduceOp {
        /// Sum; integers wrap; the identity is 0.
        Sum = "sum",
        /// Product; the identity is 1.
        Prod = "prod",
        /// Maximum, NaN propagates; the identity is -inf or the smallest integer.
        Max = "amax",
        /// Minimum, NaN propagates; the identity is +inf or the largest integer.
        Min = "amin",
        /// Logical or of bools; the identity is false.
        Any = "any",
        /// Logical and of bools; the identity is true.
        All = "all",
        /// Index of the first maximum (the first NaN wins); i64.
        ArgMax = "argmax",
        /// Index of the first minimum (the first NaN wins); i64.
        ArgMin = "argmin",
    }
}

/// An elementwise operation of any arity.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum ScalarOp {
    /// One operand.
    Un(UnOp),
    /// Two operands of one dtype.
    Bin(BinOp),
    /// Two operands of one dtype to bool.
    Cmp(CmpOp),
    /// `select(condition: bool, a, b)`.
    Select,
    /// Conversion to the node's dtype: floats to integers truncate toward zero and saturate (NaN gives 0),
    /// wider to narrower integers wrap, anything to bool is `!= 0`.
    Cast,
    /// Same bits, other dtype of the same size.
    Bitcast,
}

impl ScalarOp {
    /// Number of operands.
    pub const fn arity(self) -> usize {
        match self {
            ScalarOp::Un(_) | ScalarOp::Cast | ScalarOp::Bitcast => 1,
            ScalarOp::Bin(_) | ScalarOp::Cmp(_) => 2,
            ScalarOp::Select => 3,
        }
    }
}

/// Rounds `x` to the nearest value of float dtype `dtype` (through f32 for the 16-bit ones).
pub fn round_to(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => x,
        DType::F32 => f64::from(x as f32),
        DType::F16 => f64::from(f16::from_f32(x as f32).to_f32()),
        DType::BF16 => f64::from(bf16::from_f32(x as f32).to_f32()),
        _ => unreachable!("round_to on {dtype}"),
    }
}

/// Wraps `x` into integer dtype `dtype` (two's complement); bool is `!= 0`.
pub fn wrap(x: i64, dtype: DType) -> i64 {
    match dtype {
        DType::Bool => i64::from(x != 0),
        DType::U8 => i64::from(x as u8),
        DType::I8 => i64::from(x as i8),
        DType::I16 => i64::from(x as i16),
        DType::I32 => i64::from(x as i32),
        DType::I64 => x,
        _ => unreachable!("wrap on {dtype}"),
    }
}

/// Whether a scalar that is to be stored as it is fits into `dtype`: a float loses its fraction alone, and only above the
/// smallest value, as in PyTorch. Floats and bools hold everything.
pub fn fits(value: Scalar, dtype: DType) -> bool {
    let Some((lo, hi)) = dtype.int_range().filter(|_| dtype != DType::Bool) else { return true };
    match value {
        Scalar::Bool(_) => true,
        Scalar::Int(i) => (lo..=hi).contains(&i),
        // The upper end of int64 is no float, but the one above it is, to which the sum is rounded.
        Scalar::Float(x) => x >= lo as f64 && x < hi as f64 + 1.0,
    }
}

/// Converts a scalar to `dtype` by the rule of [`ScalarOp::Cast`].
pub fn convert(value: Scalar, dtype: DType) -> Scalar {
    match (value, dtype) {
        (v, DType::Bool) => Scalar::Bool(match v {
            Scalar::Bool(b) => b,
            Scalar::Int(i) => i != 0,
            Scalar::Float(x) => x != 0.0,
        }),
        (Scalar::Float(x), d) if d.is_float() => Scalar::Float(round_to(x, d)),
        (Scalar::Float(x), d) => {
            let (lo, hi) = d.int_range().unwrap_or((i64::MIN, i64::MAX));
            Scalar::Int((x as i64).clamp(lo, hi))
        }
        // One rounding to f64 or f32; the 16-bit floats are rounded from f32.
        (v, DType::F64) => Scalar::Float(v.as_i64() as f64),
        (v, d) if d.is_float() => Scalar::Float(round_to(f64::from(v.as_i64() as f32), d)),
        (v, d) => Scalar::Int(wrap(v.as_i64(), d)),
    }
}

/// Evaluates a unary op on a value already represented in `dtype`.
pub fn eval_un(op: UnOp, x: Scalar, dtype: DType) -> Scalar {
    if dtype.is_float() {
        return Scalar::Float(round_to(un_float(op, x.as_f64(), dtype), dtype));
    }
    let v = x.as_i64();
    let r = match op {
        UnOp::Neg => v.wrapping_neg(),
        UnOp::Abs => v.wrapping_abs(),
        UnOp::Sign => v.signum(),
        UnOp::Not if dtype == DType::Bool => i64::from(v == 0),
        UnOp::Not => !v,
        UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => v,
        _ => unreachable!("{} is not defined on {dtype}", op.name()),
    };
    from_int(r, dtype)
}

fn from_int(v: i64, dtype: DType) -> Scalar {
    if dtype == DType::Bool { Scalar::Bool(v != 0) } else { Scalar::Int(wrap(v, dtype)) }
}

fn un_float(op: UnOp, x: f64, dtype: DType) -> f64 {
    match op {
        UnOp::Neg => -x,
        UnOp::Abs => x.abs(),
        UnOp::Sign => {
            if x.is_nan() || x == 0.0 {
                x
            } else {
                x.signum()
            }
        }
        UnOp::Not => unreachable!("not is not defined on floats"),
        UnOp::Floor => x.floor(),
        UnOp::Ceil => x.ceil(),
        UnOp::Round => libm::rint(x),
        UnOp::Trunc => x.trunc(),
        UnOp::Sqrt => x.sqrt(),
        // Both roundings are in the compute dtype, as in the kernels.
        UnOp::Rsqrt => 1.0 / round_to(x.sqrt(), dtype.compute()),
        UnOp::Recip => 1.0 / x,
        UnOp::Exp => libm::exp(x),
        UnOp::Exp2 => libm::exp2(x),
        UnOp::Expm1 => libm::expm1(x),
        UnOp::Log => libm::log(x),
        UnOp::Log2 => libm::log2(x),
        UnOp::Log10 => libm::log10(x),
        UnOp::Log1p => libm::log1p(x),
        UnOp::Sin => libm::sin(x),
        UnOp::Cos => libm::cos(x),
        UnOp::Tan => libm::tan(x),
        UnOp::Asin => libm::asin(x),
        UnOp::Acos => libm::acos(x),
        UnOp::Atan => libm::atan(x),
        UnOp::Sinh => libm::sinh(x),
        UnOp::Cosh => libm::cosh(x),
        UnOp::Tanh => libm::tanh(x),
        UnOp::Asinh => libm::asinh(x),
        // The library's is arbitrary far below its domain.
        UnOp::Acosh if x < 1.0 => f64::NAN,
        UnOp::Acosh => libm::acosh(x),
        UnOp::Atanh => libm::atanh(x),
        UnOp::Erf => libm::erf(x),
        UnOp::Sigmoid => {
            // e^-|x| never overflows.
            let e = libm::exp(-x.abs());
            if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
        }
    }
}

/// Evaluates a binary op on values already represented in `dtype`.
pub fn eval_bin(op: BinOp, a: Scalar, b: Scalar, dtype: DType) -> Scalar {
    if dtype.is_float() {
        return Scalar::Float(round_to(bin_float(op, a.as_f64(), b.as_f64(), dtype), dtype));
    }
    let (x, y) = (a.as_i64(), b.as_i64());
    if op == BinOp::Philox {
        return Scalar::Int(i64::from(philox(x as u64, y as u64) as i32));
    }
    let is_bool = dtype == DType::Bool;
    let bits = (dtype.size() * 8) as i64;
    let r = match op {
        BinOp::Add if is_bool => x | y,
        BinOp::Mul if is_bool => x & y,
        BinOp::Add => x.wrapping_add(y),
        BinOp::Sub => x.wrapping_sub(y),
        BinOp::Mul => x.wrapping_mul(y),
        BinOp::FloorDiv => match y {
            0 => 0,
            _ => {
                let q = x.wrapping_div(y);
                if x.wrapping_rem(y) != 0 && ((x < 0) != (y < 0)) { q - 1 } else { q }
            }
        },
        BinOp::Rem => match y {
            0 => 0,
            _ => {
                let r = x.wrapping_rem(y);
                if r != 0 && ((r < 0) != (y < 0)) { r.wrapping_add(y) } else { r }
            }
        },
        BinOp::Fmod => match y {
            0 => 0,
            _ => x.wrapping_rem(y),
        },
        BinOp::Pow => int_pow(x, y),
        BinOp::Max => x.max(y),
        BinOp::Min => x.min(y),
        BinOp::And => x & y,
        BinOp::Or => x | y,
        BinOp::Xor => x ^ y,
        BinOp::Shl if (0..bits).contains(&y) => x.wrapping_shl(y as u32),
        BinOp::Shl => 0,
        BinOp::Shr if (0..bits).contains(&y) => x >> y,
        BinOp::Shr => {
            if x < 0 {
                -1
            } else {
                0
            }
        }
        BinOp::Div | BinOp::Atan2 | BinOp::Philox => unreachable!("{} is not defined on {dtype}", op.name()),
    };
    from_int(r, dtype)
}

fn int_pow(base: i64, exp: i64) -> i64 {
    if exp < 0 {
        return match base {
            1 => 1,
            -1 => {
                if exp % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let (mut base, mut exp, mut acc) = (base, exp as u64, 1i64);
    while exp > 0 {
        if exp & 1 == 1 {
            acc = acc.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exp >>= 1;
    }
    acc
}

fn bin_float(op: BinOp, a: f64, b: f64, dtype: DType) -> f64 {
    match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        BinOp::Div => a / b,
        BinOp::FloorDiv => floor_quotient(a, b, |x| round_to(x, dtype.compute())),
        BinOp::Rem => {
            let r = libm::fmod(a, b);
            // The correction is an addition in the compute dtype.
            if r != 0.0 && ((r < 0.0) != (b < 0.0)) { round_to(r + b, dtype.compute()) } else { r }
        }
        BinOp::Fmod => libm::fmod(a, b),
        BinOp::Pow => libm::pow(a, b),
        BinOp::Max => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        BinOp::Min => {
            if a.is_nan() || a < b {
                a
            } else {
                b
            }
        }
        BinOp::Atan2 => libm::atan2(a, b),
        BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr | BinOp::Philox => {
            unreachable!("{} is not defined on floats", op.name())
        }
    }
}

/// Python's `a // b` of floats, by its remainder: `floor(a / b)` would round `1.0 / 0.1` up to 10, where 9 times 0.1
/// and a remainder are left. `round` rounds to the compute dtype. An infinite `a` has no remainder and gives NaN;
/// division by zero is that of `/`; a zero has the sign of `a / b`.
fn floor_quotient(a: f64, b: f64, round: impl Fn(f64) -> f64) -> f64 {
    if b == 0.0 {
        return a / b;
    }
    let r = libm::fmod(a, b);
    let mut q = round(round(a - r) / b);
    if r != 0.0 && (r < 0.0) != (b < 0.0) {
        q = round(q - 1.0);
    }
    if q == 0.0 {
        return f64::copysign(0.0, a / b);
    }
    // `q` is whole but for its roundings.
    let whole = q.floor();
    if q - whole > 0.5 { round(whole + 1.0) } else { whole }
}

/// Evaluates a comparison.
pub fn eval_cmp(op: CmpOp, a: Scalar, b: Scalar, dtype: DType) -> bool {
    if dtype.is_float() {
        let (x, y) = (a.as_f64(), b.as_f64());
        match op {
            CmpOp::Eq => x == y,
            CmpOp::Ne => x != y,
            CmpOp::Lt => x < y,
            CmpOp::Le => x <= y,
            CmpOp::Gt => x > y,
            CmpOp::Ge => x >= y,
        }
    } else {
        let (x, y) = (a.as_i64(), b.as_i64());
        match op {
            CmpOp::Eq => x == y,
            CmpOp::Ne => x != y,
            CmpOp::Lt => x < y,
            CmpOp::Le => x <= y,
            CmpOp::Gt => x > y,
            CmpOp::Ge => x >= y,
        }
    }
}

/// Raw bits of a scalar represented in `dtype`, zero-extended.
pub fn to_bits(value: Scalar, dtype: DType) -> u64 {
    match dtype {
        DType::F64 => value.as_f64().to_bits(),
        DType::F32 => u64::from((value.as_f64() as f32).to_bits()),
        DType::F16 => u64::from(f16::from_f32(value.as_f64() as f32).to_bits()),
        DType::BF16 => u64::from(bf16::from_f32(value.as_f64() as f32).to_bits()),
        DType::Bool | DType::U8 | DType::I8 => u64::from(value.as_i64() as u8),
        DType::I16 => u64::from(value.as_i64() as u16),
        DType::I32 => u64::from(value.as_i64() as u32),
        DType::I64 => value.as_i64() as u64,
    }
}

/// The scalar that the low bits of `bits` represent in `dtype`.
pub fn from_bits(bits: u64, dtype: DType) -> Scalar {
    match dtype {
        DType::F64 => Scalar::Float(f64::from_bits(bits)),
        DType::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
        DType::F16 => Scalar::Float(f64::from(f16::from_bits(bits as u16).to_f32())),
        DType::BF16 => Scalar::Float(f64::from(bf16::from_bits(bits as u16).to_f32())),
        DType::Bool => Scalar::Bool(bits as u8 != 0),
        DType::U8 => Scalar::Int(i64::from(bits as u8)),
        DType::I8 => Scalar::Int(i64::from(bits as u8 as i8)),
        DType::I16 => Scalar::Int(i64::from(bits as u16 as i16)),
        DType::I32 => Scalar::Int(i64::from(bits as u32 as i32)),
        DType::I64 => Scalar::Int(bits as i64),
    }
}

/// The identity of a reduction in `dtype`, represented in that dtype.
pub fn identity(op: ReduceOp, dtype: DType) -> Scalar {
    let range = dtype.int_range();
    match op {
        ReduceOp::Sum => Scalar::Int(0).to_dtype(dtype),
        ReduceOp::Prod => Scalar::Int(1).to_dtype(dtype),
        ReduceOp::Max => range.map_or(Scalar::Float(f64::NEG_INFINITY), |r| from_int(r.0, dtype)),
        ReduceOp::Min => range.map_or(Scalar::Float(f64::INFINITY), |r| from_int(r.1, dtype)),
        ReduceOp::Any => Scalar::Bool(false),
        ReduceOp::All => Scalar::Bool(true),
        ReduceOp::ArgMax | ReduceOp::ArgMin => Scalar::Int(0),
    }
}

/// Word `counter & 3` of the Philox4x32-10 block `counter >> 2` under `seed`.
pub fn philox(seed: u64, counter: u64) -> u32 {
    philox_block(seed, counter >> 2)[(counter & 3) as usize]
}

/// One block of Philox4x32-10: key `(seed lo, seed hi)`, counter `(block lo, block hi, 0, 0)`.
pub fn philox_block(seed: u64, block: u64) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut c = [block as u32, (block >> 32) as u32, 0, 0];
    for _ in 0..10 {
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32];
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answer() {
        // Random123 known-answer file, philox4x32 10, zero key and counter.
        assert_eq!(philox_block(0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn numbers_that_dtypes_hold() {
        let two_63 = 9_223_372_036_854_775_808.0;
        let cases = [
            (Scalar::Float(two_63), DType::I64, false),
            (Scalar::Float(two_63 - 1024.0), DType::I64, true),
            (Scalar::Float(-two_63), DType::I64, true),
            (Scalar::Float(-two_63 - 2048.0), DType::I64, false),
            (Scalar::Float(-0.0), DType::U8, true),
            (Scalar::Float(-0.5), DType::U8, false),
            (Scalar::Float(255.5), DType::U8, true),
            (Scalar::Float(256.0), DType::U8, false),
            (Scalar::Float(-128.5), DType::I8, false),
            (Scalar::Float(f64::NAN), DType::I8, false),
            (Scalar::Float(f64::NAN), DType::Bool, true),
            (Scalar::Int(-1), DType::U8, false),
            (Scalar::Int(300), DType::F16, true),
            (Scalar::Bool(true), DType::I8, true),
        ];
        for (value, dtype, want) in cases {
            assert_eq!(fits(value, dtype), want, "{value:?} {dtype}");
        }
    }

    #[test]
    fn quotients_of_floats_leave_the_remainder() {
        let inf = f64::INFINITY;
        let cases = [
            (1.0, 0.1, 9.0),
            (-1.0, 0.1, -10.0),
            (6.0, 2.0, 3.0),
            (inf, 2.0, f64::NAN),
            (-5.0, inf, -1.0),
            (5.0, inf, 0.0),
            (-0.0, 3.0, -0.0),
            (0.0, -3.0, -0.0),
            (1.0, 0.0, inf),
            (-1.0, 0.0, -inf),
            (0.0, 0.0, f64::NAN),
            (5.0, f64::NAN, f64::NAN),
            (-1e-300, 1e300, -1.0),
        ];
        for (a, b, want) in cases {
            let got = eval_bin(BinOp::FloorDiv, Scalar::Float(a), Scalar::Float(b), DType::F64).as_f64();
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{a} // {b} = {got}, not {want}");
        }
        // In half precision 0.1 is a little less than a tenth, so that ten of it fit.
        let tenth = Scalar::Float(round_to(0.1, DType::F16));
        assert_eq!(eval_bin(BinOp::FloorDiv, Scalar::Float(1.0), tenth, DType::F16), Scalar::Float(10.0));
    }

    #[test]
    fn integer_corners() {
        let i = |v| Scalar::Int(v);
        assert_eq!(eval_bin(BinOp::FloorDiv, i(-7), i(2), DType::I32), i(-4));
        assert_eq!(eval_bin(BinOp::Rem, i(-7), i(2), DType::I32), i(1));
        assert_eq!(eval_bin(BinOp::FloorDiv, i(5), i(0), DType::I64), i(0));
        assert_eq!(eval_bin(BinOp::FloorDiv, i(i64::MIN), i(-1), DType::I64), i(i64::MIN));
        assert_eq!(eval_un(UnOp::Abs, i(-128), DType::I8), i(-128));
        assert_eq!(eval_bin(BinOp::Shl, i(1), i(40), DType::I32), i(0));
    }
}
