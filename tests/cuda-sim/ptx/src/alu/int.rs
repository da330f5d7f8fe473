//! Integer and bit instructions.

use super::{l1, l2, l3};
use crate::inst::{F1, F2, F3, PureOp};
use crate::ty::{Ty, sext, trunc};

/// Zero extension of a machine integer of any sign.
trait Zero: Copy {
    fn z(self) -> u64;
}
macro_rules! zero {
    ($($t:ty => $u:ty),*) => { $(impl Zero for $t { fn z(self) -> u64 { u64::from(self as $u) } })* };
}
zero!(u8 => u8, i8 => u8, u16 => u16, i16 => u16, u32 => u32, i32 => u32, u64 => u64, i64 => u64);

/// Runs the body with `$t` as the machine type of an integer type.
macro_rules! by_int {
    ($ty:expr, $t:ident, $body:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => {
                type $t = u16;
                Some($body)
            }
            Ty::S16 => {
                type $t = i16;
                Some($body)
            }
            Ty::U32 | Ty::B32 => {
                type $t = u32;
                Some($body)
            }
            Ty::S32 => {
                type $t = i32;
                Some($body)
            }
            Ty::U64 | Ty::B64 => {
                type $t = u64;
                Some($body)
            }
            Ty::S64 => {
                type $t = i64;
                Some($body)
            }
            _ => None,
        }
    };
}

/// The same for a pair of 16-bit integers in one register.
macro_rules! pair {
    ($t:ty, $a:ident, $b:ident => $e:expr) => {
        l2!(x, y => {
            let one = |k: u32| { let ($a, $b) = ((x >> k) as $t, (y >> k) as $t); Zero::z($e) };
            one(0) | one(16) << 16
        })
    };
}

/// One-operand instructions: neg, abs, not, cnot, popc, clz, brev, bfind.
pub(crate) fn unary(op: &str, shiftamt: bool, ty: Ty) -> Option<F1> {
    if ty == Ty::Pred {
        return (op == "not").then(|| l1!(a => a ^ 1));
    }
    match op {
        "neg" => by_int!(ty, T, l1!(a => (a as T).wrapping_neg().z())),
        "abs" => match ty {
            Ty::S16 => Some(l1!(a => (a as i16).wrapping_abs().z())),
            Ty::S32 => Some(l1!(a => (a as i32).wrapping_abs().z())),
            Ty::S64 => Some(l1!(a => (a as i64).wrapping_abs().z())),
            _ => None,
        },
        "not" => by_int!(ty, T, l1!(a => (!(a as T)).z())),
        "cnot" => by_int!(ty, T, l1!(a => u64::from(a as T == 0))),
        "popc" => by_int!(ty, T, l1!(a => u64::from((a as T).count_ones()))),
        "clz" => by_int!(ty, T, l1!(a => u64::from((a as T).leading_zeros()))),
        "brev" => by_int!(ty, T, l1!(a => (a as T).reverse_bits().z())),
        "bfind" => Some(match (ty, shiftamt) {
            (Ty::U32, false) => l1!(a => bfind(a, 32, false, false)),
            (Ty::U32, true) => l1!(a => bfind(a, 32, false, true)),
            (Ty::S32, false) => l1!(a => bfind(a, 32, true, false)),
            (Ty::S32, true) => l1!(a => bfind(a, 32, true, true)),
            (Ty::U64, false) => l1!(a => bfind(a, 64, false, false)),
            (Ty::U64, true) => l1!(a => bfind(a, 64, false, true)),
            (Ty::S64, false) => l1!(a => bfind(a, 64, true, false)),
            (Ty::S64, true) => l1!(a => bfind(a, 64, true, true)),
            _ => return None,
        }),
        _ => None,
    }
}

fn bfind(a: u64, bits: u32, signed: bool, shiftamt: bool) -> u64 {
    let mut v = trunc(a, bits);
    if signed && v >> (bits - 1) & 1 == 1 {
        v = trunc(!v, bits);
    }
    if v == 0 {
        return u64::from(u32::MAX);
    }
    let at = 63 - v.leading_zeros();
    u64::from(if shiftamt { bits - 1 - at } else { at })
}

