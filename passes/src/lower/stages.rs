//! Points to stages.
//!
//! Row stage `p` runs before full stage `p`, whose folds are seen from row stage `p + 1` on. A point's phase
//! is the first `p` in which its operands exist. A full value that several phases need is either kept in row
//! scratch (when it is dear and the scratch budget allows) or computed again in each.

use super::emit::{Body, Calc, Point, PointId, Sink};
use crate::fuse::items::ItemId;
use crate::layout::Layout;
use smallvec::SmallVec;
use std::collections::HashMap;
use torsh_ir::attr::Scalar;
use torsh_ir::dtype::DType;
use torsh_ir::error::{Error, Result};
use torsh_ir::kernel::{Access, Affine, Domain, Inst, Kernel, Param, Reduce, Stage, Store, Value, ValueId};
use torsh_ir::scalar::{BinOp, ScalarOp, UnOp};
use torsh_ir::shape::{Dims, Ints};

/// Bytes of row scratch that kept values may take.
const SCRATCH_BYTES: usize = 256 << 10;
/// Recomputing a value of this weight or more is dearer than keeping it: a load and one cheap operation are
/// about what reading it back from scratch and having written it cost.
const KEEP_WEIGHT: u32 = 3;
/// Phases beyond this one share its bit in the sets of phases.
const MAX_PHASE: u32 = 63;

/// Cost of an operation, in cheap vector operations.
pub fn weight(op: ScalarOp) -> u32 {
    match op {
        ScalarOp::Un(op) => match op {
            UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not => 1,
            UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => 1,
            UnOp::Sqrt | UnOp::Rsqrt | UnOp::Recip => 3,
            _ => 12,
        },
        ScalarOp::Bin(op) => match op {
            BinOp::Div => 3,
            BinOp::FloorDiv | BinOp::Rem | BinOp::Fmod => 6,
            BinOp::Pow | BinOp::Atan2 | BinOp::Philox => 20,
            _ => 1,
        },
        ScalarOp::Cmp(_) | ScalarOp::Select | ScalarOp::Cast | ScalarOp::Bitcast => 1,
    }
}

/// A kernel and the items whose buffers are its parameters.
pub struct Built {
    /// The kernel.
    pub kernel: Kernel,
    /// One item per parameter.
    pub args: Vec<ItemId>,
}

/// Orders the points of a body in stages. `numel` gives the size of an item's buffer.
pub fn build(name: String, body: &Body, buffer: impl Fn(ItemId) -> (DType, usize)) -> Result<Built> {
    let plan = Phases::of(body);
    let mut b = Builder::new(name, body, &plan);
    for phase in 0..=plan.last {
        b.row_stage(phase)?;
        b.full_stage(phase)?;
    }
    b.finish(buffer)
}

fn operands(point: &Point) -> SmallVec<[PointId; 3]> {
    match &point.calc {
        Calc::Const(_) | Calc::Load(..) | Calc::Index(_) => SmallVec::new(),
        Calc::Op(_, args) => args.clone(),
        Calc::Reduced(_, value) => SmallVec::from_slice(&[*value]),
    }
}

/// In which phases each point is computed.
struct Phases {
    first: Vec<u32>,
    /// Bits of the phases in which a full point is computed.
    full: Vec<u64>,
    /// Phase of each sink.
    sinks: Vec<u32>,
    last: u32,
}

impl Phases {
    fn of(body: &Body) -> Phases {
        let n = body.points.len();
        let mut first = vec![0u32; n];
        for (i, p) in body.points.iter().enumerate() {
            let step = u32::from(matches!(p.calc, Calc::Reduced(..)));
            first[i] = operands(p).iter().map(|&a| first[a as usize] + step).max().unwrap_or(0).min(MAX_PHASE);
        }
        let last = first.iter().copied().max().unwrap_or(0);
        let mut plan = Phases { first, full: vec![0; n], sinks: vec![0; body.sinks.len()], last };
        plan.spread(body);
        plan
    }

    /// From users to operands: which phases need a full point, and whether it is kept.
    fn spread(&mut self, body: &Body) {
        let weights = weights(body);
        let row_len = body.axes.points() / body.axes.rows().max(1);
        let mut budget = SCRATCH_BYTES;
        let mut stores: HashMap<PointId, Vec<usize>> = HashMap::new();
        for (s, sink) in body.sinks.iter().enumerate() {
            stores.entry(sink.point).or_default().push(s);
        }
        for i in (0..body.points.len()).rev() {
            let p = &body.points[i];
            if let Calc::Reduced(_, value) = p.calc {
                self.full[value as usize] |= 1 << self.first[value as usize];
            }
            let first = self.first[i];
            for &s in stores.get(&(i as PointId)).into_iter().flatten() {
                // Where it is computed anyway, else as early as it can be.
                let at = if self.full[i] == 0 { first } else { self.full[i].trailing_zeros() };
                self.sinks[s] = at;
                if !body.sinks[s].row {
                    self.full[i] |= 1 << at;
                }
            }
            if p.row || self.full[i] == 0 {
                continue;
            }
            let bytes = row_len.saturating_mul(p.dtype.compute().size());
            if self.full[i].count_ones() > 1 && weights[i] >= KEEP_WEIGHT && bytes <= budget {
                budget -= bytes;
                self.full[i] = 1 << self.full[i].trailing_zeros();
            }
            for a in operands(p) {
                if !body.points[a as usize].row {
                    self.full[a as usize] |= self.full[i];
                }
            }
        }
    }
}

