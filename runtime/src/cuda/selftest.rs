//! What a device must get right before it is trusted: loads and stores with bounds, shuffles, shared memory and
//! barriers, integer arithmetic, and roundings of f32 and f64 that compilers and devices like to get wrong.

use super::arena::Purpose;
use super::device::Shared;
use super::kernels;
use crate::sys::cuda::driver::{Arg, Expected};
use torsh_codegen::cuda::Options;
use torsh_ir::{Error, Result};

/// Its kernel.
pub(super) const NAME: &str = "torsh_self_test";

pub(super) const SOURCE: &str = r#"
extern "C" __global__ void __launch_bounds__(256) torsh_self_test(
    const unsigned* __restrict__ x, unsigned* __restrict__ sums, float* __restrict__ f, double* __restrict__ d, unsigned n) {
  __shared__ unsigned part[8];
  unsigned i = blockIdx.x * 256u + threadIdx.x;
  unsigned v = i < n ? x[i] * 2654435761u + i : 0u;
  for (int lane = 16; lane > 0; lane >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lane);
  if ((threadIdx.x & 31u) == 0u) part[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x == 0u) {
    unsigned sum = 0u;
    for (int w = 0; w < 8; ++w) sum += part[w];
    sums[blockIdx.x] = sum;
  }
  if (i < n) {
    float a = (float)x[i], b = 1.0f / (a + 3.0f);
    f[i] = a * b + sqrtf(a) - b * b;
    double c = (double)x[i], e = 1.0 / (c + 3.0);
    d[i] = c * e + sqrt(c) - e * e;
  }
}
"#;

/// Elements, no multiple of a block, and blocks.
const N: usize = 1000;
const BLOCKS: usize = 4;

fn inputs() -> Vec<u32> {
    (0..N as u32).map(|i| (i.wrapping_mul(7919) ^ 0x5a5a) % 99_991).collect()
}

/// Sums, f32 and f64 results, as bytes.
fn expected(x: &[u32]) -> [Vec<u8>; 3] {
    let term = |i: usize| x.get(i).map_or(0, |&x| x.wrapping_mul(2_654_435_761).wrapping_add(i as u32));
    let sums = (0..BLOCKS).map(|b| (b * 256..(b + 1) * 256).map(term).fold(0u32, u32::wrapping_add));
    let single = x.iter().map(|&x| {
        let a = x as f32;
        let b = 1.0 / (a + 3.0);
        a * b + a.sqrt() - b * b
    });
    let double = x.iter().map(|&x| {
        let c = f64::from(x);
        let e = 1.0 / (c + 3.0);
        c * e + c.sqrt() - e * e
    });
    [
        sums.flat_map(u32::to_le_bytes).collect(),
        single.flat_map(f32::to_le_bytes).collect(),
        double.flat_map(f64::to_le_bytes).collect(),
    ]
}

/// Runs the test.
pub(super) fn run(shared: &Shared, options: &Options) -> Result<()> {
    let params = [8, 8, 8, 8, 4];
    let kernel = Expected { name: NAME, params: &params, block: [256, 1, 1], static_shared: 32, dynamic_shared: 0 };
    let kernel = kernels::only(shared, options, SOURCE, &kernel)?;
    let stream = &shared.default_stream;
    let x = inputs();
    let wanted = expected(&x);
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let take = |len| shared.arena.take(len, stream, &Purpose::Program("the self-test of a device"));
    let from = take(bytes.len())?;
    let to = [take(wanted[0].len())?, take(wanted[1].len())?, take(wanted[2].len())?];
    if let Some(block) = from.block() {
        shared.staging.upload(stream, block, &bytes)?;
    }
    let addresses = [from.address(), to[0].address(), to[1].address(), to[2].address()];
    let mut args: Vec<Arg> = addresses.iter().map(|&a| Arg::U64(a)).collect();
    args.push(Arg::U32(N as u32));
    kernel.launch(stream, [BLOCKS as u32, 1, 1], [256, 1, 1], 0, &args)?;
    for (what, (loan, wanted)) in ["integer sums", "f32 results", "f64 results"].iter().zip(to.iter().zip(&wanted)) {
        let mut got = vec![0; wanted.len()];
        if let Some(block) = loan.block() {
            shared.staging.download(stream, block, &mut got)?;
        }
        if got != *wanted {
            let at = got.iter().zip(wanted).position(|(g, w)| g != w).unwrap_or(0);
            return Err(Error::device(format!(
                "device {} failed its self-test: {what} differ from byte {at} on, so nothing that it computes can be trusted",
                shared.device
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::compiler::Compiler;

    /// Needs NVRTC, which `TORSH_NVRTC` names; without it the test has nothing to do and says so.
    #[test]
    fn the_source_compiles() {
        if torsh_ir::env::nvrtc().is_none() {
            println!("skipped: TORSH_NVRTC names no NVRTC");
            return;
        }
        for sm in [80, 90] {
            let options = Options { sm, ..Options::default() }.compiler_flags();
            let image = Compiler::new(sm, false, &[], None).image(SOURCE, &options).unwrap();
            assert!(image.starts_with(b"\x7fELF"));
            let image = Compiler::new(sm, true, &[], None).image(SOURCE, &options).unwrap();
            let text = String::from_utf8(image).unwrap();
            assert!(text.contains(&format!(".target sm_{sm}")) && text.contains("torsh_self_test"), "{text}");
            // Nothing may be contracted: the known answers are those of separate roundings.
            assert!(!text.contains("fma.rn.f32"), "{text}");
        }
        let e = Compiler::new(90, false, &[], None).image("no C", &Options::default().compiler_flags()).err().unwrap();
        assert!(e.kind() == torsh_ir::ErrorKind::Compile && e.message().contains("torsh.cu(1)"), "{e}");
    }

    #[test]
    fn known_answers_are_those_of_ieee() {
        let [sums, single, double] = expected(&[0, 1, 4]);
        assert_eq!(sums.len(), 16);
        // (1 * 1/4 + 1) - 1/16 is exact.
        assert_eq!(f32::from_le_bytes(single[4..8].try_into().unwrap()), 1.1875);
        assert_eq!(f64::from_le_bytes(double[8..16].try_into().unwrap()), 1.1875);
    }
}
