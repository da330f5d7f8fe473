//! Items: the graph with its views folded away.
//!
//! Every value of the graph becomes a [`Use`]: an item and the layout that sends positions of the value to
//! positions of the item. Reshape, permute, expand, slice, flip and windows only change the layout; where a layout
//! cannot express a view, its operand is copied to memory first. `full` and `iota` are virtual: they are
//! computed where they are used. Pad, concat and slice_scatter become parts written into one buffer.
//! Item ids are a topological order.

use crate::fuse::attention;
use crate::fuse::dot::{self, DotSpec};
use crate::layout::{self, Axes, Layout};
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;
use torsh_ir::attr::{AttrsExt, Scalar};
use torsh_ir::dtype::DType;
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::op::{Kind, View};
use torsh_ir::program::{LibCall, ScatterMode};
use torsh_ir::scalar::{self, ReduceOp, ScalarOp};
use torsh_ir::shape::{Shape, Type};

/// Index of an item.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ItemId(pub u32);

impl ItemId {
    /// For side tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value as its user sees it: position `p` of the user's space is element `map(p)` of the item.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Use {
    /// The item.
    pub item: ItemId,
    /// From positions of the user to positions of the item.
    pub map: Layout,
}

/// What an item is.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// Memory that exists before the run: an input or a constant.
    Leaf,
    /// A value without elements.
    Empty,
    /// One number; virtual.
    Splat(Scalar),
    /// The position itself, converted to the item's dtype; virtual.
    Position,
    /// A scalar operation at each position; `None` copies.
    Map(Option<ScalarOp>),
    /// A fold of the operand; the item's axes say over what.
    Reduce(ReduceOp),
    /// A buffer that other items write, each a part; those are its uses.
    Join,
    /// A matrix product.
    Dot(Box<DotSpec>),
    /// A library call on contiguous operands.
    Lib(LibCall),
}

/// Where an item's value goes when not to a buffer of its own.
#[derive(Clone, PartialEq, Debug)]
pub struct Dest {
    /// The buffer's item.
    pub join: ItemId,
    /// From positions of the item to positions of the buffer.
    pub map: Layout,
    /// The item that must have written the whole buffer before.
    pub after: Option<ItemId>,
    /// True for an item that writes the whole buffer before its parts.
    pub whole: bool,
}

/// One item.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// What it is.
    pub what: What,
    /// Operands.
    pub uses: SmallVec<[Use; 3]>,
    /// Dtype and shape of its buffer.
    pub ty: Type,
    /// The graph node that it stands for.
    pub node: NodeId,
    /// For parts of a buffer.
    pub dest: Option<Dest>,
    /// The space that a map or reduction runs over, split so that every use is affine in it.
    pub axes: Axes,
}

impl Item {
    /// True for values that are computed where they are used.
    pub fn is_virtual(&self) -> bool {
        matches!(self.what, What::Splat(_) | What::Position)
    }
    /// True for items that kernels compute.
    pub fn in_kernel(&self) -> bool {
        matches!(self.what, What::Map(_) | What::Reduce(_))
    }
    /// True for values without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element count.
    pub fn len(&self) -> usize {
        self.ty.numel()
    }
}

/// All items of a graph.
#[derive(Clone, Debug, Default)]
pub struct Items {
    /// Operands before users.
    pub all: Vec<Item>,
    /// Item and type of each graph output. The item has a buffer, or is empty.
    pub outputs: Vec<(ItemId, Type)>,
    /// The item of each graph input; `None` where nothing uses it.
    pub inputs: Vec<Option<ItemId>>,
}

impl Items {
    /// An item.
    pub fn get(&self, id: ItemId) -> &Item {
        &self.all[id.index()]
    }
    /// All ids.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ItemId> + use<> {
        (0..self.all.len() as u32).map(ItemId)
    }
}

/// Folds the views of a graph of primitives.
pub fn build(graph: &Graph) -> Result<Items> {
    let mut b = Build { graph, items: Items::default(), seen: vec![None; graph.len()], known: HashMap::new() };
    b.items.inputs = vec![None; graph.inputs().len()];
    let live = graph.live();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let seen = b.node(id).map_err(|e| e.with_op(graph.node(id).op.name).with_loc(graph.loc(id).cloned()))?;
        b.seen[id.index()] = Some(seen);
    }
    for &out in graph.outputs() {
        let seen = b.seen(out)?;
        let item = b.in_memory(seen, out, true);
        b.items.outputs.push((item, graph.ty(out).clone()));
    }
    Ok(b.items)
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Known {
    Empty(DType),
    Splat(Scalar, DType),
    Position(DType),
    Copy(Use),
}

