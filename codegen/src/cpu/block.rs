//! The block schedule: a kernel as a straight line of calls of block primitives over scratch slots.
//!
//! Vectors run along one axis ([`VectorAxis`]) in blocks of at most `block` elements. A value that varies
//! along it is a *slot* of scratch memory (`block` elements in its compute dtype), or a pointer straight into
//! a contiguous parameter; a value that does not is a *cell*, one element, computed with `n = 1`.
//! * Along the inner axis, rows are worked off one by one: row stages and reductions are cells.
//! * Along the grid ("column mode"), a block of rows is worked off together: row stages and reductions are
//!   slots, and a full stage loops over the points of the row.
//!
//! Invariants: a primitive's result never overlaps its operands. A store is emitted after everything else of
//! its stage, so that an in-place update reads before it writes; a result is computed straight into a
//! parameter only if no load can see that parameter. Results do not depend on how rows (and, in map
//! kernels, columns) are split between calls.

mod cluster;
mod fold;
mod tile;

use super::analysis::{Facts, Keep, is_16_bit_float, is_exact, slot_dtype};
use super::emit::{Access, Emitter, clif_type, flags};
use super::normal::{Normal, VectorAxis};
use super::prims::{Form, Prim};
use super::scratch::{Frame, Slot};
use super::vec::Level;
use super::vec::plan::{self, StagePlan};
use super::{FrameSize, Options};
use cranelift::codegen::cursor::{Cursor, FuncCursor};
use cranelift::module::Module;
use cranelift::prelude::*;
use fold::Accumulator;
use std::collections::HashMap;
use torsh_ir::kernel::{Domain, Inst, Kernel, Stage, ValueId};
use torsh_ir::scalar::{BinOp, CmpOp, ScalarOp, UnOp, to_bits};
use torsh_ir::{DType, Error, Result, Scalar};

/// Where a value is at the moment.
#[derive(Copy, Clone, Debug)]
enum Loc {
    /// At a fixed offset of scratch memory.
    Scratch(u64),
    /// At an address that the current point determines.
    Ptr(Value),
}

/// Everything a stage's instructions need to know about the current point.
struct Point<'p> {
    /// Addresses of the stage's accesses.
    at: &'p [Value],
    /// Row-major position in the row.
    pos: Value,
    /// The same without the step along the vector axis.
    origin: Value,
    /// Elements of a vector.
    n: Value,
}

/// A full or row stage under way.
struct StageWork<'k> {
    stage: &'k Stage,
    order: &'k [ValueId],
    accesses: Vec<Access<'k>>,
    load_access: HashMap<ValueId, usize>,
    first_store: usize,
}

pub(super) struct BlockEmitter<'e, 'f, M: Module> {
    e: &'e mut Emitter<'f, M>,
    k: &'e Kernel,
    axis: VectorAxis,
    facts: &'e Facts,
    frame: Frame,
    locs: Vec<Option<Loc>>,
    /// Cells of constants that somebody reads from memory, to be written on entry.
    constants: Vec<(u64, Scalar, DType)>,
    one: Value,
    splits_columns: bool,
    /// What vector functions do, by stage; empty if there are none.
    plans: &'e [Option<StagePlan>],
    /// The plan of a map kernel's stage while a block of rows is read in tiles.
    tiled: Option<&'e StagePlan>,
    /// Points of the row that a function which sums columns takes at once.
    points: Option<Value>,
    level: Level,
    options: &'e Options,
}

/// Points of the row at once, whose columns are added in registers.
const POINTS: i64 = 8;

