//! Numbers in text: lossless in both directions.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::scalar::{from_bits, to_bits, wrap};
use std::fmt::Write;

/// Hex digits that the bits of `dtype` take.
fn digits(dtype: DType) -> usize {
    dtype.size() * 2
}

/// The bits of the plain NaN of a dtype.
fn plain_nan(dtype: DType) -> u64 {
    to_bits(Scalar::Float(f64::NAN), dtype)
}

/// Appends the element of `dtype` with these bits.
pub(super) fn print_bits(out: &mut String, bits: u64, dtype: DType) {
    // Writing to a String cannot fail.
    let _ = match from_bits(bits, dtype) {
        Scalar::Bool(_) if bits > 1 => write!(out, "{bits:#04x}"),
        Scalar::Bool(b) => write!(out, "{b}"),
        Scalar::Int(i) => write!(out, "{i}"),
        Scalar::Float(x) if x.is_nan() && bits == plain_nan(dtype) => write!(out, "nan"),
        Scalar::Float(x) if x.is_nan() => write!(out, "nan:0x{bits:0width$x}", width = digits(dtype)),
        Scalar::Float(x) if dtype == DType::F64 => write!(out, "{x:?}"),
        Scalar::Float(x) => write!(out, "{:?}", x as f32),
    };
}

/// Appends a scalar attribute of a node whose result is `dtype`.
pub(super) fn print_scalar(out: &mut String, value: Scalar, dtype: DType) {
    let _ = match value {
        Scalar::Bool(b) => write!(out, "{b}"),
        Scalar::Int(i) => write!(out, "{i}"),
        Scalar::Float(x) if x.is_nan() => {
            print_bits(out, x.to_bits(), DType::F64);
            Ok(())
        }
        Scalar::Float(x) if dtype.compute() != DType::F32 => write!(out, "{x:?}"),
        Scalar::Float(x) if f64::from(x as f32).to_bits() == x.to_bits() => write!(out, "{:?}", x as f32),
        Scalar::Float(x) => write!(out, "{x:?}d"),
    };
}

/// Reads a float word (no NaN payload suffix) at the precision of `dtype`'s compute type.
fn float(word: &str, dtype: DType) -> Option<f64> {
    match word {
        "nan" => return Some(f64::NAN),
        "inf" => return Some(f64::INFINITY),
        "-inf" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    // Rust also reads "infinity" and "NaN"; only digits get this far.
    if !word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(wide) = word.strip_suffix('d') {
        return wide.parse().ok();
    }
    match dtype.compute() {
        DType::F32 => word.parse::<f32>().ok().map(f64::from),
        _ => word.parse().ok(),
    }
}

fn nan_bits(word: &str) -> Option<u64> {
    let hex = word.strip_prefix("nan:0x")?;
    u64::from_str_radix(hex, 16).ok()
}

/// Reads an element of `dtype` as its bits.
pub(super) fn parse_bits(word: &str, dtype: DType) -> Option<u64> {
    if dtype == DType::Bool {
        return match word {
            "false" => Some(0),
            "true" => Some(1),
            _ => word.strip_prefix("0x").and_then(|h| u8::from_str_radix(h, 16).ok()).map(u64::from),
        };
    }
    if dtype.is_int() {
        let i: i64 = word.parse().ok()?;
        return (wrap(i, dtype) == i).then(|| to_bits(Scalar::Int(i), dtype));
    }
    if let Some(bits) = nan_bits(word) {
        let is_nan = from_bits(bits, dtype).as_f64().is_nan();
        return (is_nan && (dtype.size() == 8 || bits >> (8 * dtype.size()) == 0)).then_some(bits);
    }
    float(word, dtype).map(|x| to_bits(Scalar::Float(x), dtype))
}

/// Reads a scalar attribute of a node whose result is `dtype`.
pub(super) fn parse_scalar(word: &str, dtype: DType) -> Option<Scalar> {
    match word {
        "true" => return Some(Scalar::Bool(true)),
        "false" => return Some(Scalar::Bool(false)),
        _ => {}
    }
    if let Some(bits) = nan_bits(word) {
        return f64::from_bits(bits).is_nan().then(|| Scalar::Float(f64::from_bits(bits)));
    }
    if let Ok(i) = word.parse::<i64>() {
        return Some(Scalar::Int(i));
    }
    float(word, dtype).map(Scalar::Float)
}
