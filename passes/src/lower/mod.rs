//! Groups to steps: kernels, matrix products and library calls over items, before any memory is planned.
//!
//! Needs: [`crate::fuse::run`]. Leaves: steps in an order in which operands come first. A value that no
//! step loads is never stored.

pub mod emit;
pub mod stages;

use crate::fuse::Fused;
use crate::fuse::dot::DotSpec;
use crate::fuse::items::{Item, ItemId, Items, What};
use crate::layout::Layout;
use crate::pipeline::Options;
use std::collections::HashSet;
use std::sync::Arc;
use torsh_ir::attr::AttrsExt;
use torsh_ir::error::{Loc, Result};
use torsh_ir::graph::Graph;
use torsh_ir::kernel::Kernel;
use torsh_ir::op::Kind;
use torsh_ir::program::{LibCall, Program};
use torsh_ir::shape::Type;

/// Op names in a kernel's name.
const NAME_OPS: usize = 8;

/// What a step runs. Buffers are named by their items.
#[derive(Clone, Debug)]
pub enum Work {
    /// A kernel; one item per parameter.
    Kernel(Arc<Kernel>, Vec<ItemId>),
    /// A matrix product of two items.
    Dot(Box<DotSpec>, [ItemId; 2]),
    /// A library call on items seen as these types.
    Lib(LibCall, Vec<(ItemId, Type)>),
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What runs.
    pub work: Work,
    /// Items that it computes and that later steps need.
    pub makes: Vec<ItemId>,
    /// Items whose buffers it reads.
    pub reads: Vec<ItemId>,
    /// Items whose buffers it writes.
    pub writes: Vec<ItemId>,
    /// The tensor ops that it covers.
    pub ops: Vec<&'static str>,
    /// The user's line of the last of them.
    pub loc: Option<Loc>,
}

/// Steps over items.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// The items.
    pub items: Items,
    /// Steps, operands first.
    pub steps: Vec<Step>,
    /// Steps that one kernel per op would take.
    pub unfused: usize,
    /// Why fusion stopped, a line each.
    pub notes: Vec<String>,
}

/// The item that owns the buffer into which an item is stored.
pub fn home(items: &Items, id: ItemId) -> ItemId {
    items.get(id).dest.as_ref().map_or(id, |d| d.join)
}

/// Lowers a graph of primitives to kernels and library calls over planned buffers: fuse, lower, schedule, plan.
///
/// Needs: no composites, limits checked. Leaves: a program with known peak.
pub fn run(graph: &Graph, options: &Options) -> Result<Program> {
    let fused = crate::fuse::run(graph, options.fusion, options.compact)?;
    let lowered = crate::schedule::run(graph, steps(graph, fused)?, &options.donate)?;
    crate::plan::run(graph, lowered, &options.donate)
}

/// Lowers fused groups.
pub fn steps(graph: &Graph, fused: Fused) -> Result<Lowered> {
    let mut l = Lower { graph, fused: &fused, needed: vec![false; fused.items.all.len()], kernels: HashSet::new() };
    for (item, _) in &fused.items.outputs {
        l.needed[item.index()] = true;
    }
    let mut steps = Vec::new();
    for &group in fused.order.iter().rev() {
        steps.extend(l.group(group)?);
    }
    steps.reverse();
    let unfused = count_unfused(&fused.items);
    Ok(Lowered { steps, unfused, items: fused.items, notes: fused.notes })
}

/// Items that take a step each when nothing is fused.
fn count_unfused(items: &Items) -> usize {
    let mut needed = vec![false; items.all.len()];
    for (item, _) in &items.outputs {
        needed[item.index()] = true;
    }
    let mut count = 0;
    for id in items.ids().rev() {
        let item = items.get(id);
        if needed[id.index()] {
            count += usize::from(!item.is_virtual() && !matches!(item.what, What::Leaf | What::Empty | What::Join));
            for u in &item.uses {
                needed[u.item.index()] = true;
            }
        }
    }
    count
}

struct Lower<'a> {
    graph: &'a Graph,
    fused: &'a Fused,
    needed: Vec<bool>,
    kernels: HashSet<Arc<Kernel>>,
}

