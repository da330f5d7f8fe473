/* Attention in one pass over blocks of keys. Every number comes from the operations of the compiled program in their
 * order, so that it has the same bits, however the work is cut. */
#define T_QUERIES 32
#define T_KEYS 128
#define T_LANES 16
/* Queries whose sums are kept at a time. */
#define T_KEPT 128
#define T_UP(n, to) (((n) + (to) - 1) / (to) * (to))

/* `batch` is where strides of the batch, and its sizes, begin among t_numbers. */
typedef struct { int64_t offset, row, col, batch; } t_matrix;
typedef struct {
    int batches;
    uint32_t batch;
    int64_t queries, keys, depth, width;
    int causal, mask, mask_adds, safe, lse, drops;
    /* Bits: the factor of scores, twice; below which random numbers drop a weight, and what others are multiplied by. */
    uint32_t scale;
    uint64_t scale64;
    uint32_t limit, factor;
    /* Query, key, value, mask, cotangent. */
    t_matrix side[5];
} t_attention;
/* One with its operands; `seed` and `counter` are those of dropout's random numbers. */
typedef struct {
    const t_attention *a;
    const float *q, *k, *v;
    const void *mask;
    int64_t seed, counter;
} t_call;

static int64_t t_heads(const t_attention *a) {
    int64_t n = 1;
    int d;
    for (d = 0; d < a->batches; d++) n *= t_numbers[a->batch + d];
    return n;
}

static int64_t t_matrix_at(const t_attention *a, const t_matrix *m, int64_t i) {
    const int64_t *const extents = t_numbers + a->batch, *const strides = t_numbers + m->batch;
    int64_t at = m->offset;
    int d;
    for (d = a->batches; d-- > 0; i /= extents[d]) at += i % extents[d] * strides[d];
    return at;
}

/* The same call with its operands at a head. */
static t_call t_head(const t_call *c, int64_t b) {
    const t_attention *const a = c->a;
    t_call h = *c;
    h.q += t_matrix_at(a, &a->side[0], b);
    h.k += t_matrix_at(a, &a->side[1], b);
    h.v += t_matrix_at(a, &a->side[2], b);
    if (a->mask) {
        const int64_t at = t_matrix_at(a, &a->side[3], b);
        h.mask = a->mask_adds ? (const void *)((const float *)c->mask + at) : (const void *)((const uint8_t *)c->mask + at);
    }
    h.counter = (int64_t)((uint64_t)c->counter + (uint64_t)(b * a->queries * a->keys));
    return h;
}

/* A tile of 4 rows of 16 columns: c = (0, or c, times factors) + a b. */
#define T_PART(NAME, TARGET, V, WIDE, ZERO, FULL, READ, FMA, MUL, WRITE)                                  \
    TARGET T_FAST static void NAME(int64_t depth, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t b_row, \
                            float *c, int64_t c_row, int add, const float *factors) {                     \
        V s[4][T_LANES / WIDE];                                                                           \
        int64_t k;                                                                                        \
        int i, j;                                                                                         \
        for (i = 0; i < 4; i++)                                                                           \
            for (j = 0; j < T_LANES / WIDE; j++) {                                                        \
                s[i][j] = ZERO;                                                                           \
                if (add) s[i][j] = READ(c + c_row * i + WIDE * j);                                        \
                if (add && factors) s[i][j] = MUL(s[i][j], FULL(factors[i]));                             \
            }                                                                                             \
        for (k = 0; k < depth; k++, a += a_col, b += b_row) {                                             \
            V x[T_LANES / WIDE];                                                                          \
            for (j = 0; j < T_LANES / WIDE; j++) x[j] = READ(b + WIDE * j);                               \
            for (i = 0; i < 4; i++) {                                                                     \
                const V y = FULL(a[a_row * i]);                                                           \
                for (j = 0; j < T_LANES / WIDE; j++) s[i][j] = FMA(y, x[j], s[i][j]);                     \
            }                                                                                             \
        }                                                                                                 \
        for (i = 0; i < 4; i++) for (j = 0; j < T_LANES / WIDE; j++) WRITE(c + c_row * i + WIDE * j, s[i][j]); \
    }
T_PART(t_part_plain, , float, 1, 0.0f, T_FULL1, T_READ1, fmaf, T_MUL1, T_WRITE1)
#if defined(__x86_64__)
T_PART(t_part_avx2, T_AVX2, __m256, 8, _mm256_setzero_ps(), _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps,
       _mm256_mul_ps, _mm256_storeu_ps)
#elif defined(__aarch64__)
T_PART(t_part_neon, , float32x4_t, 4, vdupq_n_f32(0.0f), vdupq_n_f32, vld1q_f32, T_FMA4, vmulq_f32, vst1q_f32)
#endif

