//! Map kernels with transposed operands: a block of rows at a time, column block by column block, the
//! operands that run down the rows read in square blocks that are transposed in registers.
//!
//! Without that, each element of such an operand would come from a cache line of its own, which is gone before
//! the next row wants its neighbour. A block is two lines of floats high, since processors fetch lines in pairs, and
//! its columns follow each other along the rows, so that what runs along them is read and written in long pieces.

use super::super::emit::flags;
use super::super::prims::Prim;
use super::super::scratch::Slot;
use super::super::vec;
use super::super::vec::Level;
use super::super::vec::plan::StagePlan;
use super::{BlockEmitter, Loc, Point, StageWork};
use cranelift::codegen::ir::BlockArg;
use cranelift::module::Module;
use cranelift::prelude::*;
use torsh_ir::kernel::{Inst, Kernel, ValueId};
use torsh_ir::{Error, Result};

/// Most rows of a tile, a multiple of every level's lanes.
const ROWS: i64 = 32;
/// Bytes of operands and results up to which lower tiles, which stay in the first-level cache, are better.
const SMALL: usize = 256 << 10;
/// Columns of a tile.
const COLUMNS: i64 = 256;

/// Rows of a tile.
pub(super) fn height(k: &Kernel, level: Level) -> i64 {
    let touched = k.params.iter().map(|p| p.numel.saturating_mul(p.dtype.size())).fold(0, usize::saturating_add);
    if touched > SMALL { ROWS } else { level.lanes() as i64 }
}

