//! Cuts a stage into clusters, each of which becomes one vector function, and primitives.
//!
//! Levels alternate: primitives that need no cluster, then the operations that need only those, and so on.
//! Values that cross go through slots.

use super::Level;
use super::graph::FoldOp;
use super::record::{fold_op, has_dtype, has_op};
use crate::cpu::analysis::{Facts, Keep, slot_dtype};
use crate::cpu::normal::{Normal, VectorAxis};
use std::collections::{HashMap, HashSet};
use torsh_ir::kernel::{Domain, Inst, Reduce, ValueId};
use torsh_ir::scalar::ReduceOp;

/// Operations for one vector function.
#[derive(Clone, Debug, Default)]
pub(in crate::cpu) struct Cluster {
    /// Operations, in order.
    pub values: Vec<ValueId>,
    /// Loads that it reads by itself.
    pub loads: HashSet<ValueId>,
    /// Values that others need in memory.
    pub results: Vec<ValueId>,
    /// The stage's stores that it does.
    pub stores: Vec<usize>,
    /// The stage's reductions that it does.
    pub folds: Vec<usize>,
    /// In column mode: it sums several points of the row by itself.
    pub columns: bool,
}

/// Part of a stage.
#[derive(Clone, Debug)]
pub(in crate::cpu) enum Step {
    /// Values computed by primitives, in order.
    Prims(Vec<ValueId>),
    /// A vector function.
    Cluster(Cluster),
}

/// A stage in steps.
#[derive(Clone, Debug)]
pub(in crate::cpu) struct StagePlan {
    pub steps: Vec<Step>,
    /// Stores and reductions left to primitives.
    pub stores: Vec<usize>,
    pub folds: Vec<usize>,
    /// Bytes per element of the slots in use.
    pub slot_bytes: usize,
    /// Float sums are taken block by block.
    pub sums: bool,
}

impl StagePlan {
    /// One vector function that sums several points of the row.
    pub fn is_columns(&self) -> bool {
        self.clusters().any(|c| c.columns)
    }

    /// The whole run of elements may go to one call.
    pub fn is_unbounded(&self) -> bool {
        self.slot_bytes == 0 && !self.sums && self.folds.is_empty() && self.stores.is_empty()
    }

    fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.steps.iter().filter_map(|s| match s {
            Step::Cluster(c) => Some(c),
            Step::Prims(_) => None,
        })
    }
}

/// Plans of all stages (none where there is nothing to gain), or `None` if no stage has any.
pub(in crate::cpu) fn plan(normal: &Normal, facts: &Facts, level: Level) -> Option<Vec<Option<StagePlan>>> {
    let one = |s| {
        let mut planner = Planner::new(normal, facts, s, &[]);
        planner.columns = level == Level::Avx512 && planner.sums_columns();
        planner.plan()
    };
    let plans: Vec<Option<StagePlan>> = (0..normal.kernel.stages.len()).map(one).collect();
    plans.iter().any(Option::is_some).then_some(plans)
}

/// Loads of a map kernel that run along the last grid axis instead of the vector axis: a block of rows is
/// read in transposed tiles. With the plan of the stage for which they are values like others, if it is one
/// vector function.
pub(in crate::cpu) fn tiles(normal: &Normal, facts: &Facts, lanes: usize) -> Option<(Vec<ValueId>, StagePlan)> {
    let k = &normal.kernel;
    let grid = k.grid.len();
    if !k.is_map() || grid == 0 || k.grid[grid - 1] < lanes || k.inner.len() != 1 || k.inner[0] < lanes {
        return None;
    }
    let across = |&v: &ValueId| match &k.value(v).inst {
        Inst::Load { param, index } => {
            let written = k.stages[0].stores.iter().any(|s| facts.may_overlap(s.param, *param));
            let value = k.value(v);
            index.strides[grid - 1] == 1
                && !matches!(index.strides[grid], 0 | 1)
                && value.dtype.size() == 4
                && facts.is_vector(v)
                && !written
        }
        _ => false,
    };
    let loads: Vec<ValueId> = facts.order[0].iter().copied().filter(across).collect();
    if loads.is_empty() || loads.len() > MAX_TILES {
        return None;
    }
    let plan = Planner::new(normal, facts, 0, &loads).plan()?;
    plan.is_unbounded().then_some((loads, plan))
}

