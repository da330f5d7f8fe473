//! Code generation for the CPU: one Cranelift function per loop kernel.
//!
//! The function is `extern "C" fn(args: *const *mut u8, row_lo, row_hi, col_lo, col_hi: u64, scratch: *mut u8)`.
//! It computes the rows `row_lo..row_hi` of [`Emitted::rows`]; if [`Emitted::splits_columns`], of each only
//! the columns `col_lo..col_hi` of [`Emitted::cols`], else the columns are not looked at. Calls over disjoint
//! ranges may run at the same time, each with its own scratch of [`Emitted::scratch_bytes`], 64-byte aligned;
//! what they compute does not depend on how the ranges were cut.
//!
//! Three schedules compete: vector functions of our own, with primitives for the rest (`vec`, within `block`);
//! blocks of precompiled primitives (`block`); and vector code in line (`inline`). [`Options::schedule`] forces
//! one; `Auto` takes vector functions where they do most of the work, else follows the cost model of `cost.rs`.

mod analysis;
mod block;
pub mod c;
mod cost;
mod emit;
mod inline;
pub mod lanes;
pub mod math;
pub(crate) mod normal;
mod piece;
pub mod prims;
mod scratch;
mod vec;

use analysis::Facts;
use cranelift::codegen::Context;
use cranelift::codegen::control::ControlPlane;
use cranelift::codegen::ir::{Function, UserFuncName};
use cranelift::module::{FuncId, Linkage, Module, ModuleReloc};
use cranelift::prelude::*;
use emit::{Emitter, clif_error};
use normal::Normal;
use prims::Prim;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use torsh_ir::kernel::Kernel;
use torsh_ir::{Error, Result};
use vec::plan::StagePlan;

pub use piece::{Fix, PIECE_ALIGN, Piece, To, piece};
pub use vec::Level;

/// The generator: its sources in a number, and the Cranelift that it uses. Code of another one may differ.
pub const GENERATOR: (&str, &str) = (env!("TORSH_GENERATOR"), cranelift::codegen::VERSION);

/// Which schedule to emit.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Schedule {
    /// The cheaper one by the cost model.
    #[default]
    Auto,
    /// Calls of block primitives.
    Block,
    /// Vector code in line, where the kernel allows it.
    Inline,
    /// Vector functions of our own, where the target and the kernel allow them.
    Vector,
    /// The same, with vectors along the last inner axis even where the last grid axis would be cheaper.
    Row,
    /// One of those that fit, picked by a hash of the kernel: for tests.
    Random,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Schedule; 6] =
        [Schedule::Auto, Schedule::Block, Schedule::Inline, Schedule::Vector, Schedule::Row, Schedule::Random];

    /// Parses the value of `TORSH_SCHEDULE`.
    pub fn parse(text: &str) -> Result<Schedule> {
        Schedule::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| {
            Error::value(format!("unknown schedule {text:?}: expected auto, block, inline, vector, row or random"))
        })
    }
    /// The word that [`Schedule::parse`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Schedule::Auto => "auto",
            Schedule::Block => "block",
            Schedule::Inline => "inline",
            Schedule::Vector => "vector",
            Schedule::Row => "row",
            Schedule::Random => "random",
        }
    }
}

/// How to emit a kernel.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which schedule.
    pub schedule: Schedule,
    /// Most elements of a block.
    pub block: usize,
    /// Pairs of distinct parameters that may share memory (in place, element for element).
    pub aliases: Vec<(u32, u32)>,
    /// Bytes of second-level cache, for the cost model.
    pub l2_bytes: usize,
    /// Vector code may be emitted: the target has 128-bit vectors with everything that `inline` uses.
    pub vectors: bool,
    /// The instruction set for vector functions, if the target has one that we write for.
    pub level: Option<Level>,
    /// Also return the text of the function.
    pub listing: bool,
    /// For a library that is linked elsewhere: what the names of primitives begin with. Its functions are hidden.
    pub prefix: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            schedule: Schedule::Auto,
            block: 512,
            aliases: Vec::new(),
            l2_bytes: 1 << 20,
            vectors: true,
            level: None,
            listing: false,
            prefix: None,
        }
    }
}

