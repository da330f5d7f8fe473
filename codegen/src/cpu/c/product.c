/* Matrix products. An axis is split into digits, outermost first, each of which counts with its stride. An element is a
 * chain of fused multiply-adds from zero for each T_PIECE terms; the pieces are added in order. */
#define T_PIECE 256

/* Where strides of the batch and digits begin among t_numbers; a digit is its extent and its stride. Pointers would each
 * need a relocation. */
typedef struct {
    int64_t offset;
    uint32_t batch, rows, cols;
    uint16_t row_digits, col_digits;
} t_side;
typedef struct {
    int64_t m, n, k;
    t_side lhs, rhs;
    uint32_t batches, batch;
} t_product;

static T_UNUSED int64_t t_at(uint32_t from, int digits, int64_t i) {
    const int64_t *const d = t_numbers + from;
    int64_t at = 0;
    if (digits == 1) return i * d[1];
    while (digits-- > 0) { at += i % d[2 * digits] * d[2 * digits + 1]; i /= d[2 * digits]; }
    return at;
}
static T_UNUSED int64_t t_batch(const t_product *p, const t_side *s, int64_t i) {
    const int64_t *const extents = t_numbers + p->batch, *const strides = t_numbers + s->batch;
    int64_t at = s->offset;
    uint32_t d;
    for (d = p->batches; d-- > 0; i /= extents[d]) at += i % extents[d] * strides[d];
    return at;
}
static T_UNUSED int64_t t_batches(const t_product *p) {
    int64_t n = 1;
    uint32_t d;
    for (d = 0; d < p->batches; d++) n *= t_numbers[p->batch + d];
    return n;
}
/* Columns at a time, whose sums stay in registers or in the first-level cache. */
#define T_COLS 32
#define T_PRODUCT(NAME, T, A, LOAD, STORE, STEP, ADD)                                       \
    T_INLINE void t_product_##NAME##_of(const t_product *p, const T *l, const T *r, T *out) { \
        const int64_t batches = t_batches(p);                                               \
        int64_t batch, i, j0, k, at[T_COLS];                                                \
        int j, cols;                                                                        \
        for (batch = 0; batch < batches; batch++) {                                         \
            const T *const lb = l + t_batch(p, &p->lhs, batch), *const rb = r + t_batch(p, &p->rhs, batch); \
            for (j0 = 0; j0 < p->n; j0 += T_COLS) {                                         \
                cols = (int)(p->n - j0 < T_COLS ? p->n - j0 : T_COLS);                      \
                for (j = 0; j < cols; j++) at[j] = t_at(p->rhs.cols, p->rhs.col_digits, j0 + j); \
                for (i = 0; i < p->m; i++) {                                                \
                    const T *const li = lb + t_at(p->lhs.rows, p->lhs.row_digits, i);       \
                    A sum[T_COLS], piece[T_COLS];                                           \
                    for (j = 0; j < T_COLS; j++) sum[j] = piece[j] = 0;                     \
                    for (k = 0; k < p->k; k++) {                                            \
                        const T *const rk = rb + t_at(p->rhs.rows, p->rhs.row_digits, k);   \
                        A a;                                                                \
                        { const T x = li[t_at(p->lhs.cols, p->lhs.col_digits, k)]; a = LOAD; } \
                        for (j = 0; j < cols; j++) {                                        \
                            const T x = rk[at[j]];                                          \
                            const A b = LOAD, c = piece[j];                                 \
                            piece[j] = STEP;                                                \
                        }                                                                   \
                        if ((k + 1) % T_PIECE == 0 || k + 1 == p->k)                        \
                            for (j = 0; j < cols; j++) {                                    \
                                const A a = piece[j], c = sum[j];                           \
                                sum[j] = k < T_PIECE ? a : (A)(ADD);                        \
                                piece[j] = 0;                                               \
                            }                                                               \
                    }                                                                       \
                    for (j = 0; j < cols; j++) {                                            \
                        const A x = sum[j];                                                 \
                        out[(batch * p->m + i) * p->n + j0 + j] = (T)(STORE);               \
                    }                                                                       \
                }                                                                           \
            }                                                                               \
        }                                                                                   \
    }                                                                                       \
    T_LEVELS(static, t_product_##NAME, (const t_product *p, const T *l, const T *r, T *out), (p, l, r, out))
