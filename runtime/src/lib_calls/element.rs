//! Arithmetic on the elements of every dtype as `torsh_ir::scalar` defines it, and the dispatch on dtypes.

use crate::sys::slices::{Bool, Plain};
use half::{bf16, f16};

/// An element in memory.
pub(super) trait Element: Plain {
    /// What sums and products accumulate in: f64 for floats.
    type Wide: Copy + Send + Sync;
    /// From the low bytes of its bits.
    fn of_bits(bits: u64) -> Self;
    fn plus(self, b: Self) -> Self;
    fn times(self, b: Self) -> Self;
    fn larger(self, b: Self) -> Self;
    fn smaller(self, b: Self) -> Self;
    fn wide(self) -> Self::Wide;
    /// Rounds a wide value.
    fn narrow(w: Self::Wide) -> Self;
    fn wide_add(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn wide_mul(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// An integer that orders as the element does: NaN last, both zeros equal.
    fn key(self) -> u64;
}

macro_rules! ints {
    ($($t:ident)*) => { $(impl Element for $t {
        type Wide = $t;
        fn of_bits(bits: u64) -> $t { bits as $t }
        fn plus(self, b: $t) -> $t { self.wrapping_add(b) }
        fn times(self, b: $t) -> $t { self.wrapping_mul(b) }
        fn larger(self, b: $t) -> $t { if self > b { self } else { b } }
        fn smaller(self, b: $t) -> $t { if self < b { self } else { b } }
        fn wide(self) -> $t { self }
        fn narrow(w: $t) -> $t { w }
        fn wide_add(a: $t, b: $t) -> $t { a.wrapping_add(b) }
        fn wide_mul(a: $t, b: $t) -> $t { a.wrapping_mul(b) }
        fn key(self) -> u64 { (i64::from(self) as u64) ^ (1 << 63) }
    })* };
}
ints!(u8 i8 i16 i32 i64);

impl Element for Bool {
    type Wide = Bool;
    fn of_bits(bits: u64) -> Bool {
        Bool(u8::from(bits as u8 != 0))
    }
    fn plus(self, b: Bool) -> Bool {
        Bool(self.0 | b.0)
    }
    fn times(self, b: Bool) -> Bool {
        Bool(self.0 & b.0)
    }
    fn larger(self, b: Bool) -> Bool {
        Bool(self.0 | b.0)
    }
    fn smaller(self, b: Bool) -> Bool {
        Bool(self.0 & b.0)
    }
    fn wide(self) -> Bool {
        self
    }
    fn narrow(w: Bool) -> Bool {
        w
    }
    fn wide_add(a: Bool, b: Bool) -> Bool {
        a.plus(b)
    }
    fn wide_mul(a: Bool, b: Bool) -> Bool {
        a.times(b)
    }
    fn key(self) -> u64 {
        u64::from(self.0)
    }
}

macro_rules! floats {
    ($($t:ident $bits:ident, to f64 $up:expr, from f64 $down:expr, one rounding |$a:ident, $b:ident| $add:expr, $mul:expr;)*) => { $(
        impl Element for $t {
            type Wide = f64;
            fn of_bits(bits: u64) -> $t { $t::from_bits(bits as $bits) }
            fn plus(self, $b: $t) -> $t { let $a = self; $add }
            fn times(self, $b: $t) -> $t { let $a = self; $mul }
            fn larger(self, b: $t) -> $t { if self.is_nan() || self > b { self } else { b } }
            fn smaller(self, b: $t) -> $t { if self.is_nan() || self < b { self } else { b } }
            fn wide(self) -> f64 { $up(self) }
            fn narrow(w: f64) -> $t { $down(w) }
            fn wide_add(a: f64, b: f64) -> f64 { a + b }
            fn wide_mul(a: f64, b: f64) -> f64 { a * b }
            fn key(self) -> u64 {
                let x: f64 = $up(self);
                if x.is_nan() {
                    return u64::MAX;
                }
                // Adding zero makes -0.0 the other zero; then negative numbers order backwards.
                let bits = (x + 0.0).to_bits();
                if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
            }
        }
    )* };
}
floats! {
    f32 u32, to f64 f64::from, from f64 |w| w as f32, one rounding |a, b| a + b, a * b;
    f64 u64, to f64 |x| x, from f64 |w| w, one rounding |a, b| a + b, a * b;
    f16 u16, to f64 |x: f16| f64::from(x.to_f32()), from f64 |w| f16::from_f32(w as f32),
        one rounding |a, b| f16::from_f32(a.to_f32() + b.to_f32()), f16::from_f32(a.to_f32() * b.to_f32());
    bf16 u16, to f64 |x: bf16| f64::from(x.to_f32()), from f64 |w| bf16::from_f32(w as f32),
        one rounding |a, b| bf16::from_f32(a.to_f32() + b.to_f32()), bf16::from_f32(a.to_f32() * b.to_f32());
}

/// `with_element!(dtype, T => expression)`: the expression with `T` the element type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $e:expr) => {
        match $dtype {
            torsh_ir::DType::Bool => {
                type $t = crate::sys::slices::Bool;
                $e
            }
            torsh_ir::DType::U8 => {
                type $t = u8;
                $e
            }
            torsh_ir::DType::I8 => {
                type $t = i8;
                $e
            }
            torsh_ir::DType::I16 => {
                type $t = i16;
                $e
            }
            torsh_ir::DType::I32 => {
                type $t = i32;
                $e
            }
            torsh_ir::DType::I64 => {
                type $t = i64;
                $e
            }
            torsh_ir::DType::F16 => {
                type $t = half::f16;
                $e
            }
            torsh_ir::DType::BF16 => {
                type $t = half::bf16;
                $e
            }
            torsh_ir::DType::F32 => {
                type $t = f32;
                $e
            }
            torsh_ir::DType::F64 => {
                type $t = f64;
                $e
            }
        }
    };
}

/// `with_word!(dtype, T => expression)`: the same with an unsigned integer of the element's size, for moves.
macro_rules! with_word {
    ($dtype:expr, $t:ident => $e:expr) => {
        match $dtype.size() {
            1 => { type $t = u8; $e }
            2 => { type $t = u16; $e }
            4 => { type $t = u32; $e }
            _ => { type $t = u64; $e }
        }
    };
}

pub(super) use {with_element, with_word};
