// k0_scan grid [2, 1, 1] block [512, 1, 1] dynamic shared 0 [Buffer { buf: BufId(0), offset: 0 }, Buffer { buf: BufId(1), offset: 0 }]

extern "C" __global__ void __launch_bounds__(512, 1) k0_scan(const float* __restrict__ p0, float* p1) {
    __shared__ double totals[16];
    const int lane = (int)(threadIdx.x & 31u);
    const int warp = (int)(threadIdx.x >> 5);
    const unsigned line = blockIdx.x;
    const unsigned first = line / 1u * 5000u + line % 1u;
    double carry = __longlong_as_double((long long)0x8000000000000000ull);
    for (int c = 0; c < 5000; c += 2048) {
        double x[4];
        double sum = __longlong_as_double((long long)0x8000000000000000ull);
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int k = c + (int)threadIdx.x * 4 + e;
            double v = __longlong_as_double((long long)0x8000000000000000ull);
            if (k < 5000) v = (double)__ldg(p0 + (first + (unsigned)k * 1u));
            sum = __dadd_rn(sum, v);
            x[e] = sum;
        }
        double upto = sum;
        #pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            const double left = __shfl_up_sync(0xffffffffu, upto, d);
            upto = lane >= d ? __dadd_rn(left, upto) : upto;
        }
        if (lane == 31) totals[warp] = upto;
        __syncthreads();
        double before = carry;
        for (int q = 0; q < 16; ++q) {
            const double o = totals[q];
            before = q < warp ? __dadd_rn(before, o) : before;
            carry = __dadd_rn(carry, o);
        }
        const double left = __shfl_up_sync(0xffffffffu, upto, 1);
        before = lane > 0 ? __dadd_rn(before, left) : before;
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int k = c + (int)threadIdx.x * 4 + e;
            const double y = __dadd_rn(before, x[e]);
            if (k < 5000) p1[first + (unsigned)k * 1u] = __double2float_rn(y);
        }
        __syncthreads();
    }
}

