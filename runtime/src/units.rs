//! Which steps of a program run together. The program and its meaning stay as they are: a unit is proven, from
//! the index maps of its kernels and the places of their buffers, to compute what its steps compute one after
//! another.
//!
//! * A [`Unit::Chain`] is a matrix product with the kernels behind it whose rows are rows of the product. As soon
//!   as a panel of rows is complete, the kernels run on exactly these rows, which are still in cache. Proof: every
//!   access to memory that the chain writes stays within the part of that memory that belongs to its own row, and
//!   nothing that a kernel writes shares memory with an operand of the product. A kernel in front of the product joins
//!   where the left operand is all that anybody reads of it: it makes the rows of a panel in memory of the thread, just
//!   before they are packed, and the operand is never written to its own memory. Proof: the same, and the rows of the
//!   operand lie one after another; nobody reads that memory before somebody else has written it.
//! * A [`Unit::Region`] is a run of kernels of which none writes what another one touches, such as the updates of
//!   all parameters: their parts form one list for one parallel region.

use crate::lib_calls;
use crate::sys::call::Part;
use std::ops::Range;
use torsh_codegen::cpu::Emitted;
use torsh_ir::kernel::{Access, Affine, Domain, Inst, Kernel};
use torsh_ir::program::{BufId, DotStep, Place, Program, StepOp};

/// Kernels of one region, at most: each is compared with all before it.
const MAX_REGION: usize = 64;
/// Fewer rows do not keep threads busy with panels.
const MIN_ROWS: usize = 32;
/// Nanoseconds of a kernel that one thread may as well do by itself.
const SMALL_NS: f64 = 20_000.0;
/// Multiplications of a product that is computed by one thread.
const SMALL_PRODUCT: usize = 250_000;

/// Left operands of fewer bytes are still in the caches when the product reads them.
const PROLOGUE_BYTES: usize = 8 << 20;
/// Columns of the widest product behind a prologue: others take so much longer than their left operand takes from
/// memory that little is gained (measured).
const PROLOGUE_COLS: usize = 512;
/// Fewer rows at a time are not worth the calls.
const PROLOGUE_ROWS: usize = 24;

/// Steps that run together.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Unit {
    /// One step.
    Step(usize),
    /// A product, what makes the rows of its left operand, and what runs on its rows.
    Chain { front: Option<Prologue>, dot: usize, kernels: Vec<OnRows> },
    /// Kernels that do not depend on each other.
    Region(Range<usize>),
}

impl Unit {
    /// What one of its steps is in it, for `explain()`.
    pub fn name(&self, step: usize) -> &'static str {
        match self {
            Unit::Step(_) => "step",
            Unit::Chain { dot, .. } if step < *dot => "prologue",
            Unit::Chain { .. } => "chain",
            Unit::Region(_) => "region",
        }
    }

    /// Its steps, which are consecutive.
    pub fn steps(&self) -> Range<usize> {
        match self {
            Unit::Step(s) => *s..s + 1,
            Unit::Chain { front, dot, kernels } => dot - usize::from(front.is_some())..dot + 1 + kernels.len(),
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

impl OnRows {
    /// The part of the kernel that belongs to some rows of the product.
    pub fn part(&self, info: &Emitted, rows: &Range<usize>) -> Part {
        let own = rows.start * self.per_row..rows.end * self.per_row;
        if self.columns { Part { rows: 0..info.rows, cols: own } } else { Part { rows: own, cols: 0..info.cols } }
    }
}

/// A kernel in front of a product.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Prologue {
    /// Its step, and its rows.
    pub on: OnRows,
    /// The parameter that is the left operand.
    pub param: usize,
}

/// When kernels in front of products join them.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Prologues {
    /// Where it pays.
    #[default]
    Pay,
    /// Wherever it is possible.
    All,
}

/// What is known of each step's kernel: `None` for other steps.
pub(crate) type Facts<'a> = dyn Fn(usize) -> Option<&'a Emitted> + 'a;

