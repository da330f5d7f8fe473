//! Floating-point arithmetic in f16, bf16, f32 and f64.
//!
//! A result that is not a number is the canonical one: 0x7fffffff in f32, 0x7fff in 16 bits.

use super::{l1, l2, l3};
use crate::inst::{F1, F2, F3, FloatOp, MinMax};
use crate::soft::{self, Arith, BF16, F16, Format, NAN32, NAN64, Rnd, TF32};
use crate::ty::Ty;

fn bits32(x: f32) -> u64 {
    u64::from(if x.is_nan() { NAN32 } else { x.to_bits() })
}

fn bits64(x: f64) -> u64 {
    if x.is_nan() { NAN64 } else { x.to_bits() }
}

fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn d(v: u64) -> f64 {
    f64::from_bits(v)
}

fn ftz32(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn format(ty: Ty) -> Format {
    match ty {
        Ty::Bf16 | Ty::Bf16x2 => BF16,
        Ty::Tf32 => TF32,
        _ => F16,
    }
}

/// The exact value of a register as a float of type `ty`.
pub(crate) fn value(ty: Ty, v: u64) -> f64 {
    match ty {
        Ty::F64 => d(v),
        Ty::F32 => f64::from(f(v)),
        Ty::Tf32 => soft::widen(v as u32 >> 13, TF32),
        _ => soft::widen(v as u32 & 0xffff, format(ty)),
    }
}

/// Flushes what is subnormal in `ty` to zero, where asked.
pub(crate) fn flush(x: f64, ty: Ty, ftz: bool) -> f64 {
    let tiny = match ty {
        Ty::F16 => 2f64.powi(-14),
        Ty::F64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    if ftz && x.abs() < tiny { 0f64.copysign(x) } else { x }
}

/// Rounds an exact `x + err` to `ty`.
pub(crate) fn encode(ty: Ty, x: f64, err: f64, rnd: Rnd) -> u64 {
    match ty {
        Ty::F64 => bits64(x),
        Ty::F32 => bits32(soft::to_f32(soft::to_odd(x, err), rnd)),
        Ty::Tf32 => u64::from(soft::narrow(soft::to_odd(x, err), TF32, rnd)) << 13,
        _ => u64::from(soft::narrow(soft::to_odd(x, err), format(ty), rnd)),
    }
}

/// The common cases as loops over lanes: f32 and f64, to nearest, no saturation.
pub(crate) fn fast2(o: &FloatOp) -> Option<F2> {
    if o.sat || o.relu || o.rnd != Rnd::Rn {
        return None;
    }
    Some(match (o.op, o.ty, o.ftz) {
        (Arith::Add, Ty::F32, false) => l2!(a, b => bits32(f(a) + f(b))),
        (Arith::Sub, Ty::F32, false) => l2!(a, b => bits32(f(a) - f(b))),
        (Arith::Mul, Ty::F32, false) => l2!(a, b => bits32(f(a) * f(b))),
        (Arith::Div, Ty::F32, false) => l2!(a, b => bits32(f(a) / f(b))),
        (Arith::Add, Ty::F32, true) => l2!(a, b => bits32(ftz32(ftz32(f(a)) + ftz32(f(b))))),
        (Arith::Sub, Ty::F32, true) => l2!(a, b => bits32(ftz32(ftz32(f(a)) - ftz32(f(b))))),
        (Arith::Mul, Ty::F32, true) => l2!(a, b => bits32(ftz32(ftz32(f(a)) * ftz32(f(b))))),
        (Arith::Add, Ty::F64, _) => l2!(a, b => bits64(d(a) + d(b))),
        (Arith::Sub, Ty::F64, _) => l2!(a, b => bits64(d(a) - d(b))),
        (Arith::Mul, Ty::F64, _) => l2!(a, b => bits64(d(a) * d(b))),
        (Arith::Div, Ty::F64, _) => l2!(a, b => bits64(d(a) / d(b))),
        _ => return None,
    })
}

/// The same for the fused multiply-add.
pub(crate) fn fast3(o: &FloatOp) -> Option<F3> {
    if o.sat || o.relu || o.rnd != Rnd::Rn || o.op != Arith::Fma {
        return None;
    }
    Some(match (o.ty, o.ftz) {
        (Ty::F32, false) => l3!(a, b, c => bits32(f(a).mul_add(f(b), f(c)))),
        (Ty::F32, true) => l3!(a, b, c => bits32(ftz32(ftz32(f(a)).mul_add(ftz32(f(b)), ftz32(f(c)))))),
        (Ty::F64, _) => l3!(a, b, c => bits64(d(a).mul_add(d(b), d(c)))),
        _ => return None,
    })
}

/// Minimum and maximum of f32 without modifiers, as loops over lanes.
pub(crate) fn fast_minmax(op: MinMax) -> F2 {
    // -0 is below +0: among equal numbers the sign decides.
    fn pick(a: f32, b: f32, take_a: bool) -> u64 {
        bits32(if a.is_nan() || (!take_a && !b.is_nan()) { b } else { a })
    }
    match op {
        MinMax::Min => l2!(a, b => pick(f(a), f(b), f(a) < f(b) || (f(a) == f(b) && f(a).is_sign_negative()))),
        MinMax::Max => l2!(a, b => pick(f(a), f(b), f(a) > f(b) || (f(a) == f(b) && f(a).is_sign_positive()))),
    }
}

/// Sign manipulation as loops over lanes.
pub(crate) fn sign1(op: &str, ty: Ty, ftz: bool) -> Option<F1> {
    Some(match (op, ty, ftz) {
        ("neg", Ty::F32, false) => l1!(a => (a ^ 1 << 31) & 0xffff_ffff),
        ("abs", Ty::F32, false) => l1!(a => a & 0x7fff_ffff),
        ("neg", Ty::F64, _) => l1!(a => a ^ 1 << 63),
        ("abs", Ty::F64, _) => l1!(a => a & !(1 << 63)),
        ("neg", Ty::F16 | Ty::Bf16, false) => l1!(a => (a ^ 1 << 15) & 0xffff),
        ("abs", Ty::F16 | Ty::Bf16, false) => l1!(a => a & 0x7fff),
        ("neg", Ty::F16x2 | Ty::Bf16x2, false) => l1!(a => (a ^ 0x8000_8000) & 0xffff_ffff),
        ("abs", Ty::F16x2 | Ty::Bf16x2, false) => l1!(a => a & 0x7fff_7fff),
        _ => return None,
    })
}

pub(crate) fn copysign(ty: Ty) -> Option<F2> {
    Some(match ty {
        Ty::F32 => l2!(a, b => (a & 1 << 31) | (b & 0x7fff_ffff)),
        Ty::F64 => l2!(a, b => (a & 1 << 63) | (b & !(1 << 63))),
        _ => return None,
    })
}

/// neg and abs that flush subnormals.
pub(crate) fn neg_abs(ty: Ty, abs: bool, ftz: bool, a: u64) -> u64 {
    let half = |one: Ty, v: u64| {
        let (x, top) = (flush(value(one, v), one, ftz), 1u64 << (one.bits() - 1));
        let v = if x == 0.0 { v & top } else { v };
        if abs { v & !top } else { v ^ top }
    };
    match ty {
        Ty::F16x2 => half(Ty::F16, a & 0xffff) | half(Ty::F16, a >> 16 & 0xffff) << 16,
        Ty::Bf16x2 => half(Ty::Bf16, a & 0xffff) | half(Ty::Bf16, a >> 16 & 0xffff) << 16,
        _ => half(ty, a),
    }
}

/// Rounding arithmetic in general.
pub(crate) fn arith(o: &FloatOp, a: u64, b: u64, c: u64) -> u64 {
    match o.ty {
        Ty::F32 => {
            let z = |v| if o.ftz { ftz32(f(v)) } else { f(v) };
            let mut r = soft::arith32(o.op, o.rnd, z(a), z(b), z(c));
            if o.ftz {
                r = ftz32(r);
            }
            if o.sat {
                r = if r.is_nan() || r <= 0.0 { 0.0 } else { r.min(1.0) };
            }
            bits32(r)
        }
        Ty::F64 => bits64(soft::arith64(o.op, o.rnd, d(a), d(b), d(c))),
        ty => {
            let v = |bits| flush(value(ty, bits), ty, o.ftz);
            let (x, y, z) = (v(a), v(b), v(c));
            let (s, err) = match o.op {
                Arith::Add => soft::two_sum(x, y),
                Arith::Sub => soft::two_sum(x, -y),
                Arith::Mul => (x * y, 0.0),
                Arith::Fma => soft::two_sum(x * y, z),
                Arith::Div => (x / y, 0.0),
                Arith::Sqrt => (x.sqrt(), 0.0),
                Arith::Rcp => (1.0 / x, 0.0),
            };
            let mut r = encode(ty, s, err, o.rnd);
            if o.ftz {
                r = encode(ty, flush(value(ty, r), ty, true), 0.0, Rnd::Rn);
            }
            let w = value(ty, r);
            if o.sat {
                r = encode(ty, if w.is_nan() || w <= 0.0 { 0.0 } else { w.min(1.0) }, 0.0, Rnd::Rn);
            }
            if o.relu && w <= 0.0 {
                r = 0;
            }
            r
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the modifiers of one instruction")]
pub(crate) fn minmax(op: MinMax, ty: Ty, ftz: bool, nan: bool, xorsign: bool, relu: bool, a: u64, b: u64) -> u64 {
    let top = 1u64 << (ty.bits() - 1);
    let canonical = |x: f64| encode(ty, x, 0.0, Rnd::Rn);
    let (x, y) = (flush(value(ty, a), ty, ftz), flush(value(ty, b), ty, ftz));
    let sign = (a ^ b) & top;
    let (x, y) = if xorsign { (x.abs(), y.abs()) } else { (x, y) };
    let r = if x.is_nan() || y.is_nan() {
        if nan || (x.is_nan() && y.is_nan()) {
            return canonical(f64::NAN);
        }
        if x.is_nan() { y } else { x }
    } else {
        // -0 is below +0.
        let first_less = x < y || (x == y && x.is_sign_negative());
        if first_less == (op == MinMax::Min) { x } else { y }
    };
    let r = if relu && r <= 0.0 { 0.0 } else { r };
    let bits = canonical(r);
    if xorsign { (bits & !top) | sign } else { bits }
}

/// The tests of `testp` in the order finite, infinite, number, notanumber, normal, subnormal.
pub(crate) fn testp(test: u8, ty: Ty, a: u64) -> bool {
    let x = value(ty, a);
    let subnormal = if ty == Ty::F64 { x.is_subnormal() } else { x != 0.0 && flush(x, ty, true) == 0.0 };
    match test {
        0 => x.is_finite(),
        1 => x.is_infinite(),
        2 => !x.is_nan(),
        3 => x.is_nan(),
        4 => x.is_finite() && x != 0.0 && !subnormal,
        _ => subnormal,
    }
}
