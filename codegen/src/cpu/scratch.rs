//! Scratch memory of a block kernel: cells (one element each), values kept for a whole row, and slots
//! (vectors of `block` elements) that are reused as soon as their value is dead.

use super::analysis::{Facts, Keep, slot_dtype};
use super::normal::{Normal, VectorAxis};
use super::vec::plan::StagePlan;
use std::collections::HashMap;
use torsh_ir::kernel::{Domain, Inst, Kernel, ValueId};
use torsh_ir::{Error, Result};

/// Slots of one stage should fit in this much of the first-level cache.
const SLOT_BYTES: usize = 24 << 10;
/// Values kept for the rows of a block, in column mode, should fit in this much of the second-level cache.
const KEPT_BYTES: usize = 512 << 10;
/// Fewer elements per call are not worth a call.
const MIN_BLOCK: usize = 16;
/// Bytes of a cell.
const CELL: u64 = 8;
/// Offsets must be encodable in an address.
const MAX_FRAME: u64 = 1 << 40;

/// A vector of `block` elements of some width.
#[derive(Copy, Clone, Debug)]
pub(super) struct Slot {
    pub offset: u64,
    bytes: usize,
}

/// Memory of a value kept for the whole row.
#[derive(Copy, Clone, Debug)]
pub(super) struct Kept {
    pub offset: u64,
    /// Bytes from one position of the row to the next.
    pub step: i64,
}

/// The layout, while code is emitted.
pub(super) struct Frame {
    /// Elements per block.
    pub block: usize,
    /// The stage being emitted.
    pub stage: usize,
    next_cell: u64,
    end_of_cells: u64,
    end: u64,
    free: HashMap<usize, Vec<u64>>,
    kept: HashMap<ValueId, Kept>,
    /// Slots of this stage's values.
    held: HashMap<ValueId, Slot>,
    /// Values whose last use is an instruction, by position in the stage's order.
    dying: Vec<Vec<ValueId>>,
    outlives: Vec<bool>,
}

impl Frame {
    /// Lays out cells and kept values, and chooses the block size.
    pub fn new(normal: &Normal, facts: &Facts, max_block: usize, plans: &[Option<StagePlan>]) -> Result<Frame> {
        let k = &normal.kernel;
        let reduces: usize = k.stages.iter().map(|s| s.reduces.len()).sum();
        let end_of_cells = CELL * (2 * k.values.len() + 8 * reduces + 8) as u64;
        let kept: Vec<ValueId> =
            (0..k.values.len()).filter(|&i| facts.keep[i] == Keep::Scratch).map(|i| ValueId(i as u32)).collect();
        let width = |v: &ValueId| slot_dtype(k.value(*v).dtype).size();
        let peak = |s: usize| match plans.get(s) {
            Some(Some(plan)) => plan.slot_bytes,
            _ => peak_bytes(normal, facts, s),
        };
        let peak = (0..k.stages.len()).map(peak).max().unwrap_or(0).max(1);
        let mut block = max_block.max(MIN_BLOCK);
        while block > 64 && block.saturating_mul(peak) > SLOT_BYTES {
            block /= 2;
        }
        let kept_point: usize = kept.iter().map(width).sum();
        if normal.axis == VectorAxis::Grid {
            let row = kept_point.saturating_mul(k.row_len());
            while block > MIN_BLOCK && row.saturating_mul(block) > KEPT_BYTES {
                block /= 2;
            }
        }
        let mut frame = Frame {
            block,
            stage: 0,
            next_cell: 0,
            end_of_cells,
            end: end_of_cells.next_multiple_of(64),
            free: HashMap::new(),
            kept: HashMap::new(),
            held: HashMap::new(),
            dying: Vec::new(),
            outlives: vec![false; k.values.len()],
        };
        let lanes = if normal.axis == VectorAxis::Grid { block } else { 1 };
        for v in kept {
            let step = lanes * width(&v);
            let bytes = (step as u64).checked_mul(k.row_len() as u64);
            let offset = frame.grow(bytes)?;
            frame.kept.insert(v, Kept { offset, step: step as i64 });
        }
        Ok(frame)
    }

    /// Total size; none if nothing was asked for.
    pub fn bytes(&self) -> usize {
        let untouched = self.next_cell == 0 && self.end == self.end_of_cells.next_multiple_of(64);
        if untouched { 0 } else { self.end as usize }
    }

    /// More memory; its offset is a multiple of 64.
    pub fn grow(&mut self, bytes: Option<u64>) -> Result<u64> {
        let offset = self.end;
        let end = bytes.and_then(|b| b.checked_add(offset + 63)).filter(|&end| end < MAX_FRAME);
        let end =
            end.ok_or_else(|| Error::limit("a kernel keeps more of a row in scratch memory than can be addressed"))?;
        self.end = end / 64 * 64;
        Ok(offset)
    }

