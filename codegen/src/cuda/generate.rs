//! From a program to a module: one dispatch over steps, and the table of kernels that steps share.

use super::access::Sharing;
use super::{
    ERROR_BYTES, IndexCheck, KernelInfo, Launch, LaunchArg, Module, Options, StepPlan, attention, copies, dot, index,
    map, parts, row, scan, sort,
};
use std::collections::HashMap;
use torsh_ir::program::{BufDecl, BufId, LibCall, Program, StepOp};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// Alignment of pieces of scratch memory.
const SCRATCH_ALIGN: usize = 256;

/// A kernel's text and how it is launched.
#[derive(Clone, Default)]
pub(super) struct Source {
    /// For its name.
    pub stem: String,
    /// Parameters in C, without the parentheses.
    pub params: String,
    /// The function's body, without the outer braces.
    pub body: String,
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks that should fit a multiprocessor, for the register budget; 0 for 512 threads.
    pub min_blocks: u32,
    /// Shared memory that the body declares.
    pub static_shared: u32,
}

/// A module under construction.
pub(super) struct Gen<'a> {
    pub program: &'a Program,
    pub options: &'a Options,
    kernels: Vec<KernelInfo>,
    known: HashMap<String, usize>,
    scratch: usize,
    scratch_now: usize,
    checks: Vec<IndexCheck>,
    step: usize,
    covers: String,
    plan: StepPlan,
}

/// Generates the module of a program.
///
/// # Errors
/// `Compile` for what has no kernel, naming the op; `Internal` for a program that its verifier would refuse.
pub fn generate(program: &Program, options: &Options) -> Result<Module> {
    if options.sm < 80 {
        return Err(Error::compile(format!("compute capability {} is below 8.0", options.sm)));
    }
    let mut g = Gen {
        program,
        options,
        kernels: Vec::new(),
        known: HashMap::new(),
        scratch: 0,
        scratch_now: 0,
        checks: Vec::new(),
        step: 0,
        covers: String::new(),
        plan: StepPlan::default(),
    };
    let mut steps = Vec::with_capacity(program.steps.len());
    for (i, step) in program.steps.iter().enumerate() {
        (g.step, g.scratch_now, g.covers) = (i, 0, step.ops.join(" "));
        g.step(&step.op).map_err(|e| {
            let e = e.with_loc(step.loc.clone());
            step.ops.last().map_or(e.clone(), |op| e.with_op(op))
        })?;
        steps.push(std::mem::take(&mut g.plan));
    }
    let source = parts::source(g.kernels.iter());
    let Gen { kernels, scratch, checks, .. } = g;
    let module = Module { source, kernels, steps, scratch_bytes: scratch, checks };
    for launch in module.steps.iter().flat_map(|s| &s.launches) {
        module.check_launch(launch)?;
    }
    Ok(module)
}

