/* Library calls on contiguous buffers: `outer` blocks of `size` rows of `inner` elements. Indices are checked before
 * anything is written; T_BAD_INDEX is returned for the first one that is out of range. */
#define T_BAD_INDEX 1

/* Indices along one dim; those that may be negative count from the end. */
static T_UNUSED int t_check(const int64_t *index, int64_t n, int64_t size, int64_t least) {
    int64_t i;
    for (i = 0; i < n; i++) if (index[i] < least || index[i] >= size) return T_BAD_INDEX;
    return 0;
}

static T_UNUSED int t_take(const unsigned char *x, const int64_t *index, unsigned char *out, int64_t outer, int64_t size,
                           int64_t count, int64_t row) {
    int64_t o, i;
    if (t_check(index, count, size, -size)) return T_BAD_INDEX;
    for (o = 0; o < outer; o++)
        for (i = 0; i < count; i++) {
            const int64_t at = index[i] < 0 ? index[i] + size : index[i];
            memcpy(out + (o * count + i) * row, x + (o * size + at) * row, (size_t)row);
        }
    return 0;
}

/* Visits the elements of `dims` in row-major order; `place` is their position in a tensor of `strides` without the
 * part of dim `skip`. */
#define T_EACH(RANK, DIMS, STRIDES, SKIP, N, BODY)                                       \
    {                                                                                    \
        int64_t at_[16] = {0}, e, place = 0;                                             \
        for (e = 0; e < (N); e++) {                                                      \
            int d_;                                                                      \
            BODY                                                                         \
            for (d_ = (RANK) - 1; d_ >= 0; d_--) {                                       \
                const int64_t s_ = d_ == (SKIP) ? 0 : (STRIDES)[d_];                     \
                place += s_;                                                             \
                if (++at_[d_] < (DIMS)[d_]) break;                                       \
                place -= s_ * (DIMS)[d_];                                                \
                at_[d_] = 0;                                                             \
            }                                                                            \
        }                                                                                \
    }

/* out[i][j] = x[index[i][j]][j]: `dims` of the index, `strides` of x. */
#define T_GATHER(NAME, T)                                                                                 \
    static T_UNUSED int NAME(const T *x, const int64_t *index, T *out, int rank, const int64_t *dims,    \
                             const int64_t *strides, int dim, int64_t size, int64_t n) {                 \
        if (t_check(index, n, size, 0)) return T_BAD_INDEX;                                               \
        T_EACH(rank, dims, strides, dim, n, out[e] = x[place + index[e] * strides[dim]];)                 \
        return 0;                                                                                         \
    }
T_GATHER(t_gather_1, uint8_t)
T_GATHER(t_gather_2, uint16_t)
T_GATHER(t_gather_4, uint32_t)
T_GATHER(t_gather_8, uint64_t)

/* out = base; out[index[i][j]][j] = out combined with src[i][j]; a is the old element, x the new one. */
#define T_SCATTER(NAME, T, E)                                                                             \
    static T_UNUSED int t_scatter_##NAME(const T *base, const int64_t *index, const T *src, T *out, int rank, \
                                         const int64_t *dims, const int64_t *strides, int dim, int64_t size, \
                                         int64_t n, int64_t all) {                                        \
        if (t_check(index, n, size, 0)) return T_BAD_INDEX;                                               \
        if (base != out) memcpy(out, base, (size_t)all * sizeof(T));                                      \
        T_EACH(rank, dims, strides, dim, n, {                                                             \
            T *const to = out + place + index[e] * strides[dim];                                          \
            const T a = *to;                                                                              \
            const T x = src[e];                                                                           \
            (void)a;                                                                                      \
            *to = (T)(E);                                                                                 \
        })                                                                                                \
        return 0;                                                                                         \
    }                                                                                                     \
    /* out = base; out[.., index[j], ..] combined with src[.., j, ..]. */                                 \
    static T_UNUSED int t_index_put_##NAME(const T *base, const int64_t *index, const T *src, T *out, int64_t outer, \
                                           int64_t size, int64_t count, int64_t inner) {                  \
        int64_t o, i, j;                                                                                  \
        if (t_check(index, count, size, -size)) return T_BAD_INDEX;                                       \
        if (base != out) memcpy(out, base, (size_t)(outer * size * inner) * sizeof(T));                   \
        for (o = 0; o < outer; o++)                                                                       \
            for (i = 0; i < count; i++) {                                                                 \
                T *const to = out + (o * size + (index[i] < 0 ? index[i] + size : index[i])) * inner;     \
                for (j = 0; j < inner; j++) {                                                             \
                    const T a = to[j], x = src[(o * count + i) * inner + j];                              \
                    (void)a;                                                                              \
                    to[j] = (T)(E);                                                                       \
                }                                                                                         \
            }                                                                                             \
        return 0;                                                                                         \
    }