    /// A new cell.
    pub fn cell(&mut self) -> u64 {
        // The count in `new` covers every request; were it ever short, the cell would go to the end.
        if self.next_cell + CELL > self.end_of_cells {
            let offset = self.end;
            self.end += 64;
            return offset;
        }
        self.next_cell += CELL;
        self.next_cell - CELL
    }

    /// A slot to be given back with [`Frame::give`].
    pub fn take(&mut self, bytes: usize) -> Result<Slot> {
        if let Some(offset) = self.free.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(Slot { offset, bytes });
        }
        let offset = self.grow(Some((self.block * bytes) as u64))?;
        Ok(Slot { offset, bytes })
    }

    /// Memory of so many bytes that is never reused.
    pub fn tile(&mut self, bytes: u64) -> Result<Slot> {
        let offset = self.grow(Some(bytes))?;
        Ok(Slot { offset, bytes: 4 })
    }

    /// A slot that is never reused.
    pub fn take_persistent(&mut self, bytes: usize) -> Result<Slot> {
        let offset = self.grow(Some((self.block * bytes) as u64))?;
        Ok(Slot { offset, bytes })
    }

    /// The slot of value `v`, until its last use.
    pub fn take_for(&mut self, v: ValueId, bytes: usize) -> Result<Slot> {
        if self.outlives_stage(v) {
            return self.take_persistent(bytes);
        }
        let slot = self.take(bytes)?;
        self.held.insert(v, slot);
        Ok(slot)
    }

    /// Gives a slot back.
    pub fn give(&mut self, slot: Slot) {
        self.free.entry(slot.bytes).or_default().push(slot.offset);
    }

    /// Memory of a kept value.
    pub fn kept(&self, v: ValueId) -> Result<Kept> {
        self.kept.get(&v).copied().ok_or_else(|| Error::compile("a value used in a later stage was not kept"))
    }

    /// True when a slot of `v` must survive the current stage.
    pub fn outlives_stage(&self, v: ValueId) -> bool {
        self.outlives[v.0 as usize]
    }

    /// Works out which values die where in stage `s`.
    pub fn begin_stage(&mut self, facts: &Facts, k: &Kernel, s: usize) {
        self.stage = s;
        self.dying = last_uses(facts, k, s);
        for (i, outlives) in self.outlives.iter_mut().enumerate() {
            *outlives = facts.keep[i] == Keep::No && facts.last_stage[i].is_some_and(|last| last > s);
        }
    }

    /// Frees the slots of values whose last use is instruction `i` of the stage.
    pub fn release_after(&mut self, i: usize) {
        for v in std::mem::take(&mut self.dying[i]) {
            if let Some(slot) = self.held.remove(&v) {
                self.give(slot);
            }
        }
    }

    /// Frees the rest.
    pub fn end_stage(&mut self) {
        let mut rest: Vec<Slot> = self.held.drain().map(|(_, slot)| slot).collect();
        // In a fixed order: the same kernel always gives the same code.
        rest.sort_by_key(|slot| slot.offset);
        rest.into_iter().for_each(|slot| self.give(slot));
    }
}

/// Per instruction of a stage: the values of the stage that it is the last to use (not counting what folds
/// and stores use: those live to the end).
fn last_uses(facts: &Facts, k: &Kernel, s: usize) -> Vec<Vec<ValueId>> {
    let order = &facts.order[s];
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (i, &v) in order.iter().enumerate() {
        last.entry(v).or_insert(i);
        if let Inst::Op(_, args) = &k.value(v).inst {
            args.iter().for_each(|&a| {
                last.insert(facts.canon(a), i);
            });
        }
    }
    for reduce in &k.stages[s].reduces {
        last.remove(&facts.canon(reduce.value));
    }
    for store in &k.stages[s].stores {
        last.remove(&facts.canon(store.value));
    }
    let mut dying = vec![Vec::new(); order.len()];
    for &v in order {
        if let Some(&i) = last.get(&v) {
            dying[i].push(v);
        }
    }
    dying
}

/// Most bytes per element of the vectors alive at once in stage `s`.
fn peak_bytes(normal: &Normal, facts: &Facts, s: usize) -> usize {
    let k = &normal.kernel;
    if k.stages[s].domain == Domain::Row && normal.axis == VectorAxis::Inner {
        return 0;
    }
    let dying = last_uses(facts, k, s);
    let width = |v: ValueId| if facts.is_vector(v) { slot_dtype(k.value(v).dtype).size() } else { 0 };
    let (mut live, mut peak) = (0usize, 0usize);
    for (i, &v) in facts.order[s].iter().enumerate() {
        live += width(v);
        peak = peak.max(live);
        live = live.saturating_sub(dying[i].iter().map(|&d| width(d)).sum());
    }
    let accumulators = if normal.axis == VectorAxis::Grid { 16 * k.stages[s].reduces.len() } else { 0 };
    peak + accumulators
}
