//! One group to one kernel: which values it computes and in which domain.
//!
//! Every value is a [`Point`]: computed once per row (`row`) or once per inner point. A value of the full
//! space that does not change along a row is computed per row. [`super::stages`] then orders the points.

use crate::fuse::Fused;
use crate::fuse::items::{ItemId, Use, What};
use crate::layout::{Axes, Layout};
use smallvec::SmallVec;
use std::collections::HashMap;
use torsh_ir::attr::Scalar;
use torsh_ir::dtype::DType;
use torsh_ir::error::{Error, Result};
use torsh_ir::scalar::{ReduceOp, ScalarOp};

/// Index of a point; operands come first.
pub type PointId = u32;

/// What computes a point.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Calc {
    /// A constant.
    Const(Scalar),
    /// An element of an item's buffer.
    Load(ItemId, Layout),
    /// The layout itself, as i64.
    Index(Layout),
    /// A scalar operation.
    Op(ScalarOp, SmallVec<[PointId; 3]>),
    /// A fold over the row.
    Reduced(ReduceOp, PointId),
}

/// One value of a kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Point {
    /// What computes it.
    pub calc: Calc,
    /// Its dtype.
    pub dtype: DType,
    /// One value per row.
    pub row: bool,
}

/// A store.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The item whose buffer is written.
    pub buffer: ItemId,
    /// Where.
    pub map: Layout,
    /// What.
    pub point: PointId,
    /// One store per row.
    pub row: bool,
}

/// The values of a kernel, unordered in stages.
pub struct Body {
    /// Points, operands first.
    pub points: Vec<Point>,
    /// Stores.
    pub sinks: Vec<Sink>,
    /// Iteration space; every layout is affine in it.
    pub axes: Axes,
}

/// Builds the points that a group needs to store `wanted`.
pub fn body(fused: &Fused, group: u32, wanted: &[ItemId]) -> Result<Body> {
    let g = &fused.groups[group as usize];
    let mut e = Emit {
        fused,
        group,
        body: Body { points: Vec::new(), sinks: Vec::new(), axes: g.axes.clone() },
        reduces: g.axes.reduces(),
        known: HashMap::new(),
        members: HashMap::new(),
        seen: HashMap::new(),
    };
    for id in e.needed(wanted) {
        e.member(id)?;
    }
    for &id in wanted {
        e.sink(id)?;
    }
    e.refine()?;
    Ok(e.body)
}

struct Emit<'a> {
    fused: &'a Fused,
    group: u32,
    body: Body,
    reduces: bool,
    /// Equal points are one.
    known: HashMap<Point, PointId>,
    members: HashMap<ItemId, PointId>,
    /// Values of other items by domain and layout.
    seen: HashMap<(ItemId, bool, Layout), PointId>,
}

