//! Machine code in memory: one Cranelift JIT module per executable. Pages are writable while code is laid
//! down and executable afterwards, never both; they are unmapped when the last reference goes.

use super::call::KernelFn;
use cranelift::codegen::isa::OwnedTargetIsa;
use cranelift::module::default_libcall_names;
use cranelift_jit::{JITBuilder, JITModule};
use std::collections::HashMap;
use std::sync::Arc;
use torsh_codegen::cpu::{self, Emitted, Options};
use torsh_ir::kernel::Kernel;
use torsh_ir::{Error, Result};

/// Addresses of the primitives of one ISA level.
pub struct Symbols {
    addresses: HashMap<String, usize>,
}

impl Symbols {
    /// A table of names and the code behind them.
    ///
    /// Each address must be that of a primitive that lives as long as the process and has the signature
    /// that `torsh_codegen::cpu::prims` gives to its name; `sys::prims` makes such tables.
    pub(crate) fn new(rows: impl IntoIterator<Item = (String, *const u8)>) -> Symbols {
        Symbols { addresses: rows.into_iter().map(|(name, at)| (name, at as usize)).collect() }
    }

    fn address(&self, name: &str) -> Option<*const u8> {
        self.addresses.get(name).map(|&at| at as *const u8)
    }
}

/// A finalised module. Freed on drop; functions borrow it.
pub struct Code {
    module: Option<JITModule>,
    kernels: Vec<KernelFn>,
    bytes: usize,
}

// SAFETY: after `compile` returns, the module is not touched until `drop`, which has it exclusively; the
// machine code is immutable.
unsafe impl Sync for Code {}
// SAFETY: `JITModule` is `Send`, and the function addresses in `kernels` point into memory that it owns.
unsafe impl Send for Code {}

/// A module under construction, freed if construction fails.
struct Building(Option<JITModule>);

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(module) = self.0.take() {
            // SAFETY: no function of it has been handed out.
            unsafe { module.free_memory() };
        }
    }
}

/// Compiles kernels and returns the text of what was generated, without keeping any code.
pub fn listing(isa: &OwnedTargetIsa, symbols: &Arc<Symbols>, kernels: &[(Arc<Kernel>, Options)]) -> Result<String> {
    let mut building = new_module(isa, symbols);
    let emitted = emit_all(&mut building, symbols, kernels)?;
    Ok(emitted.into_iter().map(|e| e.listing).collect::<Vec<String>>().join("\n"))
}

fn new_module(isa: &OwnedTargetIsa, symbols: &Arc<Symbols>) -> Building {
    let mut builder = JITBuilder::with_isa(isa.clone(), default_libcall_names());
    let table = symbols.clone();
    builder.symbol_lookup_fn(Box::new(move |name| table.address(name)));
    Building(Some(JITModule::new(builder)))
}

fn emit_all(building: &mut Building, symbols: &Symbols, kernels: &[(Arc<Kernel>, Options)]) -> Result<Vec<Emitted>> {
    let Some(module) = building.0.as_mut() else {
        return Err(Error::internal("a module was finalised twice"));
    };
    let mut ctx = cranelift::codegen::Context::new();
    let mut all: Vec<Emitted> = Vec::with_capacity(kernels.len());
    let mut lines: HashMap<Line<'_>, usize> = HashMap::new();
    for (i, (kernel, options)) in kernels.iter().enumerate() {
        if let Some(line) = line(kernel) {
            let first = *lines.entry((line, options.aliases.as_slice())).or_insert(i);
            if let Some(shorter) = all.get(first).and_then(|longer| shorter(longer, kernel)) {
                all.push(shorter);
                continue;
            }
        }
        let emitted =
            cpu::emit(module, &mut ctx, &format!("kernel{i}"), kernel, options).map_err(|e| e.with_op(&kernel.name))?;
        // A symbol without an address would be a panic at finalisation.
        if let Some(prim) = emitted.prims.iter().find(|p| symbols.address(&p.name()).is_none()) {
            return Err(Error::internal(format!("no primitive {} at this ISA level", prim.name())));
        }
        all.push(emitted);
    }
    Ok(all)
}

/// A line (see [`line`]) and the parameters that share memory.
type Line<'a> = (Kernel, &'a [(u32, u32)]);

/// What a kernel computes at each point of a line, whatever its length; `None` for other kernels.
fn line(kernel: &Kernel) -> Option<Kernel> {
    if !kernel.is_map() || !kernel.grid.is_empty() || kernel.inner.len() != 1 {
        return None;
    }
    let mut line = kernel.clone();
    line.name.clear();
    line.inner[0] = 0;
    line.params.iter_mut().for_each(|p| p.numel = 0);
    Some(line)
}

/// The code of a longer line, used for a shorter one: its columns are the first ones of the longer, at the same
/// addresses, and a call computes no others.
fn shorter(longer: &Emitted, kernel: &Kernel) -> Option<Emitted> {
    let cols = kernel.row_len();
    if !longer.splits_columns || longer.rows != 1 || longer.cols < cols || cols == 0 {
        return None;
    }
    let cost_ns = longer.cost_ns * cols as f64 / longer.cols as f64;
    let mut form = longer.form.clone();
    form.params = kernel.params.clone();
    let [inner] = form.inner.as_mut_slice() else { return None };
    *inner = cols;
    Some(Emitted { form, cols, cost_ns, code_bytes: 0, listing: String::new(), ..longer.clone() })
}

impl Code {
    /// Compiles kernels into executable memory; `kernels()[i]` is the code of the i-th.
    pub fn compile(isa: &OwnedTargetIsa, symbols: &Arc<Symbols>, kernels: &[(Arc<Kernel>, Options)]) -> Result<Code> {
        let mut building = new_module(isa, symbols);
        let emitted = emit_all(&mut building, symbols, kernels)?;
        let Some(module) = building.0.as_mut() else {
            return Err(Error::internal("a module was finalised twice"));
        };
        module.finalize_definitions().map_err(|e| Error::compile(format!("cannot map machine code: {e}")))?;
        let mut bytes = 0;
        let mut functions = Vec::with_capacity(kernels.len());
        for (emitted, (kernel, _)) in emitted.into_iter().zip(kernels) {
            bytes += emitted.code_bytes;
            let address = module.get_finalized_function(emitted.func);
            let sizes = kernel.params.iter().map(|p| p.numel.saturating_mul(p.dtype.size())).collect();
            // SAFETY: the address is that of a function that `cpu::emit` gave the signature of
            // `KernelFn`, in memory that this `Code` owns and whose `kernels()` borrow it. It was emitted for
            // this kernel, or for a longer line with the same index maps (`line`): called for the columns of this
            // kernel only, it goes to the addresses that this kernel's verifier has bounded.
            functions.push(unsafe { KernelFn::new(address, emitted, sizes) });
        }
        Ok(Code { module: building.0.take(), kernels: functions, bytes })
    }

    /// The compiled kernels.
    pub fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }

    /// Bytes of machine code.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: kernels are called through `&Code` only (`KernelFn` is not `Clone`), so none runs.
            unsafe { module.free_memory() };
        }
    }
}
