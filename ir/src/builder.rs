//! A builder with operator syntax for writing gradient rules, decompositions and rewrites.
//!
//! Errors are sticky: after the first failing call every further call returns the failing call's first
//! operand (or node 0), and [`Builder::finish`] reports the error. Rules therefore read like formulas.

use crate::attr::{Attr, Attrs, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Loc, Result};
use crate::graph::{Graph, NodeId};
use crate::op::{Kind, Op, View};
use crate::ops;
use crate::shape::{Shape, Type};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Wraps a graph while nodes are added to it.
pub struct Builder {
    graph: RefCell<Graph>,
    error: RefCell<Option<Error>>,
    loc: RefCell<Option<Loc>>,
}

/// A node of the graph inside a [`Builder`].
#[derive(Copy, Clone)]
pub struct Val<'b> {
    builder: &'b Builder,
    id: NodeId,
}

impl Builder {
    /// Starts from an existing graph.
    pub fn new(graph: Graph) -> Builder {
        Builder { graph: RefCell::new(graph), error: RefCell::new(None), loc: RefCell::new(None) }
    }

    /// The graph, or the first error.
    pub fn finish(self) -> Result<Graph> {
        match self.error.into_inner() {
            Some(e) => Err(e),
            None => Ok(self.graph.into_inner()),
        }
    }

    /// The line that new nodes get.
    pub fn set_loc(&self, loc: Option<Loc>) {
        *self.loc.borrow_mut() = loc;
    }

    /// The error so far.
    pub fn error(&self) -> Option<Error> {
        self.error.borrow().clone()
    }

    /// Records an error found by a rule itself.
    pub fn fail(&self, error: Error) {
        self.error.borrow_mut().get_or_insert(error);
    }

    /// A handle to an existing node.
    pub fn val(&self, id: NodeId) -> Val<'_> {
        Val { builder: self, id }
    }

    /// Runs `f` on the graph.
    pub fn with<R>(&self, f: impl FnOnce(&mut Graph) -> R) -> R {
        f(&mut self.graph.borrow_mut())
    }

    /// Adds the next graph input.
    pub fn input(&self, ty: Type) -> Val<'_> {
        let id = self.graph.borrow_mut().input(ty);
        self.val(id)
    }

    /// Applies any op.
    pub fn apply<'b>(&'b self, op: Op, operands: &[Val<'b>], attrs: Attrs) -> Val<'b> {
        let fallback = operands.first().map_or(NodeId(0), |v| v.id);
        if self.error.borrow().is_some() {
            return self.val(fallback);
        }
        let ids: SmallVec<[NodeId; 4]> = operands.iter().map(|v| v.id).collect();
        let loc = self.loc.borrow().clone();
        let mut graph = self.graph.borrow_mut();
        match graph.apply(op, &ids, attrs) {
            Ok(id) => {
                graph.set_loc(id, loc);
                self.val(id)
            }
            Err(e) => {
                drop(graph);
                self.fail(e.with_loc(loc));
                self.val(fallback)
            }
        }
    }

    /// Applies an op by name.
    pub fn op<'b>(&'b self, name: &str, operands: &[Val<'b>], attrs: &[Attr]) -> Val<'b> {
        self.apply(ops::op(name), operands, Attrs::from(attrs.to_vec()))
    }

    /// One number everywhere, converted to `dtype`.
    pub fn full(&self, value: Scalar, dtype: DType, shape: &Shape) -> Val<'_> {
        self.op("full", &[], &[value.to_dtype(dtype).into(), dtype.into(), shape.dims().into()])
    }

    /// Positions along `dim`.
    pub fn iota(&self, dim: usize, dtype: DType, shape: &Shape) -> Val<'_> {
        self.op("iota", &[], &[Attr::Int(dim as i64), dtype.into(), shape.dims().into()])
    }

    /// Joins along `dim`.
    pub fn concat<'b>(&'b self, parts: &[Val<'b>], dim: usize) -> Val<'b> {
        self.op("concat", parts, &[Attr::Int(dim as i64)])
    }
}