/// Two-operand instructions on integers.
pub(crate) fn binary(op: &str, how: &str, ty: Ty) -> Option<F2> {
    if ty == Ty::Pred {
        return match op {
            "and" => Some(l2!(a, b => a & b)),
            "or" => Some(l2!(a, b => a | b)),
            "xor" => Some(l2!(a, b => a ^ b)),
            _ => None,
        };
    }
    match (op, how) {
        ("add", "") => match ty {
            Ty::U16x2 | Ty::S16x2 => Some(pair!(u16, a, b => a.wrapping_add(b))),
            _ => by_int!(ty, T, l2!(a, b => (a as T).wrapping_add(b as T).z())),
        },
        ("sub", "") => match ty {
            Ty::U16x2 | Ty::S16x2 => Some(pair!(u16, a, b => a.wrapping_sub(b))),
            _ => by_int!(ty, T, l2!(a, b => (a as T).wrapping_sub(b as T).z())),
        },
        ("add", "sat") if ty == Ty::S32 => Some(l2!(a, b => (a as i32).saturating_add(b as i32).z())),
        ("sub", "sat") if ty == Ty::S32 => Some(l2!(a, b => (a as i32).saturating_sub(b as i32).z())),
        ("mul", "lo") => by_int!(ty, T, l2!(a, b => (a as T).wrapping_mul(b as T).z())),
        ("mul", "hi") => {
            by_int!(ty, T, l2!(a, b => ((((a as T as i128).wrapping_mul(b as T as i128)) >> T::BITS) as T).z()))
        }
        ("mul", "wide") => wide2(ty),
        ("mul24", "lo") => match ty {
            Ty::U32 => Some(l2!(a, b => ((a & 0xff_ffff) * (b & 0xff_ffff)) as u32 as u64)),
            Ty::S32 => Some(l2!(a, b => (sext(a, 24) as i64 * sext(b, 24) as i64) as u32 as u64)),
            _ => None,
        },
        ("mul24", "hi") => match ty {
            Ty::U32 => Some(l2!(a, b => (((a & 0xff_ffff) * (b & 0xff_ffff)) >> 16) as u32 as u64)),
            Ty::S32 => Some(l2!(a, b => ((sext(a, 24) as i64 * sext(b, 24) as i64) >> 16) as u32 as u64)),
            _ => None,
        },
        // Division by zero gives all ones, its remainder the dividend; PTX leaves both open.
        ("div", "") => by_int!(
            ty,
            T,
            l2!(a, b => if b as T == 0 { trunc(u64::MAX, T::BITS) } else { (a as T).wrapping_div(b as T).z() })
        ),
        ("rem", "") => {
            by_int!(ty, T, l2!(a, b => if b as T == 0 { (a as T).z() } else { (a as T).wrapping_rem(b as T).z() }))
        }
        ("min", "") => match ty {
            Ty::U16x2 => Some(pair!(u16, a, b => a.min(b))),
            Ty::S16x2 => Some(pair!(i16, a, b => a.min(b))),
            _ => by_int!(ty, T, l2!(a, b => (a as T).min(b as T).z())),
        },
        ("max", "") => match ty {
            Ty::U16x2 => Some(pair!(u16, a, b => a.max(b))),
            Ty::S16x2 => Some(pair!(i16, a, b => a.max(b))),
            _ => by_int!(ty, T, l2!(a, b => (a as T).max(b as T).z())),
        },
        ("and", "") => by_int!(ty, T, l2!(a, b => (a as T & b as T).z())),
        ("or", "") => by_int!(ty, T, l2!(a, b => (a as T | b as T).z())),
        ("xor", "") => by_int!(ty, T, l2!(a, b => (a as T ^ b as T).z())),
        ("shl", "") => by_int!(ty, T, l2!(a, b => (a as T).checked_shl(b as u32).unwrap_or(0).z())),
        ("shr", "") => by_int!(
            ty,
            T,
            l2!(a, b => {
                // Beyond the width: the sign for signed types, zero for the others.
                let n = b as u32;
                let fill = if T::MIN != 0 { ((a as T) >> (T::BITS - 1)).z() } else { 0 };
                (a as T).checked_shr(n).map_or(fill, Zero::z)
            })
        ),
        ("bmsk", "clamp") => Some(l2!(a, b => bmsk(a as u32, b as u32, false))),
        ("bmsk", "wrap") => Some(l2!(a, b => bmsk(a as u32, b as u32, true))),
        ("szext", "clamp") | ("szext", "wrap") => match (ty, how) {
            (Ty::U32, "clamp") => Some(l2!(a, b => trunc(a & 0xffff_ffff, (b as u32).min(32)))),
            (Ty::U32, _) => Some(l2!(a, b => trunc(a & 0xffff_ffff, b as u32 & 31))),
            (Ty::S32, "clamp") => Some(l2!(a, b => szext(a, (b as u32).min(32)))),
            (Ty::S32, _) => Some(l2!(a, b => szext(a, b as u32 & 31))),
            _ => None,
        },
        _ => None,
    }
}

fn szext(a: u64, n: u32) -> u64 {
    if n == 0 { 0 } else { trunc(sext(trunc(a, n), n), 32) }
}