/// Emits the body of the kernel function.
pub(super) fn emit<M: Module>(
    e: &mut Emitter<'_, M>,
    normal: &Normal,
    facts: &Facts,
    options: &Options,
    (level, plans): (Level, &[Option<StagePlan>]),
) -> Result<FrameSize> {
    let frame = Frame::new(normal, facts, options.block, plans)?;
    let tiles = if plans.is_empty() { None } else { plan::tiles(normal, facts, level.lanes()) };
    let k = &normal.kernel;
    let one = e.int(1);
    let mut em = BlockEmitter {
        e,
        k,
        axis: normal.axis,
        facts,
        frame,
        locs: vec![None; k.values.len()],
        constants: Vec::new(),
        one,
        splits_columns: k.is_map(),
        plans,
        tiled: None,
        points: None,
        level,
        options,
    };
    if let Some((loads, plan)) = &tiles {
        em.tiled(loads, plan)?;
        em.write_constants();
        return Ok(FrameSize { scratch_bytes: em.frame.bytes(), rows: tile::height(k, level) as usize });
    }
    let (lo, hi) = (em.e.row_lo, em.e.row_hi);
    let head = em.e.open_loop(lo, hi);
    let row = head.index;
    let n = match normal.axis {
        VectorAxis::Inner => one,
        VectorAxis::Grid => {
            // A block ends where the last grid axis wraps round.
            let extent = em.e.int(k.grid[k.grid.len() - 1].max(1) as i64);
            let within = em.e.b.ins().urem(row, extent);
            let to_wrap = em.e.b.ins().isub(extent, within);
            let n = em.e.block_len(row, hi, em.frame.block as i64);
            em.e.b.ins().umin(n, to_wrap)
        }
    };
    em.stages(row, n)?;
    let next = em.e.b.ins().iadd(row, n);
    em.e.close_loop(head, next);
    em.write_constants();
    let rows = if normal.axis == VectorAxis::Grid { em.frame.block } else { 1 };
    Ok(FrameSize { scratch_bytes: em.frame.bytes(), rows })
}

impl<'e, 'f, M: Module> BlockEmitter<'e, 'f, M> {
    /// Writes constants into their cells, before everything else.
    fn write_constants(&mut self) {
        let Some(entry) = self.e.b.func.layout.entry_block() else { return };
        let scratch = self.e.scratch;
        let mut at = FuncCursor::new(self.e.b.func);
        at.goto_first_insertion_point(entry);
        for (offset, value, dtype) in self.constants.drain(..) {
            let imm = immediate(at.ins(), value, dtype);
            let (base, offset) = match i32::try_from(offset) {
                Ok(offset) => (scratch, offset),
                Err(_) => (at.ins().iadd_imm_s(scratch, offset as i64), 0),
            };
            at.ins().store(flags(), imm, base, offset);
        }
    }

    /// Writes a constant of a slot dtype to scratch memory.
    fn store_scalar(&mut self, offset: u64, value: Scalar, dtype: DType) {
        let imm = immediate(self.e.b.ins(), value, dtype);
        // An offset too large for the instruction is added to the address.
        let (base, offset) = match i32::try_from(offset) {
            Ok(offset) => (self.e.scratch, offset),
            Err(_) => (self.e.scratch_at(offset), 0),
        };
        self.e.b.ins().store(flags(), imm, base, offset);
    }

    /// All stages for the rows that begin at `row`, `rows` of them.
    fn stages(&mut self, row: Value, rows: Value) -> Result<()> {
        let coords = self.e.grid_coords(self.k, row);
        let (k, facts) = (self.k, self.facts);
        for (s, stage) in k.stages.iter().enumerate() {
            let work = StageWork::new(k, stage, &facts.order[s]);
            let at: Vec<Value> = work.accesses.iter().map(|a| self.e.grid_address(a, &coords)).collect();
            self.frame.begin_stage(facts, k, s);
            match stage.domain {
                Domain::Row => {
                    let pos = self.e.int(0);
                    let n = if self.axis == VectorAxis::Grid { rows } else { self.one };
                    let point = Point { at: &at, pos, origin: pos, n };
                    self.insts(&work, &point, true)?;
                    self.vectors(&work, &[], &point)?;
                }
                Domain::Full => {
                    let accumulators = self.open_reduces(stage, rows)?;
                    let pos = self.e.int(0);
                    self.inner_loops(&work, &accumulators, 0, at, pos, rows)?;
                    self.close_reduces(stage, &accumulators, rows)?;
                }
            }
            self.frame.end_stage();
        }
        Ok(())
    }

