//! Figures of matrix products by hand:
//! `cargo test --release -p torsh-runtime --test product_speed -- --ignored --nocapture`.
#![allow(unsafe_code, reason = "calls the crate that is compared with")]

use std::time::Instant;
use torsh_runtime::sys::gemm::{
    Element, Extents, Level, Means, Operand, prepack, prepacked_bytes, product, scratch_bytes,
};
use torsh_runtime::sys::par::Par;
use torsh_runtime::sys::slices::bytes_of;

/// Memory aligned to a cache line.
struct Buffer(Vec<f32>, usize);

impl Buffer {
    fn new(n: usize, seed: u32) -> Buffer {
        let mut v: Vec<f32> = Vec::with_capacity(n + 16);
        let start = (v.as_ptr() as usize).next_multiple_of(1 << 21);
        if let Some(len) = (v.as_ptr() as usize + 4 * v.capacity()).checked_sub(start) {
            // Large tensors lie in huge pages, as far as the system has any.
            // SAFETY: advice on pages inside the vector.
            unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
        }
        v.extend((0..n as u32 + 16).map(|i| (i.wrapping_mul(seed) >> 8) as f32 / 16_777_216.0 - 0.5));
        let at = v.as_ptr().align_offset(64).min(16);
        Buffer(v, at)
    }
    fn get(&self) -> &[f32] {
        &self.0[self.1..]
    }
    fn get_mut(&mut self) -> &mut [f32] {
        &mut self.0[self.1..]
    }
}

/// Seconds: by the clock, or, on one thread, those that the thread had a core.
fn now(threads: usize) -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    // SAFETY: writes to `t`.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Best seconds over some rounds.
fn best(threads: usize, flops: f64, mut run: impl FnMut()) -> f64 {
    let budget = (0.02 + flops / 2e10).min(0.4);
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < budget {
        let t = now(threads);
        run();
        best = best.min(now(threads) - t);
    }
    best
}

struct Case {
    name: &'static str,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Operands are stored transposed.
    turned: [bool; 2],
}

fn strides(rows: usize, cols: usize, turned: bool) -> (i64, i64) {
    if turned { (1, rows as i64) } else { (cols as i64, 1) }
}

fn ours<T: Element>(
    c: &Case,
    level: Level,
    par: &Par<'_>,
    x: (&[T], &[T]),
    out: &mut [T],
    (scratch, packed, back): (&mut [u8], Option<&[u8]>, bool),
) {
    let ((ar, ac), (br, bc)) = (strides(c.m, c.k, c.turned[0]), strides(c.k, c.n, c.turned[1]));
    let (batch, lb, rb) = ([c.batch], [(c.m * c.k) as i64], [(c.k * c.n) as i64]);
    let batches = usize::from(c.batch > 1);
    let (batch, lb, rb) = (&batch[..batches], &lb[..batches], &rb[..batches]);
    let e = Extents { batch, m: c.m, n: c.n, k: c.k };
    let lhs = Operand { data: x.0, offset: 0, batch: lb, rows: &[(c.m, ar)], cols: &[(c.k, ac)] };
    let rhs = Operand { data: x.1, offset: 0, batch: rb, rows: &[(c.k, br)], cols: &[(c.n, bc)] };
    product(&e, &lhs, &rhs, out, None, &mut Means { level, scratch, par, packed, back }).unwrap();
}

