// k0_argmax grid [50, 1, 1] block [128, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }]

static __device__ __forceinline__ void t_ld_nc_f32x4(const float* p, float* r) {
    const float4 q = __ldg((const float4*)p);
    r[0] = q.x;
    r[1] = q.y;
    r[2] = q.z;
    r[3] = q.w;
}
extern "C" __global__ void __launch_bounds__(128, 4) k0_argmax(const float* __restrict__ p0, long long* p1) {
    const int lane = (int)threadIdx.x;
    const int slot = 0;
    const int row0 = (int)blockIdx.x * 1 + slot;
    const unsigned row = row0;
    const int g0 = (int)row;
    float a1 = __int_as_float(0xff800000);
    long long a1p = 0x7fffffffffffffffll;
    #pragma unroll 4
    for (int j = 0; j < 3; ++j) {
        const unsigned i0 = (unsigned)(j * 128 + lane) * 4u;
        const bool ok = i0 < 1500u;
        const unsigned i = ok ? i0 : 1496u;
        const int c0 = (int)i;
        float l0[4];
        t_ld_nc_f32x4(p0 + (g0 * 1500 + c0) + 0, l0 + 0);
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int ce = c0 + e;
            const float v0 = l0[e];
            if (ok && ((v0 != v0) != (a1 != a1) ? v0 != v0 : v0 == v0 && v0 != a1 ? v0 > a1 : (long long)(i + e) < a1p)) { a1 = v0; a1p = (long long)(i + e); }
        }
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a1, 16);
        const long long op = __shfl_xor_sync(0xffffffffu, a1p, 16);
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a1, 8);
        const long long op = __shfl_xor_sync(0xffffffffu, a1p, 8);
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a1, 4);
        const long long op = __shfl_xor_sync(0xffffffffu, a1p, 4);
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a1, 2);
        const long long op = __shfl_xor_sync(0xffffffffu, a1p, 2);
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    {
        const float o = __shfl_xor_sync(0xffffffffu, a1, 1);
        const long long op = __shfl_xor_sync(0xffffffffu, a1p, 1);
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    __shared__ float xa1[4];
    __shared__ long long xa1p[4];
    if ((threadIdx.x & 31u) == 0u) { xa1[threadIdx.x >> 5] = a1; xa1p[threadIdx.x >> 5] = a1p; }
    __syncthreads();
    a1 = xa1[0]; a1p = xa1p[0];
    #pragma unroll
    for (int w = 1; w < 4; ++w) {
        const float o = xa1[w];
        const long long op = xa1p[w];
        if (((o != o) != (a1 != a1) ? o != o : o == o && o != a1 ? o > a1 : op < a1p)) { a1 = o; a1p = op; }
    }
    const long long v1 = (a1p == 0x7fffffffffffffffll ? 0ll : a1p);
    if (lane == 0) {
        p1[g0] = v1;
    }
}

