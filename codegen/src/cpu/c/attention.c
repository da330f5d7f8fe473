/* Attention, a query at a time: scores, their maximum, weights, their sum, the weighted values. The order of sums is
 * not that of the compiled program: the results agree within the tolerance of the op. */
typedef struct { int64_t offset, row, col; const int64_t *batch; } t_matrix;
typedef struct {
    int batches;
    const int64_t *batch;
    int64_t queries, keys, depth, width;
    int causal, mask, mask_adds, safe, lse;
    t_matrix side[4];
} t_attention;

static int64_t t_matrix_at(const t_attention *a, const t_matrix *m, int64_t i) {
    int64_t at = m->offset;
    int d;
    for (d = a->batches; d-- > 0; i /= a->batch[d]) at += i % a->batch[d] * m->batch[d];
    return at;
}

/* A score with its mask. */
static float t_masked(const t_attention *a, const void *mask, int64_t at, float score) {
    if (!a->mask) return score;
    if (a->mask_adds) return score + ((const float *)mask)[at];
    return ((const uint8_t *)mask)[at] ? score : -INFINITY;
}

/* A row that is not finite, by the meaning of the op: sums in double, weights divided by their sum before they meet
 * the values. Gives the logarithm of the sum. */
static float t_attend_again(const t_attention *a, float scale, const float *q, const float *k, const float *v, const void *mask,
                            int64_t at, int64_t seen, float *s, float *to) {
    const t_matrix *const side = a->side;
    float top = -INFINITY;
    double total = 0.0, sum;
    int64_t j, d;
    for (j = 0; j < seen; j++) {
        for (d = 0, sum = 0.0; d < a->depth; d++)
            sum += (double)q[d * side[0].col] * (double)k[j * side[1].row + d * side[1].col];
        s[j] = t_masked(a, mask, at + j * side[3].col, (float)(sum * (double)scale));
        if (s[j] > top || s[j] != s[j]) top = s[j];
    }
    for (j = 0; j < seen; j++) total += (double)(s[j] = t_exp_f32(s[j] - top));
    for (j = 0; j < seen; j++) s[j] = (float)((double)s[j] / total);
    for (d = 0; d < a->width; d++) {
        for (j = 0, sum = 0.0; j < seen; j++) sum += (double)s[j] * (double)v[j * side[2].row + d * side[2].col];
        to[d] = (float)sum;
    }
    return top + t_log_f32((float)total);
}

/* `scratch` holds keys + depth + width numbers. */
static T_CLONES void t_attend(const t_attention *a, float scale, const float *q, const float *k, const float *v, const void *mask,
                              float *out, float *scratch) {
    float *const s = scratch, *const query = s + a->keys, *const sums = query + a->depth;
    int64_t batches = 1, b, i, j, d;
    int x;
    for (x = 0; x < a->batches; x++) batches *= a->batch[x];
    for (b = 0; b < batches; b++) {
        const float *const qb = q + t_matrix_at(a, &a->side[0], b);
        const float *const kb = k + t_matrix_at(a, &a->side[1], b);
        const float *const vb = v + t_matrix_at(a, &a->side[2], b);
        const int64_t mb = a->mask ? t_matrix_at(a, &a->side[3], b) : 0;
        for (i = 0; i < a->queries; i++) {
            const int64_t seen = a->causal && i + 1 < a->keys ? i + 1 : a->keys;
            float *const to = out + (b * a->queries + i) * a->width;
            const int64_t at = mb + i * a->side[3].row;
            float top = -INFINITY, lanes[16], inverse, lse;
            double total = 0.0;
            int odd = 0;
            for (d = 0; d < a->depth; d++) query[d] = qb[i * a->side[0].row + d * a->side[0].col] * scale;
            for (j = 0; j < seen; j++) {
                const float *const key = kb + j * a->side[1].row;
                const int64_t col = a->side[1].col, full = col == 1 ? a->depth / 16 * 16 : 0;
                float sum = 0.0f;
                for (x = 0; x < 16; x++) lanes[x] = 0.0f;
                for (d = 0; d < full; d += 16) for (x = 0; x < 16; x++) lanes[x] = fmaf(query[d + x], key[d + x], lanes[x]);
                for (; d < a->depth; d++) sum = fmaf(query[d], key[d * col], sum);
                for (x = 8; x > 0; x /= 2) for (d = 0; d < x; d++) lanes[d] += lanes[d + x];
                s[j] = sum + lanes[0];
                s[j] = t_masked(a, mask, at + j * a->side[3].col, s[j]);
                if (s[j] > top) top = s[j];
            }
            for (d = 0; d < a->width; d++) sums[d] = 0.0f;
            /* A row without a key has weights of 0. */
            for (j = 0; j < seen; j++) s[j] = s[j] == -INFINITY ? 0.0f : t_exp_f32(s[j] - top);
            for (j = 0; j < seen; j++) {
                const float *const value = vb + j * a->side[2].row;
                const int64_t col = a->side[2].col;
                const float w = s[j];
                total += (double)w;
                if (col == 1) for (d = 0; d < a->width; d++) sums[d] = fmaf(w, value[d], sums[d]);
                else for (d = 0; d < a->width; d++) sums[d] = fmaf(w, value[d * col], sums[d]);
            }
            inverse = total == 0.0 ? (a->keys == 0 || (a->safe && a->mask) ? 0.0f : (float)NAN) : (float)(1.0 / total);
            for (d = 0; d < a->width; d++) {
                to[d] = sums[d] * inverse;
                odd |= !(to[d] - to[d] == 0.0f);
            }
            lse = total == 0.0 ? -INFINITY : top + t_log_f32((float)total);
            if (odd && total != 0.0) lse = t_attend_again(a, scale, qb + i * a->side[0].row, kb, vb, mask, at, seen, s, to);
            if (a->lse) out[batches * a->queries * a->width + b * a->queries + i] = lse;
        }
    }
}
