//! Module functions on tensors: ops by name, views, constructors, gradients, evaluation.

use crate::convert::{self, need_arg, need_tensor};
use crate::errors::{OrRaise, guarded, outside};
use crate::tensor::{PyTensor, hooks, tensors, wrap};
use crate::{device, dtype, index, source};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use torsh_frontend::view::Step;
use torsh_frontend::{Arg, Tensor, grad, mode, ops, promote, realise};
use torsh_ir::attr::AttrKind;
use torsh_ir::op::{Kind, Surface, View};
use torsh_ir::{Attr, Attrs, DType, Ints, Op, Scalar, Shape};

fn attr(kind: AttrKind, name: &str, v: &Bound<'_, PyAny>) -> PyResult<Attr> {
    let wrong = || PyTypeError::new_err(format!("attribute {name} must be {kind:?}, got {v}"));
    Ok(match kind {
        AttrKind::Int => Attr::Int(v.extract().map_err(|_| wrong())?),
        AttrKind::Bool => Attr::Bool(v.extract().map_err(|_| wrong())?),
        AttrKind::Ints => Attr::Ints(v.extract::<Vec<i64>>().map_err(|_| wrong())?.into_iter().collect::<Ints>()),
        AttrKind::DType => Attr::DType(dtype::extract(v)?),
        AttrKind::Scalar => Attr::Scalar(number(v)?.ok_or_else(wrong)?),
        AttrKind::Str => Attr::Str(v.extract::<&str>().map_err(|_| wrong())?.into()),
        AttrKind::Bytes => Attr::Bytes(v.extract::<Vec<u8>>().map_err(|_| wrong())?.into()),
    })
}

// A Python number; a tensor of one element is read.
fn number(v: &Bound<'_, PyAny>) -> PyResult<Option<Scalar>> {
    match v.cast::<PyTensor>() {
        Ok(t) => Ok(Some(convert::item(v.py(), &t.get().t, "a number that is an attribute")?)),
        Err(_) => convert::scalar(v),
    }
}

fn attributes(op: Op, values: &Bound<'_, PyTuple>) -> PyResult<Attrs> {
    if values.len() != op.attrs.len() {
        return Err(PyTypeError::new_err(format!(
            "{} takes {} attributes, got {}",
            op.name,
            op.attrs.len(),
            values.len()
        )));
    }
    op.attrs.iter().zip(values.iter()).map(|(spec, v)| attr(spec.kind, spec.name, &v)).collect()
}

/// A strict op by name: operands have the dtypes and shapes that the op asks for. An op without operands is made on
/// `device`.
#[pyfunction]
#[pyo3(signature = (name, tensors, attrs = None, device = None))]
fn apply(
    py: Python<'_>,
    name: &str,
    tensors: &Bound<'_, PyAny>,
    attrs: Option<&Bound<'_, PyTuple>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyTensor> {
    source::enter(py);
    let op = ops::find(name).or_raise()?;
    let mut attrs = attributes(op, attrs.unwrap_or(&PyTuple::empty(py)))?;
    let nodes: Vec<_> = tensors.try_iter()?.map(|t| Ok(need_tensor(&t?, name)?.node())).collect::<PyResult<_>>()?;
    let named = device.filter(|d| !d.is_none());
    // What is made without operands is made on a device that is open, the default one too.
    let device = (named.is_some() || nodes.is_empty()).then(|| device::resolve(py, named)).transpose()?;
    if let (Kind::View(View::Pad), Some(x)) = (op.kind, nodes.first()) {
        // The IR wants the border's value as the dtype represents it.
        for a in &mut attrs {
            if let Attr::Scalar(value) = a {
                *a = Attr::Scalar(value.to_dtype(x.ty.dtype));
            }
        }
    }
    let node = guarded(|| ops::apply_on(device, op, &nodes, attrs)).or_raise()?;
    convert::settle(py)?;
    Ok(Tensor::new(node).into())
}

/// A registry op of one operand; integers become floats where the op asks for it.
#[pyfunction]
fn unary(py: Python<'_>, name: &str, x: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    source::enter(py);
    let x = need_tensor(x, name)?;
    let t = guarded(|| ops::unary(name, &x)).or_raise()?;
    convert::settle(py)?;
    Ok(t.into())
}

