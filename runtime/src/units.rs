//! Which steps of a program run together. The program and its meaning stay as they are: a unit is proven, from
//! the index maps of its kernels and the places of their buffers, to compute what its steps compute one after
//! another.
//!
//! * A [`Unit::Chain`] is a matrix product with the kernels behind it whose rows are rows of the product. As soon
//!   as a panel of rows is complete, the kernels run on exactly these rows, which are still in cache. Proof: every
//!   access to memory that the chain writes stays within the part of that memory that belongs to its own row, and
//!   nothing that a kernel writes shares memory with an operand of the product.
//! * A [`Unit::Region`] is a run of kernels of which none writes what another one touches, such as the updates of
//!   all parameters: their parts form one list for one parallel region.

use std::ops::Range;
use torsh_codegen::cpu::Emitted;
use torsh_ir::kernel::{Access, Affine, Inst, Kernel};
use torsh_ir::program::{BufId, DotStep, Place, Program, StepOp};

/// Kernels of one region, at most: each is compared with all before it.
const MAX_REGION: usize = 64;
/// Fewer rows do not keep threads busy with panels.
const MIN_ROWS: usize = 32;
/// Nanoseconds of a kernel that one thread may as well do by itself.
const SMALL_NS: f64 = 20_000.0;
/// Multiplications of a product that is computed by one thread.
const SMALL_PRODUCT: usize = 250_000;

/// Steps that run together.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Unit {
    /// One step.
    Step(usize),
    /// A product, and what runs on its rows.
    Chain { dot: usize, kernels: Vec<OnRows> },
    /// Kernels that do not depend on each other.
    Region(Range<usize>),
}

impl Unit {
    /// Its kind, for `explain()`.
    pub fn name(&self) -> &'static str {
        match self {
            Unit::Step(_) => "step",
            Unit::Chain { .. } => "chain",
            Unit::Region(_) => "region",
        }
    }

    /// Its steps, which are consecutive.
    pub fn steps(&self) -> Range<usize> {
        match self {
            Unit::Step(s) => *s..s + 1,
            Unit::Chain { dot, kernels } => *dot..dot + 1 + kernels.len(),
            Unit::Region(steps) => steps.clone(),
        }
    }
}

/// A kernel of a chain: which of its rows or columns belong to a row of the product.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct OnRows {
    /// Its step.
    pub step: usize,
    /// Rows (or columns) of the kernel per row of the product.
    pub per_row: usize,
    /// The kernel is one row, cut into columns.
    pub columns: bool,
}

/// What is known of each step's kernel: `None` for other steps.
pub(crate) type Facts<'a> = dyn Fn(usize) -> Option<&'a Emitted> + 'a;

/// Finds the units of a program. `threads` are those that runs will have; `join` is false for one unit a step.
pub(crate) fn find(program: &Program, facts: &Facts<'_>, threads: usize, join: bool) -> Vec<Unit> {
    let n = program.steps.len();
    if !join {
        return (0..n).map(Unit::Step).collect();
    }
    let mut units = Vec::new();
    let mut s = 0;
    while s < n {
        let unit = match &program.steps[s].op {
            StepOp::Dot(dot) => chain(program, facts, threads, s, dot),
            StepOp::Kernel { .. } => region(program, s),
            StepOp::Lib { .. } => Unit::Step(s),
        };
        s = unit.steps().end;
        units.push(unit);
    }
    units
}

/// A piece of memory: which, and its bytes.
#[derive(Clone, PartialEq)]
struct Extent {
    memory: (u8, u32),
    bytes: Range<usize>,
}

fn extent(program: &Program, buf: BufId) -> Option<Extent> {
    let decl = program.buffers.get(buf.0 as usize)?;
    let size = decl.ty.nbytes();
    let (memory, start) = match decl.place {
        Place::Arena { offset } => ((0, 0), offset),
        // A donated input may be overwritten in place.
        Place::Input(i) | Place::Donated(i) => ((1, i), 0),
        Place::Output | Place::Const(_) => ((2, buf.0), 0),
    };
    Some(Extent { memory, bytes: start..start.checked_add(size)? })
}