fn bmsk(a: u32, b: u32, wrap: bool) -> u64 {
    let (pos, n) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
    if pos >= 32 { 0 } else { u64::from((trunc(u64::MAX, n) << pos) as u32) }
}

fn wide2(ty: Ty) -> Option<F2> {
    Some(match ty {
        Ty::U16 => l2!(a, b => u64::from(a as u16) * u64::from(b as u16)),
        Ty::S16 => l2!(a, b => (i32::from(a as i16) * i32::from(b as i16)).z()),
        Ty::U32 => l2!(a, b => u64::from(a as u32) * u64::from(b as u32)),
        Ty::S32 => l2!(a, b => (i64::from(a as i32) * i64::from(b as i32)).z()),
        _ => return None,
    })
}

/// Three-operand instructions on integers.
pub(crate) fn ternary(op: &str, how: &str, ty: Ty) -> Option<F3> {
    match (op, how) {
        ("mad", "lo") => by_int!(ty, T, l3!(a, b, c => (a as T).wrapping_mul(b as T).wrapping_add(c as T).z())),
        ("mad", "hi") => by_int!(
            ty,
            T,
            l3!(a, b, c => ((((a as T as i128).wrapping_mul(b as T as i128)) >> T::BITS) as T).wrapping_add(c as T).z())
        ),
        ("mad", "wide") => Some(match ty {
            Ty::U16 => l3!(a, b, c => u64::from((u32::from(a as u16) * u32::from(b as u16)).wrapping_add(c as u32))),
            Ty::S16 => l3!(a, b, c => (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32).z()),
            Ty::U32 => l3!(a, b, c => (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)),
            Ty::S32 => l3!(a, b, c => (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64).z()),
            _ => return None,
        }),
        ("mad", "hi.sat") if ty == Ty::S32 => Some(
            l3!(a, b, c => (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32).saturating_add(c as i32).z()),
        ),
        ("mad24", "lo") => match ty {
            Ty::U32 => Some(l3!(a, b, c => (((a & 0xff_ffff) * (b & 0xff_ffff)) as u32).wrapping_add(c as u32).z())),
            Ty::S32 => {
                Some(l3!(a, b, c => ((sext(a, 24) as i64 * sext(b, 24) as i64) as u32).wrapping_add(c as u32).z()))
            }
            _ => None,
        },
        ("sad", "") => by_int!(ty, T, l3!(a, b, c => ((a as T).abs_diff(b as T) as T).wrapping_add(c as T).z())),
        ("bfe", "") => Some(match ty {
            Ty::U32 => l3!(a, b, c => bfe(a, b, c, 32, false)),
            Ty::S32 => l3!(a, b, c => bfe(a, b, c, 32, true)),
            Ty::U64 => l3!(a, b, c => bfe(a, b, c, 64, false)),
            Ty::S64 => l3!(a, b, c => bfe(a, b, c, 64, true)),
            _ => return None,
        }),
        ("shf.l", "clamp") => Some(l3!(a, b, c => shf(a, b, (c as u32).min(32), true))),
        ("shf.l", "wrap") => Some(l3!(a, b, c => shf(a, b, c as u32 & 31, true))),
        ("shf.r", "clamp") => Some(l3!(a, b, c => shf(a, b, (c as u32).min(32), false))),
        ("shf.r", "wrap") => Some(l3!(a, b, c => shf(a, b, c as u32 & 31, false))),
        ("dp4a", "u32.u32") => Some(l3!(a, b, c => dp4(a, b, c, false, false))),
        ("dp4a", "s32.s32") => Some(l3!(a, b, c => dp4(a, b, c, true, true))),
        ("dp4a", "u32.s32") => Some(l3!(a, b, c => dp4(a, b, c, false, true))),
        ("dp4a", "s32.u32") => Some(l3!(a, b, c => dp4(a, b, c, true, false))),
        ("dp2a", "u32.u32.lo") => Some(l3!(a, b, c => dp2(a, b, c, 0, false, false))),
        ("dp2a", "u32.u32.hi") => Some(l3!(a, b, c => dp2(a, b, c, 2, false, false))),
        ("dp2a", "s32.s32.lo") => Some(l3!(a, b, c => dp2(a, b, c, 0, true, true))),
        ("dp2a", "s32.s32.hi") => Some(l3!(a, b, c => dp2(a, b, c, 2, true, true))),
        ("dp2a", "u32.s32.lo") => Some(l3!(a, b, c => dp2(a, b, c, 0, false, true))),
        ("dp2a", "u32.s32.hi") => Some(l3!(a, b, c => dp2(a, b, c, 2, false, true))),
        ("dp2a", "s32.u32.lo") => Some(l3!(a, b, c => dp2(a, b, c, 0, true, false))),
        ("dp2a", "s32.u32.hi") => Some(l3!(a, b, c => dp2(a, b, c, 2, true, false))),
        _ => None,
    }
}

