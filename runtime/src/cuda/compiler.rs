//! From CUDA C++ to an image that a device's driver loads: the cache on disk, then NVRTC.

use super::cubins::{Cubins, Key};
use super::libraries;
use crate::sys::cuda::nvrtc::Nvrtc;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;
use torsh_codegen::cuda::GENERATOR_VERSION;
use torsh_ir::{Error, Result, env};

/// What says for which architecture code is generated, among a generator's options.
const ARCH: &str = "--gpu-architecture=";

/// The compiler of one device.
pub(crate) struct Compiler {
    /// Compute capability times ten.
    sm: u32,
    /// Load PTX, which the simulator runs, instead of machine code.
    ptx: bool,
    /// Where NVRTC may be, best first.
    places: Vec<OsString>,
    nvrtc: Mutex<Option<Arc<Nvrtc>>>,
    cubins: Option<Cubins>,
}

impl Compiler {
    /// A compiler for a compute capability (times ten). `folders`: those of NVIDIA's wheels; `max_version`: the
    /// version of CUDA that the driver knows.
    pub fn new(sm: u32, ptx: bool, folders: &[PathBuf], max_version: Option<u32>) -> Compiler {
        let places = libraries::nvrtc(folders, max_version);
        Compiler { sm, ptx, places, nvrtc: Mutex::default(), cubins: Cubins::new() }
    }

    /// Whether images are PTX.
    pub fn takes_ptx(&self) -> bool {
        self.ptx
    }

    /// The image of a source.
    pub fn image(&self, source: &str, options: &[String]) -> Result<Vec<u8>> {
        let text = self.text(source, options);
        let compiler = self.identity();
        let key = Key { text: &text, compiler: compiler.as_deref() };
        if let Some(image) = self.cubins.as_ref().and_then(|c| c.get(&key)) {
            return Ok(image);
        }
        let image = self.compile(source, options)?;
        if let Some(cubins) = &self.cubins {
            cubins.put(&key, &image);
        }
        Ok(image)
    }

    /// The image of a source, if it is in the cache on disk.
    pub fn cached(&self, source: &str, options: &[String]) -> Option<Vec<u8>> {
        let text = self.text(source, options);
        let compiler = self.identity();
        self.cubins.as_ref()?.get(&Key { text: &text, compiler: compiler.as_deref() })
    }

    /// Everything that an image depends on, but for the compiler.
    fn text(&self, source: &str, options: &[String]) -> String {
        format!(
            "torsh {} generator {GENERATOR_VERSION} {} sm_{}\n{}\n{source}",
            env!("CARGO_PKG_VERSION"),
            if self.ptx { "ptx" } else { "cubin" },
            self.sm,
            options.join(" ")
        )
    }

    /// Which compiler is installed, as far as that shows without loading it: its file, size and time.
    fn identity(&self) -> Option<String> {
        let path = self.places.iter().map(Path::new).find(|p| p.is_absolute() && p.is_file())?;
        let meta = path.metadata().ok()?;
        let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{} {} {}", path.display(), meta.len(), time.as_nanos()))
    }

    fn compile(&self, source: &str, options: &[String]) -> Result<Vec<u8>> {
        let (nvrtc, arch) = self.nvrtc()?;
        let options: Vec<String> =
            options.iter().map(|o| if o.starts_with(ARCH) { format!("{ARCH}sm_{arch}") } else { o.clone() }).collect();
        let compiled = nvrtc.compile(source, &options)?;
        if env::log().time && !compiled.log.is_empty() {
            env::say(&format!("NVRTC says: {}", compiled.log));
        }
        Ok(if self.ptx { compiled.ptx } else { compiled.cubin })
    }

    /// NVRTC, and the best architecture that it knows for the device.
    fn nvrtc(&self) -> Result<(Arc<Nvrtc>, u32)> {
        let mut loaded = self.nvrtc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvrtc) = &*loaded
            && let Some(arch) = best_arch(nvrtc.archs(), self.sm)
        {
            return Ok((nvrtc.clone(), arch));
        }
        let (nvrtc, arch) = open(&self.places, self.sm, |archs| best_arch(archs, self.sm))
            .map_err(|why| Error::device(format!("kernels cannot be compiled for the GPU: {why}")))?;
        let nvrtc = Arc::new(nvrtc);
        *loaded = Some(nvrtc.clone());
        Ok((nvrtc, arch))
    }
}

/// The first NVRTC that has an architecture that `choose` takes for `sm`, and that architecture; else what was tried.
pub(super) fn open(
    places: &[OsString],
    sm: u32,
    choose: impl Fn(&[u32]) -> Option<u32>,
) -> std::result::Result<(Nvrtc, u32), String> {
    let mut tried = Vec::new();
    for name in places {
        match Nvrtc::open(name) {
            Ok(nvrtc) => match choose(nvrtc.archs()) {
                Some(arch) => return Ok((nvrtc, arch)),
                None => {
                    let (major, minor) = nvrtc.version();
                    tried.push(format!(
                        "{} (NVRTC {major}.{minor}) has no code for sm_{sm}, only for {:?}",
                        name.to_string_lossy(),
                        nvrtc.archs()
                    ));
                }
            },
            Err(e) => tried.push(e),
        }
    }
    Err(format!(
        "no fitting NVRTC was found ({}); `pip install torsh-compiler[cuda]` brings one, or TORSH_NVRTC names its path",
        tried.join("; ")
    ))
}

/// The architecture whose machine code a device runs: of the same major version, and no newer.
fn best_arch(archs: &[u32], sm: u32) -> Option<u32> {
    archs.iter().copied().filter(|&a| a / 10 == sm / 10 && a <= sm).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_same_major_version_fits() {
        assert_eq!(best_arch(&[75, 80, 86, 90], 90), Some(90));
        assert_eq!(best_arch(&[75, 80, 86, 90], 89), Some(86));
        assert_eq!(best_arch(&[75, 80, 86, 90], 100), None);
        assert_eq!(best_arch(&[], 90), None);
    }
}
