// k0_dot_f32_128x16x16 grid [2, 1, 1] block [256, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Scratch { offset: 0 }, U32(7), U32(9), U32(600), U32(304), U32(1), U32(1), U32(2), U32(600), U32(1), U32(9), U32(1), U32(0), U32(0)]
// k1_dot_sum grid [1, 1, 1] block [256, 1, 1] dynamic shared 0 [Scratch { offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, U64(63), U32(2)]

extern "C" __global__ void __launch_bounds__(256, 2) k0_dot_f32_128x16x16(const float* __restrict__ p0, const float* __restrict__ p1, float* p2, int m, int n, int k, int each, unsigned tm, unsigned tn, unsigned parts, int am, int ak, int bk, int bn, int ab, int bb) {
    __shared__ __align__(16) float as[16][132];
    __shared__ __align__(16) float bs[16][20];
    unsigned block = blockIdx.x;
    const int n0 = (int)(block % tn) * 16;
    block /= tn;
    const int m0 = (int)(block % tm) * 128;
    block /= tm;
    const unsigned part = block % parts;
    const unsigned batch = block / parts;
    p0 += (int)(batch) * ab;
    p1 += (int)(batch) * bb;
    const int k0 = (int)part * each;
    const int k1 = k - k0 < each ? k : k0 + each;
    const int tx = (int)threadIdx.x % 16;
    const int ty = (int)threadIdx.x / 16;
    float acc[8][1] = {};
    float ta[8];
    float tb[1];
    #pragma unroll
    for (int q = 0; q < 8; ++q) {
        const int x = m0 + (((int)threadIdx.x + q * 256) / 16);
        const int y = k0 + (((int)threadIdx.x + q * 256) % 16);
        float v = 0;
        if (x < m && y < k1) v = (float)__ldg(p0 + ((int)(x) * am + (int)(y) * ak));
        ta[q] = v;
    }
    #pragma unroll
    for (int q = 0; q < 1; ++q) {
        const int x = n0 + (((int)threadIdx.x + q * 256) % 16);
        const int y = k0 + (((int)threadIdx.x + q * 256) / 16);
        float v = 0;
        if (x < n && y < k1) v = (float)__ldg(p1 + ((int)(x) * bn + (int)(y) * bk));
        tb[q] = v;
    }
    for (int kt = k0; kt < k1; kt += 16) {
        __syncthreads();
        #pragma unroll
        for (int q = 0; q < 8; ++q) as[(((int)threadIdx.x + q * 256) % 16)][(((int)threadIdx.x + q * 256) / 16)] = ta[q];
        #pragma unroll
        for (int q = 0; q < 1; ++q) bs[(((int)threadIdx.x + q * 256) / 16)][(((int)threadIdx.x + q * 256) % 16)] = tb[q];
        __syncthreads();
        if (kt + 16 < k1) {
            #pragma unroll
            for (int q = 0; q < 8; ++q) {
                const int x = m0 + (((int)threadIdx.x + q * 256) / 16);
                const int y = kt + 16 + (((int)threadIdx.x + q * 256) % 16);
                float v = 0;
                if (x < m && y < k1) v = (float)__ldg(p0 + ((int)(x) * am + (int)(y) * ak));
                ta[q] = v;
            }
            #pragma unroll
            for (int q = 0; q < 1; ++q) {
                const int x = n0 + (((int)threadIdx.x + q * 256) % 16);
                const int y = kt + 16 + (((int)threadIdx.x + q * 256) / 16);
                float v = 0;
                if (x < n && y < k1) v = (float)__ldg(p1 + ((int)(x) * bn + (int)(y) * bk));
                tb[q] = v;
            }
        }
        #pragma unroll
        for (int kk = 0; kk < 16; ++kk) {
            float a[8];
            float b[1];
            #pragma unroll
            for (int r = 0; r < 8; ++r) a[r] = as[kk][ty * 8 + r];
            #pragma unroll
            for (int s = 0; s < 1; ++s) b[s] = bs[kk][tx + s * 16];
            #pragma unroll
            for (int r = 0; r < 8; ++r) {
                #pragma unroll
                for (int s = 0; s < 1; ++s) {
                    acc[r][s] = __fmaf_rn(a[r], b[s], acc[r][s]);
                }
            }
        }
    }
    #pragma unroll
    for (int r = 0; r < 8; ++r) {
        const int x = m0 + ty * 8 + r;
        #pragma unroll
        for (int s = 0; s < 1; ++s) {
            const int y = n0 + tx + s * 16;
            if (x < m && y < n) p2[(((int)part * (int)(gridDim.x / (tm * tn * parts)) + (int)batch) * m + x) * n + y] = acc[r][s];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k1_dot_sum(const float* __restrict__ p0, float* p1, unsigned long long n, unsigned parts) {
    const unsigned long long at = (unsigned long long)blockIdx.x * 256u + threadIdx.x;
    if (at >= n) return;
    double sum = 0;
    #pragma unroll 4
    for (unsigned i = 0; i < parts; ++i) sum = __dadd_rn(sum, (double)p0[i * n + at]);
    p1[at] = __double2float_rn(sum);
}

