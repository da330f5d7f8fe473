//! Operations on lazy tensors: promotion, broadcasting and the explicit nodes that strict IR asks for.

use crate::known;
use crate::live;
use crate::mode;
use crate::node::{Grad, Node, NodeRef};
use crate::place;
pub use crate::place::to_device;
use crate::promote::{Arg, can_cast, result_type};
use crate::tensor::Tensor;
use smallvec::{SmallVec, smallvec};
use torsh_ir::exec::Device;
use torsh_ir::op::{Kind, Surface, Vjp};
use torsh_ir::scalar::{ScalarOp, fits};
use torsh_ir::{Attr, Attrs, AttrsExt, DType, Error, Loc, Op, Result, Scalar, Shape, Type, limits, ops};

/// Finds an op of the registry.
pub fn find(name: &str) -> Result<Op> {
    ops::find(name).ok_or_else(|| Error::value(format!("no op named {name:?}")))
}

/// Applies a strict op and records its gradient. Operands are on one device, but for 0-d ones of the CPU; what has
/// no operands is made on the thread's default device.
pub fn apply(op: Op, operands: &[NodeRef], attrs: Attrs) -> Result<NodeRef> {
    apply_on(None, op, operands, attrs)
}

/// Applies a strict op on a device, which matters for ops without operands only.
pub fn apply_on(device: Option<Device>, op: Op, operands: &[NodeRef], attrs: Attrs) -> Result<NodeRef> {
    let types: SmallVec<[Type; 3]> = operands.iter().map(|o| o.ty.clone()).collect();
    let ty = op.infer(&types, &attrs).map_err(|e| e.with_loc(mode::loc()))?;
    if matches!(op.kind, Kind::Scatter | Kind::IndexPut) {
        let dim = attrs.int(0) as usize;
        known::check(&operands[1], ty.shape[dim], dim, op.kind == Kind::IndexPut)
            .map_err(|e| e.with_op(op.name).with_types(types.iter()).with_loc(mode::loc()))?;
    }
    check_size(&ty).map_err(|e| e.with_op(op.name).with_types([&ty]).with_loc(mode::loc()))?;
    let records = mode::grad_enabled()
        && ty.dtype.is_float()
        && !matches!(op.vjp, Vjp::None(_))
        && operands.iter().any(|o| o.requires_grad());
    let grad = if records { Grad::Op } else { Grad::None };
    let (common, operands) =
        place::together(operands).map_err(|e| e.with_op(op.name).with_types(types.iter()).with_loc(mode::loc()))?;
    let device = if operands.is_empty() { device.unwrap_or(common) } else { common };
    live::count_node();
    Ok(Node::new(op, attrs, ty, device, operands, mode::loc(), grad))
}

/// Applies a strict op by name.
pub fn apply_named(name: &str, operands: &[NodeRef], attrs: Attrs) -> Result<NodeRef> {
    apply(find(name)?, operands, attrs)
}

/// Refuses a tensor beyond the limits, before anything is allocated for it.
pub fn check_size(ty: &Type) -> Result<()> {
    let l = limits::get();
    let fits = ty.rank() as u64 <= l.max_rank
        && ty.numel() as u64 <= l.max_elements
        && ty.nbytes() as u64 <= l.max_tensor_bytes;
    if fits { Ok(()) } else { torsh_passes::limits::check_type(ty, &l) }
}

/// The same value without gradient.
pub fn detach(x: &NodeRef) -> NodeRef {
    if x.requires_grad() { Node::alias(x, Grad::None) } else { x.clone() }
}

/// Converts the dtype; the node itself where nothing changes.
pub fn cast(x: &NodeRef, dtype: DType) -> Result<NodeRef> {
    if x.ty.dtype == dtype {
        return Ok(x.clone());
    }
    apply_named("cast", std::slice::from_ref(x), smallvec![dtype.into()])
}

/// Row-major reinterpretation; the node itself where nothing changes.
pub fn reshape(x: &NodeRef, shape: &Shape) -> Result<NodeRef> {
    if x.ty.shape == *shape {
        return Ok(x.clone());
    }
    apply_named("reshape", std::slice::from_ref(x), smallvec![shape.dims().into()])
}