/// A registry op of two operands, with promotion and broadcasting.
#[pyfunction]
fn binary(py: Python<'_>, name: &str, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    source::enter(py);
    let (a, b) = (need_arg(a, name)?, need_arg(b, name)?);
    Ok(crate::number::apply(py, name, &a, &b)?.into())
}

/// In-place form of `unary`; returns `x`.
#[pyfunction]
fn unary_<'py>(name: &str, x: Bound<'py, PyTensor>) -> PyResult<Bound<'py, PyTensor>> {
    source::enter(x.py());
    guarded(|| ops::unary_inplace(name, &x.get().t)).or_raise()?;
    convert::settle(x.py())?;
    Ok(x)
}

/// In-place form of `binary`; returns `x`.
#[pyfunction]
fn binary_<'py>(name: &str, x: Bound<'py, PyTensor>, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTensor>> {
    source::enter(x.py());
    let other = need_arg(other, name)?;
    guarded(|| ops::binary_inplace(name, &x.get().t, &other)).or_raise()?;
    convert::settle(x.py())?;
    Ok(x)
}

/// `reshape`, `permute`, `expand`, `slice` as views that share memory (a copy where that cannot be), `flip`
/// and `pad` as copies.
#[pyfunction]
#[pyo3(signature = (name, x, attrs = None))]
fn view(py: Python<'_>, name: &str, x: &Bound<'_, PyAny>, attrs: Option<&Bound<'_, PyTuple>>) -> PyResult<PyTensor> {
    source::enter(py);
    let x = need_tensor(x, name)?;
    let op = ops::find(name).or_raise()?;
    let attrs = attributes(op, attrs.unwrap_or(&PyTuple::empty(py)))?;
    let run = || {
        let own = x.ty();
        let loc = |e: torsh_ir::Error| e.with_loc(mode::loc());
        let to = op.infer(std::slice::from_ref(&own), &attrs).map_err(loc)?;
        match Step::parse(name, &attrs, &own.shape, &to.shape) {
            Some(step) => x.view(step).map_err(loc),
            None => Ok(Tensor::new(ops::apply(op, &[x.node()], attrs.clone())?)),
        }
    };
    let t = guarded(run).or_raise()?;
    convert::settle(py)?;
    Ok(t.into())
}

/// True when a reshape to `shape` shares memory.
#[pyfunction]
fn can_view(x: &Bound<'_, PyTensor>, shape: Vec<usize>) -> bool {
    x.get().t.can_view(&Shape::of(&shape))
}

/// Writes a value into `x` in place; it is cast to the dtype of `x`, broadcast to its shape and, unless `here`, copied
/// from another device.
#[pyfunction]
#[pyo3(signature = (x, value, here = false))]
fn assign<'py>(x: Bound<'py, PyTensor>, value: &Bound<'py, PyAny>, here: bool) -> PyResult<Bound<'py, PyTensor>> {
    source::enter(x.py());
    let t = &x.get().t;
    let run = |value: Arg| {
        t.check_inplace().map_err(|e| e.with_loc(mode::loc()))?;
        let value = match value {
            Arg::Tensor(v) => v,
            Arg::Scalar(s) => Tensor::new(ops::full_exact(s, t.dtype(), &t.shape(), t.device())?),
        };
        if here && value.device() != t.device() {
            return Err(torsh_ir::Error::device(format!(
                "Expected out tensor to have device {}, but got {} instead",
                value.device(),
                t.device()
            ))
            .with_loc(mode::loc()));
        }
        ops::store(t, &value, false)
    };
    let value = need_arg(value, "assign")?;
    guarded(|| run(value)).or_raise()?;
    convert::settle(x.py())?;
    Ok(x)
}

/// The value on a device, with gradient; the tensor itself when it is there already.
#[pyfunction]
fn to_device<'py>(x: Bound<'py, PyTensor>, device: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTensor>> {
    let py = x.py();
    source::enter(py);
    let (device, t) = (device::resolve(py, Some(device))?, &x.get().t);
    if t.device() == device {
        return Ok(x);
    }
    let node = guarded(|| ops::to_device(&t.node(), device)).or_raise()?;
    Ok(wrap(py, Tensor::new(node))?.into_bound(py))
}

/// Another handle to the same value, with gradient, sharing no memory (`clone`).
#[pyfunction]
fn clone(py: Python<'_>, x: &Bound<'_, PyTensor>) -> PyResult<PyTensor> {
    source::enter(py);
    Ok(Tensor::new(ops::copy(&x.get().t.node())).into())
}

