/* Products of f32 in tiles of T_ROWS rows over packed panels of columns, in vectors of the processor. */
#define T_ROWS 6
#define T_PANEL 16
#define T_BLOCK 512

/* sums[R][T_PANEL] = the piece of `depth` terms; a: T_ROWS numbers a term, b: T_PANEL numbers every `step`. */
#define T_TILE(NAME, TARGET, V, WIDE, ZERO, FULL, READ, FMA, WRITE, R)                                 \
    TARGET T_FAST static void NAME(int64_t depth, const float *a, const float *b, int64_t step, float *sums) { \
        V c[R][T_PANEL / WIDE];                                                                        \
        int64_t k;                                                                                     \
        int i, j;                                                                                      \
        for (i = 0; i < R; i++) for (j = 0; j < T_PANEL / WIDE; j++) c[i][j] = ZERO;                   \
        for (k = 0; k < depth; k++, a += T_ROWS, b += step) {                                          \
            V x[T_PANEL / WIDE];                                                                       \
            for (j = 0; j < T_PANEL / WIDE; j++) x[j] = READ(b + WIDE * j);                            \
            for (i = 0; i < R; i++) {                                                                  \
                const V y = FULL(a[i]);                                                                \
                for (j = 0; j < T_PANEL / WIDE; j++) c[i][j] = FMA(y, x[j], c[i][j]);                  \
            }                                                                                          \
        }                                                                                              \
        for (i = 0; i < R; i++) for (j = 0; j < T_PANEL / WIDE; j++) WRITE(sums + T_PANEL * i + WIDE * j, c[i][j]); \
    }

T_TILE(t_tile_plain, , float, 1, 0.0f, T_FULL1, T_READ1, fmaf, T_WRITE1, T_ROWS)
T_TILE(t_row_plain, , float, 1, 0.0f, T_FULL1, T_READ1, fmaf, T_WRITE1, 1)
#if defined(__x86_64__)
T_TILE(t_tile_avx2, T_AVX2, __m256, 8, _mm256_setzero_ps(), _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps,
       _mm256_storeu_ps, T_ROWS)
T_TILE(t_row_avx2, T_AVX2, __m256, 8, _mm256_setzero_ps(), _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps,
       _mm256_storeu_ps, 1)
#elif defined(__aarch64__)
T_TILE(t_tile_neon, , float32x4_t, 4, vdupq_n_f32(0.0f), vdupq_n_f32, vld1q_f32, T_FMA4, vst1q_f32, T_ROWS)
T_TILE(t_row_neon, , float32x4_t, 4, vdupq_n_f32(0.0f), vdupq_n_f32, vld1q_f32, T_FMA4, vst1q_f32, 1)
#endif

typedef void (*t_tile)(int64_t, const float *, const float *, int64_t, float *);

/* Packs columns j0.. of a piece of the right operand into panels; what is beyond the last column is 0. */
static void t_pack_rhs(const t_product *p, const float *r, int64_t k0, int64_t depth, int64_t j0, int64_t cols,
                       float *to) {
    const t_side *const s = &p->rhs;
    int64_t j, k, rows[T_PIECE];
    int i;
    for (k = 0; k < depth; k++) rows[k] = t_at(s->rows, s->row_digits, k0 + k);
    for (j = 0; j < cols; j += T_PANEL, to += T_PANEL * depth) {
        if (s->col_digits == 1 && t_numbers[s->cols + 1] == 1 && j + T_PANEL <= cols) {
            for (k = 0; k < depth; k++) memcpy(to + k * T_PANEL, r + rows[k] + j0 + j, T_PANEL * sizeof(float));
            continue;
        }
        for (i = 0; i < T_PANEL; i++) {
            const float *from;
            if (j + i >= cols) {
                for (k = 0; k < depth; k++) to[k * T_PANEL + i] = 0.0f;
                continue;
            }
            from = r + t_at(s->cols, s->col_digits, j0 + j + i);
            for (k = 0; k < depth; k++) to[k * T_PANEL + i] = from[rows[k]];
        }
    }
}

