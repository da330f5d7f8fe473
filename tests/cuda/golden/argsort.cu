// k0_sort grid [6, 1, 1] block [512, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Scratch { offset: 0 }, Scratch { offset: 20224 }]
// k1_merge grid [20, 1, 1] block [256, 1, 1] dynamic shared 0 [Scratch { offset: 0 }, Scratch { offset: 20224 }, Scratch { offset: 40448 }, Scratch { offset: 60672 }, U32(1024)]
// k2_merge grid [20, 1, 1] block [256, 1, 1] dynamic shared 0 [Scratch { offset: 40448 }, Scratch { offset: 60672 }, Buffer { buf: BufId(1), offset: 0 }, U32(2048)]

extern "C" __global__ void __launch_bounds__(512, 1) k0_sort(const float* __restrict__ p0, unsigned* p1, unsigned* p2) {
    __shared__ unsigned keys[1024];
    __shared__ unsigned places[1024];
    const long long line = blockIdx.x / 3u;
    const int start = (int)(blockIdx.x % 3u) * 1024;
    const long long first = line / 1ll * 2500ll + line % 1ll;
    for (int i = (int)threadIdx.x; i < 1024; i += 512) {
        unsigned sortable = (unsigned)0 - 1;
        if (start + i < 2500) {
            const float value = __ldg(p0 + (first + (long long)(start + i) * 1ll)); const unsigned bits = (unsigned)__float_as_int(__fadd_rn(value, 0.0f)); unsigned key = value != value ? 0xffffffffu : (bits >> 31) != 0u ? ~bits : bits | 0x80000000u;
            sortable = key;
        }
        keys[i] = sortable;
        places[i] = (unsigned)(start + i);
    }
    __syncthreads();
    for (int k = 2; k <= 1024; k <<= 1) {
        for (int j = k >> 1; j > 0; j >>= 1) {
            for (int q = (int)threadIdx.x; q < 512; q += 512) {
                const int a = 2 * q - (q & (j - 1));
                const int b = a + j;
                const bool up = (a & k) == 0;
                const unsigned ka = keys[a];
                const unsigned kb = keys[b];
                const unsigned pa = places[a];
                const unsigned pb = places[b];
                const bool after = ka != kb ? ka > kb : pa > pb;
                if (after == up) {
                    keys[a] = kb;
                    keys[b] = ka;
                    places[a] = pb;
                    places[b] = pa;
                }
            }
            __syncthreads();
        }
    }
    for (int i = (int)threadIdx.x; i < 1024; i += 512) {
        if (start + i < 2500) {
            const long long to = line * 2500ll + start + i;
            p1[to] = keys[i];
            p2[to] = places[i];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k1_merge(const unsigned* __restrict__ p0, const unsigned* __restrict__ p1, unsigned* p2, unsigned* p3, unsigned run) {
    const unsigned long long at = (unsigned long long)blockIdx.x * 256u + threadIdx.x;
    if (at >= 5000ull) return;
    const long long line = (long long)(at / 2500ull);
    const unsigned i = (unsigned)(at % 2500ull);
    const unsigned mine = i / run;
    const unsigned pair = (mine & ~1u) * run;
    const unsigned other = (mine ^ 1u) * run;
    const unsigned key = p0[at];
    const unsigned place = p1[at];
    unsigned lo = other < 2500u ? other : 2500u;
    unsigned hi = 2500u - lo < run ? 2500u : lo + run;
    const unsigned begin = lo;
    while (lo < hi) {
        const unsigned mid = lo + (hi - lo) / 2u;
        const long long m = line * 2500ll + mid;
        const unsigned k = p0[m];
        const bool before = k != key ? k < key : p1[m] < place;
        lo = before ? mid + 1u : lo;
        hi = before ? hi : mid;
    }
    const unsigned to = pair + (i - mine * run) + (lo - begin);
    p2[line * 2500ll + to] = key;
    p3[line * 2500ll + to] = place;
}

extern "C" __global__ void __launch_bounds__(256, 2) k2_merge(const unsigned* __restrict__ p0, const unsigned* __restrict__ p1, long long* p2, unsigned run) {
    const unsigned long long at = (unsigned long long)blockIdx.x * 256u + threadIdx.x;
    if (at >= 5000ull) return;
    const long long line = (long long)(at / 2500ull);
    const unsigned i = (unsigned)(at % 2500ull);
    const unsigned mine = i / run;
    const unsigned pair = (mine & ~1u) * run;
    const unsigned other = (mine ^ 1u) * run;
    const unsigned key = p0[at];
    const unsigned place = p1[at];
    unsigned lo = other < 2500u ? other : 2500u;
    unsigned hi = 2500u - lo < run ? 2500u : lo + run;
    const unsigned begin = lo;
    while (lo < hi) {
        const unsigned mid = lo + (hi - lo) / 2u;
        const long long m = line * 2500ll + mid;
        const unsigned k = p0[m];
        const bool before = k != key ? k < key : p1[m] < place;
        lo = before ? mid + 1u : lo;
        hi = before ? hi : mid;
    }
    const unsigned to = pair + (i - mine * run) + (lo - begin);
    p2[line / 1ll * 2500ll + line % 1ll + (long long)to * 1ll] = (long long)place;
}

