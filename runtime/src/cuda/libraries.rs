//! Where the libraries of CUDA are looked for.
//!
//! The driver is the system's, or the simulator's where [`env::cuda_sim`] asks for that. NVRTC and cublasLt are those
//! that the environment names, else those of NVIDIA's wheels, else the system's. Wheels are found by folders that
//! the caller names: on Python's search path, those called `nvidia`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use torsh_ir::{Error, Result, env};

/// The file name of the driver, of the simulator's too.
#[cfg(not(windows))]
const DRIVER: &str = "libcuda.so.1";
#[cfg(windows)]
const DRIVER: &str = "nvcuda.dll";

/// The simulator's cublasLt.
const SIMULATED_CUBLASLT: &str = "libcublasLt.so.13";

/// Versions of CUDA whose libraries are known, newest first.
const VERSIONS: [u32; 2] = [13, 12];

/// Where to open the driver.
pub(crate) fn driver() -> Result<Vec<OsString>> {
    match env::cuda_sim() {
        None => Ok(vec![DRIVER.into()]),
        Some(path) if !path.as_os_str().is_empty() => simulator(path).map(|path| vec![path.into_os_string()]),
        Some(_) => {
            let places = simulator_places();
            let found = places.iter().map(|dir| dir.join(DRIVER)).find(|path| path.is_file());
            found.map(|path| vec![path.into_os_string()]).ok_or_else(|| {
                let list: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
                Error::device(format!(
                    "the CUDA simulator was asked for by TORSH_CUDA_SIM, but {DRIVER} is in none of {}; build it with `make cuda-sim` in torsh's repository and start there, or give its path in TORSH_CUDA_SIM",
                    list.join(", ")
                ))
            })
        }
    }
}

/// The simulator at a path: a library, or the folder that holds it.
fn simulator(path: PathBuf) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path);
    }
    let inside = path.join(DRIVER);
    if inside.is_file() {
        return Ok(inside);
    }
    Err(Error::device(format!(
        "TORSH_CUDA_SIM={} is a folder without {DRIVER}; expected is 1, the simulator's {DRIVER}, or the folder that holds it, which `make cuda-sim` builds in target/cuda-sim of torsh's repository",
        path.display()
    )))
}

/// `target/cuda-sim` of the current folder and of those above it.
fn simulator_places() -> Vec<PathBuf> {
    let Ok(here) = std::env::current_dir() else { return Vec::new() };
    here.ancestors().map(|dir| dir.join("target").join("cuda-sim")).collect()
}

/// The folder of the simulator, when the driver was opened there.
fn beside(driver: &Path) -> Option<PathBuf> {
    driver.parent().filter(|p| !p.as_os_str().is_empty()).map(Path::to_path_buf)
}

/// Where to open NVRTC, best first. `max_version`: the version of CUDA that the driver knows.
pub(crate) fn nvrtc(folders: &[PathBuf], max_version: Option<u32>) -> Vec<OsString> {
    if let Some(path) = env::nvrtc() {
        return vec![path.into_os_string()];
    }
    candidates("nvrtc", &["cuda_nvrtc"], folders, max_version)
}

/// Where to open cublasLt, best first; that of the simulator when `simulator` is where the driver is.
pub(crate) fn cublaslt(folders: &[PathBuf], max_version: Option<u32>, simulator: Option<&Path>) -> Vec<OsString> {
    if let Some(path) = env::cublaslt() {
        let none = path.as_os_str().is_empty();
        return if none { Vec::new() } else { vec![path.into_os_string()] };
    }
    match simulator {
        // The real one would look for what only a real driver has.
        Some(driver) => beside(driver).map(|dir| dir.join(SIMULATED_CUBLASLT).into_os_string()).into_iter().collect(),
        None => candidates("cublasLt", &["cublas"], folders, max_version),
    }
}

fn candidates(name: &str, wheels: &[&str], folders: &[PathBuf], max_version: Option<u32>) -> Vec<OsString> {
    let mut found = Vec::new();
    let versions = VERSIONS.into_iter().filter(|&v| max_version.is_none_or(|max| v <= max));
    for version in versions.clone() {
        for folder in folders {
            let inside = wheels.iter().map(|w| (*w).to_string()).chain([format!("cu{version}")]);
            for dir in inside {
                let path = file(name, version, Some(&folder.join(dir).join(if cfg!(windows) { "bin" } else { "lib" })));
                if Path::new(&path).is_file() {
                    found.push(path);
                }
            }
        }
    }
    found.extend(versions.map(|v| file(name, v, None)));
    found
}

fn file(name: &str, version: u32, dir: Option<&Path>) -> OsString {
    let file = match (cfg!(windows), name) {
        (true, "nvrtc") => format!("nvrtc64_{version}0_0.dll"),
        (true, _) => format!("{name}64_{version}.dll"),
        (false, _) => format!("lib{name}.so.{version}"),
    };
    dir.map_or_else(|| file.clone().into(), |dir| dir.join(&file).into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn wheels_come_before_the_system_and_new_before_old() {
        let root = std::env::temp_dir().join(format!("torsh-wheels-{}", std::process::id()));
        for (dir, name) in [("cuda_nvrtc/lib", "libnvrtc.so.12"), ("cu13/lib", "libnvrtc.so.13")] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
            std::fs::write(root.join(dir).join(name), b"").unwrap();
        }
        let names = |max| candidates("nvrtc", &["cuda_nvrtc"], std::slice::from_ref(&root), max);
        let path = |p: &str| root.join(p).into_os_string();
        let (new, old) = (path("cu13/lib/libnvrtc.so.13"), path("cuda_nvrtc/lib/libnvrtc.so.12"));
        assert_eq!(names(None), [new, old.clone(), "libnvrtc.so.13".into(), "libnvrtc.so.12".into()]);
        assert_eq!(names(Some(12)), [old, "libnvrtc.so.12".into()]);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
