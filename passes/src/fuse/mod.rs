//! Fusion: which values one kernel computes.
//!
//! Needs: a graph of primitives. Leaves: the [`items`] of the graph, each map and reduction in a group that
//! becomes one kernel. Groups never depend on each other in a circle.

pub mod dot;
pub mod items;

use crate::layout::Axes;
use items::{ItemId, Items};
use std::collections::HashSet;
use torsh_ir::error::Result;
use torsh_ir::graph::Graph;

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

/// Groups the values of a graph; every map and reduction stands alone when `fusion` is off.
pub fn run(graph: &Graph, _fusion: bool) -> Result<Fused> {
    let items = items::build(graph)?;
    let n = items.all.len();
    let groups = items.ids().map(|id| Group { members: vec![id], axes: items.get(id).axes.clone() }).collect();
    Ok(Fused {
        groups,
        group_of: (0..n as u32).collect(),
        row: items.ids().map(|id| matches!(items.get(id).what, items::What::Reduce(_))).collect(),
        inlined: HashSet::new(),
        order: (0..n as u32).collect(),
        notes: Vec::new(),
        items,
    })
}
