/* The gradient of attention: weights again from the logarithm of each row's sum, block by block. With p the weights after
 * dropout and ds = p * (drop(ct v') - delta), where delta is the product of a row's result and cotangent:
 * dv = p' ct, dk = ds' q scale, dq = ds k scale. */

/* Scores to weights by the logarithm of the row's sum. */
T_INLINE void t_weights_by_of(float *s, int64_t cols, float lse) {
    int64_t x;
    /* No weight exceeds 1 where `lse` is that of the scores; of any other one it may overflow, to infinity. */
    T_LOOP for (x = 0; x < cols; x++) s[x] = t_attend_exp(s[x] - lse > 89.0f ? 89.0f : s[x] - lse);
}
T_LEVELS(static, t_weights_by, (float *s, int64_t cols, float lse), (s, cols, lse))

T_INLINE void t_grads_of(const float *p, float *ds, int64_t cols, float delta) {
    int64_t x;
    T_LOOP for (x = 0; x < cols; x++) ds[x] = p[x] * (ds[x] - delta);
}
T_LEVELS(static, t_grads, (const float *p, float *ds, int64_t cols, float delta), (p, ds, cols, delta))

/* The product of a row of the result and its cotangent, by 16 lanes. */
static float t_delta(const float *out, const float *ct, int64_t n) {
    double lanes[T_LANES], sum = -0.0;
    int64_t d;
    int i;
    for (i = 0; i < T_LANES; i++) lanes[i] = 0.0;
    for (d = 0; d < n; d++) lanes[d % T_LANES] += (double)out[d] * (double)ct[d];
    for (i = 0; i < T_LANES; i++) sum += lanes[i];
    return (float)sum;
}

/* Copies rows without their padding, times factor. */
static void t_unpack(const float *from, int64_t wide, int64_t rows, int64_t cols, float factor, float *to) {
    int64_t r, d;
    for (r = 0; r < rows; r++, from += wide, to += cols) for (d = 0; d < cols; d++) to[d] = from[d] * factor;
}

static int t_odd(const float *x, int64_t n) {
    int odd = 0;
    while (n-- > 0) odd |= !(x[n] - x[n] == 0.0f);
    return odd;
}

/* A head of the backward pass: besides its operands the cotangent, the result and the logarithms of the sums. */
typedef struct {
    t_call h;
    const float *ct, *out, *lse;
} t_back;

/* The cotangent of a score before the scale, by the meaning of the op; the weight after dropout into `p`. */
static float t_grad_again(const t_back *g, int64_t i, int64_t j, float inner, float *p) {
    const t_attention *const a = g->h.a;
    const float *const ct = g->ct + i * a->side[4].row, *const v = g->h.v + j * a->side[2].row;
    const float w = g->lse[i] == -INFINITY ? t_no_weight(a) : (float)exp((double)(t_score(&g->h, i, j) - g->lse[i]));
    double sum = -0.0;
    float dp;
    int64_t d;
    for (d = 0; d < a->width; d++) sum += (double)ct[d * a->side[4].col] * (double)v[d * a->side[2].col];
    dp = (float)sum;
    *p = a->drops ? t_dropped(&g->h, i, j, w) : w;
    return w * ((a->drops ? t_dropped(&g->h, i, j, dp) : dp) - inner);
}

/* Rows of a head's cotangents that are not finite, again by the meaning of the op. Rows that are NaN by that meaning, too,
 * stay: a training run that has diverged does not come to a halt here. */
