//! Rules of reductions, scans, joins and contractions, and of tensors without elements.

use super::rule::{Rhs, Rule, Term, ap, full, many, rules, settled, with};
use super::view_rules::{normal_region, region, slice};
use torsh_ir::attr::{Attr, AttrsExt, Scalar};
use torsh_ir::dtype::DType;
use torsh_ir::graph::NodeId;
use torsh_ir::op::{Kind, View};
use torsh_ir::scalar::{BinOp, ReduceOp, eval_bin, identity, round_to};
use torsh_ir::shape::Ints;

/// A concat is flattened only while it has at most this many parts, which keeps simplification linear.
const MAX_PARTS: usize = 64;

/// Every list of this file.
pub(super) static ALL: &[&[Rule]] = &[EMPTY, REDUCE, ARG_REDUCE, SCAN, CONCAT, SLICE_SCATTER, ARG_SORT, DOT];

rules! {
    /// Tried on every primitive that cannot fail at run time, before all others.
    EMPTY {
        no_elements: "op(x..) = full(0), where the result has no elements" => |t| {
            (t.ty().numel() == 0).then(|| full(Scalar::Int(0), t.ty()))
        };
    }
    /// Sum, prod, amax, amin, any, all.
    REDUCE {
        reduce_empty: "reduce(x) = the neutral element, x without elements" => |t| {
            let neutral = identity(reduction(t)?, t.dtype());
            (t.of(t.x(0)).ty.numel() == 0).then(|| full(neutral, t.ty()))
        };
        reduce_unit_dims: "reduce(x; dims) = reduce(x; dims in order, without those of size 1)" => |t| {
            let dims = t.attrs().ints(0);
            let from = t.dims(t.x(0));
            let mut normal: Ints = dims.iter().copied().filter(|&d| from[d as usize] != 1).collect();
            normal.sort_unstable();
            if normal.is_empty() {
                return Some(t.x(0).into());
            }
            (normal.as_slice() != dims).then(|| with(t.node.op.0.name, [t.x(0).into()], [Attr::Ints(normal)]))
        };
        reduce_full: "amax(full(v)) = full(v), any, all, amin too; sum(full(v)) = full(n * v), where n * v is exact" => reduce_full;
        reduce_expand: "amax(expand(x)) = x, any, all, amin too, over repeated dims" => |t| {
            let x = repeated(t)?;
            let idempotent = matches!(reduction(t)?, ReduceOp::Max | ReduceOp::Min | ReduceOp::Any | ReduceOp::All);
            idempotent.then(|| x.into())
        };
        sum_expand: "sum(expand(x)) = x * n, over dims repeated n times, where n * x is rounded once" => |t| {
            let x = repeated(t).filter(|_| reduction(t) == Some(ReduceOp::Sum))?;
            let n = t.of(t.x(0)).ty.numel() / t.of(x).ty.numel().max(1);
            let factor = repetitions(n, t.dtype())?;
            Some(ap("mul", [x.into(), full(factor, t.ty())]))
        };
        reduce_reduce_int: "reduce(reduce(x; a); b) = reduce(x; a + b), integers and bool" => |t| {
            let inner = t.of(t.x(0));
            if inner.op != t.node.op || t.float() {
                return None;
            }
            let mut dims: Ints = inner.attrs.ints(0).iter().chain(t.attrs().ints(0)).copied().collect();
            dims.sort_unstable();
            Some(with(t.node.op.0.name, [inner.operands[0].into()], [Attr::Ints(dims)]))
        };
    }
    /// Argmax, argmin.
    ARG_REDUCE {
        arg_unit_dim: "argmax(x; dim) = 0, dim of size 1" => |t| {
            let one = t.attrs().ints(0).iter().all(|&d| t.dims(t.x(0))[d as usize] == 1);
            one.then(|| full(Scalar::Int(0), t.ty()))
        };
        arg_full: "argmax(full(v)) = 0" => |t| t.full(t.x(0)).map(|_| full(Scalar::Int(0), t.ty()));
    }
    SCAN {
        scan_unit_dim: "cumsum(x; dim) = x, dim of size 1" => |t| {
            (t.ty().shape[t.attrs().int(0) as usize] == 1).then(|| t.x(0).into())
        };
    }
    CONCAT {
        concat_one: "concat(x) = x" => |t| (t.operands().len() == 1).then(|| t.x(0).into());
        concat_empty: "concat(x, y..) = concat(y..), x without elements" => |t| {
            let parts: Vec<NodeId> = t.operands().iter().copied().filter(|&x| t.of(x).ty.numel() != 0).collect();
            let fewer = parts.len() < t.operands().len() && !parts.is_empty();
            fewer.then(|| many("concat", parts, [t.attrs()[0].clone()]))
        };
        concat_concat: "concat(concat(x, y), z) = concat(x, y, z), along one dim" => |t| {
            let inner = |x: NodeId| {
                let node = t.of(x);
                (node.op == t.node.op && node.attrs == t.node.attrs).then_some(&node.operands)
            };
            let count: usize = t.operands().iter().map(|&x| inner(x).map_or(1, |parts| parts.len())).sum();
            if count == t.operands().len() || count > MAX_PARTS {
                return None;
            }
            let parts = t.operands().iter().flat_map(|&x| match inner(x) {
                Some(parts) => parts.to_vec(),
                None => vec![x],
            });
            Some(many("concat", parts.collect(), [t.attrs()[0].clone()]))
        };
        concat_full: "concat(full(v), full(v)..) = full(v)" => |t| {
            let value = t.full(t.x(0))?;
            t.operands().iter().all(|&x| t.full(x) == Some(value)).then(|| full(value, t.ty()))
        };
        concat_slices: "concat(x[a:b], x[b:c]..) = x[a:c]" => concat_slices;
    }
    SLICE_SCATTER {
        scatter_all: "slice_scatter(base, src) = src, all of base in order" => |t| {
            (t.dims(t.x(1)) == t.ty().shape.dims()).then(|| t.x(1).into())
        };
        scatter_nothing: "slice_scatter(base, src) = base, src without elements" => |t| {
            (t.of(t.x(1)).ty.numel() == 0).then(|| t.x(0).into())
        };
        scatter_normal: "slice_scatter: stop right after the last element, step 1 for one element" => |t| {
            let (starts, stops, steps) = normal_region(t.attrs(), t.dims(t.x(1)))?;
            let attrs = [Attr::Ints(starts), Attr::Ints(stops), Attr::Ints(steps)];
            Some(with("slice_scatter", [t.x(0).into(), t.x(1).into()], attrs))
        };
        scatter_scatter: "slice_scatter(slice_scatter(base, a), b) = slice_scatter(base, b), the same region" => |t| {
            let inner = t.of(t.x(0));
            let same = inner.op == t.node.op && inner.attrs == t.node.attrs;
            let [a, b, c] = [t.attrs()[0].clone(), t.attrs()[1].clone(), t.attrs()[2].clone()];
            same.then(|| with("slice_scatter", [inner.operands[0].into(), t.x(1).into()], [a, b, c]))
        };
        scatter_own_slice: "slice_scatter(base, slice(base)) = base, the same region" => |t| {
            let (base, attrs) = t.view(t.x(1), View::Slice)?;
            (base == t.x(0) && attrs == t.attrs()).then(|| base.into())
        };
    }
    ARG_SORT {
        argsort_unit_dim: "argsort(x; dim) = 0, dim of size 1" => |t| {
            (t.ty().shape[t.attrs().int(0) as usize] == 1).then(|| full(Scalar::Int(0), t.ty()))
        };
    }
    DOT {
        dot_empty: "dot_general(x, y) = 0, where nothing is summed" => |t| {
            let none = t.operands().iter().any(|&x| t.of(x).ty.numel() == 0);
            none.then(|| full(Scalar::Int(0), t.ty()))
        };
    }
}

