//! What instructions compute, lane by lane, without memory or control.

pub(crate) mod approx;
pub(crate) mod cvt;
pub(crate) mod float;
pub(crate) mod int;

use crate::inst::{Bool, Cmp, Lanes, PureOp};
use crate::ty::{Ty, sext, trunc};

/// A function of one register, applied to 32 lanes.
macro_rules! l1 {
    ($a:ident => $e:expr) => {{
        let f: crate::inst::F1 = |x, o| {
            for i in 0..32 {
                let $a = x[i];
                o[i] = $e;
            }
        };
        f
    }};
}
macro_rules! l2 {
    ($a:ident, $b:ident => $e:expr) => {{
        let f: crate::inst::F2 = |x, y, o| {
            for i in 0..32 {
                let ($a, $b) = (x[i], y[i]);
                o[i] = $e;
            }
        };
        f
    }};
}
macro_rules! l3 {
    ($a:ident, $b:ident, $c:ident => $e:expr) => {{
        let f: crate::inst::F3 = |x, y, z, o| {
            for i in 0..32 {
                let ($a, $b, $c) = (x[i], y[i], z[i]);
                o[i] = $e;
            }
        };
        f
    }};
}
pub(crate) use {l1, l2, l3};

/// The lanes (as a mask) in which a comparison holds.
pub(crate) fn compare(cmp: Cmp, ty: Ty, ftz: bool, a: &Lanes, b: &Lanes) -> u32 {
    if ty.float() {
        let f = |v: u64| float::flush(float::value(ty, v), ty, ftz);
        return mask(|i| compare_floats(cmp, f(a[i]), f(b[i])));
    }
    let bits = ty.bits();
    if ty.signed() {
        let s = |v: u64| sext(v, bits) as i64;
        return match cmp {
            Cmp::Eq => mask(|i| s(a[i]) == s(b[i])),
            Cmp::Ne => mask(|i| s(a[i]) != s(b[i])),
            Cmp::Lt => mask(|i| s(a[i]) < s(b[i])),
            Cmp::Le => mask(|i| s(a[i]) <= s(b[i])),
            Cmp::Gt => mask(|i| s(a[i]) > s(b[i])),
            _ => mask(|i| s(a[i]) >= s(b[i])),
        };
    }
    let u = |v: u64| trunc(v, bits);
    match cmp {
        Cmp::Eq => mask(|i| u(a[i]) == u(b[i])),
        Cmp::Ne => mask(|i| u(a[i]) != u(b[i])),
        Cmp::Lt => mask(|i| u(a[i]) < u(b[i])),
        Cmp::Le => mask(|i| u(a[i]) <= u(b[i])),
        Cmp::Gt => mask(|i| u(a[i]) > u(b[i])),
        _ => mask(|i| u(a[i]) >= u(b[i])),
    }
}

fn mask(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, i| m | u32::from(f(i)) << i)
}

fn compare_floats(cmp: Cmp, a: f64, b: f64) -> bool {
    let nan = a.is_nan() || b.is_nan();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => !nan && a != b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => nan || a == b,
        Cmp::Neu => nan || a != b,
        Cmp::Ltu => nan || a < b,
        Cmp::Leu => nan || a <= b,
        Cmp::Gtu => nan || a > b,
        Cmp::Geu => nan || a >= b,
        Cmp::Num => !nan,
        Cmp::Nan => nan,
    }
}

pub(crate) fn fold(op: Bool, a: bool, b: bool) -> bool {
    match op {
        Bool::And => a && b,
        Bool::Or => a || b,
        Bool::Xor => a != b,
    }
}

/// Evaluates a described function in one lane. `perturb` moves approximated results inside their error bounds.
pub(crate) fn pure(op: &PureOp, s: [u64; 4], perturb: bool) -> u64 {
    match *op {
        PureOp::Float(f) => float::arith(&f, s[0], s[1], s[2]),
        PureOp::Float2(f) => {
            let half = |k: u32| float::arith(&f, s[0] >> k & 0xffff, s[1] >> k & 0xffff, s[2] >> k & 0xffff);
            half(0) | half(16) << 16
        }
        PureOp::Approx { f, ty, ftz, sat } => approx::eval(f, ty, ftz, sat, s[0], s[1], perturb),
        PureOp::MinMax { op, ty, ftz, nan, xorsign, relu } => match ty {
            Ty::F16x2 | Ty::Bf16x2 => {
                let one = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                let half =
                    |k: u32| float::minmax(op, one, ftz, nan, xorsign, relu, s[0] >> k & 0xffff, s[1] >> k & 0xffff);
                half(0) | half(16) << 16
            }
            _ => float::minmax(op, ty, ftz, nan, xorsign, relu, s[0], s[1]),
        },
        PureOp::Cvt(c) => cvt::eval(&c, s[0]),
        PureOp::CvtPack { dst, rnd, sat, relu } => cvt::pack(dst, rnd, sat, relu, s[0], s[1]),
        PureOp::Set { cmp, src, dst, ftz } => set(cmp, src, dst, ftz, s[0], s[1]),
        PureOp::Slct { src, sel } => {
            let take = if sel == Ty::F32 { f32::from_bits(s[2] as u32) >= 0.0 } else { s[2] as i32 >= 0 };
            trunc(if take { s[0] } else { s[1] }, src.bits())
        }
        PureOp::Prmt(mode) => int::prmt(mode, s[0] as u32, s[1] as u32, s[2] as u32),
        PureOp::Lop3(lut) => int::lop3(lut, s[0] as u32, s[1] as u32, s[2] as u32),
        PureOp::Bfi(bits) => int::bfi(bits, s[0], s[1], s[2], s[3]),
        PureOp::Testp { test, ty } => u64::from(float::testp(test, ty, s[0])),
        PureOp::NegAbs { ty, abs, ftz } => float::neg_abs(ty, abs, ftz, s[0]),
    }
}

fn set(cmp: Cmp, src: Ty, dst: Ty, ftz: bool, a: u64, b: u64) -> u64 {
    let one = |ty: Ty, a: u64, b: u64| {
        let (mut x, mut y) = ([0; 32], [0; 32]);
        (x[0], y[0]) = (a, b);
        compare(cmp, ty, ftz, &x, &y) & 1 == 1
    };
    let value = |hit: bool, ty: Ty| match (hit, ty) {
        (false, _) => 0,
        (true, Ty::F32) => u64::from(1f32.to_bits()),
        (true, Ty::F16) => 0x3c00,
        (true, Ty::Bf16) => 0x3f80,
        (true, _) => trunc(u64::MAX, ty.bits()),
    };
    match src {
        Ty::F16x2 | Ty::Bf16x2 => {
            let ty = if src == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let half_dst = match dst {
                Ty::F16x2 => Ty::F16,
                Ty::Bf16x2 => Ty::Bf16,
                _ => Ty::U16,
            };
            let half = |k: u32| value(one(ty, a >> k & 0xffff, b >> k & 0xffff), half_dst);
            half(0) | half(16) << 16
        }
        _ => value(one(src, a, b), dst),
    }
}