typedef void (*t_part)(int64_t, const float *, int64_t, int64_t, const float *, int64_t, float *, int64_t, int,
                       const float *);

static t_part t_part_of(void) {
#if defined(__x86_64__)
    return t_wide ? t_part_avx2 : t_part_plain;
#elif defined(__aarch64__)
    return t_part_neon;
#else
    return t_part_plain;
#endif
}

/* rows x cols tiles; panels of 16 columns of b lie `b_panel` apart. */
static void t_parts(t_part part, int64_t rows, int64_t cols, int64_t depth, const float *a, int64_t a_row, int64_t a_col,
                    const float *b, int64_t b_row, int64_t b_panel, float *c, int64_t c_row, int add, const float *factors) {
    int64_t i, j;
    for (j = 0; j < cols; j += T_LANES, b += b_panel)
        for (i = 0; i < rows; i += 4)
            part(depth, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row + j, c_row, add, factors ? factors + i : 0);
}

/* Copies n rows of a matrix times scale to rows of `wide` numbers, and zeros up to row `all`. */
static void t_pack_rows(const float *from, const t_matrix *m, int64_t n, int64_t cols, float scale, float *to, int64_t wide,
                        int64_t all) {
    int64_t r, d;
    for (r = 0; r < all; r++, to += wide) {
        const float *const row = from + r * m->row;
        for (d = 0; d < wide; d++) to[d] = 0.0f;
        if (r >= n) continue;
        if (m->col == 1) for (d = 0; d < cols; d++) to[d] = row[d] * scale;
        else for (d = 0; d < cols; d++) to[d] = row[d * m->col] * scale;
    }
}

/* Copies n rows of a matrix, transposed, to panels of 16 of them; the others are 0. */
static void t_pack_panels(const float *from, const t_matrix *m, int64_t n, int64_t cols, float *to) {
    int64_t first, r, d;
    for (first = 0; first < n; first += T_LANES, to += T_LANES * cols)
        for (r = 0; r < T_LANES; r++) {
            const float *const row = from + (first + r) * m->row;
            if (first + r < n) for (d = 0; d < cols; d++) to[d * T_LANES + r] = row[d * m->col];
            else for (d = 0; d < cols; d++) to[d * T_LANES + r] = 0.0f;
        }
}

/* Keys from j that queries i.. see, but for masks; at most a block of them. */
static int64_t t_block_cols(const t_attention *a, int64_t i, int64_t rows, int64_t j) {
    const int64_t end = a->causal && i + rows < a->keys ? i + rows : a->keys;
    return end - j < T_KEYS ? end - j : T_KEYS;
}

/* Applies mask and causality to scores of a head, and hides the padding. */
static void t_hide(const t_call *h, float *s, int64_t i, int64_t j, int64_t rows, int64_t cols) {
    const t_attention *const a = h->a;
    const int64_t col = a->side[3].col, wide = T_UP(cols, T_LANES);
    int64_t r, x, seen;
    for (r = 0; r < rows; r++, s += T_KEYS) {
        const int64_t at = (i + r) * a->side[3].row + j * col;
        if (a->mask && a->mask_adds) {
            const float *const m = (const float *)h->mask + at;
            for (x = 0; x < cols; x++) s[x] += m[x * col];
        } else if (a->mask) {
            const uint8_t *const m = (const uint8_t *)h->mask + at;
            for (x = 0; x < cols; x++) s[x] = m[x * col] ? s[x] : -INFINITY;
        }
        seen = a->causal && i + r + 1 - j < cols ? i + r + 1 - j : cols;
        for (x = seen < 0 ? 0 : seen; x < wide; x++) s[x] = -INFINITY;
    }
}

/* What dropout makes of x at the weight of query i and key j. */
T_INLINE float t_dropped(const t_call *h, int64_t i, int64_t j, float x) {
    const uint64_t counter = (uint64_t)h->counter + (uint64_t)(i * h->a->keys + j);
    const uint32_t word = (uint32_t)t_philox(h->seed, (int64_t)counter);
    return (float)(word >> 8) * (1.0f / 16777216.0f) >= t_float(h->a->limit) ? x * t_float(h->a->factor) : 0.0f;
}

static void t_drop(const t_call *h, float *s, int64_t i, int64_t j, int64_t rows, int64_t cols) {
    int64_t r, x;
    if (!h->a->drops) return;
    for (r = 0; r < rows; r++, s += T_KEYS) for (x = 0; x < cols; x++) s[x] = t_dropped(h, i + r, j + x, s[x]);
}

/* e^x up to 88; 0 below -87. The power of two is a factor of its own, so that a NaN meets no bit arithmetic. */
T_INLINE float t_attend_exp(float x) {
    const float shifted = fmaf(x, 1.44269504089f, 12582912.0f), n = shifted - 12582912.0f;
    const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, x));
    float p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3982e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    p = p * t_float((t_bits(shifted) << 23) + 0x3f800000u);
    return x < -87.0f ? 0.0f : p;
}

