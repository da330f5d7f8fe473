//! The loops around the microkernel: units of work, packing, and the hook for finished rows.

use super::kernels::{Depth, Element, Kernels, Lines, Tile};
use super::operand::{Operand, Side};
use super::plan::{KC, Plan, Source};
use super::{Extents, Rows};
use crate::sys::par::{Par, SERIAL, Shared};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A product whose extents and operands have been checked and whose scratch memory is as large as its plan asks.
pub(super) struct Job<'a, T: Element> {
    pub e: Extents<'a>,
    pub plan: Plan,
    pub kernels: Kernels<T, T::Acc>,
    pub lhs: Operand<'a, T>,
    pub rhs: Operand<'a, T>,
    pub sides: Sides,
    pub out: Shared<T>,
    pub scratch: Shared<u8>,
    pub hook: Option<&'a Rows<'a>>,
    /// The result is seen as its transpose: a column as a row.
    pub swapped: bool,
}

/// Rows and columns of both operands.
pub(super) struct Sides {
    pub lhs_rows: Side,
    pub lhs_cols: Side,
    pub rhs_rows: Side,
    pub rhs_cols: Side,
}

/// A panel of the right operand, as the microkernel sees it: its rows and how far they lie apart.
type Panel<A> = (*const A, usize);

/// What a thread works on.
struct Unit {
    batch: usize,
    worker: usize,
    rows: Range<usize>,
    /// Columns of the block for which the right operand is packed at the time.
    block: Range<usize>,
    cols: Range<usize>,
}

/// States of a shared panel.
const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const READY: u8 = 2;

