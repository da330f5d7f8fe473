//! Groups under construction, as a graph that stays free of circles.
//!
//! Every group has a level above those of the groups it depends on. Two groups may merge unless a path
//! leads from the lower to the higher one through a third; a search for such a path only enters groups of
//! levels in between, so that it is short.

use super::Group;
use super::items::{ItemId, Items, Use, What};
use crate::layout::Axes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most reductions of a kernel.
const MAX_REDUCES: usize = 16;
/// Groups that one search for a path may enter.
const SEARCH: usize = 1024;
/// Fewer rows than this, over more points than [`LARGE`], leave threads idle.
const FEW_ROWS: usize = 8;
const LARGE: usize = 1 << 16;

/// Why two groups stay apart.
pub type Refusal = &'static str;

const READS_AGAIN: Refusal = "reading this reduction again along its rows would be slow";

#[derive(Default)]
struct Node {
    members: Vec<ItemId>,
    axes: Axes,
    kernel: bool,
    reduces: usize,
    level: u32,
    preds: Vec<u32>,
    succs: Vec<u32>,
}

/// What a merge would make.
struct Merge {
    axes: Axes,
    /// The group whose members become row values.
    rows: Option<u32>,
    /// The folds are slow to store from and to read again: see [`Groups::narrow`].
    narrow: bool,
}

/// The groups.
pub struct Groups<'a> {
    items: &'a Items,
    nodes: Vec<Node>,
    parent: Vec<u32>,
    /// The group of each item.
    group_of: Vec<u32>,
    /// Items with one value per row.
    pub row: Vec<bool>,
    /// Users of each item, one entry per use.
    pub users: Vec<Vec<ItemId>>,
    /// Items that must be in memory whatever is fused.
    pub stored: Vec<bool>,
    max_members: usize,
    /// The last search that entered each group.
    visited: Vec<u32>,
    visit: u32,
}

