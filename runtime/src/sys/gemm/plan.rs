//! How a product is cut into work for threads and caches. Arithmetic only.
//!
//! Sums are cut at multiples of [`KC`] and each piece is summed from zero in order, then added to the result:
//! so an element depends on its row and column alone, never on the extents, the cut or the threads.
//!
//! A *unit* is what a thread takes: a panel of rows over all columns, or, where rows are few, all rows over a
//! group of columns, or, where sums are long and their matrix is small, some pieces of all sums, which are kept
//! apart and added in their order when all are there. The right operand is packed into panels of some vectors: once, by whoever needs a panel
//! first, if several row panels share them; strip by strip if there is but one row panel; and not at all if
//! its rows lie in memory as they are wanted and each is used by one tile only, if there is but one row, or if
//! the caller has the panels from an earlier product ([`super::prepack`]).

use super::Extents;
use crate::sys::mem::ALIGN;

/// Length of the pieces of sums: a panel of the right operand of so many rows stays in the first-level cache.
pub const KC: usize = 256;
/// Work below this is not worth waking threads for; above, each thread gets at least so much.
const SERIAL_NS: f64 = 20_000.0;
const THREAD_NS: f64 = 10_000.0;
/// Bytes of the right operand that are packed at once.
const PACKED_BYTES: usize = 16 << 20;
/// Columns at a time of 16-bit floats, whose sums need memory of their own.
const SUM_COLS: usize = 1024;
/// Most panels that are packed at a time.
pub const CLAIM: usize = 8;
/// Most rows of a panel: so many that its packed block of the left operand takes half of the second-level cache at
/// most. So few rows are one panel in any case: what shares nothing packs no more than it uses at the time.
const PANEL_ROWS: usize = 384;
/// Where there are several panels, their rows of the result take so many bytes at most, half of the second-level
/// cache: sums of the next piece are added there, and a caller goes on with whole rows there.
const RESULT_BYTES: usize = 1 << 20;
/// A right operand of so many bytes is not worth packing if its rows can be read where they are.
const SMALL_BYTES: usize = 64 << 10;
/// A left operand of so many bytes stays in the second-level cache while groups of columns go by.
const WHOLE_BYTES: usize = 1 << 20;
/// Columns of a row times a matrix at a time, whose sums stay in the first-level cache.
pub const ALONG_COLS: usize = 2048;
/// Fewer are not worth a group: they would be read as many short runs.
const LEAST_ALONG: usize = 512;
/// Pieces of their sums that are kept apart.
pub const PIECES: usize = 8;
/// Bytes of the rows of the left operand that a front makes at a time: with what they are packed to, they stay in
/// the second-level cache.
pub const FRONT_BYTES: usize = 512 << 10;
/// Pieces of sums that threads share take so many bytes at most.
const APART_BYTES: usize = 2 << 20;
/// Fewer rows than these would read the right operand too often.
const LEAST_ROWS: usize = 60;

/// What the plan needs to know of the kernels.
#[derive(Copy, Clone)]
pub struct Shape {
    /// Most rows of a tile.
    pub rows: usize,
    /// Lanes of a vector.
    pub lanes: usize,
    /// Columns of a packed panel.
    pub panel: usize,
    /// Columns of a strip for so few rows that a panel would leave the adders waiting for each other.
    pub wide: usize,
    /// Bytes of a number of the sums.
    pub size: usize,
    /// Sums are rounded to a narrower type at the end.
    pub rounds: bool,
}

/// How the right operand lies.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Right {
    /// Packed by [`super::prepack`].
    Packed,
    /// The elements of a row side by side, and the rows in one stride.
    Rows,
    /// The elements of a column side by side.
    Columns,
    /// In some other way.
    Other,
}

impl Right {
    /// Every way.
    pub const ALL: [Right; 4] = [Right::Packed, Right::Rows, Right::Columns, Right::Other];
}

/// Where tiles find the right operand.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// In its own memory, along its rows, for a row.
    Along,
    /// In its own memory, down its columns, for a row.
    Down,
    /// In its own memory, for tiles.
    Direct,
    /// In panels that were packed before.
    Packed,
    /// In a strip that each unit packs for itself.
    Strip,
    /// In panels that all units share.
    Shared,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Threads.
    pub workers: usize,
    /// Each thread computes whole matrices; else all of them work on one at a time.
    pub by_matrix: bool,
    /// Row panels of a matrix.
    pub panels: usize,
    /// Column groups of a matrix.
    pub groups: usize,
    /// Columns of a group, the last one's excepted.
    pub group_cols: usize,
    /// Columns for which the right operand is packed at a time.
    pub block_cols: usize,
    /// See [`Source`].
    pub source: Source,
    /// Columns of a packed panel.
    pub panel: usize,
    /// Ranges of pieces that units take, or one: then a unit has all of them.
    pub ranges: usize,
    /// Panels that are packed at a time, so that rows are read along the memory.
    pub claim: usize,
    /// Bytes of panels that units share, and of flags for them; or of the pieces of sums.
    pub shared_bytes: usize,
    /// Offset of the flags in them.
    pub flags: usize,
    /// Flags.
    pub flag_count: usize,
    /// A worker packs all columns of the left operand, once for all the groups that it takes.
    pub whole: bool,
    /// Bytes of a worker.
    pub worker_bytes: usize,
    /// Offsets in them: of the strip and of the sums. The packed left operand comes first.
    pub strip: usize,
    /// See `strip`.
    pub sums: usize,
    /// Offset of the rows that a front makes.
    pub front: usize,
}