/// One number everywhere.
#[pyfunction]
#[pyo3(signature = (shape, value, dtype = None, device = None))]
fn full(
    py: Python<'_>,
    shape: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyTensor> {
    source::enter(py);
    let device = device::resolve(py, device)?;
    let value = number(value)?.ok_or_else(|| PyTypeError::new_err("full: the value must be a number"))?;
    let dtype = match dtype.filter(|d| !d.is_none()) {
        Some(d) => dtype::extract(d)?,
        None => match value {
            Scalar::Bool(_) => DType::Bool,
            Scalar::Int(_) => DType::I64,
            Scalar::Float(_) => DType::F32,
        },
    };
    let sizes = sizes(shape)?;
    let run = || {
        let shape = torsh_ir::ops::shape_attr(&sizes).map_err(|e| e.with_op("full").with_loc(mode::loc()))?;
        ops::full_exact(value, dtype, &shape, device)
    };
    Ok(Tensor::new(guarded(run).or_raise()?).into())
}

fn sizes(shape: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let one = |d: &Bound<'_, PyAny>| -> PyResult<i64> {
        d.extract().map_err(|_| PyTypeError::new_err(format!("a size must be an integer that fits 64 bits, got {d}")))
    };
    if shape.is_instance_of::<PyInt>() {
        return Ok(vec![one(shape)?]);
    }
    shape.try_iter()?.map(|d| one(&d?)).collect()
}

/// A tensor from numbers, nested lists, NumPy arrays, buffers or a tensor; always a copy. On `device`, else where the
/// tensor given is, else on the default device.
///
/// Raises: RuntimeError for a number that an integer dtype does not hold, here as everywhere where one is stored or
/// computed with: `torsh.tensor([-1], dtype=torsh.uint8)` and `uint8 + 300` are refused, where PyTorch stores 255 and
/// wraps. Results of computations wrap.
#[pyfunction]
#[pyo3(signature = (data, dtype = None, device = None, requires_grad = false))]
fn tensor(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
    requires_grad: bool,
) -> PyResult<PyTensor> {
    source::enter(py);
    let device = match data.cast::<PyTensor>() {
        Ok(t) if device.is_none_or(|d| d.is_none()) => t.get().t.device(),
        _ => device::resolve(py, device)?,
    };
    let dtype = dtype.filter(|d| !d.is_none()).map(dtype::extract).transpose()?;
    let t = convert::tensor(data, dtype, device)?;
    if requires_grad {
        t.set_requires_grad(true).or_raise()?;
    }
    Ok(t.into())
}

/// The dtype in which an operation on these operands is computed.
#[pyfunction]
#[pyo3(signature = (*args))]
fn result_type(py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Py<dtype::PyDType>> {
    let args: Vec<Arg> = args.iter().map(|a| need_arg(&a, "result_type")).collect::<PyResult<_>>()?;
    Ok(dtype::singleton(py, promote::result_type(&args)))
}

/// Whether a value of one dtype may be stored in place in another.
#[pyfunction]
fn can_cast(from: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(promote::can_cast(dtype::extract(from)?, dtype::extract(to)?))
}

/// The dtype of two dtypes together.
#[pyfunction]
fn promote_types(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<Py<dtype::PyDType>> {
    Ok(dtype::singleton(py, DType::promote(dtype::extract(a)?, dtype::extract(b)?)))
}

/// Converts the dtype; the tensor itself when it has it already.
#[pyfunction]
fn cast<'py>(x: &Bound<'py, PyTensor>, dtype: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTensor>> {
    let py = x.py();
    source::enter(py);
    let (t, dtype) = (&x.get().t, dtype::extract(dtype)?);
    if t.dtype() == dtype {
        return Ok(x.clone());
    }
    let node = guarded(|| ops::cast(&t.node(), dtype)).or_raise()?;
    Ok(wrap(py, Tensor::new(node))?.into_bound(py))
}

/// `cond ? a : b`, with promotion and broadcasting.
#[pyfunction]
fn r#where(py: Python<'_>, cond: &Bound<'_, PyAny>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    source::enter(py);
    let (cond, a, b) = (need_tensor(cond, "where")?, need_arg(a, "where")?, need_arg(b, "where")?);
    Ok(guarded(|| ops::select(&cond, &a, &b)).or_raise()?.into())
}

/// A 0-d int64 zero whose computation raises RuntimeError with `message` unless the 0-d bool `ok` is true.
#[pyfunction]
fn check(py: Python<'_>, ok: &Bound<'_, PyTensor>, message: &str) -> PyResult<PyTensor> {
    source::enter(py);
    Ok(guarded(|| ops::check(&ok.get().t, message)).or_raise()?.into())
}

/// Products of vectors, matrices and stacks of matrices.
#[pyfunction]
fn matmul(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
    source::enter(py);
    let (a, b) = (need_tensor(a, "matmul")?, need_tensor(b, "matmul")?);
    Ok(guarded(|| ops::matmul(&a, &b)).or_raise()?.into())
}

/// `x.index_put_(indices, value, accumulate)`.
#[pyfunction]
#[pyo3(signature = (x, indices, value, accumulate = false))]
fn index_put_<'py>(
    x: Bound<'py, PyTensor>,
    indices: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
    accumulate: bool,
) -> PyResult<Bound<'py, PyTensor>> {
    source::enter(x.py());
    let items = index::parse(indices)?;
    let value = need_arg(value, "index_put_")?;
    guarded(|| torsh_frontend::index::put(&x.get().t, &items, &value, accumulate)).or_raise()?;
    Ok(x)
}

