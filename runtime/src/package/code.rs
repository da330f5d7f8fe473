//! Machine code in packages: what is written, and when it is used.
//!
//! An entry holds the code of the program's kernels at one instruction set level. Whoever runs it must believe whoever wrote
//! it, so it is looked at only where the loader's caller says whom to believe: by keys, one of which signed the file, or by
//! the file's hash. In any other case an entry is hashed like every other one, and the graph is compiled; so it is
//! where the code is for other machines, by another torsh, or for other kernels than the graph has here.

use super::format::{bad, code_entry};
use super::manifest::{Code, Manifest};
use super::model::donations;
use crate::codes::{self, Codes};
use crate::sys::prims;
use crate::{executable, machine};
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::sync::Arc;
use torsh_codegen::cpu::{self, Level, Options};
use torsh_ir::exec::{Device, Target};
use torsh_ir::program::Program as LoweredProgram;
use torsh_ir::{Error, ErrorKind, Graph, Result};
use torsh_passes::pipeline;

/// Why an entry is left alone that nobody is known to believe.
pub(super) const NOBODY: &str = "nobody vouches for it: the caller gave neither trusted keys nor the file's hash";

/// What became of an entry of machine code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodeUse {
    /// Name of the entry.
    pub entry: String,
    /// Instruction set level; of kernels for CUDA devices the architecture.
    pub level: String,
    /// Kernels that it has code of, where it was read.
    pub kernels: usize,
    /// Why it was not read, if it was not; then the graph is compiled.
    pub unused: Option<String>,
}

/// Machine code of these programs, for each of these levels in turn, and what the manifest says of it.
///
/// Errors: `Export` for a level that is none of this architecture, or an architecture without such code.
pub(super) fn entries(levels: &[String], programs: &[LoweredProgram]) -> Result<Vec<(Code, Vec<u8>)>> {
    let refused = |why: String| Error::new(ErrorKind::Export, why);
    if levels.is_empty() {
        return Ok(Vec::new());
    }
    if ARCH != "x86_64" {
        return Err(refused(format!("packages have machine code for x86_64 alone, and this is {ARCH}")));
    }
    let known: Vec<&str> = prims::LEVELS.into_iter().filter(|l| super::format::CODE_LEVELS.contains(l)).collect();
    if let Some(level) = levels.iter().find(|l| !known.contains(&l.as_str())) {
        return Err(refused(format!(
            "there is no instruction set level {level:?}; expected one of {}",
            known.join(", ")
        )));
    }
    let mut made = Vec::new();
    for level in known.into_iter().filter(|l| levels.iter().any(|wanted| wanted == l)) {
        let isa = machine::cranelift_isa(level)?;
        let base = Options { level: Level::parse(level), vectors: machine::has_vectors(), ..Options::default() };
        let generator = codes::generator(&isa, base.level);
        let mut context = cranelift::codegen::Context::new();
        let mut pieces = BTreeMap::new();
        for (kernel, options) in programs.iter().flat_map(|program| executable::wanted(program, &base)) {
            let key = codes::key(&generator, &kernel, &options);
            if let std::collections::btree_map::Entry::Vacant(place) = pieces.entry(key) {
                place.insert(cpu::piece(&isa, &mut context, &kernel, &options).map_err(|e| e.with_op(&kernel.name))?);
            }
        }
        let features = machine::features(level).into_iter().map(str::to_string).collect();
        let entry = code_entry(ARCH, level);
        let code = Code { entry, arch: ARCH.to_string(), level: level.to_string(), features };
        made.push((code, codes::encode(&generator, &pieces)?));
    }
    Ok(made)
}

/// The programs of these graphs, the first of which is that of the manifest's program and the second that of its gradients:
/// the same for every CPU, and for every CUDA device; kernels are not.
pub(super) fn programs(manifest: &Manifest, graphs: &[&Graph], cuda: bool) -> Result<Vec<LoweredProgram>> {
    let (device, isa) = if cuda { (Device::Cuda(0), "sm_80") } else { (Device::Cpu, "portable") };
    let target = Target { device, isa, threads: 1, l1_bytes: 32 << 10, l2_bytes: 1 << 20 };
    let described = [Some(&manifest.forward), manifest.vjp.as_ref()];
    let compile = |(graph, program): (&&Graph, &super::manifest::Program)| {
        let options =
            pipeline::Options { target: target.clone(), donate: donations(graph, program), ..Default::default() };
        pipeline::compile(graph, &options)
    };
    graphs.iter().zip(described.into_iter().flatten()).map(compile).collect()
}

/// Why code must not run here, if it must not.
fn unfit(code: &Code, believed: bool) -> Option<String> {
    if !believed {
        return Some(NOBODY.into());
    }
    if code.arch != ARCH {
        return Some(format!("it is for {}, and this machine is {ARCH}", code.arch));
    }
    if let Some(feature) = code.features.iter().find(|f| !machine::has(f)) {
        return Some(format!("this machine lacks {feature}"));
    }
    (!prims::supported(&code.level)).then(|| format!("this machine lacks the level {}", code.level))
}

/// Reads an entry, whose hash has been checked, if it may be used. Errors: `Package` for one that is malformed though it
/// is believed.
pub(super) fn read(code: &Code, bytes: Vec<u8>, believed: bool) -> Result<(CodeUse, Option<Arc<Codes>>)> {
    let unused =
        |why: Option<String>| CodeUse { entry: code.entry.clone(), level: code.level.clone(), kernels: 0, unused: why };
    if let Some(why) = unfit(code, believed) {
        return Ok((unused(Some(why)), None));
    }
    let isa = machine::cranelift_isa(&code.level)?;
    if !codes::is_from(&bytes, &codes::generator(&isa, Level::parse(&code.level))) {
        return Ok((unused(Some("another version of torsh, or one for another system, wrote it".into())), None));
    }
    let codes = Arc::new(codes::decode(bytes).map_err(|why| bad(&code.entry, why))?);
    Ok((CodeUse { kernels: codes.len(), ..unused(None) }, Some(codes)))
}
