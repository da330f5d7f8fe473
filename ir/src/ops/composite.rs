//! Pieces that several composites share: working precision, bases of their definitions, means, class
//! targets and the reductions of losses. No facts of a single op stand here.
//!
//! Composites on 16-bit floats compute in f32 from the first operand to the last result and round once, as
//! PyTorch does: sums over long rows would overflow f16, and the roundings in between would cost time too.

use super::rules::{dim_attr, index_dtype, same_dtype};
use super::{BASE, elementwise_shapes};
use crate::Val;
use crate::attr::{Attr, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Arity, Call, Cotangents, DTypeSet, Gen, OpDef, Sample, Surface, Tolerance, Values, VjpCall};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// Base of a composite on floats whose result has the operand's type. A handful of operations, each within
/// a unit in the last place of its intermediate result.
pub(super) const fn float_map(name: &'static str) -> OpDef {
    OpDef { name, dtypes: DTypeSet::FLOATS, tolerance: Tolerance::scaled(8.0), samples: unary_samples, ..BASE }
}

/// Base of an elementwise composite of two float operands of one type.
pub(super) const fn float_binary(name: &'static str) -> OpDef {
    OpDef {
        name,
        arity: Arity::Fixed(2),
        dtypes: DTypeSet::FLOATS,
        infer: super::same_types,
        tolerance: Tolerance::scaled(8.0),
        surface: Surface::Binary { float: true, inplace: true },
        samples: binary_samples,
        ..BASE
    }
}

/// Base of an elementwise test with a bool result.
pub(super) const fn predicate(name: &'static str) -> OpDef {
    OpDef {
        name,
        infer: |x, _| Ok(Type::new(DType::Bool, x[0].shape.clone())),
        surface: Surface::Unary { float: false, inplace: false },
        vjp: crate::op::Vjp::None("a test is piecewise constant"),
        samples: || unary_samples().into_iter().map(Sample::no_grad).collect(),
        ..BASE
    }
}

/// Base of a loss of two operands of one type with attribute `reduction` first.
pub(super) const fn loss(name: &'static str, attrs: &'static [crate::attr::AttrSpec]) -> OpDef {
    OpDef {
        name,
        arity: Arity::Fixed(2),
        attrs,
        dtypes: DTypeSet::FLOATS,
        infer: loss_infer,
        tolerance: Tolerance::scaled(8.0),
        ..BASE
    }
}

/// Shapes and values for elementwise ops of one operand.
pub(super) fn unary_samples() -> Vec<Sample> {
    let mut s: Vec<_> = elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d)])).collect();
    s.push(Sample::new(vec![Gen::range(&[301], -60.0, 60.0)]).no_grad());
    s.push(Sample::new(vec![Gen::of(&[67], Values::Special)]).no_grad());
    s
}

/// Shapes and values for elementwise ops of two operands.
pub(super) fn binary_samples() -> Vec<Sample> {
    let mut s: Vec<_> =
        elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d), Gen::normal(d)])).collect();
    s.push(Sample::new(vec![Gen::of(&[67], Values::Special), Gen::of(&[67], Values::Special)]).no_grad());
    s
}

/// The samples with attributes added.
pub(super) fn with_attrs(samples: Vec<Sample>, attrs: &[Attr]) -> Vec<Sample> {
    samples.into_iter().map(|s| attrs.iter().fold(s, |s, a| s.attr(a.clone()))).collect()
}

/// A float attribute.
pub(super) fn float(value: f64) -> Attr {
    Attr::Scalar(Scalar::Float(value))
}

/// The value in the dtype in which 16-bit floats compute.
pub(super) fn wide(x: Val<'_>) -> Val<'_> {
    x.cast(x.dtype().compute())
}

/// A decomposition `f(x)` in working precision.
pub(super) fn map<'b>(c: &Call<'b, '_>, f: impl FnOnce(Val<'b>) -> Val<'b>) -> Val<'b> {
    f(wide(c.x[0])).cast(c.ty.dtype)
}

/// A decomposition `f(a, b)` in working precision.
pub(super) fn map2<'b>(c: &Call<'b, '_>, f: impl FnOnce(Val<'b>, Val<'b>) -> Val<'b>) -> Val<'b> {
    f(wide(c.x[0]), wide(c.x[1])).cast(c.ty.dtype)
}

/// A gradient `f(x, ct)` in working precision.
pub(super) fn map_vjp<'b>(c: &VjpCall<'b, '_>, f: impl FnOnce(Val<'b>, Val<'b>) -> Val<'b>) -> Cotangents<'b> {
    smallvec![Some(f(wide(c.x[0]), wide(c.ct)).cast(c.x[0].dtype()))]
}