/* A product that is not worth packing: one piece of each sum. */
#define T_SMALL 4096
T_INLINE void t_small_f32_of(const t_product *p, const float *l, const float *r, float *out) {
    int64_t i, j, k, lhs[T_PIECE], rhs[T_PIECE];
    for (k = 0; k < p->k; k++) {
        lhs[k] = t_at(p->lhs.cols, p->lhs.col_digits, k);
        rhs[k] = t_at(p->rhs.rows, p->rhs.row_digits, k);
    }
    for (i = 0; i < p->m; i++) {
        const float *const a = l + t_at(p->lhs.rows, p->lhs.row_digits, i);
        for (j = 0; j < p->n; j++) {
            const float *const b = r + t_at(p->rhs.cols, p->rhs.col_digits, j);
            float sum = 0.0f;
            for (k = 0; k < p->k; k++) sum = fmaf(a[lhs[k]], b[rhs[k]], sum);
            *out++ = sum;
        }
    }
}
T_LEVELS(static, t_small_f32, (const t_product *p, const float *l, const float *r, float *out), (p, l, r, out))

/* `scratch` holds T_PIECE * (T_BLOCK + T_ROWS) numbers. */
static __attribute__((noinline)) void t_product_f32(const t_product *p, const float *l, const float *r, float *out, float *scratch) {
    const int64_t batches = t_batches(p);
    float *const right = scratch, *const left = scratch + T_PIECE * T_BLOCK;
    t_tile tile = t_tile_plain, row = t_row_plain;
    float sums[T_ROWS * T_PANEL];
    const int small = p->k <= T_PIECE && p->m <= T_SMALL && p->n <= T_SMALL && p->m * p->n * p->k <= T_SMALL;
    int64_t batch, j0, k0, i, j, k, cols, depth, at[T_PIECE];
    int x, y, rows, wide;
#if defined(__x86_64__)
    if (t_wide) { tile = t_tile_avx2; row = t_row_avx2; }
#elif defined(__aarch64__)
    tile = t_tile_neon;
    row = t_row_neon;
#endif
    if (p->k == 0) {
        for (i = 0; i < batches * p->m * p->n; i++) out[i] = 0.0f;
        return;
    }
    for (batch = 0; batch < batches; batch++, out += p->m * p->n) {
        const float *const lb = l + t_batch(p, &p->lhs, batch), *const rb = r + t_batch(p, &p->rhs, batch);
        if (small) {
            t_small_f32(p, lb, rb, out);
            continue;
        }
        /* Rows of the right operand that lie as a panel does, and are used by few tiles, are read where they are. */
        const int direct = p->m <= T_ROWS && p->rhs.col_digits == 1 && t_numbers[p->rhs.cols + 1] == 1 && p->rhs.row_digits <= 1;
        for (j0 = 0; j0 < p->n; j0 += T_BLOCK) {
            cols = p->n - j0 < T_BLOCK ? p->n - j0 : T_BLOCK;
            for (k0 = 0; k0 < p->k; k0 += T_PIECE) {
                const int64_t whole = direct ? cols / T_PANEL * T_PANEL : 0;
                depth = p->k - k0 < T_PIECE ? p->k - k0 : T_PIECE;
                t_pack_rhs(p, rb, k0, depth, j0 + whole, cols - whole, right + whole * depth);
                for (k = 0; k < depth; k++) at[k] = t_at(p->lhs.cols, p->lhs.col_digits, k0 + k);
                for (i = 0; i < p->m; i += T_ROWS) {
                    rows = (int)(p->m - i < T_ROWS ? p->m - i : T_ROWS);
                    for (x = 0; x < T_ROWS; x++) {
                        const float *const from = lb + (x < rows ? t_at(p->lhs.rows, p->lhs.row_digits, i + x) : 0);
                        if (x < rows) for (k = 0; k < depth; k++) left[k * T_ROWS + x] = from[at[k]];
                        else if (rows > 1) for (k = 0; k < depth; k++) left[k * T_ROWS + x] = 0.0f;
                    }
                    for (j = 0; j < cols; j += T_PANEL) {
                        const float *b = right + j * depth;
                        int64_t step = T_PANEL;
                        if (j < whole) {
                            step = p->rhs.row_digits ? t_numbers[p->rhs.rows + 1] : 0;
                            b = rb + k0 * step + j0 + j;
                        }
                        (rows == 1 ? row : tile)(depth, left, b, step, sums);
                        wide = (int)(cols - j < T_PANEL ? cols - j : T_PANEL);
                        for (x = 0; x < rows; x++) {
                            float *const c = out + (i + x) * p->n + j0 + j;
                            const float *const s = sums + x * T_PANEL;
                            if (k0 == 0) for (y = 0; y < wide; y++) c[y] = s[y];
                            else for (y = 0; y < wide; y++) c[y] += s[y];
                        }
                    }
                }
            }
        }
    }
}