fn theirs(c: &Case, threads: usize, x: (&[f32], &[f32]), out: &mut [f32]) {
    let ((ar, ac), (br, bc)) = (strides(c.m, c.k, c.turned[0]), strides(c.k, c.n, c.turned[1]));
    let par = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    for b in 0..c.batch {
        let (l, r) = (&x.0[b * c.m * c.k..][..c.m * c.k], &x.1[b * c.k * c.n..][..c.k * c.n]);
        let o = &mut out[b * c.m * c.n..][..c.m * c.n];
        // SAFETY: the three slices are as long as their extents say.
        unsafe {
            gemm::gemm(
                c.m,
                c.n,
                c.k,
                o.as_mut_ptr(),
                1,
                c.n as isize,
                false,
                l.as_ptr(),
                ac as isize,
                ar as isize,
                r.as_ptr(),
                bc as isize,
                br as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                par,
            );
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let run = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let all = || loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if i >= parts {
                break;
            }
            work(i);
        };
        pool.in_place_scope(|s| {
            s.spawn(|_| all());
            all();
        });
    };
    let one = Par { threads: 1, run: &run };
    let two = Par { threads: 2, run: &run };
    let case = |name, batch, m, n, k, l, r| Case { name, batch, m, n, k, turned: [l, r] };
    let cases = [
        case("64", 1, 64, 64, 64, false, false),
        case("128", 1, 128, 128, 128, false, false),
        case("256", 1, 256, 256, 256, false, false),
        case("512", 1, 512, 512, 512, false, false),
        case("1024", 1, 1024, 1024, 1024, false, false),
        case("2048", 1, 2048, 2048, 2048, false, false),
        case("1x1024x1024", 1, 1, 1024, 1024, false, false),
        case("1x1024x1024 rhs turned", 1, 1, 1024, 1024, false, true),
        case("1024x1x1024", 1, 1024, 1, 1024, false, false),
        case("8x1024x1024", 1, 8, 1024, 1024, false, false),
        case("32x4096x1024", 1, 32, 4096, 1024, false, false),
        case("32x4096x1024 rhs turned", 1, 32, 4096, 1024, false, true),
        case("256x1024x4096", 1, 256, 1024, 4096, false, false),
        case("512x4096x1024", 1, 512, 4096, 1024, false, false),
        case("lhs turned 1024x4096x256", 1, 1024, 4096, 256, true, false),
        case("rhs turned 256x1024x4096", 1, 256, 1024, 4096, false, true),
        case("128x10x512", 1, 128, 10, 512, false, false),
        case("lhs turned 512x10x128", 1, 512, 10, 128, true, false),
        case("heads 32 x 512x512x64 turned", 32, 512, 512, 64, false, true),
        case("heads 32 x 512x64x512", 32, 512, 64, 512, false, false),
        case("heads 32 x 128x128x32 turned", 32, 128, 128, 32, false, true),
        case("heads 32 x 128x32x128", 32, 128, 32, 128, false, false),
        case("1024x128x128", 1, 1024, 128, 128, false, false),
        case("1024x512x128", 1, 1024, 512, 128, false, false),
        case("conv 16x784x9 x64", 64, 16, 784, 9, false, false),
        case("conv 32x784x144 x64", 64, 32, 784, 144, false, false),
    ];
    let pars = if std::env::var("ONE").is_ok() { 1 } else { 2 };
    let wanted = std::env::var("CASES").unwrap_or_default();
    println!("{:>30} each 1T and 2T: 512 and packed before, 256 and packed before, the crate gemm; GFLOP/s", "");
    for c in cases.iter().filter(|c| c.name.contains(&wanted)) {
        let (a, b) = (Buffer::new(c.batch * c.m * c.k, 2_654_435_761), Buffer::new(c.batch * c.k * c.n, 2_246_822_519));
        let x = (a.get(), b.get());
        let mut out = Buffer::new(c.batch * c.m * c.n, 1);
        let size = c.batch * c.m * c.n;
        let flops = 2.0 * (c.batch * c.m * c.n * c.k) as f64;
        let mut line = format!("{:>30}", c.name);
        let e = Extents { batch: &[c.batch], m: c.m, n: c.n, k: c.k };
        for level in ["avx512", "avx2"] {
            for par in [&one, &two].into_iter().take(pars) {
                let level = Level::of(level);
                let mut scratch = vec![0u8; scratch_bytes::<f32>(&e, level, par.threads, false)];
                let mut back = false;
                let s = best(par.threads, flops, || {
                    back = !back;
                    ours(c, level, par, x, &mut out.get_mut()[..size], (&mut scratch, None, back));
                });
                line += &format!(" {:>8.1}", flops / s * 1e-9);
                if c.batch > 1 || c.n == 1 {
                    line += &format!(" {:>8}", "");
                    continue;
                }
                let bytes = prepacked_bytes::<f32>(c.k, c.n, level);
                let mut memory = Buffer::new(bytes / size_of::<f32>(), 1);
                let to = &mut bytes_of(memory.get_mut())[..bytes];
                let (br, bc) = strides(c.k, c.n, c.turned[1]);
                let rhs = Operand { data: x.1, offset: 0, batch: &[], rows: &[(c.k, br)], cols: &[(c.n, bc)] };
                prepack(&rhs, (c.k, c.n), level, to, par).unwrap();
                let packed = Some(&*to);
                let s = best(par.threads, flops, || {
                    ours(c, level, par, x, &mut out.get_mut()[..size], (&mut scratch, packed, false))
                });
                line += &format!(" {:>8.1}", flops / s * 1e-9);
            }
        }
        for threads in 1..=pars {
            let s = best(threads, flops, || theirs(c, threads, x, &mut out.get_mut()[..size]));
            line += &format!(" {:>8.1}", flops / s * 1e-9);
        }
        println!("{line}");
    }
}