/// Repeats dims of size 1; the node itself where nothing changes.
pub fn expand(x: &NodeRef, shape: &Shape) -> Result<NodeRef> {
    if x.ty.shape == *shape {
        return Ok(x.clone());
    }
    apply_named("expand", std::slice::from_ref(x), smallvec![shape.dims().into()])
}

/// NumPy broadcasting to a shape.
pub fn broadcast_to(x: &NodeRef, shape: &Shape) -> Result<NodeRef> {
    if x.ty.shape == *shape {
        return Ok(x.clone());
    }
    if x.ty.rank() > shape.rank() {
        return Err(Error::shape(format!("{} cannot be broadcast to {shape}", x.ty.shape)));
    }
    let mut dims = vec![1; shape.rank() - x.ty.rank()];
    dims.extend_from_slice(&x.ty.shape);
    expand(&reshape(x, &Shape::of(&dims))?, shape)
}

/// One number everywhere, on a device.
pub fn full(value: Scalar, dtype: DType, shape: &Shape, device: Device) -> Result<NodeRef> {
    let attrs: Attrs = smallvec![value.to_dtype(dtype).into(), dtype.into(), shape.dims().into()];
    apply_on(Some(device), find("full")?, &[], attrs)
}

/// A tensor full of one value that is to be stored as it is.
///
/// # Errors
/// A `Runtime` error, as PyTorch's, where an integer dtype does not hold the value.
pub fn full_exact(value: Scalar, dtype: DType, shape: &Shape, device: Device) -> Result<NodeRef> {
    if !fits(value, dtype) {
        let value = match value {
            Scalar::Float(x) => x.to_string(),
            other => other.as_i64().to_string(),
        };
        return Err(Error::runtime(format!("value {value} cannot be converted to type {dtype} without overflow")));
    }
    full(value, dtype, shape, device)
}

/// A negative number beside unsigned integers, by the one that is the same modulo their range: sums, products and bits do not
/// tell them apart.
fn in_period(name: &str, value: Scalar, dtype: DType) -> Scalar {
    let alike = matches!(name, "add" | "sub" | "mul" | "bitwise_and" | "bitwise_or" | "bitwise_xor");
    match (value, dtype.int_range()) {
        (Scalar::Int(i), Some((0, hi))) if alike && dtype != DType::Bool && i < 0 && i >= -hi - 1 => {
            Scalar::Int(i + hi + 1)
        }
        _ => value,
    }
}

/// A 0-d int64 zero whose computation fails with `message` unless `ok`, a 0-d bool, turns out true: added to a result,
/// it makes the result depend on a check of values that are not there yet.
pub fn check(ok: &Tensor, message: &str) -> Result<Tensor> {
    let (node, one) = (ok.node(), Shape::of(&[1]));
    let number = |v: i64| full(Scalar::Int(v), DType::I64, &Shape::scalar(), node.device);
    let index = apply_named("select", &[node.clone(), number(0)?, number(1)?], Attrs::new())?;
    let table = full(Scalar::Int(0), DType::I64, &one, node.device)?;
    let index = reshape(&index, &one)?;
    // An index out of range is what the machine can refuse; the line's note says what it means.
    let line = mode::loc();
    let file = || Loc { file: "<unknown>".into(), line: 0, note: None };
    mode::set_loc(Some(Loc { note: Some(message.into()), ..line.clone().unwrap_or_else(file) }));
    let zero = apply_named("take", &[table, index], smallvec![Attr::Int(0)]);
    mode::set_loc(line);
    Ok(Tensor::new(reshape(&zero?, &Shape::scalar())?))
}

/// An operand converted to `dtype`, broadcast to `shape` and on `device`.
pub fn prepare(arg: &Arg, dtype: DType, shape: &Shape, device: Device) -> Result<NodeRef> {
    match arg {
        Arg::Tensor(t) => {
            let x = cast(&t.node(), dtype)?;
            let x = if x.device == device { x } else { to_device(&x, device)? };
            broadcast_to(&x, shape)
        }
        Arg::Scalar(s) => full(*s, dtype, shape, device),
    }
}