    /// Loops over the inner axes from `level` on, down to single points or blocks.
    fn inner_loops(
        &mut self,
        work: &StageWork<'_>,
        accumulators: &[Accumulator],
        level: usize,
        at: Vec<Value>,
        pos: Value,
        rows: Value,
    ) -> Result<()> {
        let loops = self.k.inner.len() - usize::from(self.axis == VectorAxis::Inner);
        let grid = self.k.grid.len();
        if level + 1 == loops && self.axis == VectorAxis::Grid && self.stage_plan().is_some_and(StagePlan::is_columns) {
            let (lo, hi) = (self.e.int(0), self.e.int(self.k.inner[level] as i64));
            let head = self.e.open_loop(lo, hi);
            let at = work.advance(self.e, &at, head.index, grid + level);
            let points = self.e.block_len(head.index, hi, POINTS);
            self.points = Some(points);
            self.vectors(work, accumulators, &Point { at: &at, pos, origin: pos, n: rows })?;
            self.points = None;
            let next = self.e.add_imm(head.index, POINTS);
            self.e.close_loop(head, next);
            return Ok(());
        }
        if level < loops {
            let points: usize = self.k.inner[level + 1..].iter().product();
            let (lo, hi) = (self.e.int(0), self.e.int(self.k.inner[level] as i64));
            let head = self.e.open_loop(lo, hi);
            let at = work.advance(self.e, &at, head.index, grid + level);
            let pos = self.e.advance(pos, head.index, points as i64);
            self.inner_loops(work, accumulators, level + 1, at, pos, rows)?;
            let next = self.e.add_imm(head.index, 1);
            self.e.close_loop(head, next);
            return Ok(());
        }
        if self.axis == VectorAxis::Grid {
            let point = Point { at: &at, pos, origin: pos, n: rows };
            self.insts(work, &point, true)?;
            return self.vectors(work, accumulators, &point);
        }
        self.insts(work, &Point { at: &at, pos, origin: pos, n: self.one }, true)?;
        let (lo, hi) = if self.splits_columns {
            (self.e.col_lo, self.e.col_hi)
        } else {
            (self.e.int(0), self.e.int(self.k.inner[level] as i64))
        };
        if self.stage_plan().is_some_and(StagePlan::is_unbounded) {
            let n = self.e.b.ins().isub(hi, lo);
            let at = work.advance(self.e, &at, lo, grid + level);
            let here = self.e.b.ins().iadd(pos, lo);
            return self.vectors(work, accumulators, &Point { at: &at, pos: here, origin: pos, n });
        }
        let head = self.e.open_loop(lo, hi);
        let n = self.e.block_len(head.index, hi, self.frame.block as i64);
        let at = work.advance(self.e, &at, head.index, grid + level);
        let here = self.e.b.ins().iadd(pos, head.index);
        let point = Point { at: &at, pos: here, origin: pos, n };
        self.vectors(work, accumulators, &point)?;
        let next = self.e.add_imm(head.index, self.frame.block as i64);
        self.e.close_loop(head, next);
        Ok(())
    }

    /// Computes the values of a stage: those that are one number (`uniform`), or the others.
    fn insts(&mut self, work: &StageWork<'_>, point: &Point<'_>, uniform: bool) -> Result<()> {
        for (i, &v) in work.order.iter().enumerate() {
            if self.facts.is_vector(v) != uniform && !matches!(self.k.value(v).inst, Inst::Const(_)) {
                self.inst(work, point, v)?;
            }
            if !uniform {
                self.frame.release_after(i);
            }
        }
        Ok(())
    }