impl<'e, M: Module> BlockEmitter<'e, '_, M> {
    /// All rows, block by block.
    pub(super) fn tiled(&mut self, loads: &[ValueId], plan: &'e StagePlan) -> Result<()> {
        let head = self.e.open_loop(self.e.row_lo, self.e.row_hi);
        let next = self.tile_or_row(head.index, loads, plan)?;
        self.e.close_loop(head, next);
        Ok(())
    }

    /// As many rows from `row` on as lie before the end and in one run of the last grid axis, up to the height of a
    /// tile and a multiple of the lanes, or a single row if they are fewer than the lanes. Returns the row to go on
    /// with.
    fn tile_or_row(&mut self, row: Value, loads: &[ValueId], plan: &'e StagePlan) -> Result<Value> {
        let (k, lanes, hi) = (self.k, self.level.lanes() as i64, self.e.row_hi);
        let extent = self.e.int(k.grid[k.grid.len() - 1].max(1) as i64);
        let within = self.e.b.ins().urem(row, extent);
        let to_wrap = self.e.b.ins().isub(extent, within);
        let left = self.e.block_len(row, hi, height(k, self.level));
        let left = self.e.b.ins().umin(left, to_wrap);
        let groups = self.e.b.ins().ushr_imm_u(left, i64::from(lanes.trailing_zeros()));
        let (tile, single) = (self.e.b.create_block(), self.e.b.create_block());
        let join = self.e.b.create_block();
        self.e.b.append_block_param(join, types::I64);
        self.e.b.ins().brif(groups, tile, &[], single, &[]);
        self.e.b.switch_to_block(tile);
        let (start, end) = (self.e.col_lo, self.e.col_hi);
        let columns = self.e.open_loop(start, end);
        let n = self.e.block_len(columns.index, end, COLUMNS);
        self.e.col_lo = columns.index;
        self.e.col_hi = self.e.b.ins().iadd(columns.index, n);
        self.tiled = Some(plan);
        self.tiled_rows(row, groups, loads)?;
        self.tiled = None;
        (self.e.col_lo, self.e.col_hi) = (start, end);
        let next = self.e.add_imm(columns.index, COLUMNS);
        self.e.close_loop(columns, next);
        let rows = self.e.b.ins().ishl_imm_u(groups, i64::from(lanes.trailing_zeros()));
        let next = self.e.b.ins().iadd(row, rows);
        self.e.b.ins().jump(join, &[BlockArg::Value(next)]);
        self.e.b.switch_to_block(single);
        loads.iter().for_each(|v| self.locs[v.0 as usize] = None);
        let one = self.one;
        self.stages(row, one)?;
        let next = self.e.add_imm(row, 1);
        self.e.b.ins().jump(join, &[BlockArg::Value(next)]);
        self.e.b.switch_to_block(join);
        Ok(self.e.b.block_params(join)[0])
    }

    /// The rows from `row` on, which lie in one run of the last grid axis: `groups` times the level's lanes.
    fn tiled_rows(&mut self, row: Value, groups: Value, loads: &[ValueId]) -> Result<()> {
        let (k, lanes) = (self.k, self.level.lanes() as i64);
        let coords = self.e.grid_coords(k, row);
        let work = StageWork::new(k, &k.stages[0], &self.facts.order[0]);
        let at: Vec<Value> = work.accesses.iter().map(|a| self.e.grid_address(a, &coords)).collect();
        self.frame.begin_stage(self.facts, k, 0);
        let (down, along) = (k.grid.len() - 1, k.grid.len());
        let tiles = loads
            .iter()
            .map(|_| self.frame.tile((COLUMNS * height(k, self.level) * 4) as u64))
            .collect::<Result<Vec<Slot>>>()?;
        let (lo, hi) = (self.e.col_lo, self.e.col_hi);
        let n = self.e.b.ins().isub(hi, lo);
        let at = work.advance(self.e, &at, lo, along);
        for (&v, tile) in loads.iter().zip(&tiles) {
            self.fill_tile(&work, &at, v, tile, (groups, n))?;
        }
        let first = self.e.int(0);
        let end = self.e.b.ins().ishl_imm_u(groups, i64::from(lanes.trailing_zeros()));
        let rows = self.e.open_loop(first, end);
        let here = work.advance(self.e, &at, rows.index, down);
        for (&v, tile) in loads.iter().zip(&tiles) {
            let base = self.e.scratch_at(tile.offset);
            let line = self.e.advance(base, rows.index, 4 * COLUMNS);
            self.locs[v.0 as usize] = Some(Loc::Ptr(line));
        }
        let point = Point { at: &here, pos: lo, origin: first, n };
        // Uniform values belong to the row.
        self.insts(&work, &point, true)?;
        self.vectors(&work, &[], &point)?;
        let next = self.e.add_imm(rows.index, 1);
        self.e.close_loop(rows, next);
        self.frame.end_stage();
        Ok(())
    }

    /// Fills a tile with so many groups of rows and columns: whole blocks by transposes, what is left element by element.
    fn fill_tile(
        &mut self,
        work: &StageWork<'_>,
        at: &[Value],
        v: ValueId,
        tile: &Slot,
        (groups, n): (Value, Value),
    ) -> Result<()> {
        let Inst::Load { index, .. } = &self.k.value(v).inst else {
            return Err(Error::internal("a tile of what is not loaded"));
        };
        let stride = index.strides[self.k.grid.len()];
        let lanes = self.level.lanes() as i64;
        let from = work.load_access.get(&v).map(|&a| at[a]).ok_or_else(|| Error::internal("a tile without address"))?;
        let code = vec::transpose(self.level, (4 * COLUMNS) as i32, self.options.listing);
        let offset = self.frame.grow(Some(code.area))?;
        let area = self.e.scratch_at(offset);
        let to = self.e.scratch_at(tile.offset);
        let bytes = self.e.int(stride.wrapping_mul(4));
        for (i, value) in [from, to, bytes, groups].into_iter().enumerate() {
            self.e.b.ins().store(flags(), value, area, 8 * i as i32);
        }
        let shift = i64::from(lanes.trailing_zeros());
        let blocks = self.e.b.ins().ushr_imm_u(n, shift);
        self.e.call_raw(code, area, blocks)?;
        let done = self.e.b.ins().ishl_imm_u(blocks, shift);
        let rest = self.e.b.ins().isub(n, done);
        let zero = self.e.int(0);
        // No rows to do if no column is left.
        let some = self.e.b.ins().icmp(IntCC::NotEqual, rest, zero);
        let all = self.e.b.ins().ishl_imm_u(groups, shift);
        let rows = self.e.b.ins().select(some, all, zero);
        let each = self.e.open_loop(zero, rows);
        let src = self.e.advance(from, done, stride.wrapping_mul(4));
        let src = self.e.advance(src, each.index, 4);
        let dst = self.e.advance(to, done, 4);
        let dst = self.e.advance(dst, each.index, 4 * COLUMNS);
        let step = self.e.int(stride);
        self.e.call(Prim::Load(4), &[dst, src, step, rest])?;
        let next = self.e.add_imm(each.index, 1);
        self.e.close_loop(each, next);
        Ok(())
    }
}
