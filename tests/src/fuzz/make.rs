//! Random valid graphs.
//!
//! A graph grows op by op over a pool of nodes. Half of the moves are structured (an elementwise op on
//! operands that are made to fit, a reduction whose result returns to the shape of its operand, views,
//! joins, indexing, products: what fusion has to get right); the rest are samples of the registry, with
//! nodes of the pool in place of ordinary inputs, so that every op appears, new ones too. Ops that jump
//! (comparisons, rounding, conversions to integers) are applied only to values that are the same
//! everywhere: a last bit would decide on which side they land.

use super::Case;
use crate::values::{Rng, fill};
use smallvec::SmallVec;
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::HostTensor;
use torsh_ir::op::{Arity, Kind, OpDef, Sample, Values};
use torsh_ir::program::ScatterMode;
use torsh_ir::scalar::{BinOp, ScalarOp, UnOp};
use torsh_ir::{Attr, Attrs, DType, Scalar, Shape, Type, ops};

/// Elements per tensor; in one case of [`BIG_ONE_IN`] the larger number, so that work is split between threads.
const MAX_ELEMENTS: [usize; 2] = [6000, 60_000];
const BIG_ONE_IN: usize = 25;
/// Inputs per graph.
const MAX_INPUTS: usize = 8;
/// Sizes of dims: around vector widths and block sizes, small ones more often.
const SIZES: &[usize] = &[1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130, 257, 300, 513, 1100];
/// Composites that jump.
const JUMPS: &[&str] = &[
    "frac",
    "copysign",
    "one_hot",
    "isnan",
    "isinf",
    "isfinite",
    "isposinf",
    "isneginf",
    "nan_to_num",
    "sign",
    "max_pool_position",
];

struct Maker {
    rng: Rng,
    graph: Graph,
    values: Vec<Values>,
    /// Nodes that later ones may use.
    pool: Vec<NodeId>,
    /// Per node: the same bits on every backend.
    exact: Vec<bool>,
    main: DType,
    exact_only: bool,
    max_elements: usize,
}

/// A random case.
pub fn make(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let main = if rng.one_in(2) { DType::F32 } else { *rng.pick(&DType::ALL) };
    let exact_only = rng.one_in(3);
    let big = rng.one_in(BIG_ONE_IN);
    let mut m = Maker {
        rng,
        graph: Graph::new(),
        values: Vec::new(),
        pool: Vec::new(),
        exact: Vec::new(),
        main,
        exact_only,
        max_elements: MAX_ELEMENTS[usize::from(big)],
    };
    for _ in 0..m.rng.range(1, 3) {
        m.fresh_input();
    }
    // Now and then a long chain.
    let most = if big { 8 } else { *m.rng.pick(&[24, 24, 24, 24, 24, 24, 24, 80]) };
    let size = m.rng.range(1, most) as usize;
    let mut attempts = 0;
    while m.graph.len() < size + 3 && attempts < 300 {
        attempts += 1;
        m.step();
    }
    m.finish()
}

impl Maker {
    fn finish(mut self) -> Case {
        let mut outputs = vec![self.pool[self.pool.len() - 1]];
        for _ in 0..self.rng.below(4) {
            outputs.push(self.node());
        }
        self.graph.set_outputs(outputs);
        let types = self.graph.input_types();
        let inputs: Vec<HostTensor> =
            types.iter().zip(&self.values).map(|(t, v)| fill(t.clone(), v, &mut self.rng)).collect();
        let mut donate: Vec<(usize, usize)> = Vec::new();
        for (i, ty) in types.iter().enumerate() {
            for (o, &out) in self.graph.outputs().iter().enumerate() {
                let free = donate.iter().all(|&(di, d)| di != i && d != o);
                if free && self.graph.ty(out) == ty && self.rng.one_in(2) {
                    donate.push((i, o));
                }
            }
        }
        Case { graph: self.graph, inputs, donate }
    }