fn reduction(t: &Term<'_>) -> Option<ReduceOp> {
    match t.node.op.kind {
        Kind::Reduce(op) => Some(op),
        _ => None,
    }
}

/// The operand below an `expand`, when exactly the repeated dims are reduced (dims of size 1 aside).
fn repeated(t: &Term<'_>) -> Option<NodeId> {
    let (x, _) = t.view(t.x(0), View::Expand)?;
    (t.dims(x) == t.ty().shape.dims()).then_some(x)
}

/// `n` as a factor that replaces an `n`-fold sum: every partial sum is exact in the accumulator and the
/// product is rounded once.
fn repetitions(n: usize, dtype: DType) -> Option<Scalar> {
    if !dtype.is_float() {
        return Some(Scalar::Int(i64::try_from(n).ok()?).to_dtype(dtype));
    }
    // Products of f32 are rounded once from the exact product; the 16-bit floats are multiplied in f32, which
    // must hold the product exactly; f64 partial sums are rounded.
    let most = match dtype {
        DType::F32 => 1 << 24,
        DType::F16 => 1 << 11,
        DType::BF16 => 1 << 8,
        _ => 0,
    };
    (n <= most && round_to(n as f64, dtype) == n as f64).then_some(Scalar::Float(n as f64))
}

fn reduce_full(t: &Term<'_>) -> Option<Rhs> {
    let value = t.full(t.x(0))?;
    let n = t.of(t.x(0)).ty.numel() / t.ty().numel().max(1);
    let dtype = t.dtype();
    let result = match reduction(t)? {
        ReduceOp::Max | ReduceOp::Min | ReduceOp::Any | ReduceOp::All => value,
        ReduceOp::Sum => match value {
            Scalar::Float(v) => {
                // Bits of v and bits of n together fit into the accumulator: every partial sum is exact.
                let used = 53 - (v.to_bits() & ((1 << 52) - 1) | 1 << 52).trailing_zeros();
                let bits = used + (usize::BITS - n.leading_zeros());
                if bits > 53 && v.is_finite() {
                    return None;
                }
                settled(Scalar::Float(round_to(v * n as f64, dtype)))
            }
            v => eval_bin(BinOp::Mul, v, Scalar::Int(i64::try_from(n).ok()?).to_dtype(dtype), dtype),
        },
        ReduceOp::Prod => match value {
            Scalar::Float(1.0) => value,
            v if !dtype.is_float() => {
                let n = i64::try_from(n).ok()?;
                eval_bin(BinOp::Pow, Scalar::Int(v.as_i64()), Scalar::Int(n), DType::I64).to_dtype(dtype)
            }
            _ => return None,
        },
        ReduceOp::ArgMax | ReduceOp::ArgMin => return None,
    };
    Some(full(result, t.ty()))
}

