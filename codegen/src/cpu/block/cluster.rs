//! The vector part of a stage at a point: vector functions where a plan has them, primitives elsewhere.

use super::super::emit::flags;
use super::super::vec::plan::{Cluster, StagePlan, Step};
use super::super::vec::{self, Binding};
use super::fold::Accumulator;
use super::{BlockEmitter, Point, StageWork};
use cranelift::module::Module;
use cranelift::prelude::*;
use torsh_ir::{Error, Result};

impl<'e, M: Module> BlockEmitter<'e, '_, M> {
    /// The plan of the stage being emitted.
    pub(super) fn stage_plan(&self) -> Option<&'e StagePlan> {
        self.tiled.or_else(|| self.plans.get(self.frame.stage).and_then(Option::as_ref))
    }

    /// Values that vary, then folds, then stores.
    pub(super) fn vectors(
        &mut self,
        work: &StageWork<'_>,
        accumulators: &[Accumulator],
        point: &Point<'_>,
    ) -> Result<()> {
        let Some(plan) = self.stage_plan() else {
            self.insts(work, point, false)?;
            let folds: Vec<usize> = (0..work.stage.reduces.len()).collect();
            self.fold(work.stage, accumulators, point, &folds)?;
            let stores: Vec<usize> = (0..work.stage.stores.len()).collect();
            return self.stores(work, point, &stores);
        };
        for step in &plan.steps {
            match step {
                Step::Prims(values) => {
                    for &v in values {
                        self.inst(work, point, v)?;
                    }
                }
                Step::Cluster(cluster) => self.cluster(work, accumulators, point, cluster)?,
            }
        }
        self.fold(work.stage, accumulators, point, &plan.folds)?;
        self.stores(work, point, &plan.stores)
    }

    /// Calls the vector function of a cluster.
    fn cluster(
        &mut self,
        work: &StageWork<'_>,
        accumulators: &[Accumulator],
        point: &Point<'_>,
        cluster: &Cluster,
    ) -> Result<()> {
        let (code, bindings) = vec::function(self.k, self.facts, self.frame.stage, cluster, self.options, self.level)?;
        let area = match self.e.stack(code.area) {
            Some(area) => area,
            None => {
                let offset = self.frame.grow(Some(code.area.max(64)))?;
                self.e.scratch_at(offset)
            }
        };
        let end = 8 * bindings.len() as i32;
        for (i, binding) in bindings.into_iter().enumerate() {
            let at = match binding {
                Binding::Load(v) => {
                    let access = work.load_access.get(&v).and_then(|&a| point.at.get(a).copied());
                    access.ok_or_else(|| Error::internal("a vector function reads what its stage does not load"))?
                }
                Binding::Value(v) | Binding::Uniform(v) => self.operand(point, v)?,
                Binding::Result(v) => {
                    let loc = self.result(work, point, v)?;
                    self.address(loc)
                }
                Binding::Store(i) => point.at[work.first_store + i],
                Binding::Fold(i) => self.e.scratch_at(accumulators[i].value),
            };
            self.e.b.ins().store(flags(), at, area, 8 * i as i32);
        }
        if let Some(points) = self.points.filter(|_| cluster.columns) {
            self.e.b.ins().store(flags(), points, area, end);
        }
        self.e.call_raw(code, area, point.n)
    }
}
