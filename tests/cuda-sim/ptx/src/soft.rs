//! Exact rounding in software: directed modes of f32 and f64, and conversion to narrow floats.
//!
//! f32 arithmetic with a directed mode is done in f64 together with the exact error of the f64 result (two-sum,
//! or the residual of a quotient or root), from which the f32 rounding follows. f64 goes through `rustc_apfloat`.

use rustc_apfloat::ieee::Double;
use rustc_apfloat::{Float, Round, StatusAnd};

/// Rounding modes of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rnd {
    /// To nearest, ties to even.
    Rn,
    /// Toward zero.
    Rz,
    /// Toward minus infinity.
    Rm,
    /// Toward plus infinity.
    Rp,
    /// To nearest, ties away from zero.
    Rna,
}

/// The arithmetic that rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Arith {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
}

/// The canonical f32 NaN of PTX.
pub const NAN32: u32 = 0x7fff_ffff;
/// The f64 NaN that operations produce.
pub const NAN64: u64 = 0xfff8_0000_0000_0000;

pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

fn next_up(x: f32) -> f32 {
    x.next_up()
}

/// Rounds the exact value `s + err` to f32, where `s` is the f64 nearest to that value.
fn round_f32(s: f64, err: f64, rnd: Rnd) -> f32 {
    if !s.is_finite() {
        return s as f32;
    }
    let f = s as f32;
    let g = f64::from(f);
    let above = g > s || (g == s && err < 0.0);
    let below = g < s || (g == s && err > 0.0);
    let negative = s.is_sign_negative();
    match rnd {
        Rnd::Rm if above => f.next_down(),
        Rnd::Rp if below => next_up(f),
        Rnd::Rz if above && !negative => f.next_down(),
        Rnd::Rz if below && negative => next_up(f),
        Rnd::Rn | Rnd::Rna | Rnd::Rm | Rnd::Rp | Rnd::Rz => f,
    }
}

/// f32 arithmetic in any rounding mode; the operands are used as far as the operation has them.
pub fn arith32(op: Arith, rnd: Rnd, a: f32, b: f32, c: f32) -> f32 {
    if rnd == Rnd::Rn {
        return match op {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Fma => a.mul_add(b, c),
            Arith::Div => a / b,
            Arith::Sqrt => a.sqrt(),
            Arith::Rcp => 1.0 / a,
        };
    }
    let (x, y, z) = (f64::from(a), f64::from(b), f64::from(c));
    let (s, err) = match op {
        Arith::Add => two_sum(x, y),
        Arith::Sub => two_sum(x, -y),
        Arith::Mul => (x * y, 0.0),
        Arith::Fma => two_sum(x * y, z),
        Arith::Div | Arith::Rcp => {
            let (x, y) = if op == Arith::Rcp { (1.0, x) } else { (x, y) };
            let q = x / y;
            // The sign of x - q*y, moved to the sign of the quotient's error.
            let r = (-q).mul_add(y, x);
            (q, if y < 0.0 { -r } else { r })
        }
        Arith::Sqrt => {
            let s = x.sqrt();
            (s, (-s).mul_add(s, x))
        }
    };
    let sum = match op {
        Arith::Add => Some((x, y)),
        Arith::Sub => Some((x, -y)),
        Arith::Fma => Some((x * y, z)),
        _ => None,
    };
    if let Some((p, q)) = sum
        && s == 0.0
        && rnd == Rnd::Rm
        && !(p == 0.0 && q == 0.0 && p.is_sign_positive() && q.is_sign_positive())
    {
        // An exact zero of a sum is negative when rounding down, unless both terms are +0.
        return -0.0;
    }
    let err = if err.is_nan() { 0.0 } else { err };
    round_f32(s, err, rnd)
}

fn apfloat(rnd: Rnd) -> Round {
    match rnd {
        Rnd::Rn => Round::NearestTiesToEven,
        Rnd::Rz => Round::TowardZero,
        Rnd::Rm => Round::TowardNegative,
        Rnd::Rp => Round::TowardPositive,
        Rnd::Rna => Round::NearestTiesToAway,
    }
}

/// f64 arithmetic in any rounding mode.
pub fn arith64(op: Arith, rnd: Rnd, a: f64, b: f64, c: f64) -> f64 {
    if rnd == Rnd::Rn {
        return match op {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Fma => a.mul_add(b, c),
            Arith::Div => a / b,
            Arith::Sqrt => a.sqrt(),
            Arith::Rcp => 1.0 / a,
        };
    }
    let d = |x: f64| Double::from_bits(u128::from(x.to_bits()));
    let r = apfloat(rnd);
    let out: StatusAnd<Double> = match op {
        Arith::Add => d(a).add_r(d(b), r),
        Arith::Sub => d(a).sub_r(d(b), r),
        Arith::Mul => d(a).mul_r(d(b), r),
        Arith::Fma => d(a).mul_add_r(d(b), d(c), r),
        Arith::Div => d(a).div_r(d(b), r),
        Arith::Rcp => d(1.0).div_r(d(a), r),
        Arith::Sqrt => return sqrt64(a, rnd),
    };
    f64::from_bits(out.value.to_bits() as u64)
}

