//! Meaning of kernels: see the module docs of [`crate::kernel`]. Rows run in row-major order; within a row
//! an instruction runs for all inner points before the next one does.

use super::fold::Fold;
use super::memory::Memory;
use super::scalar_op;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Affine, Domain, Inst, Kernel, Stage, ValueId};
use crate::program::BufId;
use crate::scalar::{from_bits, to_bits};
use smallvec::SmallVec;

/// Runs a kernel on buffers, one per parameter.
pub(super) fn run(kernel: &Kernel, args: &[BufId], memory: &mut Memory) -> Result<()> {
    if args.len() != kernel.params.len() {
        return Err(Error::internal(format!(
            "{} takes {} buffers, got {}",
            kernel.name,
            kernel.params.len(),
            args.len()
        )));
    }
    for (i, (param, &buf)) in kernel.params.iter().zip(args).enumerate() {
        let ty = memory.ty(buf)?;
        if ty.dtype != param.dtype || ty.numel() != param.numel {
            return Err(Error::internal(format!("parameter {i} of {} does not fit b{} ({ty})", kernel.name, buf.0)));
        }
    }
    let mut row = Row { kernel, args, lanes: vec![Vec::new(); kernel.values.len()], point: vec![0; kernel.grid.len()] };
    for _ in 0..kernel.rows() {
        for stage in &kernel.stages {
            row.stage(stage, memory)?;
        }
        advance(&mut row.point, &kernel.grid);
    }
    Ok(())
}

/// Steps a row-major counter.
fn advance(point: &mut [i64], extents: &[usize]) {
    for (p, &n) in point.iter_mut().zip(extents).rev() {
        *p += 1;
        if *p < n as i64 {
            return;
        }
        *p = 0;
    }
}

/// One grid point: bits per value, one entry for a row scalar, one per inner point otherwise.
struct Row<'a> {
    kernel: &'a Kernel,
    args: &'a [BufId],
    lanes: Vec<Vec<u64>>,
    point: Vec<i64>,
}

impl Row<'_> {
    fn stage(&mut self, stage: &Stage, memory: &mut Memory) -> Result<()> {
        let lanes = match stage.domain {
            Domain::Row => 1,
            Domain::Full => self.kernel.row_len(),
        };
        for &id in &stage.insts {
            let bits = self.inst(id, stage.domain, lanes, memory)?;
            self.lanes[id.0 as usize] = bits;
        }
        for reduce in &stage.reduces {
            let dtype = self.kernel.value(reduce.value).dtype;
            let mut fold = Fold::new(reduce.op, dtype);
            for i in 0..lanes {
                fold.push(from_bits(self.lane(reduce.value, i)?, dtype));
            }
            let out = self.kernel.value(reduce.out).dtype;
            self.lanes[reduce.out.0 as usize] = vec![to_bits(fold.finish(), out)];
        }
        for store in &stage.stores {
            let buf = self.arg(store.param)?;
            let at = self.addresses(&store.index, stage.domain, lanes);
            for (i, index) in at.into_iter().enumerate() {
                memory.store(buf, index, self.lane(store.value, i)?)?;
            }
        }
        Ok(())
    }

    fn arg(&self, param: u32) -> Result<BufId> {
        self.args.get(param as usize).copied().ok_or_else(|| Error::internal(format!("no parameter {param}")))
    }

    /// The value at an inner point; row scalars are the same at all of them.
    fn lane(&self, id: ValueId, i: usize) -> Result<u64> {
        let lanes = &self.lanes[id.0 as usize];
        let lane = if lanes.len() == 1 { lanes.first() } else { lanes.get(i) };
        lane.copied().ok_or_else(|| Error::internal(format!("value v{} is used before it is computed", id.0)))
    }

    /// The affine function at every point of the domain, inner points in row-major order.
    fn addresses(&self, index: &Affine, domain: Domain, lanes: usize) -> Vec<i64> {
        let (grid, inner) = index.strides.split_at(self.kernel.grid.len().min(index.strides.len()));
        let base = grid.iter().zip(&self.point).fold(index.offset, |a, (s, p)| a.wrapping_add(s.wrapping_mul(*p)));
        if domain == Domain::Row {
            return vec![base];
        }
        let mut point = vec![0; self.kernel.inner.len()];
        (0..lanes)
            .map(|_| {
                let at = inner.iter().zip(&point).fold(base, |a, (s, p)| a.wrapping_add(s.wrapping_mul(*p)));
                advance(&mut point, &self.kernel.inner);
                at
            })
            .collect()
    }

    fn inst(&self, id: ValueId, domain: Domain, lanes: usize, memory: &Memory) -> Result<Vec<u64>> {
        let value = self.kernel.value(id);
        match &value.inst {
            // A row value in any stage, also in one without points.
            Inst::Const(c) => Ok(vec![to_bits(c.to_dtype(value.dtype), value.dtype)]),
            Inst::Load { param, index } => {
                let buf = self.arg(*param)?;
                self.addresses(index, domain, lanes).into_iter().map(|i| memory.load(buf, i)).collect()
            }
            Inst::Index(index) => Ok(self.addresses(index, domain, lanes).into_iter().map(|i| i as u64).collect()),
            Inst::Op(op, operands) => {
                let dtypes: SmallVec<[DType; 3]> = operands.iter().map(|&o| self.kernel.value(o).dtype).collect();
                let mut args: SmallVec<[u64; 3]> = SmallVec::from_elem(0, operands.len());
                (0..lanes)
                    .map(|i| {
                        for (slot, &o) in args.iter_mut().zip(operands) {
                            *slot = self.lane(o, i)?;
                        }
                        Ok(scalar_op::apply(*op, &args, &dtypes, value.dtype))
                    })
                    .collect()
            }
            Inst::Reduced => Err(Error::internal(format!("v{} is a reduction's result, not an instruction", id.0))),
        }
    }
}