impl Gen<'_> {
    fn step(&mut self, op: &StepOp) -> Result<()> {
        match op {
            StepOp::Kernel { kernel, args } => {
                let sharing = Sharing::new(self.program, kernel, args)?;
                if kernel.is_map() {
                    return map::step(self, kernel, &sharing, args);
                }
                row::step(self, kernel, &sharing, args)
            }
            StepOp::Dot(dot) => dot::step(self, dot),
            StepOp::Lib { call, args, out } => self.lib(call, args, *out),
        }
    }

    fn lib(&mut self, call: &LibCall, args: &[BufId], out: BufId) -> Result<()> {
        match (call, args) {
            (LibCall::Take { dim }, &[x, index]) => index::take(self, *dim, x, index, out),
            (LibCall::Gather { dim }, &[x, index]) => index::gather(self, *dim, x, index, out),
            (LibCall::Scatter { dim, mode }, &[base, index, src]) => {
                index::scatter(self, *dim, *mode, (base, index, src), out)
            }
            (LibCall::IndexPut { dim, mode }, &[base, index, src]) => {
                index::index_put(self, *dim, *mode, (base, index, src), out)
            }
            (LibCall::ArgSort { dim, descending }, &[x]) => sort::argsort(self, *dim, *descending, x, out),
            (LibCall::Scan { op, dim }, &[x]) => scan::scan(self, *op, *dim, x, out),
            (LibCall::Fill(value), []) => copies::fill(self, *value, out),
            (LibCall::Copy, &[x]) => copies::copy(self, x, out),
            (LibCall::Attention(a), _) => attention::step(self, a, true, args, out),
            (LibCall::AttentionGrad(a), _) => attention::step(self, a, false, args, out),
            _ => Err(Error::internal(format!("{call:?} on {} arguments", args.len()))),
        }
    }

    /// A buffer's declaration.
    pub fn buffer(&self, id: BufId) -> Result<&BufDecl> {
        self.program.buffers.get(id.0 as usize).ok_or_else(|| Error::internal(format!("there is no b{}", id.0)))
    }

    /// A piece of the step's scratch memory.
    pub fn scratch(&mut self, bytes: usize) -> Result<LaunchArg> {
        let offset = self.scratch_now;
        let end = bytes.checked_next_multiple_of(SCRATCH_ALIGN).and_then(|b| offset.checked_add(b));
        self.scratch_now = end.ok_or_else(|| Error::limit("scratch memory beyond the address space"))?;
        self.scratch = self.scratch.max(self.scratch_now);
        Ok(LaunchArg::Scratch { offset })
    }

    /// Registers the check of an index against `size`; its number in the error record.
    pub fn check(&mut self, dim: usize, size: usize) -> Result<u32> {
        let n = self.checks.len();
        if n >= 0xffff {
            return Err(Error::limit("more than 65,535 steps with an index"));
        }
        self.checks.push(IndexCheck { step: self.step, dim, size });
        self.plan.may_fail = true;
        Ok(n as u32)
    }

    /// A plan that a library may take instead of the launches.
    pub fn library(&mut self, plan: super::MatmulPlan) {
        self.plan.library = Some(plan);
    }

    /// Adds a launch of a kernel. A grid of no blocks adds nothing.
    pub fn launch(&mut self, source: Source, grid: [u64; 3], dynamic_shared: u32, args: Vec<LaunchArg>) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as u64 || grid[1] > 65_535 || grid[2] > 65_535 {
            return Err(Error::compile(format!("{} would need a grid of {grid:?} blocks", source.stem)));
        }
        if source.static_shared > 48 << 10 || source.static_shared + dynamic_shared > self.options.shared_bytes {
            return Err(Error::internal(format!("{} needs too much shared memory", source.stem)));
        }
        let kernel = self.kernel(&source, &args);
        let info = &mut self.kernels[kernel];
        info.dynamic_shared = info.dynamic_shared.max(dynamic_shared);
        let grid = grid.map(|g| g as u32);
        self.plan.launches.push(Launch { kernel, grid, block: source.block, dynamic_shared, args });
        Ok(())
    }

    fn kernel(&mut self, source: &Source, args: &[LaunchArg]) -> usize {
        let threads: u32 = source.block.iter().product();
        // Without a number of blocks the assembler would rather spill a little than lose a full multiprocessor. Two blocks
        // of 256 threads leave 128 registers to a thread.
        let bounds = match source.min_blocks {
            0 => format!("{threads}, {}", (512 / threads.max(1)).clamp(1, 8)),
            n => format!("{threads}, {n}"),
        };
        let text = format!("({}) {{\n{}}}\n\n", source.params, source.body);
        let key = format!("{bounds} {:?} {text}", source.block);
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let n = self.kernels.len();
        let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let stem: String = source.stem.chars().map(word).take(48).collect();
        let name = format!("k{n}_{stem}");
        self.kernels.push(KernelInfo {
            name,
            block: source.block,
            static_shared: source.static_shared,
            dynamic_shared: 0,
            covers: self.covers.clone(),
            params: args.iter().map(LaunchArg::size).collect(),
            bounds,
            text,
        });
        self.known.insert(key, n);
        n
    }
}

/// A buffer's address.
pub(super) fn buffer(buf: BufId) -> LaunchArg {
    LaunchArg::Buffer { buf, offset: 0 }
}

/// Blocks of `threads` for so many points.
pub(super) fn simple_grid(points: usize, threads: u32) -> [u64; 3] {
    [points.div_ceil(threads as usize) as u64, 1, 1]
}

/// `(outer, size, inner)`: the extents before, at and after `dim`.
pub(super) fn around(ty: &Type, dim: usize) -> Result<(usize, usize, usize)> {
    let product = |dims: &[usize]| dims.iter().fold(1, |n: usize, &d| n.saturating_mul(d));
    let dims = ty.shape.dims();
    match dims.get(dim) {
        Some(&size) => Ok((product(&dims[..dim]), size, product(&dims[dim + 1..]))),
        None => Err(Error::internal(format!("dim {dim} of {ty}"))),
    }
}

const _: () = assert!(ERROR_BYTES == 4 * size_of::<u64>());