fn wrap(node: NodeRef, weak: bool) -> Tensor {
    if weak { Tensor::new_weak(node) } else { Tensor::new(node) }
}

fn types_of(args: &[Arg]) -> SmallVec<[Type; 3]> {
    args.iter()
        .map(|a| match a {
            Arg::Tensor(t) => t.ty(),
            Arg::Scalar(s) => Type::scalar(match s {
                Scalar::Bool(_) => DType::Bool,
                Scalar::Int(_) => DType::I64,
                Scalar::Float(_) => DType::F32,
            }),
        })
        .collect()
}

fn explain(error: Error, op: &str, args: &[Arg]) -> Error {
    error.with_op(op).with_types(&types_of(args)).with_loc(mode::loc())
}

/// The dtype in which a registry op computes on these operands, the broadcast shape, and the device.
fn plan(op: Op, args: &[Arg]) -> Result<(DType, Shape, Device)> {
    let device = place::common(args)?;
    let mut dtype = result_type(args);
    let float = matches!(op.surface, Surface::Unary { float: true, .. } | Surface::Binary { float: true, .. });
    if float && !dtype.is_float() {
        dtype = DType::F32;
    }
    let mut shape = args[0].shape();
    for arg in &args[1..] {
        shape = Shape::broadcast(&shape, &arg.shape())?;
    }
    Ok((dtype, shape, device))
}

/// A registry op of one tensor, with conversion of integers where the op asks for it.
pub fn unary(name: &str, x: &Tensor) -> Result<Tensor> {
    let op = find(name)?;
    let args = [Arg::from(x)];
    let run = || {
        let (dtype, shape, device) = plan(op, &args)?;
        let dtype = if x.is_weak() && x.dtype().is_float() { x.dtype() } else { dtype };
        apply(op, &[prepare(&args[0], dtype, &shape, device)?], Attrs::new())
    };
    Ok(wrap(run().map_err(|e| explain(e, name, &args))?, x.is_weak()))
}

/// Whether an operand is a number, or as a second operand a 0-d tensor of another dtype, that PyTorch does not round
/// to the 16-bit float type of the result before it computes: products and quotients do not, sums, powers, remainders
/// and comparisons do.
fn keeps_number(name: &str, dtype: DType, a: &Arg, b: &Arg) -> bool {
    let scalar = |arg: &Arg| matches!(arg, Arg::Tensor(t) if t.rank() == 0 && t.dtype() != dtype);
    matches!(dtype, DType::F16 | DType::BF16)
        && matches!(name, "mul" | "div" | "floor_divide")
        && (a.is_number() || b.is_number() || scalar(b))
}

/// A registry op of two operands, with promotion and broadcasting.
pub fn binary(name: &str, a: &Arg, b: &Arg) -> Result<Tensor> {
    let op = find(name)?;
    let args = [a.clone(), b.clone()];
    let weak = a.is_number() && b.is_number();
    let run = || {
        let (mut dtype, shape, device) = plan(op, &args)?;
        if weak && dtype.is_float() {
            // Python numbers compute in double precision.
            dtype = DType::F64;
        }
        let is_bool = |arg: &Arg| match arg {
            Arg::Tensor(t) => t.dtype() == DType::Bool,
            Arg::Scalar(s) => matches!(s, Scalar::Bool(_)),
        };
        if name == "sub" && args.iter().any(is_bool) {
            return Err(Error::dtype(
                "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a mask, \
                 use the `~` or `logical_not()` operator instead.",
            ));
        }
        let number = |arg: &Arg| if let Arg::Scalar(Scalar::Int(i)) = arg { Some(*i) } else { None };
        if matches!(op.kind, Kind::Elementwise(ScalarOp::Cmp(_)))
            && let Some((lo, hi)) = dtype.int_range()
            && [a, b].into_iter().filter_map(number).any(|i| i < lo || i > hi)
        {
            // Compared as it is, not as what it would wrap to.
            dtype = DType::I64;
        }
        if name == "pow" && !dtype.is_float() && matches!(b, Arg::Scalar(s) if s.as_i64() < 0) {
            return Err(Error::runtime("Integers to negative integer powers are not allowed."));
        }
        // A number beside 16-bit floats keeps 32 bits, and the result is rounded once.
        let wide = keeps_number(name, dtype, a, b);
        let inner = if wide { DType::F32 } else { dtype };
        // A number that wrapped would be another one; one that is compared has the wider dtype already.
        let operand = |arg: &Arg| match arg {
            Arg::Scalar(s) => full_exact(in_period(name, *s, inner), inner, &shape, device),
            Arg::Tensor(_) => prepare(arg, inner, &shape, device),
        };
        let operands = [operand(a)?, operand(b)?];
        let value = apply(op, &operands, Attrs::new())?;
        if wide { cast(&value, dtype) } else { Ok(value) }
    };
    Ok(wrap(run().map_err(|e| explain(e, name, &args))?, weak))
}

