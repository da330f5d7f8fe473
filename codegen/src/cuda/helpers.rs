//! Device functions that kernels call: fixed text, put into a source only where it is used.

use super::{access, attention_text, dot_mma, dot_pipe, math};
use std::collections::BTreeSet;
use torsh_ir::scalar::UnOp;

/// The text of every helper that `text` calls, directly or through another one, in a fixed order.
pub(super) fn of(text: &str) -> String {
    let mut wanted = BTreeSet::new();
    scan(text, &mut wanted);
    let mut parts = Vec::new();
    // Definitions stand before their uses, so backwards uses come first.
    for (name, body) in all().into_iter().rev() {
        if wanted.contains(&name) {
            scan(&body, &mut wanted);
            parts.push(body);
        }
    }
    parts.iter().rev().flat_map(|p| p.chars()).collect()
}

/// Identifiers that begin with `t_`.
fn scan(text: &str, out: &mut BTreeSet<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for word in text.split(|c| !is_word(c)) {
        if word.starts_with("t_") && !out.contains(word) {
            out.insert(word.to_string());
        }
    }
}

/// Every helper in order of definition. The name of a piece of fixed text is the first identifier in it that begins
/// with `t_`.
fn all() -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let fixed = |text: &'static str, out: &mut Vec<(String, String)>| {
        for piece in text.split("\n\n") {
            let start = piece.find("t_").map_or("", |i| &piece[i..]);
            let end = start.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(start.len());
            out.push((start[..end].to_string(), format!("{}\n", piece.trim())));
        }
    };
    fixed(BASE, &mut out);
    out.extend(access::helpers());
    for &op in UnOp::ALL {
        if let Some(text) = math::function(op) {
            let near = if math::is_trig(op) { "_near" } else { "" };
            out.push((format!("t_{}{near}", op.name()), text));
        }
    }
    fixed(NUMBERS, &mut out);
    fixed(INTEGERS, &mut out);
    fixed(RECORD, &mut out);
    fixed(dot_mma::HELPERS, &mut out);
    fixed(dot_pipe::HELPERS, &mut out);
    fixed(attention_text::HELPERS, &mut out);
    out
}

