//! Vectors of one instruction set: what the microkernel and the packing loops are written in. Every method is
//! inlined into a function compiled for its instruction set ([`super::kernels`]).
//!
//! All levels with fused multiplication and addition compute the same: a product and the sum that takes it
//! are rounded once. The portable level of x86 has no such instruction and rounds twice.
#![allow(clippy::needless_range_loop, reason = "indices of loops over registers, which are unrolled")]

use crate::sys::slices::{Bool, Plain};
use half::{bf16, f16};

/// A number that sums are kept in.
pub trait Number: Plain {
    /// Zero.
    const ZERO: Self;
    /// `acc + a * b`.
    fn mac(a: Self, b: Self, acc: Self) -> Self;
    /// `a + b`.
    fn add(a: Self, b: Self) -> Self;
}

macro_rules! floats {
    ($($t:ident)*) => { $(impl Number for $t {
        const ZERO: $t = 0.0;
        #[inline(always)]
        fn mac(a: $t, b: $t, acc: $t) -> $t {
            // A target without the instruction would call a function for each element.
            if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, acc) } else { acc + a * b }
        }
        #[inline(always)]
        fn add(a: $t, b: $t) -> $t {
            a + b
        }
    })* };
}
floats!(f32 f64);

macro_rules! integers {
    ($($t:ident)*) => { $(impl Number for $t {
        const ZERO: $t = 0;
        #[inline(always)]
        fn mac(a: $t, b: $t, acc: $t) -> $t {
            acc.wrapping_add(a.wrapping_mul(b))
        }
        #[inline(always)]
        fn add(a: $t, b: $t) -> $t {
            a.wrapping_add(b)
        }
    })* };
}
integers!(u8 i8 i16 i32 i64);

impl Number for Bool {
    const ZERO: Bool = Bool(0);
    #[inline(always)]
    fn mac(a: Bool, b: Bool, acc: Bool) -> Bool {
        Bool(acc.0 | (a.0 & b.0))
    }
    #[inline(always)]
    fn add(a: Bool, b: Bool) -> Bool {
        Bool(a.0 | b.0)
    }
}

/// A stored element that becomes an `A` when it is packed.
pub trait Widen<A>: Plain {
    /// The same value.
    fn widen(self) -> A;
}
macro_rules! same {
    ($($t:ident)*) => { $(impl Widen<$t> for $t {
        #[inline(always)]
        fn widen(self) -> $t {
            self
        }
    })* };
}
same!(f32 f64 u8 i8 i16 i32 i64 Bool);
impl Widen<f32> for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
impl Widen<f32> for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Most lanes of any level.
pub const MAX_LANES: usize = 16;

/// A vector of `W` numbers.
///
/// # Safety
/// Methods run only where the instruction set of the vector exists. Those that take a pointer and a count
/// touch that many elements there and no others; those without a count touch `W`.
pub unsafe trait Lanes {
    /// The numbers.
    type E: Number;
    /// The vector.
    type V: Copy;
    /// How many numbers.
    const W: usize;
    /// All zero.
    unsafe fn zero() -> Self::V;
    /// One number, in every lane.
    unsafe fn splat(p: *const Self::E) -> Self::V;
    /// `W` numbers.
    unsafe fn load(p: *const Self::E) -> Self::V;
    /// `n <= W` numbers, then zeros.
    unsafe fn load_n(p: *const Self::E, n: usize) -> Self::V;
    /// Stores `W` numbers.
    unsafe fn store(p: *mut Self::E, v: Self::V);
    /// Stores the first `n <= W` numbers.
    unsafe fn store_n(p: *mut Self::E, v: Self::V, n: usize);
    /// `acc + a * b`.
    unsafe fn mac(a: Self::V, b: Self::V, acc: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// Transposes the first `W` vectors.
    unsafe fn transpose(m: &mut [Self::V; MAX_LANES]);
    /// Asks for a cache line; any address will do.
    fn prefetch(p: *const Self::E);
    /// Asks for a cache line that is needed after many others: not to the first level.
    fn prefetch_later<T>(p: *const T);
}

/// A vector that can be filled from stored elements of type `T`.
///
/// # Safety
/// As [`Lanes`].
pub unsafe trait Reads<T: Widen<Self::E>>: Lanes {
    /// `n <= W` elements, widened, then zeros.
    unsafe fn read_n(p: *const T, n: usize) -> Self::V;
    /// `W` elements, widened.
    unsafe fn read(p: *const T) -> Self::V;
}

/// Vectors as arrays, which the compiler maps to whatever the target has.
pub struct Array<E, const W: usize>(std::marker::PhantomData<E>);

// SAFETY: needs no instruction set; counts are kept by the loops.
unsafe impl<E: Number, const W: usize> Lanes for Array<E, W> {
    type E = E;
    type V = [E; W];
    const W: usize = W;
    #[inline(always)]
    unsafe fn zero() -> [E; W] {
        [E::ZERO; W]
    }
    #[inline(always)]
    unsafe fn splat(p: *const E) -> [E; W] {
        // SAFETY: readable by the contract.
        [unsafe { *p }; W]
    }
    #[inline(always)]
    unsafe fn load(p: *const E) -> [E; W] {
        // SAFETY: `W` elements are readable by the contract; an array is aligned as its elements.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const E, n: usize) -> [E; W] {
        let mut v = [E::ZERO; W];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`.
            *x = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(p: *mut E, v: [E; W]) {
        // SAFETY: as `load`.
        unsafe { *p.cast() = v }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut E, v: [E; W], n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: `i < n`.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn mac(a: [E; W], b: [E; W], mut acc: [E; W]) -> [E; W] {
        for i in 0..W {
            acc[i] = E::mac(a[i], b[i], acc[i]);
        }
        acc
    }
    #[inline(always)]
    unsafe fn add(mut a: [E; W], b: [E; W]) -> [E; W] {
        for i in 0..W {
            a[i] = E::add(a[i], b[i]);
        }
        a
    }
    #[inline(always)]
    unsafe fn transpose(m: &mut [[E; W]; MAX_LANES]) {
        for i in 0..W {
            for j in 0..i {
                (m[i][j], m[j][i]) = (m[j][i], m[i][j]);
            }
        }
    }
    #[inline(always)]
    fn prefetch(_: *const E) {}
    #[inline(always)]
    fn prefetch_later<T>(_: *const T) {}
}

// SAFETY: as above.
unsafe impl<E: Number, T: Widen<E>, const W: usize> Reads<T> for Array<E, W> {
    #[inline(always)]
    unsafe fn read_n(p: *const T, n: usize) -> [E; W] {
        let mut v = [E::ZERO; W];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`.
            *x = unsafe { *p.add(i) }.widen();
        }
        v
    }
    #[inline(always)]
    unsafe fn read(p: *const T) -> [E; W] {
        // SAFETY: as `read_n` with all of them.
        unsafe { Self::read_n(p, W) }
    }
}