    fn inst(&mut self, work: &StageWork<'_>, point: &Point<'_>, v: ValueId) -> Result<()> {
        let value = self.k.value(v);
        let n = self.count(point, v);
        let at = work.load_access.get(&v).map(|&a| point.at[a]);
        match (&value.inst, at) {
            (Inst::Load { param, index }, Some(at)) => {
                let stride = if self.facts.is_vector(v) { index.strides[self.axis_index()] } else { 0 };
                self.load(work, point, v, *param, at, stride)
            }
            (Inst::Index(map), Some(at)) => {
                let dst = self.result(work, point, v)?;
                let to = self.address(dst);
                if !self.facts.is_vector(v) {
                    self.e.b.ins().store(flags(), at, to, 0);
                    return Ok(());
                }
                let step = self.e.int(map.strides[self.axis_index()]);
                self.e.call(Prim::Iota, &[to, at, step, n])
            }
            (Inst::Op(op, args), _) => {
                // A renamed operand is read as the dtype that it was renamed to.
                let from = self.k.value(args[0]).dtype;
                let args: Vec<ValueId> = args.iter().map(|&a| self.facts.canon(a)).collect();
                self.op(work, point, v, *op, from, &args)
            }
            (Inst::Const(_) | Inst::Reduced, _) => Ok(()),
            (Inst::Load { .. } | Inst::Index(_), None) => Err(Error::compile("an access without an address")),
        }
    }

    /// Elements of a value at a point.
    fn count(&self, point: &Point<'_>, v: ValueId) -> Value {
        if self.facts.is_vector(v) { point.n } else { self.one }
    }

    fn axis_index(&self) -> usize {
        match self.axis {
            VectorAxis::Inner => self.k.grid.len() + self.k.inner.len() - 1,
            VectorAxis::Grid => self.k.grid.len() - 1,
        }
    }

    fn load(
        &mut self,
        work: &StageWork<'_>,
        point: &Point<'_>,
        v: ValueId,
        param: u32,
        at: Value,
        stride: i64,
    ) -> Result<()> {
        let n = self.count(point, v);
        let dtype = self.k.params[param as usize].dtype;
        let narrow = is_16_bit_float(dtype);
        let bytes = dtype.size();
        if self.facts.is_vector(v) && stride == 1 && !narrow && !self.needs_copy(work.stage, v, param) {
            self.locs[v.0 as usize] = Some(Loc::Ptr(at));
            return Ok(());
        }
        let dst = self.result(work, point, v)?;
        let to = self.address(dst);
        let is_vector = self.facts.is_vector(v);
        if !is_vector && !narrow {
            let x = self.e.b.ins().load(clif_type(dtype), flags(), at, 0);
            self.e.b.ins().store(flags(), x, to, 0);
            return Ok(());
        }
        let step = self.e.int(stride);
        match (narrow, is_vector && stride != 1) {
            (false, false) => self.e.call(Prim::Copy(bytes), &[to, at, n]),
            (false, true) => self.e.call(Prim::Load(bytes), &[to, at, step, n]),
            (true, false) => self.e.call(Prim::Cast(dtype, DType::F32), &[to, at, n]),
            (true, true) => {
                let temp = self.frame.take(bytes)?;
                let t = self.e.scratch_at(temp.offset);
                self.e.call(Prim::Load(bytes), &[t, at, step, n])?;
                self.frame.give(temp);
                self.e.call(Prim::Cast(dtype, DType::F32), &[to, t, n])
            }
        }
    }

