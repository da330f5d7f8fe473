// k0_mma_f16_128x128x32 grid [4, 1, 1] block [256, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, U32(150), U32(140), U32(40), U32(64), U32(2), U32(2), U32(1), U32(40), U32(1), U32(140), U32(1), U32(0), U32(0)]

static __device__ __forceinline__ unsigned short t_f2h(float f) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
static __device__ __forceinline__ void t_mma_f16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
extern "C" __global__ void __launch_bounds__(256, 1) k0_mma_f16_128x128x32(const unsigned short* __restrict__ p0, const unsigned short* __restrict__ p1, unsigned short* p2, int m, int n, int k, int each, unsigned tm, unsigned tn, unsigned parts, int am, int ak, int bk, int bn, int ab, int bb) {
    __shared__ __align__(16) unsigned as[128][20];
    __shared__ __align__(16) unsigned bs[128][20];
    unsigned block = blockIdx.x;
    const int n0 = (int)(block % tn) * 128;
    block /= tn;
    const int m0 = (int)(block % tm) * 128;
    block /= tm;
    const unsigned part = block % parts;
    const unsigned batch = block / parts;
    p0 += (int)(batch) * ab;
    p1 += (int)(batch) * bb;
    const int k0 = (int)part * each;
    const int k1 = k - k0 < each ? k : k0 + each;
    const int lane = (int)(threadIdx.x & 31u);
    const int warp = (int)(threadIdx.x >> 5);
    const int wr = warp / 4 * 64;
    const int wc = warp % 4 * 32;
    const int group = lane >> 2;
    const int place = lane & 3;
    float acc[4][4][4] = {};
    unsigned ta[8];
    unsigned tb[8];
    #pragma unroll
    for (int q = 0; q < 8; ++q) {
        const int x = m0 + (((int)threadIdx.x + q * 256) / 16);
        const int y = k0 + (((int)threadIdx.x + q * 256) % 16) * 2;
        unsigned short v0 = 0;
        if (x < m && y + 0 < k1) v0 = __ldg(p0 + ((int)(x) * am + (int)((y + 0)) * ak));
        unsigned short v1 = 0;
        if (x < m && y + 1 < k1) v1 = __ldg(p0 + ((int)(x) * am + (int)((y + 1)) * ak));
        ta[q] = ((unsigned)v0 << 0) | ((unsigned)v1 << 16);
    }
    #pragma unroll
    for (int q = 0; q < 8; ++q) {
        const int x = n0 + (((int)threadIdx.x + q * 256) % 128);
        const int y = k0 + (((int)threadIdx.x + q * 256) / 128) * 2;
        unsigned short v0 = 0;
        if (x < n && y + 0 < k1) v0 = __ldg(p1 + ((int)(x) * bn + (int)((y + 0)) * bk));
        unsigned short v1 = 0;
        if (x < n && y + 1 < k1) v1 = __ldg(p1 + ((int)(x) * bn + (int)((y + 1)) * bk));
        tb[q] = ((unsigned)v0 << 0) | ((unsigned)v1 << 16);
    }
    for (int kt = k0; kt < k1; kt += 32) {
        __syncthreads();
        #pragma unroll
        for (int q = 0; q < 8; ++q) as[(((int)threadIdx.x + q * 256) / 16)][(((int)threadIdx.x + q * 256) % 16)] = ta[q];
        #pragma unroll
        for (int q = 0; q < 8; ++q) bs[(((int)threadIdx.x + q * 256) % 128)][(((int)threadIdx.x + q * 256) / 128)] = tb[q];
        __syncthreads();
        if (kt + 32 < k1) {
            #pragma unroll
            for (int q = 0; q < 8; ++q) {
                const int x = m0 + (((int)threadIdx.x + q * 256) / 16);
                const int y = kt + 32 + (((int)threadIdx.x + q * 256) % 16) * 2;
                unsigned short v0 = 0;
                if (x < m && y + 0 < k1) v0 = __ldg(p0 + ((int)(x) * am + (int)((y + 0)) * ak));
                unsigned short v1 = 0;
                if (x < m && y + 1 < k1) v1 = __ldg(p0 + ((int)(x) * am + (int)((y + 1)) * ak));
                ta[q] = ((unsigned)v0 << 0) | ((unsigned)v1 << 16);
            }
            #pragma unroll
            for (int q = 0; q < 8; ++q) {
                const int x = n0 + (((int)threadIdx.x + q * 256) % 128);
                const int y = kt + 32 + (((int)threadIdx.x + q * 256) / 128) * 2;
                unsigned short v0 = 0;
                if (x < n && y + 0 < k1) v0 = __ldg(p1 + ((int)(x) * bn + (int)((y + 0)) * bk));
                unsigned short v1 = 0;
                if (x < n && y + 1 < k1) v1 = __ldg(p1 + ((int)(x) * bn + (int)((y + 1)) * bk));
                tb[q] = ((unsigned)v0 << 0) | ((unsigned)v1 << 16);
            }
        }
        #pragma unroll
        for (int w = 0; w < 16; w += 8) {
            unsigned a[4][4];
            unsigned b[4][2];
            #pragma unroll
            for (int r = 0; r < 4; ++r) {
                const int row = wr + r * 16 + group;
                a[r][0] = as[row][w + place];
                a[r][1] = as[row + 8][w + place];
                a[r][2] = as[row][w + place + 4];
                a[r][3] = as[row + 8][w + place + 4];
            }
            #pragma unroll
            for (int c = 0; c < 4; ++c) {
                const int col = wc + c * 8 + group;
                b[c][0] = bs[col][w + place];
                b[c][1] = bs[col][w + place + 4];
            }
            #pragma unroll
            for (int r = 0; r < 4; ++r) {
                #pragma unroll
                for (int c = 0; c < 4; ++c) t_mma_f16(acc[r][c], a[r], b[c]);
            }
        }
    }
    #pragma unroll
    for (int r = 0; r < 4; ++r) {
        #pragma unroll
        for (int c = 0; c < 4; ++c) {
            #pragma unroll
            for (int e = 0; e < 4; e += 2) {
                const int x = m0 + wr + r * 16 + ((int)(threadIdx.x & 31u) >> 2) + (e >> 1) * 8;
                const int y = n0 + wc + c * 8 + (int)(threadIdx.x & 3u) * 2 + (e & 1);
                if (x < m && y < n) { *(unsigned*)(p2 + ((int)batch * m + x) * n + y) = (unsigned)t_f2h(acc[r][c][e]) | ((unsigned)t_f2h(acc[r][c][e + 1]) << 16); }
            }
        }
    }
}