impl Plan {
    /// A plan for non-empty matrices. With a `front`, the rows of the left operand are made by the caller, panel by
    /// panel and each row once: so there is one unit to a panel.
    pub fn new(e: &Extents<'_>, s: Shape, right: Right, threads: usize, front: bool) -> Plan {
        let batches = e.batch.iter().fold(1usize, |n, &b| n.saturating_mul(b));
        let one = nanoseconds(e, s);
        let all = one * batches as f64;
        let workers = if all < SERIAL_NS { 1 } else { threads.min((all / THREAD_NS) as usize).max(1) };
        let by_matrix = workers == 1 || batches >= 4 * workers || (batches > 1 && one < 2.0 * SERIAL_NS);
        let workers = if by_matrix { workers.min(batches) } else { workers };
        let within = if by_matrix { 1 } else { workers };
        let source = match right {
            Right::Packed => Some(Source::Packed),
            Right::Rows if e.m == 1 && e.n >= s.lanes => Some(Source::Along),
            Right::Columns if e.m == 1 => Some(Source::Down),
            Right::Rows if !s.rounds && e.n >= s.lanes && (e.m <= s.rows || is_small(e, s)) => Some(Source::Direct),
            Right::Rows | Right::Columns | Right::Other => None,
        };
        let ranges = if front { 1 } else { ranges(e, s, source, within) };
        let (panels, groups) = match front {
            true => (front_panels(e, s, within), 1),
            false if ranges > 1 => (1, 1),
            false => cut(e, s, source, within),
        };
        let source = source.unwrap_or(if panels == 1 { Source::Strip } else { Source::Shared });
        let panel = if source == Source::Strip { s.wide } else { s.panel };
        let step = if matches!(source, Source::Along | Source::Down | Source::Direct) { 8 * s.lanes } else { panel };
        let group_cols = e.n.div_ceil(groups).next_multiple_of(step).min(e.n);
        let mut block_cols = e.n;
        if source == Source::Shared && !front {
            let room = PACKED_BYTES / s.size / e.k.max(1);
            block_cols = block_cols.min((room / s.panel).max(4) * s.panel);
        }
        if s.rounds && !front {
            block_cols = block_cols.min(SUM_COLS);
        }
        let mut plan = Plan {
            workers,
            by_matrix,
            panels,
            groups: e.n.div_ceil(group_cols),
            group_cols,
            block_cols,
            source,
            panel,
            ranges,
            claim: (block_cols.div_ceil(panel) / (2 * within)).clamp(1, CLAIM * s.panel / panel),
            shared_bytes: 0,
            flags: 0,
            flag_count: 0,
            whole: false,
            worker_bytes: 0,
            strip: 0,
            sums: 0,
            front: 0,
        };
        plan.lay_out(e, s, front);
        plan
    }

    fn lay_out(&mut self, e: &Extents<'_>, s: Shape, front: bool) {
        let bytes =
            |numbers: usize| numbers.saturating_mul(s.size).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        if self.source == Source::Shared {
            self.flags = bytes(e.k.saturating_mul(self.block_cols.next_multiple_of(s.lanes)));
            let claims = self.block_cols.div_ceil(s.panel).div_ceil(self.claim);
            self.flag_count = claims.saturating_mul(e.k.div_ceil(KC));
            self.shared_bytes = self.flags.saturating_add(self.flag_count.next_multiple_of(ALIGN));
        }
        if self.ranges > 1 {
            self.shared_bytes = bytes(e.k.div_ceil(KC).saturating_mul(e.m).saturating_mul(e.n));
        }
        let rows = e.m.div_ceil(self.panels);
        let depth = KC.min(e.k);
        self.whole = match self.source {
            Source::Along | Source::Down => true,
            _ => self.groups > 1 && rows.saturating_mul(e.k).saturating_mul(s.size) <= WHOLE_BYTES,
        };
        self.strip = bytes(rows.saturating_mul(if self.whole { e.k } else { depth }));
        let strip = match self.source {
            Source::Along => bytes(PIECES * ALONG_COLS.min(self.group_cols)),
            Source::Down | Source::Packed | Source::Shared => 0,
            Source::Direct | Source::Strip => bytes(depth * self.panel * self.claim),
        };
        self.sums = self.strip.saturating_add(strip);
        let sums = if s.rounds { rows * self.group_cols.min(self.block_cols) } else { 0 };
        self.front = self.sums.saturating_add(bytes(sums));
        // Numbers of the sums are no smaller than elements.
        self.worker_bytes = self.front.saturating_add(if front { bytes(rows.saturating_mul(e.k)) } else { 0 });
    }