fn concat_slices(t: &Term<'_>) -> Option<Rhs> {
    let dim = t.attrs().int(0) as usize;
    let (x, first) = t.view(t.x(0), View::Slice)?;
    let (starts, stops, steps) = region(first);
    let mut end = starts[dim];
    for &part in t.operands() {
        let (source, attrs) = t.view(part, View::Slice)?;
        let (a, b, s) = region(attrs);
        let joins = source == x && s[dim] == 1 && a[dim] == end;
        if !joins || (0..a.len()).any(|d| d != dim && (a[d], b[d], s[d]) != (starts[d], stops[d], steps[d])) {
            return None;
        }
        end = b[dim];
    }
    let mut stops: Ints = stops.into();
    stops[dim] = end;
    Some(slice(x.into(), starts.into(), stops, steps.into()))
}

/// A strip of a tensor: where it begins along the dim, and its values.
type Strip = (usize, NodeId);

/// A term that is 0 except for strips along one dim: that dim and the strips.
fn strips(t: &Term<'_>, x: NodeId) -> Option<(usize, Vec<Strip>)> {
    let node = t.of(x);
    if node.op.kind == Kind::View(View::Pad) {
        let (lo, hi) = (node.attrs.ints(0), node.attrs.ints(1));
        let zero = node.attrs.scalar(2).as_f64() == 0.0;
        let mut padded = (0..lo.len()).filter(|&d| lo[d] != 0 || hi[d] != 0);
        let (dim, None) = (padded.next()?, padded.next()) else { return None };
        return zero.then(|| (dim, vec![(lo[dim] as usize, node.operands[0])]));
    }
    if node.op.kind != Kind::Concat || node.operands.len() > MAX_PARTS {
        return None;
    }
    let (dim, mut start, mut out) = (node.attrs.int(0) as usize, 0, Vec::new());
    for &part in &node.operands {
        if !t.is(part, 0.0) {
            out.push((start, part));
        }
        start += t.dims(part)[dim];
    }
    // Without a gap there is no room for another strip.
    (out.len() < node.operands.len()).then_some((dim, out))
}

/// Gradients of the parts of a tensor, each padded to the whole, added up.
pub(super) fn add_strips(t: &Term<'_>) -> Option<Rhs> {
    let ((dim, mut all), (other, more)) = (strips(t, t.x(0))?, strips(t, t.x(1))?);
    all.extend(more);
    if dim != other || all.len() > MAX_PARTS || t.dtype() == DType::Bool {
        return None;
    }
    all.sort_unstable();
    let (mut end, mut parts) = (0, Vec::new());
    let gap = |size: usize| {
        let mut ty = t.ty().clone();
        let mut dims: Vec<usize> = ty.shape.dims().to_vec();
        dims[dim] = size;
        ty.shape = torsh_ir::Shape::of(&dims);
        Box::new(full(Scalar::Int(0), &ty))
    };
    for (start, part) in all {
        if start < end {
            return None;
        }
        if start > end {
            parts.push(gap(start - end));
        }
        end = start + t.dims(part)[dim];
        parts.push(Box::new(part.into()));
    }
    let size = t.ty().shape.dims()[dim];
    if size > end {
        parts.push(gap(size - end));
    }
    Some(Rhs::New {
        op: "concat",
        x: parts.into_iter().collect(),
        attrs: [Attr::Int(dim as i64)].into_iter().collect(),
    })
}