impl<T: Element> Job<'_, T> {
    /// Computes every matrix.
    pub fn run(&self, par: &Par<'_>) {
        let batches: usize = self.e.batch.iter().product();
        if !self.plan.by_matrix {
            for b in 0..batches {
                self.matrix(b, None, par);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        par.for_each(self.plan.workers, &|worker| {
            loop {
                let b = next.fetch_add(1, Ordering::Relaxed);
                if b >= batches {
                    break;
                }
                self.matrix(b, Some(worker), &SERIAL);
            }
        });
    }

    /// Computes a matrix, alone as `worker`, or with all workers of the plan.
    fn matrix(&self, batch: usize, alone: Option<usize>, par: &Par<'_>) {
        let plan = &self.plan;
        let workers = if alone.is_some() { 1 } else { plan.workers };
        for start in (0..self.e.n).step_by(plan.block_cols) {
            let block = start..(start + plan.block_cols).min(self.e.n);
            if plan.source == Source::Shared {
                for flag in 0..plan.flag_count {
                    self.flag(alone.unwrap_or(0), flag).store(EMPTY, Ordering::Relaxed);
                }
            }
            let groups = block.len().div_ceil(plan.group_cols);
            let units = plan.panels * groups;
            let next = AtomicUsize::new(0);
            par.for_each(workers.min(units), &|worker| {
                loop {
                    let unit = next.fetch_add(1, Ordering::Relaxed);
                    if unit >= units {
                        break;
                    }
                    let (panel, group) = (unit / groups, unit % groups);
                    let first = block.start + group * plan.group_cols;
                    let cols = first..(first + plan.group_cols).min(block.end);
                    let worker = alone.unwrap_or(worker);
                    self.unit(&Unit { batch, worker, rows: self.rows(panel), block: block.clone(), cols });
                }
            });
        }
        if self.rows_complete_late() {
            let rows = if self.swapped { self.e.n } else { self.e.m };
            let each = rows.div_ceil(workers);
            par.for_each(workers, &|part| {
                let rows = (part * each).min(rows)..((part + 1) * each).min(rows);
                if let (Some(hook), false) = (self.hook, rows.is_empty()) {
                    hook(alone.unwrap_or(part), batch, rows);
                }
            });
        }
    }

    /// Whether no unit ever completes a row of the caller's result.
    fn rows_complete_late(&self) -> bool {
        self.hook.is_some() && (self.swapped || self.plan.groups > 1)
    }

    /// The rows of a panel: as many as those of the others, or one less.
    fn rows(&self, panel: usize) -> Range<usize> {
        share(self.e.m, self.plan.panels, panel)
    }

    fn unit(&self, u: &Unit) {
        let (k, tile_rows) = (self.e.k, self.kernels.rows);
        let strips = u.rows.len().div_ceil(tile_rows);
        let memory = self.scratch.0.wrapping_add(self.plan.worker_at(u.worker));
        let a = memory.cast::<T::Acc>();
        let (c, c_row) = self.result(u, memory);
        for k0 in (0..k).step_by(KC) {
            let depth = KC.min(k - k0);
            self.pack_rows(u, k0, depth, strips, a);
            self.each_panel(u, k0, depth, memory, &mut |cols, (b, b_row), vectors| {
                for strip in 0..strips {
                    let rows = share(u.rows.len(), strips, strip);
                    let tile = Tile {
                        k: depth,
                        a: a.wrapping_add(rows.start * depth),
                        b,
                        b_row,
                        c: c.wrapping_add(rows.start * c_row + (cols.start - u.cols.start)),
                        c_row,
                        cols: cols.len(),
                        first: k0 == 0,
                    };
                    if let Some(micro) = (self.kernels.micro)(rows.len(), vectors) {
                        // SAFETY: `a` holds this strip's `depth * rows` numbers (`pack_rows`), `b` is a panel
                        // as `each_panel` promises, and the tile lies in the rows and columns of the unit,
                        // which no other unit has (`matrix`), of the result or of the worker's own sums. The
                        // level of the kernels is one of this CPU (`Level`).
                        unsafe { micro(&tile) }
                    }
                }
            });
        }
        if let Some(round) = self.kernels.round {
            for (i, row) in u.rows.clone().enumerate() {
                let to = self.out.0.wrapping_add((u.batch * self.e.m + row) * self.e.n + u.cols.start);
                // SAFETY: `cols` sums of this row were stored above; the elements of `out` are this unit's.
                unsafe { round(c.wrapping_add(i * c_row), to, u.cols.len()) }
            }
        }
        if let Some(hook) = self.hook
            && !self.rows_complete_late()
            && u.cols.end == self.e.n
        {
            hook(u.worker, u.batch, u.rows.clone());
        }
    }

    /// Where a unit's sums are kept and how far their rows lie apart: in the result if it is of their type.
    fn result(&self, u: &Unit, memory: *mut u8) -> (*mut T::Acc, usize) {
        if self.kernels.round.is_some() {
            return (memory.wrapping_add(self.plan.sums).cast(), u.cols.len());
        }
        let first = (u.batch * self.e.m + u.rows.start) * self.e.n + u.cols.start;
        (self.out.0.wrapping_add(first).cast(), self.e.n)
    }

    /// Packs `depth` columns of the left operand from `k0` on, for the unit's rows.
    fn pack_rows(&self, u: &Unit, k0: usize, depth: usize, strips: usize, a: *mut T::Acc) {
        let mut table = [0; KC];
        let (along, shift) = run_of(&self.sides.lhs_cols, k0, &mut table[..depth]);
        let src = self.lhs.data.as_ptr().wrapping_offset(self.lhs.at(self.e.batch, u.batch) as isize + shift);
        for strip in 0..strips {
            let rows = share(u.rows.len(), strips, strip);
            let mut lines = [0; MAX_ROWS];
            let lines = &mut lines[..rows.len()];
            self.sides.lhs_rows.offsets(u.rows.start + rows.start, lines);
            let (dst, width) = (a.wrapping_add(rows.start * depth), lines.len());
            let x = Lines { src, lines, depth: along, k: depth, dst, dst_row: width, width };
            // SAFETY: `Operand::check` has bounded every element of these rows and columns; the worker's block
            // for the left operand holds `rows * KC` numbers (`Plan::lay_out`).
            unsafe { (self.kernels.pack)(&x) }
        }
    }

    /// Calls `tiles(columns, panel, vectors)` for the panels of the right operand under the unit's columns:
    /// `depth` rows from `k0` on, each of `vectors` readable vectors that begin with its `columns`.
    fn each_panel(
        &self,
        u: &Unit,
        k0: usize,
        depth: usize,
        memory: *mut u8,
        tiles: &mut dyn FnMut(Range<usize>, Panel<T::Acc>, usize),
    ) {
        let (lanes, width) = (self.kernels.lanes, self.kernels.lanes * self.kernels.vectors);
        let strip = memory.wrapping_add(self.plan.strip).cast::<T::Acc>();
        if self.plan.source == Source::Shared {
            // Groups consist of whole panels (`Plan::new`).
            let (zero, count) = ((u.cols.start - u.block.start) / width, u.cols.len().div_ceil(width));
            // Each worker begins elsewhere, so that they pack different panels.
            let start = count * u.worker / self.plan.workers;
            for p in 0..count {
                let p = zero + (start + p) % count;
                let first = u.block.start + p * width;
                let cols = first..(first + width).min(u.cols.end);
                let vectors = cols.len().div_ceil(lanes);
                tiles(cols.clone(), self.shared_panel(u, p, &cols, k0, depth), vectors);
            }
            return;
        }
        let mut first = u.cols.start;
        let mut table = [0; KC];
        let row = self.sides.rhs_rows.stride();
        while first < u.cols.end {
            let left = u.cols.end - first;
            let wide = (self.kernels.wide)(u.rows.len());
            if let (Source::Direct, Some(row)) = (self.plan.source, row)
                && left >= width
            {
                let vectors = if left >= wide * lanes { wide } else { self.kernels.vectors };
                let at = self.rhs.at(self.e.batch, u.batch) as isize + k0 as isize * row + first as isize;
                let b = self.rhs.data.as_ptr().wrapping_offset(at).cast::<T::Acc>();
                tiles(first..first + vectors * lanes, (b, row as usize), vectors);
                first += vectors * lanes;
                continue;
            }
            let cols = first..first + left.min(width);
            let vectors = cols.len().div_ceil(lanes);
            self.pack_panel(u, &cols, (k0, depth), &mut table, strip);
            first = cols.end;
            tiles(cols, (strip, vectors * lanes), vectors);
        }
    }

    /// Packs `depth` rows of some columns of the right operand, filled up with zeros to whole vectors.
    fn pack_panel(
        &self,
        u: &Unit,
        cols: &Range<usize>,
        (k0, depth): (usize, usize),
        table: &mut [isize; KC],
        dst: *mut T::Acc,
    ) {
        let (along, shift) = run_of(&self.sides.rhs_rows, k0, &mut table[..depth]);
        let src = self.rhs.data.as_ptr().wrapping_offset(self.rhs.at(self.e.batch, u.batch) as isize + shift);
        let mut lines = [0; MAX_PANEL];
        let lines = &mut lines[..cols.len()];
        self.sides.rhs_cols.offsets(cols.start, lines);
        let width = cols.len().next_multiple_of(self.kernels.lanes);
        let x = Lines { src, lines, depth: along, k: depth, dst, dst_row: width, width };
        // SAFETY: `Operand::check` has bounded every element of these rows and columns; `dst` is the worker's
        // strip, or a piece of a shared panel that this worker alone has claimed, of `depth * width` numbers.
        unsafe { (self.kernels.pack)(&x) }
    }

    /// Panel `p` of the block, packed by whoever comes first.
    fn shared_panel(&self, u: &Unit, p: usize, cols: &Range<usize>, k0: usize, depth: usize) -> Panel<T::Acc> {
        let width = cols.len().next_multiple_of(self.kernels.lanes);
        let start = self.scratch.0.wrapping_add(self.plan.shared_at(u.worker)).cast::<T::Acc>();
        let panel = p * self.kernels.lanes * self.kernels.vectors * self.e.k;
        let b = start.wrapping_add(panel + k0 * width);
        let flag = self.flag(u.worker, p * self.e.k.div_ceil(KC) + k0 / KC);
        match flag.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                // Whoever waits goes on even if this thread panics.
                let _ready = OnDrop(flag);
                self.pack_panel(u, cols, (k0, depth), &mut [0; KC], b);
            }
            Err(mut state) => {
                let mut turns = 0;
                while state != READY {
                    // The thread that packs waits for nobody; it may have lost its core, though.
                    if turns < 1000 {
                        std::hint::spin_loop()
                    } else {
                        std::thread::yield_now()
                    }
                    turns += 1;
                    state = flag.load(Ordering::Acquire);
                }
            }
        }
        (b, width)
    }

    /// A flag of a shared panel.
    fn flag(&self, worker: usize, i: usize) -> &AtomicU8 {
        let at = self.plan.shared_at(worker) + self.plan.flags + i.min(self.plan.flag_count - 1);
        // SAFETY: inside the scratch memory (`Plan::lay_out`), where nothing else touches the flags.
        unsafe { AtomicU8::from_ptr(self.scratch.0.wrapping_add(at)) }
    }
}

/// Marks a panel as ready.
struct OnDrop<'a>(&'a AtomicU8);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(READY, Ordering::Release);
    }
}

/// Most rows of a tile and columns of a packed panel at any level.
const MAX_ROWS: usize = 16;
const MAX_PANEL: usize = 32;

/// Part `i` of `n` things in `parts` parts that differ by one at most.
fn share(n: usize, parts: usize, i: usize) -> Range<usize> {
    let (each, more) = (n / parts, n % parts);
    let start = i * each + i.min(more);
    start..start + each + usize::from(i < more)
}

/// Offsets along a side from `first` on: the first of them, and all relative to it.
fn run_of<'t>(side: &Side, first: usize, table: &'t mut [isize]) -> (Depth<'t>, isize) {
    match side.stride() {
        Some(stride) => (Depth::Stride(stride), first as isize * stride),
        None => {
            side.offsets(first, table);
            (Depth::Table(table), 0)
        }
    }
}
