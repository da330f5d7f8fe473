//! The ISA levels: each compiles every loop of [`super::loops`] with its own target features. The functions
//! are generic, so a row of the table costs one name and one scalar function.

use super::loops::{self, Arg, Bin, Fold, InPlace, Un, Word};

/// A family member's address.
pub(super) type Addr = *const u8;

/// Lanes of a sum: eight vectors at the portable level, two at avx512.
const SUM_LANES: usize = 16;
/// Lanes of a maximum, whose elements are narrower.
const MAX_LANES: usize = 32;

/// Addresses of the loops at one level.
pub(super) trait Isa {
    /// The level for elements narrower than 32 bits: there AVX2 vectors are long enough, and sharing its
    /// code keeps the library small.
    type Narrow: Isa;
    fn un<O: Un>() -> Addr;
    /// In the order vv, vs, sv.
    fn bin<O: Bin>() -> [Addr; 3];
    /// In the order vvv, vvs, vsv, vss.
    fn select<T: Word>() -> [Addr; 4];
    fn splat<T: Copy>() -> Addr;
    fn iota() -> Addr;
    fn sum<O: Fold>() -> Addr;
    fn max<O: Fold>() -> Addr;
    fn col<O: Fold>() -> Addr;
    fn arg<O: Arg>() -> Addr;
    fn col_arg<O: Arg>() -> Addr;
}