/// An emitted kernel.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The function.
    pub func: FuncId,
    /// The kernel in the form that was cut into rows and columns: rows are the points of its grid in row-major order,
    /// columns those of its inner axes. Callers prove from it what a range of rows touches.
    pub form: Kernel,
    /// Rows to compute.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
    /// Rows that are worked off together: cuts at its multiples are the best ones.
    pub row_block: usize,
    /// Nanoseconds that the whole kernel takes on one core, roughly.
    pub cost_ns: f64,
    /// Rows may be cut into columns.
    pub splits_columns: bool,
    /// Bytes of scratch that each concurrent call needs.
    pub scratch_bytes: usize,
    /// The schedule in use.
    pub schedule: Schedule,
    /// Why.
    pub reason: &'static str,
    /// Primitives that it calls: each must have an address before the module is finalised.
    pub prims: Vec<Prim>,
    /// Bytes of machine code.
    pub code_bytes: usize,
    /// CLIF and disassembly, if asked for.
    pub listing: String,
}

/// What was settled while a kernel's code was written. Everything else that [`Emitted`] says follows from the kernel.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// The schedule in use: in line, in blocks, or with vector functions.
    pub schedule: Schedule,
    /// See [`Emitted::row_block`].
    pub row_block: usize,
    /// See [`Emitted::scratch_bytes`].
    pub scratch_bytes: usize,
}

/// A schedule that fits a kernel, with what it takes to emit it.
enum Chosen {
    Inline { lanes: usize },
    Block,
    Vector { level: Level, plans: Vec<Option<StagePlan>> },
}

/// Vector functions must do so much of a kernel's work to be worth while.
const VECTOR_SHARE: f64 = 0.4;

/// The schedule to emit, and why.
fn choose(normal: &Normal, facts: &Facts, schedule: Schedule, options: &Options) -> (Chosen, &'static str) {
    if schedule == Schedule::Block {
        return (Chosen::Block, "forced");
    }
    let forced = matches!(schedule, Schedule::Vector | Schedule::Row);
    if forced || schedule == Schedule::Auto {
        let plans = options.level.and_then(|level| Some((level, vec::plan::plan(normal, facts, level)?)));
        match plans {
            Some((level, plans)) if forced || vec::plan::share(&plans, facts) >= VECTOR_SHARE => {
                let reason = if forced { "forced" } else { "vector functions do most of the work" };
                return (Chosen::Vector { level, plans }, reason);
            }
            None if forced => return (Chosen::Block, "no vector functions for this target or kernel"),
            Some(_) | None => {}
        }
    }
    if !options.vectors {
        return (Chosen::Block, "the target has no vector code");
    }
    let Some(lanes) = inline::lanes(normal) else {
        return (Chosen::Block, "the kernel is not a map with vector code for all of its operations");
    };
    if schedule == Schedule::Inline {
        return (Chosen::Inline { lanes }, "forced");
    }
    let (inline, block) = cost::inline_and_block_ns(&normal.kernel, options.block, options.l2_bytes);
    if inline <= block {
        (Chosen::Inline { lanes }, "cheaper in line by the cost model")
    } else {
        (Chosen::Block, "cheaper in blocks by the cost model")
    }
}

/// The schedule that `Random` stands for.
fn settle(schedule: Schedule, kernel: &Kernel) -> Schedule {
    if schedule != Schedule::Random {
        return schedule;
    }
    let mut hasher = DefaultHasher::new();
    kernel.hash(&mut hasher);
    [Schedule::Block, Schedule::Inline, Schedule::Vector, Schedule::Row][(hasher.finish() % 4) as usize]
}

/// What a schedule needs at run time.
struct FrameSize {
    scratch_bytes: usize,
    rows: usize,
}

/// Functions of a module by their code: bytes and what they refer to.
pub type Codes = HashMap<(Vec<u8>, String), FuncId>;