/// Gradients `f(a, b, ct)` in working precision.
pub(super) fn map2_vjp<'b>(
    c: &VjpCall<'b, '_>,
    f: impl FnOnce(Val<'b>, Val<'b>, Val<'b>) -> (Val<'b>, Val<'b>),
) -> Cotangents<'b> {
    let (da, db) = f(wide(c.x[0]), wide(c.x[1]), wide(c.ct));
    let dtype = c.x[0].dtype();
    smallvec![Some(da.cast(dtype)), Some(db.cast(dtype))]
}

/// `condition ? x : 0`.
pub(super) fn keep<'b>(condition: Val<'b>, x: Val<'b>) -> Val<'b> {
    condition.select(x, x.zeros_like())
}

/// Type rule: the operand's type; attribute 0 is one of its dims.
pub(super) fn along_dim(x: &[Type], a: &[Attr]) -> Result<Type> {
    dim_attr(a.int(0), x[0].rank()).map(|_| x[0].clone())
}

/// Attribute `i` as dims that have been checked.
pub(super) fn dims_of(a: &[Attr], i: usize) -> Vec<usize> {
    a.ints(i).iter().map(|&d| d as usize).collect()
}

/// Number of elements that a reduction over `dims` folds.
pub(super) fn count(shape: &Shape, dims: &[usize]) -> f64 {
    dims.iter().map(|&d| shape[d] as f64).product()
}

/// `sum(x) / n` over `dims`, which stay with size 1.
pub(super) fn mean<'b>(x: Val<'b>, dims: &[usize]) -> Val<'b> {
    let sum = x.sum(dims);
    sum / sum.full_like(count(&x.shape(), dims))
}

/// `x - mean(x)` over `dims`.
pub(super) fn centre<'b>(x: Val<'b>, dims: &[usize]) -> Val<'b> {
    x - mean(x, dims).expand(&x.shape())
}

/// `sum((x - mean)^2) / max(n - correction, 0)`: two passes, no cancellation.
pub(super) fn variance<'b>(x: Val<'b>, dims: &[usize], correction: i64) -> Val<'b> {
    let d = centre(x, dims);
    let sum = (d * d).sum(dims);
    sum / sum.full_like(degrees(&x.shape(), dims, correction))
}

/// `max(n - correction, 0)`.
pub(super) fn degrees(shape: &Shape, dims: &[usize], correction: i64) -> f64 {
    (count(shape, dims) - correction as f64).max(0.0)
}

/// The last `ndims` of `rank` dims.
pub(super) fn last_dims(rank: usize, ndims: i64) -> Vec<usize> {
    (rank - ndims as usize..rank).collect()
}

/// Type rule of normalisations: attribute 0 counts the trailing dims that are normalised; further operands
/// (at most `most - 1`) have their shape.
pub(super) fn norm_infer(x: &[Type], a: &[Attr], most: usize) -> Result<Type> {
    let (rank, ndims) = (x[0].rank(), a.int(0));
    if ndims < 1 || ndims as u64 > rank as u64 {
        return Err(Error::value(format!("ndims must be in 1..={rank}, got {ndims}")));
    }
    if x.len() > most {
        return Err(Error::value(format!("expected at most {most} operands, got {}", x.len())));
    }
    for other in &x[1..] {
        same_dtype(&x[0], other)?;
        let tail = &x[0].shape[rank - ndims as usize..];
        if other.shape.dims() != tail {
            return Err(Error::shape(format!("weight and bias must have shape {tail:?}, got {}", other.shape)));
        }
    }
    Ok(x[0].clone())
}

/// How a loss folds its elements.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Reduction {
    None,
    Mean,
    Sum,
}

/// The `reduction` attribute of losses.
pub(super) fn reduction(text: &str) -> Result<Reduction> {
    match text {
        "none" => Ok(Reduction::None),
        "mean" => Ok(Reduction::Mean),
        "sum" => Ok(Reduction::Sum),
        _ => Err(Error::value(format!("{text} is not a valid value for reduction: expected none, mean or sum"))),
    }
}

/// Type rule of losses: operands of one type, attribute 0 the reduction; 0-d unless that is `none`.
pub(super) fn loss_infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    let ty = super::same_types(x, a)?;
    Ok(match reduction(a.str(0))? {
        Reduction::None => ty,
        Reduction::Mean | Reduction::Sum => Type::scalar(ty.dtype),
    })
}

/// Every dim of a shape.
pub(super) fn all_dims(shape: &Shape) -> Vec<usize> {
    (0..shape.rank()).collect()
}

