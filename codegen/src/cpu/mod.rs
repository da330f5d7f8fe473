//! Code generation for the CPU: one Cranelift function per loop kernel.
//!
//! The function is `extern "C" fn(args: *const *mut u8, row_lo, row_hi, col_lo, col_hi: u64, scratch: *mut u8)`.
//! It computes the rows `row_lo..row_hi` of [`Emitted::rows`]; if [`Emitted::splits_columns`], of each only
//! the columns `col_lo..col_hi` of [`Emitted::cols`], else the columns are not looked at. Calls over disjoint
//! ranges may run at the same time, each with its own scratch of [`Emitted::scratch_bytes`], 64-byte aligned;
//! what they compute does not depend on how the ranges were cut.
//!
//! Two schedules compete: blocks of precompiled primitives (`block`), and vector code in line (`inline`).
//! [`Options::schedule`] forces one; `Auto` follows the cost model of `cost.rs`.

mod analysis;
mod block;
mod cost;
mod emit;
mod inline;
pub mod lanes;
mod normal;
pub mod prims;
mod scratch;

use cranelift::codegen::Context;
use cranelift::codegen::ir::{Function, UserFuncName};
use cranelift::module::{FuncId, Linkage, Module};
use cranelift::prelude::*;
use emit::{Emitter, clif_error};
use normal::Normal;
use prims::Prim;
use torsh_ir::kernel::Kernel;
use torsh_ir::{Error, Result};

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
}

impl Schedule {
    /// Parses the value of `TORSH_SCHEDULE`.
    pub fn parse(text: &str) -> Result<Schedule> {
        match text {
            "auto" => Ok(Schedule::Auto),
            "block" => Ok(Schedule::Block),
            "inline" => Ok(Schedule::Inline),
            _ => Err(Error::value(format!("unknown schedule {text:?}: expected auto, block or inline"))),
        }
    }
    /// The word that [`Schedule::parse`] reads.
    pub const fn name(self) -> &'static str {
        match self {
            Schedule::Auto => "auto",
            Schedule::Block => "block",
            Schedule::Inline => "inline",
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
    /// Also return the text of the function.
    pub listing: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            schedule: Schedule::Auto,
            block: 512,
            aliases: Vec::new(),
            l2_bytes: 1 << 20,
            vectors: true,
            listing: false,
        }
    }
}

/// An emitted kernel.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The function.
    pub func: FuncId,
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

/// The lane count for the inline schedule, or `None` for the block schedule; and why.
fn choose(normal: &Normal, options: &Options) -> (Option<usize>, &'static str) {
    if options.schedule == Schedule::Block {
        return (None, "forced");
    }
    if !options.vectors {
        return (None, "the target has no vector code");
    }
    let Some(lanes) = inline::lanes(normal) else {
        return (None, "the kernel is not a map with vector code for all of its operations");
    };
    if options.schedule == Schedule::Inline {
        return (Some(lanes), "forced");
    }
    let (inline, block) = cost::inline_and_block_ns(&normal.kernel, options.block, options.l2_bytes);
    if inline <= block {
        (Some(lanes), "cheaper in line by the cost model")
    } else {
        (None, "cheaper in blocks by the cost model")
    }
}

/// What a schedule needs at run time.
struct FrameSize {
    scratch_bytes: usize,
    rows: usize,
}

/// The form of a kernel that [`emit`] cuts into rows and columns: rows are the points of its grid in row-major
/// order, columns those of its inner axes. Callers prove from it what a range of rows touches.
pub fn normal_form(kernel: &Kernel) -> Kernel {
    normal::normalise(kernel).kernel
}

/// Emits `kernel` into `module` as function `name`. The kernel must satisfy its verifier.
pub fn emit<M: Module>(
    module: &mut M,
    ctx: &mut Context,
    name: &str,
    kernel: &Kernel,
    options: &Options,
) -> Result<Emitted> {
    let normal = normal::normalise(kernel);
    let (lanes, reason) = choose(&normal, options);
    let schedule = if lanes.is_some() { Schedule::Inline } else { Schedule::Block };
    module.clear_context(ctx);
    let mut sig = module.make_signature();
    sig.params.extend(std::iter::repeat_n(AbiParam::new(types::I64), 6));
    let func =
        module.declare_function(name, Linkage::Export, &sig).map_err(|e| clif_error("cannot declare a kernel", e))?;
    ctx.func = Function::with_name_signature(UserFuncName::user(0, func.as_u32()), sig);
    let mut builder_ctx = FunctionBuilderContext::new();
    let (frame, prims) = {
        let builder = FunctionBuilder::new(&mut ctx.func, &mut builder_ctx);
        let mut e = Emitter::new(builder, module, kernel.params.len());
        let frame = match lanes {
            Some(lanes) => inline::emit(&mut e, &normal, lanes)?,
            None => {
                let facts = analysis::Facts::new(&normal, &options.aliases);
                block::emit(&mut e, &normal, &facts, options.block)?
            }
        };
        (frame, e.finish())
    };
    let mut listing = String::new();
    if options.listing {
        ctx.set_disasm(true);
        listing = format!("; kernel {} ({} schedule: {reason})\n", kernel.name, schedule.name());
        for (i, prim) in prims.iter().enumerate() {
            listing.push_str(&format!("; fn{i} is {}\n", prim.name()));
        }
        listing.push_str(&ctx.func.display().to_string());
    }
    module.define_function(func, ctx).map_err(|e| clif_error("cannot compile a kernel", format!("{e:?}")))?;
    let mut code_bytes = 0;
    if let Some(code) = ctx.compiled_code() {
        code_bytes = code.code_buffer().len();
        if let Some(text) = code.vcode.as_ref().filter(|_| options.listing) {
            listing.push_str("\n; machine code\n");
            listing.push_str(text);
        }
    }
    Ok(Emitted {
        func,
        rows: normal.kernel.rows(),
        cols: normal.kernel.row_len(),
        splits_columns: normal.kernel.is_map(),
        row_block: frame.rows,
        cost_ns: cost::kernel_ns(&normal.kernel),
        scratch_bytes: frame.scratch_bytes,
        schedule,
        reason,
        prims,
        code_bytes,
        listing,
    })
}
