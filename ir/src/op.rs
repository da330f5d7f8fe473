//! What an operator is. Every fact of an op stands in one file under `ops/`, in one [`OpDef`].

use crate::attr::{Attr, AttrSpec, Attrs};
use crate::builder::Val;
use crate::dtype::DType;
use crate::error::Result;
use crate::interp::HostTensor;
use crate::scalar::{ReduceOp, ScalarOp};
use crate::shape::Type;
use smallvec::SmallVec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// What passes and backends see of an op: a closed set, matched without a catch-all arm.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `input(index, dtype, shape)`: an argument of the graph. Never merged with another.
    Input,
    /// `constant(data, dtype, shape)`: row-major little-endian elements.
    Constant,
    /// `full(value, dtype, shape)`: one number everywhere.
    Full,
    /// `iota(dim, dtype, shape)`: the position along `dim`.
    Iota,
    /// A scalar operation at each point; all operands have the result's shape.
    Elementwise(ScalarOp),
    /// `reduce(x; dims)`: reduced dims stay with size 1. ArgMax/ArgMin take one dim and give i64.
    Reduce(ReduceOp),
    /// An inclusive scan; attrs `dim`.
    Scan(ReduceOp),
    /// Moves elements without computing.
    View(View),
    /// `concat(xs..; dim)`.
    Concat,
    /// `slice_scatter(base, src; starts, stops, steps)`: `base` with the slice replaced by `src`.
    SliceScatter,
    /// `take(x, index; dim)`.
    Take,
    /// `gather(x, index; dim)`.
    Gather,
    /// `scatter(base, index, src; dim, mode)`.
    Scatter,
    /// `index_put(base, index, src; dim, mode)`.
    IndexPut,
    /// `argsort(x; dim, descending)`: stable, i64.
    ArgSort,
    /// `dot_general(a, b; lhs_batch, rhs_batch, lhs_contract, rhs_contract)`, as in XLA.
    Dot,
    /// `attention_forward(q, k, v, [mask], [state]; scale, causal, dropout, mask, safe, lse)`.
    Attention,
    /// `attention_backward(q, k, v, [mask], [state], forward, ct; scale, causal, dropout, mask, safe)`.
    AttentionGrad,
    /// Defined by its decomposition.
    Composite,
}

/// Views; each is an index map from the result to the operand.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// `reshape(x; shape)`: same elements in row-major order.
    Reshape,
    /// `permute(x; dims)`: `out.shape[i] = x.shape[dims[i]]`.
    Permute,
    /// `expand(x; shape)`: same rank; dims of size 1 are repeated.
    Expand,
    /// `slice(x; starts, stops, steps)`: one of each per dim, `0 <= start <= stop <= size`, `step >= 1`.
    Slice,
    /// `flip(x; dims)`.
    Flip,
    /// `pad(x; lo, hi, value)`: constant padding, `lo, hi >= 0` per dim.
    Pad,
    /// `windows(x; dims, sizes, steps, dilations)`: overlapping parts of dims; positions in them are new last dims.
    Windows,
}

/// Number of operands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Arity {
    /// Exactly this many.
    Fixed(usize),
    /// At least this many.
    AtLeast(usize),
}

/// A set of dtypes, a bit each.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct DTypeSet(u16);

impl DTypeSet {
    /// All ten.
    pub const ALL: DTypeSet = DTypeSet(0x3ff);
    /// f16, bf16, f32, f64.
    pub const FLOATS: DTypeSet = DTypeSet::of(&DType::FLOATS);
    /// The integers without bool.
    pub const INTS: DTypeSet = DTypeSet::of(&DType::INTS);
    /// Integers and floats.
    pub const NUMBERS: DTypeSet = DTypeSet(DTypeSet::FLOATS.0 | DTypeSet::INTS.0);
    /// Integers and bool.
    pub const BITS: DTypeSet = DTypeSet(DTypeSet::INTS.0 | 1);
    /// Only bool.
    pub const BOOL: DTypeSet = DTypeSet(1);

    /// The set of the listed dtypes.
    pub const fn of(dtypes: &[DType]) -> DTypeSet {
        let mut bits = 0;
        let mut i = 0;
        while i < dtypes.len() {
            bits |= 1 << dtypes[i] as u16;
            i += 1;
        }
        DTypeSet(bits)
    }
    /// Membership.
    pub const fn contains(self, dtype: DType) -> bool {
        self.0 >> dtype as u16 & 1 == 1
    }
    /// The members in order.
    pub fn iter(self) -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(move |&d| self.contains(d))
    }
}

