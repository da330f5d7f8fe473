//! Machine code in memory: Cranelift JIT modules, one for each thread that compiled the kernels of an
//! executable, and what a package brought ([`super::link`]). Pages are writable while code is laid down and executable
//! afterwards, never both; they are unmapped when the last reference goes.

use super::call::KernelFn;
use super::link::{self, Placed};
use super::par::Par;
use crate::codes::{Found, REASON, Shelf};
use cranelift::codegen::isa::OwnedTargetIsa;
use cranelift::module::default_libcall_names;
use cranelift_jit::{JITBuilder, JITModule};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_codegen::cpu::{self, Emitted, Options};
use torsh_ir::distinct::Distinct;
use torsh_ir::kernel::{Access, Kernel};
use torsh_ir::{DType, Error, Result};

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

    pub(super) fn address(&self, name: &str) -> Option<*const u8> {
        self.addresses.get(name).map(|&at| at as *const u8)
    }
}

/// Kernels that a thread should have to compile before another one is worth waking.
const KERNELS_PER_THREAD: usize = 6;

/// Finalised modules and code that was found. Freed on drop; functions borrow them.
pub struct Code {
    modules: Vec<JITModule>,
    _placed: Option<Placed>,
    kernels: Vec<KernelFn>,
    bytes: usize,
}

// SAFETY: after `compile` returns, the modules are not touched until `drop`, which has them exclusively; the
// machine code is immutable.
unsafe impl Sync for Code {}
// SAFETY: `JITModule` is `Send`, and the function addresses in `kernels` point into memory that the modules own.
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
    let emitted = emit_all(&mut building, symbols, kernels.iter().enumerate())?;
    Ok(emitted.into_iter().map(|e| e.listing).collect::<Vec<String>>().join("\n"))
}

fn new_module(isa: &OwnedTargetIsa, symbols: &Arc<Symbols>) -> Building {
    let mut builder = JITBuilder::with_isa(isa.clone(), default_libcall_names());
    let table = symbols.clone();
    builder.symbol_lookup_fn(Box::new(move |name| table.address(name)));
    Building(Some(JITModule::new(builder)))
}

/// A kernel to compile, with its number among those of the executable.
type Numbered<'k> = (usize, &'k (Arc<Kernel>, Options));

fn emit_all<'k>(
    building: &mut Building,
    symbols: &Symbols,
    kernels: impl Iterator<Item = Numbered<'k>>,
) -> Result<Vec<Emitted>> {
    let Some(module) = building.0.as_mut() else {
        return Err(Error::internal("a module was finalised twice"));
    };
    let mut ctx = cranelift::codegen::Context::new();
    let mut all = Vec::with_capacity(kernels.size_hint().0);
    for (i, (kernel, options)) in kernels {
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

/// A finished module and what it holds.
type Share = (Building, Vec<Emitted>);

/// Kernels, compiled into a module of their own.
fn compile_share<'k>(
    isa: &OwnedTargetIsa,
    symbols: &Arc<Symbols>,
    kernels: impl Iterator<Item = Numbered<'k>>,
) -> Result<Share> {
    let mut building = new_module(isa, symbols);
    let emitted = emit_all(&mut building, symbols, kernels)?;
    let Some(module) = building.0.as_mut() else {
        return Err(Error::internal("a module was finalised twice"));
    };
    module.finalize_definitions().map_err(|e| Error::compile(format!("cannot map machine code: {e}")))?;
    Ok((building, emitted))
}

/// What a kernel computes at each point of a line, whatever its length, and the parameters that share memory.
struct Line<'a> {
    kernel: &'a Kernel,
    aliases: &'a [(u32, u32)],
}

impl<'a> Line<'a> {
    /// `None` for a kernel that does not go along one line.
    fn of(kernel: &'a Kernel, aliases: &'a [(u32, u32)]) -> Option<Line<'a>> {
        let fits = kernel.is_map() && kernel.grid.is_empty() && kernel.inner.len() == 1 && kernel.row_len() > 0;
        fits.then_some(Line { kernel, aliases })
    }

    fn params(&self) -> impl Iterator<Item = (DType, Access)> {
        self.kernel.params.iter().map(|p| (p.dtype, p.access))
    }
}

impl PartialEq for Line<'_> {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.kernel, other.kernel);
        a.values == b.values
            && a.stages == b.stages
            && self.aliases == other.aliases
            && self.params().eq(other.params())
    }
}

impl Eq for Line<'_> {}

impl Hash for Line<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.params().for_each(|p| p.hash(state));
        (&self.kernel.values, &self.kernel.stages, self.aliases).hash(state);
    }
}

/// For each kernel the one whose code it runs: of lines that differ in length alone, the longest.
fn whose(kernels: &[(Arc<Kernel>, Options)]) -> Vec<usize> {
    let mut of_line: Distinct<Line<'_>> = Distinct::default();
    // Kernels of a line by the first of them.
    let mut firsts: Vec<usize> = (0..kernels.len()).collect();
    let mut best = firsts.clone();
    for (i, (kernel, options)) in kernels.iter().enumerate() {
        let Some(line) = Line::of(kernel, &options.aliases) else { continue };
        let first = of_line.number(line, i);
        firsts[i] = first;
        if kernels[best[first]].0.row_len() < kernel.row_len() {
            best[first] = i;
        }
    }
    firsts.into_iter().map(|first| best[first]).collect()
}

/// The kernels whose code is compiled or found: all but those that run on another one's.
pub fn own(kernels: &[(Arc<Kernel>, Options)]) -> Vec<usize> {
    whose(kernels).into_iter().enumerate().filter(|(i, whose)| i == whose).map(|(i, _)| i).collect()
}