fn sqrt64(a: f64, rnd: Rnd) -> f64 {
    let s = a.sqrt();
    if !s.is_finite() || s == 0.0 {
        return s;
    }
    // Away from the subnormals the residual is exact.
    let (scaled, root) = if a < 1e-200 { (a * 2f64.powi(512), s * 2f64.powi(256)) } else { (a, s) };
    let residual = (-root).mul_add(root, scaled);
    match rnd {
        Rnd::Rp if residual > 0.0 => s.next_up(),
        Rnd::Rm | Rnd::Rz if residual < 0.0 => s.next_down(),
        _ => s,
    }
}

/// f64 to f32 in any mode.
pub fn to_f32(x: f64, rnd: Rnd) -> f32 {
    round_f32(x, 0.0, rnd)
}

/// Makes `s` carry the information that the exact value is `s + err`: rounding to odd, after which a second
/// rounding to a much narrower format is exact.
pub fn to_odd(s: f64, err: f64) -> f64 {
    if err == 0.0 || !err.is_finite() || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    if (err > 0.0) == (s > 0.0) { f64::from_bits(s.to_bits() + 1) } else { f64::from_bits(s.to_bits() - 1) }
}

/// A narrow binary format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Exponent bits.
    pub exp: u32,
    /// Stored mantissa bits.
    pub man: u32,
}

/// IEEE half precision.
pub const F16: Format = Format { exp: 5, man: 10 };
/// bfloat16.
pub const BF16: Format = Format { exp: 8, man: 7 };
/// TF32, which sits in the high 19 bits of a 32-bit register.
pub const TF32: Format = Format { exp: 8, man: 10 };

/// Rounds to a narrow format; infinities and NaN (sign 0, all ones) as IEEE has them.
pub fn narrow(x: f64, fmt: Format, rnd: Rnd) -> u32 {
    let (e, m) = (fmt.exp, fmt.man);
    let sign = (x.to_bits() >> 63) as u32;
    let all = (1u32 << e) - 1;
    if x.is_nan() {
        return (1 << (e + m)) - 1;
    }
    let top = sign << (e + m);
    if x.is_infinite() {
        return top | all << m;
    }
    if x == 0.0 {
        return top;
    }
    let bias = (1i32 << (e - 1)) - 1;
    let bits = x.abs().to_bits();
    if bits >> 52 == 0 {
        // A subnormal f64 is far below every narrow format.
        let away = matches!((rnd, sign), (Rnd::Rp, 0) | (Rnd::Rm, 1));
        return top | u32::from(away);
    }
    let exp = (bits >> 52) as i32 - 1023;
    let man = (bits & ((1 << 52) - 1)) | 1 << 52;
    // Bits below the last place that the format keeps for this magnitude.
    let mut drop = 52 - m as i32;
    if exp < 1 - bias {
        drop += (1 - bias) - exp;
    }
    let drop = drop.min(54) as u32;
    let kept = if drop >= 54 { 0 } else { man >> drop };
    let rest = if drop >= 54 { man } else { man & ((1 << drop) - 1) };
    let half = 1u64 << (drop - 1).min(62);
    let up = match rnd {
        Rnd::Rn => drop < 54 && (rest > half || (rest == half && kept & 1 == 1)),
        Rnd::Rna => drop < 54 && rest >= half,
        Rnd::Rz => false,
        Rnd::Rp => rest != 0 && sign == 0,
        Rnd::Rm => rest != 0 && sign == 1,
    };
    let kept = kept as u32 + u32::from(up);
    let magnitude = if exp < 1 - bias { kept } else { (((exp + bias - 1) as u32) << m) + kept };
    if magnitude >= all << m {
        let to_inf = match rnd {
            Rnd::Rn | Rnd::Rna => true,
            Rnd::Rz => false,
            Rnd::Rp => sign == 0,
            Rnd::Rm => sign == 1,
        };
        return top | if to_inf { all << m } else { (all << m) - 1 };
    }
    top | magnitude
}