/// Share of operations and reductions that vector functions would do, of those on vectors.
pub(in crate::cpu) fn share(plans: &[Option<StagePlan>], facts: &Facts) -> f64 {
    let (mut inside, mut outside) = (0usize, 0usize);
    for (s, plan) in plans.iter().enumerate() {
        let Some(plan) = plan else {
            outside += facts.order[s].iter().filter(|&&v| facts.is_vector(v)).count();
            continue;
        };
        inside += plan.clusters().map(|c| c.values.len() + c.folds.len() + c.stores.len()).sum::<usize>();
        let prims = plan.steps.iter().map(|s| if let Step::Prims(p) = s { p.len() } else { 0 });
        outside += prims.sum::<usize>() + plan.folds.len();
    }
    inside as f64 / (inside + outside).max(1) as f64
}

/// More transposed operands do not fit the first-level cache.
const MAX_TILES: usize = 3;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// A contiguous load that whoever needs it does.
    Load,
    Lanes,
    Prim,
}

struct Planner<'a> {
    normal: &'a Normal,
    facts: &'a Facts,
    s: usize,
    axis: usize,
    order: Vec<ValueId>,
    kinds: HashMap<ValueId, Kind>,
    levels: HashMap<ValueId, usize>,
    /// The stage is one function that sums several points of the row.
    columns: bool,
}

/// Registers for the accumulators of a stage's reductions; more of them are left to primitives.
const FOLD_REGISTERS: usize = 8;
/// Sums of columns in one function, values that it reads, and elements between points of a row.
const MAX_SUMS: usize = 2;
const MAX_INPUTS: usize = 8;
const MAX_STEP: u64 = 1 << 24;
/// Levels of clusters are odd.
const FIRST_CLUSTER: usize = 1;