/// Cost of computing each full point from memory and row scalars.
fn weights(body: &Body) -> Vec<u32> {
    let mut weights = vec![0u32; body.points.len()];
    for (i, p) in body.points.iter().enumerate() {
        let own = match &p.calc {
            Calc::Const(_) => 0,
            Calc::Load(..) | Calc::Index(_) => 1,
            Calc::Op(op, _) => weight(*op),
            Calc::Reduced(..) => continue,
        };
        let args = operands(p);
        let full = args.iter().filter(|&&a| !body.points[a as usize].row).map(|&a| weights[a as usize]);
        weights[i] = if p.row { 0 } else { full.fold(own, u32::saturating_add) };
    }
    weights
}

struct Builder<'a> {
    name: String,
    body: &'a Body,
    plan: &'a Phases,
    values: Vec<Value>,
    stages: Vec<Stage>,
    /// The latest value of each point.
    current: Vec<Option<ValueId>>,
    consts: HashMap<(Scalar, DType), ValueId>,
    loaded: Vec<ItemId>,
    stored: Vec<ItemId>,
}

impl<'a> Builder<'a> {
    fn new(name: String, body: &'a Body, plan: &'a Phases) -> Builder<'a> {
        let current = vec![None; body.points.len()];
        Builder {
            name,
            body,
            plan,
            values: Vec::new(),
            stages: Vec::new(),
            current,
            consts: HashMap::new(),
            loaded: Vec::new(),
            stored: Vec::new(),
        }
    }

    fn push(&mut self, inst: Inst, dtype: DType) -> ValueId {
        self.values.push(Value { inst, dtype });
        ValueId(self.values.len() as u32 - 1)
    }

    fn row_stage(&mut self, phase: u32) -> Result<()> {
        let mut stage = Stage { domain: Domain::Row, insts: Vec::new(), reduces: Vec::new(), stores: Vec::new() };
        self.consts.clear();
        for i in 0..self.body.points.len() {
            let p = &self.body.points[i];
            let computed = !matches!(p.calc, Calc::Const(_) | Calc::Reduced(..));
            if p.row && computed && self.plan.first[i] == phase {
                self.inst(i, &mut stage)?;
            }
        }
        self.stores(&mut stage, phase, true)?;
        self.close(stage);
        Ok(())
    }

    fn full_stage(&mut self, phase: u32) -> Result<()> {
        let mut stage = Stage { domain: Domain::Full, insts: Vec::new(), reduces: Vec::new(), stores: Vec::new() };
        self.consts.clear();
        for i in 0..self.body.points.len() {
            let p = &self.body.points[i];
            // A kept value is computed in its one phase and only read in later ones.
            if !p.row && !matches!(p.calc, Calc::Const(_)) && self.plan.full[i] >> phase & 1 == 1 {
                self.inst(i, &mut stage)?;
            }
        }
        for i in 0..self.body.points.len() {
            if let Calc::Reduced(op, value) = self.body.points[i].calc
                && self.plan.first[value as usize] == phase
            {
                let value = self.operand(value, &mut stage)?;
                let out = self.push(Inst::Reduced, self.body.points[i].dtype);
                self.current[i] = Some(out);
                stage.reduces.push(Reduce { op, value, out });
            }
        }
        self.stores(&mut stage, phase, false)?;
        self.close(stage);
        Ok(())
    }

    fn close(&mut self, stage: Stage) {
        if !(stage.insts.is_empty() && stage.reduces.is_empty() && stage.stores.is_empty()) {
            self.stages.push(stage);
        }
    }

    fn stores(&mut self, stage: &mut Stage, phase: u32, row: bool) -> Result<()> {
        for (s, sink) in self.body.sinks.iter().enumerate() {
            if sink.row == row && self.plan.sinks[s] == phase {
                let Sink { buffer, map, point, row } = sink;
                let value = self.operand(*point, stage)?;
                let param = slot(&mut self.stored, *buffer);
                stage.stores.push(Store { param, index: self.affine(map, *row)?, value });
            }
        }
        Ok(())
    }

    /// The value of an operand; constants are made anew in each stage.
    fn operand(&mut self, point: PointId, stage: &mut Stage) -> Result<ValueId> {
        let p = &self.body.points[point as usize];
        if let Calc::Const(value) = p.calc {
            if let Some(&id) = self.consts.get(&(value, p.dtype)) {
                return Ok(id);
            }
            let id = self.push(Inst::Const(value), p.dtype);
            stage.insts.push(id);
            self.consts.insert((value, p.dtype), id);
            return Ok(id);
        }
        self.current[point as usize].ok_or_else(|| Error::internal("a kernel value is used before it is computed"))
    }

    fn inst(&mut self, i: usize, stage: &mut Stage) -> Result<()> {
        let p = &self.body.points[i];
        let inst = match &p.calc {
            Calc::Load(item, map) => {
                Inst::Load { param: slot(&mut self.loaded, *item), index: self.affine(map, p.row)? }
            }
            Calc::Index(map) => Inst::Index(self.affine(map, p.row)?),
            Calc::Op(op, args) => {
                let args = args.iter().map(|&a| self.operand(a, stage)).collect::<Result<_>>()?;
                Inst::Op(*op, args)
            }
            Calc::Const(_) | Calc::Reduced(..) => return Ok(()),
        };
        let id = self.push(inst, p.dtype);
        self.current[i] = Some(id);
        stage.insts.push(id);
        Ok(())
    }

    /// Strides along the axes in the order grid, inner; collapsed at the end.
    fn affine(&self, map: &Layout, row: bool) -> Result<Affine> {
        let axes = &self.body.axes;
        let strides = axes
            .strides(map, row && axes.reduces())
            .ok_or_else(|| Error::internal("a layout crosses the axes of its kernel"))?;
        let pick = |inner: bool| axes.0.iter().zip(&strides).filter(move |(a, _)| a.inner == inner).map(|(_, &s)| s);
        Ok(Affine { offset: map.offset, strides: pick(false).chain(pick(true)).collect() })
    }

    fn finish(mut self, buffer: impl Fn(ItemId) -> (DType, usize)) -> Result<Built> {
        let extents = |inner: bool| self.body.axes.0.iter().filter(move |a| a.inner == inner).map(|a| a.extent);
        let mut grid: Dims = extents(false).collect();
        let mut inner: Dims = extents(true).collect();
        let loads = self.loaded.len() as u32;
        for stage in &mut self.stages {
            for store in &mut stage.stores {
                store.param += loads;
            }
        }
        collapse(&mut grid, &mut inner, &mut self.values, &mut self.stages);
        if inner.is_empty() {
            split_inner(&mut grid, &mut inner, &mut self.values, &mut self.stages);
        }
        let param = |(item, access): (&ItemId, Access)| {
            let (dtype, numel) = buffer(*item);
            Param { dtype, numel, access }
        };
        let reads = self.loaded.iter().map(|i| (i, Access::Read));
        let writes = self.stored.iter().map(|i| (i, Access::Write));
        let params = reads.chain(writes).map(param).collect();
        let args = self.loaded.iter().chain(&self.stored).copied().collect();
        let kernel = Kernel { name: self.name, params, grid, inner, values: self.values, stages: self.stages };
        Ok(Built { kernel, args })
    }
}

