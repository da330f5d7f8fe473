//! C99 source of what compiled kernels call and of the library calls of programs, for libraries that are linked
//! without torsh. Text only: nobody is run here.
//!
//! The text is put together from parts that are there once (`*.c` beside this file) and from what a program uses.
//! Every function that other translation units see begins with the library's prefix and is hidden.

mod math;
mod prims;

use super::prims::Prim;
pub use prims::c_type;
use std::collections::BTreeSet;
use torsh_ir::program::ScatterMode;
use torsh_ir::scalar::ReduceOp;
use torsh_ir::{DType, Error, Result};

/// A part of the source that a program may use.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// `t_product_{dtype}`.
    Product(DType),
    /// `t_scatter_{mode}_{dtype}` and `t_index_put_{mode}_{dtype}`.
    Scatter(ScatterMode, DType),
    /// `t_argsort_{dtype}`.
    ArgSort(DType),
    /// `t_scan_{op}_{dtype}`.
    Scan(ReduceOp, DType),
    /// `t_take`, `t_gather_{bytes}` and `t_fill`.
    Calls,
    /// `t_attend`.
    Attention,
    /// `t_attend_back`, beside [`Part::Attention`].
    AttentionGrad,
}

const BASE: &str = include_str!("base.c");
const DOUBLE: &str = include_str!("double.c");
const PRODUCT: &str = include_str!("product.c");
const PRODUCT_F32: &str = include_str!("product_f32.c");
const CALLS: &str = include_str!("calls.c");
const LANES: &str = include_str!("lanes.c");
const ATTENTION: &str = include_str!("attention.c");
const ATTENTION_GRAD: &str = include_str!("attention_grad.c");

/// Numbers of f32 that `t_product_f32` needs as scratch memory.
pub const PRODUCT_SCRATCH: usize = 256 * (512 + 6);

/// The text of primitives and parts; `prefix` begins the name of each primitive. It expects the headers of C99 and
/// `T_HIDDEN`, which marks functions that only this library sees.
///
/// Errors: `Compile` for a primitive without C text.
pub fn source(primitives: &[Prim], parts: &[Part], prefix: &str) -> Result<String> {
    let mut functions = BTreeSet::new();
    primitives.iter().for_each(|&p| prims::needs(p, &mut functions));
    let products = |p: &Part| matches!(p, Part::Product(_) | Part::Attention | Part::AttentionGrad);
    let detects = primitives.iter().any(|&p| prims::has_levels(p)) || parts.iter().any(products);
    let mut out = format!("{}{BASE}{DOUBLE}", if detects { "#define T_DETECTS\n" } else { "" });
    for op in functions {
        out.extend(math::function(op));
    }
    for &prim in primitives {
        out.push_str(&prims::define(prim, &format!("{prefix}{}", prim.name()))?);
    }
    if parts.iter().any(|p| matches!(p, Part::Product(_))) {
        out.push_str(PRODUCT);
    }
    if !parts.iter().all(products) {
        out.push_str(CALLS);
    }
    if parts.iter().any(|p| matches!(p, Part::Product(DType::F32) | Part::Attention | Part::AttentionGrad)) {
        out.push_str(LANES);
    }
    // In an order of their own: the second uses the first.
    if parts.iter().any(|p| matches!(p, Part::Attention | Part::AttentionGrad)) {
        out.push_str(ATTENTION);
    }
    if parts.contains(&Part::AttentionGrad) {
        out.push_str(ATTENTION_GRAD);
    }
    for part in parts {
        match *part {
            Part::Product(DType::F32) => out.push_str(PRODUCT_F32),
            Part::Product(dtype) => out.push_str(&product(dtype)),
            Part::Scatter(mode, dtype) => out.push_str(&scatter(mode, dtype)),
            Part::ArgSort(dtype) => out.push_str(&argsort(dtype)),
            Part::Scan(op, dtype) => out.push_str(&scan(op, dtype)?),
            Part::Attention | Part::AttentionGrad | Part::Calls => {}
        }
    }
    Ok(out)
}

/// The product of a dtype: terms and sums in its compute dtype, integers in 64 bits.
fn product(dtype: DType) -> String {
    let name = dtype.short();
    let t = c_type(dtype);
    let (sum, load, store, step, add) = match dtype {
        DType::F64 => ("double", "(x)".to_string(), "(x)".to_string(), "fma(a, b, c)", "c + a"),
        DType::F32 | DType::F16 | DType::BF16 => (
            "float",
            prims::cast(dtype, DType::F32, "x"),
            prims::cast(DType::F32, dtype, "x"),
            "fmaf(a, b, c)",
            "c + a",
        ),
        DType::Bool => ("uint64_t", "(x)".to_string(), "(x) != 0".to_string(), "c | (a & b)", "c | a"),
        DType::U8 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
            ("uint64_t", "(uint64_t)(x)".to_string(), format!("({t})(x)"), "c + a * b", "c + a")
        }
    };
    format!("T_PRODUCT({name}, {t}, {sum}, {load}, {store}, {step}, {add})\n")
}

