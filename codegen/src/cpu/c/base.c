/* What every exported library begins with: types, loops over blocks, conversions, and the arithmetic that C leaves
 * open. Written for C99 with the extensions that GCC and Clang share. The values computed are those of the compiled
 * program: nothing is contracted (-ffp-contract=off), and fused multiply-adds are written as such. */

#define T_INLINE static inline __attribute__((always_inline, unused))
#if defined(__x86_64__)
#define T_AVX2 __attribute__((target("avx2,fma")))
/* Whether the processor has these; found out when the library is loaded. One answer for all functions is less code than
 * a choice by the dynamic loader for each, and less than what the compiler's runtime knows of processors. */
static unsigned char t_wide;
#if defined(T_DETECTS)
#include <cpuid.h>
static __attribute__((constructor(101), cold)) void t_detect(void) {
    unsigned a, b, c, d, low, high;
    /* Fused multiply-adds, AVX, and an operating system that keeps its registers. */
    const unsigned has = 1u << 12 | 1u << 27 | 1u << 28;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & has) != has) return;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    if ((low & 6u) == 6u && __get_cpuid_count(7, 0, &a, &b, &c, &d)) t_wide = b >> 5 & 1u;
}
#endif
/* NAME calls NAME_of, which is compiled for processors with AVX2 and FMA, for speed even where callers are compiled for
 * size, and for those without. */
#define T_WIDE T_AVX2 __attribute__((hot))
#define T_LEVELS(WHERE, NAME, PARAMETERS, ARGUMENTS)                            \
    T_WIDE static void NAME##_wide PARAMETERS { NAME##_of ARGUMENTS; }          \
    WHERE void NAME PARAMETERS {                                                \
        if (t_wide) NAME##_wide ARGUMENTS;                                      \
        else NAME##_of ARGUMENTS;                                               \
    }