/// Emits `kernel` into `module` as function `name`. The kernel must satisfy its verifier.
pub fn emit<M: Module>(
    module: &mut M,
    ctx: &mut Context,
    name: &str,
    kernel: &Kernel,
    options: &Options,
) -> Result<Emitted> {
    emit_with(module, ctx, name, kernel, options, None)
}

/// The same, but for a function that `codes` has already: then that is the kernel's, and `name` stays undefined. Kernels
/// that differ in their number of rows or columns alone often have the same code.
pub fn emit_once<M: Module>(
    module: &mut M,
    ctx: &mut Context,
    name: &str,
    kernel: &Kernel,
    options: &Options,
    codes: &mut Codes,
) -> Result<Emitted> {
    emit_with(module, ctx, name, kernel, options, Some(codes))
}

fn emit_with<M: Module>(
    module: &mut M,
    ctx: &mut Context,
    name: &str,
    kernel: &Kernel,
    options: &Options,
    codes: Option<&mut Codes>,
) -> Result<Emitted> {
    let wanted = settle(options.schedule, kernel);
    let normal = normal::normalise(kernel, wanted == Schedule::Row);
    let facts = Facts::new(&normal, &options.aliases);
    let (chosen, reason) = choose(&normal, &facts, wanted, options);
    let schedule = match chosen {
        Chosen::Inline { .. } => Schedule::Inline,
        Chosen::Block => Schedule::Block,
        Chosen::Vector { .. } => Schedule::Vector,
    };
    module.clear_context(ctx);
    let mut sig = module.make_signature();
    sig.params.extend(std::iter::repeat_n(AbiParam::new(types::I64), 6));
    let linkage = if options.prefix.is_some() { Linkage::Hidden } else { Linkage::Export };
    ctx.func = Function::with_name_signature(UserFuncName::default(), sig);
    let mut builder_ctx = FunctionBuilderContext::new();
    // A library's calls of primitives are many and its code is to be small.
    let compact = options.prefix.is_some() && matches!(chosen, Chosen::Block);
    let (frame, (prims, raws)) = {
        let builder = FunctionBuilder::new(&mut ctx.func, &mut builder_ctx);
        let params = (!compact).then_some(kernel.params.len());
        let mut e = Emitter::new(builder, module, (name, options.prefix.as_deref().unwrap_or("")), params);
        let frame = match &chosen {
            Chosen::Inline { lanes } => inline::emit(&mut e, &normal, *lanes)?,
            Chosen::Block => block::emit(&mut e, &normal, &facts, options, (Level::Avx2, &[]))?,
            Chosen::Vector { level, plans } => block::emit(&mut e, &normal, &facts, options, (*level, plans))?,
        };
        (frame, e.finish())
    };
    if compact {
        let bug = |e| clif_error("cannot optimise a kernel", format!("{e:?}"));
        let plane = &mut ControlPlane::default();
        // With `opt_level=none` the module's own run, later, leaves the second of these out.
        ctx.optimize(module.isa(), plane).map_err(bug)?;
        ctx.egraph_pass(module.isa(), plane).map_err(bug)?;
    }
    let mut listing = String::new();
    if options.listing {
        ctx.set_disasm(true);
        listing = format!("; kernel {} ({} schedule: {reason})\n", kernel.name, schedule.name());
        for (i, prim) in prims.iter().enumerate() {
            listing.push_str(&format!("; fn{i} is {}\n", prim.name()));
        }
        listing.push_str(&ctx.func.display().to_string());
    }
    let func = match codes {
        // Vector functions, which only a level has, are no part of the code that is compared.
        Some(codes) if raws.is_empty() => define_once(module, ctx, name, linkage, codes)?,
        _ => {
            let func = declare(module, ctx, name, linkage)?;
            module.define_function(func, ctx).map_err(|e| clif_error("cannot compile a kernel", format!("{e:?}")))?;
            func
        }
    };
    let mut code_bytes = 0;
    if let Some(code) = ctx.compiled_code() {
        code_bytes = code.code_buffer().len();
        if let Some(text) = code.vcode.as_ref().filter(|_| options.listing) {
            listing.push_str("\n; machine code\n");
            listing.push_str(text);
        }
    }
    for (i, raw) in raws.into_iter().enumerate() {
        // Constants are read from the code, aligned as vectors.
        module
            .define_function_bytes(raw.func, 64, &raw.code.bytes, &[])
            .map_err(|e| clif_error("cannot define a vector function", e))?;
        code_bytes += raw.code.bytes.len();
        if options.listing {
            listing.push_str(&format!("\n; vector function {i}\n{}", raw.code.text));
        }
    }
    let made = Made { schedule, row_block: frame.rows, scratch_bytes: frame.scratch_bytes };
    let emitted = described(func, &normal, made, options);
    Ok(Emitted { reason, prims, code_bytes, listing, ..emitted })
}