/// Cotangents of the operands, in order; `None` where no gradient flows.
pub type Cotangents<'b> = SmallVec<[Option<Val<'b>>; 3]>;

/// One application of an op inside a graph under construction.
pub struct Call<'b, 'a> {
    /// Operands.
    pub x: &'a [Val<'b>],
    /// Attributes.
    pub attrs: &'a [Attr],
    /// Result type.
    pub ty: &'a Type,
}

/// An application with the cotangent of its result.
pub struct VjpCall<'b, 'a> {
    /// Operands.
    pub x: &'a [Val<'b>],
    /// Attributes.
    pub attrs: &'a [Attr],
    /// The result.
    pub out: Val<'b>,
    /// Cotangent of the result: same type as the result.
    pub ct: Val<'b>,
}

/// The gradient of an op.
#[derive(Copy, Clone)]
pub enum Vjp {
    /// Vector-Jacobian product, as ordinary ops.
    Rule(for<'b, 'a> fn(&VjpCall<'b, 'a>) -> Cotangents<'b>),
    /// By differentiating the decomposition.
    ViaDecompose,
    /// None, and why.
    None(&'static str),
}

/// How far compiled results may be from the interpreter's (correctly rounded) ones, and why.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Tolerance {
    /// In units in the last place of the result's dtype.
    pub ulp: f64,
    /// Relative to the largest magnitude among operands and result: for sums with cancellation, in units
    /// of the dtype's epsilon.
    pub scaled_eps: f64,
}

impl Tolerance {
    /// The same bits.
    pub const EXACT: Tolerance = Tolerance { ulp: 0.0, scaled_eps: 0.0 };
    /// A function of one or two numbers computed apart on both sides. Up to f32 kernels are within 2 ulp (most
    /// within 1.6) and the interpreter within a half. In f64 they are within 2 ulp, the interpreter within 1.
    pub const FUNCTION: Tolerance = Tolerance { ulp: 3.0, scaled_eps: 0.0 };
    /// Within `ulp` units in the last place.
    pub const fn ulp(ulp: f64) -> Tolerance {
        Tolerance { ulp, scaled_eps: 0.0 }
    }
    /// Within `eps` epsilons of the largest magnitude involved.
    pub const fn scaled(eps: f64) -> Tolerance {
        Tolerance { ulp: 1.0, scaled_eps: eps }
    }
}

/// How Python sees the op. Everything but `Hidden` is bound without further code.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Surface {
    /// Wrapped by hand (or internal): views, reductions, constructors.
    Hidden,
    /// `torsh.name(x)`, `x.name()` and, where `inplace`, `x.name_()`.
    Unary {
        /// Integer and bool inputs are converted to the default float dtype first.
        float: bool,
        /// Has an in-place form.
        inplace: bool,
    },
    /// `torsh.name(a, b)`, `a.name(b)` with promotion and broadcasting.
    Binary {
        /// Integer and bool operands are converted to the default float dtype first.
        float: bool,
        /// Has an in-place form.
        inplace: bool,
    },
}

/// What values a sample input holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Values {
    /// About standard normal for floats, small numbers for integers, coin flips for bool.
    Normal,
    /// Uniform in the range.
    Range(f64, f64),
    /// Integers in `0..n`, for indices.
    Index(usize),
    /// Distinct values in a shuffled order, well apart: for sorts and maxima.
    Distinct,
    /// inf, nan, -0.0, denormals, integer extremes, mixed with ordinary values.
    Special,
    /// A permutation of `0..n` along the last dim.
    Permutation,
}

/// One input of a sample.
#[derive(Clone, PartialEq, Debug)]
pub struct Gen {
    /// Fixed dtype, or `None` for the dtype under test.
    pub dtype: Option<DType>,
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Values,
}

impl Gen {
    /// Normal values of the dtype under test.
    pub fn normal(shape: &[usize]) -> Gen {
        Gen { dtype: None, shape: shape.to_vec(), values: Values::Normal }
    }
    /// Uniform values of the dtype under test.
    pub fn range(shape: &[usize], lo: f64, hi: f64) -> Gen {
        Gen { dtype: None, shape: shape.to_vec(), values: Values::Range(lo, hi) }
    }
    /// Any values of the dtype under test.
    pub fn of(shape: &[usize], values: Values) -> Gen {
        Gen { dtype: None, shape: shape.to_vec(), values }
    }
    /// i64 indices below `n`.
    pub fn index(shape: &[usize], n: usize) -> Gen {
        Gen { dtype: Some(DType::I64), shape: shape.to_vec(), values: Values::Index(n) }
    }
    /// The same with a fixed dtype.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Gen {
        self.dtype = Some(dtype);
        self
    }
}

