//! Recomputation: values that are cheaper to compute again in each kernel that uses them than to store and
//! load, such as a scaled operand seen transposed, a mask of positions, or the operand of a column sum.
//!
//! # Cost
//! One unit is a cheap vector operation on one element. A byte from or to memory costs one unit (so that
//! storing and loading an f32 pays for eight cheap operations), a step [`STEP`] units. A value is recomputed,
//! together with the values it is made of, when all its users can do so and that is cheaper in sum.

use super::groups::Groups;
use super::items::{ItemId, Items, What};
use crate::layout::Layout;
use crate::lower::stages::weight;
use std::collections::{HashMap, HashSet};

/// Units that a further step costs.
const STEP: u64 = 1000;
/// Values recomputed together, at most.
const MAX_CONE: usize = 12;
/// Values recomputed in one kernel, at most.
const MAX_EXTRA: usize = 128;

/// A value loaded by a kernel: which kernel, once per row or not, and where.
type Demand = (u32, bool, Layout);

/// Decides what is recomputed; refines the axes of the groups concerned.
pub fn run<'a>(items: &'a Items, groups: &mut Groups<'a>, max_members: usize) -> HashSet<(u32, ItemId)> {
    let mut inline = Inline {
        items,
        groups,
        demands: vec![Vec::new(); items.all.len()],
        done: HashSet::new(),
        extra: HashMap::new(),
        max_members,
    };
    inline.collect();
    for id in items.ids().rev() {
        inline.consider(id);
    }
    inline.done
}

struct Inline<'a, 'g> {
    items: &'a Items,
    groups: &'g mut Groups<'a>,
    demands: Vec<Vec<Demand>>,
    done: HashSet<(u32, ItemId)>,
    /// Values added to each group.
    extra: HashMap<u32, usize>,
    max_members: usize,
}

/// A value with what it is made of, down to memory.
struct Cone {
    /// Descending.
    inside: Vec<ItemId>,
    weight: u64,
    /// Loaded; true for those that are not in memory yet.
    leaves: Vec<(ItemId, bool)>,
}

impl Inline<'_, '_> {
    /// What each kernel loads from another group.
    fn collect(&mut self) {
        for id in self.items.ids() {
            let item = self.items.get(id);
            if !item.in_kernel() {
                continue;
            }
            let group = self.groups.of(id);
            let row = self.groups.row[id.index()] && !matches!(item.what, What::Reduce(_));
            for u in &item.uses {
                if !self.items.get(u.item).is_virtual() && self.groups.of(u.item) != group {
                    self.demand(u.item, (group, row, u.map.clone()));
                }
            }
        }
    }

    fn demand(&mut self, id: ItemId, demand: Demand) {
        let list = &mut self.demands[id.index()];
        if !list.contains(&demand) {
            list.push(demand);
        }
    }

    fn in_memory(&self, id: ItemId) -> bool {
        let computed = self.items.get(id).in_kernel();
        !computed || self.groups.stored[id.index()] || !self.demands[id.index()].is_empty()
    }

    fn consider(&mut self, id: ItemId) {
        let item = self.items.get(id);
        let candidate = matches!(item.what, What::Map(_)) && item.dest.is_none() && !self.groups.stored[id.index()];
        if !candidate || self.demands[id.index()].is_empty() {
            return;
        }
        let demands = std::mem::take(&mut self.demands[id.index()]);
        let Some(plan) = self.cone(id).and_then(|cone| self.plan(id, &cone, &demands).map(|p| (cone, p))) else {
            self.demands[id.index()] = demands;
            return;
        };
        let (cone, loads) = plan;
        for (demand, loads) in demands.iter().zip(loads) {
            for &inner in &cone.inside {
                self.done.insert((demand.0, inner));
            }
            *self.extra.entry(demand.0).or_default() += cone.inside.len();
            for (leaf, map) in loads {
                self.demand(leaf, (demand.0, demand.1, map));
            }
        }
    }

