//! The table: one row a primitive. Rows of `I` are compiled for each ISA level, those of `I::Narrow` for all
//! but the widest. Rows of `Portable` call a scalar library function or divide integers, gain nothing from
//! wide vectors, and are shared by all levels.

use super::convert::{self, Bf16, Bool, F16, To};
use super::ints::{Int, philox};
use super::isa::{Addr, Isa, Portable, plain};
use super::loops::{Arg, Bin, Extreme, Fold, Un};
use super::math::{self, Plain};
use super::quotient::Quotient;
use torsh_codegen::cpu::math as lanes;

type Rows = Vec<(String, Addr)>;

/// Adds every primitive of level `I`.
pub(super) fn fill<I: Isa>(rows: &mut Rows) {
    float_unary::<I>(rows);
    float_binary::<I>(rows);
    narrow_integers::<I::Narrow>(rows);
    wide_integers::<I>(rows);
    narrow_casts::<I::Narrow>(rows);
    casts::<I>(rows);
    narrow_moves::<I::Narrow>(rows);
    wide_moves::<I>(rows);
    folds::<I>(rows);
}

/// `unary!(rows, Level, "suffix", X -> R; name: |x| expression; ...)`.
macro_rules! unary {
    ($rows:ident, $isa:ident, $suffix:expr, $x:ty => $r:ty; $($name:ident: |$v:ident| $e:expr;)*) => { $({
        struct Op;
        impl Un for Op {
            type X = $x;
            type R = $r;
            #[inline(always)]
            fn f($v: $x) -> $r { $e }
        }
        $rows.push((format!("{}_{}", stringify!($name), $suffix), $isa::un::<Op>()));
    })* };
}

macro_rules! binary {
    ($rows:ident, $isa:ident, $suffix:expr, $x:ty => $r:ty; $($name:ident: |$a:ident, $b:ident| $e:expr;)*) => { $({
        struct Op;
        impl Bin for Op {
            type X = $x;
            type R = $r;
            #[inline(always)]
            fn f($a: $x, $b: $x) -> $r { $e }
        }
        for (form, addr) in ["vv", "vs", "sv"].into_iter().zip($isa::bin::<Op>()) {
            $rows.push((format!("{}_{}_{form}", stringify!($name), $suffix), addr));
        }
    })* };
}

/// Unary rows with a scalar function where the vector one does not hold.
macro_rules! unary_rare {
    ($rows:ident, $isa:ident, $suffix:expr, $x:ty; $($name:ident: $f:expr, rare $rare:expr, slow $slow:expr;)*) => { $({
        struct Op;
        impl Un for Op {
            type X = $x;
            type R = $x;
            const HAS_RARE: bool = true;
            #[inline(always)]
            fn f(x: $x) -> $x { ($f)(x) }
            #[inline(always)]
            fn rare(x: $x) -> bool { $rare(x) }
            #[inline(always)]
            fn slow(x: $x) -> $x { ($slow)(x) }
        }
        $rows.push((format!("{}_{}", stringify!($name), $suffix), $isa::un::<Op>()));
    })* };
}

fn float_unary<I: Isa>(rows: &mut Rows) {
    macro_rules! exact {
        ($t:ident) => {
            unary! { rows, I, stringify!($t), $t => $t;
                neg: |x| -x;
                abs: |x| x.abs();
                // Keeps NaN and the sign of zero.
                sign: |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x };
                floor: |x| x.floor();
                ceil: |x| x.ceil();
                round: |x| x.round_ties_even();
                trunc: |x| x.trunc();
                sqrt: |x| x.sqrt();
                rsqrt: |x| 1.0 / x.sqrt();
                reciprocal: |x| 1.0 / x;
            }
        };
    }
    exact!(f32);
    exact!(f64);
    macro_rules! lanes {
        ($($f:ident)*) => { unary! { rows, I, "f32", f32 => f32; $($f: |x| lanes::$f(&mut Plain, x);)* } };
    }
    lanes!(exp exp2 expm1 log log2 log10 log1p tanh erf sigmoid asin acos atan sinh cosh asinh acosh atanh);
    macro_rules! periodic {
        ($($f:ident)*) => {
            unary_rare! { rows, I, "f32", f32; $(
                $f: |x| lanes::$f(&mut Plain, x), rare math::beyond_trig32, slow |x| libm::$f(f64::from(x)) as f32;
            )* }
        };
    }
    periodic!(sin cos tan);
    unary! { rows, I, "f64", f64 => f64;
        exp: |x| math::exp64(x);
        exp2: |x| math::exp2_64(x);
        expm1: |x| math::expm1_64(x);
        log: |x| math::log64(x);
        log1p: |x| math::log1p_64(x);
        tanh: |x| math::tanh64(x);
        sigmoid: |x| math::sigmoid64(x);
    }
    macro_rules! library {
        ($($f:ident)*) => { unary! { rows, Portable, "f64", f64 => f64; $($f: |x| libm::$f(x);)* } };
    }
    library!(tan asin acos atan sinh cosh asinh atanh log2 log10 sin cos erf);
    // The library's is arbitrary far below its domain.
    unary! { rows, Portable, "f64", f64 => f64; acosh: |x| if x < 1.0 { f64::NAN } else { libm::acosh(x) }; }
    unary! { rows, I, "f16", f32 => f32; round: |x| convert::f16_to_f32(convert::f32_to_f16(x)); }
    unary! { rows, I, "bf16", f32 => f32; round: |x| convert::bf16_to_f32(convert::f32_to_bf16(x)); }
}