    /// True when a loaded value must not stay a pointer into its parameter: a store may come between.
    fn needs_copy(&self, stage: &Stage, v: ValueId, param: u32) -> bool {
        if self.facts.keep[v.0 as usize] == Keep::Scratch {
            return true;
        }
        let overwrites = |stage: &Stage| stage.stores.iter().any(|s| self.facts.may_overlap(s.param, param));
        if self.frame.outlives_stage(v) {
            // A row value in column mode, used later: the pointer would see what is stored until then.
            let last = self.facts.last_stage[v.0 as usize].unwrap_or(self.frame.stage);
            return self.k.stages[self.frame.stage..=last].iter().any(overwrites);
        }
        overwrites(stage) && stage.stores.iter().any(|s| self.facts.canon(s.value) == v)
    }

    /// Chooses where value `v` will be, and notes it.
    fn result(&mut self, work: &StageWork<'_>, point: &Point<'_>, v: ValueId) -> Result<Loc> {
        let i = v.0 as usize;
        let bytes = slot_dtype(self.k.value(v).dtype).size();
        let loc = if self.facts.keep[i] == Keep::Scratch && self.facts.stage[i] == self.frame.stage {
            Loc::Ptr(self.kept(v, point)?)
        } else if !self.facts.is_vector(v) {
            match self.locs[i] {
                Some(loc @ Loc::Scratch(_)) => loc,
                _ => Loc::Scratch(self.frame.cell()),
            }
        } else if let Some(at) = self.straight_into_param(work, point, v) {
            Loc::Ptr(at)
        } else {
            Loc::Scratch(self.frame.take_for(v, bytes)?.offset)
        };
        self.locs[i] = Some(loc);
        Ok(loc)
    }

    /// Address of the current element of a value kept for the whole row.
    fn kept(&mut self, v: ValueId, point: &Point<'_>) -> Result<Value> {
        let pos = if self.facts.is_vector(v) { point.pos } else { point.origin };
        let kept = self.frame.kept(v)?;
        let base = self.e.scratch_at(kept.offset);
        Ok(self.e.advance(base, pos, kept.step))
    }

    /// The address of a store of `v` into which it can be computed directly.
    fn straight_into_param(&self, work: &StageWork<'_>, point: &Point<'_>, v: ValueId) -> Option<Value> {
        let slot = slot_dtype(self.k.value(v).dtype);
        let axis = self.axis_index();
        if self.frame.outlives_stage(v) {
            return None;
        }
        work.stage.stores.iter().enumerate().find_map(|(i, store)| {
            let fits = self.facts.canon(store.value) == v
                && store.index.strides[axis] == 1
                && slot_dtype(self.k.params[store.param as usize].dtype) == slot
                && !is_16_bit_float(self.k.params[store.param as usize].dtype)
                && !self.facts.is_read(self.k, store.param);
            fits.then(|| point.at[work.first_store + i])
        })
    }

    fn address(&mut self, loc: Loc) -> Value {
        match loc {
            Loc::Scratch(offset) => self.e.scratch_at(offset),
            Loc::Ptr(p) => p,
        }
    }

    /// Address of an operand at the current point.
    fn operand(&mut self, point: &Point<'_>, v: ValueId) -> Result<Value> {
        let i = v.0 as usize;
        if self.facts.keep[i] == Keep::Scratch && self.facts.stage[i] != self.frame.stage {
            return self.kept(v, point);
        }
        if let (None, Inst::Const(c)) = (self.locs[i], &self.k.value(v).inst) {
            let cell = self.frame.cell();
            self.constants.push((cell, *c, slot_dtype(self.k.value(v).dtype)));
            self.locs[i] = Some(Loc::Scratch(cell));
        }
        match self.locs[i] {
            Some(loc) => Ok(self.address(loc)),
            None => Err(Error::compile(format!("value %{i} is used before it is computed"))),
        }
    }