/// Folds a loss per element as attribute 0 says.
pub(super) fn fold_loss<'b>(c: &Call<'b, '_>, losses: Val<'b>) -> Val<'b> {
    let dims = all_dims(&losses.shape());
    let folded = match reduction(c.attrs.str(0)) {
        Ok(Reduction::Mean) => mean(losses, &dims).reshape(&[]),
        Ok(Reduction::Sum) => losses.sum(&dims).reshape(&[]),
        Ok(Reduction::None) | Err(_) => losses,
    };
    folded.cast(c.ty.dtype)
}

/// The cotangent of each element's loss, in working precision.
pub(super) fn loss_ct<'b>(c: &VjpCall<'b, '_>) -> Val<'b> {
    let (ct, shape) = (wide(c.ct), c.x[0].shape());
    match reduction(c.attrs.str(0)) {
        Ok(Reduction::Mean) => (ct / ct.full_like(shape.numel() as f64)).broadcast_to(&shape),
        Ok(Reduction::Sum) => ct.broadcast_to(&shape),
        Ok(Reduction::None) | Err(_) => ct,
    }
}

/// Samples of a loss: odd shapes under each reduction, with further attributes.
pub(super) fn loss_samples(a: fn(&[usize]) -> Gen, b: fn(&[usize]) -> Gen, attrs: &[Attr]) -> Vec<Sample> {
    let mut out = Vec::new();
    for reduction in ["none", "mean", "sum"] {
        for shape in [&[][..], &[1], &[17], &[3, 33], &[2, 0, 3], &[2, 3, 5]] {
            out.push(Sample::new(vec![a(shape), b(shape)]).attr(reduction));
        }
    }
    with_attrs(out, attrs)
}

/// Class targets beside scores of shape `[C]` or `[N, C, d1, ..]`.
pub(super) struct Classes<'b> {
    /// The class dim of the scores.
    pub dim: usize,
    /// Whether the class is the target, of the scores' shape.
    pub hot: Val<'b>,
    /// Whether the target counts, of the scores' shape with one class.
    pub counts: Val<'b>,
    /// Weight of the target's class, likewise.
    pub weight: Val<'b>,
    /// Weight per class, of the scores' shape.
    pub weights: Option<Val<'b>>,
}

/// Type rule of losses with class targets: scores, target, optional weights; attributes reduction, ignore_index.
pub(super) fn classes_infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    if x.len() > 3 {
        return Err(Error::value(format!("expected at most 3 operands, got {}", x.len())));
    }
    if x[0].rank() == 0 {
        return Err(Error::shape("scores must have a class dim, got a 0-d tensor"));
    }
    index_dtype(&x[1]).map_err(|_| Error::dtype(format!("class targets must be int64, got {}", x[1].dtype)))?;
    let dim = class_dim(x[0].rank());
    let mut rows = x[0].shape.to_vec();
    let classes = rows.remove(dim);
    if x[1].shape.dims() != rows.as_slice() {
        return Err(Error::shape(format!("scores {} need a target of shape {rows:?}, got {}", x[0].shape, x[1].shape)));
    }
    if let Some(weight) = x.get(2) {
        same_dtype(&x[0], weight)?;
        if weight.shape.dims() != [classes] {
            return Err(Error::shape(format!("weight must have shape [{classes}], got {}", weight.shape)));
        }
    }
    Ok(match reduction(a.str(0))? {
        Reduction::None => Type::new(x[0].dtype, Shape::of(&rows)),
        Reduction::Mean | Reduction::Sum => Type::scalar(x[0].dtype),
    })
}

fn class_dim(rank: usize) -> usize {
    usize::from(rank > 1)
}