    /// Bytes of scratch memory, of any alignment. Saturates where there cannot be so much memory.
    pub fn bytes(&self) -> usize {
        let each = if self.by_matrix { self.shared_bytes.saturating_add(self.worker_bytes) } else { self.worker_bytes };
        let once = if self.by_matrix { 0 } else { self.shared_bytes };
        each.saturating_mul(self.workers).saturating_add(once).saturating_add(ALIGN)
    }

    /// Offset of the panels that worker `w` uses.
    pub fn shared_at(&self, w: usize) -> usize {
        if self.by_matrix { w * (self.shared_bytes + self.worker_bytes) } else { 0 }
    }

    /// Offset of what worker `w` has to itself.
    pub fn worker_at(&self, w: usize) -> usize {
        if self.by_matrix { self.shared_at(w) + self.shared_bytes } else { self.shared_bytes + w * self.worker_bytes }
    }
}

/// Whether the right operand stays in the first-level cache as it is.
fn is_small(e: &Extents<'_>, s: Shape) -> bool {
    e.k.saturating_mul(e.n).saturating_mul(s.size) <= SMALL_BYTES
}

/// An estimate for one matrix: by the arithmetic, or by the memory that the right operand comes from.
fn nanoseconds(e: &Extents<'_>, s: Shape) -> f64 {
    let (m, n, k) = (e.m as f64, e.n as f64, e.k as f64);
    let arithmetic = m * n * k / (4 * s.lanes) as f64;
    let memory = (n * k + m * k + m * n) * s.size as f64 / 16.0;
    arithmetic.max(memory)
}

/// Rows of a panel where there are several: whole tiles.
fn panel_rows(e: &Extents<'_>, s: Shape) -> usize {
    let cols = if s.rounds { e.n.min(SUM_COLS) } else { e.n };
    let rows = RESULT_BYTES / s.size / cols.max(1);
    (rows / s.rows * s.rows).clamp(LEAST_ROWS.next_multiple_of(s.rows), PANEL_ROWS / s.rows * s.rows)
}

/// Rows of a panel that a front makes.
fn front_rows(e: &Extents<'_>, s: Shape) -> usize {
    (FRONT_BYTES / s.size / e.k.max(1)).clamp(1, panel_rows(e, s))
}

/// Row panels behind a front for `within` threads.
fn front_panels(e: &Extents<'_>, s: Shape, within: usize) -> usize {
    let panels = e.m.div_ceil(front_rows(e, s));
    if within == 1 { panels } else { panels.max(4 * within).next_multiple_of(within).min(e.m) }
}

/// Ranges of pieces for `within` threads: more than one where rows are too few to share and sums are long, so that each
/// thread packs its own part of both operands.
fn ranges(e: &Extents<'_>, s: Shape, source: Option<Source>, within: usize) -> usize {
    let pieces = e.k.div_ceil(KC);
    let packs = matches!(source, None | Some(Source::Direct)) && !s.rounds;
    let apart = pieces.saturating_mul(e.m).saturating_mul(e.n).saturating_mul(s.size);
    if within > 1 && packs && e.m < 4 * s.rows * within && pieces >= 4 * within && apart <= APART_BYTES {
        4 * within
    } else {
        1
    }
}