impl<'a> Groups<'a> {
    /// One group per item.
    pub fn new(items: &'a Items, max_members: usize) -> Groups<'a> {
        let n = items.all.len();
        let mut users = vec![Vec::new(); n];
        let mut stored = vec![false; n];
        for (out, _) in &items.outputs {
            stored[out.index()] = true;
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(n);
        for id in items.ids() {
            let item = items.get(id);
            let mut preds: Vec<u32> = Vec::new();
            for u in &item.uses {
                users[u.item.index()].push(id);
                stored[u.item.index()] |= !item.in_kernel() && item.what != What::Join;
                preds.push(u.item.0);
            }
            preds.extend(item.dest.as_ref().and_then(|d| d.after).map(|a| a.0));
            preds.retain(|&p| {
                !matches!(items.all[p as usize].what, What::Leaf | What::Empty) && !items.all[p as usize].is_virtual()
            });
            preds.sort_unstable();
            preds.dedup();
            for &p in &preds {
                nodes[p as usize].succs.push(id.0);
            }
            let level = preds.iter().map(|&p| nodes[p as usize].level + 1).max().unwrap_or(0);
            let kernel = item.in_kernel();
            let reduces = usize::from(matches!(item.what, What::Reduce(_)));
            nodes.push(Node {
                members: vec![id],
                axes: item.axes.clone(),
                kernel,
                reduces,
                level,
                preds,
                succs: Vec::new(),
            });
        }
        let row = items.all.iter().map(|i| matches!(i.what, What::Reduce(_))).collect();
        Groups {
            items,
            nodes,
            parent: (0..n as u32).collect(),
            group_of: (0..n as u32).collect(),
            row,
            users,
            stored,
            max_members,
            visited: vec![0; n],
            visit: 0,
        }
    }

    fn find(&mut self, mut g: u32) -> u32 {
        while self.parent[g as usize] != g {
            let up = self.parent[self.parent[g as usize] as usize];
            self.parent[g as usize] = up;
            g = up;
        }
        g
    }

    /// The group of an item.
    pub fn of(&self, id: ItemId) -> u32 {
        self.group_of[id.index()]
    }

    /// Members of a group.
    pub fn members(&self, g: u32) -> &[ItemId] {
        &self.nodes[g as usize].members
    }
    /// Iteration space of a group.
    pub fn axes(&self, g: u32) -> &Axes {
        &self.nodes[g as usize].axes
    }
    /// Replaces the iteration space by a finer one.
    pub fn set_axes(&mut self, g: u32, axes: Axes) {
        self.nodes[g as usize].axes = axes;
    }
    /// True for groups that become kernels.
    pub fn is_kernel(&self, g: u32) -> bool {
        self.nodes[g as usize].kernel
    }
    /// Ids of the groups that stand.
    pub fn roots(&self) -> Vec<u32> {
        (0..self.nodes.len() as u32).filter(|&g| self.parent[g as usize] == g).collect()
    }
    /// Level of a group.
    pub fn level(&self, g: u32) -> u32 {
        self.nodes[g as usize].level
    }

    /// Merges two groups, or says why not.
    pub fn merge(&mut self, a: u32, b: u32) -> Result<(), Refusal> {
        let (low, high) = if self.level(a) <= self.level(b) { (a, b) } else { (b, a) };
        let merge = self.plan(low, high)?;
        if self.path_between(low, high) {
            return Err("another step stands between them");
        }
        if let Some(rows) = merge.rows {
            for i in 0..self.nodes[rows as usize].members.len() {
                let id = self.nodes[rows as usize].members[i];
                self.row[id.index()] = true;
            }
        }
        self.join(low, high, merge.axes);
        Ok(())
    }

    fn plan(&self, a: u32, b: u32) -> Result<Merge, Refusal> {
        let (x, y) = (&self.nodes[a as usize], &self.nodes[b as usize]);
        if !x.kernel || !y.kernel {
            return Err("library calls and matrix products do not fuse");
        }
        if x.members.len() + y.members.len() > self.max_members {
            return Err("the kernel would be too long");
        }
        let (mut axes, plain, b_plain) = match (x.axes.reduces(), y.axes.reduces()) {
            (true, false) => (x.axes.clone(), &y.axes, b),
            (false, true) => (y.axes.clone(), &x.axes, a),
            _ => (x.axes.clone(), &y.axes, b),
        };
        let mut rows = None;
        let fits = if axes.points() == plain.points() {
            axes.unify(plain)
        } else if axes.reduces() && !plain.reduces() && axes.rows() == plain.points() {
            rows = Some(b_plain);
            axes.unify_rows(plain)
        } else {
            return Err("their iteration spaces differ");
        };
        if !fits {
            return Err("their axes do not divide each other");
        }
        if x.reduces + y.reduces > MAX_REDUCES {
            return Err("the kernel would reduce too often");
        }
        let narrow = axes.is_column() || (axes.reduces() && axes.rows() < FEW_ROWS && axes.points() > LARGE);
        let merge = Merge { axes, rows, narrow };
        self.cross_edges(a, b, &merge)?;
        if narrow {
            self.narrow(a, b, &merge)?;
        }
        Ok(merge)
    }

    fn is_row(&self, id: ItemId, merge: &Merge) -> bool {
        self.row[id.index()] || merge.rows.is_some_and(|r| self.of(id) == r)
    }

    /// The uses between two groups; those inside each stay as they are.
    fn cross_edges(&self, a: u32, b: u32, merge: &Merge) -> Result<(), Refusal> {
        let len = |g: u32| self.nodes[g as usize].members.len();
        let (small, large) = if len(a) <= len(b) { (a, b) } else { (b, a) };
        let begins =
            |user: ItemId, whole: ItemId| self.items.get(user).dest.as_ref().is_some_and(|d| d.after == Some(whole));
        for &id in &self.nodes[small as usize].members {
            let item = self.items.get(id);
            if item.dest.as_ref().and_then(|d| d.after).is_some_and(|after| self.of(after) == large) {
                return Err("one writes what the other begins");
            }
            for u in item.uses.iter().filter(|u| self.of(u.item) == large) {
                self.edge(u, id, merge)?;
            }
            if let Some(dest) = item.dest.as_ref().filter(|d| d.whole) {
                let parts = &self.items.get(dest.join).uses;
                if parts.iter().any(|p| begins(p.item, id) && self.of(p.item) == large) {
                    return Err("one writes what the other begins");
                }
            }
            for &user in self.users[id.index()].iter().filter(|&&user| self.of(user) == large) {
                for u in self.items.get(user).uses.iter().filter(|u| u.item == id) {
                    self.edge(u, user, merge)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing is stored from inside a narrow reduction, or reads its result along its rows.
    fn narrow(&self, a: u32, b: u32, merge: &Merge) -> Result<(), Refusal> {
        let own = |id: ItemId| matches!(self.of(id), g if g == a || g == b);
        for &id in self.nodes[a as usize].members.iter().chain(&self.nodes[b as usize].members) {
            if self.is_row(id, merge) {
                continue;
            }
            if self.stored[id.index()] || !self.users[id.index()].iter().all(|&u| own(u)) {
                return Err("storing from inside this reduction would be slow");
            }
            if self.items.get(id).uses.iter().any(|u| own(u.item) && self.is_row(u.item, merge)) {
                return Err(READS_AGAIN);
            }
        }
        Ok(())
    }

    /// A use inside one kernel must see its value at the same point, or the row's value along the row.
    fn edge(&self, u: &Use, user: ItemId, merge: &Merge) -> Result<(), Refusal> {
        let folds = matches!(self.items.get(user).what, What::Reduce(_));
        let fits = match (self.is_row(u.item, merge), self.is_row(user, merge) && !folds) {
            (false, false) | (true, true) => u.map.is_identity(self.items.get(u.item).len()),
            (true, false) if merge.narrow => return Err(READS_AGAIN),
            (true, false) => u.map == merge.axes.to_row(),
            (false, true) => return Err("a row value would need other rows"),
        };
        if fits { Ok(()) } else { Err("the value is seen through a view") }
    }

    /// True when a path leads from `low` to `high` through a third group, or when the search gives up.
    fn path_between(&mut self, low: u32, high: u32) -> bool {
        let floor = self.level(low);
        if self.level(high) <= floor + 1 {
            return false;
        }
        self.visit += 1;
        let (mut stack, mut entered) = (vec![high], 0);
        while let Some(g) = stack.pop() {
            for i in 0..self.nodes[g as usize].preds.len() {
                let p = self.find(self.nodes[g as usize].preds[i]);
                if p == low {
                    if g != high {
                        return true;
                    }
                } else if p != g && self.level(p) > floor && self.visited[p as usize] != self.visit {
                    self.visited[p as usize] = self.visit;
                    entered += 1;
                    if entered > SEARCH {
                        return true;
                    }
                    stack.push(p);
                }
            }
        }
        false
    }

    /// Names the neighbours of a group by the groups that now hold them.
    fn tidy(&mut self, g: u32) {
        for side in 0..2 {
            let node = &mut self.nodes[g as usize];
            let mut list = std::mem::take(if side == 0 { &mut node.preds } else { &mut node.succs });
            for p in &mut list {
                *p = self.find(*p);
            }
            list.sort_unstable();
            list.dedup();
            list.retain(|&p| p != g);
            let node = &mut self.nodes[g as usize];
            *(if side == 0 { &mut node.preds } else { &mut node.succs }) = list;
        }
    }

    fn join(&mut self, low: u32, high: u32, axes: Axes) {
        let from = std::mem::take(&mut self.nodes[low as usize]);
        self.parent[low as usize] = high;
        for id in &from.members {
            self.group_of[id.index()] = high;
        }
        let to = &mut self.nodes[high as usize];
        to.members.extend(from.members);
        to.members.sort_unstable();
        to.reduces += from.reduces;
        to.preds.extend(from.preds);
        to.succs.extend(from.succs);
        to.axes = axes;
        self.tidy(high);
        // What depended on the lower group now depends on the higher one.
        let mut stack = vec![high];
        while let Some(g) = stack.pop() {
            let above = self.level(g) + 1;
            for i in 0..self.nodes[g as usize].succs.len() {
                let s = self.find(self.nodes[g as usize].succs[i]);
                if s != g && self.level(s) < above {
                    self.nodes[s as usize].level = above;
                    stack.push(s);
                }
            }
        }
    }

    /// Groups with dependencies first, otherwise in the order of their last items.
    pub fn finish(mut self) -> (Vec<Group>, Vec<u32>, Vec<u32>, Vec<bool>) {
        let roots = self.roots();
        let mut waiting = vec![0usize; self.nodes.len()];
        let mut ready = BinaryHeap::new();
        for &g in &roots {
            self.tidy(g);
            waiting[g as usize] = self.nodes[g as usize].preds.len();
            if waiting[g as usize] == 0 {
                ready.push(Reverse((self.nodes[g as usize].members.last().copied(), g)));
            }
        }
        let mut order = Vec::with_capacity(roots.len());
        while let Some(Reverse((_, g))) = ready.pop() {
            order.push(g);
            for &s in &self.nodes[g as usize].succs {
                waiting[s as usize] -= 1;
                if waiting[s as usize] == 0 {
                    ready.push(Reverse((self.nodes[s as usize].members.last().copied(), s)));
                }
            }
        }
        let of = std::mem::take(&mut self.group_of);
        let groups = self.nodes.into_iter().map(|n| Group { members: n.members, axes: n.axes }).collect();
        (groups, of, order, self.row)
    }
}
