//! The f32 functions over all 2^32 numbers: `cargo test --release -p torsh-runtime all_numbers -- --ignored`.
//!
//! A call of the f64 function for each number would take most of an hour a function. Numbers that follow each other
//! are close together, so that a polynomial through a few values of the f64 function gives all others between them:
//! [`fit`] makes it and says whether it is precise. The worst error is then computed anew from the function itself.

use super::accuracy::{F32, Reference, call_level, error32, ulp32};
use super::math::beyond_trig32;
use super::tests::levels;

/// Numbers at a time. They share sign and exponent.
const BLOCK: usize = 1 << 13;
/// Values that a polynomial goes through.
const NODES: usize = 8;
/// So few numbers are looked at one by one.
const FEW: usize = 16;
/// Error allowed to a polynomial, in ulp of f32.
const FIT: f64 = 1e-4;
/// The portable level calls a function for each fused operation: it computes every so many blocks only.
const PORTABLE_EVERY: u64 = 31;
/// Far arguments of periodic functions go to the f64 function, in the primitive as here: every so many blocks.
const FAR_EVERY: u64 = 1021;

/// The f32 of these bits.
fn number(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

/// `cos(pi (i + 1/2) k / NODES)`.
fn cosines() -> [[f64; NODES]; NODES] {
    let angle = |k: usize, i: usize| std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / NODES as f64;
    std::array::from_fn(|k| std::array::from_fn(|i| libm::cos(angle(k, i))))
}

/// A polynomial in `(x - middle) * scale`, lowest coefficient first.
struct Fit {
    coefficients: [f64; NODES],
    middle: f64,
    scale: f64,
}

/// The polynomial through `f` at the Chebyshev nodes of `n` numbers, if the last terms of the Chebyshev series and
/// the rounding of f64 are small against the unit of the smallest value.
fn fit(f: Reference, cos: &[[f64; NODES]; NODES], from: u32, n: usize) -> Option<Fit> {
    let (lo, hi) = (number(from), number(from + (n as u32 - 1)));
    let (middle, half) = ((lo + hi) / 2.0, (hi - lo) / 2.0);
    let values: [f64; NODES] = std::array::from_fn(|i| f(middle + half * cos[1][i]));
    let (least, most) = values.iter().fold((f64::INFINITY, 0f64), |(l, m), y| (l.min(y.abs()), m.max(y.abs())));
    let usual = values.iter().all(|y| y.abs() < 3e38) && least > 1e-44 && most < 2.0 * least;
    if !usual {
        return None;
    }
    let series: [f64; NODES] = std::array::from_fn(|k| {
        let sum: f64 = values.iter().zip(&cos[k]).map(|(y, c)| y * c).sum();
        sum * if k == 0 { 1.0 } else { 2.0 } / NODES as f64
    });
    let tail = series[NODES - 1].abs() + series[NODES - 2].abs() + 0.03 * series[NODES - 3].abs();
    if tail > FIT * ulp32(least) {
        return None;
    }
    // From Chebyshev polynomials to powers.
    let mut coefficients = [0.0; NODES];
    let (mut now, mut next) = ([0.0; NODES], [0.0; NODES]);
    (now[0], next[1]) = (1.0, 1.0);
    for s in series {
        let mut after = [0.0; NODES];
        for j in 0..NODES {
            coefficients[j] += s * now[j];
            after[j] = if j > 0 { 2.0 * next[j - 1] } else { 0.0 } - now[j];
        }
        (now, next) = (next, after);
    }
    Some(Fit { coefficients, middle, scale: 1.0 / half })
}

/// The worst error of `got`, the results for the numbers from `from` on, and where it is.
fn worst(f: Reference, cos: &[[f64; NODES]; NODES], from: u32, got: &[f32]) -> (f64, u32) {
    let at = |i: usize| error32(got[i], f(number(from + i as u32)));
    let n = got.len();
    if n <= FEW {
        return (0..n).map(|i| (at(i), from + i as u32)).fold((0.0, from), |a, b| if b.0 > a.0 { b } else { a });
    }
    let Some(Fit { coefficients: c, middle, scale }) = fit(f, cos, from, n) else {
        // One special value everywhere: the functions are monotonic where they overflow, vanish or do not exist.
        let ends = [f(number(from)), f(number(from + n as u32 / 2)), f(number(from + (n as u32 - 1)))];
        let ends = ends.map(|y| if y.abs() < 1e-60 { 0f32.copysign(y as f32) } else { y as f32 });
        let special = ends[0].is_nan() || ends[0].is_infinite() || ends[0] == 0.0;
        let same = |y: f32| y.to_bits() == ends[0].to_bits() || y.is_nan() && ends[0].is_nan();
        if special && n >= 1 << 10 && ends.into_iter().all(same) {
            let bad = got.iter().position(|&y| !same(y));
            return bad.map_or((0.0, from), |i| (f64::INFINITY, from + i as u32));
        }
        let (low, high) = got.split_at(n / 2);
        let (a, b) = (worst(f, cos, from, low), worst(f, cos, from + (n / 2) as u32, high));
        return if b.0 > a.0 { b } else { a };
    };
    let mut errors = [0f64; BLOCK];
    for (i, (e, &y)) in errors.iter_mut().zip(got).enumerate() {
        let t = (number(from + i as u32) - middle) * scale;
        let mut want = c[NODES - 1];
        for k in (0..NODES - 1).rev() {
            want = want * t + c[k];
        }
        *e = (f64::from(y) - want).abs() / ulp32(want);
    }
    // A NaN is infinitely wrong here.
    let errors = errors[..n].iter().map(|e| if e.is_nan() { f64::INFINITY } else { *e });
    let (i, _) = errors.enumerate().fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
    (at(i), from + i as u32)
}

fn all_numbers(name: &str) {
    let (_, reference, bound) = F32.into_iter().find(|f| f.0 == name).expect("a function of the table");
    let symbol = format!("{name}_f32");
    let cos = cosines();
    let periodic = ["sin", "cos", "tan"].contains(&name);
    let levels = levels();
    let (mut found, mut numbers) = ((0.0, 0), 0);
    for block in 0..(1u64 << 32) / BLOCK as u64 {
        let from = (block * BLOCK as u64) as u32;
        let far = periodic && beyond_trig32(f32::from_bits(from));
        if far && !block.is_multiple_of(FAR_EVERY) {
            continue;
        }
        let x: Vec<f32> = (0..BLOCK as u32).map(|i| f32::from_bits(from + i)).collect();
        let some = |isa: &&str| *isa != "portable" || levels.len() == 1 || block.is_multiple_of(PORTABLE_EVERY);
        let all: Vec<Vec<f32>> = levels.iter().copied().filter(some).map(|isa| call_level(isa, &symbol, &x)).collect();
        for other in &all[1..] {
            let differ = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
            let at = other.iter().zip(&all[0]).position(differ);
            assert!(at.is_none(), "{symbol}({:e}) differs between levels", x[at.unwrap_or(0)]);
        }
        let here = worst(reference, &cos, from, &all[0]);
        if here.0 > found.0 {
            found = here;
        }
        numbers += BLOCK;
    }
    let at = f32::from_bits(found.1);
    println!("{symbol}: {:.4} ulp at {at:e} among {numbers} numbers", found.0);
    assert!(found.0 <= bound, "{symbol} is {} ulp off at {at:e}", found.0);
}

/// A test a function.
macro_rules! tests {
    ($($name:ident)*) => {
        /// The functions that are swept.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
        #[test]
        #[ignore = "a minute: all 2^32 numbers"]
        fn $name() {
            all_numbers(stringify!($name));
        }
        )*
    };
}
mod all_numbers_of {
    use super::all_numbers;
    tests!(exp exp2 expm1 log log2 log10 log1p tanh erf sigmoid sin cos tan asin acos atan sinh cosh asinh acosh atanh);
}

#[test]
fn every_function_is_swept() {
    assert_eq!(F32.map(|f| f.0).as_slice(), all_numbers_of::NAMES);
}

#[test]
fn polynomials_stand_for_the_functions() {
    let cos = cosines();
    for (name, f, _) in F32 {
        let (mut made, mut worst) = (0, 0f64);
        for exponent in 100..140 {
            let from = exponent << 23 | 0x12_3000;
            let Some(p) = fit(f, &cos, from, BLOCK) else { continue };
            made += 1;
            for i in (0..BLOCK as u32).step_by(997) {
                let t = (number(from + i) - p.middle) * p.scale;
                let got = p.coefficients.iter().rev().fold(0.0, |y, c| y * t + c);
                let want = f(number(from + i));
                worst = worst.max((got - want).abs() / ulp32(want));
            }
        }
        assert!(made > 10 && worst < 2.0 * FIT, "{name}: {made} polynomials, {worst} ulp off");
    }
}