#else
#define T_LEVELS(WHERE, NAME, PARAMETERS, ARGUMENTS) \
    WHERE void NAME PARAMETERS { NAME##_of ARGUMENTS; }
#endif
/* What keeps sums in registers has its loops of few rounds unrolled, where the rest is compiled for less code. */
#if defined(__clang__)
#define T_FAST
#define T_UNROLL
#else
#define T_FAST __attribute__((optimize("O3")))
#define T_UNROLL _Pragma("GCC unroll 16")
#endif
#define T_UNUSED __attribute__((unused))
#if defined(__clang__)
#define T_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define T_LOOP _Pragma("GCC ivdep")
#endif

/* Float bits. */
T_INLINE uint32_t t_bits(float x) { union { float f; uint32_t i; } u; u.f = x; return u.i; }
T_INLINE float t_float(uint32_t x) { union { float f; uint32_t i; } u; u.i = x; return u.f; }
T_INLINE uint64_t t_bits64(double x) { union { double f; uint64_t i; } u; u.f = x; return u.i; }
T_INLINE double t_double(uint64_t x) { union { double f; uint64_t i; } u; u.i = x; return u.f; }

/* 16-bit floats: round to nearest even, NaN stays NaN and becomes quiet. */
T_INLINE float t_h2f(uint16_t half) {
    const uint32_t h = half, sign = (h & 0x8000u) << 16, em = (h & 0x7fffu) << 13;
    const uint32_t normal = em + (112u << 23);
    const uint32_t subnormal = t_bits(t_float(em + (113u << 23)) - t_float(113u << 23));
    const uint32_t special = em | 0x7f800000u | (em > 0x0f800000u ? 0x00400000u : 0u);
    return t_float(sign | (em >= 0x0f800000u ? special : em < 0x00800000u ? subnormal : normal));
}
T_INLINE uint16_t t_f2h(float x) {
    const uint32_t bits = t_bits(x), sign = (bits >> 16) & 0x8000u, a = bits & 0x7fffffffu;
    const uint32_t normal = (a + 0xc8000fffu + ((a >> 13) & 1u)) >> 13;
    const uint32_t subnormal = t_bits(t_float(a) + 0.5f) - 0x3f000000u;
    const uint32_t special = a > 0x7f800000u ? 0x7e00u | ((a >> 13) & 0x3ffu) : 0x7c00u;
    return (uint16_t)(sign | (a >= 0x47800000u ? special : a < 0x38800000u ? subnormal : normal));
}
T_INLINE float t_b2f(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    return t_float(bits | ((bits & 0x7fffffffu) > 0x7f800000u ? 0x00400000u : 0u));
}
T_INLINE uint16_t t_f2b(float x) {
    const uint32_t bits = t_bits(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x0040u : rounded);
}

/* Floats to integers: toward zero, saturating, NaN gives 0. */
#define T_TO_INT(NAME, F, T, LO, HI, TOP)                                                  \
    T_INLINE T NAME(F x) {                                                                 \
        const F y = x != x ? (F)0 : x > (F)(TOP) ? (F)(TOP) : x < (F)(LO) ? (F)(LO) : x;   \
        return x > (F)(TOP) ? (T)(HI) : (T)y;                                              \
    }
T_TO_INT(t_f32_u8, float, uint8_t, 0, 255, 255)
T_TO_INT(t_f32_i8, float, int8_t, -128, 127, 127)
T_TO_INT(t_f32_i16, float, int16_t, -32768, 32767, 32767)
T_TO_INT(t_f32_i32, float, int32_t, INT32_MIN, INT32_MAX, 2147483520.0)
T_TO_INT(t_f32_i64, float, int64_t, INT64_MIN, INT64_MAX, 9223371487098961920.0)
T_TO_INT(t_f64_u8, double, uint8_t, 0, 255, 255)
T_TO_INT(t_f64_i8, double, int8_t, -128, 127, 127)
T_TO_INT(t_f64_i16, double, int16_t, -32768, 32767, 32767)
T_TO_INT(t_f64_i32, double, int32_t, INT32_MIN, INT32_MAX, 2147483647.0)
T_TO_INT(t_f64_i64, double, int64_t, INT64_MIN, INT64_MAX, 9223372036854774784.0)

/* Integers: what C leaves undefined has a value. Narrow ones are computed in 64 bits. */
T_INLINE int64_t t_floordiv(int64_t a, int64_t b) {
    if (b == 0) return 0;
    if (b == -1) return (int64_t)(0u - (uint64_t)a);
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
T_INLINE int64_t t_rem(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    return a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
}
T_INLINE int64_t t_fmod(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
T_INLINE int64_t t_ipow(int64_t a, int64_t e) {
    uint64_t x = (uint64_t)a, y = 1;
    if (e < 0) return a == 1 ? 1 : a == -1 ? ((e & 1) ? -1 : 1) : 0;
    for (; e > 0; e >>= 1, x *= x) if (e & 1) y *= x;
    return (int64_t)y;
}
T_INLINE int64_t t_shl(int64_t a, int64_t by, int64_t bits) {
    return by < 0 || by >= bits ? 0 : (int64_t)((uint64_t)a << by);
}
T_INLINE int64_t t_shr(int64_t a, int64_t by, int64_t bits) { return a >> (by < 0 || by >= bits ? 63 : by); }
/* Word `counter & 3` of a block of Philox4x32-10. */
T_INLINE int32_t t_philox(int64_t seed, int64_t counter) {
    const uint64_t low = 0xffffffffu, block = (uint64_t)counter >> 2;
    uint64_t k0 = (uint64_t)seed & low, k1 = (uint64_t)seed >> 32, c0 = block & low, c1 = block >> 32, c2 = 0, c3 = 0;
    int round;
    for (round = 0; round < 10; round++) {
        const uint64_t p0 = c0 * 0xd2511f53u, p1 = c2 * 0xcd9e8d57u;
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c1 = p1 & low;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c3 = p0 & low;
        k0 = (k0 + 0x9e3779b9u) & low;
        k1 = (k1 + 0xbb67ae85u) & low;
    }
    return (int32_t)(uint32_t)((counter & 1) ? (counter & 2 ? c3 : c1) : (counter & 2 ? c2 : c0));
}

/* Floats. */
T_INLINE float t_sign_f32(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
T_INLINE double t_sign_f64(double x) { return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x; }
T_INLINE float t_rem_f32(float a, float b) {
    const float r = fmodf(a, b);
    return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}
T_INLINE double t_rem_f64(double a, double b) {
    const double r = fmod(a, b);
    return r != 0.0 && (r < 0.0) != (b < 0.0) ? r + b : r;
}

T_INLINE float t_floordiv_f32(float a, float b) {
    if (b == 0.0f) return a / b;
    const float r = fmodf(a, b);
    float q = (a - r) / b;
    if (r != 0.0f && (r < 0.0f) != (b < 0.0f)) q = q - 1.0f;
    if (q == 0.0f) return 0.0f * (a / b);
    const float whole = floorf(q);
    return q - whole > 0.5f ? whole + 1.0f : whole;
}
T_INLINE double t_floordiv_f64(double a, double b) {
    if (b == 0.0) return a / b;
    const double r = fmod(a, b);
    double q = (a - r) / b;
    if (r != 0.0 && (r < 0.0) != (b < 0.0)) q = q - 1.0;
    if (q == 0.0) return 0.0 * (a / b);
    const double whole = floor(q);
    return q - whole > 0.5 ? whole + 1.0 : whole;
}

/* Families of block primitives. `dst` may be an operand, or overlaps none. */
#define T_UN(NAME, X, R, E)                                                 \
    T_INLINE void NAME##_of(R *dst, const X *src, uint64_t n) {             \
        uint64_t i;                                                         \
        T_LOOP for (i = 0; i < n; i++) { const X x = src[i]; dst[i] = (R)(E); } \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (R *dst, const X *src, uint64_t n), (dst, src, n))
#define T_UN_RARE(NAME, X, E, RARE, SLOW)                                   \
    T_INLINE void NAME##_of(X *dst, const X *src, uint64_t n) {             \
        uint64_t i;                                                         \
        for (i = 0; i < n; i++) { const X x = src[i]; dst[i] = (RARE) ? (X)(SLOW) : (X)(E); } \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (X *dst, const X *src, uint64_t n), (dst, src, n))
#define T_BIN_FORM(NAME, X, R, E, XA, YB)                                   \
    T_INLINE void NAME##_of(R *dst, const X *a, const X *b, uint64_t n) {   \
        const X a0 = n ? a[0] : (X)0, b0 = n ? b[0] : (X)0;                 \
        uint64_t i;                                                         \
        (void)a0; (void)b0;                                                 \
        T_LOOP for (i = 0; i < n; i++) { const X x = XA, y = YB; dst[i] = (R)(E); } \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (R *dst, const X *a, const X *b, uint64_t n), (dst, a, b, n))
#define T_BIN_vv(NAME, X, R, E) T_BIN_FORM(NAME, X, R, E, a[i], b[i])
#define T_BIN_vs(NAME, X, R, E) T_BIN_FORM(NAME, X, R, E, a[i], b0)
#define T_BIN_sv(NAME, X, R, E) T_BIN_FORM(NAME, X, R, E, a0, b[i])
#define T_SELECT(NAME, T, XA, YB)                                           \
    T_INLINE void NAME##_of(T *dst, const uint8_t *c, const T *a, const T *b, uint64_t n) {\
        const T a0 = n ? a[0] : 0, b0 = n ? b[0] : 0;                       \
        uint64_t i;                                                         \
        (void)a0; (void)b0;                                                 \
        T_LOOP for (i = 0; i < n; i++) { const T x = XA, y = YB; dst[i] = c[i] ? x : y; } \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (T *dst, const uint8_t *c, const T *a, const T *b, uint64_t n), (dst, c, a, b, n))