    fn op(
        &mut self,
        work: &StageWork<'_>,
        point: &Point<'_>,
        v: ValueId,
        op: ScalarOp,
        from: DType,
        args: &[ValueId],
    ) -> Result<()> {
        let n = self.count(point, v);
        let dtype = self.k.value(v).dtype;
        let slot = slot_dtype(from);
        let addresses = args.iter().map(|&a| self.operand(point, a)).collect::<Result<Vec<Value>>>()?;
        let dst = self.result(work, point, v)?;
        let final_to = self.address(dst);
        let rounds = is_16_bit_float(dtype)
            && !is_exact(op)
            && op != ScalarOp::Bitcast
            && !(self.facts.only_stored[v.0 as usize] && self.facts.keep[v.0 as usize] == Keep::No);
        if op == ScalarOp::Cast && rounds && slot == DType::F32 {
            return self.e.call(Prim::Round(dtype), &[final_to, addresses[0], n]);
        }
        let temp = if rounds { Some(self.frame.take(4)?) } else { None };
        let to = match temp {
            Some(t) => self.e.scratch_at(t.offset),
            None => final_to,
        };
        let vectors: Vec<bool> = args.iter().map(|&a| self.facts.is_vector(a)).collect();
        match op {
            ScalarOp::Un(un) => self.unary(un, from, to, addresses[0], n)?,
            ScalarOp::Bin(bin) => {
                let inline = !self.facts.is_vector(v) && self.scalar_binary(bin, slot, to, &addresses);
                if !inline {
                    self.binary(bin, from, form(&vectors), to, &addresses, n)?;
                }
            }
            ScalarOp::Cmp(cmp) => {
                self.e.call(Prim::Compare(cmp, slot, form(&vectors)), &[to, addresses[0], addresses[1], n])?;
            }
            ScalarOp::Select => self.select(v, &vectors, to, &addresses, n)?,
            ScalarOp::Cast => self.cast(from, dtype, to, addresses[0], n)?,
            ScalarOp::Bitcast => self.bitcast(from, dtype, to, addresses[0], n)?,
        }
        if let Some(temp) = temp {
            self.frame.give(temp);
            self.e.call(Prim::Round(dtype), &[final_to, to, n])?;
        }
        Ok(())
    }

    fn unary(&mut self, op: UnOp, dtype: DType, to: Value, x: Value, n: Value) -> Result<()> {
        if dtype == DType::Bool && op == UnOp::Not {
            let zero = self.frame.cell();
            self.store_scalar(zero, Scalar::Int(0), DType::U8);
            let zero = self.e.scratch_at(zero);
            return self.e.call(Prim::Compare(CmpOp::Eq, DType::U8, Form::Vs), &[to, x, zero, n]);
        }
        self.e.call(Prim::Unary(op, slot_dtype(dtype)), &[to, x, n])
    }

    fn binary(&mut self, op: BinOp, dtype: DType, form: Form, to: Value, args: &[Value], n: Value) -> Result<()> {
        if dtype != DType::Bool {
            return self.e.call(Prim::Binary(op, slot_dtype(dtype), form), &[to, args[0], args[1], n]);
        }
        let closed = match op {
            BinOp::Add | BinOp::Or | BinOp::Max => Some(BinOp::Or),
            BinOp::Mul | BinOp::And | BinOp::Min | BinOp::FloorDiv => Some(BinOp::And),
            BinOp::Sub | BinOp::Xor => Some(BinOp::Xor),
            _ => None,
        };
        if let Some(op) = closed {
            return self.e.call(Prim::Binary(op, DType::U8, form), &[to, args[0], args[1], n]);
        }
        // The others leave 0 and 1: back to a bool.
        let temp = self.frame.take(1)?;
        let t = self.e.scratch_at(temp.offset);
        self.e.call(Prim::Binary(op, DType::U8, form), &[t, args[0], args[1], n])?;
        self.frame.give(temp);
        self.e.call(Prim::Cast(DType::U8, DType::Bool), &[to, t, n])
    }