/// The same numbers, by a lookup in `0..classes`: one out of range is an IndexError when the program runs,
/// where a comparison alone would silently find no class. Costs a pass over the targets, not over the scores.
fn checked(target: Val<'_>, classes: usize) -> Val<'_> {
    let (b, shape) = (target.builder(), target.shape());
    let all = b.iota(0, DType::I64, &Shape::of(&[classes]));
    let flat = target.reshape(&[shape.numel()]);
    b.op("gather", &[all, flat], &[Attr::Int(0)]).reshape(&shape)
}

impl<'b> Classes<'b> {
    /// Reads operands scores (only their type), target, optional weights, and attribute 1 (ignore_index).
    pub fn new(x: &[Val<'b>], a: &[Attr]) -> Classes<'b> {
        let (b, shape, dtype) = (x[0].builder(), x[0].shape(), x[0].dtype().compute());
        let dim = class_dim(shape.rank());
        let mut row = shape.to_vec();
        row[dim] = 1;
        let row = Shape::of(&row);
        let target = x[1].reshape(&row);
        let counts = target.ne(b.full(Scalar::Int(a.int(1)), DType::I64, &row));
        let target = checked(keep(counts, target), shape[dim]);
        let hot = b.iota(dim, DType::I64, &shape).eq(target.expand(&shape));
        let weights = x.get(2).map(|w| {
            let mut column = vec![1; shape.rank()];
            column[dim] = shape[dim];
            wide(*w).reshape(&column).expand(&shape)
        });
        let weight = match weights {
            Some(w) => keep(hot, w).sum(&[dim]),
            None => b.full(Scalar::Float(1.0), dtype, &row),
        };
        Classes { dim, hot, counts, weight, weights }
    }

    /// Sum of the counted weights, 0-d.
    fn total(&self) -> Val<'b> {
        let counted = keep(self.counts, self.weight);
        counted.sum(&all_dims(&counted.shape())).reshape(&[])
    }

    /// Folds a loss per row (weights included) as attribute 0 says: the mean is over the counted weights.
    /// Rows that do not count are 0.
    pub fn fold(&self, c: &Call<'b, '_>, rows: Val<'b>) -> Val<'b> {
        let rows = keep(self.counts, rows);
        let sum = || rows.sum(&all_dims(&rows.shape())).reshape(&[]);
        let folded = match reduction(c.attrs.str(0)) {
            Ok(Reduction::Mean) => sum() / self.total(),
            Ok(Reduction::Sum) => sum(),
            Ok(Reduction::None) | Err(_) => rows.reshape(&c.ty.shape),
        };
        folded.cast(c.ty.dtype)
    }

    /// The cotangent of each row's loss; 0 where the row does not count.
    pub fn row_ct(&self, c: &VjpCall<'b, '_>) -> Val<'b> {
        let (ct, row) = (wide(c.ct), self.counts.shape());
        let g = match reduction(c.attrs.str(0)) {
            Ok(Reduction::Mean) => (ct / self.total()).broadcast_to(&row),
            Ok(Reduction::Sum) => ct.broadcast_to(&row),
            Ok(Reduction::None) | Err(_) => ct.reshape(&row),
        };
        keep(self.counts, g)
    }

    /// Cotangent of the class weights, from that of each element's weight in the sum of rows. Under `mean`
    /// the weights stand in the denominator as well.
    pub fn weight_ct(&self, c: &VjpCall<'b, '_>, elements: Val<'b>) -> Val<'b> {
        let shape = elements.shape();
        let elements = match reduction(c.attrs.str(0)) {
            Ok(Reduction::Mean) => {
                let pull = (wide(c.ct) * wide(c.out) / self.total()).broadcast_to(&self.counts.shape());
                elements - keep(self.hot, keep(self.counts, pull).expand(&shape))
            }
            Ok(Reduction::Sum | Reduction::None) | Err(_) => elements,
        };
        let dims: Vec<usize> = (0..shape.rank()).filter(|&d| d != self.dim).collect();
        elements.sum(&dims).reshape(&[shape[self.dim]]).cast(c.x[0].dtype())
    }
}

/// Samples of a loss with class targets: with and without weights and extra dims, under each reduction.
pub(super) fn class_samples(attrs: &[Attr]) -> Vec<Sample> {
    let mut out = Vec::new();
    for reduction in ["none", "mean", "sum"] {
        for (shape, weighted) in [
            (&[5][..], false),
            (&[1, 1], false),
            (&[4, 17], false),
            (&[4, 5], true),
            (&[2, 5, 3], false),
            (&[2, 5, 3, 2], true),
            (&[0, 5], false),
        ] {
            let mut rows = shape.to_vec();
            let classes = rows.remove(class_dim(shape.len()));
            let mut inputs = vec![Gen::normal(shape), Gen::index(&rows, classes)];
            if weighted {
                inputs.push(Gen::range(&[classes], 0.5, 2.0));
            }
            out.push(Sample::new(inputs).attr(reduction));
        }
    }
    with_attrs(out, attrs)
}

/// Samples of reductions over dims.
pub(super) fn reduction_samples(attrs: &[Attr]) -> Vec<Sample> {
    let s = |shape: &[usize], dims: &[i64]| Sample::new(vec![Gen::normal(shape)]).attr(dims);
    let out = vec![
        s(&[2], &[0]),
        s(&[17], &[0]),
        s(&[5, 33], &[1]),
        s(&[5, 33], &[0]),
        s(&[5, 33], &[0, 1]),
        s(&[3, 2, 70], &[0, 2]),
        s(&[2, 3, 0], &[1]),
    ];
    with_attrs(out, attrs)
}