fn float_binary<I: Isa>(rows: &mut Rows) {
    macro_rules! exact {
        ($t:ident) => {
            binary! { rows, I, stringify!($t), $t => $t;
                add: |a, b| a + b;
                sub: |a, b| a - b;
                mul: |a, b| a * b;
                div: |a, b| a / b;
                maximum: |a, b| if a.is_nan() | (a > b) { a } else { b };
                minimum: |a, b| if a.is_nan() | (a < b) { a } else { b };
            }
            binary! { rows, Portable, stringify!($t), $t => $t;
                fmod: |a, b| a % b;
                remainder: |a, b| {
                    let r = a % b;
                    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
                };
            }
            {
                struct FloorDivide;
                impl Bin for FloorDivide {
                    type X = $t;
                    type R = $t;
                    const HAS_RARE: bool = true;
                    #[inline(always)]
                    fn f(a: $t, b: $t) -> $t {
                        (a / b).floor()
                    }
                    #[inline(always)]
                    fn rare(a: $t, b: $t) -> bool {
                        $t::near_whole(a, b)
                    }
                    #[inline(always)]
                    fn slow(a: $t, b: $t) -> $t {
                        $t::floor_quotient(a, b)
                    }
                }
                for (form, addr) in ["vv", "vs", "sv"].into_iter().zip(I::bin::<FloorDivide>()) {
                    rows.push((format!(concat!("floor_divide_", stringify!($t), "_{}"), form), addr));
                }
            }
        };
    }
    exact!(f32);
    exact!(f64);
    struct Pow;
    impl Bin for Pow {
        type X = f32;
        type R = f32;
        const HAS_RARE: bool = true;
        #[inline(always)]
        fn f(a: f32, b: f32) -> f32 {
            math::pow32(a, b)
        }
        #[inline(always)]
        fn rare(a: f32, b: f32) -> bool {
            math::beyond_pow32(a, b)
        }
        #[inline(always)]
        fn slow(a: f32, b: f32) -> f32 {
            libm::pow(f64::from(a), f64::from(b)) as f32
        }
    }
    for (form, addr) in ["vv", "vs", "sv"].into_iter().zip(I::bin::<Pow>()) {
        rows.push((format!("pow_f32_{form}"), addr));
    }
    binary! { rows, Portable, "f32", f32 => f32;
        atan2: |a, b| libm::atan2(f64::from(a), f64::from(b)) as f32;
    }
    binary! { rows, Portable, "f64", f64 => f64;
        pow: |a, b| libm::pow(a, b);
        atan2: |a, b| libm::atan2(a, b);
    }
}

/// Sums and products: `element accumulator: 0, 1, addition, multiplication`.
macro_rules! sums {
    ($rows:ident, $isa:ident, $($t:ident $a:ident: $id0:expr, $id1:expr, $add:expr, $mul:expr;)*) => { $({
        sums!(@one $rows, $isa, "sum", $t, $a, $id0, $add);
        sums!(@one $rows, $isa, "prod", $t, $a, $id1, $mul);
    })* };
    (@one $rows:ident, $isa:ident, $name:literal, $t:ident, $a:ident, $id:expr, $op:expr) => {{
        struct Op;
        impl Fold for Op {
            type X = $t;
            type A = $a;
            const ID: $a = $id;
            #[inline(always)]
            fn step(a: $a, x: $t) -> $a { $op(a, x as $a) }
            #[inline(always)]
            fn join(a: $a, b: $a) -> $a { $op(a, b) }
        }
        let t = stringify!($t);
        $rows.push((format!(concat!("reduce_", $name, "_{}"), t), $isa::sum::<Op>()));
        $rows.push((format!(concat!("col_", $name, "_{}"), t), $isa::col::<Op>()));
    }};
}