fn slot(list: &mut Vec<ItemId>, item: ItemId) -> u32 {
    let at = list.iter().position(|&i| i == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    });
    at as u32
}

fn strides_mut<'v>(values: &'v mut [Value], stages: &'v mut [Stage]) -> impl Iterator<Item = &'v mut Ints> {
    let loads = values.iter_mut().filter_map(|v| match &mut v.inst {
        Inst::Load { index, .. } | Inst::Index(index) => Some(&mut index.strides),
        _ => None,
    });
    loads.chain(stages.iter_mut().flat_map(|s| s.stores.iter_mut().map(|s| &mut s.index.strides)))
}

/// Joins neighbouring axes of one kind that every access walks as one.
fn collapse(grid: &mut Dims, inner: &mut Dims, values: &mut [Value], stages: &mut [Stage]) {
    let mut i = 0;
    while i + 1 < grid.len() + inner.len() {
        let at = |k: usize, grid: &Dims, inner: &Dims| if k < grid.len() { grid[k] } else { inner[k - grid.len()] };
        let same_kind = i + 1 != grid.len();
        let next = at(i + 1, grid, inner) as i64;
        if !same_kind || !strides_mut(values, stages).all(|s| s[i] == s[i + 1].wrapping_mul(next)) {
            i += 1;
            continue;
        }
        for s in strides_mut(values, stages) {
            s.remove(i);
        }
        let (dims, k) = if i < grid.len() { (&mut *grid, i) } else { (&mut *inner, i - grid.len()) };
        dims[k + 1] *= dims[k];
        dims.remove(k);
    }
}

/// A kernel without folds: the last axis becomes the inner one.
fn split_inner(grid: &mut Dims, inner: &mut Dims, values: &mut [Value], stages: &mut [Stage]) {
    match grid.pop() {
        Some(last) => inner.push(last),
        None => {
            inner.push(1);
            for s in strides_mut(values, stages) {
                s.push(0);
            }
        }
    }
}