    /// A node of the pool, recent ones more often.
    fn node(&mut self) -> NodeId {
        let n = self.pool.len();
        let back = if self.rng.one_in(3) { self.rng.below(n) } else { self.rng.below(n.min(4)) };
        self.pool[n - 1 - back]
    }

    fn ty(&self, id: NodeId) -> Type {
        self.graph.ty(id).clone()
    }

    fn is_exact(&self, id: NodeId) -> bool {
        self.exact.get(id.index()).copied().unwrap_or(true)
    }

    fn note(&mut self, id: NodeId, exact: bool) -> NodeId {
        if id.index() == self.exact.len() {
            self.exact.push(exact);
        }
        if !self.pool.contains(&id) {
            self.pool.push(id);
        }
        id
    }

    fn input(&mut self, ty: Type, values: Values) -> Option<NodeId> {
        if self.values.len() >= MAX_INPUTS || ty.numel() > self.max_elements {
            return None;
        }
        self.values.push(values);
        let id = self.graph.input(ty);
        Some(self.note(id, true))
    }

    fn dtype(&mut self) -> DType {
        if self.rng.one_in(3) { *self.rng.pick(&DType::ALL) } else { self.main }
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = *self.rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 4]);
        let mut shape = Vec::new();
        for _ in 0..rank {
            let room = self.max_elements / 2 / shape.iter().product::<usize>().max(1);
            let fits: Vec<usize> = SIZES.iter().copied().filter(|&d| d <= room).collect();
            let size = if self.rng.one_in(60) { 0 } else { fits.get(self.rng.below(fits.len())).copied().unwrap_or(1) };
            shape.push(size);
        }
        shape
    }

    fn fresh_input(&mut self) {
        let ty = Type::new(self.dtype(), Shape::of(&self.shape()));
        let values = if self.rng.one_in(4) { Values::Special } else { Values::Normal };
        self.input(ty, values);
    }

    /// Applies an op unless it is too big, jumps on an inexact value, or is not exact where it must be.
    fn apply(&mut self, name: &str, x: &[NodeId], attrs: &[Attr]) -> Option<NodeId> {
        let op = ops::find(name)?;
        let types: Vec<Type> = x.iter().map(|&o| self.ty(o)).collect();
        let ty = op.infer(&types, attrs).ok()?;
        let inherited = x.iter().all(|&o| self.is_exact(o));
        let own = !ty.dtype.is_float() || op.tolerance == torsh_ir::op::Tolerance::EXACT;
        if ty.numel() > self.max_elements || (!inherited && jumps(&op, &types, &ty)) || (self.exact_only && !own) {
            return None;
        }
        let id = self.graph.apply(op, x, attrs.iter().cloned().collect()).ok()?;
        Some(self.note(id, inherited && own))
    }

    fn full(&mut self, ty: &Type) -> Option<NodeId> {
        let value = match ty.dtype {
            DType::Bool => Scalar::Bool(self.rng.one_in(2)),
            d if d.is_int() => Scalar::Int(self.rng.range(-2, 5)),
            _ => Scalar::Float(*self.rng.pick(&[0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -0.0, 1e-3, 7.25])),
        };
        self.apply("full", &[], &[value.to_dtype(ty.dtype).into(), ty.dtype.into(), ty.shape.dims().into()])
    }

    fn cast(&mut self, x: NodeId, dtype: DType) -> Option<NodeId> {
        if self.graph.ty(x).dtype == dtype { Some(x) } else { self.apply("cast", &[x], &[dtype.into()]) }
    }

    fn reshape(&mut self, x: NodeId, shape: &[usize]) -> Option<NodeId> {
        if self.graph.ty(x).shape.dims() == shape { Some(x) } else { self.apply("reshape", &[x], &[shape.into()]) }
    }

    /// A node made to have a type: by cast, broadcasting, or cutting and padding.
    fn conform(&mut self, x: NodeId, ty: &Type) -> Option<NodeId> {
        let x = self.cast(x, ty.dtype)?;
        let own = self.ty(x).shape;
        if own == ty.shape {
            return Some(x);
        }
        let lead = ty.rank().checked_sub(own.rank());
        if let Some(lead) = lead
            && own.iter().zip(&ty.shape[lead..]).all(|(&a, &b)| a == b || a == 1)
        {
            let mut dims = vec![1; lead];
            dims.extend_from_slice(&own);
            let x = self.reshape(x, &dims)?;
            return self.apply("expand", &[x], &[ty.shape.dims().into()]);
        }
        let (n, want) = (own.numel(), ty.numel());
        let mut x = self.reshape(x, &[n])?;
        if n > want {
            let start = self.rng.below(n - want + 1) as i64;
            let (stop, step) = (start + want as i64, 1i64);
            x = self.apply("slice", &[x], &[ints(&[start]), ints(&[stop]), ints(&[step])])?;
        } else if n < want {
            let lo = self.rng.below(want - n + 1) as i64;
            let value = Scalar::Int(0).to_dtype(ty.dtype);
            x = self.apply("pad", &[x], &[ints(&[lo]), ints(&[(want - n) as i64 - lo]), value.into()])?;
        }
        self.reshape(x, ty.shape.dims())
    }

    /// Another operand of a type.
    fn operand(&mut self, ty: &Type) -> Option<NodeId> {
        let fits: Vec<NodeId> = self.pool.iter().copied().filter(|&p| self.graph.ty(p) == ty).collect();
        match self.rng.below(8) {
            0..4 if !fits.is_empty() => Some(*self.rng.pick(&fits)),
            4 => self.full(ty),
            5 => self.input(ty.clone(), Values::Normal),
            6 if ty.rank() > 0 && ty.dtype != DType::Bool => {
                let dim = self.rng.below(ty.rank()) as i64;
                self.apply("iota", &[], &[Attr::Int(dim), ty.dtype.into(), ty.shape.dims().into()])
            }
            _ => {
                let other = self.node();
                self.conform(other, ty)
            }
        }
    }

    fn step(&mut self) {
        // A move that does not fit leaves at most unused nodes behind.
        let _ = match self.rng.below(20) {
            0..6 => self.elementwise(),
            6..9 => self.reduce(),
            9..12 => self.view(),
            12 => self.join(),
            13 => self.index(),
            14 => self.dot(),
            15 => self.scan(),
            _ => self.sample(),
        };
    }

    fn elementwise(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        let fits = |d: &&&OpDef| matches!(d.kind, Kind::Elementwise(_)) && d.dtypes.contains(ty.dtype);
        let choices: Vec<&OpDef> = ops::OPS.iter().filter(fits).copied().collect();
        let op = *self.rng.pick(&choices);
        let Kind::Elementwise(scalar) = op.kind else { return None };
        match scalar {
            ScalarOp::Un(_) => self.apply(op.name, &[x], &[]),
            ScalarOp::Cast | ScalarOp::Bitcast => {
                let to = *self.rng.pick(&DType::ALL);
                self.apply(op.name, &[x], &[to.into()])
            }
            ScalarOp::Select => {
                let wanted = Type::new(self.dtype(), ty.shape.clone());
                let (a, b) = (self.operand(&wanted)?, self.operand(&wanted)?);
                self.apply(op.name, &[x, a, b], &[])
            }
            ScalarOp::Bin(_) | ScalarOp::Cmp(_) => {
                let y = self.operand(&ty)?;
                let pair = if self.rng.one_in(2) { [x, y] } else { [y, x] };
                self.apply(op.name, &pair, &[])
            }
        }
    }

    fn some_dims(&mut self, rank: usize) -> Vec<i64> {
        let mut dims: Vec<i64> = (0..rank as i64).filter(|_| self.rng.one_in(2)).collect();
        if dims.is_empty() && rank > 0 {
            dims.push(self.rng.below(rank) as i64);
        }
        dims
    }

    /// A reduction; often its result goes back to the shape it came from, as in a softmax.
    fn reduce(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        let fits = |d: &&&OpDef| matches!(d.kind, Kind::Reduce(_)) && d.dtypes.contains(ty.dtype);
        let choices: Vec<&OpDef> = ops::OPS.iter().filter(fits).copied().collect();
        if choices.is_empty() || ty.rank() == 0 {
            return None;
        }
        let op = *self.rng.pick(&choices);
        let mut dims = self.some_dims(ty.rank());
        if matches!(op.name, "argmax" | "argmin") {
            dims.truncate(1);
        }
        let one = op.attrs.first().is_some_and(|s| s.kind == torsh_ir::attr::AttrKind::Int);
        let attr = if one { Attr::Int(dims[0]) } else { ints(&dims) };
        let y = self.apply(op.name, &[x], &[attr])?;
        if self.rng.one_in(3) {
            return Some(y);
        }
        let y = self.cast(y, ty.dtype)?;
        let y = self.apply("expand", &[y], &[ty.shape.dims().into()])?;
        let names = ["sub", "mul", "add", "maximum", "div"];
        let name = *self.rng.pick(&names);
        self.apply(name, &[x, y], &[])
    }

    fn view(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        let rank = ty.rank();
        match self.rng.below(6) {
            0 => {
                let shape = self.factors(ty.numel());
                self.reshape(x, &shape)
            }
            1 => {
                let mut dims: Vec<i64> = (0..rank as i64).collect();
                self.rng.shuffle(&mut dims);
                self.apply("permute", &[x], &[ints(&dims)])
            }
            2 => {
                let mut shape = ty.shape.to_vec();
                let at = self.rng.below(rank + 1);
                shape.insert(at, 1);
                let y = self.reshape(x, &shape)?;
                shape[at] = *self.rng.pick(&[1, 2, 3, 5, 17]);
                self.apply("expand", &[y], &[Attr::from(shape.as_slice())])
            }
            3 => {
                let (starts, stops, steps) = self.slice(&ty.shape);
                self.apply("slice", &[x], &[ints(&starts), ints(&stops), ints(&steps)])
            }
            4 => {
                let dims = self.some_dims(rank);
                self.apply("flip", &[x], &[ints(&dims)])
            }
            _ => {
                let mut some = |_| self.rng.range(0, 2);
                let (lo, hi): (Vec<i64>, Vec<i64>) =
                    ((0..rank).map(&mut some).collect(), (0..rank).map(&mut some).collect());
                let value = Scalar::Int(self.rng.range(0, 1)).to_dtype(ty.dtype);
                self.apply("pad", &[x], &[ints(&lo), ints(&hi), value.into()])
            }
        }
    }

    fn slice(&mut self, shape: &Shape) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
        let (mut starts, mut stops, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for &d in shape.iter() {
            let whole = self.rng.one_in(2);
            let start = if whole { 0 } else { self.rng.below(d + 1) };
            let stop = if whole { d } else { start + self.rng.below(d - start + 1) };
            starts.push(start as i64);
            stops.push(stop as i64);
            steps.push(if whole { 1 } else { *self.rng.pick(&[1, 1, 2, 3]) });
        }
        (starts, stops, steps)
    }

    /// A shape of `n` elements.
    fn factors(&mut self, n: usize) -> Vec<usize> {
        let mut shape = Vec::new();
        let mut left = n;
        while left > 1 && shape.len() < 4 {
            let divisors: Vec<usize> = (2..=left.min(64)).filter(|d| left.is_multiple_of(*d)).collect();
            if divisors.is_empty() || self.rng.one_in(3) {
                break;
            }
            let d = *self.rng.pick(&divisors);
            shape.push(d);
            left /= d;
        }
        if left != 1 || self.rng.one_in(4) {
            shape.push(left);
        }
        self.rng.shuffle(&mut shape);
        shape
    }

    fn join(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        if ty.rank() == 0 {
            return None;
        }
        if self.rng.one_in(3) {
            let (starts, stops, steps) = self.slice(&ty.shape);
            let spec = [ints(&starts), ints(&stops), ints(&steps)];
            let part = ops::op("slice").infer(std::slice::from_ref(&ty), &spec).ok()?;
            let src = self.operand(&part)?;
            return self.apply("slice_scatter", &[x, src], &spec);
        }
        let dim = self.rng.below(ty.rank());
        let mut parts = vec![x];
        for _ in 0..self.rng.range(1, 2) {
            let mut shape = ty.shape.to_vec();
            shape[dim] = *self.rng.pick(&[1, 2, 3, 8, shape[dim]]);
            parts.push(self.operand(&Type::new(ty.dtype, Shape::of(&shape)))?);
        }
        self.rng.shuffle(&mut parts);
        self.apply("concat", &parts, &[Attr::Int(dim as i64)])
    }

    /// Indices below `n`: a fresh input, or an exact integer brought into range.
    fn indices(&mut self, shape: &[usize], n: usize) -> Option<NodeId> {
        let ty = Type::new(DType::I64, Shape::of(shape));
        if self.rng.one_in(2) {
            return self.input(ty, Values::Index(n));
        }
        let x = self.node();
        if !self.graph.ty(x).dtype.is_int() || !self.is_exact(x) {
            return self.input(ty, Values::Index(n));
        }
        let x = self.conform(x, &ty)?;
        let modulus = self.apply("full", &[], &[Scalar::Int(n as i64).into(), DType::I64.into(), shape.into()])?;
        self.apply("remainder", &[x, modulus], &[])
    }

    fn index(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        if ty.rank() == 0 {
            return None;
        }
        let dim = self.rng.below(ty.rank());
        let at = Attr::Int(dim as i64);
        let n = ty.shape[dim];
        let many = self.rng.range(0, 6) as usize;
        if n == 0 && many > 0 {
            return None;
        }
        let mut shape = ty.shape.to_vec();
        shape[dim] = many;
        let mode = self.rng.pick(&ScatterMode::ALL).name();
        match self.rng.below(5) {
            0 => {
                let index = self.indices(&[many], n)?;
                self.apply("take", &[x, index], &[at])
            }
            1 => {
                let index = self.indices(&shape, n)?;
                self.apply("gather", &[x, index], &[at])
            }
            2 => {
                let index = self.indices(&shape, n)?;
                let src = self.operand(&Type::new(ty.dtype, Shape::of(&shape)))?;
                self.apply("scatter", &[x, index, src], &[at, mode.into()])
            }
            3 => {
                let index = self.indices(&[many], n)?;
                let src = self.operand(&Type::new(ty.dtype, Shape::of(&shape)))?;
                self.apply("index_put", &[x, index, src], &[at, mode.into()])
            }
            _ => {
                let descending = self.rng.one_in(2);
                self.apply("argsort", &[x], &[at, descending.into()])
            }
        }
    }

    fn dot(&mut self) -> Option<NodeId> {
        let a = self.node();
        let ty = self.ty(a);
        if ty.rank() == 0 || ty.dtype == DType::Bool {
            return None;
        }
        let mut dims: Vec<usize> = (0..ty.rank()).collect();
        self.rng.shuffle(&mut dims);
        let contract: Vec<usize> =
            dims.iter().copied().take(self.rng.range(0, 2).min(dims.len() as i64) as usize).collect();
        let batch: Vec<usize> = dims[contract.len()..].iter().copied().filter(|_| self.rng.one_in(3)).collect();
        // Axes of b in a random order: shared ones and up to two of its own.
        let mut axes: Vec<(Option<usize>, usize)> =
            contract.iter().chain(&batch).map(|&d| (Some(d), ty.shape[d])).collect();
        for _ in 0..self.rng.below(3) {
            axes.push((None, *self.rng.pick(&[1, 2, 3, 5, 16, 33])));
        }
        self.rng.shuffle(&mut axes);
        let shape: Vec<usize> = axes.iter().map(|(_, n)| *n).collect();
        if shape.iter().product::<usize>() > self.max_elements {
            return None;
        }
        let b = self.operand(&Type::new(ty.dtype, Shape::of(&shape)))?;
        let place = |d: &usize| axes.iter().position(|(a, _)| *a == Some(*d)).unwrap_or_default() as i64;
        let of_a = |list: &[usize]| ints(&list.iter().map(|&d| d as i64).collect::<Vec<_>>());
        let of_b = |list: &[usize]| ints(&list.iter().map(place).collect::<Vec<_>>());
        self.apply("dot_general", &[a, b], &[of_a(&batch), of_b(&batch), of_a(&contract), of_b(&contract)])
    }

    fn scan(&mut self) -> Option<NodeId> {
        let x = self.node();
        let ty = self.ty(x);
        let fits = |d: &&&OpDef| matches!(d.kind, Kind::Scan(_)) && d.dtypes.contains(ty.dtype);
        let choices: Vec<&OpDef> = ops::OPS.iter().filter(fits).copied().collect();
        if choices.is_empty() || ty.rank() == 0 {
            return None;
        }
        let name = self.rng.pick(&choices).name;
        let dim = self.rng.below(ty.rank()) as i64;
        self.apply(name, &[x], &[Attr::Int(dim)])
    }

    /// A sample of a random op, on nodes of the pool where it takes ordinary values.
    fn sample(&mut self) -> Option<NodeId> {
        let op = *self.rng.pick(ops::OPS);
        let samples: Vec<Sample> = (op.samples)();
        if samples.is_empty() || matches!(op.arity, Arity::Fixed(0)) {
            return None;
        }
        let sample = self.rng.pick(&samples).clone();
        let dtypes: Vec<DType> = op.dtypes.iter().collect();
        let dtype = if op.dtypes.contains(self.main) { self.main } else { *self.rng.pick(&dtypes) };
        let mut x: SmallVec<[NodeId; 3]> = SmallVec::new();
        for g in &sample.inputs {
            let ty = Type::new(g.dtype.unwrap_or(dtype), Shape::of(&g.shape));
            let from_pool = g.values == Values::Normal && g.dtype.is_none() && !self.rng.one_in(4);
            let node = if from_pool {
                let node = self.node();
                self.conform(node, &ty)
            } else {
                None
            };
            x.push(match node {
                Some(node) => node,
                None => self.input(ty, g.values.clone())?,
            });
        }
        let attrs: Attrs = sample.attrs;
        self.apply(op.name, &x, &attrs)
    }
}

fn ints(list: &[i64]) -> Attr {
    Attr::from(list)
}

/// True when a last bit of an operand may change the result at will.
fn jumps(op: &OpDef, x: &[Type], ty: &Type) -> bool {
    if JUMPS.contains(&op.name) {
        return true;
    }
    let from_float = x.iter().any(|t| t.dtype.is_float());
    match op.kind {
        Kind::Elementwise(ScalarOp::Un(u)) => {
            matches!(u, UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc | UnOp::Sign)
        }
        Kind::Elementwise(ScalarOp::Bin(b)) => matches!(b, BinOp::FloorDiv | BinOp::Rem | BinOp::Fmod) && from_float,
        Kind::Elementwise(ScalarOp::Cmp(_) | ScalarOp::Bitcast) => from_float,
        Kind::Composite => from_float && !ty.dtype.is_float(),
        // Conversions, arg reductions and sorts of floats.
        _ => from_float && !ty.dtype.is_float(),
    }
}
