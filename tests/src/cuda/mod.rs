//! What the tests of the CUDA code generator share: NVRTC, and sources of many programs compiled at once.
//!
//! NVRTC is used through a Python process, `tests/cuda/nvrtc.py`. The library is the file that `TORSH_NVRTC` names, or is in
//! the folder that it names, else the one of the `nvidia-cuda-nvrtc` wheel of the environment's Python (`.venv/bin/python`, else `python3`). Without one
//! the tests say so and check nothing but the text.

pub mod batch;
pub mod check;
pub mod sass;
pub mod shapes;
pub mod sim;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use torsh_codegen::cuda::Options;
use torsh_ir::exec::{Device, Target};
use torsh_passes::Options as PassOptions;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn python() -> PathBuf {
    let own = root().join(".venv/bin/python");
    if own.exists() { own } else { PathBuf::from("python3") }
}

fn script() -> PathBuf {
    root().join("tests/cuda/nvrtc.py")
}

/// How programs are compiled for CUDA devices.
pub fn passes() -> PassOptions {
    let target = Target { device: Device::Cuda(0), isa: "sm_90", threads: 1, l1_bytes: 227 << 10, l2_bytes: 50 << 20 };
    PassOptions { target, ..PassOptions::default() }
}

/// The library in a folder.
fn in_folder(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let is_library = |p: &PathBuf| {
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
        name.strip_prefix("libnvrtc.so.").is_some_and(|v| v.chars().all(|c| c.is_ascii_digit()))
    };
    names.filter(is_library).max().map(|p| p.to_string_lossy().into_owned())
}

/// The NVRTC library; `None`, with a line on standard error, where there is none. `REQUIRE_NVRTC=1`, as `make test` sets
/// it where NVRTC's wheel exists, makes that a failure.
pub fn nvrtc() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        if let Ok(path) = std::env::var("TORSH_NVRTC") {
            return in_folder(Path::new(&path)).or(Some(path));
        }
        let output = Command::new(python()).arg(script()).arg("-").output().ok()?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_string();
        (!path.is_empty()).then_some(path)
    };
    let found = FOUND.get_or_init(find).as_deref();
    if found.is_none() {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "NVRTC was not found");
        eprintln!("skipped: no NVRTC; install nvidia-cuda-nvrtc-cu12 or set TORSH_NVRTC");
    }
    found
}

/// Compiles a source; `extension` is `ptx` or `cubin`. The result is the code and the compiler's log.
///
/// # Errors
/// The compiler's log, with the source where it was written.
pub fn compile(source: &str, flags: &[String], extension: &str) -> Result<(Vec<u8>, String), String> {
    let library = nvrtc().ok_or("no NVRTC")?;
    let folder = std::env::temp_dir().join(format!("torsh-nvrtc-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let stamp = std::thread::current().id();
    let (from, to) = (folder.join(format!("{stamp:?}.cu")), folder.join(format!("{stamp:?}.{extension}")));
    std::fs::write(&from, source).map_err(|e| e.to_string())?;
    let output = Command::new(python()).arg(script()).arg(library).arg(&from).arg(&to).args(flags).output();
    let output = output.map_err(|e| e.to_string())?;
    let log = String::from_utf8_lossy(&output.stderr).to_string();
    if !output.status.success() {
        return Err(format!("{}\nin {}", log.chars().take(6000).collect::<String>(), from.display()));
    }
    let code = std::fs::read(&to).map_err(|e| e.to_string())?;
    // What was read is of no further use; a file that stays does no harm.
    let _ = (std::fs::remove_file(&from), std::fs::remove_file(&to));
    Ok((code, log))
}

/// Flags for PTX of a virtual architecture.
pub fn ptx_flags(options: &Options) -> Vec<String> {
    options.compiler_flags().into_iter().map(|f| f.replace("=sm_", "=compute_")).collect()
}
