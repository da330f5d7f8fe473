//! Fills and copies: 16 bytes a thread, the last ones byte by byte.

use super::LaunchArg;
use super::generate::{Gen, Source, buffer, simple_grid};
use torsh_ir::program::BufId;
use torsh_ir::scalar::to_bits;
use torsh_ir::{Result, Scalar};

/// Threads of a block.
const THREADS: u32 = 256;

/// Fills a buffer with a value.
pub(super) fn fill(g: &mut Gen<'_>, value: Scalar, out: BufId) -> Result<()> {
    let ty = &g.buffer(out)?.ty;
    let (dtype, bytes) = (ty.dtype, ty.nbytes());
    let mut bits = to_bits(value.to_dtype(dtype), dtype);
    let mut width = dtype.size();
    while width < 8 {
        bits |= bits << (8 * width);
        width *= 2;
    }
    fill_bytes(g, buffer(out), bits, bytes)
}

/// Fills bytes with copies of a 64-bit word.
pub(super) fn fill_bytes(g: &mut Gen<'_>, to: LaunchArg, bits: u64, bytes: usize) -> Result<()> {
    let body = "    const unsigned long long at = ((unsigned long long)blockIdx.x * 256u + threadIdx.x) * 16u;
    if (at + 16u <= n) {
        *(uint4*)(p0 + at) = make_uint4((unsigned)bits, (unsigned)(bits >> 32), (unsigned)bits, (unsigned)(bits >> 32));
    } else {
        for (unsigned long long i = at; i < n; ++i) p0[i] = (unsigned char)(bits >> (8 * (i & 7u)));
    }
";
    let source = Source {
        stem: "fill".to_string(),
        params: "unsigned char* p0, unsigned long long bits, unsigned long long n".to_string(),
        body: body.to_string(),
        block: [THREADS, 1, 1],
        ..Source::default()
    };
    let args = vec![to, LaunchArg::U64(bits), LaunchArg::U64(bytes as u64)];
    g.launch(source, simple_grid(bytes.div_ceil(16), THREADS), 0, args)
}

/// Copies a whole buffer to another one, unless it is there already.
pub(super) fn copy(g: &mut Gen<'_>, from: BufId, out: BufId) -> Result<()> {
    if super::access::share_memory(g.program, from, out)? {
        return Ok(());
    }
    let bytes = g.buffer(out)?.ty.nbytes();
    let body = "    const unsigned long long at = ((unsigned long long)blockIdx.x * 256u + threadIdx.x) * 16u;
    if (at + 16u <= n) {
        *(uint4*)(p1 + at) = __ldg((const uint4*)(p0 + at));
    } else {
        for (unsigned long long i = at; i < n; ++i) p1[i] = p0[i];
    }
";
    let source = Source {
        stem: "copy".to_string(),
        params: "const unsigned char* __restrict__ p0, unsigned char* p1, unsigned long long n".to_string(),
        body: body.to_string(),
        block: [THREADS, 1, 1],
        ..Source::default()
    };
    let args = vec![buffer(from), buffer(out), LaunchArg::U64(bytes as u64)];
    g.launch(source, simple_grid(bytes.div_ceil(16), THREADS), 0, args)
}
