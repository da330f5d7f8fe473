//! Which way round a matrix product is stored.
//!
//! `(A B)` and its transpose `B^T A^T` are one product: whoever computes it may write either. Where the kernels
//! that use a product see it transposed, as updates of weights see the gradient of `x W^T`, it is computed the
//! other way round, so that they walk it as it lies in memory. Every element is the same sum in the same
//! order; only places change. Needs: items with their uses. Leaves: the same values.

use super::items::{Item, ItemId, Items, What};
use crate::layout::{Axes, Layout};
use smallvec::SmallVec;
use torsh_ir::shape::Shape;

/// Turns round every product that is seen transposed by its users.
pub fn run(items: &mut Items) {
    let mut users: Vec<Vec<ItemId>> = vec![Vec::new(); items.all.len()];
    for id in items.ids() {
        for u in &items.get(id).uses {
            users[u.item.index()].push(id);
        }
    }
    let mut output = vec![false; items.all.len()];
    items.outputs.iter().for_each(|o| output[o.0.index()] = true);
    for id in items.ids() {
        if !output[id.index()] {
            users[id.index()].dedup();
            turn(items, id, &users[id.index()]);
        }
    }
}

/// Positions of a product's buffer to positions of the buffer of its transpose.
fn transposed(item: &Item) -> Option<Layout> {
    let What::Dot(spec) = &item.what else { return None };
    if spec.m == 1 || spec.n == 1 {
        return None;
    }
    let (batch, m, n): (usize, usize, usize) = (spec.batch.iter().product(), spec.m, spec.n);
    Some(Layout::strided(0, &[batch, m, n], &[(m * n) as i64, 1, m as i64]))
}

fn unit(map: &Layout) -> bool {
    map.factors.last().is_none_or(|f| f.1 == 1)
}

fn turn(items: &mut Items, id: ItemId, users: &[ItemId]) {
    let Some(to) = transposed(items.get(id)) else { return };
    let (mut gain, mut changed) = (0i64, Vec::new());
    for &user in users {
        let mut item = items.get(user).clone();
        if !item.in_kernel() {
            return;
        }
        for u in item.uses.iter_mut().filter(|u| u.item == id) {
            let Some(map) = u.map.then(&to) else { return };
            gain += i64::from(unit(&map)) - i64::from(unit(&u.map));
            u.map = map;
        }
        // From the axes that the item demands to those that its uses need now.
        let mut axes = Axes::new(item.axes.0.iter().map(|a| (a.extent, a.inner)));
        let mut maps = item.uses.iter().map(|u| &u.map).chain(item.dest.iter().map(|d| &d.map));
        if !maps.all(|map| axes.refine(map, false)) {
            return;
        }
        item.axes = axes;
        changed.push((user, item));
    }
    if gain <= 0 {
        return;
    }
    for (user, item) in changed {
        items.all[user.index()] = item;
    }
    let item = &mut items.all[id.index()];
    if let What::Dot(spec) = &mut item.what {
        std::mem::swap(&mut spec.m, &mut spec.n);
        std::mem::swap(&mut spec.lhs, &mut spec.rhs);
        item.uses.reverse();
        let mut dims: SmallVec<[usize; 6]> = spec.batch.iter().copied().collect();
        dims.extend([spec.m, spec.n]);
        item.ty.shape = Shape::of(&dims);
    }
}
