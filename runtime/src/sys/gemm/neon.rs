//! Vectors of NEON, which every 64-bit ARM CPU has.

use super::lanes::{Lanes, MAX_LANES, Reads};
use half::{bf16, f16};
use std::arch::aarch64::*;

/// Four f32.
pub struct F32x4;
/// Two f64.
pub struct F64x2;

/// The vectors of one type, except for their transposition.
macro_rules! lanes {
    ($lanes:ident, $t:ident, $v:ident, $w:literal, $dup:ident $load:ident $store:ident $fma:ident $add:ident, $transpose:item) => {
        // SAFETY: NEON; counted loads and stores touch so many elements.
        unsafe impl Lanes for $lanes {
            type E = $t;
            type V = $v;
            const W: usize = $w;
            #[inline(always)]
            unsafe fn zero() -> $v {
                // SAFETY: the contract of the trait, here and below.
                unsafe { $dup(0.0) }
            }
            #[inline(always)]
            unsafe fn splat(p: *const $t) -> $v {
                // SAFETY: as above.
                unsafe { $dup(*p) }
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> $v {
                // SAFETY: as above.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn load_n(p: *const $t, n: usize) -> $v {
                let mut all = [0.0; $w];
                // SAFETY: as above; `n <= W`.
                unsafe {
                    std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n);
                    $load(all.as_ptr())
                }
            }
            #[inline(always)]
            unsafe fn store(p: *mut $t, v: $v) {
                // SAFETY: as above.
                unsafe { $store(p, v) }
            }
            #[inline(always)]
            unsafe fn store_n(p: *mut $t, v: $v, n: usize) {
                let mut all = [0.0; $w];
                // SAFETY: as above; `n <= W`.
                unsafe {
                    $store(all.as_mut_ptr(), v);
                    std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
                }
            }
            #[inline(always)]
            unsafe fn mac(a: $v, b: $v, acc: $v) -> $v {
                // SAFETY: as above.
                unsafe { $fma(acc, a, b) }
            }
            #[inline(always)]
            unsafe fn add(a: $v, b: $v) -> $v {
                // SAFETY: as above.
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            $transpose
            // The standard library has no prefetch for this architecture; its CPUs follow strides by themselves.
            #[inline(always)]
            fn prefetch(_: *const $t) {}
            #[inline(always)]
            fn prefetch_later<T>(_: *const T) {}
        }

        // SAFETY: as `Lanes` of the same vectors.
        unsafe impl Reads<$t> for $lanes {
            #[inline(always)]
            unsafe fn read_n(p: *const $t, n: usize) -> $v {
                // SAFETY: same contract.
                unsafe { Self::load_n(p, n) }
            }
            #[inline(always)]
            unsafe fn read(p: *const $t) -> $v {
                // SAFETY: same contract.
                unsafe { Self::load(p) }
            }
        }
    };
}

lanes! {
    F32x4, f32, float32x4_t, 4, vdupq_n_f32 vld1q_f32 vst1q_f32 vfmaq_f32 vaddq_f32,
    unsafe fn transpose(m: &mut [float32x4_t; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            // Pairs of rows first, then pairs of pairs.
            let (a, b) = (vtrn1q_f32(m[0], m[1]), vtrn2q_f32(m[0], m[1]));
            let (c, d) = (vtrn1q_f32(m[2], m[3]), vtrn2q_f32(m[2], m[3]));
            let wide = |v| vreinterpretq_f64_f32(v);
            m[0] = vreinterpretq_f32_f64(vtrn1q_f64(wide(a), wide(c)));
            m[1] = vreinterpretq_f32_f64(vtrn1q_f64(wide(b), wide(d)));
            m[2] = vreinterpretq_f32_f64(vtrn2q_f64(wide(a), wide(c)));
            m[3] = vreinterpretq_f32_f64(vtrn2q_f64(wide(b), wide(d)));
        }
    }
}

lanes! {
    F64x2, f64, float64x2_t, 2, vdupq_n_f64 vld1q_f64 vst1q_f64 vfmaq_f64 vaddq_f64,
    unsafe fn transpose(m: &mut [float64x2_t; MAX_LANES]) {
        // SAFETY: as above.
        unsafe { (m[0], m[1]) = (vtrn1q_f64(m[0], m[1]), vtrn2q_f64(m[0], m[1])) }
    }
}

/// `n <= 4` halves, then zeros.
#[inline(always)]
unsafe fn some_halves<T: Copy>(p: *const T, n: usize) -> uint16x4_t {
    let mut v = [0u16; 4];
    // SAFETY: `n <= 4` elements of two bytes are readable by the contract of `read_n`.
    unsafe {
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), v.as_mut_ptr().cast::<u8>(), 2 * n);
        vld1_u16(v.as_ptr())
    }
}

/// bf16 are the upper halves of f32.
#[inline(always)]
unsafe fn widen_bf16(v: uint16x4_t) -> float32x4_t {
    // SAFETY: NEON.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(v)) }
}

/// Exponent and mantissa in place, a factor for the other bias, which is exact for subnormal numbers too; then the
/// exponent of infinities and NaN, and the sign.
#[inline(always)]
unsafe fn widen_f16(v: uint16x4_t) -> float32x4_t {
    // SAFETY: NEON.
    unsafe {
        let h = vmovl_u16(v);
        let size = vandq_u32(h, vdupq_n_u32(0x7fff));
        let moved = vreinterpretq_f32_u32(vshlq_n_u32::<13>(size));
        // 2^(127 - 15).
        let scaled = vreinterpretq_u32_f32(vmulq_f32(moved, vdupq_n_f32(f32::from_bits(0x7780_0000))));
        let special = vandq_u32(vcgeq_u32(size, vdupq_n_u32(0x7c00)), vdupq_n_u32(0x7f80_0000));
        let sign = vshlq_n_u32::<16>(vandq_u32(h, vdupq_n_u32(0x8000)));
        vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(scaled, special), sign))
    }
}

macro_rules! reads_halves {
    ($($t:ident $widen:ident;)*) => { $(
        // SAFETY: NEON; loads touch `n` elements of two bytes, or four.
        unsafe impl Reads<$t> for F32x4 {
            #[inline(always)]
            unsafe fn read_n(p: *const $t, n: usize) -> float32x4_t {
                // SAFETY: as stated.
                unsafe { $widen(some_halves(p, n)) }
            }
            #[inline(always)]
            unsafe fn read(p: *const $t) -> float32x4_t {
                // SAFETY: as stated.
                unsafe { $widen(vld1_u16(p.cast())) }
            }
        }
    )* };
}
reads_halves!(f16 widen_f16; bf16 widen_bf16;);