/// Row panels and column groups for `within` threads.
fn cut(e: &Extents<'_>, s: Shape, source: Option<Source>, within: usize) -> (usize, usize) {
    let panels = if e.m > PANEL_ROWS { e.m.div_ceil(panel_rows(e, s)) } else { 1 };
    if within == 1 {
        return (panels, 1);
    }
    if source == Some(Source::Along) {
        return (1, (e.n / LEAST_ALONG).clamp(1, 4 * within));
    }
    let low = 4 * s.rows;
    if e.m > s.rows && e.m >= low * within {
        // Panels enough to even out what other processes take from a thread, alike for all threads.
        let wanted = panels.max((4 * within).min(e.m / low)).next_multiple_of(within);
        return (wanted.min(e.m), 1);
    }
    let columns = e.n.div_ceil(s.panel);
    if columns >= 2 * within || e.m < within { (panels, columns.min(4 * within)) } else { (panels.max(within), 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rows: 12, lanes: 16, panel: 32, wide: 32, size: 4, rounds: false };

    fn plan(m: usize, n: usize, k: usize, threads: usize) -> Plan {
        Plan::new(&Extents { batch: &[], m, n, k }, SHAPE, Right::Other, threads, false)
    }

    #[test]
    fn rows_of_a_panel_stay_in_the_cache() {
        for threads in [1, 2, 3] {
            for (m, n) in [(1024usize, 1024), (512, 2048), (2048, 2048), (4096, 4000), (512, 4096)] {
                let rows = m.div_ceil(plan(m, n, 1024, threads).panels);
                assert!(rows * n * SHAPE.size <= RESULT_BYTES, "{m} x {n}: {rows} rows");
            }
        }
    }

    #[test]
    fn panels_are_neither_too_low_nor_too_high() {
        for (m, n, least, most) in
            [(4096usize, 1 << 20, 50, 60), (4096, 16, 340, PANEL_ROWS), (385, 16, 150, PANEL_ROWS)]
        {
            let rows = m.div_ceil(plan(m, n, 512, 1).panels);
            assert!((least..=most).contains(&rows), "{m} x {n}: {rows} rows");
        }
    }

    #[test]
    fn the_right_operand_is_read_where_it_lies_if_that_is_faster() {
        let source = |m, n, k, right| Plan::new(&Extents { batch: &[], m, n, k }, SHAPE, right, 1, false).source;
        assert_eq!(source(1, 1024, 1024, Right::Rows), Source::Along);
        assert_eq!(source(1, 1024, 1024, Right::Columns), Source::Down);
        assert_eq!(source(8, 1024, 1024, Right::Rows), Source::Direct);
        assert_eq!(source(8, 1024, 1024, Right::Columns), Source::Strip);
        assert_eq!(source(200, 128, 128, Right::Rows), Source::Direct);
        assert_eq!(source(200, 1024, 1024, Right::Rows), Source::Strip);
        assert_eq!(source(200, 1024, 1024, Right::Packed), Source::Packed);
    }

    #[test]
    fn what_a_front_makes_stays_in_the_cache_and_is_made_once() {
        for (m, n, k) in [(10_000, 16, 1024), (10_000, 256, 256), (70, 2000, 5000), (3, 7, 200_000), (8192, 4096, 64)] {
            for (threads, rounds) in [(1, false), (3, false), (2, true)] {
                let plan =
                    Plan::new(&Extents { batch: &[], m, n, k }, Shape { rounds, ..SHAPE }, Right::Other, threads, true);
                let rows = m.div_ceil(plan.panels);
                assert!(rows == 1 || rows * k * SHAPE.size <= FRONT_BYTES, "{m} x {n} x {k}: {rows} rows");
                assert_eq!((plan.groups, plan.block_cols, plan.whole), (1, n, false));
                assert!(plan.front + rows * k * SHAPE.size <= plan.worker_bytes);
            }
        }
    }

    #[test]
    fn threads_share_long_sums_of_small_matrices() {
        let ranges = |m, n, k, threads| plan(m, n, k, threads).ranges;
        assert_eq!(ranges(32, 144, 12544, 2), 8);
        assert_eq!(ranges(32, 144, 12544, 1), 1);
        assert_eq!(ranges(32, 144, 7 * KC, 2), 1);
        assert_eq!(ranges(200, 144, 12544, 2), 1);
        assert_eq!(ranges(32, 2000, 12544, 2), 1);
        let long = |m, shape, right, front| {
            Plan::new(&Extents { batch: &[], m, n: 144, k: 12544 }, shape, right, 2, front).ranges
        };
        assert_eq!(long(32, SHAPE, Right::Rows, false), 8);
        assert_eq!(long(32, SHAPE, Right::Packed, false), 1);
        assert_eq!(long(32, SHAPE, Right::Rows, true), 1);
        assert_eq!(long(32, Shape { rounds: true, ..SHAPE }, Right::Rows, false), 1);
        assert_eq!(long(1, SHAPE, Right::Rows, false), 1);
        assert_eq!(long(1, SHAPE, Right::Columns, false), 1);
        let plan = plan(32, 144, 12544, 2);
        assert_eq!((plan.panels, plan.groups, plan.source), (1, 1, Source::Strip));
        assert!(plan.shared_bytes >= 49 * 32 * 144 * 4 && plan.bytes() >= plan.shared_bytes + 2 * plan.worker_bytes);
    }

    #[test]
    fn few_rows_share_nothing_on_one_thread() {
        let plan = plan(256, 4096, 1024, 1);
        assert_eq!((plan.panels, plan.source), (1, Source::Strip));
    }
}
