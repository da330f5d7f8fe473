// k0_sum_amax_part0 grid [4, 1, 1] block [256, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, Scratch { offset: 0 }, Scratch { offset: 256 }]
// k1_sum_amax_rest grid [1, 1, 1] block [256, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, Scratch { offset: 0 }, Scratch { offset: 256 }]

static __device__ __forceinline__ float t_max_f32(float a, float b) {
    return a != a || a > b ? a : b;
}
extern "C" __global__ void __launch_bounds__(256, 2) k0_sum_amax_part0(const float* __restrict__ p0, float* p1, float* p2, char* part1, char* part2) {
    const int lane = (int)threadIdx.x;
    const int slot = 0;
    const int part = (int)(blockIdx.x % 4u);
    const int row0 = (int)(blockIdx.x / 4u) * 1 + slot;
    const unsigned row = row0;
    double a1 = __longlong_as_double((long long)0x8000000000000000ull);
    float a2 = __int_as_float(0xff800000);
    #pragma unroll 4
    for (int j = 0; j < 17; ++j) {
        const unsigned i0 = ((unsigned)(part * 17 + j) * 256u + (unsigned)lane) * 1u;
        const bool ok = i0 < 17001u;
        const unsigned i = ok ? i0 : 17000u;
        const int c0 = (int)i;
        float l0[1];
        l0[0] = __ldg(p0 + (c0));
        #pragma unroll
        for (int e = 0; e < 1; ++e) {
            const float v0 = l0[0];
            const double x1 = (double)v0;
            a1 = ok ? __dadd_rn(a1, x1) : a1;
            const float x2 = v0;
            a2 = ok ? t_max_f32(a2, x2) : a2;
        }
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 16);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 16);
        const float lo = ((threadIdx.x & 16u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 16u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 8);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 8);
        const float lo = ((threadIdx.x & 8u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 8u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 4);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 4);
        const float lo = ((threadIdx.x & 4u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 4u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 2);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 2);
        const float lo = ((threadIdx.x & 2u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 2u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 1);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 1);
        const float lo = ((threadIdx.x & 1u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 1u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    __shared__ double xa1[8];
    if ((threadIdx.x & 31u) == 0u) { xa1[threadIdx.x >> 5] = a1; }
    __shared__ float xa2[8];
    if ((threadIdx.x & 31u) == 0u) { xa2[threadIdx.x >> 5] = a2; }
    __syncthreads();
    a1 = xa1[0];
    #pragma unroll
    for (int w = 1; w < 8; ++w) {
        const double o = xa1[w];
        a1 = __dadd_rn(a1, o);
    }
    a2 = xa2[0];
    #pragma unroll
    for (int w = 1; w < 8; ++w) {
        const float o = xa2[w];
        a2 = t_max_f32(a2, o);
    }
    if (lane == 0) { *(double*)(part1 + 8 * 1 * (unsigned long long)(row * 4 + part)) = a1; }
    if (lane == 0) { *(float*)(part2 + 8 * 1 * (unsigned long long)(row * 4 + part)) = a2; }
}

extern "C" __global__ void __launch_bounds__(256, 2) k1_sum_amax_rest(const float* __restrict__ p0, float* p1, float* p2, const char* part1, const char* part2) {
    const int lane = (int)threadIdx.x;
    const int slot = 0;
    const int row0 = (int)blockIdx.x * 1 + slot;
    const unsigned row = row0;
    double a1 = __longlong_as_double((long long)0x8000000000000000ull);
    float a2 = __int_as_float(0xff800000);
    for (int s = 0; s < 4; s += 256) {
        if (s + lane < 4) { const double o = *(const double*)(part1 + 8 * 1 * (unsigned long long)(row * 4 + s + lane)); a1 = __dadd_rn(a1, o); }
        if (s + lane < 4) { const float o = *(const float*)(part2 + 8 * 1 * (unsigned long long)(row * 4 + s + lane)); a2 = t_max_f32(a2, o); }
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 16);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 16);
        const float lo = ((threadIdx.x & 16u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 16u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 8);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 8);
        const float lo = ((threadIdx.x & 8u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 8u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 4);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 4);
        const float lo = ((threadIdx.x & 4u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 4u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 2);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 2);
        const float lo = ((threadIdx.x & 2u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 2u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    {
        const double o = __shfl_xor_sync(0xffffffffu, a1, 1);
        a1 = __dadd_rn(a1, o);
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a2, 1);
        const float lo = ((threadIdx.x & 1u) != 0u) ? o : a2;
        const float hi = ((threadIdx.x & 1u) != 0u) ? a2 : o;
        a2 = t_max_f32(lo, hi);
    }
    __shared__ double xa1[8];
    if ((threadIdx.x & 31u) == 0u) { xa1[threadIdx.x >> 5] = a1; }
    __shared__ float xa2[8];
    if ((threadIdx.x & 31u) == 0u) { xa2[threadIdx.x >> 5] = a2; }
    __syncthreads();
    a1 = xa1[0];
    #pragma unroll
    for (int w = 1; w < 8; ++w) {
        const double o = xa1[w];
        a1 = __dadd_rn(a1, o);
    }
    a2 = xa2[0];
    #pragma unroll
    for (int w = 1; w < 8; ++w) {
        const float o = xa2[w];
        a2 = t_max_f32(a2, o);
    }
    const float v1 = __double2float_rn(a1);
    const float v2 = a2;
    if (lane == 0) {
        p1[0] = v1;
        p2[0] = v2;
    }
}