/// `where(cond, a, b)` with promotion and broadcasting.
pub fn select(cond: &Tensor, a: &Arg, b: &Arg) -> Result<Tensor> {
    let args = [Arg::from(cond), a.clone(), b.clone()];
    let run = || {
        if cond.dtype() != DType::Bool {
            return Err(Error::dtype(format!("where expected condition to be a boolean tensor, got {}", cond.dtype())));
        }
        let dtype = result_type(&args[1..]);
        let shape = Shape::broadcast(&Shape::broadcast(&cond.shape(), &a.shape())?, &b.shape())?;
        let device = place::common(&args)?;
        let cond = broadcast_to(&to_device(&cond.node(), device)?, &shape)?;
        let exact = |arg: &Arg| match arg {
            Arg::Scalar(s) => full_exact(*s, dtype, &shape, device),
            Arg::Tensor(_) => prepare(arg, dtype, &shape, device),
        };
        let (a, b) = (exact(a)?, exact(b)?);
        apply_named("select", &[cond, a, b], Attrs::new())
    };
    Ok(Tensor::new(run().map_err(|e| explain(e, "where", &args))?))
}

/// Writes `value` into `x` in place: the dtype must be castable, the value broadcasts to `x` and never
/// enlarges it. Only where not `strict` may it come from another device.
pub fn store(x: &Tensor, value: &Tensor, strict: bool) -> Result<()> {
    let run = || {
        x.check_inplace()?;
        let (own, given) = (x.ty(), value.ty());
        if strict && !value.is_weak() && !can_cast(given.dtype, own.dtype) {
            return Err(Error::runtime(format!(
                "result type {} can't be cast to the desired output type {}",
                given.dtype, own.dtype
            )));
        }
        let fits = Shape::broadcast(&own.shape, &given.shape).is_ok_and(|s| s == own.shape);
        if !fits {
            return Err(Error::shape(format!(
                "output with shape {} doesn't match the broadcast shape {}",
                own.shape,
                Shape::broadcast(&own.shape, &given.shape).unwrap_or(given.shape)
            )));
        }
        let mut node = value.node();
        if node.device != x.device() {
            if strict && !place::is_number(&node) {
                return Err(place::two(x.device(), node.device));
            }
            node = to_device(&node, x.device())?;
        }
        x.assign(&broadcast_to(&cast(&node, own.dtype)?, &own.shape)?)
    };
    run().map_err(|e| explain(e, "copy_", &[Arg::from(x), Arg::from(value)]))
}

/// In-place form of a registry op of two operands.
pub fn binary_inplace(name: &str, x: &Tensor, other: &Arg) -> Result<()> {
    x.check_inplace().map_err(|e| explain(e, &format!("{name}_"), &[Arg::from(x), other.clone()]))?;
    let result = binary(name, &Arg::from(x), other)?;
    store(x, &result, true).map_err(|e| e.with_op(name))
}

/// In-place form of a registry op of one operand.
pub fn unary_inplace(name: &str, x: &Tensor) -> Result<()> {
    x.check_inplace().map_err(|e| explain(e, &format!("{name}_"), &[Arg::from(x)]))?;
    let result = unary(name, x)?;
    store(x, &result, true).map_err(|e| e.with_op(name))
}

