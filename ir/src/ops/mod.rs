//! The operator registry: one file an op, one line here.
//!
//! A file holds one `pub static DEF: OpDef` with every fact of the op: name (which is also the file's),
//! doc with a runnable example, attributes, dtypes, type rule, meaning or decomposition, gradient,
//! tolerance, Python surface and samples. Adding an op is: write the file, add the line.

use crate::attr::{Attr, AttrKind, AttrSpec, Attrs, AttrsExt};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interp::HostTensor;
use crate::op::{Arity, DTypeSet, EvalCall, Kind, Op, OpDef, Sample, Surface, Tolerance, Vjp};
use crate::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use crate::shape::{Shape, Type};
use ::rustc_hash::FxBuildHasher;
use ::std::collections::HashMap;
use ::std::sync::OnceLock;

macro_rules! registry {
    ($($name:ident)*) => {
        $(pub mod $name;)*
        /// Every op.
        pub static OPS: &[&OpDef] = &[$(&$name::DEF,)*];
    };
}

pub mod attention;
pub mod attention_rows;
mod composite;
mod gradients;
mod pooling;
mod rules;
mod samples;
mod spatial;

pub use gradients::*;
pub use samples::*;

#[cfg(test)]
mod tests;

registry! {
    // leaves
    input constant full iota
    // unary
    abs acos acosh asin asinh atan atanh bitwise_not ceil cos cosh erf exp exp2 expm1 floor log log10 log1p log2
    neg reciprocal round rsqrt sigmoid sign sin sinh sqrt tan tanh trunc
    // binary
    add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor div floor_divide fmod
    maximum minimum mul philox pow remainder sub
    // comparison, choice, conversion
    bitcast cast eq ge gt le lt ne select
    // reductions
    all amax amin any argmax argmin prod sum
    // scans
    cummax cummin cumprod cumsum
    // views
    reshape permute expand slice flip pad windows
    // joining, indexing, sorting, contraction
    concat slice_scatter take gather scatter index_put argsort dot_general attention_forward attention_backward
    // composites: reductions, normalisations
    mean var std logsumexp softmax log_softmax layer_norm rms_norm batch_norm
    // composites: activations
    relu leaky_relu gelu gelu_tanh silu softplus elu celu selu mish hardtanh hardswish hardsigmoid logsigmoid softsign
    // composites: losses
    cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss kl_div
    binary_cross_entropy binary_cross_entropy_with_logits
    // composites: elementwise
    clamp lerp square xlogy hypot logaddexp logaddexp2 copysign frac deg2rad rad2deg nan_to_num
    isnan isinf isfinite isposinf isneginf
    // composites: convolution and pooling
    conv conv_transpose conv_weight max_pool max_pool_position avg_pool
    // composites: others
    one_hot tril triu scaled_dot_product_attention
}

/// Finds an op by name.
pub fn find(name: &str) -> Option<Op> {
    // The names are ours: nobody chooses them so that they collide.
    static TABLE: OnceLock<HashMap<&'static str, Op, FxBuildHasher>> = OnceLock::new();
    TABLE.get_or_init(|| OPS.iter().map(|d| (d.name, Op(d))).collect()).get(name).copied()
}

/// An op that is known to exist. Names reach this only from our own source; `tests` call every one.
pub fn op(name: &str) -> Op {
    find(name).unwrap_or_else(|| panic!("no op named {name:?} in the registry"))
}

/// Base of every definition, for `..BASE`.
pub const BASE: OpDef = OpDef {
    name: "",
    doc: "",
    kind: Kind::Composite,
    arity: Arity::Fixed(1),
    attrs: &[],
    dtypes: DTypeSet::ALL,
    infer: same_as_first,
    eval: None,
    decompose: None,
    vjp: Vjp::ViaDecompose,
    tolerance: Tolerance::EXACT,
    surface: Surface::Hidden,
    aliases: &[],
    samples: no_samples,
};

fn no_samples() -> Vec<Sample> {
    Vec::new()
}

/// An attribute in an op's list.
pub const fn attr(name: &'static str, kind: AttrKind) -> AttrSpec {
    AttrSpec { name, kind }
}

/// Base of a unary elementwise op.
pub const fn unary(name: &'static str, op: UnOp) -> OpDef {
    OpDef { name, kind: Kind::Elementwise(ScalarOp::Un(op)), ..BASE }
}
/// Base of a unary elementwise op on numbers, without conversion.
pub const fn unary_number(name: &'static str, op: UnOp) -> OpDef {
    OpDef { dtypes: DTypeSet::NUMBERS, surface: Surface::Unary { float: false, inplace: true }, ..unary(name, op) }
}
/// Base of a unary elementwise op on floats; integers are converted by the front.
pub const fn unary_float(name: &'static str, op: UnOp) -> OpDef {
    OpDef { dtypes: DTypeSet::FLOATS, surface: Surface::Unary { float: true, inplace: true }, ..unary(name, op) }
}
/// Base of a binary elementwise op.
pub const fn binary(name: &'static str, op: BinOp) -> OpDef {
    OpDef {
        name,
        kind: Kind::Elementwise(ScalarOp::Bin(op)),
        arity: Arity::Fixed(2),
        infer: same_types,
        dtypes: DTypeSet::NUMBERS,
        surface: Surface::Binary { float: false, inplace: true },
        ..BASE
    }
}
/// Base of a binary elementwise op on floats; integers are converted by the front.
pub const fn binary_float(name: &'static str, op: BinOp) -> OpDef {
    OpDef { dtypes: DTypeSet::FLOATS, surface: Surface::Binary { float: true, inplace: true }, ..binary(name, op) }
}
/// Base of a comparison.
pub const fn compare(name: &'static str, op: CmpOp) -> OpDef {
    OpDef {
        name,
        kind: Kind::Elementwise(ScalarOp::Cmp(op)),
        arity: Arity::Fixed(2),
        infer: same_types_to_bool,
        vjp: Vjp::None("a comparison is piecewise constant"),
        samples: comparison_samples,
        surface: Surface::Binary { float: false, inplace: false },
        ..BASE
    }
}