/// Funnel shift of the pair (b high, a low).
fn shf(a: u64, b: u64, n: u32, left: bool) -> u64 {
    let wide = u64::from(a as u32) | b << 32;
    u64::from(if left { ((wide << n.min(63)) >> 32) as u32 } else { (wide >> n) as u32 })
}

fn bfe(a: u64, pos: u64, len: u64, bits: u32, signed: bool) -> u64 {
    let a = trunc(a, bits);
    let (pos, len) = (pos as u32 & 255, len as u32 & 255);
    let sign = if !signed || len == 0 { 0 } else { a >> (pos.saturating_add(len) - 1).min(bits - 1) & 1 };
    let field = if pos >= bits { 0 } else { a >> pos };
    let n = len.min(bits.saturating_sub(pos));
    let mut v = trunc(field, n);
    if sign == 1 && n < bits {
        v |= trunc(u64::MAX, bits) & !trunc(u64::MAX, n);
    }
    v
}

pub(crate) fn bfi(bits: u32, a: u64, b: u64, pos: u64, len: u64) -> u64 {
    let (pos, len) = (pos as u32 & 255, len as u32 & 255);
    let b = trunc(b, bits);
    if pos >= bits {
        return b;
    }
    let field = trunc(trunc(u64::MAX, len) << pos, bits);
    (b & !field) | (a << pos & field)
}

fn dp4(a: u64, b: u64, c: u64, sa: bool, sb: bool) -> u64 {
    let byte = |v: u64, k: u32, signed: bool| {
        let x = v >> (8 * k) & 0xff;
        if signed { sext(x, 8) as i64 } else { x as i64 }
    };
    let sum: i64 = (0..4).map(|k| byte(a, k, sa) * byte(b, k, sb)).sum();
    u64::from((c as u32).wrapping_add(sum as u32))
}

/// Two halves of `a` times the bytes of `b` from number `first` on.
fn dp2(a: u64, b: u64, c: u64, first: u32, sa: bool, sb: bool) -> u64 {
    let part = |v: u64, at: u32, bits: u32, signed: bool| {
        let x = v >> at & ((1 << bits) - 1);
        if signed { sext(x, bits) as i64 } else { x as i64 }
    };
    let sum: i64 = (0..2).map(|k| part(a, 16 * k, 16, sa) * part(b, 8 * (first + k), 8, sb)).sum();
    u64::from((c as u32).wrapping_add(sum as u32))
}

pub(crate) fn lop3(lut: u8, a: u32, b: u32, c: u32) -> u64 {
    let mut out = 0;
    for k in 0..8u32 {
        if lut >> k & 1 == 1 {
            let (x, y, z) = (k & 4 != 0, k & 2 != 0, k & 1 != 0);
            let pick = |v: u32, on: bool| if on { v } else { !v };
            out |= pick(a, x) & pick(b, y) & pick(c, z);
        }
    }
    u64::from(out)
}

pub(crate) fn prmt(mode: u8, a: u32, b: u32, c: u32) -> u64 {
    let all = u64::from(a) | u64::from(b) << 32;
    let byte = |k: u32| (all >> (8 * (k & 7)) & 0xff) as u32;
    let mut out = 0u32;
    for i in 0..4u32 {
        let sel = c & 3;
        let v = match mode {
            0 => {
                let s = c >> (4 * i) & 15;
                let v = byte(s & 7);
                if s & 8 == 0 {
                    v
                } else if v & 0x80 == 0 {
                    0
                } else {
                    0xff
                }
            }
            1 => byte(sel + i),
            2 => byte((8 + sel - i) & 7),
            3 => byte(sel),
            4 => byte(sel.max(i)),
            5 => byte(sel.min(i)),
            _ => byte((sel & 1) * 2 + (i & 1)),
        };
        out |= v << (8 * i);
    }
    u64::from(out)
}

/// `PureOp` of the instructions here that take an immediate or four operands.
pub(crate) fn described(op: &str, how: &str, imm: u8, ty: Ty) -> Option<PureOp> {
    Some(match (op, how) {
        ("lop3", _) => PureOp::Lop3(imm),
        ("bfi", _) => PureOp::Bfi(ty.bits()),
        ("prmt", "") => PureOp::Prmt(0),
        ("prmt", "f4e") => PureOp::Prmt(1),
        ("prmt", "b4e") => PureOp::Prmt(2),
        ("prmt", "rc8") => PureOp::Prmt(3),
        ("prmt", "ecl") => PureOp::Prmt(4),
        ("prmt", "ecr") => PureOp::Prmt(5),
        ("prmt", "rc16") => PureOp::Prmt(6),
        _ => return None,
    })
}
