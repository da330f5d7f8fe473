//! Machine code of kernels as an object file for a linker, for either 64-bit architecture.

use crate::executable::{Aliases, aliases};
use cranelift::codegen::isa::{self, OwnedTargetIsa};
use cranelift::codegen::settings::{self, Configurable, Flags};
use cranelift::module::{DataDescription, Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use std::collections::HashMap;
use std::sync::Arc;
use torsh_codegen::cpu::prims::Prim;
use torsh_codegen::cpu::{self, Emitted, Options};
use torsh_ir::kernel::Kernel;
use torsh_ir::program::{Program, StepOp};
use torsh_ir::{Error, Result};

/// An architecture that libraries are made for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// x86-64 with SSE 4.2 (2008); products and loops use AVX2 and FMA where they are.
    X86,
    /// 64-bit ARM.
    Arm,
}

impl Architecture {
    /// By its name among the targets of an export, `native` being that of this machine.
    pub fn parse(name: &str) -> Result<Architecture> {
        match name {
            "x86_64" => Ok(Architecture::X86),
            "aarch64" => Ok(Architecture::Arm),
            "native" if cfg!(target_arch = "x86_64") => Ok(Architecture::X86),
            "native" if cfg!(target_arch = "aarch64") => Ok(Architecture::Arm),
            _ => Err(super::refused(format!("unknown target {name:?}; expected native, x86_64 or aarch64"))),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::X86 => "x86_64",
            Architecture::Arm => "aarch64",
        }
    }

    /// Cranelift's view of it. Program order is kept, as the schedule in line relies on it; kernels in blocks are optimised
    /// by themselves.
    fn isa(self) -> Result<OwnedTargetIsa> {
        let bug = |e: &dyn std::fmt::Display| Error::compile(format!("cannot set up code generation: {e}"));
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", "none"),
            ("is_pic", "true"),
            ("use_colocated_libcalls", "false"),
            ("enable_probestack", "false"),
            ("unwind_info", "false"),
        ] {
            flags.set(name, value).map_err(|e| bug(&e))?;
        }
        let mut builder = isa::lookup_by_name(&format!("{}-unknown-linux-gnu", self.name())).map_err(|e| bug(&e))?;
        if self == Architecture::X86 {
            for name in ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"] {
                builder.enable(name).map_err(|e| bug(&e))?;
            }
        }
        builder.finish(Flags::new(flags)).map_err(|e| bug(&e))
    }
}

/// An object file and what is in it.
pub(super) struct Object {
    pub bytes: Vec<u8>,
    /// The distinct kernels; some may share a function.
    pub kernels: Vec<Emitted>,
    /// The kernel of each step that runs one, of all programs one after the other.
    pub of_step: Vec<Option<usize>>,
    /// Every primitive that kernels call.
    pub prims: Vec<Prim>,
}

impl Object {
    /// The number in the name of a kernel's function: that of the first kernel that has its code.
    pub fn function(&self, kernel: usize) -> usize {
        let func = self.kernels[kernel].func;
        self.kernels.iter().position(|k| k.func == func).unwrap_or(kernel)
    }
}

/// Emits the kernels of programs as hidden functions `{prefix}kernel{i}`, and `data` as `{prefix}data`.
pub(super) fn emit(programs: &[&Program], target: Architecture, prefix: &str, data: Vec<u8>) -> Result<Object> {
    let bug = |e: &dyn std::fmt::Display| Error::compile(format!("cannot write an object: {e}"));
    let builder = ObjectBuilder::new(target.isa()?, "kernels", default_libcall_names()).map_err(|e| bug(&e))?;
    let mut module = ObjectModule::new(builder);
    let mut ctx = cranelift::codegen::Context::new();
    let mut known: HashMap<(Arc<Kernel>, Aliases), usize> = HashMap::new();
    let mut codes = cpu::Codes::new();
    let (mut kernels, mut of_step, mut prims) = (Vec::<Emitted>::new(), Vec::new(), Vec::new());
    for (program, step) in programs.iter().flat_map(|p| p.steps.iter().map(move |step| (p, step))) {
        let StepOp::Kernel { kernel, args } = &step.op else {
            of_step.push(None);
            continue;
        };
        let pairs = aliases(program, kernel, args);
        if let Some(&at) = known.get(&(kernel.clone(), pairs.clone())) {
            of_step.push(Some(at));
            continue;
        }
        let options = Options { aliases: pairs.clone(), prefix: Some(prefix.to_string()), ..Options::default() };
        let name = format!("{prefix}kernel{}", kernels.len());
        let emitted = cpu::emit_once(&mut module, &mut ctx, &name, kernel, &options, &mut codes)
            .map_err(|e| e.with_op(&kernel.name))?;
        for &prim in &emitted.prims {
            if !prims.contains(&prim) {
                prims.push(prim);
            }
        }
        known.insert((kernel.clone(), pairs), kernels.len());
        of_step.push(Some(kernels.len()));
        kernels.push(emitted);
    }
    let name = format!("{prefix}data");
    let id = module.declare_data(&name, Linkage::Hidden, false, false).map_err(|e| bug(&e))?;
    let mut description = DataDescription::new();
    description.set_align(64);
    // The source takes its address even where there is nothing in it.
    description.define(if data.is_empty() { vec![0; 64] } else { data }.into_boxed_slice());
    module.define_data(id, &description).map_err(|e| bug(&e))?;
    let bytes = module.finish().emit().map_err(|e| bug(&e))?;
    Ok(Object { bytes, kernels, of_step, prims })
}