/// Conversions of the 16-bit floats. A bfloat16 is the upper half of an f32.
const BASE: &str = r#"
static __device__ __forceinline__ float t_h2f(unsigned short h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

static __device__ __forceinline__ unsigned short t_f2h(float f) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

static __device__ __forceinline__ float t_b2f(unsigned short h) {
    return __int_as_float((int)((unsigned)h << 16));
}

static __device__ __forceinline__ unsigned short t_f2b(float f) {
    unsigned short h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
"#;

/// Trigonometric functions of large arguments, and what scalar operations on floats need.
///
/// `t_turns` reduces |x| > 2^20 by 96 bits of 2/pi, exactly enough: the product with the significand modulo 4 gives the
/// quadrant and 62 bits of the rest. The polynomials are Taylor's, in f64, for |r| <= pi/4.
const NUMBERS: &str = r#"
static __device__ __forceinline__ double t_turns(float x, int* quadrant) {
    const unsigned bits = (unsigned)__float_as_int(x) & 0x7fffffffu;
    const unsigned m = (bits & 0x7fffffu) | 0x800000u;
    const unsigned at = (bits >> 23) - 120u;
    const unsigned w = at >> 5;
    const unsigned s = at & 31u;
    const unsigned a = w == 0u ? 0x00000000u : w == 1u ? 0xa2f9836eu : w == 2u ? 0x4e441529u : w == 3u ? 0xfc2757d1u : 0xf534ddc0u;
    const unsigned b = w == 0u ? 0xa2f9836eu : w == 1u ? 0x4e441529u : w == 2u ? 0xfc2757d1u : w == 3u ? 0xf534ddc0u : 0xdb629599u;
    const unsigned c = w == 0u ? 0x4e441529u : w == 1u ? 0xfc2757d1u : w == 2u ? 0xf534ddc0u : w == 3u ? 0xdb629599u : 0x3c439041u;
    const unsigned d = w == 0u ? 0xfc2757d1u : w == 1u ? 0xf534ddc0u : w == 2u ? 0xdb629599u : w == 3u ? 0x3c439041u : 0xfe5163abu;
    const unsigned hi = s == 0u ? a : (a << s) | (b >> (32u - s));
    const unsigned mid = s == 0u ? b : (b << s) | (c >> (32u - s));
    const unsigned lo = s == 0u ? c : (c << s) | (d >> (32u - s));
    const unsigned long long p0 = (unsigned long long)lo * m;
    const unsigned long long p1 = (unsigned long long)mid * m + (p0 >> 32);
    const unsigned top = hi * m + (unsigned)(p1 >> 32);
    const unsigned long long turn = ((unsigned long long)top << 32) | (unsigned)p1;
    const unsigned q = (unsigned)((turn + 0x2000000000000000ull) >> 62);
    const double r = __dmul_rn(__ll2double_rn((long long)(turn << 2)), 8.5153039502163873e-20);
    const bool negative = __float_as_int(x) < 0;
    *quadrant = (int)(negative ? 4u - q : q) & 3;
    return negative ? -r : r;
}

static __device__ __forceinline__ double t_sine(double r) {
    const double z = __dmul_rn(r, r);
    double p = 1.6059043836821613e-10;
    p = __fma_rn(p, z, -2.5052108385441720e-08);
    p = __fma_rn(p, z, 2.7557319223985893e-06);
    p = __fma_rn(p, z, -1.9841269841269841e-04);
    p = __fma_rn(p, z, 8.3333333333333332e-03);
    p = __fma_rn(p, z, -1.6666666666666666e-01);
    return __fma_rn(__dmul_rn(p, z), r, r);
}

static __device__ __forceinline__ double t_cosine(double r) {
    const double z = __dmul_rn(r, r);
    double p = 2.0876756987868098e-09;
    p = __fma_rn(p, z, -2.7557319223985888e-07);
    p = __fma_rn(p, z, 2.4801587301587302e-05);
    p = __fma_rn(p, z, -1.3888888888888889e-03);
    p = __fma_rn(p, z, 4.1666666666666664e-02);
    p = __fma_rn(p, z, -0.5);
    return __fma_rn(p, z, 1.0);
}

static __device__ __forceinline__ bool t_is_far(float x) {
    return fabsf(x) > 1048576.0f && fabsf(x) < __int_as_float(0x7f800000);
}

static __device__ __forceinline__ float t_sin(float x) {
    if (t_is_far(x)) {
        int q;
        const double r = t_turns(x, &q);
        const double y = (q & 1) != 0 ? t_cosine(r) : t_sine(r);
        return __double2float_rn((q & 2) != 0 ? -y : y);
    }
    return fabsf(x) <= 1048576.0f ? t_sin_near(x) : __int_as_float(0x7fc00000);
}

static __device__ __forceinline__ float t_cos(float x) {
    if (t_is_far(x)) {
        int q;
        const double r = t_turns(x, &q);
        const double y = (q & 1) != 0 ? t_sine(r) : t_cosine(r);
        return __double2float_rn(((q + 1) & 2) != 0 ? -y : y);
    }
    return fabsf(x) <= 1048576.0f ? t_cos_near(x) : __int_as_float(0x7fc00000);
}

static __device__ __forceinline__ float t_tan(float x) {
    if (t_is_far(x)) {
        int q;
        const double r = t_turns(x, &q);
        const double s = t_sine(r);
        const double c = t_cosine(r);
        return __double2float_rn((q & 1) != 0 ? __ddiv_rn(-c, s) : __ddiv_rn(s, c));
    }
    return fabsf(x) <= 1048576.0f ? t_tan_near(x) : __int_as_float(0x7fc00000);
}

static __device__ __forceinline__ float t_rem_f32(float a, float b) {
    const float r = fmodf(a, b);
    return r != 0.0f && ((r < 0.0f) != (b < 0.0f)) ? __fadd_rn(r, b) : r;
}

static __device__ __forceinline__ double t_rem_f64(double a, double b) {
    const double r = fmod(a, b);
    return r != 0.0 && ((r < 0.0) != (b < 0.0)) ? __dadd_rn(r, b) : r;
}

static __device__ __forceinline__ float t_floordiv_f32(float a, float b) {
    if (b == 0.0f) return __fdiv_rn(a, b);
    const float r = fmodf(a, b);
    float q = __fdiv_rn(__fsub_rn(a, r), b);
    if (r != 0.0f && ((r < 0.0f) != (b < 0.0f))) q = __fsub_rn(q, 1.0f);
    if (q == 0.0f) return __fmul_rn(0.0f, __fdiv_rn(a, b));
    const float whole = floorf(q);
    return __fsub_rn(q, whole) > 0.5f ? __fadd_rn(whole, 1.0f) : whole;
}

static __device__ __forceinline__ double t_floordiv_f64(double a, double b) {
    if (b == 0.0) return __ddiv_rn(a, b);
    const double r = fmod(a, b);
    double q = __ddiv_rn(__dsub_rn(a, r), b);
    if (r != 0.0 && ((r < 0.0) != (b < 0.0))) q = __dsub_rn(q, 1.0);
    if (q == 0.0) return __dmul_rn(0.0, __ddiv_rn(a, b));
    const double whole = floor(q);
    return __dsub_rn(q, whole) > 0.5 ? __dadd_rn(whole, 1.0) : whole;
}

static __device__ __forceinline__ float t_sign_f32(float x) {
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}

static __device__ __forceinline__ double t_sign_f64(double x) {
    return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x;
}

static __device__ __forceinline__ double t_sigmoid_f64(double x) {
    const double e = exp(-fabs(x));
    return __ddiv_rn(x >= 0.0 ? 1.0 : e, __dadd_rn(1.0, e));
}

static __device__ __forceinline__ float t_max_f32(float a, float b) {
    return a != a || a > b ? a : b;
}

static __device__ __forceinline__ float t_min_f32(float a, float b) {
    return a != a || a < b ? a : b;
}

static __device__ __forceinline__ double t_max_f64(double a, double b) {
    return a != a || a > b ? a : b;
}

static __device__ __forceinline__ double t_min_f64(double a, double b) {
    return a != a || a < b ? a : b;
}

static __device__ __forceinline__ int t_f32_i32(float x) {
    return x != x ? 0 : __float2int_rz(x);
}

static __device__ __forceinline__ long long t_f32_i64(float x) {
    return x != x ? 0ll : __float2ll_rz(x);
}

static __device__ __forceinline__ int t_f64_i32(double x) {
    return x != x ? 0 : __double2int_rz(x);
}

static __device__ __forceinline__ long long t_f64_i64(double x) {
    return x != x ? 0ll : __double2ll_rz(x);
}

static __device__ __forceinline__ int t_clamp(int x, int lo, int hi) {
    return x < lo ? lo : x > hi ? hi : x;
}
"#;

/// Integers: what C leaves undefined has the values of `torsh_ir::scalar`.
const INTEGERS: &str = r#"
static __device__ __forceinline__ int t_floordiv_i32(int a, int b) {
    if (b == 0) return 0;
    if (b == -1) return (int)(0u - (unsigned)a);
    const int q = a / b;
    return a % b != 0 && ((a < 0) != (b < 0)) ? q - 1 : q;
}

static __device__ __forceinline__ long long t_floordiv_i64(long long a, long long b) {
    if (b == 0) return 0;
    if (b == -1) return (long long)(0ull - (unsigned long long)a);
    const long long q = a / b;
    return a % b != 0 && ((a < 0) != (b < 0)) ? q - 1 : q;
}

static __device__ __forceinline__ int t_rem_i32(int a, int b) {
    if (b == 0 || b == -1) return 0;
    const int r = a % b;
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}

static __device__ __forceinline__ long long t_rem_i64(long long a, long long b) {
    if (b == 0 || b == -1) return 0;
    const long long r = a % b;
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}

static __device__ __forceinline__ int t_fmod_i32(int a, int b) {
    return b == 0 || b == -1 ? 0 : a % b;
}

static __device__ __forceinline__ long long t_fmod_i64(long long a, long long b) {
    return b == 0 || b == -1 ? 0 : a % b;
}

static __device__ __forceinline__ int t_pow_i32(int a, int b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? ((b & 1) != 0 ? -1 : 1) : 0;
    unsigned x = (unsigned)a;
    unsigned y = 1u;
    for (unsigned e = (unsigned)b; e != 0u; e >>= 1) {
        if ((e & 1u) != 0u) y *= x;
        x *= x;
    }
    return (int)y;
}

static __device__ __forceinline__ long long t_pow_i64(long long a, long long b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? ((b & 1) != 0 ? -1 : 1) : 0;
    unsigned long long x = (unsigned long long)a;
    unsigned long long y = 1ull;
    for (unsigned long long e = (unsigned long long)b; e != 0ull; e >>= 1) {
        if ((e & 1ull) != 0ull) y *= x;
        x *= x;
    }
    return (long long)y;
}

static __device__ __forceinline__ int t_philox(long long seed, long long counter) {
    const unsigned long long block = (unsigned long long)counter >> 2;
    unsigned k0 = (unsigned)seed;
    unsigned k1 = (unsigned)((unsigned long long)seed >> 32);
    unsigned c0 = (unsigned)block;
    unsigned c1 = (unsigned)(block >> 32);
    unsigned c2 = 0u;
    unsigned c3 = 0u;
    #pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned h0 = __umulhi(0xd2511f53u, c0);
        const unsigned l0 = 0xd2511f53u * c0;
        const unsigned h1 = __umulhi(0xcd9e8d57u, c2);
        const unsigned l1 = 0xcd9e8d57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    const int word = (int)counter & 3;
    return (int)(word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3);
}
"#;

/// The error record; see `decode_error`.
const RECORD: &str = r#"
static __device__ __forceinline__ void t_fail(unsigned long long* error, unsigned check, unsigned long long position, long long index) {
    const unsigned long long at = position < 0xffffffffull ? position : 0xffffffffull;
    const unsigned long long key = ((unsigned long long)check << 48) | (at << 16);
    const unsigned long long bits = (unsigned long long)index;
    atomicMin(error, key | (bits & 0xffffull));
    atomicMin(error + 1, key | ((bits >> 16) & 0xffffull));
    atomicMin(error + 2, key | ((bits >> 32) & 0xffffull));
    atomicMin(error + 3, key | (bits >> 48));
}
"#;