    /// The commonest operations of row scalars, without a call. True when done.
    fn scalar_binary(&mut self, op: BinOp, dtype: DType, to: Value, args: &[Value]) -> bool {
        if !matches!(dtype, DType::F32 | DType::F64) {
            return false;
        }
        if !matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div) {
            return false;
        }
        let ty = clif_type(dtype);
        let a = self.e.b.ins().load(ty, flags(), args[0], 0);
        let b = self.e.b.ins().load(ty, flags(), args[1], 0);
        let r = match op {
            BinOp::Add => self.e.b.ins().fadd(a, b),
            BinOp::Sub => self.e.b.ins().fsub(a, b),
            BinOp::Mul => self.e.b.ins().fmul(a, b),
            _ => self.e.b.ins().fdiv(a, b),
        };
        self.e.b.ins().store(flags(), r, to, 0);
        true
    }

    fn select(&mut self, v: ValueId, vectors: &[bool], to: Value, args: &[Value], n: Value) -> Result<()> {
        let bytes = slot_dtype(self.k.value(v).dtype).size();
        if !self.facts.is_vector(v) {
            return self.e.call(Prim::Select(bytes, true, true), &[to, args[0], args[1], args[2], n]);
        }
        let mut cond = args[0];
        let mut temp = None;
        if !vectors[0] {
            let t = self.frame.take(1)?;
            cond = self.e.scratch_at(t.offset);
            self.e.call(Prim::Splat(1), &[cond, args[0], n])?;
            temp = Some(t);
        }
        self.e.call(Prim::Select(bytes, vectors[1], vectors[2]), &[to, cond, args[1], args[2], n])?;
        if let Some(t) = temp {
            self.frame.give(t);
        }
        Ok(())
    }

    /// Conversion; the caller rounds a 16-bit result.
    fn cast(&mut self, from: DType, dtype: DType, to: Value, x: Value, n: Value) -> Result<()> {
        let (source, target) = (slot_dtype(from), slot_dtype(dtype));
        if dtype == DType::Bool {
            return self.e.call(Prim::Cast(source, DType::Bool), &[to, x, n]);
        }
        if source != target {
            return self.e.call(Prim::Cast(source, target), &[to, x, n]);
        }
        // f32 to a 16-bit float that is only stored: the store rounds.
        self.e.call(Prim::Copy(target.size()), &[to, x, n])
    }

    /// Reinterpretation to or from a 16-bit float, or to bool; all others are renamings.
    fn bitcast(&mut self, from: DType, dtype: DType, to: Value, x: Value, n: Value) -> Result<()> {
        if dtype == DType::Bool {
            return self.e.call(Prim::Cast(DType::U8, DType::Bool), &[to, x, n]);
        }
        match (is_16_bit_float(from), is_16_bit_float(dtype)) {
            (true, false) => self.e.call(Prim::Cast(DType::F32, from), &[to, x, n]),
            (false, _) => self.e.call(Prim::Cast(dtype, DType::F32), &[to, x, n]),
            (true, true) => {
                let temp = self.frame.take(2)?;
                let t = self.e.scratch_at(temp.offset);
                self.e.call(Prim::Cast(DType::F32, from), &[t, x, n])?;
                self.frame.give(temp);
                self.e.call(Prim::Cast(dtype, DType::F32), &[to, t, n])
            }
        }
    }

    fn stores(&mut self, work: &StageWork<'_>, point: &Point<'_>, which: &[usize]) -> Result<()> {
        for &i in which {
            let store = &work.stage.stores[i];
            let v = self.facts.canon(store.value);
            let at = point.at[work.first_store + i];
            let x = self.operand(point, v)?;
            if x == at {
                continue;
            }
            let dtype = self.k.params[store.param as usize].dtype;
            let vector = self.facts.is_vector(v);
            let full = work.stage.domain == Domain::Full || self.axis == VectorAxis::Grid;
            let stride = if full { store.index.strides[self.axis_index()] } else { 0 };
            self.store(dtype, at, stride, x, vector, point.n)?;
        }
        Ok(())
    }

    /// Stores `n` elements (one when neither the value nor the place varies).
    fn store(&mut self, dtype: DType, at: Value, stride: i64, x: Value, vector: bool, n: Value) -> Result<()> {
        let bytes = dtype.size();
        let narrow = is_16_bit_float(dtype);
        if !vector && stride == 0 {
            if narrow {
                return self.e.call(Prim::Cast(DType::F32, dtype), &[at, x, self.one]);
            }
            let loaded = self.e.b.ins().load(clif_type(dtype), flags(), x, 0);
            self.e.b.ins().store(flags(), loaded, at, 0);
            return Ok(());
        }
        let contiguous = stride == 1 || stride == 0;
        let mut temps: [Option<Slot>; 2] = [None, None];
        let mut x = x;
        if narrow {
            if vector && contiguous {
                return self.e.call(Prim::Cast(DType::F32, dtype), &[at, x, n]);
            }
            let t = self.frame.take(bytes)?;
            let to = self.e.scratch_at(t.offset);
            let count = if vector { n } else { self.one };
            self.e.call(Prim::Cast(DType::F32, dtype), &[to, x, count])?;
            temps[0] = Some(t);
            x = to;
        }
        if !vector {
            let t = if contiguous { None } else { Some(self.frame.take(bytes)?) };
            let to = t.map_or(at, |t| self.e.scratch_at(t.offset));
            self.e.call(Prim::Splat(bytes), &[to, x, n])?;
            temps[1] = t;
            x = to;
        }
        if contiguous {
            if vector {
                self.e.call(Prim::Copy(bytes), &[at, x, n])?;
            }
        } else {
            let step = self.e.int(stride);
            self.e.call(Prim::Store(bytes), &[at, step, x, n])?;
        }
        temps.into_iter().flatten().for_each(|t| self.frame.give(t));
        Ok(())
    }
}

