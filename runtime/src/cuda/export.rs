//! Kernels compiled ahead of time, for architectures that need not be there.
//!
//! A plan depends on a little more of a device than its architecture: the number of multiprocessors, which says from which
//! size on work is cut into pieces, and the shared memory that a block may ask for. [`known`] has those of one device of
//! each architecture; on another, kernels that it would plan otherwise are compiled where they run.

use super::compiler;
use super::images::{self, Form, Key};
use super::{CudaProvider, driver, libraries, selftest};
use crate::sys::cuda::nvrtc::{Compiled, Nvrtc};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use torsh_codegen::cuda::{Options, generate};
use torsh_ir::exec::{Device, DeviceProvider};
use torsh_ir::program::Program;
use torsh_ir::{Error, ErrorKind, Result};

/// Architectures with the multiprocessors of a device of theirs and the KiB of shared memory that its blocks may have.
const KNOWN: [(u32, u32, u32, &str); 6] = [
    (80, 108, 163, "A100"),
    (86, 84, 99, "RTX A6000"),
    (89, 142, 99, "L40S"),
    (90, 132, 227, "H100 SXM"),
    (100, 148, 227, "B200"),
    (120, 170, 99, "RTX 5090"),
];

/// What kernels of a form are planned for.
type Plans = BTreeMap<Form, Vec<Options>>;

/// Kernels of one form: what an entry of a package is made from.
pub(crate) struct Made {
    pub form: Form,
    /// Version of NVRTC.
    pub nvrtc: (i32, i32),
    pub images: Vec<Vec<u8>>,
    /// Image and symbol of each.
    pub kernels: BTreeMap<Key, (usize, String)>,
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Export, why)
}

fn known(arch: u32) -> Option<Options> {
    let (_, processors, kib, _) = KNOWN.into_iter().find(|k| k.0 == arch)?;
    Some(Options { sm: arch, processors, shared_bytes: kib << 10, ..Options::default() })
}

/// What the names of targets stand for: `sm_90`, `compute_90`, or a device that is here, `cuda:0`.
fn plans(names: &[String]) -> Result<Plans> {
    let mut plans = Plans::new();
    for name in names {
        let (form, options) = match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => present(index).map_err(|e| {
                refused(format!(
                    "the target {name:?} is a device that must be there: {}. Name an architecture instead, such as \"sm_90\"",
                    e.message()
                ))
            })?,
            _ => {
                let found = Form::parse(name).and_then(|form| Some((form, known(form.arch)?)));
                found.ok_or_else(|| {
                    let all: Vec<String> = KNOWN.iter().map(|k| format!("sm_{} ({})", k.0, k.3)).collect();
                    refused(format!(
                        "there is no CUDA architecture {name:?} that kernels can be planned for without a device; known are {}",
                        all.join(", ")
                    ))
                })?
            }
        };
        let list = plans.entry(form).or_default();
        if !list.contains(&options) {
            list.push(options);
        }
    }
    Ok(plans)
}

/// What a device of this machine loads, and how kernels are planned for it.
fn present(index: u32) -> Result<(Form, Options)> {
    let found = CudaProvider::new(Vec::new()).properties(Device::Cuda(index))?;
    let arch = found.capability.0 * 10 + found.capability.1;
    let form = Form { arch, ptx: driver()?.is_simulator() };
    if Form::parse(&form.name()) != Some(form) {
        return Err(Error::device(format!("{} has compute capability {}", found.name, form.name())));
    }
    Ok((form, super::device::options(&found)))
}

/// An NVRTC that knows an architecture. It stays loaded: other parts of the process may be using the library.
fn opened(places: &[OsString], arch: u32) -> std::result::Result<Arc<Nvrtc>, String> {
    static OPENED: Mutex<Vec<(Vec<OsString>, Arc<Nvrtc>)>> = Mutex::new(Vec::new());
    let mut all = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, nvrtc)) = all.iter().find(|(from, nvrtc)| from == places && nvrtc.archs().contains(&arch)) {
        return Ok(nvrtc.clone());
    }
    let exact = |archs: &[u32]| archs.contains(&arch).then_some(arch);
    let nvrtc = Arc::new(compiler::open(places, arch, exact)?.0);
    all.push((places.to_vec(), nvrtc.clone()));
    Ok(nvrtc)
}