/// Finds the units of a program. `threads` are those that runs will have; `join` is `None` for one unit a step.
pub(crate) fn find(program: &Program, facts: &Facts<'_>, threads: usize, join: Option<Prologues>) -> Vec<Unit> {
    let n = program.steps.len();
    let Some(prologues) = join else { return (0..n).map(Unit::Step).collect() };
    let mut units = Vec::new();
    let mut s = 0;
    while s < n {
        let unit = match &program.steps[s].op {
            StepOp::Dot(dot) => chain(program, facts, threads, None, (s, dot)),
            StepOp::Kernel { .. } => match prologue(program, facts, prologues, s) {
                Some((front, dot)) => chain(program, facts, threads, Some(front), (s + 1, dot)),
                None => region(program, s, |step| prologue(program, facts, prologues, step).is_some()),
            },
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

/// Independent kernels from `first` on, up to one that `leaves` for another unit.
fn region(program: &Program, first: usize, leaves: impl Fn(usize) -> bool) -> Unit {
    let mut touched: Vec<Touch> = Vec::new();
    let mut end = first;
    while let Some(StepOp::Kernel { kernel, args }) = program.steps.get(end).map(|s| &s.op) {
        let new = touches(program, kernel, args, |_| false);
        if end > first && leaves(end) {
            break;
        }
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

/// The kernel of step `s` as one that makes the left operand of the product behind it, and this product.
fn prologue<'p>(
    program: &'p Program,
    facts: &Facts<'_>,
    prologues: Prologues,
    s: usize,
) -> Option<((Prologue, Vec<Touch>), &'p DotStep)> {
    let StepOp::Kernel { kernel, args } = &program.steps.get(s)?.op else { return None };
    let StepOp::Dot(dot) = &program.steps.get(s + 1)?.op else { return None };
    let rows = dot.batch.iter().try_fold(dot.m, |n, &b| n.checked_mul(b))?;
    let made = program.buffers.get(dot.lhs.buf.0 as usize)?;
    // Its memory is the program's own, and all of it is the operand, row by row.
    let whole = rows.checked_mul(dot.k) == Some(made.ty.numel()) && lib_calls::takes_rows(dot);
    if rows < 2 || !whole || !matches!(made.place, Place::Arena { .. }) {
        return None;
    }
    let (bytes, row) = (made.ty.nbytes(), made.ty.nbytes() / rows);
    let pays = bytes >= PROLOGUE_BYTES
        && dot.n <= PROLOGUE_COLS
        && row.saturating_mul(PROLOGUE_ROWS) <= lib_calls::FRONT_BYTES
        && dot.m >= PROLOGUE_ROWS;
    // Before what follows, which looks at all steps behind: there are programs of many thousands of small ones.
    if prologues == Prologues::Pay && !pays || !is_spent(program, s + 1, dot) {
        return None;
    }
    let mut params = (0..args.len()).filter(|&p| args[p] == dot.lhs.buf);
    let (Some(param), None) = (params.next(), params.next()) else { return None };
    let read = |v: &torsh_ir::kernel::Value| matches!(&v.inst, Inst::Load { param: p, .. } if *p as usize == param);
    if kernel.values.iter().any(read) || !writes_all(kernel, param) {
        return None;
    }
    let (on, touched) = on_rows(program, s, kernel, args, facts(s)?, rows)?;
    if !touched.get(param)?.own {
        return None;
    }
    Some(((Prologue { on, param }, touched), dot))
}

/// Whether a kernel writes every element of a parameter: different points write different ones, so they need only be
/// as many.
fn writes_all(kernel: &Kernel, param: usize) -> bool {
    let mut stores = kernel.stages.iter().flat_map(|s| s.stores.iter().map(move |store| (s.domain, store.param)));
    let domain = |(domain, p): (Domain, u32)| (p as usize == param).then_some(domain);
    let first = stores.by_ref().find_map(domain);
    let points = match first {
        Some(Domain::Full) => kernel.rows().checked_mul(kernel.row_len()),
        Some(Domain::Row) => Some(kernel.rows()),
        None => None,
    };
    let declared = kernel.params.get(param).is_some_and(|p| p.access == Access::Write && Some(p.numel) == points);
    declared && stores.find_map(domain).is_none()
}

/// Whether the product of step `s` is the only one that reads the memory of its left operand as it is then: whoever
/// touches it next writes something else there. Who writes a part of the same buffer leaves the rest to be read.
fn is_spent(program: &Program, s: usize, dot: &DotStep) -> bool {
    let extent_of = |&buf: &BufId| extent(program, buf);
    let Some(made) = extent_of(&dot.lhs.buf) else { return false };
    let meets = |buf: &BufId| extent_of(buf).is_none_or(|e| overlap(&e, &made));
    if meets(&dot.rhs.buf) || meets(&dot.out) {
        return false;
    }
    for step in &program.steps[s + 1..] {
        match &step.op {
            StepOp::Kernel { kernel, args } => {
                let mut written = false;
                for (p, buf) in args.iter().enumerate().filter(|(_, buf)| meets(buf)) {
                    let other = extent_of(buf).is_some_and(|e| e != made);
                    let writes = kernel.params.get(p).is_some_and(|param| param.access == Access::Write);
                    if !(writes && (other || writes_all(kernel, p))) {
                        return false;
                    }
                    written = true;
                }
                if written {
                    return true;
                }
            }
            StepOp::Dot(dot) if meets(&dot.lhs.buf) || meets(&dot.rhs.buf) => return false,
            StepOp::Lib { args, .. } if args.iter().any(meets) => return false,
            StepOp::Dot(DotStep { out, .. }) | StepOp::Lib { out, .. } if meets(out) => return true,
            StepOp::Dot(_) | StepOp::Lib { .. } => {}
        }
    }
    // Nobody does. A result is never in the arena.
    !program.outputs.iter().any(meets)
}

/// The product of step `s`, with what makes its rows and what runs on them.
fn chain(
    program: &Program,
    facts: &Facts<'_>,
    threads: usize,
    front: Option<(Prologue, Vec<Touch>)>,
    (s, dot): (usize, &DotStep),
) -> Unit {
    let batch: usize = dot.batch.iter().product();
    let (mut touched, front) = match front {
        Some((front, touched)) => (touched, Some(front)),
        None => (Vec::new(), None),
    };
    // Whatever is wrong with the product: its steps one by one.
    let alone = Unit::Step(s - usize::from(front.is_some()));
    let (Some(rows), Some(out)) = (batch.checked_mul(dot.m), extent(program, dot.out)) else { return alone };
    let operands = [dot.lhs.buf, dot.rhs.buf].map(|b| extent(program, b));
    let [Some(lhs), Some(rhs)] = operands else { return alone };
    if rows < 2 || dot.n == 0 {
        return alone;
    }
    let read = |extent| Touch { extent, written: false, own: false };
    let own = [read(lhs), read(rhs), Touch { extent: out, written: true, own: true }];
    // The left operand is where its rows are made, and nowhere else.
    let new = if front.is_some() { &own[1..] } else { &own[..] };
    if !new.iter().all(|a| touched.iter().all(|b| a.agrees(b))) {
        return alone;
    }
    touched.extend(own);
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
    if kernels.is_empty() && front.is_none() { alone } else { Unit::Chain { front, dot: s, kernels } }
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
