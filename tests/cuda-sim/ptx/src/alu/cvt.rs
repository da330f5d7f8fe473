//! Conversions.

use crate::alu::{float, l1};
use crate::inst::{CvtOp, CvtRnd, F1};
use crate::soft::{self, Rnd};
use crate::ty::{Ty, sext, trunc};

/// `cvt` in one lane.
pub(crate) fn eval(c: &CvtOp, a: u64) -> u64 {
    match (c.src.float(), c.dst.float()) {
        (false, false) => int_to_int(c, a),
        (false, true) => {
            let rnd = if let CvtRnd::Float(r) = c.rnd { r } else { Rnd::Rn };
            from_int(int_value(c.src, a), c.dst, rnd)
        }
        (true, false) => to_int(c, a),
        (true, true) => float_to_float(c, a),
    }
}

/// The common conversions as loops over lanes: between 32 and 64 bits, and 32-bit integers to f32.
pub(crate) fn fast(dst: Ty, src: Ty, rnd: CvtRnd, width: u32) -> Option<F1> {
    if width != dst.bits() {
        return None;
    }
    let nearest = rnd == CvtRnd::Float(Rnd::Rn);
    Some(match (dst, src) {
        (Ty::U32 | Ty::S32 | Ty::B32, Ty::U64 | Ty::S64 | Ty::B64) => l1!(a => a & 0xffff_ffff),
        (Ty::U64 | Ty::S64 | Ty::B64, Ty::U32 | Ty::B32) => l1!(a => a & 0xffff_ffff),
        (Ty::U64 | Ty::S64 | Ty::B64, Ty::S32) => l1!(a => a as u32 as i32 as i64 as u64),
        (Ty::F32, Ty::S32) if nearest => l1!(a => u64::from((a as u32 as i32 as f32).to_bits())),
        (Ty::F32, Ty::U32) if nearest => l1!(a => u64::from((a as u32 as f32).to_bits())),
        _ => return None,
    })
}

fn int_value(ty: Ty, a: u64) -> i128 {
    if ty.signed() { i128::from(sext(a, ty.bits()) as i64) } else { i128::from(trunc(a, ty.bits())) }
}

fn range(ty: Ty) -> (i128, i128) {
    let n = ty.bits();
    if ty.signed() { (-(1i128 << (n - 1)), (1i128 << (n - 1)) - 1) } else { (0, (1i128 << n) - 1) }
}

/// Cuts to the destination type, then extends to the register.
fn place(c: &CvtOp, v: u64) -> u64 {
    let n = c.dst.bits();
    let v = trunc(v, n);
    if c.dst.signed() { trunc(sext(v, n), c.dst_bits.max(n)) } else { v }
}

fn int_to_int(c: &CvtOp, a: u64) -> u64 {
    let mut v = int_value(c.src, a);
    if c.sat {
        let (lo, hi) = range(c.dst);
        v = v.clamp(lo, hi);
    }
    place(c, v as u64)
}

fn from_int(v: i128, dst: Ty, rnd: Rnd) -> u64 {
    // Both halves are exact in f64, and so is what their sum loses.
    let high = (v >> 32 << 32) as f64;
    let low = (v & 0xffff_ffff) as f64;
    let (s, err) = soft::two_sum(high, low);
    if dst != Ty::F64 {
        return float::encode(dst, s, err, rnd);
    }
    let away = match rnd {
        Rnd::Rp => err > 0.0,
        Rnd::Rm => err < 0.0,
        Rnd::Rz => err != 0.0 && (err < 0.0) == (s > 0.0),
        Rnd::Rn | Rnd::Rna => false,
    };
    let up = err > 0.0;
    (if !away {
        s
    } else if up {
        s.next_up()
    } else {
        s.next_down()
    })
    .to_bits()
}

fn integral(x: f64, rnd: Rnd) -> f64 {
    match rnd {
        Rnd::Rn => x.round_ties_even(),
        Rnd::Rna => x.round(),
        Rnd::Rz => x.trunc(),
        Rnd::Rm => x.floor(),
        Rnd::Rp => x.ceil(),
    }
}

fn to_int(c: &CvtOp, a: u64) -> u64 {
    let x = float::flush(float::value(c.src, a), c.src, c.ftz);
    let rnd = if let CvtRnd::Int(r) = c.rnd { r } else { Rnd::Rz };
    if x.is_nan() {
        // Zero, unless the source is f64 or the destination has 64 bits.
        let wide = c.src == Ty::F64 || c.dst.bits() == 64;
        return place(c, if wide { 1u64 << (c.dst.bits() - 1) } else { 0 });
    }
    let (lo, hi) = range(c.dst);
    place(c, (integral(x, rnd) as i128).clamp(lo, hi) as u64)
}

fn float_to_float(c: &CvtOp, a: u64) -> u64 {
    // Flushing concerns f32 on either side.
    let mut x = float::flush(float::value(c.src, a), c.src, c.ftz && c.src == Ty::F32);
    let rnd = match c.rnd {
        CvtRnd::Int(r) => {
            x = integral(x, r);
            Rnd::Rn
        }
        CvtRnd::Float(r) => r,
        CvtRnd::None => Rnd::Rn,
    };
    if c.sat {
        x = if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) };
    }
    let r = float::encode(c.dst, x, 0.0, rnd);
    let w = float::value(c.dst, r);
    if c.relu && w <= 0.0 {
        return 0;
    }
    if c.ftz && c.dst == Ty::F32 {
        return float::encode(c.dst, float::flush(w, Ty::F32, true), 0.0, Rnd::Rn);
    }
    r
}

/// Two f32 into a pair of narrow floats: `a` becomes the high half.
pub(crate) fn pack(dst: Ty, rnd: Rnd, sat: bool, relu: bool, a: u64, b: u64) -> u64 {
    let one = |v: u64| {
        let x = float::value(Ty::F32, v);
        let x = if relu && x <= 0.0 { 0.0 } else { x };
        match dst {
            Ty::F16x2 | Ty::Bf16x2 => {
                let ty = if dst == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                let r = float::encode(ty, x, 0.0, rnd);
                // satfinite: what overflows becomes the largest finite number.
                if sat && float::value(ty, r).is_infinite() { r - 1 } else { r }
            }
            _ => fp8(dst == Ty::E4m3x2, x, sat),
        }
    };
    let half = if matches!(dst, Ty::F16x2 | Ty::Bf16x2) { 16 } else { 8 };
    one(a) << half | one(b)
}

/// Rounds to an 8-bit float. e4m3 has no infinity: its largest number is 448, and all ones is not a number.
fn fp8(e4m3: bool, x: f64, sat: bool) -> u64 {
    let sign = u64::from(x.is_sign_negative()) << 7;
    if x.is_nan() {
        return 0x7f;
    }
    if e4m3 {
        // One exponent more than IEEE would give, so round in a format with a wider exponent.
        let wide = soft::narrow(x.abs(), soft::Format { exp: 5, man: 3 }, Rnd::Rn);
        let y = soft::widen(wide, soft::Format { exp: 5, man: 3 });
        if y > 448.0 {
            return sign | if sat { 0x7e } else { 0x7f };
        }
        if y < 2f64.powi(-6) {
            return sign | (x.abs() * 512.0).round_ties_even() as u64;
        }
        return sign | (u64::from(wide) - (8 << 3));
    }
    let r = u64::from(soft::narrow(x.abs(), soft::Format { exp: 5, man: 2 }, Rnd::Rn));
    sign | if sat && r >= 0x7c { 0x7b } else { r }
}