/// An example application: feeds forward, gradient, dtype, backend and docs tests.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Operands.
    pub inputs: Vec<Gen>,
    /// Attributes.
    pub attrs: Attrs,
    /// Whether gradients are checked at these values (false at kinks, poles and special values).
    pub grad: bool,
}

impl Sample {
    /// A sample without attributes, gradient checked.
    pub fn new(inputs: Vec<Gen>) -> Sample {
        Sample { inputs, attrs: Attrs::new(), grad: true }
    }
    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, value: impl Into<Attr>) -> Sample {
        self.attrs.push(value.into());
        self
    }
    /// Leaves gradients unchecked.
    #[must_use]
    pub fn no_grad(mut self) -> Sample {
        self.grad = false;
        self
    }
}

/// An application for the interpreter.
pub struct EvalCall<'a> {
    /// Operand values.
    pub x: &'a [&'a HostTensor],
    /// Attributes.
    pub attrs: &'a [Attr],
    /// Result type.
    pub ty: &'a Type,
}

/// All facts of one op.
pub struct OpDef {
    /// The same word in text IR, builder, Python, file name and tests.
    pub name: &'static str,
    /// One line, then the formula with its source, then a runnable Python example after `>>> `.
    pub doc: &'static str,
    /// What passes see.
    pub kind: Kind,
    /// Operand count.
    pub arity: Arity,
    /// Attributes in order.
    pub attrs: &'static [AttrSpec],
    /// Dtypes that the first operand may have (the result for ops without operands).
    pub dtypes: DTypeSet,
    /// Result type from operand types and attributes; refuses what does not fit with the reason. Count and
    /// kinds of attributes and the operand count have been checked.
    pub infer: fn(&[Type], &[Attr]) -> Result<Type>,
    /// Meaning of a primitive on the interpreter; `None` for elementwise ops (scalar.rs) and composites.
    pub eval: Option<fn(&EvalCall<'_>) -> Result<HostTensor>>,
    /// Meaning of a composite in simpler ops; of a primitive, what it is differentiated as.
    pub decompose: Option<for<'b, 'a> fn(&Call<'b, 'a>) -> Val<'b>>,
    /// Gradient.
    pub vjp: Vjp,
    /// Allowed difference between compiled and interpreted results.
    pub tolerance: Tolerance,
    /// Python surface.
    pub surface: Surface,
    /// Further Python names.
    pub aliases: &'static [&'static str],
    /// Example applications.
    pub samples: fn() -> Vec<Sample>,
}

/// A handle to an [`OpDef`]; equal when the names are.
#[derive(Copy, Clone)]
pub struct Op(pub &'static OpDef);

impl Deref for Op {
    type Target = OpDef;
    fn deref(&self) -> &OpDef {
        self.0
    }
}
impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        std::ptr::eq(self.0, other.0) || self.0.name == other.0.name
    }
}
impl Eq for Op {}
impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl OpDef {
    /// Result type of an application, with operand count, attribute kinds and dtypes checked first.
    pub fn infer(&self, operands: &[Type], attrs: &[Attr]) -> Result<Type> {
        self.check(operands, attrs)
            .and_then(|()| (self.infer)(operands, attrs))
            .and_then(|ty| ty.shape.checked_numel().map(|_| ty))
            .map_err(|e| e.with_op(self.name).with_types(operands))
    }

    fn check(&self, operands: &[Type], attrs: &[Attr]) -> Result<()> {
        use crate::error::Error;
        let (ok, least, n) = match self.arity {
            Arity::Fixed(n) => (operands.len() == n, "", n),
            Arity::AtLeast(n) => (operands.len() >= n, "at least ", n),
        };
        if !ok {
            let wanted = format!("{least}{n}");
            return Err(Error::value(format!("expected {wanted} operands, got {}", operands.len())));
        }
        if attrs.len() != self.attrs.len() {
            return Err(Error::value(format!("expected {} attributes, got {}", self.attrs.len(), attrs.len())));
        }
        for (spec, attr) in self.attrs.iter().zip(attrs) {
            if spec.kind != attr.kind() {
                return Err(Error::value(format!("attribute {} must be {:?}, got {attr:?}", spec.name, spec.kind)));
            }
        }
        if let Some(first) = operands.first()
            && !self.dtypes.contains(first.dtype)
        {
            let names: Vec<_> = self.dtypes.iter().map(DType::name).collect();
            return Err(Error::dtype(format!("does not support {}; supported: {}", first.dtype, names.join(", "))));
        }
        Ok(())
    }
}