struct Build<'g> {
    graph: &'g Graph,
    items: Items,
    seen: Vec<Option<Use>>,
    known: HashMap<Known, ItemId>,
}

impl Build<'_> {
    fn seen(&self, id: NodeId) -> Result<Use> {
        self.seen[id.index()].clone().ok_or_else(|| Error::internal(format!("operand %{} comes after its user", id.0)))
    }

    fn push(&mut self, what: What, uses: SmallVec<[Use; 3]>, ty: Type, node: NodeId) -> ItemId {
        let id = ItemId(self.items.all.len() as u32);
        self.items.all.push(Item { what, uses, ty, node, dest: None, axes: Axes::default() });
        id
    }

    /// Adds a map or reduction over `axes`. Uses that are not affine in common axes are copied first.
    fn push_loop(
        &mut self,
        what: What,
        mut uses: SmallVec<[Use; 3]>,
        operands: &[NodeId],
        ty: Type,
        node: NodeId,
        mut axes: Axes,
    ) -> ItemId {
        for (u, &x) in uses.iter_mut().zip(operands) {
            if !axes.refine(&u.map, false) {
                let copy = self.copy(u.clone(), x);
                *u = Use { item: copy, map: Layout::identity(axes.points()) };
            }
        }
        let id = self.push(what, uses, ty, node);
        self.items.all[id.index()].axes = axes;
        id
    }

    /// The value of a fresh item.
    fn whole(&mut self, what: What, uses: SmallVec<[Use; 3]>, ty: Type, node: NodeId) -> Use {
        let map = Layout::identity(ty.numel());
        Use { item: self.push(what, uses, ty, node), map }
    }

    fn shared(&mut self, key: Known, what: What, dtype: DType, node: NodeId) -> ItemId {
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let shape = if what == What::Empty { Shape::of(&[0]) } else { Shape::scalar() };
        let id = self.push(what, smallvec![], Type::new(dtype, shape), node);
        self.known.insert(key, id);
        id
    }

    fn splat(&mut self, value: Scalar, ty: &Type, node: NodeId) -> Use {
        let item = self.shared(Known::Splat(value, ty.dtype), What::Splat(value), ty.dtype, node);
        Use { item, map: Layout::zero(ty.numel()) }
    }

    fn empty(&mut self, dtype: DType, node: NodeId) -> Use {
        Use { item: self.shared(Known::Empty(dtype), What::Empty, dtype, node), map: Layout::zero(0) }
    }

    /// A contiguous copy of a value, made once.
    fn copy(&mut self, value: Use, node: NodeId) -> ItemId {
        let key = Known::Copy(value.clone());
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let ty = self.graph.ty(node).clone();
        let axes = Axes::new([(ty.numel(), false)]);
        let id = self.push_loop(What::Map(None), smallvec![value], &[node], ty, node, axes);
        self.known.insert(key, id);
        id
    }

    /// The item whose buffer holds exactly this value. Constants are copied where the caller owns the result.
    fn in_memory(&mut self, value: Use, node: NodeId, owned: bool) -> ItemId {
        let item = self.items.get(value.item);
        let constant = owned && item.what == What::Leaf && self.graph.node(item.node).op.kind != Kind::Input;
        if item.what == What::Empty || (!item.is_virtual() && !constant && value.map.is_identity(item.len())) {
            return value.item;
        }
        self.copy(value, node)
    }

    fn node(&mut self, id: NodeId) -> Result<Use> {
        let node = self.graph.node(id);
        let ty = &node.ty;
        if ty.numel() == 0 && node.op.kind != Kind::Input {
            return Ok(self.empty(ty.dtype, id));
        }
        match node.op.kind {
            Kind::Input => {
                let seen = self.whole(What::Leaf, smallvec![], ty.clone(), id);
                let index = node.attrs.int(0) as usize;
                self.items.inputs[index] = Some(seen.item);
                Ok(seen)
            }
            Kind::Constant if ty.numel() == 1 => {
                let mut bits = [0; 8];
                bits[..ty.dtype.size()].copy_from_slice(node.attrs.bytes(0));
                let value = scalar::from_bits(u64::from_le_bytes(bits), ty.dtype);
                // A NaN keeps its bits only in memory.
                if value.as_f64().is_nan() {
                    return Ok(self.whole(What::Leaf, smallvec![], ty.clone(), id));
                }
                Ok(self.splat(value, ty, id))
            }
            Kind::Constant => Ok(self.whole(What::Leaf, smallvec![], ty.clone(), id)),
            Kind::Full => Ok(self.splat(node.attrs.scalar(0), ty, id)),
            Kind::Iota => {
                let dim = node.attrs.int(0) as usize;
                let map = Layout::new(0, (0..ty.rank()).map(|d| (ty.shape[d], i64::from(d == dim))));
                let item = self.shared(Known::Position(ty.dtype), What::Position, ty.dtype, id);
                Ok(Use { item, map })
            }
            Kind::Elementwise(op) => {
                let uses = node.operands.iter().map(|&o| self.seen(o)).collect::<Result<_>>()?;
                let axes = Axes::new([(ty.numel(), false)]);
                let from = node.operands.first().map(|&o| self.graph.ty(o).dtype);
                let op = match (op, from) {
                    // The byte of a bool is the number 0 or 1.
                    (ScalarOp::Bitcast, Some(DType::Bool)) => ScalarOp::Cast,
                    (op, _) => op,
                };
                let item = self.push_loop(What::Map(Some(op)), uses, &node.operands, ty.clone(), id, axes);
                Ok(Use { item, map: Layout::identity(ty.numel()) })
            }
            Kind::Reduce(op) => self.reduce(id, op),
            Kind::View(view) => self.view(id, view),
            Kind::Concat => self.concat(id),
            Kind::SliceScatter => self.slice_scatter(id),
            Kind::Dot => self.dot(id),
            Kind::Scan(op) => self.lib(id, LibCall::Scan { op, dim: node.attrs.int(0) as usize }),
            Kind::Take => self.lib(id, LibCall::Take { dim: node.attrs.int(0) as usize }),
            Kind::Gather => self.lib(id, LibCall::Gather { dim: node.attrs.int(0) as usize }),
            Kind::Scatter => {
                let mode = scatter_mode(node.attrs.str(1))?;
                self.lib(id, LibCall::Scatter { dim: node.attrs.int(0) as usize, mode })
            }
            Kind::IndexPut => {
                let mode = scatter_mode(node.attrs.str(1))?;
                self.lib(id, LibCall::IndexPut { dim: node.attrs.int(0) as usize, mode })
            }
            Kind::ArgSort => {
                let (dim, descending) = (node.attrs.int(0) as usize, node.attrs.bool(1));
                self.lib(id, LibCall::ArgSort { dim, descending })
            }
            Kind::Attention => self.attention(id, true),
            Kind::AttentionGrad => self.attention(id, false),
            Kind::Composite => Err(Error::internal(format!("composite {} reached fusion", node.op.name))),
        }
    }

    fn reduce(&mut self, id: NodeId, op: ReduceOp) -> Result<Use> {
        let node = self.graph.node(id);
        let x = node.operands[0];
        let (shape, ty) = (self.graph.shape(x), &node.ty);
        // ArgMax and ArgMin give one dim as an integer or as a list of one.
        let dims: SmallVec<[i64; 6]> = match &node.attrs[0] {
            torsh_ir::Attr::Int(d) => smallvec![*d],
            _ => node.attrs.ints(0).iter().copied().collect(),
        };
        let is_arg = matches!(op, ReduceOp::ArgMax | ReduceOp::ArgMin);
        if shape.numel() == 0 {
            return Ok(self.splat(scalar::identity(op, self.graph.ty(x).dtype), ty, id));
        }
        let axes = Axes::new((0..shape.rank()).map(|d| (shape[d], dims.contains(&(d as i64)))));
        if !axes.reduces() {
            return if is_arg { Ok(self.splat(Scalar::Int(0), ty, id)) } else { self.seen(x) };
        }
        let seen = self.seen(x)?;
        let item = self.push_loop(What::Reduce(op), smallvec![seen], &[x], ty.clone(), id, axes);
        Ok(Use { item, map: Layout::identity(ty.numel()) })
    }

    fn view(&mut self, id: NodeId, view: View) -> Result<Use> {
        let node = self.graph.node(id);
        let x = node.operands[0];
        let (from, to) = (self.graph.shape(x), &node.ty.shape);
        let map = match view {
            View::Reshape => return self.seen(x),
            View::Permute => layout::permute(from, node.attrs.ints(0)),
            View::Expand => layout::expand(from, to),
            View::Slice => layout::slice(from, to, node.attrs.ints(0), node.attrs.ints(2)),
            View::Flip => layout::flip(from, node.attrs.ints(0)),
            View::Windows => {
                let a = &node.attrs;
                layout::windows(from, to, a.ints(0), a.ints(2), a.ints(3))
            }
            View::Pad => return self.pad(id),
        };
        let seen = self.seen(x)?;
        Ok(self.through(seen, map, x))
    }

    /// A value seen through a further view; copied to memory first where the two do not fold.
    fn through(&mut self, value: Use, view: Layout, node: NodeId) -> Use {
        if let What::Splat(_) = self.items.get(value.item).what {
            return Use { item: value.item, map: Layout::zero(view.len()) };
        }
        match view.then(&value.map) {
            Some(map) => Use { item: value.item, map },
            None => Use { item: self.copy(value, node), map: view },
        }
    }

    /// A part of a buffer under construction.
    fn part(&mut self, value: Use, x: NodeId, node: NodeId, map: Layout, after: Option<ItemId>) -> ItemId {
        let ty = self.graph.ty(x).clone();
        let mut axes = Axes::new([(ty.numel(), false)]);
        // The layout of a slice refines a single axis.
        axes.refine(&map, false);
        let id = self.push_loop(What::Map(None), smallvec![value], &[x], ty, node, axes);
        // The join does not exist yet; `join` fills it in.
        self.items.all[id.index()].dest = Some(Dest { join: id, map, after, whole: false });
        id
    }

    fn join(&mut self, parts: &[ItemId], node: NodeId) -> Use {
        let uses = parts.iter().map(|&item| Use { item, map: Layout::default() }).collect();
        let whole = self.whole(What::Join, uses, self.graph.ty(node).clone(), node);
        for &p in parts {
            if let Some(dest) = &mut self.items.all[p.index()].dest {
                dest.join = whole.item;
            }
        }
        whole
    }

    fn pad(&mut self, id: NodeId) -> Result<Use> {
        let node = self.graph.node(id);
        let x = node.operands[0];
        let (from, ty, value) = (self.graph.ty(x).clone(), &node.ty, node.attrs.scalar(2));
        if from.numel() == 0 {
            return Ok(self.splat(value, ty, id));
        }
        let seen = self.seen(x)?;
        if from.shape == ty.shape {
            return Ok(seen);
        }
        let fill = self.push(What::Lib(LibCall::Fill(value)), smallvec![], ty.clone(), id);
        let map = Layout::identity(ty.numel());
        self.items.all[fill.index()].dest = Some(Dest { join: fill, map, after: None, whole: true });
        let ones = vec![1; from.rank()];
        let map = layout::slice(&ty.shape, &from.shape, node.attrs.ints(0), &ones);
        let part = self.part(seen, x, id, map, Some(fill));
        Ok(self.join(&[fill, part], id))
    }

    fn concat(&mut self, id: NodeId) -> Result<Use> {
        let node = self.graph.node(id);
        let dim = node.attrs.int(0) as usize;
        let parts: Vec<NodeId> = node.operands.iter().copied().filter(|&o| self.graph.ty(o).numel() > 0).collect();
        if let [only] = parts[..] {
            return self.seen(only);
        }
        let (mut ids, mut start) = (Vec::new(), vec![0; node.ty.rank()]);
        let ones = vec![1; node.ty.rank()];
        for x in parts {
            let (seen, shape) = (self.seen(x)?, self.graph.shape(x));
            let map = layout::slice(&node.ty.shape, shape, &start, &ones);
            start[dim] += shape[dim] as i64;
            ids.push(self.part(seen, x, id, map, None));
        }
        Ok(self.join(&ids, id))
    }

    fn slice_scatter(&mut self, id: NodeId) -> Result<Use> {
        let node = self.graph.node(id);
        let (base, src) = (node.operands[0], node.operands[1]);
        let ty = self.graph.ty(src).clone();
        if ty.numel() == 0 {
            return self.seen(base);
        }
        if ty.numel() == node.ty.numel() {
            return self.seen(src);
        }
        let (under, over) = (self.seen(base)?, self.seen(src)?);
        let whole = match self.items.get(under.item).what {
            What::Splat(value) => self.push(What::Lib(LibCall::Fill(value)), smallvec![], node.ty.clone(), id),
            _ => {
                let axes = Axes::new([(node.ty.numel(), false)]);
                self.push_loop(What::Map(None), smallvec![under], &[base], node.ty.clone(), id, axes)
            }
        };
        let map = Layout::identity(node.ty.numel());
        self.items.all[whole.index()].dest = Some(Dest { join: whole, map, after: None, whole: true });
        let map = layout::slice(&node.ty.shape, &ty.shape, node.attrs.ints(0), node.attrs.ints(2));
        let part = self.part(over, src, id, map, Some(whole));
        Ok(self.join(&[whole, part], id))
    }

    fn lib(&mut self, id: NodeId, call: LibCall) -> Result<Use> {
        let node = self.graph.node(id);
        let mut uses: SmallVec<[Use; 3]> = smallvec![];
        for &o in &node.operands {
            let seen = self.seen(o)?;
            let item = self.in_memory(seen, o, false);
            uses.push(Use { item, map: Layout::identity(self.graph.ty(o).numel()) });
        }
        Ok(self.whole(What::Lib(call), uses, node.ty.clone(), id))
    }

    fn dot(&mut self, id: NodeId) -> Result<Use> {
        let node = self.graph.node(id);
        let (a, b) = (node.operands[0], node.operands[1]);
        if self.graph.ty(a).numel() == 0 || self.graph.ty(b).numel() == 0 {
            return Ok(self.splat(Scalar::Int(0).to_dtype(node.ty.dtype), &node.ty, id));
        }
        let (mut lhs, mut rhs) = (self.seen(a)?, self.seen(b)?);
        for (side, x) in [(&mut lhs, a), (&mut rhs, b)] {
            if self.items.get(side.item).is_virtual() {
                *side = Use { item: self.copy(side.clone(), x), map: Layout::identity(self.graph.ty(x).numel()) };
            }
        }
        let (dims, mut maps) = dot::fold(&node.attrs, self.graph.shape(a), self.graph.shape(b), &lhs.map, &rhs.map);
        // Operands that do not fold are copied in the order that the product wants.
        for (i, (side, x)) in [(&mut lhs, a), (&mut rhs, b)].into_iter().enumerate() {
            if maps[i].is_none() {
                let value = self.through(side.clone(), dims.order(i), x);
                let n = self.graph.ty(x).numel();
                let ty = Type::new(node.ty.dtype, Shape::of(&[n]));
                // One use always folds: nothing is copied twice.
                let item = self.push_loop(What::Map(None), smallvec![value], &[x], ty, x, Axes::new([(n, false)]));
                *side = Use { item, map: Layout::identity(n) };
                maps[i] = Some(Layout::identity(n));
            }
        }
        let spec =
            dims.spec(&maps).ok_or_else(|| Error::internal("a matrix product of contiguous operands does not fold"))?;
        Ok(self.whole(What::Dot(Box::new(spec)), smallvec![lhs, rhs], node.ty.clone(), id))
    }
}

