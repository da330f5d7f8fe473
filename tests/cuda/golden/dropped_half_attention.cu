// k0_attention_mma_bf16_64x64 grid [6, 1, 1] block [128, 1, 1] dynamic shared 31744 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, Buffer { buf: BufId(3), offset: 0 }, Buffer { buf: BufId(4), offset: 0 }]

static __device__ __forceinline__ float t_b2f(unsigned short h) {
    return __int_as_float((int)((unsigned)h << 16));
}
static __device__ __forceinline__ float t_exp(const float f0) {
    const float f1 = __int_as_float(0x42b20000);
    const float f2 = f1 < f0 ? f1 : f0;
    const float f3 = __int_as_float(0xc2d00000);
    const float f4 = f3 > f2 ? f3 : f2;
    const float f5 = __int_as_float(0x3fb8aa3b);
    const float f6 = __int_as_float(0x4b4000fe);
    const float f7 = __fmaf_rn(f4, f5, f6);
    const float f8 = __fsub_rn(f7, f6);
    const float f9 = __int_as_float(0x3f317218);
    const float f10 = __int_as_float(0xb102e308);
    const float f11 = __fmaf_rn(-f8, f9, f4);
    const float f12 = __fmaf_rn(-f8, f10, f11);
    const int i13 = __float_as_int(f7);
    const float f14 = __int_as_float(0x3ab520aa);
    const float f15 = __int_as_float(0x3c091ce3);
    const float f16 = __fmaf_rn(f14, f12, f15);
    const float f17 = __int_as_float(0x3d2aac5e);
    const float f18 = __fmaf_rn(f16, f12, f17);
    const float f19 = __int_as_float(0x3e2aaa49);
    const float f20 = __fmaf_rn(f18, f12, f19);
    const float f21 = __int_as_float(0x3efffffe);
    const float f22 = __fmaf_rn(f20, f12, f21);
    const float f23 = __int_as_float(0x3f800000);
    const float f24 = __fmaf_rn(f22, f12, f23);
    const float f25 = __int_as_float(0x3f800000);
    const float f26 = __fmaf_rn(f24, f12, f25);
    const int i27 = (int)((unsigned)i13 >> 1);
    const int i28 = (int)((unsigned)i13 - (unsigned)i27);
    const int i29 = (int)((unsigned)i27 << 23);
    const int i30 = (int)((unsigned)i28 << 23);
    const float f31 = __int_as_float(i29);
    const float f32 = __int_as_float(i30);
    const float f33 = __fmul_rn(f26, f31);
    const float f34 = __fmul_rn(f33, f32);
    return f34;
}
static __device__ __forceinline__ float t_log(const float f0) {
    const float f1 = __int_as_float(0x00800000);
    const bool m2 = f0 < f1;
    const float f3 = __int_as_float(0x4b000000);
    const float f4 = __fmul_rn(f0, f3);
    const float f5 = m2 ? f4 : f0;
    const float f6 = __int_as_float(0xc1b80000);
    const float f7 = __int_as_float(0x00000000);
    const float f8 = m2 ? f6 : f7;
    const int i9 = __float_as_int(f5);
    const int i10 = (int)0x3f2b6000u;
    const int i11 = (int)0xff800000u;
    const int i12 = (int)((unsigned)i9 - (unsigned)i10);
    const int i13 = i12 & i11;
    const int i14 = (int)((unsigned)i9 - (unsigned)i13);
    const float f15 = __int_as_float(i14);
    const float f16 = __int_as_float(0x3f800000);
    const float f17 = __fsub_rn(f15, f16);
    const float f18 = __int2float_rn(i13);
    const float f19 = __int_as_float(0x34000000);
    const float f20 = __fmaf_rn(f18, f19, f8);
    const float f21 = __int_as_float(0xbe03d5b7);
    const float f22 = __int_as_float(0x3e0f3951);
    const float f23 = __fmaf_rn(f21, f17, f22);
    const float f24 = __int_as_float(0xbdf99e05);
    const float f25 = __fmaf_rn(f23, f17, f24);
    const float f26 = __int_as_float(0x3e0f6a29);
    const float f27 = __fmaf_rn(f25, f17, f26);
    const float f28 = __int_as_float(0xbe2ace18);
    const float f29 = __fmaf_rn(f27, f17, f28);
    const float f30 = __int_as_float(0x3e4ce82e);
    const float f31 = __fmaf_rn(f29, f17, f30);
    const float f32 = __int_as_float(0xbe7fff7d);
    const float f33 = __fmaf_rn(f31, f17, f32);
    const float f34 = __int_as_float(0x3eaaaa83);
    const float f35 = __fmaf_rn(f33, f17, f34);
    const float f36 = __int_as_float(0xbf000000);
    const float f37 = __fmaf_rn(f35, f17, f36);
    const float f38 = __fmul_rn(f17, f17);
    const float f39 = __fmaf_rn(f37, f38, f17);
    const float f40 = __int_as_float(0x3f317218);
    const float f41 = __fmaf_rn(f20, f40, f39);
    const int i42 = __float_as_int(f0);
    const int i43 = (int)0x7fffffffu;
    const int i44 = (int)0xff7fffffu;
    const int i45 = (int)((unsigned)i42 + (unsigned)i43);
    const bool m46 = i45 < i44;
    const float f47 = __int_as_float(0x7f800000);
    const float f48 = __int_as_float(0x00000000);
    const float f49 = __int_as_float(0xff800000);
    const float f50 = __fmaf_rn(f0, f47, f47);
    const float f51 = m46 ? f41 : f50;
    const bool m52 = f0 == f48;
    const float f53 = m52 ? f49 : f51;
    return f53;
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
static __device__ __forceinline__ void t_mma_bf16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ unsigned t_shared(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
static __device__ __forceinline__ void t_copy16(unsigned to, const void* from, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void t_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
static __device__ __forceinline__ void t_wait_0() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}
static __device__ __forceinline__ void t_wait_1() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}
static __device__ __forceinline__ void t_matrices(unsigned* d, unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
static __device__ __forceinline__ void t_matrices_trans(unsigned* d, unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
static __device__ __forceinline__ float t_ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ unsigned t_pack_bf16(float lo, float hi) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
extern "C" __global__ void __launch_bounds__(128, 2) k0_attention_mma_bf16_64x64(const unsigned short* __restrict__ q, const unsigned short* __restrict__ k, const unsigned short* __restrict__ v, const long long* __restrict__ state, float* out) {
    extern __shared__ __align__(16) unsigned char room[];
    const unsigned base = t_shared(room);
    const int tid = (int)threadIdx.x;
    const int lane = tid & 31;
    const int warp = tid >> 5;
    const int group = lane >> 2;
    const int place = lane & 3;
    const unsigned batch = blockIdx.x / 3u;
    const int q0 = (2 - (int)(blockIdx.x % 3u)) * 64;
    const int own = q0 + warp * 16;
    q += 0ll + (long long)(batch / 1u % 2u) * (10400ll);
    k += 0ll + (long long)(batch / 1u % 2u) * (12000ll);
    v += 0ll + (long long)(batch / 1u % 2u) * (9600ll);
    const long long seed = __ldg(state + 0ll);
    const long long first = __ldg(state + 1ll);
    #pragma unroll
    for (int i = tid; i < 640; i += 128) {
        const int r = i / 10;
        const int c = i % 10;
        const bool there = q0 + r < 130 && c < 10;
        t_copy16(base + 0u + 2u * (unsigned)(r * 88 + c * 8), there ? q + ((long long)(q0 + r) * (80ll) + c * 8) : q, there ? 16u : 0u);
    }
    t_commit();
    #pragma unroll
    for (int i = tid; i < 640; i += 128) {
        const int r = i / 10;
        const int c = i % 10;
        const bool there = 0 + r < 150 && c < 10;
        t_copy16(base + 11264u + 2u * (unsigned)(r * 88 + c * 8), there ? k + ((long long)(0 + r) * (80ll) + c * 8) : k, there ? 16u : 0u);
    }
    t_commit();
    t_wait_1();
    __syncthreads();
    unsigned qf[1][5][4];
    #pragma unroll
    for (int r = 0; r < 1; ++r) {
        #pragma unroll
        for (int d = 0; d < 5; ++d) t_matrices(qf[r][d], base + 2u * (unsigned)((warp * 16 + r * 16 + (lane & 15)) * 88 + d * 16 + (lane >> 4) * 8));
    }
    float top[2];
    float sum[2];
    float less[2];
    float acc[1][8][4] = {};
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        top[i] = __int_as_float((int)0xff800000u);
        sum[i] = 0.0f;
        less[i] = 0.0f;
    }
    #pragma unroll 1
    for (int k0 = 0; k0 < (q0 + 64 < 150 ? q0 + 64 : 150); k0 += 64) {
        // The keys are there, and all are past the values before.
        t_wait_0();
        __syncthreads();
    #pragma unroll
    for (int i = tid; i < 512; i += 128) {
        const int r = i / 8;
        const int c = i % 8;
        const bool there = k0 + r < 150 && c < 8;
        t_copy16(base + 22528u + 2u * (unsigned)(r * 72 + c * 8), there ? v + ((long long)(k0 + r) * (64ll) + c * 8) : v, there ? 16u : 0u);
    }
        t_commit();
        float sc[1][8][4] = {};
        #pragma unroll
        for (int d = 0; d < 5; ++d) {
            #pragma unroll
            for (int c = 0; c < 8; c += 2) {
                unsigned b[4];
                t_matrices(b, base + 11264u + 2u * (unsigned)((c * 8 + (lane >> 4) * 8 + (lane & 7)) * 88 + d * 16 + ((lane >> 3) & 1) * 8));
                #pragma unroll
                for (int r = 0; r < 1; ++r) {
                    t_mma_bf16(sc[r][c], qf[r][d], b);
                    t_mma_bf16(sc[r][c + 1], qf[r][d], b + 2);
                }
            }
        }
        if (k0 + 64 > 150 || k0 + 64 > own + 1) {
            #pragma unroll
            for (int at = 0; at < 1 * 8 * 4; ++at) {
                const int r = at / (8 * 4);
                const int c = at / 4 % 8;
                const int e = at % 4;
                const int row = own + r * 16 + group + (e >> 1) * 8;
                const int key = k0 + c * 8 + place * 2 + (e & 1);
                const bool inside = key < 150;
                float s = sc[r][c][e];
                if (!inside || key > row) s = __int_as_float((int)0xff800000u);
                sc[r][c][e] = s;
            }
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int r = i >> 1;
            const int h = (i & 1) * 2;
            float most = top[i];
            #pragma unroll
            for (int c = 0; c < 8; ++c) most = fmaxf(most, fmaxf(sc[r][c][h], sc[r][c][h + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            const float level = most == __int_as_float((int)0xff800000u) ? 0.0f : most;
            const float before = less[i];
            less[i] = __fmul_rn(level, __int_as_float(0x3e38aa3b));
            const float factor = top[i] == __int_as_float((int)0xff800000u) ? 0.0f : t_ex2(__fsub_rn(before, less[i]));
            top[i] = most;
            sum[i] = __fmul_rn(sum[i], factor);
            #pragma unroll
            for (int c = 0; c < 8; ++c) {
                #pragma unroll
                for (int e = h; e < h + 2; ++e) {
                    const float x = sc[r][c][e];
                    sc[r][c][e] = t_ex2(__fmaf_rn(x, __int_as_float(0x3e38aa3b), -less[i]));
                    sum[i] = __fadd_rn(sum[i], sc[r][c][e]);
                }
            }
            #pragma unroll
            for (int c = 0; c < 8; ++c) {
                acc[r][c][h] = __fmul_rn(acc[r][c][h], factor);
                acc[r][c][h + 1] = __fmul_rn(acc[r][c][h + 1], factor);
            }
        }
        #pragma unroll
        for (int r = 0; r < 1; ++r) {
            unsigned bits = 0u;
            #pragma unroll 1
            for (int at = 0; at < 8 * 4; ++at) {
                const int row = own + r * 16 + group + (at >> 1 & 1) * 8;
                const int key = k0 + (at >> 2) * 8 + place * 2 + (at & 1);
                bits |= (__fmul_rn(__uint2float_rn((unsigned)t_philox(seed, (long long)((unsigned long long)first + ((unsigned long long)batch * 130ull + (unsigned long long)row) * 150ull + (unsigned long long)key)) >> 8), 5.9604644775390625e-8f) >= __int_as_float(0x3e800000) ? 1u : 0u) << at;
            }
            #pragma unroll
            for (int at = 0; at < 8 * 4; ++at) sc[r][at / 4][at % 4] = (bits >> at & 1u) != 0u ? sc[r][at / 4][at % 4] : 0.0f;
        }
        // The values are there, and all are past the keys.
        t_wait_0();
        __syncthreads();
        const int next = k0 + 64;
        if (next < (q0 + 64 < 150 ? q0 + 64 : 150)) {
    #pragma unroll
    for (int i = tid; i < 640; i += 128) {
        const int r = i / 10;
        const int c = i % 10;
        const bool there = next + r < 150 && c < 10;
        t_copy16(base + 11264u + 2u * (unsigned)(r * 88 + c * 8), there ? k + ((long long)(next + r) * (80ll) + c * 8) : k, there ? 16u : 0u);
    }
        t_commit();
        }
        #pragma unroll
        for (int n = 0; n < 8; n += 2) {
            unsigned p[1][4];
            #pragma unroll
            for (int r = 0; r < 1; ++r) {
                p[r][0] = t_pack_bf16(sc[r][n][0], sc[r][n][1]);
                p[r][1] = t_pack_bf16(sc[r][n][2], sc[r][n][3]);
                p[r][2] = t_pack_bf16(sc[r][n + 1][0], sc[r][n + 1][1]);
                p[r][3] = t_pack_bf16(sc[r][n + 1][2], sc[r][n + 1][3]);
            }
            #pragma unroll
            for (int c = 0; c < 8; c += 2) {
                unsigned b[4];
                t_matrices_trans(b, base + 22528u + 2u * (unsigned)((n * 8 + ((lane >> 3) & 1) * 8 + (lane & 7)) * 72 + c * 8 + (lane >> 4) * 8));
                #pragma unroll
                for (int r = 0; r < 1; ++r) {
                    t_mma_bf16(acc[r][c], p[r], b);
                    t_mma_bf16(acc[r][c + 1], p[r], b + 2);
                }
            }
        }
    }
    t_wait_0();
    unsigned odds = 0u;
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        float total = sum[i];
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 1));
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 2));
        const int at = warp * 16 + (i >> 1) * 16 + (i & 1) * 8 + group;
        const int row = own - warp * 16 + at;
        // No key at all, or none whose product does not overflow: those rows are computed again.
        const bool none = total == 0.0f && top[i] == __int_as_float((int)0xff800000u);
        const bool lost = none;
        const float inverse = lost ? __int_as_float(0x7fc00000) : none ? __int_as_float(0x7fc00000) : __fdiv_rn(__int_as_float(0x3faaaaab), total);
        float* const to = out + ((long long)batch * 130ll + row) * 64ll;
        #pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int col = c * 8 + place * 2;
            const float y0 = __fmul_rn(acc[i >> 1][c][(i & 1) * 2], inverse);
            const float y1 = __fmul_rn(acc[i >> 1][c][(i & 1) * 2 + 1], inverse);
                if (row < 130 && col < 64) *(float2*)(to + col) = make_float2(y0, y1);
            if ((lost || !none) && ((col < 64 && !(__fsub_rn(y0, y0) == 0.0f)) || (col + 1 < 64 && !(__fsub_rn(y1, y1) == 0.0f)))) odds |= 1u << i;
        }
        if (place == 0 && row < 130) out[16640ll + (long long)batch * 130ll + row] = none ? __int_as_float((int)0xff800000u) : __fmaf_rn(less[i], __int_as_float(0x3f317218), t_log(total));
    }
    #pragma unroll 1
    for (int i = 0; i < 2; ++i) {
        if (!(odds >> i & 1u)) continue;
        const int row = own + (i >> 1) * 16 + group + (i & 1) * 8;
        #pragma unroll 1
        for (int j = 0; j < 16; ++j) {
            const int col = (j >> 1) * 8 + place * 2 + (j & 1);
            if (row >= 130 || col >= 64) continue;
            float* const to = out + (0ll + ((long long)batch * 130ll + row) * 64ll + col);
            const float was = *to;
            if (!(!(__fsub_rn(was, was) == 0.0f))) continue;
            float most = __int_as_float((int)0xff800000u);
            #pragma unroll 1
            for (int key = 0; key < (row < 150 ? row + 1 : 150); ++key) {
                double qk = 0.0;
                #pragma unroll 1
                for (int e = 0; e < 80; ++e) qk = __fma_rn((double)t_b2f(__ldg(q + ((long long)row * (80ll) + (long long)e * (1ll)))), (double)t_b2f(__ldg(k + ((long long)key * (80ll) + (long long)e * (1ll)))), qk);
                const bool inside = true;
                float s = __double2float_rn(__dmul_rn(qk, __longlong_as_double((long long)0x3fc0000000000000ull)));
                if (!inside || key > row) s = __int_as_float((int)0xff800000u);
                most = s > most || !(s == s) ? s : most;
            }
            if (most == __int_as_float((int)0xff800000u)) {
                *to = __int_as_float(0x7fc00000);
                if (col == 0) out[16640ll + (long long)batch * 130ll + row] = __int_as_float((int)0xff800000u);
                continue;
            }
            double total = 0.0;
            #pragma unroll 1
            for (int key = 0; key < (row < 150 ? row + 1 : 150); ++key) {
                double qk = 0.0;
                #pragma unroll 1
                for (int e = 0; e < 80; ++e) qk = __fma_rn((double)t_b2f(__ldg(q + ((long long)row * (80ll) + (long long)e * (1ll)))), (double)t_b2f(__ldg(k + ((long long)key * (80ll) + (long long)e * (1ll)))), qk);
                const bool inside = true;
                float s = __double2float_rn(__dmul_rn(qk, __longlong_as_double((long long)0x3fc0000000000000ull)));
                if (!inside || key > row) s = __int_as_float((int)0xff800000u);
                total = __dadd_rn(total, (double)t_exp(__fsub_rn(s, most)));
            }
            double sum = 0.0;
            #pragma unroll 1
            for (int key = 0; key < (row < 150 ? row + 1 : 150); ++key) {
                double qk = 0.0;
                #pragma unroll 1
                for (int e = 0; e < 80; ++e) qk = __fma_rn((double)t_b2f(__ldg(q + ((long long)row * (80ll) + (long long)e * (1ll)))), (double)t_b2f(__ldg(k + ((long long)key * (80ll) + (long long)e * (1ll)))), qk);
                const bool inside = true;
                float s = __double2float_rn(__dmul_rn(qk, __longlong_as_double((long long)0x3fc0000000000000ull)));
                if (!inside || key > row) s = __int_as_float((int)0xff800000u);
                const float w = __double2float_rn(__ddiv_rn((double)t_exp(__fsub_rn(s, most)), total));
                sum = __fma_rn((double)(__fmul_rn(__uint2float_rn((unsigned)t_philox(seed, (long long)((unsigned long long)first + ((unsigned long long)batch * 130ull + (unsigned long long)row) * 150ull + (unsigned long long)key)) >> 8), 5.9604644775390625e-8f) >= __int_as_float(0x3e800000) ? __fmul_rn(w, __int_as_float(0x3faaaaab)) : 0.0f), (double)t_b2f(__ldg(v + ((long long)key * (64ll) + (long long)col * (1ll)))), sum);
            }
            *to = __double2float_rn(sum);
            if (col == 0) out[16640ll + (long long)batch * 130ll + row] = __fadd_rn(most, t_log(__double2float_rn(total)));
        }
    }
}

