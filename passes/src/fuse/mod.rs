//! Fusion: which values one kernel computes.
//!
//! Needs: a graph of primitives. Leaves: the [`items`] of the graph, each map and reduction in a group that
//! becomes one kernel. Groups never depend on each other in a circle.
//!
//! Groups grow in three rounds: producers join their consumers (elementwise chains, operands into
//! reductions, reductions into what uses them along the same rows), kernels that read the same memory over
//! the same space join, and small kernels of one size join. Every such merge saves a load, a store or a step
//! and recomputes nothing. Then [`inline`] decides by cost which values are recomputed where they are used.

pub mod attention;
pub mod dot;
pub mod groups;
pub mod inline;
pub mod items;
pub mod orient;

use crate::layout::Axes;
use groups::{Groups, Refusal};
use items::{ItemId, Items, What};
use std::collections::HashSet;
use torsh_ir::error::Result;
use torsh_ir::graph::Graph;
use torsh_ir::limits;

/// Kernels of at most this many points join kernels of the same size without sharing anything.
const SMALL: usize = 4096;
/// Members of a kernel made of independent small ones.
const MAX_BUNDLE: usize = 48;
/// Users of one number that it may join where kernels are to be alike.
const MAX_COMPACT: usize = 4;
/// Users of one value that are tried as neighbours.
const MAX_SIBLINGS: usize = 64;
/// Notes kept.
const MAX_NOTES: usize = 64;

/// Items that become one kernel, or one item that is no kernel.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Members, ascending.
    pub members: Vec<ItemId>,
    /// The common iteration space, split so that every use is affine in it.
    pub axes: Axes,
}

/// The result of fusion.
#[derive(Clone, Debug, Default)]
pub struct Fused {
    /// All items.
    pub items: Items,
    /// All groups.
    pub groups: Vec<Group>,
    /// The group of each item.
    pub group_of: Vec<u32>,
    /// Whether an item of a reducing group has one value per row.
    pub row: Vec<bool>,
    /// Values that a group computes again instead of loading them.
    pub inlined: HashSet<(u32, ItemId)>,
    /// Groups, dependencies first.
    pub order: Vec<u32>,
    /// Why fusion stopped, a line each.
    pub notes: Vec<String>,
}

/// Groups the values of a graph; every map and reduction stands alone when `fusion` is off. When `compact` is on, work on
/// single numbers that is alike, such as that of an optimizer for each parameter, is left in kernels that are alike.
pub fn run(graph: &Graph, fusion: bool, compact: bool) -> Result<Fused> {
    let mut items = items::build(graph)?;
    // Whatever is fused: the meaning of a product does not depend on it, but its speed does.
    orient::run(&mut items);
    let items = items;
    // A member takes about two instructions: its own and a load, a store or a constant.
    let max_members = usize::try_from(limits::get().max_kernel_insts / 2).unwrap_or(usize::MAX).max(1);
    let mut groups = Groups::new(&items, max_members);
    let (mut notes, mut inlined) = (Vec::new(), HashSet::new());
    if fusion {
        producers(graph, &items, &mut groups, compact, &mut notes);
        siblings(&items, &mut groups);
        if !compact {
            bundles(&items, &mut groups);
        }
        inlined = inline::run(&items, &mut groups, max_members);
    }
    let (list, group_of, order, row) = groups.finish();
    Ok(Fused { groups: list, group_of, row, inlined, order, notes, items })
}

/// True for copies that begin a buffer: alone they may turn out to be unnecessary.
fn begins(items: &Items, id: ItemId) -> bool {
    items.get(id).dest.as_ref().is_some_and(|d| d.whole)
}

/// Producers into consumers, in order.
fn producers(graph: &Graph, items: &Items, groups: &mut Groups<'_>, compact: bool, notes: &mut Vec<String>) {
    for id in items.ids() {
        let item = items.get(id);
        if !item.in_kernel() {
            continue;
        }
        for u in &item.uses {
            if !items.get(u.item).in_kernel() || (begins(items, id) && groups.users[u.item.index()].len() > 1) {
                continue;
            }
            // Through one number all of its users would join.
            if compact && items.get(u.item).len() == 1 && groups.users[u.item.index()].len() > MAX_COMPACT {
                continue;
            }
            let (from, to) = (groups.of(u.item), groups.of(id));
            if from != to
                && let Err(why) = groups.merge(from, to)
            {
                note(graph, items, notes, (u.item, id), why);
            }
        }
    }
}

fn note(graph: &Graph, items: &Items, notes: &mut Vec<String>, edge: (ItemId, ItemId), why: Refusal) {
    if notes.len() < MAX_NOTES {
        let name = |id: ItemId| {
            let node = items.get(id).node;
            format!("{} %{}", graph.node(node).op.name, node.0)
        };
        notes.push(format!("{} is not fused into {}: {why}", name(edge.0), name(edge.1)));
    } else if notes.len() == MAX_NOTES {
        notes.push("and so on".to_string());
    }
}

/// Kernels that walk the same value the same way.
fn siblings(items: &Items, groups: &mut Groups<'_>) {
    for id in items.ids() {
        let item = items.get(id);
        if item.is_virtual() || item.len() < 2 {
            continue;
        }
        let whole = |u: ItemId| {
            let user = items.get(u);
            let reads = user.uses.iter().any(|x| x.item == id && x.map.is_identity(item.len()));
            user.in_kernel() && reads && !begins(items, u)
        };
        let users: Vec<ItemId> =
            groups.users[id.index()].iter().copied().filter(|&u| whole(u)).take(MAX_SIBLINGS).collect();
        for pair in users.windows(2) {
            let (a, b) = (groups.of(pair[0]), groups.of(pair[1]));
            if a != b {
                let _ = groups.merge(a, b);
            }
        }
    }
}

/// Small independent kernels of one size: each saves a step.
fn bundles(items: &Items, groups: &mut Groups<'_>) {
    let mut small: Vec<(usize, u32, u32)> = Vec::new();
    for g in groups.roots() {
        let (points, members) = (groups.axes(g).points(), groups.members(g));
        let lone_copy = members.len() == 1 && items.get(members[0]).what == What::Map(None);
        if groups.is_kernel(g) && !groups.axes(g).reduces() && points <= SMALL && !lone_copy {
            small.push((points, groups.level(g), g));
        }
    }
    small.sort_unstable();
    for pair in small.windows(2) {
        let (a, b) = (groups.of(ItemId(pair[0].2)), groups.of(ItemId(pair[1].2)));
        let members = groups.members(a).len() + groups.members(b).len();
        if pair[0].0 == pair[1].0 && a != b && members <= MAX_BUNDLE {
            let _ = groups.merge(a, b);
        }
    }
}
