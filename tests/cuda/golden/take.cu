// k0_take grid [10, 1, 1] block [256, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }, Buffer { buf: BufId(2), offset: 0 }, Error]

static __device__ __forceinline__ void t_fail(unsigned long long* error, unsigned check, unsigned long long position, long long index) {
    const unsigned long long at = position < 0xffffffffull ? position : 0xffffffffull;
    const unsigned long long key = ((unsigned long long)check << 48) | (at << 16);
    const unsigned long long bits = (unsigned long long)index;
    atomicMin(error, key | (bits & 0xffffull));
    atomicMin(error + 1, key | ((bits >> 16) & 0xffffull));
    atomicMin(error + 2, key | ((bits >> 32) & 0xffffull));
    atomicMin(error + 3, key | (bits >> 48));
}
extern "C" __global__ void __launch_bounds__(256, 2) k0_take(const uint4* __restrict__ p0, const long long* __restrict__ index, uint4* p1, unsigned long long* error) {
    const unsigned at = (unsigned)blockIdx.x * 256u + threadIdx.x;
    if (at >= 2400u) return;
    const int c2 = (int)(at % 8u);
    const unsigned cq2 = at / 8u;
    const int c1 = (int)cq2;
    const long long raw = index[c1];
    long long r = raw < 0 ? raw + 17ll : raw;
    if (r < 0 || r >= 17ll) { t_fail(error, 0u, (unsigned long long)(c1), raw); r = 0; }
    p1[at] = __ldg(p0 + ((int)(0 * 17) + (int)r) * 8 + c2);
}