impl<'a> Planner<'a> {
    /// `given` are values that are in memory already.
    fn new(normal: &'a Normal, facts: &'a Facts, s: usize, given: &[ValueId]) -> Planner<'a> {
        let k = &normal.kernel;
        let axis = match normal.axis {
            VectorAxis::Inner => k.grid.len() + k.inner.len() - 1,
            VectorAxis::Grid => k.grid.len() - 1,
        };
        let mine = |v: &ValueId| facts.is_vector(*v) && !given.contains(v);
        let order = facts.order[s].iter().copied().filter(mine).collect();
        let mut p =
            Planner { normal, facts, s, axis, order, kinds: HashMap::new(), levels: HashMap::new(), columns: false };
        for i in 0..p.order.len() {
            let v = p.order[i];
            let kind = p.kind(v);
            p.kinds.insert(v, kind);
            let level = p.level(v, kind);
            p.levels.insert(v, level);
        }
        p
    }

    fn kept_here(&self, v: ValueId) -> bool {
        self.facts.keep[v.0 as usize] == Keep::Scratch && self.facts.stage[v.0 as usize] == self.s
    }

    /// Later stages read the value from a slot.
    fn outlives(&self, v: ValueId) -> bool {
        self.facts.keep[v.0 as usize] == Keep::No
            && self.facts.last_stage[v.0 as usize].is_some_and(|last| last > self.s)
    }

    fn kind(&self, v: ValueId) -> Kind {
        let k = &self.normal.kernel;
        let value = k.value(v);
        match &value.inst {
            Inst::Load { index, .. } if index.strides[self.axis] == 1 && has_dtype(value.dtype) => {
                if self.outlives(v) || self.kept_here(v) { Kind::Prim } else { Kind::Load }
            }
            Inst::Op(op, args) => {
                let known =
                    args.iter().all(|&a| has_dtype(k.value(a).dtype) && has_dtype(k.value(self.facts.canon(a)).dtype));
                if known && has_op(*op, k.value(args[0]).dtype, value.dtype) { Kind::Lanes } else { Kind::Prim }
            }
            _ => Kind::Prim,
        }
    }

    fn level(&self, v: ValueId, kind: Kind) -> usize {
        let start = usize::from(kind == Kind::Lanes) * FIRST_CLUSTER;
        let Inst::Op(_, args) = &self.normal.kernel.value(v).inst else { return start };
        let after = |a: &ValueId| {
            let a = self.facts.canon(*a);
            match self.kinds.get(&a) {
                None | Some(Kind::Load) => 0,
                Some(&other) => self.levels[&a] + usize::from(other != kind),
            }
        };
        args.iter().map(after).max().unwrap_or(0).max(start)
    }

    /// Operands of an operation that this stage computes, by their first names.
    fn operands(&self, v: ValueId) -> Vec<ValueId> {
        match &self.normal.kernel.value(v).inst {
            Inst::Op(_, args) => args.iter().map(|&a| self.facts.canon(a)).collect(),
            _ => Vec::new(),
        }
    }

    /// True in column mode if the stage is a few sums and what vector functions compute of what is in memory.
    fn sums_columns(&self) -> bool {
        let k = &self.normal.kernel;
        let stage = &k.stages[self.s];
        let along = k.grid.len() + k.inner.len() - 1;
        let simple = |&v: &ValueId| {
            let value = k.value(v);
            match (&value.inst, self.kinds.get(&v)) {
                (Inst::Const(_), _) => true,
                (Inst::Load { index, .. }, Some(Kind::Load)) => {
                    index.strides[along].unsigned_abs() < MAX_STEP && value.dtype.is_float()
                }
                (_, Some(Kind::Lanes)) => !self.outlives(v) && !self.kept_here(v),
                _ => false,
            }
        };
        let sum = |r: &Reduce| {
            fold_op(r.op, k.value(r.value).dtype) == Some(FoldOp::Sum)
                && self.kinds.contains_key(&self.facts.canon(r.value))
        };
        let mut inputs: HashSet<ValueId> = self.order.iter().flat_map(|&v| self.operands(v)).collect();
        inputs.extend(&self.order);
        inputs.retain(|v| self.kinds.get(v) != Some(&Kind::Lanes));
        self.normal.axis == VectorAxis::Grid
            && stage.domain == Domain::Full
            && stage.stores.is_empty()
            && (1..=MAX_SUMS).contains(&stage.reduces.len())
            && inputs.len() <= MAX_INPUTS
            && self.facts.order[self.s].iter().all(simple)
            && inputs.iter().all(|&v| self.facts.is_vector(v) || matches!(k.value(v).inst, Inst::Const(_)))
            && stage.reduces.iter().all(sum)
    }

    fn plan(&self) -> Option<StagePlan> {
        let k = &self.normal.kernel;
        let stage = &k.stages[self.s];
        if stage.domain == Domain::Row && self.normal.axis == VectorAxis::Inner {
            return None;
        }
        let top = self.order.iter().map(|v| self.levels[v]).max().unwrap_or(0);
        let last_cluster = if top % 2 == FIRST_CLUSTER { top } else { top + 1 };
        let mut clusters: HashMap<usize, Cluster> = HashMap::new();
        for &v in self.order.iter().filter(|v| self.kinds[v] == Kind::Lanes) {
            clusters.entry(self.levels[&v]).or_default().values.push(v);
        }
        // Where a value that a store or fold takes can be had without a slot.
        let home = |v: ValueId| match self.kinds.get(&v) {
            Some(Kind::Lanes) => Some(self.levels[&v]),
            Some(Kind::Load) => Some(last_cluster),
            _ => None,
        };
        let mut folds = Vec::new();
        let mut room = FOLD_REGISTERS;
        for (i, reduce) in stage.reduces.iter().enumerate() {
            let need = fold_op(reduce.op, k.value(reduce.value).dtype)
                .filter(|_| self.normal.axis == VectorAxis::Inner || self.columns)
                .map(FoldOp::registers)
                .filter(|&need| need <= room);
            match (need, home(self.facts.canon(reduce.value))) {
                (Some(need), Some(level)) => {
                    room -= need;
                    clusters.entry(level).or_default().folds.push(i);
                }
                _ => folds.push(i),
            }
        }
        let mut stores = Vec::new();
        for (i, store) in stage.stores.iter().enumerate() {
            let contiguous = store.index.strides[self.axis] == 1;
            let safe = |level: usize| {
                !self.facts.is_read(k, store.param)
                    || (level == last_cluster && top <= last_cluster && folds.is_empty())
            };
            let dtype = k.params[store.param as usize].dtype;
            match home(self.facts.canon(store.value)).filter(|&l| contiguous && has_dtype(dtype) && safe(l)) {
                Some(level) => clusters.entry(level).or_default().stores.push(i),
                None => stores.push(i),
            }
        }
        if clusters.is_empty() {
            return None;
        }
        Some(self.steps(clusters, stores, folds, top.max(last_cluster)))
    }

    fn steps(
        &self,
        mut clusters: HashMap<usize, Cluster>,
        stores: Vec<usize>,
        folds: Vec<usize>,
        top: usize,
    ) -> StagePlan {
        let k = &self.normal.kernel;
        let stage = &k.stages[self.s];
        let mut wanted: HashSet<ValueId> = HashSet::new();
        wanted.extend(stores.iter().map(|&i| self.facts.canon(stage.stores[i].value)));
        wanted.extend(folds.iter().map(|&i| self.facts.canon(stage.reduces[i].value)));
        for &v in &self.order {
            for a in self.operands(v) {
                let lanes = self.kinds.get(&a) == Some(&Kind::Lanes);
                if self.kinds[&v] == Kind::Prim || (lanes && self.levels[&a] != self.levels[&v]) {
                    wanted.insert(a);
                }
            }
        }
        let mut slot_bytes = 0;
        let bytes = |v: ValueId| slot_dtype(k.value(v).dtype).size();
        let mut steps = Vec::new();
        for level in 0..=top {
            if level % 2 != FIRST_CLUSTER {
                // Loads that primitives need come with the first ones, in order.
                let here = |v: &&ValueId| match self.kinds[v] {
                    Kind::Prim => self.levels[v] == level,
                    Kind::Load => level == 0 && wanted.contains(v),
                    Kind::Lanes => false,
                };
                let prims: Vec<ValueId> = self.order.iter().filter(here).copied().collect();
                slot_bytes += prims.iter().map(|&v| bytes(v) + 4).sum::<usize>();
                if !prims.is_empty() {
                    steps.push(Step::Prims(prims));
                }
                continue;
            }
            let Some(mut cluster) = clusters.remove(&level) else { continue };
            cluster.loads = self.kinds.iter().filter(|(_, kind)| **kind == Kind::Load).map(|(&v, _)| v).collect();
            let is_result = |v: &&ValueId| wanted.contains(v) || self.kept_here(**v) || self.outlives(**v);
            cluster.results = cluster.values.iter().filter(is_result).copied().collect();
            slot_bytes += cluster.results.iter().filter(|&&v| !self.kept_here(v)).map(|&v| bytes(v)).sum::<usize>();
            cluster.columns = self.columns;
            steps.push(Step::Cluster(cluster));
        }
        let fused_sums =
            |c: &Cluster| c.folds.iter().any(|&i| matches!(stage.reduces[i].op, ReduceOp::Sum | ReduceOp::Prod));
        let mut plan = StagePlan { steps, stores, folds, slot_bytes, sums: false };
        let sums = plan.clusters().any(fused_sums);
        plan.sums = sums;
        plan
    }
}