/// Maxima, minima and their positions: `element: smallest, largest, is NaN`.
macro_rules! extremes {
    ($rows:ident, $isa:ident, $($t:ident: $lo:expr, $hi:expr, |$x:ident| $nan:expr;)*) => { $({
        extremes!(@one $rows, $isa, $t, "max", $lo, >, |$x| $nan);
        extremes!(@one $rows, $isa, $t, "min", $hi, <, |$x| $nan);
    })* };
    (@one $rows:ident, $isa:ident, $t:ident, $name:literal, $id:expr, $cmp:tt, |$x:ident| $nan:expr) => {{
        struct Best;
        impl Best {
            #[inline(always)]
            fn nan($x: $t) -> bool { $nan }
        }
        impl Arg for Best {
            type X = $t;
            const ID: $t = $id;
            #[inline(always)]
            fn better(x: $t, best: $t) -> bool { ((x $cmp best) | Best::nan(x)) & !Best::nan(best) }
            #[inline(always)]
            fn same(a: $t, b: $t) -> bool { (a == b) | (Best::nan(a) & Best::nan(b)) }
        }
        let t = stringify!($t);
        $rows.push((format!(concat!("reduce_a", $name, "_{}"), t), $isa::max::<Extreme<Best>>()));
        $rows.push((format!(concat!("col_a", $name, "_{}"), t), $isa::col::<Extreme<Best>>()));
        $rows.push((format!(concat!("arg", $name, "_{}"), t), $isa::arg::<Best>()));
        $rows.push((format!(concat!("col_arg", $name, "_{}"), t), $isa::col_arg::<Best>()));
    }};
}

/// Arithmetic and comparisons of integer types.
macro_rules! integers {
    ($rows:ident, $isa:ident, $($t:ident)*) => { $(
        unary! { $rows, $isa, stringify!($t), $t => $t;
            neg: |x| x.wrapping_neg();
            abs: |x| x.magnitude();
            sign: |x| x.sign();
            not: |x| !x;
        }
        binary! { $rows, $isa, stringify!($t), $t => $t;
            add: |a, b| a.wrapping_add(b);
            sub: |a, b| a.wrapping_sub(b);
            mul: |a, b| a.wrapping_mul(b);
            maximum: |a, b| if a > b { a } else { b };
            minimum: |a, b| if a < b { a } else { b };
            bitwise_and: |a, b| a & b;
            bitwise_or: |a, b| a | b;
            bitwise_xor: |a, b| a ^ b;
            bitwise_left_shift: |a, b| Int::shl(a, b);
            bitwise_right_shift: |a, b| Int::shr(a, b);
        }
        binary! { $rows, Portable, stringify!($t), $t => $t;
            floor_divide: |a, b| a.floor_div(b);
            remainder: |a, b| Int::remainder(a, b);
            fmod: |a, b| Int::fmod(a, b);
            pow: |a, b| a.power(b);
        }
        compare!($rows, $isa, $t);
    )* };
}

macro_rules! compare {
    ($rows:ident, $isa:ident, $t:ident) => {
        binary! { $rows, $isa, stringify!($t), $t => u8;
            eq: |a, b| u8::from(a == b);
            ne: |a, b| u8::from(a != b);
            lt: |a, b| u8::from(a < b);
            le: |a, b| u8::from(a <= b);
            gt: |a, b| u8::from(a > b);
            ge: |a, b| u8::from(a >= b);
        }
    };
}

fn narrow_integers<I: Isa>(rows: &mut Rows) {
    integers!(rows, I, u8 i8 i16);
    sums! { rows, I,
        u8 i64: 0, 1, i64::wrapping_add, i64::wrapping_mul;
        i8 i64: 0, 1, i64::wrapping_add, i64::wrapping_mul;
        i16 i64: 0, 1, i64::wrapping_add, i64::wrapping_mul;
    }
    extremes! { rows, I,
        u8: u8::MIN, u8::MAX, |_x| false;
        i8: i8::MIN, i8::MAX, |_x| false;
        i16: i16::MIN, i16::MAX, |_x| false;
    }
}