    fn cone(&self, id: ItemId) -> Option<Cone> {
        let mut cone = Cone { inside: Vec::new(), weight: 0, leaves: Vec::new() };
        let mut stack = vec![id];
        while let Some(at) = stack.pop() {
            if cone.inside.contains(&at) {
                continue;
            }
            let item = self.items.get(at);
            if let What::Map(op) = item.what {
                cone.weight += op.map_or(0, |op| u64::from(weight(op)));
            }
            cone.inside.push(at);
            if cone.inside.len() > MAX_CONE {
                return None;
            }
            for u in &item.uses {
                let operand = self.items.get(u.item);
                if operand.is_virtual() {
                    continue;
                }
                // A value that is repeated many times is computed once and loaded.
                let repeated = operand.len().saturating_mul(2) <= item.len();
                let computed = matches!(operand.what, What::Map(_)) && operand.dest.is_none();
                if computed && !repeated && !self.in_memory(u.item) {
                    stack.push(u.item);
                } else if !cone.leaves.iter().any(|l| l.0 == u.item) {
                    cone.leaves.push((u.item, !self.in_memory(u.item)));
                }
            }
        }
        cone.inside.sort_unstable_by(|a, b| b.cmp(a));
        Some(cone)
    }

    /// The loads that recomputing adds to each kernel, when that is possible and cheaper.
    fn plan(&mut self, id: ItemId, cone: &Cone, demands: &[Demand]) -> Option<Vec<Vec<(ItemId, Layout)>>> {
        let bytes = |id: ItemId, elements: usize| elements as u64 * self.items.get(id).ty.dtype.size() as u64;
        let own = self.groups.of(id);
        let alone = self.groups.members(own).len() == 1;
        let mut saved = bytes(id, self.items.get(id).len()) + if alone { STEP } else { 0 };
        let mut cost = 0u64;
        for &(leaf, fresh) in &cone.leaves {
            cost += if fresh { bytes(leaf, self.items.get(leaf).len()) } else { 0 };
        }
        let (mut all, mut axes_of) = (Vec::new(), HashMap::new());
        for (group, row, map) in demands {
            let extra = self.extra.get(group).copied().unwrap_or(0) + cone.inside.len();
            if extra > MAX_EXTRA || self.groups.members(*group).len() + extra > self.max_members {
                return None;
            }
            let loads = self.loads(cone, id, map)?;
            let axes = axes_of.entry(*group).or_insert_with(|| self.groups.axes(*group).clone());
            let reduces = axes.reduces();
            let per_row = *row || (reduces && axes.row_part(map).is_some());
            let points = if per_row && reduces { axes.rows() } else { axes.points() };
            cost = cost.saturating_add((points as u64).saturating_mul(cone.weight));
            saved = saved.saturating_add(bytes(id, map.reach()));
            for (leaf, at) in &loads {
                if !axes.refine(at, *row && reduces) {
                    return None;
                }
                let known = self.demands[leaf.index()].iter().any(|d| d.0 == *group && d.2 == *at);
                if !known && !self.items.get(*leaf).is_virtual() {
                    cost = cost.saturating_add(bytes(*leaf, at.reach()));
                }
            }
            all.push(loads.into_iter().filter(|(l, _)| !self.items.get(*l).is_virtual()).collect());
        }
        if cost >= saved {
            return None;
        }
        for (group, axes) in axes_of {
            self.groups.set_axes(group, axes);
        }
        Some(all)
    }

    /// The leaves of a cone (positions included) as seen when `id` is seen through `map`.
    fn loads(&self, cone: &Cone, id: ItemId, map: &Layout) -> Option<Vec<(ItemId, Layout)>> {
        let mut out: Vec<(ItemId, Layout)> = Vec::new();
        let mut seen: HashSet<(ItemId, Layout)> = HashSet::new();
        let mut stack = vec![(id, map.clone())];
        while let Some((at, map)) = stack.pop() {
            for u in &self.items.get(at).uses {
                if let What::Splat(_) = self.items.get(u.item).what {
                    continue;
                }
                let next = (u.item, map.then(&u.map)?);
                if !seen.insert(next.clone()) {
                    continue;
                }
                if cone.inside.contains(&u.item) { stack.push(next) } else { out.push(next) }
            }
        }
        Some(out)
    }
}