/* Scores to weights relative to the largest score so far; `factor` becomes that of what was summed before. Where a fused
 * multiply-add is a call, nothing is won by unrolled loops. */
#define T_WEIGHTS(HEAD, UNROLL)                                                                             \
    HEAD(float *s, int64_t cols, float *top, float *sums, float *factor) {                                  \
        float lanes[T_LANES], old = *top, base;                                                             \
        int64_t x;                                                                                          \
        int i, half;                                                                                        \
        for (i = 0; i < T_LANES; i++) lanes[i] = -INFINITY;                                                 \
        for (x = 0; x < cols; x += T_LANES)                                                                 \
            UNROLL T_LOOP for (i = 0; i < T_LANES; i++) lanes[i] = s[x + i] > lanes[i] ? s[x + i] : lanes[i]; \
        for (half = T_LANES / 2; half > 0; half /= 2)                                                       \
            for (i = 0; i < half; i++) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];  \
        *top = lanes[0] > old ? lanes[0] : old;                                                             \
        /* In a row without a key so far scores are taken relative to 0. */                                 \
        base = *top == -INFINITY ? 0.0f : *top;                                                             \
        *factor = t_attend_exp(old - base);                                                                 \
        for (i = 0; i < T_LANES; i++) lanes[i] = sums[i] * *factor;                                         \
        for (x = 0; x < cols; x += T_LANES)                                                                 \
            UNROLL T_LOOP for (i = 0; i < T_LANES; i++) {                                                   \
                const float y = t_attend_exp(s[x + i] - base);                                              \
                s[x + i] = y;                                                                               \
                lanes[i] += y;                                                                              \
            }                                                                                               \
        for (i = 0; i < T_LANES; i++) sums[i] = lanes[i];                                                   \
    }
#if defined(__x86_64__)
T_WEIGHTS(T_WIDE static void t_weights_wide, T_UNROLL)
T_WEIGHTS(static void t_weights_plain, )
static void t_weights(float *s, int64_t cols, float *top, float *sums, float *factor) {
    if (t_wide) t_weights_wide(s, cols, top, sums, factor);
    else t_weights_plain(s, cols, top, sums, factor);
}
#else
T_WEIGHTS(static void t_weights, T_UNROLL)
#endif

/* A score of a head by the meaning of the op. */
static float t_score(const t_call *h, int64_t i, int64_t j) {
    const t_attention *const a = h->a;
    const float *const q = h->q + i * a->side[0].row, *const k = h->k + j * a->side[1].row;
    const int64_t at = i * a->side[3].row + j * a->side[3].col;
    double sum = -0.0;
    float score;
    int64_t d;
    for (d = 0; d < a->depth; d++) sum += (double)q[d * a->side[0].col] * (double)k[d * a->side[1].col];
    score = (float)(sum * t_double(a->scale64));
    if (!a->mask) return score;
    if (a->mask_adds) return score + ((const float *)h->mask)[at];
    return ((const uint8_t *)h->mask)[at] ? score : -INFINITY;
}

/* Weights of a row that has no key. */
T_INLINE float t_no_weight(const t_attention *a) { return a->safe && a->mask ? 0.0f : (float)NAN; }

T_INLINE int64_t t_seen(const t_attention *a, int64_t i) { return a->causal && i + 1 < a->keys ? i + 1 : a->keys; }

/* A row whose numbers are not finite, again by the meaning of the op: a sum that is divided only at its end may overflow
 * where the mean does not. Gives the logarithm of the sum; `p` has room for a number a key. */
static float t_attend_again(const t_call *h, int64_t i, float *p, float *to) {
    const t_attention *const a = h->a;
    const int64_t seen = t_seen(a, i);
    float top = -INFINITY, lse = -INFINITY;
    double total = -0.0, sum;
    int64_t j, d;
    /* A query with NaN has no other scores, whatever is masked: the row is NaN, without a look at its keys. */
    for (d = 0; d < a->depth && !a->drops; d++) {
        const float x = h->q[i * a->side[0].row + d * a->side[0].col];
        if (x == x) continue;
        for (d = 0; d < a->width; d++) to[d] = (float)NAN;
        return (float)NAN;
    }
    for (j = 0; j < seen; j++) {
        p[j] = t_score(h, i, j);
        if (p[j] > top || p[j] != p[j]) top = p[j];
    }
    if (top == -INFINITY) {
        for (j = 0; j < seen; j++) p[j] = t_no_weight(a);
    } else {
        for (j = 0; j < seen; j++) total += (double)(p[j] = (float)exp((double)(p[j] - top)));
        for (j = 0; j < seen; j++) p[j] = (float)((double)p[j] / total);
        lse = (float)((double)top + log(total));
    }
    if (a->drops) for (j = 0; j < seen; j++) p[j] = t_dropped(h, i, j, p[j]);
    for (d = 0; d < a->width; d++) {
        const float *const v = h->v + d * a->side[2].col;
        for (j = 0, sum = 0.0; j < seen; j++) sum += (double)p[j] * (double)v[j * a->side[2].row];
        to[d] = (float)sum;
    }
    return lse;
}