fn overlap(a: &Extent, b: &Extent) -> bool {
    a.memory == b.memory && a.bytes.start < b.bytes.end && b.bytes.start < a.bytes.end
}

/// Memory that a unit touches.
struct Touch {
    extent: Extent,
    written: bool,
    /// Each row of the product touches only its own part.
    own: bool,
}

impl Touch {
    /// Whether the order of two rows does not matter to these two.
    fn agrees(&self, other: &Touch) -> bool {
        let apart = !(self.written || other.written) || !overlap(&self.extent, &other.extent);
        apart || (self.own && other.own && self.extent == other.extent)
    }
}

fn region(program: &Program, first: usize) -> Unit {
    let mut touched: Vec<Touch> = Vec::new();
    let mut end = first;
    while let Some(StepOp::Kernel { kernel, args }) = program.steps.get(end).map(|s| &s.op) {
        let new = touches(program, kernel, args, |_| false);
        let Some(new) = new.filter(|new| new.iter().all(|a| touched.iter().all(|b| a.agrees(b)))) else { break };
        touched.extend(new);
        end += 1;
        if end - first == MAX_REGION {
            break;
        }
    }
    if end <= first + 1 { Unit::Step(first) } else { Unit::Region(first..end) }
}

fn touches(program: &Program, kernel: &Kernel, args: &[BufId], own: impl Fn(usize) -> bool) -> Option<Vec<Touch>> {
    let touch = |(p, &buf): (usize, &BufId)| {
        let written = kernel.params.get(p)?.access != Access::Read;
        Some(Touch { extent: extent(program, buf)?, written, own: own(p) })
    };
    args.iter().enumerate().map(touch).collect()
}

fn chain(program: &Program, facts: &Facts<'_>, threads: usize, s: usize, dot: &DotStep) -> Unit {
    let batch: usize = dot.batch.iter().product();
    let alone = Unit::Step(s);
    let (Some(rows), Some(out)) = (batch.checked_mul(dot.m), extent(program, dot.out)) else { return alone };
    let operands = [dot.lhs.buf, dot.rhs.buf].map(|b| extent(program, b));
    let [Some(lhs), Some(rhs)] = operands else { return alone };
    if rows < 2 || dot.n == 0 {
        return alone;
    }
    let read = |extent| Touch { extent, written: false, own: false };
    let mut touched = vec![read(lhs), read(rhs), Touch { extent: out, written: true, own: true }];
    let small_product = rows.saturating_mul(dot.n).saturating_mul(dot.k) < SMALL_PRODUCT;
    let mut kernels = Vec::new();
    for step in s + 1..program.steps.len() {
        let StepOp::Kernel { kernel, args } = &program.steps[step].op else { break };
        let Some(info) = facts(step) else { break };
        let idle = threads > 1 && info.cost_ns > SMALL_NS && (small_product || rows < MIN_ROWS * threads);
        let Some((on_rows, new)) = on_rows(program, step, kernel, args, info, rows).filter(|_| !idle) else { break };
        // A kernel that sees nothing of the chain gains nothing from it.
        let joined = new.iter().any(|a| touched.iter().any(|b| b.written && overlap(&a.extent, &b.extent)));
        if !joined || !new.iter().all(|a| touched.iter().all(|b| a.agrees(b))) {
            break;
        }
        touched.extend(new);
        kernels.push(on_rows);
    }
    if kernels.is_empty() { alone } else { Unit::Chain { dot: s, kernels } }
}

