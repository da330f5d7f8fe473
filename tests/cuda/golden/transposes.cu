// k0_mul_transposed grid [45, 1, 1] block [32, 8, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }]

static __device__ __forceinline__ float t_b2f(unsigned short h) {
    return __int_as_float((int)((unsigned)h << 16));
}
static __device__ __forceinline__ unsigned short t_f2b(float f) {
    unsigned short h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
extern "C" __global__ void __launch_bounds__(256, 2) k0_mul_transposed(const unsigned short* __restrict__ p0, const unsigned short* __restrict__ p1, unsigned short* p2) {
    __shared__ unsigned short tile0[32][33];
    const unsigned block = blockIdx.x;
    const int x0 = (int)(block % 3u) * 32;
    const unsigned blocks = block / 3u;
    const int y0 = (int)(blocks % 3u) * 32;
    const unsigned others = blocks / 3u;
    const int c0 = (int)others;
    #pragma unroll
    for (int r = 0; r < 32; r += 8) {
        const int x = x0 + r + (int)threadIdx.y;
        const int y = y0 + (int)threadIdx.x;
        if (x < 70 && y < 66) {
            tile0[r + threadIdx.y][threadIdx.x] = __ldg(p0 + (c0 * 4620 + y + x * 66));
        }
    }
    __syncthreads();
    #pragma unroll
    for (int r = 0; r < 32; r += 8) {
        const int x = x0 + (int)threadIdx.x;
        const int y = y0 + r + (int)threadIdx.y;
        if (x < 70 && y < 66) {
            const unsigned short v0 = tile0[threadIdx.x][r + threadIdx.y];
            const unsigned short v1 = __ldg(p1 + (c0 * 4620 + y * 70 + x));
            const unsigned short v2 = t_f2b(__fmul_rn(t_b2f(v0), t_b2f(v1)));
            p2[c0 * 4620 + y * 70 + x] = v2;
        }
    }
}