/// Splits kernels into those whose code is at hand, and those to compile.
fn split(
    isa: &OwnedTargetIsa,
    kernels: &[(Arc<Kernel>, Options)],
    own: Vec<usize>,
) -> (Vec<(usize, Found)>, Vec<usize>) {
    let shelf = kernels.first().and_then(|(_, options)| Shelf::new(isa, options.level));
    let Some(shelf) = shelf else { return (Vec::new(), own) };
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    for i in own {
        match shelf.find(&kernels[i].0, &kernels[i].1) {
            Some(code) => found.push((i, code)),
            None => rest.push(i),
        }
    }
    (found, rest)
}

/// Places code that was found.
fn place(found: &[(usize, Found)], symbols: &Symbols) -> Result<Option<Placed>> {
    if found.is_empty() {
        return Ok(None);
    }
    let lost = || Error::internal("machine code that was found and lost");
    let sources = found.iter().map(|(_, code)| code.source().ok_or_else(lost)).collect::<Result<Vec<_>>>()?;
    link::place(&sources, symbols).map(Some)
}

/// The code of a longer line, used for a shorter one: its columns are the first ones of the longer, at the same
/// addresses, and a call computes no others.
fn shorter(longer: &Emitted, kernel: &Kernel) -> Option<Emitted> {
    let cols = kernel.row_len();
    if !longer.splits_columns || longer.rows != 1 || longer.cols < cols || cols == 0 {
        return None;
    }
    let cost_ns = longer.cost_ns * cols as f64 / longer.cols as f64;
    let mut short = Emitted { cols, cost_ns, code_bytes: 0, listing: String::new(), ..longer.clone() };
    short.form.params.clone_from(&kernel.params);
    let [inner] = short.form.inner.as_mut_slice() else { return None };
    *inner = cols;
    Some(short)
}

impl Code {
    /// Compiles kernels into executable memory, several at a time; `kernels()[i]` is the code of the i-th.
    pub fn compile(
        isa: &OwnedTargetIsa,
        symbols: &Arc<Symbols>,
        kernels: &[(Arc<Kernel>, Options)],
        par: &Par<'_>,
    ) -> Result<Code> {
        let whose = whose(kernels);
        let (found, own) = split(isa, kernels, own(kernels));
        let placed = place(&found, symbols)?;
        let shares = match own.len() {
            0 => 0,
            n => (n / KERNELS_PER_THREAD).clamp(1, par.threads.max(1)),
        };
        let done: Vec<Mutex<Option<Result<Share>>>> = (0..shares).map(|_| Mutex::new(None)).collect();
        par.for_each(shares, &|first| {
            let share = own.iter().skip(first).step_by(shares).map(|&i| (i, &kernels[i]));
            let share = compile_share(isa, symbols, share);
            *done[first].lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
        });
        let mut made = Vec::with_capacity(shares);
        for share in done {
            let share = share.into_inner().unwrap_or_else(PoisonError::into_inner);
            made.push(share.unwrap_or_else(|| Err(Error::internal("kernels that no thread compiled")))?);
        }
        // From here on `Code` owns the modules: whatever fails below frees them.
        let mut emitted: Vec<Option<(Emitted, *const u8)>> = kernels.iter().map(|_| None).collect();
        for (n, (i, code)) in found.into_iter().enumerate() {
            emitted[i] = placed.as_ref().and_then(|p| p.address(n)).map(|at| (code.info, at));
        }
        let mut code = Code {
            modules: Vec::with_capacity(shares),
            _placed: placed,
            kernels: Vec::with_capacity(kernels.len()),
            bytes: 0,
        };
        for (first, (mut building, share)) in made.into_iter().enumerate() {
            let Some(module) = building.0.take() else {
                return Err(Error::internal("a module was finalised twice"));
            };
            for (&i, info) in own.iter().skip(first).step_by(shares).zip(share) {
                let address = module.get_finalized_function(info.func);
                emitted[i] = Some((info, address));
            }
            code.modules.push(module);
        }
        let on_another = |(i, (kernel, _)): (usize, &(Arc<Kernel>, Options))| {
            let (info, at) = emitted[whose[i]].as_ref().filter(|_| whose[i] != i)?;
            Some((shorter(info, kernel)?, *at))
        };
        let others: Vec<_> = kernels.iter().enumerate().map(on_another).collect();
        for (i, (other, (kernel, _))) in others.into_iter().zip(kernels).enumerate() {
            let Some((info, address)) = (if whose[i] == i { emitted[i].take() } else { other }) else {
                return Err(Error::internal("a kernel without code"));
            };
            code.bytes += info.code_bytes;
            let sizes = kernel.params.iter().map(|p| p.numel.saturating_mul(p.dtype.size())).collect();
            // SAFETY: the address is that of a function that `cpu::emit` gave the signature of
            // `KernelFn`, in memory that this `Code` owns and whose `kernels()` borrow it. It was emitted for
            // this kernel, or for a longer line with the same index maps (`line`): called for the columns of this
            // kernel only, it goes to the addresses that this kernel's verifier has bounded. Code that was found lies in
            // `_placed`; that it is such a function is the word of those whom the caller of the loader believes
            // (`crate::codes`), and no other code is ever found.
            code.kernels.push(unsafe { KernelFn::new(address, info, sizes) });
        }
        Ok(code)
    }

    /// The compiled kernels.
    pub fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }

    /// How many kernels run on code that was found instead of compiled.
    pub fn found(&self) -> usize {
        self.kernels.iter().filter(|k| k.info().reason == REASON).count()
    }

    /// Bytes of machine code.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        self.kernels.clear();
        for module in self.modules.drain(..) {
            // SAFETY: kernels are called through `&Code` only (`KernelFn` is not `Clone`), so none runs.
            unsafe { module.free_memory() };
        }
    }
}