/// `torch.matmul`: products of vectors, matrices and broadcast stacks of matrices.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let args = [Arg::from(a), Arg::from(b)];
    place::common(&args).and_then(|_| matmul_nodes(a, b)).map(Tensor::new).map_err(|e| explain(e, "matmul", &args))
}

fn matmul_nodes(a: &Tensor, b: &Tensor) -> Result<NodeRef> {
    let (ta, tb) = (a.ty(), b.ty());
    if ta.rank() == 0 || tb.rank() == 0 {
        return Err(Error::shape("both arguments to matmul need to be at least 1D"));
    }
    if ta.dtype != tb.dtype {
        return Err(Error::dtype(format!(
            "expected operands of the same dtype, but got {} and {}",
            ta.dtype, tb.dtype
        )));
    }
    let (vec_a, vec_b) = (ta.rank() == 1, tb.rank() == 1);
    let (ka, kb) = (ta.shape[ta.rank() - 1], tb.shape[if vec_b { 0 } else { tb.rank() - 2 }]);
    if ka != kb {
        return Err(Error::shape(format!(
            "the inner sizes must be equal: {} has {ka} columns, {} has {kb} rows",
            ta.shape, tb.shape
        )));
    }
    let (na, nb) = (a.node(), b.node());
    // A stack of matrices times one matrix is one long matrix times it.
    if ta.rank() > 2 && tb.rank() <= 2 {
        let rows: usize = ta.shape[..ta.rank() - 1].iter().product();
        let flat = reshape(&na, &Shape::of(&[rows, ka]))?;
        let product = dot(&flat, &nb, &[], &[], 1, 0)?;
        let mut shape = ta.shape[..ta.rank() - 1].to_vec();
        shape.extend_from_slice(&tb.shape[1..]);
        return reshape(&product, &Shape::new(&shape)?);
    }
    if ta.rank() <= 2 && tb.rank() <= 2 {
        return dot(&na, &nb, &[], &[], ta.rank() - 1, 0);
    }
    let (batch_a, batch_b) = (&ta.shape[..ta.rank().saturating_sub(2)], &tb.shape[..tb.rank().saturating_sub(2)]);
    let batch = Shape::broadcast(&Shape::of(batch_a), &Shape::of(batch_b))?;
    let m = if vec_a { 1 } else { ta.shape[ta.rank() - 2] };
    let n = if vec_b { 1 } else { tb.shape[tb.rank() - 1] };
    let with = |tail: &[usize]| {
        let mut s = batch.to_vec();
        s.extend_from_slice(tail);
        Shape::new(&s)
    };
    let count = batch.checked_numel()?;
    let left = if vec_a { reshape(&na, &Shape::of(&[1, ka]))? } else { na };
    let left = reshape(&broadcast_to(&left, &with(&[m, ka])?)?, &Shape::new(&[count, m, ka])?)?;
    let right = if vec_b { reshape(&nb, &Shape::of(&[kb, 1]))? } else { nb };
    let right = reshape(&broadcast_to(&right, &with(&[kb, n])?)?, &Shape::new(&[count, kb, n])?)?;
    let product = dot(&left, &right, &[0], &[0], 2, 1)?;
    let tail: &[usize] = match (vec_a, vec_b) {
        (true, true) => &[],
        (true, false) => &[n],
        (false, true) => &[m],
        (false, false) => &[m, n],
    };
    reshape(&product, &with(tail)?)
}

fn dot(a: &NodeRef, b: &NodeRef, ab: &[i64], bb: &[i64], ac: usize, bc: usize) -> Result<NodeRef> {
    let attrs: Attrs = smallvec![ab.into(), bb.into(), [ac as i64].as_slice().into(), [bc as i64].as_slice().into()];
    apply_named("dot_general", &[a.clone(), b.clone()], attrs)
}

/// Joins along a dim.
pub fn concat(parts: &[NodeRef], dim: usize) -> Result<NodeRef> {
    apply_named("concat", parts, smallvec![Attr::Int(dim as i64)])
}

/// The same value as another tensor: gradients flow through.
pub fn copy(x: &NodeRef) -> NodeRef {
    if !x.requires_grad() {
        return x.clone();
    }
    if mode::grad_enabled() { Node::graft(x, x, Grad::Op) } else { detach(x) }
}