macro_rules! level {
    ($(#[$doc:meta])* $level:ident, $module:ident, narrow $narrow:ident, [$(#[$feature:meta])?]) => {
        mod $module {
            use super::*;
            level!(@un [$(#[$feature])?]);
            level!(@bin [$(#[$feature])?] vv vs sv);
            level!(@select [$(#[$feature])?] vvv true true, vvs true false, vsv false true, vss false false);
            level!(@plain [$(#[$feature])?]
                splat<T: Copy>(dst: *mut T, s: *const T, n: usize) = loops::splat::<T>;
                sum<O: Fold>(acc: *mut O::A, x: *const O::X, n: usize) = loops::fold::<O, SUM_LANES>;
                max<O: Fold>(acc: *mut O::A, x: *const O::X, n: usize) = loops::fold::<O, MAX_LANES>;
                col<O: Fold>(acc: *mut O::A, x: *const O::X, n: usize) = loops::col::<O>;
                arg<O: Arg>(best: *mut O::X, at: *mut i64, x: *const O::X, n: usize, base: i64) = loops::arg::<O, MAX_LANES>;
                col_arg<O: Arg>(best: *mut O::X, at: *mut i64, x: *const O::X, n: usize, pos: i64) = loops::col_arg::<O>;
            );
            $(#[$feature])?
            pub(super) unsafe extern "C" fn iota(dst: *mut i64, start: i64, step: i64, n: usize) {
                // SAFETY: same contract.
                unsafe { loops::iota(dst, start, step, n) }
            }
        }

        $(#[$doc])*
        pub(super) struct $level;

        impl Isa for $level {
            type Narrow = $narrow;
            fn un<O: Un>() -> Addr { $module::un::<O> as Addr }
            fn bin<O: Bin>() -> [Addr; 3] { [$module::vv::<O> as Addr, $module::vs::<O> as Addr, $module::sv::<O> as Addr] }
            fn select<T: Word>() -> [Addr; 4] {
                [$module::vvv::<T> as Addr, $module::vvs::<T> as Addr, $module::vsv::<T> as Addr, $module::vss::<T> as Addr]
            }
            fn splat<T: Copy>() -> Addr { $module::splat::<T> as Addr }
            fn iota() -> Addr { $module::iota as Addr }
            fn sum<O: Fold>() -> Addr { $module::sum::<O> as Addr }
            fn max<O: Fold>() -> Addr { $module::max::<O> as Addr }
            fn col<O: Fold>() -> Addr { $module::col::<O> as Addr }
            fn arg<O: Arg>() -> Addr { $module::arg::<O> as Addr }
            fn col_arg<O: Arg>() -> Addr { $module::col_arg::<O> as Addr }
        }
    };
    (@un [$(#[$feature:meta])?]) => {
        $(#[$feature])?
        pub(super) unsafe extern "C" fn un<O: Un>(dst: *mut O::R, x: *const O::X, n: usize) {
            // SAFETY: same contract.
            unsafe {
                if loops::same(dst, x) {
                    let (wide, from) = (size_of::<O::R>(), size_of::<O::X>());
                    let prim = un::<O> as Addr;
                    InPlace { prim, dst: dst.cast(), wide, n, backward: wide > from }.run(&[(x.cast(), from)]);
                } else {
                    loops::un::<O>(dst, x, n);
                }
            }
        }
    };
    (@bin $features:tt $($name:ident)*) => { $(level!(@bin1 $features $name);)* };
    (@bin1 [$(#[$feature:meta])?] $name:ident) => {
        $(#[$feature])?
        pub(super) unsafe extern "C" fn $name<O: Bin>(dst: *mut O::R, a: *const O::X, b: *const O::X, n: usize) {
            // SAFETY: same contract; a scalar operand advances by nothing.
            unsafe {
                let (va, vb) = (stringify!($name) != "sv", stringify!($name) != "vs");
                if (va && loops::same(dst, a)) || (vb && loops::same(dst, b)) {
                    let from = size_of::<O::X>();
                    let operands = [(a.cast(), if va { from } else { 0 }), (b.cast(), if vb { from } else { 0 })];
                    let (prim, wide) = ($name::<O> as Addr, size_of::<O::R>());
                    InPlace { prim, dst: dst.cast(), wide, n, backward: false }.run(&operands);
                } else {
                    loops::$name::<O>(dst, a, b, n);
                }
            }
        }
    };
    (@select $features:tt $($name:ident $va:literal $vb:literal),*) => { $(level!(@select1 $features $name $va $vb);)* };
    (@select1 [$(#[$feature:meta])?] $name:ident $va:literal $vb:literal) => {
        $(#[$feature])?
        pub(super) unsafe extern "C" fn $name<T: Word>(dst: *mut T, c: *const u8, a: *const T, b: *const T, n: usize) {
            // SAFETY: same contract; a scalar operand advances by nothing.
            unsafe {
                if loops::same(dst, c) || ($va && loops::same(dst, a)) || ($vb && loops::same(dst, b)) {
                    let wide = size_of::<T>();
                    let operands = [
                        (c, 1),
                        (a.cast(), if $va { wide } else { 0 }),
                        (b.cast(), if $vb { wide } else { 0 }),
                    ];
                    let prim = $name::<T> as Addr;
                    InPlace { prim, dst: dst.cast(), wide, n, backward: true }.run(&operands);
                } else {
                    loops::select::<T, $va, $vb>(dst, c, a, b, n);
                }
            }
        }
    };
    (@plain $features:tt $($name:ident<$g:ident: $bound:ident>($($p:ident: $t:ty),*) = $body:expr;)*) => {
        $(level!(@plain1 $features $name<$g: $bound>($($p: $t),*) = $body);)*
    };
    (@plain1 [$(#[$feature:meta])?] $name:ident<$g:ident: $bound:ident>($($p:ident: $t:ty),*) = $body:expr) => {
        $(#[$feature])?
        pub(super) unsafe extern "C" fn $name<$g: $bound>($($p: $t),*) {
            // SAFETY: same contract.
            unsafe { $body($($p),*) }
        }
    };
}

level! {
    /// What every CPU of the architecture has: on 64-bit ARM, NEON with fused multiplication and addition.
    Portable, portable, narrow Portable, []
}
#[cfg(target_arch = "x86_64")]
level! {
    /// AVX2 (2013) with FMA, which only the matrix product uses.
    Avx2, avx2, narrow Avx2, [#[target_feature(enable = "avx2,fma")]]
}
#[cfg(target_arch = "x86_64")]
level! {
    /// The AVX-512 of servers since 2017.
    Avx512, avx512, narrow Avx2, [#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]]
}

/// Copies and strided accesses, the same at every level.
pub(super) mod plain {
    use super::loops;

    pub(in super::super) unsafe extern "C" fn copy<T: Copy>(dst: *mut T, x: *const T, n: usize) {
        // SAFETY: same contract.
        unsafe { loops::copy(dst, x, n) }
    }
    pub(in super::super) unsafe extern "C" fn load<T: Copy>(dst: *mut T, src: *const T, stride: i64, n: usize) {
        // SAFETY: same contract.
        unsafe { loops::load(dst, src, stride, n) }
    }
    pub(in super::super) unsafe extern "C" fn store<T: Copy>(dst: *mut T, stride: i64, src: *const T, n: usize) {
        // SAFETY: same contract.
        unsafe { loops::store(dst, stride, src, n) }
    }
}