impl Lower<'_> {
    /// The step of a group, if anything needs it; marks what the step reads.
    fn group(&mut self, group: u32) -> Result<Option<Step>> {
        let items = &self.fused.items;
        let members = &self.fused.groups[group as usize].members;
        let makes: Vec<ItemId> = members.iter().copied().filter(|m| self.needed[m.index()]).collect();
        let Some(&last) = makes.last() else { return Ok(None) };
        let item = items.get(last);
        let (work, reads) = match &item.what {
            What::Leaf | What::Empty | What::Splat(_) | What::Position => return Ok(None),
            What::Join => {
                for part in &item.uses {
                    self.needed[part.item.index()] = true;
                }
                return Ok(None);
            }
            What::Dot(spec) => {
                let sides = [item.uses[0].item, item.uses[1].item];
                (Work::Dot(spec.clone(), sides), sides.to_vec())
            }
            What::Lib(call) => {
                let operands = &self.graph.node(item.node).operands;
                let ty = |item: ItemId, o| match call.attend() {
                    // Strides say how its buffer is seen.
                    Some(_) => items.get(item).ty.clone(),
                    None => self.graph.ty(o).clone(),
                };
                let typed = item.uses.iter().zip(operands).map(|(u, &o)| (u.item, ty(u.item, o)));
                let args: Vec<_> = typed.collect();
                let reads = args.iter().map(|a| a.0).collect();
                (Work::Lib(call.clone(), args), reads)
            }
            What::Map(_) | What::Reduce(_) => match self.simple(group, &makes) {
                Some(simple) => simple,
                None => self.kernel(group, &makes)?,
            },
        };
        for r in &reads {
            self.needed[r.index()] = true;
        }
        let mut writes: Vec<ItemId> = makes.iter().map(|&m| home(items, m)).collect();
        writes.dedup();
        let loc = self.graph.loc(item.node).cloned();
        Ok(Some(Step { work, makes, reads, writes, ops: self.ops(members), loc }))
    }

    fn ops(&self, members: &[ItemId]) -> Vec<&'static str> {
        let mut ops: Vec<&'static str> = Vec::new();
        for m in members {
            let name = self.graph.node(self.fused.items.get(*m).node).op.name;
            if ops.last() != Some(&name) {
                ops.push(name);
            }
        }
        ops
    }

    /// Whole-buffer copies and fills are library calls.
    fn simple(&self, group: u32, makes: &[ItemId]) -> Option<(Work, Vec<ItemId>)> {
        let [only] = makes else { return None };
        let items = &self.fused.items;
        let Item { what: What::Map(None), uses, ty, dest, .. } = items.get(*only) else { return None };
        let (from, n) = (&uses[0], ty.numel());
        if dest.as_ref().is_some_and(|d| !d.whole && !d.map.is_identity(items.get(d.join).len())) {
            return None;
        }
        let own = self.fused.group_of[from.item.index()] == group || self.fused.inlined.contains(&(group, from.item));
        match items.get(from.item).what {
            What::Splat(value) => Some((Work::Lib(LibCall::Fill(value), Vec::new()), Vec::new())),
            What::Position => None,
            _ if own || from.map != Layout::identity(n) || items.get(from.item).len() != n => None,
            _ => {
                let args = vec![(from.item, ty.clone())];
                Some((Work::Lib(LibCall::Copy, args), vec![from.item]))
            }
        }
    }

    fn kernel(&mut self, group: u32, makes: &[ItemId]) -> Result<(Work, Vec<ItemId>)> {
        let items = &self.fused.items;
        let body = emit::body(self.fused, group, makes)?;
        let mut names = self.ops(&self.fused.groups[group as usize].members);
        names.retain(|n| *n != "reshape");
        names.truncate(NAME_OPS);
        if names.is_empty() {
            names.push("copy");
        }
        let built = stages::build(names.join("_"), &body, |id| (items.get(id).ty.dtype, items.get(id).len()))?;
        let kernel = match self.kernels.get(&built.kernel) {
            Some(known) => known.clone(),
            None => {
                let kernel = Arc::new(built.kernel);
                self.kernels.insert(kernel.clone());
                kernel
            }
        };
        let loads = kernel.params.iter().filter(|p| p.access == torsh_ir::kernel::Access::Read).count();
        let reads = built.args[..loads].to_vec();
        Ok((Work::Kernel(kernel, built.args), reads))
    }
}

/// True for items of graph inputs.
pub fn is_input(graph: &Graph, item: &Item) -> bool {
    item.what == What::Leaf && graph.node(item.node).op.kind == Kind::Input
}

/// The data of items of graph constants.
pub fn constant<'g>(graph: &'g Graph, item: &Item) -> Option<&'g [u8]> {
    let node = graph.node(item.node);
    (item.what == What::Leaf && node.op.kind != Kind::Input).then(|| &node.attrs.bytes(0)[..])
}
