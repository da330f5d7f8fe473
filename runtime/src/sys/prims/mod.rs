//! Block primitives: the precompiled loops that generated kernels call. Names and signatures are those of
//! `torsh_codegen::cpu::prims`; the values computed are those of `torsh_ir::scalar`.
//!
//! One source, several ISA levels: a row of [`table`] is a scalar function, [`loops`] holds the loop of its
//! family, and [`isa`] compiles that loop once per level under `#[target_feature]`, where LLVM vectorises
//! it. Bodies are `#[inline(always)]`, so that they take on the features of the level. No level contracts
//! products and sums, so all levels give the same bits (the payload and sign of a NaN excepted).
//!
//! # Accuracy
//! f32: the bounds stand at the functions of `torsh_codegen::cpu::math`: 0.9 to 1.5 ulp for the common ones, 2 for the
//! worst; `pow` computes in f64 and is within 0.55 ulp. f64: at most 2 ulp. All are tested in `accuracy.rs` and
//! `exhaustive.rs`. The other functions are those of `libm`, in f64 for f32 too.
//!
//! # Safety
//! A primitive trusts its caller: operands hold `n` readable elements, `dst` holds `n` writable ones,
//! pointers are aligned to their element, and `dst` equals an operand or overlaps none. Code generation
//! keeps this by construction; nobody else calls them.

#[cfg(test)]
mod accuracy;
mod convert;
#[cfg(test)]
mod exhaustive;
mod ints;
mod isa;
mod loops;
mod math;
mod quotient;
mod table;
#[cfg(test)]
mod tests;

pub(super) use ints::philox;

use torsh_ir::{Error, Result, env};

/// The ISA levels, weakest first within an architecture.
pub const LEVELS: [&str; 4] = ["portable", "neon", "avx2", "avx512"];

/// Every primitive of an ISA level with its address. An unknown level gives the portable one.
pub fn table(isa: &str) -> Vec<(String, *const u8)> {
    let mut rows = Vec::with_capacity(1024);
    match isa {
        #[cfg(target_arch = "x86_64")]
        "avx2" => table::fill::<isa::Avx2>(&mut rows),
        #[cfg(target_arch = "x86_64")]
        "avx512" => table::fill::<isa::Avx512>(&mut rows),
        // Every 64-bit ARM CPU has NEON: the portable loops are NEON code there.
        _ => table::fill::<isa::Portable>(&mut rows),
    }
    rows
}

/// Whether this CPU can run a level.
pub fn supported(isa: &str) -> bool {
    match isa {
        "portable" => true,
        #[cfg(target_arch = "aarch64")]
        "neon" => true,
        #[cfg(target_arch = "x86_64")]
        "avx2" => {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
        }
        #[cfg(target_arch = "x86_64")]
        "avx512" => {
            supported("avx2")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
        }
        _ => false,
    }
}

/// The level that the environment asks for, else the best there is.
pub fn detect() -> Result<&'static str> {
    choose(env::isa())
}

/// A level by name, an error if there is none of that name or this CPU lacks it; the best there is if none
/// is wanted.
pub fn choose(wanted: Option<&str>) -> Result<&'static str> {
    let Some(name) = wanted else {
        return Ok(LEVELS.into_iter().rev().find(|l| supported(l)).unwrap_or("portable"));
    };
    let levels = LEVELS.join(", ");
    match LEVELS.into_iter().find(|&l| l == name) {
        None => Err(Error::value(format!("instruction set level {name:?} is unknown; expected one of {levels}"))),
        Some(level) if supported(level) => Ok(level),
        Some(_) => Err(Error::device(format!("this CPU does not have the instruction set level {name:?}"))),
    }
}
