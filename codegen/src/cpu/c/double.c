/* Functions of f64 and the power of f32, in plain additions and multiplications: those of the block primitives. */
#define T_MAGIC 6755399441055744.0
#define T_ONE 0x3ff0000000000000u
#define T_LN2_HI 6.931471803691238e-1
#define T_LN2_LO 1.9082149292705877e-10
#define T_LOG2_E 1.4426950408889634
#define T_LN_2 0.6931471805599453

T_INLINE double t_at_most(double x, double hi) { return x > hi ? hi : x; }
T_INLINE double t_at_least(double x, double lo) { return x < lo ? lo : x; }
T_INLINE double t_pow2(double shifted) { return t_double((t_bits64(shifted) << 52) + T_ONE); }
T_INLINE double t_scale(double y, double n) {
    const double half = n * 0.5 + T_MAGIC;
    const double rest = (n - (half - T_MAGIC)) + T_MAGIC;
    return y * t_pow2(half) * t_pow2(rest);
}
T_INLINE void t_log_split(double x, double *kf, double *m) {
    const uint64_t k = (t_bits64(x) - 0x3fe6a09e667f3bcdu + ((uint64_t)1024 << 52)) >> 52;
    *m = t_double(t_bits64(x) - ((k - 1024u) << 52));
    *kf = t_double(0x4330000000000000u | k) - (4503599627370496.0 + 1024.0);
}
/* e^r - 1 - r: 1/2!, 1/3!, ... in two halves. */
T_INLINE double t_exp_tail(double r) {
    const double z = r * r;
    const double even = 0.5 + z * (1.0 / 24.0 + z * (1.0 / 720.0 + z * (1.0 / 40320.0 + z * (1.0 / 3628800.0
        + z * (1.0 / 479001600.0)))));
    const double odd = 1.0 / 6.0 + z * (1.0 / 120.0 + z * (1.0 / 5040.0 + z * (1.0 / 362880.0 + z * (1.0 / 39916800.0
        + z * (1.0 / 6227020800.0)))));
    return z * (even + r * odd);
}
T_INLINE double t_exp_f64(double x) {
    const double c = t_at_least(t_at_most(x, 710.0), -746.0);
    const double n = (c * T_LOG2_E + T_MAGIC) - T_MAGIC;
    const double r = (c - n * T_LN2_HI) - n * T_LN2_LO;
    const double y = t_scale(1.0 + (r + t_exp_tail(r)), n);
    return x != x ? x : y;
}
T_INLINE double t_exp2_f64(double x) {
    const double c = t_at_least(t_at_most(x, 1025.0), -1080.0);
    const double n = (c + T_MAGIC) - T_MAGIC;
    const double r = (c - n) * T_LN_2;
    const double y = t_scale(1.0 + (r + t_exp_tail(r)), n);
    return x != x ? x : y;
}
T_INLINE double t_sigmoid_f64(double x) {
    const double e = t_exp_f64(-fabs(x));
    return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}
T_INLINE double t_log_edges(double x, double inside) {
    const double positive = x < (double)INFINITY ? inside : x;
    const double other = x == 0.0 ? -(double)INFINITY : (double)NAN;
    return x > 0.0 ? positive : other;
}
T_INLINE double t_log_tail(double f, double k, double c) {
    const double s = f / (2.0 + f), z = s * s;
    const double r = z * (6.666666666666735e-1 + z * (3.999999999940942e-1 + z * (2.857142874366239e-1
        + z * (2.2222198432149784e-1 + z * (1.818357216161805e-1 + z * (1.5313837699209373e-1
        + z * 1.4798198605116586e-1))))));
    const double half = 0.5 * f * f;
    return k * T_LN2_HI - ((half - (s * (half + r) + (k * T_LN2_LO + c))) - f);
}
T_INLINE double t_log_f64(double x) {
    const int tiny = x < 2.2250738585072014e-308;
    double k, m;
    t_log_split(tiny ? x * 18014398509481984.0 : x, &k, &m);
    return t_log_edges(x, t_log_tail(m - 1.0, tiny ? k - 54.0 : k, 0.0));
}
T_INLINE double t_acosh_f64(double x) { return x < 1.0 ? (double)NAN : acosh(x); }
/* a^b by 2^(b log2 |a|), rounded once. */
T_INLINE float t_pow_f32(float a, float b32) {
    const double huge = 1099511627776.0;
    const double b = t_at_least(t_at_most((double)b32, huge), -huge);
    double k, m, f, s, z, p, l, e, t, r, q, whole;
    float y, sign;
    t_log_split((double)fabsf(a), &k, &m);
    f = m - 1.0;
    s = f / (2.0 + f);
    z = s * s;
    p = 0.6666666655440618 + z * (0.4000012191414928 + z * (0.28550812382590146 + z * 0.2333069667245578));
    l = s * (2.0 + z * p);
    e = t_at_least(t_at_most(b * (k + l * T_LOG2_E), 130.0), -160.0);
    t = e + T_MAGIC;
    r = (e - (t - T_MAGIC)) * T_LN_2;
    q = 0.500000001346581 + r * (0.16666666681623232 + r * (0.041666464925285904 + r * (0.0083333109254809
        + r * (0.0013933649996309251 + r * 0.00019890990824673832))));
    y = (float)((1.0 + (r + r * r * q)) * t_pow2(t));
    whole = b + T_MAGIC;
    sign = t_float(t_bits(y) ^ (uint32_t)(t_bits64(whole) << 63 >> 32));
    return a < 0.0f ? (whole - T_MAGIC == b ? sign : (float)NAN) : y;
}
T_INLINE int t_beyond_pow(float a, float b) { return a == 0.0f || a != a || isinf(a) || b != b; }