macro_rules! unary {
    ($($name:ident)*) => { $(#[doc = concat!("`", stringify!($name), "(self)`.")] #[must_use] pub fn $name(self) -> Val<'b> { self.un(stringify!($name)) })* };
}
macro_rules! binary {
    ($($name:ident)*) => { $(#[doc = concat!("`", stringify!($name), "(self, other)`; same type.")] #[must_use] pub fn $name(self, other: Val<'b>) -> Val<'b> { self.bin(stringify!($name), other) })* };
}

// `eq`, `ne` ... give tensors here, and comparing handles has no other meaning.
#[allow(clippy::should_implement_trait, reason = "tensor comparisons return tensors")]
impl<'b> Val<'b> {
    /// The node.
    pub fn id(self) -> NodeId {
        self.id
    }
    /// The builder.
    pub fn builder(self) -> &'b Builder {
        self.builder
    }
    /// Type of the node.
    pub fn ty(self) -> Type {
        self.builder.graph.borrow().ty(self.id).clone()
    }
    /// Dtype of the node.
    pub fn dtype(self) -> DType {
        self.builder.graph.borrow().ty(self.id).dtype
    }
    /// Shape of the node.
    pub fn shape(self) -> Shape {
        self.builder.graph.borrow().ty(self.id).shape.clone()
    }
    /// Number of dims.
    pub fn rank(self) -> usize {
        self.builder.graph.borrow().ty(self.id).rank()
    }

    fn un(self, name: &str) -> Val<'b> {
        self.builder.op(name, &[self], &[])
    }
    fn bin(self, name: &str, other: Val<'b>) -> Val<'b> {
        self.builder.op(name, &[self, other], &[])
    }

    unary! { neg abs sign floor ceil round trunc sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p
    sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid }
    binary! { add sub mul div floor_divide remainder fmod pow maximum minimum atan2 bitwise_and bitwise_or
    bitwise_xor bitwise_left_shift bitwise_right_shift philox eq ne lt le gt ge }

    /// Bitwise or logical complement.
    #[must_use]
    pub fn not(self) -> Val<'b> {
        self.un("bitwise_not")
    }
    /// The number that this node holds everywhere, where it is visibly a `full` (views of one included).
    pub fn as_full(self) -> Option<Scalar> {
        let graph = self.builder.graph.borrow();
        let mut node = graph.node(self.id);
        loop {
            match node.op.kind {
                Kind::Full => return Some(node.attrs.scalar(0)),
                Kind::View(View::Reshape | View::Permute | View::Expand | View::Slice | View::Flip | View::Windows) => {
                    node = graph.node(node.operands[0]);
                }
                _ => return None,
            }
        }
    }
    /// A constant of this node's type.
    pub fn full_like(self, value: f64) -> Val<'b> {
        self.builder.full(Scalar::Float(value), self.dtype(), &self.shape())
    }
    /// Zeros of this node's type.
    pub fn zeros_like(self) -> Val<'b> {
        self.full_like(0.0)
    }
    /// `self * c`.
    #[must_use]
    pub fn scale(self, c: f64) -> Val<'b> {
        self * self.full_like(c)
    }
    /// `self + c`.
    #[must_use]
    pub fn offset(self, c: f64) -> Val<'b> {
        self + self.full_like(c)
    }
    /// `select(self, a, b)`; self is bool.
    #[must_use]
    pub fn select(self, a: Val<'b>, b: Val<'b>) -> Val<'b> {
        self.builder.op("select", &[self, a, b], &[])
    }
    /// Converts the dtype; the node itself where nothing changes.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Val<'b> {
        if self.dtype() == dtype {
            return self;
        }
        self.builder.op("cast", &[self], &[dtype.into()])
    }
    /// Same elements, other shape; the node itself where nothing changes.
    #[must_use]
    pub fn reshape(self, shape: &[usize]) -> Val<'b> {
        if self.shape().dims() == shape {
            return self;
        }
        self.builder.op("reshape", &[self], &[shape.into()])
    }
    /// Reorders dims.
    #[must_use]
    pub fn permute(self, dims: &[usize]) -> Val<'b> {
        if dims.iter().enumerate().all(|(i, &d)| i == d) {
            return self;
        }
        self.builder.op("permute", &[self], &[dims.into()])
    }
    /// Repeats dims of size 1; same rank.
    #[must_use]
    pub fn expand(self, shape: &[usize]) -> Val<'b> {
        if self.shape().dims() == shape {
            return self;
        }
        self.builder.op("expand", &[self], &[shape.into()])
    }
    /// NumPy broadcasting to `shape`: leading dims are added, then dims of size 1 repeated.
    #[must_use]
    pub fn broadcast_to(self, shape: &[usize]) -> Val<'b> {
        let own = self.shape();
        let mut dims = vec![1; shape.len().saturating_sub(own.rank())];
        dims.extend_from_slice(&own);
        self.reshape(&dims).expand(shape)
    }
    /// The part `start..stop` with `step` along one dim.
    #[must_use]
    pub fn slice_dim(self, dim: usize, start: usize, stop: usize, step: usize) -> Val<'b> {
        let shape = self.shape();
        let mut starts = vec![0i64; shape.rank()];
        let mut stops: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let mut steps = vec![1i64; shape.rank()];
        starts[dim] = start as i64;
        stops[dim] = stop as i64;
        steps[dim] = step as i64;
        self.slice(&starts, &stops, &steps)
    }
    /// A strided slice, one entry per dim.
    #[must_use]
    pub fn slice(self, starts: &[i64], stops: &[i64], steps: &[i64]) -> Val<'b> {
        self.builder.op("slice", &[self], &[starts.into(), stops.into(), steps.into()])
    }
    /// Reverses dims.
    #[must_use]
    pub fn flip(self, dims: &[usize]) -> Val<'b> {
        self.builder.op("flip", &[self], &[dims.into()])
    }
    /// A reduction (`sum`, `prod`, `amax`, `amin`, `any`, `all`) over `dims`, which stay with size 1.
    #[must_use]
    pub fn reduce(self, name: &str, dims: &[usize]) -> Val<'b> {
        if dims.is_empty() {
            return self;
        }
        self.builder.op(name, &[self], &[dims.into()])
    }
    /// Sum over `dims`, which stay with size 1.
    #[must_use]
    pub fn sum(self, dims: &[usize]) -> Val<'b> {
        self.reduce("sum", dims)
    }
    /// Undoes broadcasting: sums over the dims that `shape` lacks or has as 1, then reshapes to `shape`.
    #[must_use]
    pub fn sum_to(self, shape: &[usize]) -> Val<'b> {
        let own = self.shape();
        let lead = own.rank() - shape.len();
        let dims: Vec<usize> = (0..own.rank()).filter(|&i| own[i] != 1 && (i < lead || shape[i - lead] == 1)).collect();
        self.sum(&dims).reshape(shape)
    }
    /// `dot_general` with XLA's attributes.
    #[must_use]
    pub fn dot_general(
        self,
        other: Val<'b>,
        lhs_batch: &[usize],
        rhs_batch: &[usize],
        lhs_contract: &[usize],
        rhs_contract: &[usize],
    ) -> Val<'b> {
        self.builder.op(
            "dot_general",
            &[self, other],
            &[lhs_batch.into(), rhs_batch.into(), lhs_contract.into(), rhs_contract.into()],
        )
    }
}

macro_rules! operator {
    ($($tr:ident $fn:ident)*) => {
        $(impl<'b> $tr for Val<'b> { type Output = Val<'b>; fn $fn(self, other: Val<'b>) -> Val<'b> { self.bin(stringify!($fn), other) } })*
    };
}
operator! { Add add  Sub sub  Mul mul  Div div }

impl<'b> Neg for Val<'b> {
    type Output = Val<'b>;
    fn neg(self) -> Val<'b> {
        self.un("neg")
    }
}