static void t_back_again(const t_back *g, float *dq, float *dk, float *dv, float *room) {
    const t_attention *const a = g->h.a;
    const double scale = t_double(a->scale64);
    float *const inner = room, *const ds = inner + a->queries, *const p = ds + a->queries + a->keys;
    int64_t last = -1, last_weight = -1, i, j, d;
    double sum;
    for (i = 0; i < a->queries; i++) {
        for (d = 0, sum = -0.0; d < a->width; d++)
            sum += (double)g->out[i * a->width + d] * (double)g->ct[i * a->side[4].row + d * a->side[4].col];
        inner[i] = (float)sum;
        if (g->lse[i] != g->lse[i]) last = last_weight = i;
        else if (inner[i] != inner[i]) last = i;
        else if (t_odd(dq + i * a->depth, a->depth)) {
            const int64_t seen = t_seen(a, i);
            for (j = 0; j < seen; j++) ds[j] = t_grad_again(g, i, j, inner[i], p);
            for (d = 0; d < a->depth; d++) {
                const float *const k = g->h.k + d * a->side[1].col;
                for (j = 0, sum = 0.0; j < seen; j++) sum += (double)ds[j] * scale * (double)k[j * a->side[1].row];
                dq[i * a->depth + d] = (float)sum;
            }
        }
    }
    for (j = 0; j < a->keys; j++, dk += a->depth, dv += a->width) {
        const int64_t first = a->causal ? j : 0;
        const int again_k = t_odd(dk, a->depth) && !(last >= first);
        const int again_v = t_odd(dv, a->width) && (a->drops || !(last_weight >= first));
        if (!again_k && !again_v) continue;
        for (i = first; i < a->queries; i++) ds[i] = t_grad_again(g, i, j, inner[i], p + i);
        for (d = 0; again_k && d < a->depth; d++) {
            const float *const q = g->h.q + d * a->side[0].col;
            for (i = first, sum = 0.0; i < a->queries; i++) sum += (double)ds[i] * scale * (double)q[i * a->side[0].row];
            dk[d] = (float)sum;
        }
        for (d = 0; again_v && d < a->width; d++) {
            const float *const ct = g->ct + d * a->side[4].col;
            for (i = first, sum = 0.0; i < a->queries; i++) sum += (double)p[i] * (double)ct[i * a->side[4].row];
            dv[d] = (float)sum;
        }
    }
}

/* `row` is the result of the forward pass with its logarithms, `ct` the cotangent; `out` takes dq, dk and dv one after
 * another. `scratch` holds up * deep + T_QUERIES * (deep + wide + 2) + T_KEYS * (depth + width + 2 * deep + wide) +
 * 3 * T_QUERIES * T_KEYS + 3 * queries + keys + 1 numbers; `deep` and `wide` are depth and width as multiples of 16, `up` the
 * queries as a multiple of 32. */
