//! Reductions of the block schedule: accumulators in scratch memory, a cell each, or a slot in column mode.

use super::super::analysis::{is_16_bit_float, slot_dtype};
use super::super::normal::VectorAxis;
use super::super::prims::{Prim, accumulator};
use super::{BlockEmitter, Loc, Point};
use cranelift::module::Module;
use cranelift::prelude::*;
use torsh_ir::kernel::{Reduce, Stage};
use torsh_ir::scalar::{ReduceOp, identity};
use torsh_ir::{DType, Result, Scalar};

/// The running state of one reduction.
pub(super) struct Accumulator {
    /// Scratch offset of the accumulated value or vector.
    pub value: u64,
    /// Scratch offset of the index, for arg reductions.
    index: u64,
}

fn is_arg(op: ReduceOp) -> bool {
    matches!(op, ReduceOp::ArgMax | ReduceOp::ArgMin)
}

/// The fold that a reduction runs on bytes and compute dtypes: any and all are max and min of bytes.
fn fold_op(op: ReduceOp) -> ReduceOp {
    match op {
        ReduceOp::Any => ReduceOp::Max,
        ReduceOp::All => ReduceOp::Min,
        other => other,
    }
}

impl<M: Module> BlockEmitter<'_, '_, M> {
    pub(super) fn open_reduces(&mut self, stage: &Stage, rows: Value) -> Result<Vec<Accumulator>> {
        let mut open = Vec::with_capacity(stage.reduces.len());
        for reduce in &stage.reduces {
            let dtype = self.k.value(reduce.value).dtype;
            let acc = accumulator(reduce.op, slot_dtype(dtype));
            let start = match reduce.op {
                ReduceOp::Sum => Scalar::Int(0).to_dtype(acc),
                ReduceOp::Prod => Scalar::Int(1).to_dtype(acc),
                ReduceOp::Any => Scalar::Int(0),
                ReduceOp::All => Scalar::Int(1),
                // An arg reduction starts as the extreme value at index 0.
                ReduceOp::ArgMax => identity(ReduceOp::Max, dtype),
                ReduceOp::ArgMin => identity(ReduceOp::Min, dtype),
                ReduceOp::Max | ReduceOp::Min => identity(reduce.op, dtype),
            };
            let value = self.open_accumulator(start, acc, rows)?;
            let index = if is_arg(reduce.op) { self.open_accumulator(Scalar::Int(0), DType::I64, rows)? } else { 0 };
            open.push(Accumulator { value, index });
        }
        Ok(open)
    }

    fn open_accumulator(&mut self, start: Scalar, dtype: DType, rows: Value) -> Result<u64> {
        let cell = self.frame.cell();
        self.store_scalar(cell, start, dtype);
        if self.axis == VectorAxis::Inner {
            return Ok(cell);
        }
        let slot = self.frame.take_persistent(dtype.size())?;
        let (to, from) = (self.e.scratch_at(slot.offset), self.e.scratch_at(cell));
        self.e.call(Prim::Splat(dtype.size()), &[to, from, rows])?;
        Ok(slot.offset)
    }

    /// Folds the values of one block or point.
    pub(super) fn fold(
        &mut self,
        stage: &Stage,
        accumulators: &[Accumulator],
        point: &Point<'_>,
        which: &[usize],
    ) -> Result<()> {
        for &i in which {
            let (reduce, acc) = (&stage.reduces[i], &accumulators[i]);
            let v = self.facts.canon(reduce.value);
            let dtype = slot_dtype(self.k.value(reduce.value).dtype);
            let mut x = self.operand(point, v)?;
            let mut temp = None;
            if !self.facts.is_vector(v) {
                let t = self.frame.take(dtype.size())?;
                let to = self.e.scratch_at(t.offset);
                self.e.call(Prim::Splat(dtype.size()), &[to, x, point.n])?;
                temp = Some(t);
                x = to;
            }
            let prim = match self.axis {
                VectorAxis::Inner => Prim::Reduce(fold_op(reduce.op), dtype),
                VectorAxis::Grid => Prim::Col(fold_op(reduce.op), dtype),
            };
            let value = self.e.scratch_at(acc.value);
            if is_arg(reduce.op) {
                let index = self.e.scratch_at(acc.index);
                self.e.call(prim, &[value, index, x, point.n, point.pos])?;
            } else {
                self.e.call(prim, &[value, x, point.n])?;
            }
            if let Some(t) = temp {
                self.frame.give(t);
            }
        }
        Ok(())
    }

    /// Turns accumulators into the results: one rounding or wrap to the result's dtype.
    pub(super) fn close_reduces(&mut self, stage: &Stage, accumulators: &[Accumulator], rows: Value) -> Result<()> {
        for (reduce, acc) in stage.reduces.iter().zip(accumulators) {
            let offset = self.close_reduce(reduce, acc, rows)?;
            self.locs[reduce.out.0 as usize] = Some(Loc::Scratch(offset));
        }
        Ok(())
    }

    fn close_reduce(&mut self, reduce: &Reduce, acc: &Accumulator, rows: Value) -> Result<u64> {
        if is_arg(reduce.op) {
            return Ok(acc.index);
        }
        let dtype = self.k.value(reduce.out).dtype;
        let held = accumulator(reduce.op, slot_dtype(self.k.value(reduce.value).dtype));
        let slot = slot_dtype(dtype);
        let rounds = is_16_bit_float(dtype) && matches!(reduce.op, ReduceOp::Sum | ReduceOp::Prod);
        if held == slot && !rounds {
            return Ok(acc.value);
        }
        let n = if self.axis == VectorAxis::Grid { rows } else { self.one };
        let from = self.e.scratch_at(acc.value);
        let to = self.row_place(slot)?;
        let target = if dtype == DType::Bool { DType::Bool } else { slot };
        let place = self.e.scratch_at(to);
        self.e.call(Prim::Cast(held, target), &[place, from, n])?;
        if !rounds {
            return Ok(to);
        }
        let rounded = self.row_place(slot)?;
        let place_rounded = self.e.scratch_at(rounded);
        self.e.call(Prim::Round(dtype), &[place_rounded, place, n])?;
        Ok(rounded)
    }

    /// Scratch memory for a row value: a cell, or a slot of its own in column mode.
    fn row_place(&mut self, dtype: DType) -> Result<u64> {
        match self.axis {
            VectorAxis::Inner => Ok(self.frame.cell()),
            VectorAxis::Grid => Ok(self.frame.take_persistent(dtype.size())?.offset),
        }
    }
}