/// The positions of true elements, one vector of int64 per dim.
#[pyfunction]
fn nonzero(py: Python<'_>, x: &Bound<'_, PyTensor>) -> PyResult<Vec<PyTensor>> {
    source::enter(py);
    let nodes = guarded(|| torsh_frontend::index::nonzero(&x.get().t)).or_raise()?;
    Ok(nodes.into_iter().map(|n| Tensor::new(n).into()).collect())
}

fn optional(obj: Option<&Bound<'_, PyAny>>, count: usize) -> PyResult<Vec<Option<Tensor>>> {
    let Some(obj) = obj.filter(|o| !o.is_none()) else { return Ok(vec![None; count]) };
    if let Ok(t) = obj.cast::<PyTensor>() {
        return Ok(vec![Some(t.get().t.clone())]);
    }
    obj.try_iter()?
        .map(|o| {
            let o = o?;
            if o.is_none() { Ok(None) } else { need_tensor(&o, "grad_outputs").map(Some) }
        })
        .collect()
}

/// `torch.autograd.grad`.
#[pyfunction]
#[pyo3(name = "grad")]
#[pyo3(signature = (outputs, inputs, grad_outputs = None, create_graph = false, allow_unused = false, retain_graph = None))]
fn gradients(
    py: Python<'_>,
    outputs: &Bound<'_, PyAny>,
    inputs: &Bound<'_, PyAny>,
    grad_outputs: Option<&Bound<'_, PyAny>>,
    create_graph: bool,
    allow_unused: bool,
    retain_graph: Option<bool>,
) -> PyResult<Py<PyTuple>> {
    source::enter(py);
    let (outputs, inputs) = (tensors(outputs)?, tensors(inputs)?);
    let cotangents = optional(grad_outputs, outputs.len())?;
    let options = grad::Options { create_graph, retain_graph: retain_graph.unwrap_or(create_graph) };
    let found = guarded(|| grad::grad(&outputs, &inputs, &cotangents, allow_unused, options)).or_raise()?;
    convert::settle(py)?;
    let items = found.into_iter().map(|t| t.map(PyTensor::from)).collect::<Vec<_>>();
    Ok(PyTuple::new(py, items)?.unbind())
}

/// `torch.autograd.backward`.
#[pyfunction]
#[pyo3(signature = (tensors, grad_tensors = None, retain_graph = None, create_graph = false, inputs = None))]
fn backward(
    py: Python<'_>,
    tensors: &Bound<'_, PyAny>,
    grad_tensors: Option<&Bound<'_, PyAny>>,
    retain_graph: Option<bool>,
    create_graph: bool,
    inputs: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    source::enter(py);
    let outputs = crate::tensor::tensors(tensors)?;
    let cotangents = optional(grad_tensors, outputs.len())?;
    let inputs = inputs.filter(|i| !i.is_none()).map(crate::tensor::tensors).transpose()?;
    let options = grad::Options { create_graph, retain_graph: retain_graph.unwrap_or(create_graph) };
    guarded(|| grad::backward(&outputs, &cotangents, inputs.as_deref(), options)).or_raise()?;
    convert::settle(py)?;
    Ok(())
}

