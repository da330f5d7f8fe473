//! The one table of environment variables. Everything that reads one does it through a getter here; an
//! unknown name with our prefix, or a value that cannot be read, warns once on stderr and is ignored.

use crate::limits::Limits;
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, Once, OnceLock, PoisonError};

/// One environment variable.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Var {
    /// Its name.
    pub name: &'static str,
    /// What stands in when it is not set.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

macro_rules! table {
    ($($id:ident = $name:literal, $default:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Var = Var { name: $name, default: $default, help: $help };)*
        /// Every variable.
        pub const VARS: &[Var] = &[$($id,)*];
    };
}

table! {
    CACHE_DIR = "TORSH_CACHE_DIR", "$XDG_CACHE_HOME/torsh or ~/.cache/torsh", "Directory of compiled code that later processes use; off for none.";
    CUBLASLT = "TORSH_CUBLASLT", "that of the nvidia-cublas wheel, else the system's", "Path of cublasLt, which computes matrix products on CUDA devices; 0 for torsh's own kernels.";
    CUDA_GRAPHS = "TORSH_CUDA_GRAPHS", "1", "0 launches the kernels of a program one by one instead of as a CUDA graph.";
    CUDA_SIM = "TORSH_CUDA_SIM", "0", "1 uses the CUDA simulator of torsh's repository (make cuda-sim) instead of a GPU; or the path of its library, or of the folder that holds it.";
    DUMP = "TORSH_DUMP", "", "Directory that receives the graph after each pass, the program, its kernels and the generated code.";
    FUSION = "TORSH_FUSION", "1", "0 compiles every operation into a kernel of its own.";
    INTERPRET = "TORSH_INTERPRET", "0", "1 runs everything in the reference interpreter.";
    ISA = "TORSH_ISA", "the best that the CPU has", "Instruction set level of the CPU backend: portable, neon (64-bit ARM), avx2 or avx512.";
    JOIN = "TORSH_JOIN", "1", "0 runs each step of a program by itself: no kernels in front of a product or on its rows while these are in cache, no joint parallel regions.";
    LOG = "TORSH_LOG", "", "What to write to stderr, separated by commas: time (seconds per pass of each compilation), steps (microseconds per step of each run), notes (attentions that keep their score matrix, functions that run without compilation, and why).";
    NVRTC = "TORSH_NVRTC", "that of the nvidia-cuda-nvrtc wheel, else the system's", "Path of NVRTC, which compiles kernels for CUDA devices.";
    SCHEDULE = "TORSH_SCHEDULE", "auto", "How the CPU backend writes kernels: auto, vector (AVX2 and AVX-512 code), block (primitives), inline (128-bit code), row (vector, along rows only) or random.";
    THREADS = "TORSH_THREADS", "the CPUs that the process may use", "Number of worker threads.";
    VERIFY = "TORSH_VERIFY", "1 in debug builds, else 0", "1 runs the verifier and a text round trip after each pass.";
    MAX_MEMORY = "TORSH_MAX_MEMORY", "a share of the machine or cgroup", "Bytes of tensor memory that the process may use (suffixes K, M, G, T).";
    MAX_RANK = "TORSH_MAX_RANK", "64", "Dimensions per tensor.";
    MAX_ELEMENTS = "TORSH_MAX_ELEMENTS", "2^40", "Elements per tensor.";
    MAX_TENSOR_BYTES = "TORSH_MAX_TENSOR_BYTES", "as TORSH_MAX_MEMORY", "Bytes per tensor (suffixes K, M, G, T).";
    MAX_NODES = "TORSH_MAX_NODES", "1000000", "Nodes per graph.";
    MAX_KERNEL_INSTS = "TORSH_MAX_KERNEL_INSTS", "512", "Instructions per kernel; fusion stops there.";
    MAX_CONSTANT_BYTES = "TORSH_MAX_CONSTANT_BYTES", "1G", "Bytes of constants per graph (suffixes K, M, G, T).";
    BLESS = "TORSH_BLESS", "0", "Tests only: 1 rewrites the expected part of golden files.";
    FUZZ_CASES = "TORSH_FUZZ_CASES", "a few seconds' worth", "Tests only: number of random graphs that the fuzzer tries.";
    FUZZ_SEED = "TORSH_FUZZ_SEED", "0", "Tests only: the fuzzer's first seed.";
}