impl<'k> StageWork<'k> {
    fn new(k: &'k Kernel, stage: &'k Stage, order: &'k [ValueId]) -> StageWork<'k> {
        let mut accesses = Vec::new();
        let mut load_access = HashMap::new();
        for &v in order {
            let (param, map) = match &k.value(v).inst {
                Inst::Load { param, index } => (Some(*param as usize), index),
                Inst::Index(map) => (None, map),
                Inst::Const(_) | Inst::Op(..) | Inst::Reduced => continue,
            };
            load_access.insert(v, accesses.len());
            accesses.push(Access { param, map, scale: param.map_or(1, |p| k.params[p].dtype.size() as i64) });
        }
        let first_store = accesses.len();
        for store in &stage.stores {
            let p = store.param as usize;
            accesses.push(Access { param: Some(p), map: &store.index, scale: k.params[p].dtype.size() as i64 });
        }
        StageWork { stage, order, accesses, load_access, first_store }
    }

    /// The addresses after a step to `coord` along `axis`.
    fn advance<M: Module>(&self, e: &mut Emitter<'_, M>, at: &[Value], coord: Value, axis: usize) -> Vec<Value> {
        let steps = self.accesses.iter().map(|a| a.map.strides[axis].wrapping_mul(a.scale));
        at.iter().zip(steps).map(|(&at, step)| e.advance(at, coord, step)).collect()
    }
}

/// A constant of a slot dtype, as its bits: of floats they take no register of vectors.
fn immediate<'f>(ins: impl InstBuilder<'f>, value: Scalar, dtype: DType) -> Value {
    let bits = to_bits(value, dtype);
    let ty = match dtype {
        DType::F32 => types::I32,
        DType::F64 => types::I64,
        other => clif_type(other),
    };
    // An immediate is the zero extension of the type's bits.
    ins.iconst(ty, bits as i64)
}

fn form(vectors: &[bool]) -> Form {
    match (vectors[0], vectors[1]) {
        (true, false) => Form::Vs,
        (false, true) => Form::Sv,
        // Two single elements are vectors of one.
        (true, true) | (false, false) => Form::Vv,
    }
}
