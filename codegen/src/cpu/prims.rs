//! The one table of block primitives: the names by which generated code calls precompiled loops, and their
//! signatures. The runtime supplies an address for every row of [`Prim::all`] at every ISA level.
//!
//! # Conventions
//! * All are `unsafe extern "C"` functions without result; every parameter is a pointer or a 64-bit integer.
//! * `n` counts elements and may be 0. Pointers are aligned to their element and may be aligned no further.
//! * Nothing written overlaps anything read: bodies may use slices. Only accumulators are read and written.
//! * Values are in their compute dtype ([`DType::compute`]): 16-bit floats travel as f32 and are rounded by
//!   `round_*` after each operation. A bool is a byte 0 or 1 and uses the `u8` primitives, except where a
//!   cast makes one.
//! * `s` operands point to one element.
//!
//! | family | name | parameters |
//! |---|---|---|
//! | unary | `{op}_{dt}` | `dst, x, n` |
//! | binary | `{op}_{dt}_{vv,vs,sv}` | `dst, a, b, n`; `philox_i64_*` writes i32 |
//! | compare | `{op}_{dt}_{vv,vs,sv}` | `dst (u8), a, b, n` |
//! | select | `select_{bytes}_{vvv,vvs,vsv,vss}` | `dst, cond (u8), a, b, n` |
//! | cast | `cast_{from}_{to}` | `dst, x, n`; to bool is `!= 0`; f16 and bf16 are 16-bit in memory |
//! | round | `round_{f16,bf16}` | `dst (f32), x (f32), n` |
//! | splat | `splat_{bytes}` | `dst, s, n` |
//! | copy | `copy_{bytes}` | `dst, x, n` |
//! | load | `load_{bytes}` | `dst, src, stride (elements, signed), n` |
//! | store | `store_{bytes}` | `dst, stride (elements, signed), src, n` |
//! | iota | `iota` | `dst (i64), start, step, n` |
//! | reduce | `reduce_{sum,prod,amax,amin}_{dt}` | `acc, x, n` folds into `acc` |
//! | arg | `{argmax,argmin}_{dt}` | `acc value, acc index (i64), x, n, base`; position of `x[0]` is `base` |
//! | column | `col_{sum,prod,amax,amin}_{dt}` | `acc (n of them), x, n` folds element by element |
//! | column arg | `col_{argmax,argmin}_{dt}` | `acc values, acc indices (i64), x, n, position` |
//!
//! Accumulators are f64 for sums and products of floats, i64 (wrapping) for those of integers, else the
//! dtype itself. `amax` and `amin` propagate NaN; for `argmax` and `argmin` the first NaN wins, ties keep
//! the earlier index, and an accumulator starts as the identity with index 0.

use torsh_ir::{BinOp, CmpOp, DType, ReduceOp, UnOp};

/// Which operands of a binary primitive are vectors.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// Both are vectors.
    Vv,
    /// The right one is one element.
    Vs,
    /// The left one is one element.
    Sv,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Vv, Form::Vs, Form::Sv];
    /// Suffix of the name.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Vv => "vv",
            Form::Vs => "vs",
            Form::Sv => "sv",
        }
    }
}

/// A block primitive. Dtypes are compute dtypes other than bool, except in casts.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Prim {
    /// One operand.
    Unary(UnOp, DType),
    /// Two operands.
    Binary(BinOp, DType, Form),
    /// Two operands to bytes 0 or 1.
    Compare(CmpOp, DType, Form),
    /// Elementwise choice among elements of so many bytes; the flags say whether `a` and `b` are vectors.
    Select(usize, bool, bool),
    /// Conversion between the dtypes as they are in memory.
    Cast(DType, DType),
    /// Rounding of f32 to the values of a 16-bit float.
    Round(DType),
    /// Repeats one element of so many bytes.
    Splat(usize),
    /// Copies elements of so many bytes.
    Copy(usize),
    /// Gathers elements at a stride.
    Load(usize),
    /// Spreads elements at a stride.
    Store(usize),
    /// An arithmetic progression of i64.
    Iota,
    /// Folds a vector into one accumulator (two for `ArgMax` and `ArgMin`).
    Reduce(ReduceOp, DType),
    /// Folds a vector into a vector of accumulators.
    Col(ReduceOp, DType),
}

/// The compute dtypes that primitives come in: bool uses `U8`, the 16-bit floats use `F32`.
pub const DTYPES: [DType; 7] = [DType::U8, DType::I8, DType::I16, DType::I32, DType::I64, DType::F32, DType::F64];