fn wide_integers<I: Isa>(rows: &mut Rows) {
    integers!(rows, I, i32 i64);
    binary! { rows, I, "i64", i64 => i32; philox: |seed, counter| philox(seed as u64, counter as u64) as i32; }
    sums! { rows, I,
        i32 i64: 0, 1, i64::wrapping_add, i64::wrapping_mul;
        i64 i64: 0, 1, i64::wrapping_add, i64::wrapping_mul;
    }
    extremes! { rows, I,
        i32: i32::MIN, i32::MAX, |_x| false;
        i64: i64::MIN, i64::MAX, |_x| false;
    }
}

struct Cast<A, B>(std::marker::PhantomData<(A, B)>);

impl<A: Copy + To<B>, B: Copy> Un for Cast<A, B> {
    type X = A;
    type R = B;
    #[inline(always)]
    fn f(x: A) -> B {
        x.to()
    }
}

/// `casts!(rows, Level; from "name": to "name" ...; ...)`.
macro_rules! casts {
    ($rows:ident, $isa:ident; $($from:ident $name:literal: $($to:ident $to_name:literal)*;)*) => { $($(
        $rows.push((concat!("cast_", $name, "_", $to_name).to_string(), $isa::un::<Cast<$from, $to>>()));
    )*)* };
}

fn narrow_casts<I: Isa>(rows: &mut Rows) {
    casts! { rows, I;
        Bool "bool": u8 "u8" i8 "i8" i16 "i16";
        u8 "u8": Bool "bool" i8 "i8" i16 "i16";
        i8 "i8": Bool "bool" u8 "u8" i16 "i16";
        i16 "i16": Bool "bool" u8 "u8" i8 "i8";
    }
}

fn casts<I: Isa>(rows: &mut Rows) {
    casts! { rows, I;
        Bool "bool": i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        u8 "u8": i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        i8 "i8": i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        i16 "i16": i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        i32 "i32": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        i64 "i64": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i32 "i32" F16 "f16" Bf16 "bf16" f32 "f32" f64 "f64";
        F16 "f16": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i32 "i32" i64 "i64" Bf16 "bf16" f32 "f32" f64 "f64";
        Bf16 "bf16": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i32 "i32" i64 "i64" F16 "f16" f32 "f32" f64 "f64";
        f32 "f32": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f64 "f64";
        f64 "f64": Bool "bool" u8 "u8" i8 "i8" i16 "i16" i32 "i32" i64 "i64" F16 "f16" Bf16 "bf16" f32 "f32";
    }
}

macro_rules! moves {
    ($rows:ident, $isa:ident, $($t:ident $bytes:literal)*) => { $(
        for (form, addr) in ["vvv", "vvs", "vsv", "vss"].into_iter().zip($isa::select::<$t>()) {
            $rows.push((format!("select_{}_{form}", $bytes), addr));
        }
        $rows.push((format!("splat_{}", $bytes), $isa::splat::<$t>()));
        $rows.push((format!("copy_{}", $bytes), plain::copy::<$t> as Addr));
        $rows.push((format!("load_{}", $bytes), plain::load::<$t> as Addr));
        $rows.push((format!("store_{}", $bytes), plain::store::<$t> as Addr));
    )* };
}

fn narrow_moves<I: Isa>(rows: &mut Rows) {
    moves!(rows, I, u8 1 u16 2);
}

fn wide_moves<I: Isa>(rows: &mut Rows) {
    moves!(rows, I, u32 4 u64 8);
    rows.push(("iota".to_string(), I::iota()));
}

fn folds<I: Isa>(rows: &mut Rows) {
    compare!(rows, I, f32);
    compare!(rows, I, f64);
    sums! { rows, I,
        f32 f64: 0.0, 1.0, |a, x| a + x, |a, x| a * x;
        f64 f64: 0.0, 1.0, |a, x| a + x, |a, x| a * x;
    }
    extremes! { rows, I,
        f32: f32::NEG_INFINITY, f32::INFINITY, |x| x.is_nan();
        f64: f64::NEG_INFINITY, f64::INFINITY, |x| x.is_nan();
    }
}
