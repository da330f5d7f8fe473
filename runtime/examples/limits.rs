//! Measures what the machine can do, for the benchmarks' rooflines: bandwidth of reading, copying and of the triad
//! `a = b + s * c` per cache level, and the rate of float32 multiply-adds, with one thread and more.
//!
//! Prints one JSON object. Arguments: the thread counts (default 1 2). Bandwidth counts the bytes that the
//! program names (12 an element for the triad), not the lines that a store fetches first.
//!
//!     cargo run --release -p torsh-runtime --example limits -- 1 2
// The intrinsics below need `unsafe`; nothing here is part of the library.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Elements per step of every loop: a multiple of every vector width, four vectors of the widest.
const STEP: usize = 64;
/// Independent accumulators of the multiply-add loop: latency 4 times two units, and some to spare.
const CHAINS: usize = 12;
/// A round is at least so long; the best of `ROUNDS` counts.
const ROUND: Duration = Duration::from_millis(3);
const ROUNDS: usize = 24;

/// What one instruction set level offers.
#[derive(Clone, Copy)]
struct Level {
    name: &'static str,
    read: fn(&[f32]) -> f32,
    copy: fn(&mut [f32], &[f32]),
    triad: fn(&mut [f32], &[f32], &[f32], f32),
    /// Runs so many rounds over all accumulators; returns a value that depends on them.
    fma: fn(usize) -> f32,
    /// Floats per vector.
    lanes: usize,
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_level {
    ($module:ident, $feature:literal, $lanes:literal, $load:ident, $store:ident, $set:ident, $add:ident, $fma:ident,
     $zero:ident) => {
        mod $module {
            use super::{CHAINS, STEP};
            use std::arch::x86_64::*;

            #[target_feature(enable = $feature)]
            fn read_inner(a: &[f32]) -> f32 {
                let mut acc = [$zero(); STEP / $lanes];
                for a in a.chunks_exact(STEP) {
                    for k in 0..STEP / $lanes {
                        // SAFETY: the chunk has STEP floats and k * lanes + lanes <= STEP.
                        acc[k] = $add(acc[k], unsafe { $load(a.as_ptr().add(k * $lanes)) });
                    }
                }
                let mut out = [0f32; STEP];
                for k in 0..STEP / $lanes {
                    // SAFETY: as above, for the array of STEP floats.
                    unsafe { $store(out.as_mut_ptr().add(k * $lanes), acc[k]) };
                }
                out.iter().sum()
            }

            #[target_feature(enable = $feature)]
            fn copy_inner(a: &mut [f32], b: &[f32]) {
                for (a, b) in a.chunks_exact_mut(STEP).zip(b.chunks_exact(STEP)) {
                    for k in 0..STEP / $lanes {
                        // SAFETY: both chunks have STEP floats and k * lanes + lanes <= STEP.
                        unsafe { $store(a.as_mut_ptr().add(k * $lanes), $load(b.as_ptr().add(k * $lanes))) };
                    }
                }
            }

            #[target_feature(enable = $feature)]
            fn triad_inner(a: &mut [f32], b: &[f32], c: &[f32], s: f32) {
                let s = $set(s);
                let inputs = b.chunks_exact(STEP).zip(c.chunks_exact(STEP));
                for (a, (b, c)) in a.chunks_exact_mut(STEP).zip(inputs) {
                    for k in 0..STEP / $lanes {
                        // SAFETY: the three chunks have STEP floats and k * lanes + lanes <= STEP.
                        unsafe {
                            let v = $fma(s, $load(c.as_ptr().add(k * $lanes)), $load(b.as_ptr().add(k * $lanes)));
                            $store(a.as_mut_ptr().add(k * $lanes), v);
                        }
                    }
                }
            }

            #[target_feature(enable = $feature)]
            fn fma_inner(rounds: usize) -> f32 {
                let (m, b) = ($set(std::hint::black_box(0.999)), $set(std::hint::black_box(0.001)));
                let mut acc = [$set(std::hint::black_box(1.0)); CHAINS];
                for _ in 0..rounds {
                    for a in &mut acc {
                        *a = $fma(*a, m, b);
                    }
                }
                let mut out = [0f32; 16];
                for k in 1..CHAINS {
                    acc[0] = $add(acc[0], acc[k]);
                }
                // SAFETY: 16 floats are at least one vector.
                unsafe { $store(out.as_mut_ptr(), acc[0]) };
                out[0]
            }

            pub fn read(a: &[f32]) -> f32 {
                // SAFETY: `levels` lists this module only where the feature was detected.
                unsafe { read_inner(a) }
            }
            pub fn copy(a: &mut [f32], b: &[f32]) {
                // SAFETY: as for `read`.
                unsafe { copy_inner(a, b) }
            }
            pub fn triad(a: &mut [f32], b: &[f32], c: &[f32], s: f32) {
                // SAFETY: as for `read`.
                unsafe { triad_inner(a, b, c, s) }
            }
            pub fn fma(rounds: usize) -> f32 {
                // SAFETY: as for `read`.
                unsafe { fma_inner(rounds) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_level!(
    avx512,
    "avx512f",
    16,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps,
    _mm512_setzero_ps
);
#[cfg(target_arch = "x86_64")]
x86_level!(
    avx2,
    "avx2,fma",
    8,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps,
    _mm256_setzero_ps
);

/// Plain loops, which the compiler vectorises for the baseline of the target.
mod portable {
    use super::{CHAINS, STEP};

    pub fn read(a: &[f32]) -> f32 {
        let mut acc = [0f32; STEP];
        for a in a.chunks_exact(STEP) {
            for (s, v) in acc.iter_mut().zip(a) {
                *s += v;
            }
        }
        acc.iter().sum()
    }
    pub fn copy(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.chunks_exact_mut(STEP).zip(b.chunks_exact(STEP)) {
            for (a, b) in a.iter_mut().zip(b) {
                *a = *b;
            }
        }
    }
    pub fn triad(a: &mut [f32], b: &[f32], c: &[f32], s: f32) {
        for (a, (b, c)) in a.iter_mut().zip(b.iter().zip(c)) {
            *a = b + s * c;
        }
    }
    /// A product and a sum: the baseline of x86-64 has no fused instruction.
    pub fn fma(rounds: usize) -> f32 {
        let (m, b) = (std::hint::black_box(0.999f32), std::hint::black_box(0.001f32));
        let mut acc = [std::hint::black_box(1.0f32); CHAINS * 4];
        for _ in 0..rounds {
            for a in &mut acc {
                *a = *a * m + b;
            }
        }
        acc.iter().sum()
    }
}

/// The levels that this processor has, widest first.
fn levels() -> Vec<Level> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            let (read, copy, triad, fma) = (avx512::read, avx512::copy, avx512::triad, avx512::fma);
            all.push(Level { name: "avx512", read, copy, triad, fma, lanes: 16 });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let (read, copy, triad, fma) = (avx2::read, avx2::copy, avx2::triad, avx2::fma);
            all.push(Level { name: "avx2", read, copy, triad, fma, lanes: 8 });
        }
    }
    if all.is_empty() {
        let (read, copy, triad, fma) = (portable::read, portable::copy, portable::triad, portable::fma);
        all.push(Level { name: "portable", read, copy, triad, fma, lanes: 4 });
    }
    all
}

/// Best rate (units a second, over all threads) of `work`, whose call does `units` on each thread. Every thread
/// makes its own state by `state`.
fn rate<S>(threads: usize, units: f64, state: impl Fn() -> S + Sync, work: impl Fn(&mut S) + Sync) -> f64 {
    let mut calls = 1usize;
    {
        let mut s = state();
        work(&mut s);
        loop {
            let start = Instant::now();
            (0..calls).for_each(|_| work(&mut s));
            if start.elapsed() >= ROUND || calls >= 1 << 24 {
                break;
            }
            calls *= 2;
        }
    }
    // Each thread notes when it began and ended: the clock runs from the first start to the last end.
    let (barrier, origin) = (Barrier::new(threads), Instant::now());
    let run = || {
        let mut s = state();
        work(&mut s);
        let mut spans = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            barrier.wait();
            let start = origin.elapsed();
            (0..calls).for_each(|_| work(&mut s));
            spans.push((start, origin.elapsed()));
        }
        spans
    };
    let spans: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|w| w.join().unwrap_or_default()).collect()
    });
    let span = |round: usize| {
        let of = spans.iter().filter_map(|s| s.get(round));
        let (start, end) = (of.clone().map(|s| s.0).min(), of.map(|s| s.1).max());
        end.unwrap_or_default().saturating_sub(start.unwrap_or_default())
    };
    let best = (0..ROUNDS).map(span).min().unwrap_or_default().max(Duration::from_nanos(1));
    units * calls as f64 * threads as f64 / best.as_secs_f64()
}

