//! Tries packages that lie on the loader for a while: valid ones with random changes, under hashes that fit. Every case must
//! be refused with a `Package` error, or load and then run or say why not; while it is loaded, memory must stay within a
//! multiple of the file's size.
//!
//! At the end: how many cases, what became of them, the most memory that a load took, and how the time of a load grows with
//! the size of a file. A case that breaks a rule stops the run; its file is named and kept.
//!
//!     cargo run --release -p torsh-runtime --example fuzz_packages -- [seconds] [seed]
// Memory is counted in an allocator, whose methods are unsafe; nothing here is part of the library.
#![allow(unsafe_code)]

#[path = "../tests/common/package_fuzz.rs"]
mod package_fuzz;

use package_fuzz::{Fuzzer, entries, without_code};
use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use torsh_ir::Graph;
use torsh_runtime::package::{Contents, CudaTargets, LoadOptions, Package, hex, layout, write};
use torsh_runtime::{Config, CpuExecutor};

/// Counts the bytes that are allocated, and the most of them at a time.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; only numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes beyond what was allocated before that a load of `file` bytes may take.
fn allowed(file: u64) -> usize {
    (1 << 20) + 64 * file as usize
}

/// The result of `f`, and the most bytes that it held at a time.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = f();
    (out, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

/// Nanoseconds that this thread has been on a processor: other programs do not count.
fn busy() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let seconds: u64 = words.next().map_or(Ok(60), |w| w.parse())?;
    let seed: u64 = words.next().map_or(Ok(0), |w| w.parse())?;
    let folder = std::env::temp_dir().join(format!("torsh-fuzz-packages-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("case.torsh");
    let config = Config { threads: Some(1), ..Config::default() };
    let executor: &'static CpuExecutor = Box::leak(Box::new(CpuExecutor::with_config(&config)?));
    let seeds = seeds()?;
    let mut fuzzer = Fuzzer::new(seeds.clone(), seed, executor, path.clone());
    let (begin, mut said) = (Instant::now(), Instant::now());
    let (mut cases, mut most, mut worst) = (0u64, 0usize, 0.0f64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let size = fuzzer.make();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let (package, bytes) = peak(|| fuzzer.load());
            assert!(bytes <= allowed(size), "{bytes} bytes of memory for a file of {size}");
            fuzzer.run(package);
            bytes
        }));
        let Ok(bytes) = tried else {
            return Err(format!("case {cases} of seed {seed} broke a rule; it is {}", path.display()).into());
        };
        most = most.max(bytes);
        worst = worst.max(bytes as f64 / size as f64);
        cases += 1;
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            println!("{} s: {cases} cases, {:?}", begin.elapsed().as_secs(), fuzzer.figures);
        }
    }
    println!("seed {seed}: {cases} cases in {} s, none broke a rule; {:?}", begin.elapsed().as_secs(), fuzzer.figures);
    println!("the most memory that a load held: {most} bytes, {worst:.1} bytes for each of a file");
    growth(&seeds[0], &path)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The packages of every release that the repository keeps.