impl Emit<'_> {
    /// Members that `wanted` depends on within the group, ascending.
    fn needed(&self, wanted: &[ItemId]) -> Vec<ItemId> {
        let own = |id: ItemId| self.fused.group_of[id.index()] == self.group;
        let mut stack = wanted.to_vec();
        let mut marked: HashMap<ItemId, ()> = HashMap::new();
        while let Some(id) = stack.pop() {
            let enters = own(id) || self.fused.inlined.contains(&(self.group, id));
            if enters && marked.insert(id, ()).is_none() {
                stack.extend(self.fused.items.get(id).uses.iter().map(|u| u.item));
            }
        }
        let mut needed: Vec<ItemId> = marked.into_keys().filter(|&id| own(id)).collect();
        needed.sort_unstable();
        needed
    }

    fn point(&mut self, calc: Calc, dtype: DType, row: bool) -> PointId {
        let point = Point { calc, dtype, row };
        if let Some(&id) = self.known.get(&point) {
            return id;
        }
        let id = self.body.points.len() as PointId;
        self.body.points.push(point.clone());
        self.known.insert(point, id);
        id
    }

    fn member(&mut self, id: ItemId) -> Result<()> {
        let item = self.fused.items.get(id);
        let row = self.fused.row[id.index()];
        let point = match item.what {
            What::Map(op) => {
                let args = item.uses.iter().map(|u| self.value(u, row)).collect::<Result<_>>()?;
                self.apply(op, args, item.ty.dtype, row)?
            }
            What::Reduce(op) => {
                let value = self.value(&item.uses[0], false)?;
                let value = self.full(value);
                self.point(Calc::Reduced(op, value), item.ty.dtype, true)
            }
            _ => return Err(Error::internal("only maps and reductions are computed by kernels")),
        };
        self.members.insert(id, point);
        Ok(())
    }

    fn apply(
        &mut self,
        op: Option<ScalarOp>,
        args: SmallVec<[PointId; 3]>,
        dtype: DType,
        row: bool,
    ) -> Result<PointId> {
        match op {
            Some(op) => {
                // All operands per row (or constant): so is the result.
                let per_row = self.reduces && args.iter().all(|&a| self.body.points[a as usize].row);
                Ok(self.point(Calc::Op(op, args), dtype, row || per_row))
            }
            None => args.first().copied().ok_or_else(|| Error::internal("a copy has one operand")),
        }
    }

    /// The value of an item at each position of the full space, or of the rows.
    fn value(&mut self, u: &Use, row: bool) -> Result<PointId> {
        let item = self.fused.items.get(u.item);
        if let What::Splat(value) = item.what {
            // A constant belongs to every domain; in a kernel without rows there is only the full one.
            return Ok(self.point(Calc::Const(value), item.ty.dtype, self.reduces));
        }
        let member = self.members.get(&u.item).copied();
        if let Some(point) = member
            && (row == self.fused.row[u.item.index()] && u.map.is_identity(item.len()))
        {
            return Ok(point);
        }
        let key = (u.item, row, u.map.clone());
        if let Some(&point) = self.seen.get(&key) {
            return Ok(point);
        }
        let point = self.foreign(u, row)?;
        self.seen.insert(key, point);
        Ok(point)
    }

    fn foreign(&mut self, u: &Use, row: bool) -> Result<PointId> {
        if !row
            && self.reduces
            && let Some(map) = self.body.axes.row_part(&u.map)
        {
            return self.value(&Use { item: u.item, map }, true);
        }
        let item = self.fused.items.get(u.item);
        if self.members.contains_key(&u.item) {
            return Err(Error::internal(format!("%{} is seen through a view inside its own kernel", item.node.0)));
        }
        let dtype = item.ty.dtype;
        if item.what == What::Position {
            let index = self.point(Calc::Index(u.map.clone()), DType::I64, row);
            if dtype == DType::I64 {
                return Ok(index);
            }
            return Ok(self.point(Calc::Op(ScalarOp::Cast, SmallVec::from_slice(&[index])), dtype, row));
        }
        if self.fused.inlined.contains(&(self.group, u.item))
            && let What::Map(op) = item.what
        {
            let mut args = SmallVec::new();
            for inner in &item.uses {
                let map = match self.fused.items.get(inner.item).what {
                    What::Splat(_) => Layout::zero(u.map.len()),
                    _ => u.map.then(&inner.map).ok_or_else(|| Error::internal("an inlined view does not fold"))?,
                };
                args.push(self.value(&Use { item: inner.item, map }, row)?);
            }
            return self.apply(op, args, dtype, row);
        }
        Ok(self.point(Calc::Load(u.item, u.map.clone()), dtype, row))
    }

    /// The point itself, or the same value at every inner point.
    fn full(&mut self, point: PointId) -> PointId {
        let p = self.body.points[point as usize].clone();
        if !p.row {
            return point;
        }
        if let Calc::Const(_) = p.calc {
            return self.point(p.calc, p.dtype, false);
        }
        let yes = self.point(Calc::Const(Scalar::Bool(true)), DType::Bool, false);
        self.point(Calc::Op(ScalarOp::Select, SmallVec::from_slice(&[yes, point, point])), p.dtype, false)
    }

    fn sink(&mut self, id: ItemId) -> Result<()> {
        let item = self.fused.items.get(id);
        let row = self.fused.row[id.index()] || matches!(item.what, What::Reduce(_));
        let point = self.members.get(&id).copied().ok_or_else(|| Error::internal("a stored value is not computed"))?;
        let point = if row { point } else { self.full(point) };
        let (buffer, map) = match &item.dest {
            Some(dest) => (dest.join, dest.map.clone()),
            None => (id, Layout::identity(item.len())),
        };
        self.body.sinks.push(Sink { buffer, map, point, row });
        Ok(())
    }

    /// Splits the axes until every layout is affine in them.
    fn refine(&mut self) -> Result<()> {
        let Body { points, sinks, axes } = &mut self.body;
        let loads = points.iter().filter_map(|p| match &p.calc {
            Calc::Load(_, map) | Calc::Index(map) => Some((map, p.row)),
            _ => None,
        });
        for (map, row) in loads.chain(sinks.iter().map(|s| (&s.map, s.row))) {
            if !axes.refine(map, row && self.reduces) {
                return Err(Error::internal("a fused view is not affine in the kernel's axes"));
            }
        }
        Ok(())
    }
}
