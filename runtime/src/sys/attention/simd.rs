//! Vectors of 16 f32 at each ISA level.

use super::LANES;

/// A vector of [`LANES`] numbers.
pub(super) trait Simd {
    /// In registers.
    type V: Copy;
    /// The same number in every lane.
    ///
    /// # Safety
    /// Here and below: the CPU has the level's features, and pointers hold 16 numbers (of any alignment).
    unsafe fn splat(x: f32) -> Self::V;
    /// From memory.
    unsafe fn load(p: *const f32) -> Self::V;
    /// To memory.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the level has FMA.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

/// Arrays, which LLVM turns into vectors of what there is.
pub(super) struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: 16 numbers by the contract.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: 16 numbers by the contract.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        let mut out = a;
        for i in 0..LANES {
            out[i] *= b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..LANES {
            out[i] += a[i] * b[i];
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    pub struct Avx2;

    impl Simd for Avx2 {
        type V = [__m256; 2];
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: AVX by the contract.
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: 16 numbers by the contract.
            unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(LANES / 2))] }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: 16 numbers by the contract.
            unsafe {
                _mm256_storeu_ps(p, v[0]);
                _mm256_storeu_ps(p.add(LANES / 2), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX by the contract.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: FMA by the contract.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }

    pub struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: AVX-512 by the contract.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: 16 numbers by the contract.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: 16 numbers by the contract.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX-512 by the contract.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: AVX-512 by the contract.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Simd;
    use std::arch::aarch64::*;

    pub struct Neon;

    impl Simd for Neon {
        type V = float32x4x4_t;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: NEON by the contract.
            let v = unsafe { vdupq_n_f32(x) };
            float32x4x4_t(v, v, v, v)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: 16 numbers by the contract.
            unsafe { vld1q_f32_x4(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: 16 numbers by the contract.
            unsafe { vst1q_f32_x4(p, v) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON by the contract.
            unsafe { float32x4x4_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1), vmulq_f32(a.2, b.2), vmulq_f32(a.3, b.3)) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: NEON by the contract.
            unsafe {
                float32x4x4_t(
                    vfmaq_f32(c.0, a.0, b.0),
                    vfmaq_f32(c.1, a.1, b.1),
                    vfmaq_f32(c.2, a.2, b.2),
                    vfmaq_f32(c.3, a.3, b.3),
                )
            }
        }
    }
}