/// How a kernel's rows follow those of a product, and what it touches.
fn on_rows(
    program: &Program,
    step: usize,
    kernel: &Kernel,
    args: &[BufId],
    info: &Emitted,
    rows: usize,
) -> Option<(OnRows, Vec<Touch>)> {
    let normal = &info.form;
    if (info.rows, info.cols) != (normal.rows(), normal.row_len()) {
        return None;
    }
    let columns = normal.rows() == 1 && info.splits_columns && normal.inner.len() == 1;
    let points = if columns { info.cols } else { info.rows };
    if points == 0 || !points.is_multiple_of(rows) {
        return None;
    }
    let space = Space::new(normal, rows, columns)?;
    let mut own = vec![true; kernel.params.len()];
    let loads = normal.values.iter().filter_map(|v| match &v.inst {
        Inst::Load { param, index } => Some((*param, index)),
        Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => None,
    });
    let stores = normal.stages.iter().flat_map(|s| s.stores.iter().map(|s| (s.param, &s.index)));
    for (param, index) in loads.chain(stores) {
        let p = param as usize;
        own[p] = *own.get(p)? && space.is_own(index, normal.params.get(p)?.numel);
    }
    let new = touches(program, kernel, args, |p| own[p])?;
    // A buffer under two names, or one in the memory of another.
    if !new.iter().enumerate().all(|(i, a)| new[..i].iter().all(|b| a.agrees(b))) {
        return None;
    }
    Some((OnRows { step, per_row: points / rows, columns }, new))
}

/// The axes of a kernel, seen from the rows of a product: outer axes count the product's rows, the rest is
/// within one.
struct Space {
    rows: usize,
    /// Extents of the outer axes.
    outer: Vec<usize>,
    /// Extents of the other axes, the first of which may be a part of a grid axis.
    rest: Vec<usize>,
    /// A grid axis that is cut in two: its position, and the extent of its inner part.
    cut: Option<(usize, usize)>,
}

impl Space {
    fn new(k: &Kernel, rows: usize, columns: bool) -> Option<Space> {
        let axes: Vec<usize> = k.grid.iter().chain(&k.inner).copied().collect();
        // Grid axes, or the one inner axis where there is no grid.
        let count = if columns { axes.len() } else { k.grid.len() };
        let mut space = Space { rows, outer: Vec::new(), rest: Vec::new(), cut: None };
        let mut left = rows;
        for (i, &extent) in axes.iter().enumerate() {
            if left == 1 {
                space.rest.push(extent);
            } else if i < count && left.is_multiple_of(extent) {
                space.outer.push(extent);
                left /= extent;
            } else if i < count && extent.is_multiple_of(left) {
                space.cut = Some((i, extent / left));
                space.outer.push(left);
                space.rest.push(extent / left);
                left = 1;
            } else {
                return None;
            }
        }
        (left == 1).then_some(space)
    }

    /// Whether row `r` of the product touches only elements `r * share .. (r + 1) * share` of a buffer.
    fn is_own(&self, map: &Affine, numel: usize) -> bool {
        if !numel.is_multiple_of(self.rows) {
            return false;
        }
        let share = (numel / self.rows) as i128;
        let mut strides: Vec<i128> = map.strides.iter().map(|&s| i128::from(s)).collect();
        if let Some((at, part)) = self.cut
            && at < strides.len()
        {
            strides.insert(at, strides[at] * part as i128);
        }
        if strides.len() != self.outer.len() + self.rest.len() {
            return false;
        }
        let (outer, rest) = strides.split_at(self.outer.len());
        let mut step = share;
        for (&extent, &stride) in self.outer.iter().zip(outer).rev() {
            if extent > 1 && stride != step {
                return false;
            }
            step *= extent as i128;
        }
        let (mut lo, mut hi) = (i128::from(map.offset), i128::from(map.offset));
        for (&extent, &stride) in self.rest.iter().zip(rest) {
            let reach = (extent as i128 - 1) * stride;
            lo += reach.min(0);
            hi += reach.max(0);
        }
        lo >= 0 && hi < share
    }
}