impl Build<'_> {
    /// An attention over views of its operands; those that are no strided matrices are copied.
    fn attention(&mut self, id: NodeId, forward: bool) -> Result<Use> {
        let node = self.graph.node(id);
        let mut call = attention::sizes(self.graph, node, forward);
        let mut uses: SmallVec<[Use; 3]> = smallvec![];
        let (mut seen, mut axes) = (Vec::with_capacity(node.operands.len()), attention::axes(&call));
        for (&o, extents) in node.operands.iter().zip(call.extents(forward)) {
            let mut value = self.seen(o)?;
            let memory = !self.items.get(value.item).is_virtual();
            let mut view = attention::view(extents, &value.map, &mut axes).filter(|_| memory);
            if view.is_none() {
                let map = Layout::identity(self.graph.ty(o).numel());
                value = Use { item: self.copy(value, o), map };
                view = attention::view(extents, &value.map, &mut axes);
            }
            seen.push(view.ok_or_else(|| Error::internal("a contiguous operand is no matrix"))?);
            uses.push(value);
        }
        attention::finish(&mut call, &seen, &axes)?;
        let call = if forward { LibCall::Attention(Box::new(call)) } else { LibCall::AttentionGrad(Box::new(call)) };
        Ok(self.whole(What::Lib(call), uses, node.ty.clone(), id))
    }
}

fn scatter_mode(name: &str) -> Result<ScatterMode> {
    ScatterMode::parse(name).ok_or_else(|| Error::internal(format!("no scatter mode named {name}")))
}