/// A 16-bit float as f32; other elements as they are.
fn widen(dtype: DType, x: &str) -> String {
    prims::cast(dtype, dtype.compute(), x)
}

/// `e`, of the compute dtype, as an element.
fn narrow(dtype: DType, e: &str) -> String {
    match dtype {
        DType::F16 | DType::BF16 => prims::cast(DType::F32, dtype, &format!("({e})")),
        _ => e.to_string(),
    }
}

/// The larger or smaller (`sign`) of `a` and `x`; NaN wins.
fn extreme(dtype: DType, sign: char) -> String {
    let (a, x) = (widen(dtype, "a"), widen(dtype, "x"));
    let nan = if dtype.is_float() { format!("{a} != {a} || ") } else { String::new() };
    format!("{nan}{a} {sign} {x} ? a : x")
}

fn scatter(mode: ScatterMode, dtype: DType) -> String {
    let (a, x) = (widen(dtype, "a"), widen(dtype, "x"));
    let e = match mode {
        ScatterMode::Set => "x".to_string(),
        ScatterMode::Add if dtype == DType::Bool => "a | x".to_string(),
        ScatterMode::Prod if dtype == DType::Bool => "a & x".to_string(),
        ScatterMode::Add if dtype.is_float() => narrow(dtype, &format!("{a} + {x}")),
        ScatterMode::Prod if dtype.is_float() => narrow(dtype, &format!("{a} * {x}")),
        ScatterMode::Add => "(uint64_t)a + (uint64_t)x".to_string(),
        ScatterMode::Prod => "(uint64_t)a * (uint64_t)x".to_string(),
        ScatterMode::Max => extreme(dtype, '>'),
        ScatterMode::Min => extreme(dtype, '<'),
    };
    format!("T_SCATTER({}_{}, {}, {e})\n", mode.name(), dtype.short(), c_type(dtype))
}

fn argsort(dtype: DType) -> String {
    let key = if dtype.is_float() {
        format!("t_key_float((double){})", widen(dtype, "x"))
    } else {
        "(uint64_t)(int64_t)x ^ ((uint64_t)1 << 63)".to_string()
    };
    format!("T_ARGSORT({}, {}, {key})\n", dtype.short(), c_type(dtype))
}

fn scan(op: ReduceOp, dtype: DType) -> Result<String> {
    let float = dtype.is_float();
    let sums = matches!(op, ReduceOp::Sum | ReduceOp::Prod);
    let e = match op {
        ReduceOp::Sum if dtype == DType::Bool => "a | x".to_string(),
        ReduceOp::Prod if dtype == DType::Bool => "a & x".to_string(),
        ReduceOp::Sum if float => "a + x".to_string(),
        ReduceOp::Prod if float => "a * x".to_string(),
        ReduceOp::Sum => "(uint64_t)a + (uint64_t)x".to_string(),
        ReduceOp::Prod => "(uint64_t)a * (uint64_t)x".to_string(),
        ReduceOp::Max => extreme(dtype, '>'),
        ReduceOp::Min => extreme(dtype, '<'),
        ReduceOp::Any | ReduceOp::All | ReduceOp::ArgMax | ReduceOp::ArgMin => {
            return Err(Error::compile(format!("a scan by {} has no C text", op.name())));
        }
    };
    // Sums and products of floats go on unrounded in f64.
    let (acc, wide, back) = if sums && float {
        ("double", format!("(double){}", widen(dtype, "e")), prims::cast(DType::F64, dtype, "acc"))
    } else {
        (c_type(dtype), "e".to_string(), "acc".to_string())
    };
    Ok(format!("T_SCAN({}_{}, {}, {acc}, {wide}, {back}, {e})\n", op.name(), dtype.short(), c_type(dtype)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_has_text() {
        let text = source(&Prim::all(), &[], "x__").unwrap();
        for prim in Prim::all() {
            assert!(text.contains(&format!("(x__{},", prim.name())) || text.contains(&format!("(x__{})", prim.name())));
        }
    }

    #[test]
    fn what_has_levels_detects_them() {
        let families: Vec<&str> = BASE.split("#define ").collect();
        for prim in Prim::all() {
            let text = prims::define(prim, "x").unwrap();
            let (name, _) = text.split_once('(').unwrap();
            let family = families.iter().find(|f| f.starts_with(&format!("{name}("))).unwrap();
            let levels = family.contains("T_LEVELS(") || family.contains("T_BIN_FORM(");
            assert_eq!(levels, prims::has_levels(prim), "{name}");
        }
        let detects =
            |prims: &[Prim], parts: &[Part]| source(prims, parts, "x__").unwrap().contains("#define T_DETECTS");
        assert!(!detects(&[Prim::Copy(4)], &[Part::Calls]));
        assert!(detects(&[Prim::Splat(4)], &[]) && detects(&[], &[Part::Product(DType::F32)]));
    }
}