fn seeds() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/packages");
    let mut files: Vec<PathBuf> = Vec::new();
    for version in std::fs::read_dir(golden)? {
        for file in std::fs::read_dir(version?.path())? {
            files.push(file?.path());
        }
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "torsh"));
    files.sort();
    let mut seeds: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    if cfg!(target_arch = "x86_64") {
        seeds.extend(files.iter().map(|file| lowered(file)).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(seeds)
}

/// A package with its lowered programs, which whoever has its hash believes.
fn lowered(file: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let package = Package::load(file)?;
    let state = (0..package.types().state.len()).map(|i| package.state(i)).collect::<Result<_, _>>()?;
    let (manifest, forward, vjp) =
        (package.manifest().clone(), Graph::clone(package.forward()?), package.vjp().cloned());
    let code = vec!["portable".to_string()];
    let path = std::env::temp_dir().join(format!("torsh-fuzz-lowered-{}.torsh", std::process::id()));
    write(&path, Contents { manifest, forward, vjp, state, code, cuda: CudaTargets::default() }, None)?;
    let bytes = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    Ok(without_code(&bytes))
}

/// Prints the time and memory of a load for files that grow in one part at a time. Those of twice the size must take about
/// twice the time.
fn growth(seed: &[u8], path: &Path) -> Result<(), Box<dyn Error>> {
    let parts: Vec<_> = entries(seed).into_iter().filter(|(n, _)| n != "signature.json").collect();
    for part in ["manifest.json", "graph.txt"] {
        let mut before: Option<(usize, u64)> = None;
        for step in [1usize, 2, 4, 8] {
            let mut parts = parts.clone();
            let (_, data) = parts.iter_mut().find(|(n, _)| n == part).ok_or("an entry is missing")?;
            *data = grown(part, data, step * 4000)?;
            fit(&mut parts)?;
            let bytes = layout::pack(&parts).ok_or("too large")?;
            std::fs::write(path, &bytes)?;
            let (mut loads, mut memory) = (0, 0);
            let start = busy().ok_or("the time of this thread cannot be read")?;
            // The system counts in steps of milliseconds.
            let average = loop {
                let (loaded, held) = peak(|| Package::load_with(path, &LoadOptions::default()));
                loaded?;
                (loads, memory) = (loads + 1, memory.max(held));
                let took = busy().ok_or("the time of this thread cannot be read")? - start;
                if took > 200_000_000 {
                    break took / loads;
                }
            };
            let ratio = before.map_or_else(String::new, |(size, time)| {
                let (size, time) = (bytes.len() as f64 / size as f64, average as f64 / time as f64);
                format!(", {size:.2} times the size in {time:.2} times the time")
            });
            let ms = average as f64 / 1e6;
            println!(
                "{part} grown: {} bytes load in {ms:.2} ms of one core, {memory} bytes of memory{ratio}",
                bytes.len()
            );
            if let Some((size, time)) = before
                && average as f64 / time as f64 > 2.0 * bytes.len() as f64 / size as f64
            {
                return Err(format!("the time of a load grows faster than {part}").into());
            }
            before = Some((bytes.len(), average));
        }
    }
    Ok(())
}

/// The entry with so many more items.
fn grown(part: &str, data: &[u8], items: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    if part == "manifest.json" {
        let mut json: serde_json::Value = serde_json::from_slice(data)?;
        let fields = json["metadata"].as_object_mut().ok_or("no metadata")?;
        fields.extend((0..items).map(|i| (format!("key {i}"), format!("value {i}").into())));
        return Ok(json.to_string().into_bytes());
    }
    // Unused nodes in front of what the graph returns.
    let text = std::str::from_utf8(data)?;
    let (head, tail) = text.rsplit_once("  return").ok_or("no return")?;
    let first = text.matches(" = ").count();
    let nodes = (first..first + items).map(|i| format!("  %{i}: f32[{i}] = full(value=1.0)\n"));
    Ok(format!("{head}{}  return{tail}", nodes.collect::<String>()).into_bytes())
}

/// Sizes and hashes of the entries, in the manifest.
fn fit(parts: &mut [(String, Vec<u8>)]) -> Result<(), Box<dyn Error>> {
    use sha2::Digest;
    let facts: Vec<(String, usize, String)> =
        parts.iter().map(|(n, d)| (n.clone(), d.len(), hex(&sha2::Sha256::digest(d)))).collect();
    let (_, manifest) = parts.iter_mut().find(|(n, _)| n == "manifest.json").ok_or("no manifest")?;
    let mut json: serde_json::Value = serde_json::from_slice(manifest)?;
    for entry in json["entries"].as_array_mut().ok_or("no entries")? {
        let found = facts.iter().find(|(n, ..)| entry["name"] == n.as_str()).ok_or("no such entry")?;
        entry["bytes"] = found.1.into();
        entry["sha256"] = found.2.as_str().into();
    }
    *manifest = json.to_string().into_bytes();
    Ok(())
}