/// Warns about each text once in the life of the process.
pub fn warn(text: String) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.get_or_insert_default().insert(text.clone()) {
        say(&format!("warning: {text}"));
    }
}

/// Writes a line to stderr. One that is closed or full loses the line: there is nowhere else to say so, and no reason
/// to give up the computation (`eprintln` would panic).
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "torsh: {text}");
}

/// Warns, once, about every variable of our prefix that the table lacks. The getters do it by themselves.
pub fn warn_unknown() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, _) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            // The simulator of CUDA has variables of its own.
            if name.starts_with("TORSH_CUDA_SIM_") {
                continue;
            }
            if name.starts_with("TORSH_") && VARS.iter().all(|v| v.name != name) {
                let near = VARS.iter().map(|v| (distance(v.name, name), v.name)).min();
                let hint = near.filter(|(d, _)| *d <= 3).map_or(String::new(), |(_, n)| format!("; is {n} meant?"));
                warn(format!("unknown environment variable {name}{hint}"));
            }
        }
    });
}

/// Edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// The text of a variable; unset and empty are the same.
fn text(var: Var) -> Option<String> {
    warn_unknown();
    std::env::var(var.name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
}

/// Reads a variable with `parse`; what it refuses warns and counts as unset.
fn read<T>(var: Var, wanted: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let value = text(var)?;
    let parsed = parse(&value);
    if parsed.is_none() {
        warn(format!("{}={value:?} is ignored: {wanted} expected", var.name));
    }
    parsed
}

fn parse_flag(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Some(true),
        "0" | "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

fn flag(var: Var) -> Option<bool> {
    read(var, "0 or 1", parse_flag)
}

fn parse_bytes(value: &str) -> Option<u64> {
    let upper = value.to_ascii_uppercase();
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = match bare.as_bytes().last()? {
        b'K' => (&bare[..bare.len() - 1], 10),
        b'M' => (&bare[..bare.len() - 1], 20),
        b'G' => (&bare[..bare.len() - 1], 30),
        b'T' => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn bytes(var: Var) -> Option<u64> {
    read(var, "a number of bytes such as 512M", parse_bytes)
}

fn count(var: Var) -> Option<u64> {
    read(var, "a positive number", |v| v.parse().ok().filter(|&n| n > 0))
}

fn word(var: Var, words: &[&'static str]) -> Option<&'static str> {
    let parse = |v: &str| words.iter().copied().find(|w| w.eq_ignore_ascii_case(v));
    read(var, &format!("one of {}", words.join(", ")), parse)
}

/// The directory that [`CACHE_DIR`] names; `None` for no cache, or where there is no home.
pub fn cache_dir() -> Option<PathBuf> {
    match text(CACHE_DIR) {
        Some(value) if parse_flag(&value) == Some(false) => None,
        Some(value) => Some(PathBuf::from(value)),
        None => {
            let of = |name: &str, inside: &str| {
                let dir = std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
                dir.map(|dir| dir.join(inside))
            };
            of("XDG_CACHE_HOME", "torsh").or_else(|| of("HOME", ".cache/torsh"))
        }
    }
}
/// What [`CUBLASLT`] names: a path; `Some` of an empty one for none at all.
pub fn cublaslt() -> Option<PathBuf> {
    text(CUBLASLT).map(|v| if parse_flag(&v) == Some(false) { PathBuf::new() } else { PathBuf::from(v) })
}
/// [`CUDA_GRAPHS`].
pub fn cuda_graphs() -> bool {
    flag(CUDA_GRAPHS).unwrap_or(true)
}
/// What [`CUDA_SIM`] asks for: `None` for a GPU, else the path of the simulator, empty where none is given.
pub fn cuda_sim() -> Option<PathBuf> {
    let value = text(CUDA_SIM)?;
    match parse_flag(&value) {
        Some(true) => Some(PathBuf::new()),
        Some(false) => None,
        None => Some(PathBuf::from(value)),
    }
}
/// [`DUMP`].
pub fn dump() -> Option<PathBuf> {
    text(DUMP).map(PathBuf::from)
}
/// [`FUSION`].
pub fn fusion() -> bool {
    flag(FUSION).unwrap_or(true)
}
/// [`INTERPRET`].
pub fn interpret() -> bool {
    flag(INTERPRET).unwrap_or(false)
}
/// [`JOIN`].
pub fn join() -> bool {
    flag(JOIN).unwrap_or(true)
}

/// [`NVRTC`].
pub fn nvrtc() -> Option<PathBuf> {
    text(NVRTC).map(PathBuf::from)
}

/// What [`LOG`] asks for.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// Seconds per pass of each compilation.
    pub time: bool,
    /// Microseconds per step of each run.
    pub steps: bool,
    /// What is not joined, and why.
    pub notes: bool,
}

fn parse_log(value: &str) -> Option<Log> {
    let mut log = Log::default();
    for word in value.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "time" => log.time = true,
            "steps" => log.steps = true,
            "notes" => log.notes = true,
            _ => return None,
        }
    }
    Some(log)
}

/// [`LOG`], read once: every run asks.
pub fn log() -> Log {
    static READ: OnceLock<Log> = OnceLock::new();
    *READ.get_or_init(|| {
        read(LOG, "words of time, steps and notes, separated by commas,", parse_log).unwrap_or_default()
    })
}

/// [`ISA`].
pub fn isa() -> Option<&'static str> {
    word(ISA, &["portable", "avx2", "avx512", "neon"])
}
/// [`SCHEDULE`]: `block`, `inline` or `auto`.
pub fn schedule() -> &'static str {
    word(SCHEDULE, &["auto", "block", "inline", "vector", "row", "random"]).unwrap_or("auto")
}
/// [`THREADS`].
pub fn threads() -> Option<usize> {
    count(THREADS).and_then(|n| usize::try_from(n).ok())
}
/// [`VERIFY`].
pub fn verify() -> bool {
    flag(VERIFY).unwrap_or(cfg!(debug_assertions))
}
/// [`MAX_MEMORY`].
pub fn max_memory() -> Option<u64> {
    bytes(MAX_MEMORY)
}
/// [`BLESS`].
pub fn bless() -> bool {
    flag(BLESS).unwrap_or(false)
}
/// [`FUZZ_CASES`].
pub fn fuzz_cases() -> Option<u64> {
    count(FUZZ_CASES)
}
/// [`FUZZ_SEED`].
pub fn fuzz_seed() -> u64 {
    read(FUZZ_SEED, "a number", |v| v.parse().ok()).unwrap_or(0)
}

/// `base` with the limits that the environment sets. [`MAX_MEMORY`] bounds single tensors and programs too.
pub fn limits(base: Limits) -> Limits {
    let memory = max_memory();
    Limits {
        max_rank: count(MAX_RANK).unwrap_or(base.max_rank),
        max_elements: count(MAX_ELEMENTS).unwrap_or(base.max_elements),
        max_tensor_bytes: bytes(MAX_TENSOR_BYTES).or(memory).unwrap_or(base.max_tensor_bytes),
        max_nodes: count(MAX_NODES).unwrap_or(base.max_nodes),
        max_kernel_insts: count(MAX_KERNEL_INSTS).unwrap_or(base.max_kernel_insts),
        max_constant_bytes: bytes(MAX_CONSTANT_BYTES).unwrap_or(base.max_constant_bytes),
        max_peak_bytes: memory.unwrap_or(base.max_peak_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_flags() {
        assert_eq!(parse_bytes("512M"), Some(512 << 20));
        assert_eq!(parse_bytes("2 GiB"), Some(2 << 30));
        assert_eq!(parse_bytes("17"), Some(17));
        for bad in ["", "M", "-1", "1e3", "99999999999T"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        assert_eq!((parse_flag("ON"), parse_flag("0"), parse_flag("2")), (Some(true), Some(false), None));
    }

    #[test]
    fn logs_are_words() {
        assert_eq!(parse_log("time, steps"), Some(Log { time: true, steps: true, notes: false }));
        assert_eq!(parse_log("Time,notes"), Some(Log { time: true, steps: false, notes: true }));
        assert_eq!(parse_log("all"), None);
    }

    #[test]
    fn names_are_ours_distinct_and_explained() {
        let names: HashSet<&str> = VARS.iter().map(|v| v.name).collect();
        assert_eq!(names.len(), VARS.len());
        assert!(VARS.iter().all(|v| v.name.starts_with("TORSH_") && v.help.ends_with('.')));
    }

    #[test]
    fn typing_errors_are_near() {
        assert_eq!(distance("TORSH_THREADS", "TORSH_THREAD"), 1);
        assert_eq!(distance("TORSH_FUSION", "TORSH_FUSOIN"), 2);
    }
}