static void t_attend_back(const t_call *call, const float *row, const float *ct, float *out, float *scratch) {
    const t_attention *const a = call->a;
    const t_part part = t_part_of();
    const int64_t heads = t_heads(a), deep = T_UP(a->depth, T_LANES), wide = T_UP(a->width, T_LANES);
    float *const dq = scratch, *const q = dq + T_UP(a->queries, T_QUERIES) * deep, *const c = q + T_QUERIES * deep;
    float *const kp = c + T_QUERIES * wide, *const vp = kp + T_KEYS * a->depth, *const k = vp + T_KEYS * a->width;
    float *const dk = k + T_KEYS * deep, *const dv = dk + T_KEYS * deep, *const p = dv + T_KEYS * wide;
    float *const kept = p + T_QUERIES * T_KEYS, *const ds = kept + T_QUERIES * T_KEYS;
    float *const lse = ds + T_QUERIES * T_KEYS, *const delta = lse + T_QUERIES, *const room = delta + T_QUERIES;
    int64_t b, i, j, r;
    for (b = 0; b < heads; b++) {
        t_back g;
        float *const to_q = out + b * a->queries * a->depth;
        float *const to_k = out + (heads * a->queries + b * a->keys) * a->depth;
        float *const to_v = out + heads * (a->queries + a->keys) * a->depth + b * a->keys * a->width;
        g.h = t_head(call, b);
        g.ct = ct + t_matrix_at(a, &a->side[4], b);
        g.out = row + b * a->queries * a->width;
        g.lse = row + heads * a->queries * a->width + b * a->queries;
        memset(dq, 0, (size_t)(T_UP(a->queries, T_QUERIES) * deep) * sizeof(float));
        for (j = 0; j < a->keys; j += T_KEYS) {
            const int64_t n = a->keys - j < T_KEYS ? a->keys - j : T_KEYS;
            memset(dk, 0, (size_t)(T_KEYS * (deep + wide)) * sizeof(float));
            if (!a->causal || j < a->queries) {
                t_pack_panels(g.h.k + j * a->side[1].row, &a->side[1], n, a->depth, kp);
                t_pack_panels(g.h.v + j * a->side[2].row, &a->side[2], n, a->width, vp);
                t_pack_rows(g.h.k + j * a->side[1].row, &a->side[1], n, a->depth, 1.0f, k, deep, n);
            }
            for (i = 0; i < a->queries; i += T_QUERIES) {
                const int64_t rows = a->queries - i < T_QUERIES ? a->queries - i : T_QUERIES, up = T_UP(rows, 4);
                const int64_t cols = t_block_cols(a, i, rows, j), padded = T_UP(cols, T_LANES), keys = T_UP(cols, 8);
                if (cols <= 0) continue;
                t_pack_rows(g.h.q + i * a->side[0].row, &a->side[0], rows, a->depth, t_float(a->scale), q, deep, up);
                t_pack_rows(g.ct + i * a->side[4].row, &a->side[4], rows, a->width, 1.0f, c, wide, up);
                for (r = 0; r < up; r++) {
                    /* Rows of padding, and rows without a key, have no weights. */
                    lse[r] = r >= rows ? INFINITY : g.lse[i + r] != -INFINITY ? g.lse[i + r] :
                             a->safe && a->mask ? INFINITY : (float)NAN;
                    delta[r] = r < rows ? t_delta(g.out + (i + r) * a->width, c + r * wide, a->width) : 0.0f;
                }
                t_parts(part, up, padded, a->depth, q, deep, 1, kp, T_LANES, T_LANES * a->depth, p, T_KEYS, 0, 0);
                t_parts(part, up, padded, a->width, c, wide, 1, vp, T_LANES, T_LANES * a->width, ds, T_KEYS, 0, 0);
                t_hide(&g.h, p, i, j, rows, cols);
                for (r = 0; r < up; r++) t_weights_by(p + r * T_KEYS, padded, lse[r]);
                if (a->drops) {
                    memcpy(kept, p, (size_t)(up * T_KEYS) * sizeof(float));
                    t_drop(&g.h, kept, i, j, rows, cols);
                    t_drop(&g.h, ds, i, j, rows, cols);
                }
                for (r = 0; r < up; r++) t_grads(p + r * T_KEYS, ds + r * T_KEYS, padded, delta[r]);
                /* Sums over queries: keys are the rows of the result. */
                t_parts(part, keys, wide, rows, a->drops ? kept : p, 1, T_KEYS, c, wide, T_LANES, dv, wide, 1, 0);
                t_parts(part, keys, deep, rows, ds, 1, T_KEYS, q, deep, T_LANES, dk, deep, 1, 0);
                t_parts(part, up, deep, cols, ds, T_KEYS, 1, k, deep, T_LANES, dq + i * deep, deep, 1, 0);
            }
            t_unpack(dk, deep, n, a->depth, 1.0f, to_k + j * a->depth);
            t_unpack(dv, wide, n, a->width, 1.0f, to_v + j * a->width);
        }
        t_unpack(dq, deep, a->queries, a->depth, t_float(a->scale), to_q);
        if (t_odd(to_q, a->queries * a->depth) || t_odd(to_k, a->keys * a->depth) || t_odd(to_v, a->keys * a->width))
            t_back_again(&g, to_q, to_k, to_v, room);
    }
}