/// Compiles the kernels of programs, and the test that a device passes before it is used, for each of these targets.
/// `folders` may hold NVIDIA's wheels.
///
/// Errors: `Export` for an unknown target, one that is not there, and for want of NVRTC.
pub(crate) fn compile(names: &[String], folders: &[PathBuf], programs: &[Program]) -> Result<Vec<Made>> {
    let plans = plans(names)?;
    if plans.is_empty() {
        return Ok(Vec::new());
    }
    // Which driver will load the code is not known.
    let places = libraries::nvrtc(folders, None);
    let mut made = Vec::with_capacity(plans.len());
    let mut compiled: HashMap<(u32, String), Compiled> = HashMap::new();
    for (form, list) in plans {
        let nvrtc = opened(&places, form.arch)
            .map_err(|why| refused(format!("kernels for {} need NVRTC: {why}", form.name())))?;
        let mut entry = Made { form, nvrtc: nvrtc.version(), images: Vec::new(), kernels: BTreeMap::new() };
        let mut maker = Maker { nvrtc: &nvrtc, compiled: &mut compiled, entry: &mut entry };
        for options in &list {
            maker.add(options, selftest::SOURCE, &[(selftest::SOURCE.to_string(), selftest::NAME)])?;
            // Products may be asked for in TF32 when the program runs.
            for tf32 in [false, true] {
                programs.iter().try_for_each(|program| maker.program(program, &Options { tf32, ..options.clone() }))?;
            }
        }
        made.push(entry);
    }
    Ok(made)
}

/// Fills an entry.
struct Maker<'a> {
    nvrtc: &'a Nvrtc,
    /// By architecture and source: both forms are made at once.
    compiled: &'a mut HashMap<(u32, String), Compiled>,
    entry: &'a mut Made,
}

impl Maker<'_> {
    /// The kernels of a program that the entry does not have yet, as one image.
    fn program(&mut self, program: &Program, options: &Options) -> Result<()> {
        let form = self.entry.form;
        let plan = generate(program, options).map_err(|e| {
            let told = refused(format!("the program has no kernels for {}: {}", form.name(), e.message()));
            e.op().map_or(told.clone(), |op| told.with_op(op)).with_loc(e.location().cloned())
        })?;
        let own: Vec<String> = plan.kernels.iter().map(|k| k.own_source()).collect();
        let is_new = |i: &usize| !self.entry.kernels.contains_key(&images::key(form, options, &own[*i]));
        let missing: Vec<usize> = (0..own.len()).filter(is_new).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let named: Vec<(String, &str)> =
            missing.iter().map(|&i| (own[i].clone(), plan.kernels[i].name.as_str())).collect();
        self.add(options, &plan.source_of(&missing), &named)
    }

    /// An image of a source with these kernels, by their own sources and names; nothing if the entry has it.
    fn add(&mut self, options: &Options, source: &str, kernels: &[(String, &str)]) -> Result<()> {
        let form = self.entry.form;
        let keys: Vec<Key> = kernels.iter().map(|(own, _)| images::key(form, options, own)).collect();
        if keys.iter().all(|key| self.entry.kernels.contains_key(key)) {
            return Ok(());
        }
        let place = (form.arch, source.to_string());
        if !self.compiled.contains_key(&place) {
            let flags = Options { sm: form.arch, ..options.clone() }.compiler_flags();
            self.compiled.insert(place.clone(), self.nvrtc.compile(source, &flags)?);
        }
        let found = self.compiled.get(&place).ok_or_else(|| Error::internal("what was compiled is missing"))?;
        let image = self.entry.images.len();
        self.entry.images.push(if form.ptx { found.ptx.clone() } else { found.cubin.clone() });
        for (key, (_, name)) in keys.into_iter().zip(kernels) {
            self.entry.kernels.entry(key).or_insert_with(|| (image, (*name).to_string()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_architectures_that_kernels_can_be_planned_for() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
        let made = plans(&names(&["sm_90", "sm_80", "compute_90", "sm_90"])).unwrap();
        let found: Vec<_> = made.iter().map(|(form, list)| (form.name(), list.len(), list[0].processors)).collect();
        let of = |name: &str, processors| (name.to_string(), 1, processors);
        assert_eq!(found, [of("sm_80", 108), of("sm_90", 132), of("compute_90", 132)]);
        for name in ["sm_75", "sm_87", "sm_9", "avx2", "cuda:x", ""] {
            let e = plans(&names(&[name])).unwrap_err();
            assert!(e.kind() == ErrorKind::Export && e.message().contains("sm_80 (A100)"), "{name}: {e}");
        }
    }

    #[test]
    fn without_nvrtc_the_error_says_what_was_looked_for() {
        if torsh_ir::env::nvrtc().is_some() {
            println!("skipped: TORSH_NVRTC names an NVRTC");
            return;
        }
        assert!(compile(&[], &[], &[]).unwrap().is_empty());
        // The system may have one.
        if let Err(e) = compile(&["sm_90".to_string()], &[], &[]) {
            assert!(e.kind() == ErrorKind::Export && e.message().contains("kernels for sm_90 need NVRTC"), "{e}");
            assert!(e.message().contains("libnvrtc.so.12") && e.message().contains("TORSH_NVRTC"), "{e}");
        }
    }
}
