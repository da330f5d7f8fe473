//! The loops around the microkernel: units of work, packing, and the hook for finished rows.

use super::kernels::{Depth, Element, Kernels, Lines, Row, Tile};
use super::lanes::{MAX_LANES, Number};
use super::operand::{Operand, Side};
use super::plan::{ALONG_COLS, CLAIM, KC, PIECES, Plan, Source};
use super::{Extents, Front, Rows};
use crate::sys::call::Span;
use crate::sys::par::{Par, SERIAL, Shared};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// A product whose extents and operands have been checked and whose scratch memory is as large as its plan asks.
pub(super) struct Job<'a, T: Element> {
    pub e: Extents<'a>,
    pub plan: Plan,
    pub kernels: Kernels<T, T::Acc>,
    pub lhs: Operand<'a, T>,
    pub rhs: Operand<'a, T>,
    pub sides: Sides,
    /// Panels of the right operand, as many as [`super::prepacked_bytes`] says, where the plan asks for them.
    pub packed: &'a [T::Acc],
    /// Begins at the end of the right operand where it reads it once: what the last product read last may still be in
    /// the cache.
    pub back: bool,
    pub out: Shared<T>,
    pub scratch: Shared<u8>,
    /// Makes the rows of the left operand; the plan has one unit to a panel then.
    pub front: Option<&'a Front<'a>>,
    pub hook: Option<&'a Rows<'a>>,
    /// The result is seen as its transpose: a column as a row.
    pub swapped: bool,
    /// A tile was met for which there is no microkernel, or a row that cannot be computed as planned; they are as they were.
    pub missing: AtomicBool,
}

/// Rows and columns of both operands.
pub(super) struct Sides {
    pub lhs_rows: Side,
    pub lhs_cols: Side,
    pub rhs_rows: Side,
    pub rhs_cols: Side,
}

/// A panel of the right operand, as the microkernel sees it: its rows, how far they lie apart, and where the
/// panel begins that is likely to follow, unless the rows are asked for one by one.
type Panel<A> = (*const A, usize, Option<*const A>);

/// Takes columns, their panel and its vectors to each row.
type Tiles<'a, A> = dyn FnMut(Range<usize>, Panel<A>, usize) + 'a;