#define T_SPLAT(NAME, T)                                                    \
    T_INLINE void NAME##_of(T *dst, const T *s, uint64_t n) {               \
        const T x = n ? s[0] : 0;                                           \
        uint64_t i;                                                         \
        T_LOOP for (i = 0; i < n; i++) dst[i] = x;                          \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (T *dst, const T *s, uint64_t n), (dst, s, n))
#define T_COPY(NAME, T)                                                     \
    T_HIDDEN void NAME(T *dst, const T *src, uint64_t n) { memmove(dst, src, n * sizeof(T)); }
#define T_LOAD(NAME, T)                                                     \
    T_HIDDEN void NAME(T *dst, const T *src, int64_t stride, uint64_t n) {  \
        uint64_t i;                                                         \
        for (i = 0; i < n; i++) dst[i] = src[(int64_t)i * stride];          \
    }
#define T_STORE(NAME, T)                                                    \
    T_HIDDEN void NAME(T *dst, int64_t stride, const T *src, uint64_t n) {  \
        uint64_t i;                                                         \
        for (i = 0; i < n; i++) dst[(int64_t)i * stride] = src[i];          \
    }
#define T_IOTA(NAME)                                                        \
    T_INLINE void NAME##_of(int64_t *dst, int64_t start, int64_t step, uint64_t n) {\
        uint64_t i;                                                         \
        T_LOOP for (i = 0; i < n; i++) dst[i] = (int64_t)((uint64_t)start + (uint64_t)step * i); \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (int64_t *dst, int64_t start, int64_t step, uint64_t n), (dst, start, step, n))
