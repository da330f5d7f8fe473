//! The text of the kernel of `attention_mma`, with names `$name` for what a call decides, and its device functions.

/// From the operands to the sums of weighted values.
pub(super) const BODY: &str = "    extern __shared__ __align__(16) unsigned char room[];
    const unsigned base = t_shared(room);
    const int tid = (int)threadIdx.x;
    const int lane = tid & 31;
    const int warp = tid >> 5;
    const int group = lane >> 2;
    const int place = lane & 3;
    const unsigned batch = blockIdx.x / $blocksu;
    const int q0 = $block * $nq;
    const int own = q0 + warp * $span;
$pointers$seed$copy_q    t_commit();
$copy_first    t_commit();
    t_wait_1();
    __syncthreads();
    unsigned qf[$tiles][$steps][4];
    #pragma unroll
    for (int r = 0; r < $tiles; ++r) {
        #pragma unroll
        for (int d = 0; d < $steps; ++d) t_matrices(qf[r][d], base + 2u * (unsigned)((warp * $span + r * 16 + (lane & 15)) * $pq + d * 16 + (lane >> 4) * 8));
    }
    float top[$rows];
    float sum[$rows];
    float less[$rows];
$low    float acc[$tiles][$values][4] = {};
    #pragma unroll
    for (int i = 0; i < $rows; ++i) {
        top[i] = $inf;
        sum[i] = 0.0f;
        less[i] = 0.0f;
    }
    #pragma unroll 1
    for (int k0 = 0; k0 < $end; k0 += $nk) {
        // The keys are there, and all are past the values before.
        t_wait_0();
        __syncthreads();
$copy_v        t_commit();
        float sc[$tiles][$scores][4] = {};
        #pragma unroll
        for (int d = 0; d < $steps; ++d) {
            #pragma unroll
            for (int c = 0; c < $scores; c += 2) {
                unsigned b[4];
                t_matrices(b, base + $ksu + 2u * (unsigned)((c * 8 + (lane >> 4) * 8 + (lane & 7)) * $pk + d * 16 + ((lane >> 3) & 1) * 8));
                #pragma unroll
                for (int r = 0; r < $tiles; ++r) {
                    t_mma_$dtype(sc[r][c], qf[r][d], b);
                    t_mma_$dtype(sc[r][c + 1], qf[r][d], b + 2);
                }
            }
        }
$masks        #pragma unroll
        for (int i = 0; i < $rows; ++i) {
            const int r = i >> 1;
            const int h = (i & 1) * 2;
            float most = top[i];
            #pragma unroll
            for (int c = 0; c < $scores; ++c) most = fmaxf(most, fmaxf(sc[r][c][h], sc[r][c][h + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            const float level = most == $inf ? 0.0f : most;
            const float before = less[i];
            less[i] = $less;
            const float factor = top[i] == $inf ? 0.0f : t_ex2($rescale);
            top[i] = most;
            sum[i] = __fmul_rn(sum[i], factor);
            #pragma unroll
            for (int c = 0; c < $scores; ++c) {
                #pragma unroll
                for (int e = h; e < h + 2; ++e) {
                    const float x = sc[r][c][e];
                    sc[r][c][e] = t_ex2($exponent);
                    sum[i] = __fadd_rn(sum[i], sc[r][c][e]);
                }
            }
            #pragma unroll
            for (int c = 0; c < $values; ++c) {
                acc[r][c][h] = __fmul_rn(acc[r][c][h], factor);
                acc[r][c][h + 1] = __fmul_rn(acc[r][c][h + 1], factor);
            }
        }
$dropped        // The values are there, and all are past the keys.
        t_wait_0();
        __syncthreads();
        const int next = k0 + $nk;
        if (next < $end) {
$copy_k        t_commit();
        }
        #pragma unroll
        for (int n = 0; n < $scores; n += 2) {
            unsigned p[$tiles][4];
            #pragma unroll
            for (int r = 0; r < $tiles; ++r) {
                p[r][0] = t_pack_$dtype(sc[r][n][0], sc[r][n][1]);
                p[r][1] = t_pack_$dtype(sc[r][n][2], sc[r][n][3]);
                p[r][2] = t_pack_$dtype(sc[r][n + 1][0], sc[r][n + 1][1]);
                p[r][3] = t_pack_$dtype(sc[r][n + 1][2], sc[r][n + 1][3]);
            }
            #pragma unroll
            for (int c = 0; c < $values; c += 2) {
                unsigned b[4];
                t_matrices_trans(b, base + $vsu + 2u * (unsigned)((n * 8 + ((lane >> 3) & 1) * 8 + (lane & 7)) * $pv + c * 8 + (lane >> 4) * 8));
                #pragma unroll
                for (int r = 0; r < $tiles; ++r) {
                    t_mma_$dtype(acc[r][c], p[r], b);
                    t_mma_$dtype(acc[r][c + 1], p[r], b + 2);
                }
            }
        }
    }
    t_wait_0();
";

/// Division by the sums, and the result.
pub(super) const END: &str = "$join    unsigned odds = 0u;
    #pragma unroll
    for (int i = 0; i < $rows; ++i) {
        float total = sum[i];
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 1));
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 2));
        const int at = warp * $span + (i >> 1) * 16 + (i & 1) * 8 + group;
$row        // No key at all, or none whose product does not overflow: those rows are computed again.
        const bool none = total == 0.0f && top[i] == $inf;
        const bool lost = $lost;
        const float inverse = lost ? __int_as_float(0x7fc00000) : none ? $none : __fdiv_rn($factor, total);
$to        #pragma unroll
        for (int c = 0; c < $values; ++c) {
            const int col = c * 8 + place * 2;
            const float y0 = __fmul_rn(acc[i >> 1][c][(i & 1) * 2], inverse);
            const float y1 = __fmul_rn(acc[i >> 1][c][(i & 1) * 2 + 1], inverse);
$store            if ((lost || !none) && ((col < $width && $odd0) || (col + 1 < $width && $odd1))) odds |= 1u << i;
        }
$logarithms    }
$last";

/// Exponentials, and two numbers rounded into a word.
pub(super) const HELPERS: &str = r#"
static __device__ __forceinline__ float t_ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ unsigned t_pack_f16(float lo, float hi) {
    unsigned r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

static __device__ __forceinline__ unsigned t_pack_bf16(float lo, float hi) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
"#;