impl Prim {
    /// The symbol.
    pub fn name(self) -> String {
        match self {
            Prim::Unary(op, dt) => format!("{}_{}", op.name(), dt.short()),
            Prim::Binary(op, dt, form) => format!("{}_{}_{}", op.name(), dt.short(), form.name()),
            Prim::Compare(op, dt, form) => format!("{}_{}_{}", op.name(), dt.short(), form.name()),
            Prim::Select(bytes, a, b) => {
                let letter = |v| if v { 'v' } else { 's' };
                format!("select_{bytes}_v{}{}", letter(a), letter(b))
            }
            Prim::Cast(from, to) => format!("cast_{}_{}", from.short(), to.short()),
            Prim::Round(dt) => format!("round_{}", dt.short()),
            Prim::Splat(bytes) => format!("splat_{bytes}"),
            Prim::Copy(bytes) => format!("copy_{bytes}"),
            Prim::Load(bytes) => format!("load_{bytes}"),
            Prim::Store(bytes) => format!("store_{bytes}"),
            Prim::Iota => "iota".to_string(),
            Prim::Reduce(op @ (ReduceOp::ArgMax | ReduceOp::ArgMin), dt) => format!("{}_{}", op.name(), dt.short()),
            Prim::Reduce(op, dt) => format!("reduce_{}_{}", op.name(), dt.short()),
            Prim::Col(op, dt) => format!("col_{}_{}", op.name(), dt.short()),
        }
    }

    /// Number of parameters.
    pub const fn params(self) -> usize {
        match self {
            Prim::Unary(..) | Prim::Cast(..) | Prim::Round(_) | Prim::Splat(_) | Prim::Copy(_) => 3,
            Prim::Binary(..) | Prim::Compare(..) | Prim::Load(_) | Prim::Store(_) | Prim::Iota => 4,
            Prim::Select(..) => 5,
            Prim::Reduce(op, _) | Prim::Col(op, _) => match op {
                ReduceOp::ArgMax | ReduceOp::ArgMin => 5,
                ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min | ReduceOp::Any | ReduceOp::All => 3,
            },
        }
    }

    /// Every primitive that generated code may call.
    pub fn all() -> Vec<Prim> {
        let mut all = vec![Prim::Iota, Prim::Round(DType::F16), Prim::Round(DType::BF16)];
        for dt in DTYPES {
            all.extend(UnOp::ALL.iter().filter(|&&op| has_unary(op, dt)).map(|&op| Prim::Unary(op, dt)));
            for form in Form::ALL {
                let binary = BinOp::ALL.iter().filter(|&&op| has_binary(op, dt));
                all.extend(binary.map(|&op| Prim::Binary(op, dt, form)));
                all.extend(CmpOp::ALL.iter().map(|&op| Prim::Compare(op, dt, form)));
            }
            let folds =
                [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min, ReduceOp::ArgMax, ReduceOp::ArgMin];
            for op in folds {
                all.extend([Prim::Reduce(op, dt), Prim::Col(op, dt)]);
            }
        }
        for from in DType::ALL {
            all.extend(DType::ALL.into_iter().filter(|&to| to != from).map(|to| Prim::Cast(from, to)));
        }
        for bytes in [1, 2, 4, 8] {
            all.extend([Prim::Splat(bytes), Prim::Copy(bytes), Prim::Load(bytes), Prim::Store(bytes)]);
            for a in [false, true] {
                all.extend([Prim::Select(bytes, a, false), Prim::Select(bytes, a, true)]);
            }
        }
        all
    }
}

/// Which unary primitives exist; rounding an integer is the identity and needs none.
pub fn has_unary(op: UnOp, dt: DType) -> bool {
    if dt.is_float() { op != UnOp::Not } else { matches!(op, UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not) }
}

/// Which binary primitives exist.
pub fn has_binary(op: BinOp, dt: DType) -> bool {
    match op {
        BinOp::Philox => dt == DType::I64,
        BinOp::Div | BinOp::Atan2 => dt.is_float(),
        BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr => !dt.is_float(),
        BinOp::Add
        | BinOp::Sub
        | BinOp::Mul
        | BinOp::FloorDiv
        | BinOp::Rem
        | BinOp::Fmod
        | BinOp::Pow
        | BinOp::Max
        | BinOp::Min => true,
    }
}

/// Dtype of the accumulator of a fold over values of compute dtype `dt`.
pub fn accumulator(op: ReduceOp, dt: DType) -> DType {
    match op {
        ReduceOp::Sum | ReduceOp::Prod if dt.is_float() => DType::F64,
        ReduceOp::Sum | ReduceOp::Prod => DType::I64,
        _ => dt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<String> = Prim::all().into_iter().map(Prim::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().any(|n| n == "select_4_vsv"));
    }
}