/// The value of a number of a narrow format.
pub fn widen(bits: u32, fmt: Format) -> f64 {
    let (e, m) = (fmt.exp, fmt.man);
    let sign = if bits >> (e + m) & 1 == 1 { -1.0 } else { 1.0 };
    let exp = (bits >> m & ((1 << e) - 1)) as i32;
    let man = bits & ((1 << m) - 1);
    let bias = (1i32 << (e - 1)) - 1;
    if exp == (1 << e) - 1 {
        return if man == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let (exp, man) = if exp == 0 { (1 - bias, f64::from(man)) } else { (exp - bias, f64::from(man | 1 << m)) };
    sign * man * f64::from_bits(((exp - m as i32 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small deterministic generator of bit patterns.
    fn bits(n: &mut u64) -> u64 {
        *n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *n ^ (*n >> 29)
    }

    #[test]
    fn directed_f32_agrees_with_apfloat() {
        use rustc_apfloat::ieee::Single;
        let mut n = 1;
        let special = [0u32, 1 << 31, 1, 0x8000_0001, 0x7f7f_ffff, 0xff7f_ffff, 0x7f80_0000, 0x3f80_0000, 0x0080_0000];
        for i in 0..200_000 {
            let mut v = [0u32; 3];
            for x in &mut v {
                let r = bits(&mut n);
                *x = if r.is_multiple_of(7) { special[(r >> 8) as usize % special.len()] } else { (r >> 16) as u32 };
                if i % 2 == 0 && !r.is_multiple_of(5) {
                    // Near one, so that cancellation and ties happen.
                    *x = (*x & 0x807f_ffff) | (120 + (*x >> 23 & 15)) << 23;
                }
            }
            let [a, b, c] = v.map(f32::from_bits);
            let s = |x: f32| Single::from_bits(u128::from(x.to_bits()));
            for rnd in [Rnd::Rn, Rnd::Rz, Rnd::Rm, Rnd::Rp] {
                let r = apfloat(rnd);
                let want = [
                    (Arith::Add, s(a).add_r(s(b), r).value),
                    (Arith::Sub, s(a).sub_r(s(b), r).value),
                    (Arith::Mul, s(a).mul_r(s(b), r).value),
                    (Arith::Fma, s(a).mul_add_r(s(b), s(c), r).value),
                    (Arith::Div, s(a).div_r(s(b), r).value),
                    (Arith::Rcp, s(1.0).div_r(s(a), r).value),
                ];
                for (op, w) in want {
                    let w = f32::from_bits(w.to_bits() as u32);
                    let g = arith32(op, rnd, a, b, c);
                    assert!(
                        g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()),
                        "{op:?} {rnd:?} {a:e} {b:e} {c:e}: {g:e} and {w:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn roots_bracket() {
        let mut n = 3;
        for _ in 0..20_000 {
            let x = f64::from_bits(bits(&mut n) >> 1);
            if !x.is_finite() || x < 1e-290 {
                continue;
            }
            let (lo, hi) = (arith64(Arith::Sqrt, Rnd::Rm, x, 0.0, 0.0), arith64(Arith::Sqrt, Rnd::Rp, x, 0.0, 0.0));
            assert!(lo == hi || lo.next_up() == hi);
            let y = x as f32;
            if y.is_finite() && y > 0.0 {
                let (lo, hi) = (arith32(Arith::Sqrt, Rnd::Rm, y, 0.0, 0.0), arith32(Arith::Sqrt, Rnd::Rp, y, 0.0, 0.0));
                let (l, h) = (f64::from(lo), f64::from(hi));
                assert!(l * l <= f64::from(y) && h * h >= f64::from(y) && (lo == hi || lo.next_up() == hi));
            }
        }
    }

    #[test]
    fn narrow_and_widen_round_trip() {
        for fmt in [F16, BF16] {
            for b in 0..1u32 << 16 {
                let x = widen(b, fmt);
                if !x.is_nan() {
                    assert_eq!(narrow(x, fmt, Rnd::Rn), b);
                    assert_eq!(narrow(x, fmt, Rnd::Rz), b);
                }
            }
        }
        assert_eq!(narrow(65_519.99, F16, Rnd::Rn), 0x7bff);
        assert_eq!(narrow(65_520.0, F16, Rnd::Rn), 0x7c00);
        assert_eq!(narrow(65_536.0, F16, Rnd::Rz), 0x7bff);
        assert_eq!(narrow(2f64.powi(-25), F16, Rnd::Rn), 0);
        assert_eq!(narrow(2f64.powi(-25), F16, Rnd::Rna), 1);
        assert_eq!(narrow(2f64.powi(-25) * 1.0001, F16, Rnd::Rn), 1);
        assert_eq!(narrow(1e-300, F16, Rnd::Rp), 1);
        assert_eq!(narrow(1.0 + 2f64.powi(-8), BF16, Rnd::Rn), 0x3f80);
        assert_eq!(narrow(1.0 + 3.0 * 2f64.powi(-8), BF16, Rnd::Rn), 0x3f82);
        assert_eq!(narrow(f64::NAN, BF16, Rnd::Rn), 0x7fff);
    }

    #[test]
    fn odd_rounding_keeps_the_sticky_bit() {
        // 1 + 2^-11 lies half way between two halfs; a tiny error must decide.
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(narrow(to_odd(tie, 0.0), F16, Rnd::Rn), 0x3c00);
        assert_eq!(narrow(to_odd(tie, 1e-30), F16, Rnd::Rn), 0x3c01);
        assert_eq!(narrow(to_odd(tie, -1e-30), F16, Rnd::Rn), 0x3c00);
    }
}