/// Sets whether operations record gradients on this thread; returns the previous setting.
#[pyfunction]
fn set_grad_enabled(on: bool) -> bool {
    mode::set_grad_enabled(on)
}

/// Whether operations record gradients on this thread.
#[pyfunction]
fn is_grad_enabled() -> bool {
    mode::grad_enabled()
}

/// Computes these tensors and every other pending one of this thread.
#[pyfunction]
#[pyo3(signature = (*args))]
fn eval(py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
    source::enter(py);
    if torsh_frontend::trace::active() != 0 {
        return Ok(());
    }
    let mut list = Vec::new();
    for a in args.iter() {
        list.extend(tensors(&a)?);
    }
    outside(py, move || if list.is_empty() { realise::flush() } else { realise::realise(&list) })
}

/// Every op of the registry, as dicts.
#[pyfunction]
fn ops_table(py: Python<'_>) -> PyResult<Py<PyList>> {
    let list = PyList::empty(py);
    for op in torsh_ir::ops::OPS {
        let d = PyDict::new(py);
        let (surface, float, inplace) = match op.surface {
            Surface::Hidden => ("hidden", false, false),
            Surface::Unary { float, inplace } => ("unary", float, inplace),
            Surface::Binary { float, inplace } => ("binary", float, inplace),
        };
        d.set_item("name", op.name)?;
        d.set_item("doc", op.doc)?;
        d.set_item("surface", surface)?;
        d.set_item("float", float)?;
        d.set_item("inplace", inplace)?;
        d.set_item("aliases", op.aliases)?;
        crate::support::describe(Op(op), &d)?;
        list.append(d)?;
    }
    Ok(list.unbind())
}

/// Hands over Python objects that the core uses: `size`, the class of shapes.
#[pyfunction]
#[pyo3(name = "_register", signature = (**kwargs))]
fn register_hooks(py: Python<'_>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    if let Some(k) = kwargs {
        hooks(py).update(k.as_mapping())?;
    }
    Ok(())
}

/// The kind of a key value for `torsh.compile`: True for a number or text that is compared by value.
pub fn is_plain(obj: &Bound<'_, PyAny>) -> bool {
    is_plain_kind(obj) && !has_attributes(obj)
}

/// Whether an object is None, bool, int, float or str, or of a subclass.
pub fn is_plain_kind(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_none()
        || obj.is_instance_of::<PyBool>()
        || obj.is_instance_of::<PyInt>()
        || obj.is_instance_of::<PyFloat>()
        || obj.is_instance_of::<PyString>()
}

/// Whether a plain value has attributes of its own: it is of a subclass, and they are set.
pub fn has_attributes(obj: &Bound<'_, PyAny>) -> bool {
    let exact = obj.is_none()
        || obj.is_exact_instance_of::<PyBool>()
        || obj.is_exact_instance_of::<PyInt>()
        || obj.is_exact_instance_of::<PyFloat>()
        || obj.is_exact_instance_of::<PyString>();
    !exact && obj.getattr(pyo3::intern!(obj.py(), "__dict__")).and_then(|own| own.len()).is_ok_and(|n| n > 0)
}

/// A reproducible text of pending work is not kept; this names the user's line that torsh would report.
#[pyfunction]
fn here(py: Python<'_>) -> Option<String> {
    source::here(py).map(|l| l.to_string())
}

fn check_name(name: &str) -> PyResult<()> {
    if torsh_ir::ops::find(name).is_none() {
        return Err(PyValueError::new_err(format!("no op named {name:?}")));
    }
    Ok(())
}

/// True when the registry has an op of this name.
#[pyfunction]
fn has_op(name: &str) -> bool {
    check_name(name).is_ok()
}

/// Adds the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($f:ident)*) => { $(m.add_function(wrap_pyfunction!($f, m)?)?;)* };
    }
    add! { apply unary binary unary_ binary_ view can_view to_device assign clone full tensor result_type can_cast promote_types
    cast check matmul index_put_ nonzero gradients backward set_grad_enabled is_grad_enabled eval register_hooks here has_op }
    m.add_function(wrap_pyfunction!(r#where, m)?)?;
    let ops = wrap_pyfunction!(ops_table, m)?;
    m.add("ops", ops)?;
    Ok(())
}