/// What a thread works on.
struct Unit {
    batch: usize,
    worker: usize,
    rows: Range<usize>,
    /// Columns of the block for which the right operand is packed at the time.
    block: Range<usize>,
    cols: Range<usize>,
    /// Terms of the sums: all, or some whole pieces.
    terms: Range<usize>,
    /// The worker's last unit was of the same rows.
    ready: bool,
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
            let units = plan.panels * groups * plan.ranges;
            let next = AtomicUsize::new(0);
            par.for_each(workers.min(units), &|worker| {
                let mut ready = None;
                loop {
                    let unit = next.fetch_add(1, Ordering::Relaxed);
                    if unit >= units {
                        break;
                    }
                    let (unit, range) = (unit / plan.ranges, unit % plan.ranges);
                    let (panel, group) = (unit / groups, unit % groups);
                    let first = block.start + group * plan.group_cols;
                    let cols = first..(first + plan.group_cols).min(block.end);
                    let worker = alone.unwrap_or(worker);
                    let ready = ready.replace(panel) == Some(panel);
                    let (rows, block, terms) = (self.rows(panel), block.clone(), self.terms(range));
                    self.unit(&Unit { batch, worker, rows, block, cols, terms, ready });
                }
            });
        }
        if plan.ranges > 1 {
            self.add_pieces(batch, par);
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
        self.hook.is_some() && (self.swapped || self.plan.groups > 1 || self.plan.ranges > 1)
    }

    /// The terms of a range: whole pieces, as many as in the others, or one less.
    fn terms(&self, range: usize) -> Range<usize> {
        let pieces = share(self.e.k.div_ceil(KC), self.plan.ranges, range);
        pieces.start * KC..(pieces.end * KC).min(self.e.k)
    }

    /// The sums of the piece of terms from `k0` on, where pieces are kept apart.
    fn piece(&self, k0: usize) -> *mut T::Acc {
        self.scratch.0.cast::<T::Acc>().wrapping_add(k0 / KC * self.e.m * self.e.n)
    }

    /// Adds the pieces that were kept apart, in order.
    fn add_pieces(&self, batch: usize, par: &Par<'_>) {
        let all = self.e.m * self.e.n;
        let parts = all.div_ceil(ALONG_COLS);
        let next = AtomicUsize::new(0);
        par.for_each(self.plan.workers.min(parts), &|_| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                let numbers = share(all, parts, part);
                let c = self.out.0.wrapping_add(batch * all + numbers.start).cast::<T::Acc>();
                for k0 in (0..self.e.k).step_by(KC) {
                    let sums = self.piece(k0).wrapping_add(numbers.start);
                    // SAFETY: the units have stored `all` sums of every piece (`tiles`); this part of the result, whose
                    // elements are of the type of the sums (`ranges` in the plan), is nobody else's.
                    unsafe { total(c, sums, numbers.len(), k0 == 0) }
                }
            }
        });
    }

    /// The rows of a panel: as many as those of the others, or one less.
    fn rows(&self, panel: usize) -> Range<usize> {
        share(self.e.m, self.plan.panels, panel)
    }

    fn unit(&self, u: &Unit) {
        let k = self.e.k;
        let strips = Strips::new(u.rows.len(), self.kernels.rows);
        let memory = self.scratch.0.wrapping_add(self.plan.worker_at(u.worker));
        let all = memory.cast::<T::Acc>();
        let (c, c_row) = self.result(u, memory);
        if let Some(front) = self.front {
            let rows = memory.wrapping_add(self.plan.front).cast::<T>();
            // SAFETY: the worker's memory for the rows of its panel (`Plan::lay_out`), which nothing else touches.
            let rows = unsafe { Span::of_elements(rows, u.rows.len() * k) };
            front(u.worker, u.batch, u.rows.clone(), rows);
        }
        if self.plan.whole && !u.ready {
            for k0 in (0..k).step_by(KC) {
                self.pack_rows(u, k0, KC.min(k - k0), &strips, all.wrapping_add(k0 * u.rows.len()));
            }
        }
        match self.plan.source {
            Source::Along => self.along(u, all, memory.wrapping_add(self.plan.strip).cast(), c),
            Source::Down => self.down(u, all, c),
            _ => self.tiles(u, &strips, memory, (c, c_row)),
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

    /// A unit of one row, all of whose numbers are at `x`: the right operand is read along its rows.
    fn along(&self, u: &Unit, x: *const T::Acc, sums: *mut T::Acc, c: *mut T::Acc) {
        let Some(b_row) = self.sides.rhs_rows.stride() else {
            // The plan asks for this only where there is one (`Right::Rows`).
            self.missing.store(true, Ordering::Relaxed);
            return;
        };
        let matrix = self.rhs.data.as_ptr().wrapping_offset(self.rhs.at(self.e.batch, u.batch) as isize);
        let k = self.e.k;
        let pieces = k.div_ceil(KC);
        let apart = pieces <= PIECES;
        for first in u.cols.clone().step_by(ALONG_COLS) {
            let cols = ALONG_COLS.min(u.cols.end - first);
            let c = c.wrapping_add(first - u.cols.start);
            for i in 0..pieces {
                let piece = if apart && self.back { pieces - 1 - i } else { i };
                let (k0, place) = (piece * KC, if apart { piece } else { 0 });
                let b = matrix.wrapping_offset(k0 as isize * b_row).wrapping_add(first);
                let sums = sums.wrapping_add(place * cols);
                let row = Row { x: x.wrapping_add(k0), k: KC.min(k - k0), b, lines: &[], next: 0, b_row, cols, sums };
                // SAFETY: `x` holds all `k` numbers (`unit`), `Operand::check` has bounded the rows and columns, which
                // lie side by side (`Right::Rows`), and the worker has `PIECES` times `cols` sums (`Plan::lay_out`).
                unsafe { (self.kernels.along)(&row) }
                if !apart {
                    // SAFETY: the sums were stored just now; `c` as below.
                    unsafe { total(c, sums, cols, piece == 0) }
                }
            }
            for piece in (0..pieces).take_while(|_| apart) {
                // SAFETY: all pieces were stored above; the columns of the result, or of the worker's own sums, belong
                // to this unit (`result`).
                unsafe { total(c, sums.wrapping_add(piece * cols), cols, piece == 0) }
            }
        }
    }

    /// A unit of one row, all of whose numbers are at `x`: the right operand is read down its columns.
    fn down(&self, u: &Unit, x: *const T::Acc, c: *mut T::Acc) {
        let lanes = self.kernels.lanes;
        let b = self.rhs.data.as_ptr().wrapping_offset(self.rhs.at(self.e.batch, u.batch) as isize);
        let (k, groups) = (self.e.k, u.cols.len().div_ceil(lanes));
        let next = self.sides.rhs_cols.stride().map_or(0, |col| col * lanes as isize);
        for i in 0..groups {
            let (group, next) = if self.back { (groups - 1 - i, -next) } else { (i, next) };
            let first = u.cols.start + group * lanes;
            let mut lines = [0; MAX_LANES];
            let lines = &mut lines[..lanes.min(u.cols.end - first)];
            self.sides.rhs_cols.offsets(first, lines);
            let sums = c.wrapping_add(group * lanes);
            let row = Row { x, k, b, lines, next, b_row: 0, cols: lines.len(), sums };
            // SAFETY: `x` holds all `k` numbers (`unit`), `Operand::check` has bounded the columns, whose elements lie
            // side by side (`Right::Columns`); these columns of the result, or of the worker's own sums, belong to
            // this unit (`result`).
            unsafe { (self.kernels.down)(&row) }
        }
    }

    /// A unit, tile by tile.
    fn tiles(&self, u: &Unit, strips: &Strips, memory: *mut u8, (c, c_row): (*mut T::Acc, usize)) {
        for k0 in u.terms.clone().step_by(KC) {
            let depth = KC.min(u.terms.end - k0);
            let apart = self.plan.ranges > 1;
            let c = if apart { self.piece(k0) } else { c };
            let mut a = memory.cast::<T::Acc>();
            if self.plan.whole {
                a = a.wrapping_add(k0 * u.rows.len());
            } else {
                self.pack_rows(u, k0, depth, strips, a);
            }
            self.each_panel(u, k0, depth, memory, &mut |cols, (b, b_row, next), vectors| {
                // The tiles of a panel ask for the next one together.
                let soon_step = if next.is_some() { b_row.div_ceil(strips.count()) } else { 0 };
                let mut soon = next.unwrap_or(b);
                let (mut a, mut c) = (a, c.wrapping_add(cols.start - u.cols.start));
                for (count, rows) in strips.0 {
                    let Some(micro) = (self.kernels.micro)(rows, vectors) else {
                        // Without strips of this kind there need be none.
                        self.missing.fetch_or(count > 0, Ordering::Relaxed);
                        continue;
                    };
                    for _ in 0..count {
                        let (cols, first) = (cols.len(), k0 == 0 || apart);
                        let tile = Tile { k: depth, a, b, b_row, c, c_row, soon, soon_step, cols, first };
                        // SAFETY: `a` holds this strip's `depth * rows` numbers (`pack_rows`), `b` is a panel
                        // as `each_panel` promises, and the tile lies in the rows and columns of the unit,
                        // which no other unit has (`matrix`), of the result, of the worker's own sums, or of a
                        // piece that is this unit's (`terms`). The
                        // level of the kernels is one of this CPU (`Level`).
                        unsafe { micro(&tile) }
                        soon = soon.wrapping_add(soon_step * depth);
                        a = a.wrapping_add(rows * depth);
                        c = c.wrapping_add(rows * c_row);
                    }
                }
            });
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
    fn pack_rows(&self, u: &Unit, k0: usize, depth: usize, strips: &Strips, a: *mut T::Acc) {
        let mut table = [0; KC];
        let (along, shift) = run_of(&self.sides.lhs_cols, k0, &mut table[..depth]);
        let data = match self.front {
            None => self.lhs.data.as_ptr(),
            // The memory of the front stands for this part of the operand.
            Some(_) => {
                let memory = self.scratch.0.wrapping_add(self.plan.worker_at(u.worker) + self.plan.front);
                memory.cast::<T>().cast_const().wrapping_sub((u.batch * self.e.m + u.rows.start) * self.e.k)
            }
        };
        let src = data.wrapping_offset(self.lhs.at(self.e.batch, u.batch) as isize + shift);
        let (mut first, mut dst) = (u.rows.start, a);
        for (count, rows) in strips.0 {
            for _ in 0..count {
                let mut lines = [0; MAX_ROWS];
                let lines = &mut lines[..rows];
                self.sides.lhs_rows.offsets(first, lines);
                let next = self.sides.lhs_rows.stride().map_or(0, |row| row * rows as isize);
                let x = Lines { src, lines, depth: along, k: depth, dst, panel: rows, panel_step: 0, last: rows, next };
                // SAFETY: `Operand::check` has bounded every element of these rows and columns, or `check_rows` has those
                // of each row to its part of what the front has made; the worker's
                // block for the left operand holds `KC` numbers for each row (`Plan::lay_out`).
                unsafe { (self.kernels.pack)(&x) }
                first += rows;
                dst = dst.wrapping_add(rows * depth);
            }
        }
    }

    /// Calls `tiles(columns, panel, vectors)` for the panels of the right operand under the unit's columns:
    /// `depth` rows from `k0` on, each of `vectors` readable vectors that begin with its `columns`.
    fn each_panel(&self, u: &Unit, k0: usize, depth: usize, memory: *mut u8, tiles: &mut Tiles<'_, T::Acc>) {
        let (lanes, width) = (self.kernels.lanes, self.plan.panel);
        let claim = width * self.plan.claim;
        // The panels of some columns that have been packed to `b`, whole panels `step` numbers apart.
        let panels = |cols: Range<usize>, b: *mut T::Acc, k0: usize, step: usize, tiles: &mut Tiles<'_, T::Acc>| {
            for (i, first) in cols.clone().step_by(width).enumerate() {
                let cols = first..(first + width).min(cols.end);
                let vectors = cols.len().div_ceil(lanes);
                let row = vectors * lanes;
                let next = b.wrapping_add((i + 1) * step + k0 * row);
                tiles(cols, (b.wrapping_add(i * step + k0 * row), row, Some(next)), vectors);
            }
        };
        if self.plan.source == Source::Packed {
            // Groups begin with whole panels; nothing is written through this pointer.
            let b = self.packed.as_ptr().wrapping_add(u.cols.start * self.e.k).cast_mut();
            panels(u.cols.clone(), b, k0, width * self.e.k, tiles);
            return;
        }
        if self.plan.source == Source::Shared {
            // Groups consist of whole panels (`Plan::new`), and a claim may reach into the next group.
            let (zero, end) = (u.cols.start - u.block.start, u.cols.end - u.block.start);
            let (first, last) = (zero / claim, end.div_ceil(claim));
            // Each worker begins elsewhere, so that they pack different panels.
            let start = (last - first) * u.worker / self.plan.workers;
            for i in 0..last - first {
                let i = first + (start + i) % (last - first);
                let b = self.shared_panels(u, i, k0, depth);
                let cols = zero.max(i * claim)..end.min((i + 1) * claim);
                let b = b.wrapping_add((cols.start - i * claim) * self.e.k);
                panels(u.block.start + cols.start..u.block.start + cols.end, b, k0, width * self.e.k, tiles);
            }
            return;
        }
        let mut first = u.cols.start;
        if let (Source::Direct, Some(row)) = (self.plan.source, self.sides.rhs_rows.stride()) {
            let wide = (self.kernels.wide)(u.rows.len());
            let at = self.rhs.at(self.e.batch, u.batch) as isize + k0 as isize * row;
            let b = self.rhs.data.as_ptr().wrapping_offset(at).cast::<T::Acc>();
            while u.cols.end - first >= width {
                let vectors = if u.cols.end - first >= wide * lanes { wide } else { self.kernels.vectors };
                let cols = first..first + vectors * lanes;
                first = cols.end;
                tiles(cols.clone(), (b.wrapping_add(cols.start), row as usize, None), vectors);
            }
        }
        let strip = memory.wrapping_add(self.plan.strip).cast::<T::Acc>();
        while first < u.cols.end {
            let cols = first..(first + claim).min(u.cols.end);
            first = cols.end;
            self.pack_panels(u, &cols, (k0, depth), strip, width * depth, 0);
            panels(cols, strip, 0, width * depth, tiles);
        }
    }

    /// See [`Packing::panels`].
    fn pack_panels(
        &self,
        u: &Unit,
        cols: &Range<usize>,
        piece: (usize, usize),
        dst: *mut T::Acc,
        step: usize,
        before: usize,
    ) {
        let Sides { rhs_rows: rows, rhs_cols: cols_side, .. } = &self.sides;
        let src = self.rhs.data.as_ptr().wrapping_offset(self.rhs.at(self.e.batch, u.batch) as isize);
        let packing = Packing { kernels: &self.kernels, src, rows, cols: cols_side, panel: self.plan.panel };
        // SAFETY: `Operand::check` has bounded every element of these rows and columns; `dst` is the worker's strip, or
        // a piece of shared panels that this worker alone has claimed, of `depth` rows of each panel.
        unsafe { packing.panels(cols, piece, dst, step, before) }
    }

    /// The panels of claim `i` of the block, packed by whoever comes first.
    fn shared_panels(&self, u: &Unit, i: usize, k0: usize, depth: usize) -> *mut T::Acc {
        let panel = self.plan.panel;
        let claim = panel * self.plan.claim;
        let cols = u.block.start + i * claim..(u.block.start + (i + 1) * claim).min(u.block.end);
        let start = self.scratch.0.wrapping_add(self.plan.shared_at(u.worker)).cast::<T::Acc>();
        let b = start.wrapping_add(i * claim * self.e.k);
        let flag = self.flag(u.worker, i * self.e.k.div_ceil(KC) + k0 / KC);
        match flag.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                // Whoever waits goes on even if this thread panics.
                let _ready = OnDrop(flag);
                self.pack_panels(u, &cols, (k0, depth), b, panel * self.e.k, k0);
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
        b
    }

    /// A flag of a shared panel.
    fn flag(&self, worker: usize, i: usize) -> &AtomicU8 {
        let at = self.plan.shared_at(worker) + self.plan.flags + i.min(self.plan.flag_count - 1);
        // SAFETY: inside the scratch memory (`Plan::lay_out`), where nothing else touches the flags.
        unsafe { AtomicU8::from_ptr(self.scratch.0.wrapping_add(at)) }
    }
}

/// Adds `n` sums to the result, or puts them there.
///
/// # Safety
/// The sums are readable and the numbers at `c` belong to the caller alone; they do not overlap.
unsafe fn total<A: Number>(c: *mut A, sums: *const A, n: usize, first: bool) {
    // SAFETY: the caller's promise.
    let (c, sums) = unsafe { (std::slice::from_raw_parts_mut(c, n), std::slice::from_raw_parts(sums, n)) };
    if first {
        c.copy_from_slice(sums);
    } else {
        c.iter_mut().zip(sums).for_each(|(c, &sum)| *c = A::add(*c, sum));
    }
}

/// A right operand to be packed into panels.
pub(super) struct Packing<'a, T: Element> {
    pub kernels: &'a Kernels<T, T::Acc>,
    /// The first element of its matrix.
    pub src: *const T,
    pub rows: &'a Side,
    pub cols: &'a Side,
    /// Columns of a panel.
    pub panel: usize,
}

impl<T: Element> Packing<'_, T> {
    /// Packs `depth` rows from `k0` on of some columns, to panels `step` numbers apart, each filled up with zeros to
    /// whole vectors. The rows come behind `before` others in each panel.
    ///
    /// # Safety
    /// The elements are readable; `depth` rows behind `before` others of each panel at `dst` belong to the caller
    /// alone. There are no more columns than [`CLAIM`] panels of any level have.
    pub unsafe fn panels(
        &self,
        cols: &Range<usize>,
        (k0, depth): (usize, usize),
        dst: *mut T::Acc,
        step: usize,
        before: usize,
    ) {
        let mut table = [0; KC];
        let (along, shift) = run_of(self.rows, k0, &mut table[..depth]);
        let src = self.src.wrapping_offset(shift);
        let mut lines = [0; CLAIM * MAX_PANEL];
        let lines = &mut lines[..cols.len()];
        self.cols.offsets(cols.start, lines);
        let (panel, lanes) = (self.panel, self.kernels.lanes);
        let next = self.cols.stride().map_or(0, |col| col * lanes as isize);
        // Whole panels, and the narrower last one, whose rows are shorter.
        let (whole, rest) = lines.split_at(lines.len() / panel * panel);
        let last = rest.len().next_multiple_of(lanes);
        for (lines, width, dst) in [
            (whole, panel, dst.wrapping_add(before * panel)),
            (rest, last, dst.wrapping_add(whole.len() / panel * step + before * last)),
        ] {
            if !lines.is_empty() {
                let x = Lines { src, lines, depth: along, k: depth, dst, panel, panel_step: step, last: width, next };
                // SAFETY: the caller's promise; `lines` are these columns, `depth` these rows.
                unsafe { (self.kernels.pack)(&x) }
            }
        }
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

/// Rows cut into tiles that differ by one row at most: how many of how many rows, the higher ones first.
struct Strips([(usize, usize); 2]);

impl Strips {
    fn new(rows: usize, most: usize) -> Strips {
        let tiles = rows.div_ceil(most);
        let (each, more) = (rows / tiles, rows % tiles);
        Strips([(more, each + 1), (tiles - more, each)])
    }

    fn count(&self) -> usize {
        self.0[0].0 + self.0[1].0
    }
}

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