/* A fold: L lanes side by side, then a fixed tree over the lanes. STEP(a, x) is in A. */
#define T_FOLD(NAME, X, A, ID, L, STEP)                                     \
    T_INLINE void NAME##_of(A *acc, const X *src, uint64_t n) {             \
        A lane[L];                                                          \
        const uint64_t full = n / L * L;                                    \
        uint64_t i;                                                         \
        int j, half;                                                        \
        for (j = 0; j < L; j++) lane[j] = (A)(ID);                          \
        for (i = 0; i < full; i += L)                                       \
            T_UNROLL T_LOOP for (j = 0; j < L; j++) { const A a = lane[j]; const A x = (A)src[i + (uint64_t)j]; lane[j] = (A)(STEP); } \
        for (j = 0; (uint64_t)j < n - full; j++) { const A a = lane[j]; const A x = (A)src[full + (uint64_t)j]; lane[j] = (A)(STEP); } \
        for (half = L / 2; half > 0; half /= 2)                             \
            for (j = 0; j < half; j++) { const A a = lane[j]; const A x = lane[j + half]; lane[j] = (A)(STEP); } \
        { const A a = *acc; const A x = lane[0]; *acc = (A)(STEP); }        \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (A *acc, const X *src, uint64_t n), (acc, src, n))
#define T_COL(NAME, X, A, STEP)                                             \
    T_INLINE void NAME##_of(A *acc, const X *src, uint64_t n) {             \
        uint64_t i;                                                         \
        T_LOOP for (i = 0; i < n; i++) { const A a = acc[i]; const A x = (A)src[i]; acc[i] = (A)(STEP); } \
    }                                                                       \
    T_LEVELS(T_HIDDEN, NAME, (A *acc, const X *src, uint64_t n), (acc, src, n))
/* Positions of the first extreme element; BETTER: x replaces a. */
#define T_ARG(NAME, X, BETTER)                                              \
    T_HIDDEN void NAME(X *best, int64_t *at, const X *src, uint64_t n, int64_t base) { \
        X a = *best;                                                        \
        uint64_t i;                                                         \
        for (i = 0; i < n; i++) {                                           \
            const X x = src[i];                                             \
            if (BETTER) { a = x; *at = base + (int64_t)i; }                 \
        }                                                                   \
        *best = a;                                                          \
    }
#define T_COL_ARG(NAME, X, BETTER)                                          \
    T_HIDDEN void NAME(X *best, int64_t *at, const X *src, uint64_t n, int64_t position) { \
        uint64_t i;                                                         \
        for (i = 0; i < n; i++) {                                           \
            const X a = best[i], x = src[i];                                \
            if (BETTER) { best[i] = x; at[i] = position; }                  \
        }                                                                   \
    }