const DIMS: &[AttrSpec] = &[attr("dims", AttrKind::Ints)];
const DIM: &[AttrSpec] = &[attr("dim", AttrKind::Int)];

/// Base of a reduction, with its meaning.
pub const fn reduction(name: &'static str, op: ReduceOp, eval: fn(&EvalCall<'_>) -> Result<HostTensor>) -> OpDef {
    OpDef { name, kind: Kind::Reduce(op), attrs: DIMS, infer: reduce_infer, eval: Some(eval), ..BASE }
}
/// Base of a reduction to a position: one dim, i64.
pub const fn arg_reduction(name: &'static str, op: ReduceOp, eval: fn(&EvalCall<'_>) -> Result<HostTensor>) -> OpDef {
    OpDef { infer: arg_reduce_infer, ..reduction(name, op, eval) }
}
/// Base of a scan, with its meaning.
pub const fn scan_op(name: &'static str, op: ReduceOp, eval: fn(&EvalCall<'_>) -> Result<HostTensor>) -> OpDef {
    OpDef { name, kind: Kind::Scan(op), attrs: DIM, infer: scan_infer, eval: Some(eval), ..BASE }
}

/// Type rule: the first operand's type.
pub fn same_as_first(x: &[Type], _: &[Attr]) -> Result<Type> {
    Ok(x[0].clone())
}

/// Type rule: all operands have one type, and so has the result.
pub fn same_types(x: &[Type], _: &[Attr]) -> Result<Type> {
    for other in &x[1..] {
        if other.dtype != x[0].dtype {
            return Err(Error::dtype(format!("operands must have one dtype, got {} and {}", x[0].dtype, other.dtype)));
        }
        if other.shape != x[0].shape {
            return Err(Error::shape(format!("operands must have one shape, got {} and {}", x[0].shape, other.shape)));
        }
    }
    Ok(x[0].clone())
}

fn same_types_to_bool(x: &[Type], attrs: &[Attr]) -> Result<Type> {
    Ok(Type::new(DType::Bool, same_types(x, attrs)?.shape))
}

/// Sizes out of an attribute: each at least 0, the product addressable.
pub fn shape_attr(sizes: &[i64]) -> Result<Shape> {
    let dims: Vec<usize> = sizes
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| Error::shape(format!("negative size {d} in shape {sizes:?}"))))
        .collect::<Result<_>>()?;
    Shape::new(&dims)
}

/// Distinct dims out of an attribute, in range for `rank`.
pub fn dims_attr(dims: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(dims.len());
    for &d in dims {
        match usize::try_from(d) {
            Ok(u) if u < rank && !out.contains(&u) => out.push(u),
            Ok(u) if u < rank => return Err(Error::value(format!("dim {d} appears twice in {dims:?}"))),
            _ => return Err(Error::index(format!("dim {d} is out of range for rank {rank}"))),
        }
    }
    Ok(out)
}

/// Attributes from values.
pub fn attrs(values: &[Attr]) -> Attrs {
    Attrs::from(values.to_vec())
}

/// Type rule of reductions: attribute 0 lists the dims, which become 1.
pub fn reduce_infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    let mut dims = x[0].shape.to_vec();
    for d in dims_attr(a.ints(0), x[0].rank())? {
        dims[d] = 1;
    }
    Ok(Type::new(x[0].dtype, Shape::new(&dims)?))
}

/// Type rule of ArgMax and ArgMin: one dim, which becomes 1, and i64.
fn arg_reduce_infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    if a.ints(0).len() != 1 {
        return Err(Error::value(format!("takes exactly one dim, got {:?}", a.ints(0))));
    }
    Ok(Type::new(DType::I64, reduce_infer(x, a)?.shape))
}

/// Type rule of scans: attribute 0 is a dim in range; the type stays.
fn scan_infer(x: &[Type], a: &[Attr]) -> Result<Type> {
    dims_attr(&[a.int(0)], x[0].rank())?;
    Ok(x[0].clone())
}

/// Meaning of reductions: folds in row-major order; Sum and Prod of floats accumulate in f64 and round once.
pub fn reduce_eval(c: &EvalCall<'_>, op: ReduceOp) -> Result<HostTensor> {
    crate::interp::reduce(op, c.x[0], c.ty)
}

/// Meaning of scans.
pub fn scan_eval(c: &EvalCall<'_>, op: ReduceOp) -> Result<HostTensor> {
    crate::interp::scan(op, c.x[0], c.attrs.int(0) as usize)
}
