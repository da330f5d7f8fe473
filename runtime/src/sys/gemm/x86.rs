//! Vectors of AVX-512 and of AVX2 with FMA.

use super::lanes::{Lanes, MAX_LANES, Reads};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Sixteen f32.
pub struct F32x16;
/// Eight f64.
pub struct F64x8;
/// Eight f32.
pub struct F32x8;
/// Four f64.
pub struct F64x4;

/// A mask of the first `n` of 16 lanes.
#[inline(always)]
fn first16(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// A mask of the first `n` of 8 lanes.
#[inline(always)]
fn first8(n: usize) -> u8 {
    ((1u32 << n) - 1) as u8
}

// SAFETY: AVX-512 F, BW and VL; masked loads and stores touch only the lanes of their mask.
unsafe impl Lanes for F32x16 {
    type E = f32;
    type V = __m512;
    const W: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the contract of the trait, here and below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_ps(first16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: __m512, n: usize) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(p, first16(n), v) }
    }
    #[inline(always)]
    unsafe fn mac(a: __m512, b: __m512, acc: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    /// Pairs within 128 bits first, then quads, then the 128-bit quarters.
    #[inline(always)]
    unsafe fn transpose(m: &mut [__m512; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            let mut t = *m;
            for i in 0..4 {
                let (r0, r1, r2, r3) = (m[4 * i], m[4 * i + 1], m[4 * i + 2], m[4 * i + 3]);
                let (a, b) = (_mm512_unpacklo_ps(r0, r1), _mm512_unpackhi_ps(r0, r1));
                let (c, d) = (_mm512_unpacklo_ps(r2, r3), _mm512_unpackhi_ps(r2, r3));
                t[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                t[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                t[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                t[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // Now quarter q of t[4 i + j] holds column 4 q + j of rows 4 i .. 4 i + 4.
            for j in 0..4 {
                let (a, b, c, d) = (t[j], t[4 + j], t[8 + j], t[12 + j]);
                let (ab0, ab1) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (cd0, cd1) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                m[j] = _mm512_shuffle_f32x4::<0x88>(ab0, cd0);
                m[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab1, cd1);
                m[8 + j] = _mm512_shuffle_f32x4::<0xdd>(ab0, cd0);
                m[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab1, cd1);
            }
        }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_later<T>(p: *const T) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

// SAFETY: AVX-512 F, BW and VL, as above.
unsafe impl Lanes for F64x8 {
    type E = f64;
    type V = __m512d;
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> __m512d {
        // SAFETY: the contract of the trait, here and below.
        unsafe { _mm512_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f64) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_set1_pd(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f64, n: usize) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_pd(first8(n), p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f64, v: __m512d) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f64, v: __m512d, n: usize) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_pd(p, first8(n), v) }
    }
    #[inline(always)]
    unsafe fn mac(a: __m512d, b: __m512d, acc: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_pd(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(m: &mut [__m512d; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            let mut t = *m;
            for i in 0..4 {
                t[2 * i] = _mm512_unpacklo_pd(m[2 * i], m[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_pd(m[2 * i], m[2 * i + 1]);
            }
            // Quarter q of t[2 i + j] holds column 2 q + j of rows 2 i and 2 i + 1.
            for j in 0..2 {
                let (a, b, c, d) = (t[j], t[2 + j], t[4 + j], t[6 + j]);
                let (ab0, ab1) = (_mm512_shuffle_f64x2::<0x88>(a, b), _mm512_shuffle_f64x2::<0xdd>(a, b));
                let (cd0, cd1) = (_mm512_shuffle_f64x2::<0x88>(c, d), _mm512_shuffle_f64x2::<0xdd>(c, d));
                m[j] = _mm512_shuffle_f64x2::<0x88>(ab0, cd0);
                m[2 + j] = _mm512_shuffle_f64x2::<0x88>(ab1, cd1);
                m[4 + j] = _mm512_shuffle_f64x2::<0xdd>(ab0, cd0);
                m[6 + j] = _mm512_shuffle_f64x2::<0xdd>(ab1, cd1);
            }
        }
    }
    #[inline(always)]
    fn prefetch(p: *const f64) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_later<T>(p: *const T) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// Ones, then zeros: a window of it is a mask.
static ONES32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static ONES64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

/// The mask of the first `n <= 8` lanes of 32 bits.
#[inline(always)]
unsafe fn mask32(n: usize) -> __m256i {
    // SAFETY: AVX; eight entries from entry `8 - n` on end within the 16.
    unsafe { _mm256_loadu_si256(ONES32.as_ptr().add(8 - n).cast()) }
}

/// The mask of the first `n <= 4` lanes of 64 bits.
#[inline(always)]
unsafe fn mask64(n: usize) -> __m256i {
    // SAFETY: AVX; four entries from entry `4 - n` on end within the 8.
    unsafe { _mm256_loadu_si256(ONES64.as_ptr().add(4 - n).cast()) }
}

// SAFETY: AVX2 and FMA; masked loads and stores touch only the lanes of their mask.
unsafe impl Lanes for F32x8 {
    type E = f32;
    type V = __m256;
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the contract of the trait, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_maskload_ps(p, mask32(n)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: __m256, n: usize) {
        // SAFETY: as above.
        unsafe { _mm256_maskstore_ps(p, mask32(n), v) }
    }
    #[inline(always)]
    unsafe fn mac(a: __m256, b: __m256, acc: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(m: &mut [__m256; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            let mut t = *m;
            for i in 0..2 {
                let (r0, r1, r2, r3) = (m[4 * i], m[4 * i + 1], m[4 * i + 2], m[4 * i + 3]);
                let (a, b) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (c, d) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                t[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                t[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                t[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                t[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for j in 0..4 {
                m[j] = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
                m[4 + j] = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
            }
        }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_later<T>(p: *const T) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

// SAFETY: AVX2 and FMA, as above.
unsafe impl Lanes for F64x4 {
    type E = f64;
    type V = __m256d;
    const W: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> __m256d {
        // SAFETY: the contract of the trait, here and below.
        unsafe { _mm256_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f64) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_set1_pd(*p) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f64, n: usize) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_maskload_pd(p, mask64(n)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f64, v: __m256d) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f64, v: __m256d, n: usize) {
        // SAFETY: as above.
        unsafe { _mm256_maskstore_pd(p, mask64(n), v) }
    }
    #[inline(always)]
    unsafe fn mac(a: __m256d, b: __m256d, acc: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_pd(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(m: &mut [__m256d; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (_mm256_unpacklo_pd(m[0], m[1]), _mm256_unpackhi_pd(m[0], m[1]));
            let (c, d) = (_mm256_unpacklo_pd(m[2], m[3]), _mm256_unpackhi_pd(m[2], m[3]));
            m[0] = _mm256_permute2f128_pd::<0x20>(a, c);
            m[1] = _mm256_permute2f128_pd::<0x20>(b, d);
            m[2] = _mm256_permute2f128_pd::<0x31>(a, c);
            m[3] = _mm256_permute2f128_pd::<0x31>(b, d);
        }
    }
    #[inline(always)]
    fn prefetch(p: *const f64) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_later<T>(p: *const T) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

macro_rules! reads_own {
    ($($lanes:ident $t:ident;)*) => { $(
        // SAFETY: as `Lanes` of the same vectors.
        unsafe impl Reads<$t> for $lanes {
            #[inline(always)]
            unsafe fn read_n(p: *const $t, n: usize) -> Self::V {
                // SAFETY: same contract.
                unsafe { Self::load_n(p, n) }
            }
            #[inline(always)]
            unsafe fn read(p: *const $t) -> Self::V {
                // SAFETY: same contract.
                unsafe { Self::load(p) }
            }
        }
    )* };
}
reads_own!(F32x16 f32; F64x8 f64; F32x8 f32; F64x4 f64;);

// SAFETY: AVX-512 BW and VL; the masked load touches only the lanes of its mask.
unsafe impl Reads<f16> for F32x16 {
    #[inline(always)]
    unsafe fn read_n(p: *const f16, n: usize) -> __m512 {
        // SAFETY: as stated.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n), p.cast())) }
    }
    #[inline(always)]
    unsafe fn read(p: *const f16) -> __m512 {
        // SAFETY: as stated; 16 halves are 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
}

// SAFETY: as above.
unsafe impl Reads<bf16> for F32x16 {
    #[inline(always)]
    unsafe fn read_n(p: *const bf16, n: usize) -> __m512 {
        // SAFETY: as stated.
        unsafe { widen512(_mm256_maskz_loadu_epi16(first16(n), p.cast())) }
    }
    #[inline(always)]
    unsafe fn read(p: *const bf16) -> __m512 {
        // SAFETY: as stated; 16 halves are 32 bytes.
        unsafe { widen512(_mm256_loadu_si256(p.cast())) }
    }
}

/// bf16 are the upper halves of f32.
#[inline(always)]
unsafe fn widen512(v: __m256i) -> __m512 {
    // SAFETY: AVX-512 F.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
}

/// `n <= 8` halves, then zeros.
#[inline(always)]
unsafe fn some_halves<T: Copy>(p: *const T, n: usize) -> __m128i {
    let mut v = [0u16; 8];
    // SAFETY: `n <= 8` elements of two bytes are readable by the contract of `read_n`.
    unsafe {
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), v.as_mut_ptr().cast::<u8>(), 2 * n);
        _mm_loadu_si128(v.as_ptr().cast())
    }
}

// SAFETY: AVX2 and F16C.
unsafe impl Reads<f16> for F32x8 {
    #[inline(always)]
    unsafe fn read_n(p: *const f16, n: usize) -> __m256 {
        // SAFETY: as stated.
        unsafe { _mm256_cvtph_ps(some_halves(p, n)) }
    }
    #[inline(always)]
    unsafe fn read(p: *const f16) -> __m256 {
        // SAFETY: as stated; 8 halves are 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
}

// SAFETY: AVX2.
unsafe impl Reads<bf16> for F32x8 {
    #[inline(always)]
    unsafe fn read_n(p: *const bf16, n: usize) -> __m256 {
        // SAFETY: as stated.
        unsafe { widen256(some_halves(p, n)) }
    }
    #[inline(always)]
    unsafe fn read(p: *const bf16) -> __m256 {
        // SAFETY: as stated; 8 halves are 16 bytes.
        unsafe { widen256(_mm_loadu_si128(p.cast())) }
    }
}

/// bf16 are the upper halves of f32.
#[inline(always)]
unsafe fn widen256(v: __m128i) -> __m256 {
    // SAFETY: AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v))) }
}

/// Rounds to f16.
///
/// # Safety
/// As [`super::kernels::Round`]; AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub unsafe fn round_f16_avx2(src: *const f32, dst: *mut f16, n: usize) {
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8 <= n`.
        unsafe { _mm_storeu_si128(dst.add(i).cast(), _mm256_cvtps_ph::<0>(_mm256_loadu_ps(src.add(i)))) }
    }
    if whole < n {
        let mut last = [0u16; 8];
        // SAFETY: `n - whole < 8` elements are read, and written through an array of eight.
        unsafe {
            let v = F32x8::load_n(src.add(whole), n - whole);
            _mm_storeu_si128(last.as_mut_ptr().cast(), _mm256_cvtps_ph::<0>(v));
            std::ptr::copy_nonoverlapping(last.as_ptr(), dst.add(whole).cast(), n - whole);
        }
    }
}

/// Rounds to f16.
///
/// # Safety
/// As [`super::kernels::Round`]; AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
pub unsafe fn round_f16_avx512(src: *const f32, dst: *mut f16, n: usize) {
    for i in (0..n).step_by(16) {
        let some = first16((n - i).min(16));
        // SAFETY: the lanes of the mask are elements below `n`.
        unsafe {
            let v = _mm512_cvtps_ph::<0>(_mm512_maskz_loadu_ps(some, src.add(i)));
            _mm256_mask_storeu_epi16(dst.add(i).cast(), some, v);
        }
    }
}

/// Rounds to bf16.
///
/// # Safety
/// As [`super::kernels::Round`]; AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn round_bf16_avx2(src: *const f32, dst: *mut bf16, n: usize) {
    // SAFETY: same contract.
    unsafe { super::kernels::round_bf16(src, dst, n) }
}

/// Rounds to bf16.
///
/// # Safety
/// As [`super::kernels::Round`]; AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn round_bf16_avx512(src: *const f32, dst: *mut bf16, n: usize) {
    // SAFETY: same contract.
    unsafe { super::kernels::round_bf16(src, dst, n) }
}
