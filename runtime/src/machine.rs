//! Facts about this machine, and the Cranelift target of an ISA level.

use cranelift::codegen::isa::OwnedTargetIsa;
use cranelift::codegen::settings::{self, Configurable, Flags};
use torsh_ir::{Error, Result};

/// Memory that this process may use: the cgroup's limit, or what the machine has.
pub fn memory_bytes() -> u64 {
    let total = meminfo_total().unwrap_or(8 << 30);
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(total, u64::min)
}

fn meminfo_total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes of first-level data cache and second-level cache of a core.
pub fn cache_bytes() -> (usize, usize) {
    let size = |index: u32| -> Option<usize> {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        match text.strip_suffix('K') {
            Some(k) => k.parse::<usize>().ok()?.checked_mul(1024),
            None => text.parse().ok(),
        }
    };
    (size(0).unwrap_or(32 << 10), size(2).unwrap_or(1 << 20))
}

/// The Cranelift target for an ISA level.
///
/// `opt_level=none` keeps program order, which the inline schedule relies on; the code needs no other
/// optimisation. `TORSH_VERIFY` turns Cranelift's own verifier on. Features are those of the level, not of the machine, so that a level means one thing.
pub fn cranelift_isa(level: &str) -> Result<OwnedTargetIsa> {
    let bug = |e: &dyn std::fmt::Display| Error::compile(format!("cannot set up code generation: {e}"));
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "none"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", if torsh_ir::env::verify() { "true" } else { "false" }),
    ] {
        flags.set(name, value).map_err(|e| bug(&e))?;
    }
    let is_x86 = cfg!(target_arch = "x86_64");
    let mut builder = cranelift_native::builder_with_options(!is_x86).map_err(|e| bug(&e))?;
    if is_x86 {
        for name in x86_features(level) {
            builder.enable(name).map_err(|e| bug(&e))?;
        }
    }
    builder.finish(Flags::new(flags)).map_err(|e| bug(&e))
}

fn x86_features(level: &str) -> Vec<&'static str> {
    let mut features = Vec::new();
    if has_vectors() {
        features.extend(["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"]);
    }
    if level != "portable" {
        features.extend(["has_avx", "has_avx2", "has_fma", "has_bmi1", "has_bmi2", "has_lzcnt"]);
    }
    features
}

/// What code of a level uses of an x86 processor, in order, by the names of Rust's `target_feature`.
pub fn features(level: &str) -> Vec<&'static str> {
    let cranelift = x86_features(level).into_iter().map(|name| match name {
        "has_sse41" => "sse4.1",
        "has_sse42" => "sse4.2",
        name => name.trim_start_matches("has_"),
    });
    let ours: &[&str] = match level {
        "avx512" => &["f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"],
        "avx2" => &["f16c"],
        _ => &[],
    };
    let mut all: Vec<&str> = cranelift.chain(ours.iter().copied()).collect();
    all.sort_unstable();
    all
}

/// Whether this processor has a feature of [`features`]. What is unknown is not there.
pub fn has(feature: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    return match feature {
        "sse3" => is_x86_feature_detected!("sse3"),
        "ssse3" => is_x86_feature_detected!("ssse3"),
        "sse4.1" => is_x86_feature_detected!("sse4.1"),
        "sse4.2" => is_x86_feature_detected!("sse4.2"),
        "popcnt" => is_x86_feature_detected!("popcnt"),
        "avx" => is_x86_feature_detected!("avx"),
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "bmi1" => is_x86_feature_detected!("bmi1"),
        "bmi2" => is_x86_feature_detected!("bmi2"),
        "lzcnt" => is_x86_feature_detected!("lzcnt"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        _ => false,
    };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = feature;
        false
    }
}

/// True when vector code may be emitted in line: 128-bit vectors with SSE 4.2, or NEON.
pub fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    return cfg!(target_arch = "aarch64");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_plausible() {
        assert!(memory_bytes() > 1 << 20);
        let (l1, l2) = cache_bytes();
        assert!(l1 >= 4 << 10 && l2 >= l1);
        cranelift_isa("portable").unwrap();
        for level in crate::sys::prims::LEVELS {
            // Whoever has a level has everything that its code uses.
            let used = if cfg!(target_arch = "x86_64") { features(level) } else { Vec::new() };
            assert!(!crate::sys::prims::supported(level) || used.iter().all(|f| has(f)), "{level}: {used:?}");
        }
    }
}
