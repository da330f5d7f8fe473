//! What a rewrite rule is: a name, an equation, and a function from a term to its replacement.
//!
//! A term is a node whose operands are simplified already and which is not in the graph yet, so rules look
//! only downwards. A replacement is a small expression over existing nodes; the driver builds and simplifies
//! it. Rules see no users and no budgets, which is what makes simplification idempotent.

use smallvec::SmallVec;
use torsh_ir::attr::{Attr, Attrs, AttrsExt, Scalar};
use torsh_ir::dtype::DType;
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::{Kind, View};
use torsh_ir::scalar::{BinOp, ScalarOp, UnOp};
use torsh_ir::shape::Type;

/// A named rewrite.
pub struct Rule {
    /// Name, unique among all rules: for errors, dumps and tests.
    pub name: &'static str,
    /// What is replaced by what, and when.
    pub equation: &'static str,
    /// Whether both sides have the same bits for all operands (NaN payloads aside). The others stay within
    /// the tolerance of the op that they replace.
    pub exact: bool,
    pub(super) apply: fn(&Term<'_>) -> Option<Rhs>,
}

/// Lists rules: `name: "equation" => |t| ...;`, with `near` before the equation of one that is not exact.
macro_rules! rules {
    (@exact near) => { false };
    (@exact) => { true };
    ($($(#[$doc:meta])* $list:ident { $($name:ident: $($mark:ident)? $equation:literal => $apply:expr;)* })*) => {
        $($(#[$doc])* pub(super) static $list: &[$crate::simplify::rule::Rule] = &[$($crate::simplify::rule::Rule {
            name: stringify!($name),
            equation: $equation,
            exact: rules!(@exact $($mark)?),
            apply: $apply,
        },)*];)*
    };
}
pub(super) use rules;

/// A replacement.
pub(super) enum Rhs {
    /// An existing node.
    Old(NodeId),
    /// A new node, simplified in turn.
    New {
        /// Op name.
        op: &'static str,
        /// Operands.
        x: SmallVec<[Box<Rhs>; 2]>,
        /// Attributes.
        attrs: Attrs,
    },
}

impl From<NodeId> for Rhs {
    fn from(id: NodeId) -> Rhs {
        Rhs::Old(id)
    }
}

/// `op(x..)` without attributes.
pub(super) fn ap<const N: usize>(op: &'static str, x: [Rhs; N]) -> Rhs {
    with(op, x, [])
}

/// `op(x..; attrs..)`.
pub(super) fn with<const N: usize, const A: usize>(op: &'static str, x: [Rhs; N], attrs: [Attr; A]) -> Rhs {
    Rhs::New { op, x: x.into_iter().map(Box::new).collect(), attrs: attrs.into_iter().collect() }
}

/// `op(x..; attrs..)` with any number of operands.
pub(super) fn many<const A: usize>(op: &'static str, x: Vec<NodeId>, attrs: [Attr; A]) -> Rhs {
    Rhs::New { op, x: x.into_iter().map(|id| Box::new(Rhs::Old(id))).collect(), attrs: attrs.into_iter().collect() }
}

/// A float that was computed while compiling: the plain NaN for every other one. Which of them an operation gives is up to the
/// machine (x86-64 sets the sign, 64-bit ARM does not), and what is made of a graph must be the same on all.
pub(super) fn settled(value: Scalar) -> Scalar {
    match value {
        Scalar::Float(x) if x.is_nan() => Scalar::Float(f64::NAN),
        value => value,
    }
}

/// One number everywhere; `value` is represented in the type's dtype first.
pub(super) fn full(value: Scalar, ty: &Type) -> Rhs {
    with("full", [], [value.to_dtype(ty.dtype).into(), ty.dtype.into(), ty.shape.dims().into()])
}

/// A term and the graph that its operands live in.
pub(super) struct Term<'g> {
    pub(super) graph: &'g Graph,
    pub(super) node: &'g Node,
}

impl<'g> Term<'g> {
    /// Operand `i`.
    pub(super) fn x(&self, i: usize) -> NodeId {
        self.node.operands[i]
    }
    /// All operands.
    pub(super) fn operands(&self) -> &'g [NodeId] {
        &self.node.operands
    }
    /// Attributes.
    pub(super) fn attrs(&self) -> &'g [Attr] {
        &self.node.attrs
    }
    /// Type of the term.
    pub(super) fn ty(&self) -> &'g Type {
        &self.node.ty
    }
    /// Dtype of the first operand, or of the term where it has none.
    pub(super) fn dtype(&self) -> DType {
        self.node.operands.first().map_or(self.node.ty.dtype, |&x| self.graph.ty(x).dtype)
    }
    /// The first operand's dtype is a float.
    pub(super) fn float(&self) -> bool {
        self.dtype().is_float()
    }
    /// An existing node.
    pub(super) fn of(&self, id: NodeId) -> &'g Node {
        self.graph.node(id)
    }
    /// Sizes of an existing node.
    pub(super) fn dims(&self, id: NodeId) -> &'g [usize] {
        self.graph.ty(id).shape.dims()
    }

    /// The value of a `full`.
    pub(super) fn full(&self, id: NodeId) -> Option<Scalar> {
        let node = self.of(id);
        (node.op.kind == Kind::Full).then(|| node.attrs.scalar(0))
    }
    /// The node is `full` of exactly this number (for floats 0.0 and -0.0 are two numbers).
    pub(super) fn is(&self, id: NodeId, number: f64) -> bool {
        match self.full(id) {
            Some(Scalar::Float(v)) => v.to_bits() == number.to_bits(),
            Some(Scalar::Int(v)) => v as f64 == number && v.unsigned_abs() < 1 << 53,
            Some(Scalar::Bool(v)) => f64::from(u8::from(v)) == number,
            None => false,
        }
    }
    /// The node is `full` with every bit set.
    pub(super) fn all_ones(&self, id: NodeId) -> bool {
        let dtype = self.of(id).ty.dtype;
        !dtype.is_float() && self.full(id) == Some(Scalar::Int(-1).to_dtype(dtype))
    }
    /// The operand of a unary operation.
    pub(super) fn un(&self, id: NodeId, op: UnOp) -> Option<NodeId> {
        let node = self.of(id);
        (node.op.kind == Kind::Elementwise(ScalarOp::Un(op))).then(|| node.operands[0])
    }
    /// The operands of a binary operation.
    pub(super) fn bin(&self, id: NodeId, op: BinOp) -> Option<(NodeId, NodeId)> {
        let node = self.of(id);
        (node.op.kind == Kind::Elementwise(ScalarOp::Bin(op))).then(|| (node.operands[0], node.operands[1]))
    }
    /// The operand of a cast.
    pub(super) fn cast(&self, id: NodeId) -> Option<NodeId> {
        let node = self.of(id);
        (node.op.kind == Kind::Elementwise(ScalarOp::Cast)).then(|| node.operands[0])
    }
    /// Operand and attributes of a view.
    pub(super) fn view(&self, id: NodeId, view: View) -> Option<(NodeId, &'g [Attr])> {
        let node = self.of(id);
        (node.op.kind == Kind::View(view)).then(|| (node.operands[0], node.attrs.as_slice()))
    }
}