/* Positions that sort `size` elements, equal ones in their order: a merge of ever longer runs. KEY is an integer that
 * orders as x does. `scratch` holds 4 * size numbers of 64 bits. */
#define T_ARGSORT(NAME, T, KEY)                                                                           \
    static T_UNUSED void t_argsort_##NAME(const T *src, int64_t *out, int64_t outer, int64_t size, int64_t inner, \
                                          uint64_t flip, uint64_t *scratch) {                             \
        int64_t o, j, i, run;                                                                             \
        for (o = 0; o < outer; o++)                                                                       \
            for (j = 0; j < inner; j++) {                                                                 \
                uint64_t *from = scratch, *to = scratch + 2 * size;                                       \
                for (i = 0; i < size; i++) {                                                              \
                    const T x = src[(o * size + i) * inner + j];                                          \
                    from[2 * i] = (uint64_t)(KEY) ^ flip;                                                 \
                    from[2 * i + 1] = (uint64_t)i;                                                        \
                }                                                                                         \
                for (run = 1; run < size; run *= 2) {                                                     \
                    int64_t first, w = 0;                                                                 \
                    uint64_t *const swap = from;                                                          \
                    for (first = 0; first < size; first += 2 * run) {                                     \
                        const int64_t middle = first + run < size ? first + run : size;                   \
                        const int64_t end = middle + run < size ? middle + run : size;                    \
                        int64_t a = first, b = middle;                                                    \
                        for (; a < middle || b < end; w++) {                                              \
                            const int left = b >= end || (a < middle && from[2 * a] <= from[2 * b]);      \
                            const int64_t take = left ? a++ : b++;                                        \
                            to[2 * w] = from[2 * take];                                                   \
                            to[2 * w + 1] = from[2 * take + 1];                                           \
                        }                                                                                 \
                    }                                                                                     \
                    from = to;                                                                            \
                    to = swap;                                                                            \
                }                                                                                         \
                for (i = 0; i < size; i++) out[(o * size + i) * inner + j] = (int64_t)from[2 * i + 1];    \
            }                                                                                             \
    }
/* NaN last, both zeros equal; negative numbers order backwards. */
T_INLINE uint64_t t_key_float(double x) {
    const uint64_t bits = t_bits64(x + 0.0);
    if (x != x) return UINT64_MAX;
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

/* Running folds along a dim: a is the fold so far in A, x the element. */
#define T_SCAN(NAME, T, A, WIDE, NARROW, E)                                                               \
    static T_UNUSED void t_scan_##NAME(const T *src, T *out, int64_t outer, int64_t size, int64_t inner) { \
        int64_t o, i, j;                                                                                  \
        for (o = 0; o < outer; o++)                                                                       \
            for (j = 0; j < inner; j++) {                                                                 \
                A acc = 0;                                                                                \
                for (i = 0; i < size; i++) {                                                              \
                    const int64_t at = (o * size + i) * inner + j;                                        \
                    const T e = src[at];                                                                  \
                    const A a = acc, x = WIDE;                                                            \
                    acc = i == 0 ? x : (A)(E);                                                            \
                    out[at] = i == 0 ? e : (T)(NARROW);                                                   \
                }                                                                                         \
            }                                                                                             \
    }

static T_UNUSED void t_fill(unsigned char *out, int64_t n, int64_t bytes, uint64_t bits) {
    int64_t i;
    for (i = 0; i < n; i++) memcpy(out + i * bytes, &bits, (size_t)bytes);
}