/* `scratch` holds kept * (depth + wide + 17) + T_KEYS * (depth + wide) + T_QUERIES * (T_KEYS + 1) + keys numbers; `wide`
 * is the width as a multiple of 16, `kept` the queries as a multiple of 32, at most T_KEPT. */
static void t_attend(const t_call *call, float *out, float *scratch) {
    const t_attention *const a = call->a;
    const t_part part = t_part_of();
    const int64_t heads = t_heads(a), wide = T_UP(a->width, T_LANES), all = T_UP(a->queries, T_QUERIES);
    const int64_t kept = all < T_KEPT ? all : T_KEPT;
    float *const q = scratch, *const k = q + kept * a->depth, *const room = k + T_KEYS * a->depth;
    float *const s = room + T_KEYS * wide, *const factor = s + T_QUERIES * T_KEYS, *const top = factor + T_QUERIES;
    float *const sums = top + kept, *const acc = sums + kept * T_LANES, *const again = acc + kept * wide;
    const int packed = a->side[2].col == 1 && a->side[2].row == a->width && a->width == wide;
    int64_t b, first, i, j, r, d;
    for (b = 0; b < heads; b++) {
        const t_call h = t_head(call, b);
        for (first = 0; first < a->queries; first += kept) {
            const int64_t count = a->queries - first < kept ? a->queries - first : kept;
            t_pack_rows(h.q + first * a->side[0].row, &a->side[0], count, a->depth, t_float(a->scale), q, a->depth, kept);
            for (r = 0; r < kept; r++) top[r] = -INFINITY;
            for (r = 0; r < kept * (T_LANES + wide); r++) sums[r] = 0.0f;
            for (j = 0; j < a->keys && (!a->causal || j < first + count); j += T_KEYS) {
                const int64_t n = a->keys - j < T_KEYS ? a->keys - j : T_KEYS;
                const float *v = h.v + j * a->side[2].row;
                t_pack_panels(h.k + j * a->side[1].row, &a->side[1], n, a->depth, k);
                if (!packed) {
                    t_pack_rows(v, &a->side[2], n, a->width, 1.0f, room, wide, n);
                    v = room;
                }
                for (i = 0; i < count; i += T_QUERIES) {
                    const int64_t rows = count - i < T_QUERIES ? count - i : T_QUERIES, up = T_UP(rows, 4);
                    const int64_t cols = t_block_cols(a, first + i, rows, j);
                    if (cols <= 0) continue;
                    t_parts(part, up, T_UP(cols, T_LANES), a->depth, q + i * a->depth, a->depth, 1, k, T_LANES,
                            T_LANES * a->depth, s, T_KEYS, 0, 0);
                    t_hide(&h, s, first + i, j, rows, cols);
                    for (r = 0; r < up; r++)
                        t_weights(s + r * T_KEYS, T_UP(cols, T_LANES), top + i + r, sums + (i + r) * T_LANES, factor + r);
                    t_drop(&h, s, first + i, j, rows, cols);
                    t_parts(part, up, wide, cols, s, T_KEYS, 1, v, wide, T_LANES, acc + i * wide, wide, j > 0, factor);
                }
            }
            for (r = 0; r < count; r++) {
                float *const lanes = sums + r * T_LANES, *const to = out + (b * a->queries + first + r) * a->width;
                float inverse, lse;
                int half, x, odd = 0;
                for (half = T_LANES / 2; half > 0; half /= 2) for (x = 0; x < half; x++) lanes[x] += lanes[x + half];
                /* The largest weight is 1: a sum of 0 is a row without a key. */
                inverse = lanes[0] != 0.0f ? 1.0f / lanes[0] : a->keys == 0 ? 0.0f : t_no_weight(a);
                for (d = 0; d < a->width; d++) {
                    to[d] = acc[r * wide + d] * inverse;
                    odd |= !(to[d] - to[d] == 0.0f);
                }
                lse = lanes[0] == 0.0f ? -INFINITY : top[r] + logf(lanes[0]);
                if (odd && lanes[0] != 0.0f) lse = t_attend_again(&h, first + r, again, to);
                if (a->lse) out[heads * a->queries * a->width + b * a->queries + first + r] = lse;
            }
        }
    }
}