/// Bytes of a data or unified cache by level, as the kernel tells; typical sizes where it does not.
fn cache_bytes(level: u32) -> usize {
    for index in 0..8 {
        let file = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
        };
        if file("level") == level.to_string() && file("type") != "Instruction" {
            let size = file("size");
            let (digits, unit) = size.split_at(size.len().saturating_sub(1));
            let scale = match unit {
                "K" => 1 << 10,
                "M" => 1 << 20,
                _ => continue,
            };
            if let Ok(n) = digits.parse::<usize>() {
                return n * scale;
            }
        }
    }
    match level {
        1 => 32 << 10,
        2 => 1 << 20,
        _ => 32 << 20,
    }
}

/// One thread count: the JSON object of its figures.
fn measure(threads: usize, all: &[Level]) -> String {
    let widest = all[0];
    let (l1, l2, l3) = (cache_bytes(1), cache_bytes(2), cache_bytes(3));
    // Bytes of the whole working set of one thread, half of a cache; well beyond the last one for DRAM.
    let dram = (2 * l3).clamp(256 << 20, 768 << 20);
    let sets = [("L1", l1 / 2), ("L2", l2 / 2), ("L3", (l3 / 2).min(24 << 20) / threads), ("DRAM", dram / threads)];
    let mut levels = Vec::new();
    for (name, bytes) in sets {
        let fill = |parts: usize| {
            let n = (bytes / 4 / parts / STEP).max(1) * STEP;
            move || (0..parts).map(|p| vec![p as f32 + 0.5; n]).collect::<Vec<_>>()
        };
        let size = |parts: usize| ((bytes / 4 / parts / STEP).max(1) * STEP * 4 * parts) as f64;
        let read = rate(threads, size(1), fill(1), |v| {
            black_box((widest.read)(black_box(&v[0])));
        });
        let copy = rate(threads, size(2), fill(2), |v| {
            let (a, b) = v.split_at_mut(1);
            (widest.copy)(black_box(&mut a[0]), black_box(&b[0]));
        });
        let triad = rate(threads, size(3), fill(3), |v| {
            let (a, b) = v.split_at_mut(1);
            (widest.triad)(black_box(&mut a[0]), black_box(&b[0]), black_box(&b[1]), 0.5);
        });
        // Of all threads together.
        let set = bytes * threads;
        let rates = [("read", read), ("copy", copy), ("triad", triad)].map(|(k, v)| format!("\"{k}\":{:.2}", v / 1e9));
        levels.push(format!("\"{name}\":{{\"bytes\":{set},{}}}", rates.join(",")));
    }
    let rounds = 20_000;
    let peaks = all.iter().map(|level| {
        // A multiply-add is two operations.
        let flops = (2 * rounds * CHAINS * level.lanes) as f64;
        let peak = rate(
            threads,
            flops,
            || (),
            |()| {
                black_box((level.fma)(black_box(rounds)));
            },
        );
        format!("\"{}\":{:.2}", level.name, peak / 1e9)
    });
    let peaks = peaks.collect::<Vec<_>>().join(",");
    format!("{{\"levels\":{{{}}},\"gflop_per_s\":{{{peaks}}}}}", levels.join(","))
}

fn main() -> Result<(), String> {
    let mut threads = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.parse::<usize>() {
            Ok(n) if (1..=1024).contains(&n) => threads.push(n),
            _ => return Err(format!("expected thread counts from 1 to 1024, got {arg:?}")),
        }
    }
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let all = levels();
    let caches = [1, 2, 3].map(|level| format!("\"L{level}\":{}", cache_bytes(level))).join(",");
    let figures: Vec<_> = threads.iter().map(|&n| format!("\"{n}\":{}", measure(n, &all))).collect();
    println!("{{\"isa\":\"{}\",\"cache_bytes\":{{{caches}}},\"threads\":{{{}}}}}", all[0].name, figures.join(","));
    Ok(())
}
