//! Conversions to and from the 16-bit floats in integer arithmetic that vectorises everywhere, bit for bit
//! those of the `half` crate: round to nearest even, NaN stays NaN and becomes quiet.

/// binary16 to f32, exact.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let h = u32::from(h);
    let sign = (h & 0x8000) << 16;
    let em = (h & 0x7fff) << 13;
    // Exponent rebiased by 127 - 15; a subnormal is a fraction of 2^-14, read off by a subtraction.
    let normal = em.wrapping_add(112 << 23);
    let subnormal = (f32::from_bits(em.wrapping_add(113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let special = em | 0x7f80_0000 | if em > 0x0f80_0000 { 0x0040_0000 } else { 0 };
    let bits = if em >= 0x0f80_0000 {
        special
    } else if em < 0x0080_0000 {
        subnormal
    } else {
        normal
    };
    f32::from_bits(sign | bits)
}

/// f32 to binary16, round to nearest even.
#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let a = bits & 0x7fff_ffff;
    let odd = (a >> 13) & 1;
    let normal = a.wrapping_add(0xc800_0fff).wrapping_add(odd) >> 13;
    // Adding 0.5 moves the last bit of a subnormal result to the last bit of the significand.
    let subnormal = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let special = if a > 0x7f80_0000 { 0x7e00 | ((a >> 13) & 0x3ff) } else { 0x7c00 };
    let h = if a >= 0x4780_0000 {
        special
    } else if a < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    (sign | h) as u16
}

/// bfloat16 to f32, exact.
#[inline(always)]
pub(super) fn bf16_to_f32(h: u16) -> f32 {
    let bits = u32::from(h) << 16;
    let quiet = if bits & 0x7fff_ffff > 0x7f80_0000 { 0x0040_0000 } else { 0 };
    f32::from_bits(bits | quiet)
}

/// f32 to bfloat16, round to nearest even.
#[inline(always)]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1) >> 16;
    let nan = (bits >> 16) | 0x0040;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// Elements as they are in memory: a bool is a byte.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub(super) struct Bool(pub(super) u8);
/// binary16 in memory.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub(super) struct F16(pub(super) u16);
/// bfloat16 in memory.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub(super) struct Bf16(pub(super) u16);

/// The conversion of `ScalarOp::Cast`.
pub(super) trait To<R> {
    /// The converted value.
    fn to(self) -> R;
}

impl To<f32> for f32 {
    #[inline(always)]
    fn to(self) -> f32 {
        self
    }
}

/// Between numbers of Rust, `as` is the conversion that `scalar.rs` asks for.
macro_rules! numbers {
    ($($from:ident: $($to:ident)*;)*) => { $($(
        impl To<$to> for $from {
            #[inline(always)]
            fn to(self) -> $to { self as $to }
        }
    )*)* };
}
numbers! {
    u8: i8 i16 i32 i64 f32 f64;
    i8: u8 i16 i32 i64 f32 f64;
    i16: u8 i8 i32 i64 f32 f64;
    i32: u8 i8 i16 i64 f32 f64;
    i64: u8 i8 i16 i32 f32 f64;
    f32: f64;
    f64: f32;
}

/// Floats to integers saturate and NaN is 0, as `as` has it; LLVM would convert one element at a time, so
/// the value is brought into the range of an i32 or i64 first.
macro_rules! saturating {
    ($($f:ident: $($to:ident by $via:ident below $top:expr),*;)*) => { $($(
        impl To<$to> for $f {
            #[inline(always)]
            fn to(self) -> $to {
                // The largest float below `$to::MAX + 1`; $to::MIN is a float.
                const TOP: $f = $top;
                let x = if self.is_nan() { 0.0 } else { self };
                let x = if x > TOP { TOP } else { x };
                let x = if x < $to::MIN as $f { $to::MIN as $f } else { x };
                // SAFETY: not NaN, and between $to::MIN and TOP, both of which truncate into `$via`.
                let y = unsafe { x.to_int_unchecked::<$via>() } as $to;
                if self > TOP { $to::MAX } else { y }
            }
        }
    )*)* };
}
saturating! {
    f32: u8 by i32 below 255.0, i8 by i32 below 127.0, i16 by i32 below 32767.0, i32 by i32 below 2_147_483_520.0,
        i64 by i64 below 9_223_371_487_098_961_920.0;
    f64: u8 by i32 below 255.0, i8 by i32 below 127.0, i16 by i32 below 32767.0, i32 by i32 below 2_147_483_647.0,
        i64 by i64 below 9_223_372_036_854_774_784.0;
}

macro_rules! edges {
    ($($t:ident)*) => { $(
        impl To<Bool> for $t {
            #[inline(always)]
            fn to(self) -> Bool { Bool(u8::from(self != (0 as $t))) }
        }
        impl To<$t> for Bool {
            #[inline(always)]
            fn to(self) -> $t { self.0 as $t }
        }
        // Integers and f64 reach the 16-bit floats through f32, as `scalar::round_to` does.
        impl To<F16> for $t {
            #[inline(always)]
            fn to(self) -> F16 { F16(f32_to_f16(self as f32)) }
        }
        impl To<Bf16> for $t {
            #[inline(always)]
            fn to(self) -> Bf16 { Bf16(f32_to_bf16(self as f32)) }
        }
        impl To<$t> for F16 {
            #[inline(always)]
            fn to(self) -> $t { To::to(f16_to_f32(self.0)) }
        }
        impl To<$t> for Bf16 {
            #[inline(always)]
            fn to(self) -> $t { To::to(bf16_to_f32(self.0)) }
        }
    )* };
}
edges!(u8 i8 i16 i32 i64 f32 f64);

macro_rules! halves {
    ($($from:ident -> $to:ident, |$x:ident| $e:expr;)*) => { $(
        impl To<$to> for $from {
            #[inline(always)]
            fn to(self) -> $to { let $x = self; $e }
        }
    )* };
}
halves! {
    Bool -> F16, |x| F16(f32_to_f16(f32::from(x.0)));
    Bool -> Bf16, |x| Bf16(f32_to_bf16(f32::from(x.0)));
    F16 -> Bool, |x| Bool(u8::from(x.0 & 0x7fff != 0));
    Bf16 -> Bool, |x| Bool(u8::from(x.0 & 0x7fff != 0));
    F16 -> Bf16, |x| Bf16(f32_to_bf16(f16_to_f32(x.0)));
    Bf16 -> F16, |x| F16(f32_to_f16(bf16_to_f32(x.0)));
}