fn declare<M: Module>(module: &mut M, ctx: &Context, name: &str, linkage: Linkage) -> Result<FuncId> {
    let declared = module.declare_function(name, linkage, &ctx.func.signature);
    declared.map_err(|e| clif_error("cannot declare a kernel", e))
}

/// Compiles the function in `ctx` and defines it, unless `codes` has it: the function that has the code.
fn define_once<M: Module>(
    module: &mut M,
    ctx: &mut Context,
    name: &str,
    linkage: Linkage,
    codes: &mut Codes,
) -> Result<FuncId> {
    let bug = |e: &dyn std::fmt::Debug| clif_error("cannot compile a kernel", format!("{e:?}"));
    ctx.compile(module.isa(), &mut ControlPlane::default()).map_err(|e| bug(&e.inner))?;
    let code = ctx.compiled_code().ok_or_else(|| bug(&"no code"))?;
    let relocs = |own: FuncId| -> Vec<ModuleReloc> {
        code.buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &ctx.func, own)).collect()
    };
    // References to the function itself are the same in each, whatever its number.
    let names = relocs(FuncId::from_u32(0));
    let names: Vec<_> = names.iter().map(|r| (r.offset, r.kind, &r.name, r.addend)).collect();
    match codes.entry((code.code_buffer().to_vec(), format!("{names:?}"))) {
        Entry::Occupied(known) => Ok(*known.get()),
        Entry::Vacant(new) => {
            let func = declare(module, ctx, name, linkage)?;
            let align = u64::from(code.buffer.alignment);
            module.define_function_bytes(func, align, code.code_buffer(), &relocs(func)).map_err(|e| bug(&e))?;
            Ok(*new.insert(func))
        }
    }
}

/// What is to be known of code that was written for a kernel before ([`piece`]), with these options; `None` where the
/// facts cannot be those of such code, and for a schedule that is random, which depends on the kernel's name too.
pub fn known(kernel: &Kernel, options: &Options, made: Made, code_bytes: usize) -> Option<Emitted> {
    if options.schedule == Schedule::Random {
        return None;
    }
    let normal = normal::normalise(kernel, options.schedule == Schedule::Row);
    let fits = match made.schedule {
        Schedule::Vector => options.level.is_some(),
        Schedule::Inline => options.vectors && inline::lanes(&normal).is_some(),
        Schedule::Block => true,
        Schedule::Auto | Schedule::Row | Schedule::Random => false,
    };
    let emitted = described(FuncId::from_u32(0), &normal, made, options);
    (fits && made.row_block > 0).then_some(Emitted { code_bytes, ..emitted })
}

/// An emitted kernel, but for what only its code shows.
fn described(func: FuncId, normal: &Normal, made: Made, options: &Options) -> Emitted {
    let speed = match (made.schedule, options.level) {
        (Schedule::Vector, Some(level)) => cost::vector_share(level.lanes()),
        _ => 1.0,
    };
    Emitted {
        func,
        form: normal.kernel.clone(),
        rows: normal.kernel.rows(),
        cols: normal.kernel.row_len(),
        splits_columns: normal.kernel.is_map(),
        row_block: made.row_block,
        cost_ns: cost::kernel_ns(&normal.kernel, speed, options.l2_bytes),
        scratch_bytes: made.scratch_bytes,
        schedule: made.schedule,
        reason: "",
        prims: Vec::new(),
        code_bytes: 0,
        listing: String::new(),
    }
}
