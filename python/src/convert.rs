//! Python values to tensors and back: scalars, nested lists, buffers, NumPy.

use crate::errors::{OrRaise, outside};
use crate::tensor::PyTensor;
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyList, PyTuple};
use torsh_frontend::node::{Grad, NodeRef};
use torsh_frontend::{Arg, Tensor, session, trace};
use torsh_ir::exec::Device;
use torsh_ir::scalar::{fits, from_bits, to_bits};
use torsh_ir::{DType, Scalar, Shape, Type};

/// Nesting of lists beyond this is refused (a cyclic list nests for ever).
const MAX_DEPTH: usize = 64;
/// Numbers in nested lists beyond this are refused: they take seconds to read, and a few hundred bytes of lists that
/// share each other can stand for more than memory holds.
const MAX_NUMBERS: usize = 1 << 26;

/// A Python number; `None` for anything else.
pub fn scalar(obj: &Bound<'_, PyAny>) -> PyResult<Option<Scalar>> {
    if obj.is_exact_instance_of::<PyFloat>() {
        return Ok(Some(Scalar::Float(obj.extract()?)));
    }
    if obj.is_instance_of::<PyBool>() {
        return Ok(Some(Scalar::Bool(obj.extract()?)));
    }
    if obj.is_instance_of::<PyInt>() {
        let value: i64 =
            obj.extract().map_err(|_| PyOverflowError::new_err("the Python integer is too large for int64"))?;
        return Ok(Some(Scalar::Int(value)));
    }
    if obj.is_instance_of::<PyFloat>() {
        return Ok(Some(Scalar::Float(obj.extract()?)));
    }
    if obj.is_instance_of::<pyo3::types::PyComplex>() {
        return Err(PyTypeError::new_err("complex numbers are not supported"));
    }
    Ok(None)
}

// NumPy's scalars convert themselves.
fn numpy_scalar<'py>(obj: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let class = obj.get_type();
    let module = class.module().ok()?;
    if module.to_str().ok()? != "numpy" || !obj.hasattr("dtype").ok()? || class.name().ok()?.to_str().ok()? == "ndarray"
    {
        return None;
    }
    obj.call_method0("item").ok()
}

/// An operand of arithmetic: a tensor, a number, a NumPy scalar or array; `None` for anything else.
pub fn arg(obj: &Bound<'_, PyAny>) -> PyResult<Option<Arg>> {
    if let Ok(t) = obj.cast::<PyTensor>() {
        return Ok(Some(Arg::Tensor(t.get().t.clone())));
    }
    if let Some(s) = scalar(obj)? {
        return Ok(Some(Arg::Scalar(s)));
    }
    if let Some(item) = numpy_scalar(obj) {
        return Ok(scalar(&item)?.map(Arg::Scalar));
    }
    if obj.get_type().name()?.to_str()? == "ndarray" {
        return Ok(Some(Arg::Tensor(tensor(obj, None, Device::Cpu)?)));
    }
    Ok(None)
}

/// An operand, or a TypeError.
pub fn need_arg(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<Arg> {
    arg(obj)?.ok_or_else(|| {
        let name = obj.get_type().name().map(|n| n.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("{what}: expected a Tensor or a number, got {name}"))
    })
}

/// A tensor, or a TypeError.
pub fn need_tensor(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<Tensor> {
    match obj.cast::<PyTensor>() {
        Ok(t) => Ok(t.get().t.clone()),
        Err(_) => Err(PyTypeError::new_err(format!("{what}: expected a Tensor, got {}", obj.get_type().name()?))),
    }
}

/// `torch.tensor(data)`: always a copy.
pub fn tensor(obj: &Bound<'_, PyAny>, dtype: Option<DType>, device: Device) -> PyResult<Tensor> {
    if let Ok(t) = obj.cast::<PyTensor>() {
        let node = torsh_frontend::ops::detach(&t.get().t.node());
        let node = torsh_frontend::ops::cast(&node, dtype.unwrap_or(node.ty.dtype)).or_raise()?;
        return Ok(Tensor::new(torsh_frontend::ops::to_device(&node, device).or_raise()?));
    }
    let item = numpy_scalar(obj);
    if let (Some(_), Ok(d)) = (&item, obj.getattr("dtype")) {
        let own = crate::dtype::extract(&d)?;
        return nested(item.as_ref().unwrap_or(obj), Some(dtype.unwrap_or(own)), device);
    }
    if let Some(found) = buffer(obj, dtype, device)? {
        return Ok(found);
    }
    nested(obj, dtype, device)
}

// Anything with a buffer: NumPy arrays, array.array, bytes.
fn buffer(obj: &Bound<'_, PyAny>, dtype: Option<DType>, device: Device) -> PyResult<Option<Tensor>> {
    if scalar(obj)?.is_some() || obj.is_instance_of::<PyList>() || obj.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    let py = obj.py();
    let view = match py.get_type::<pyo3::types::PyMemoryView>().call1((obj,)) {
        Ok(view) => view,
        Err(_) => return Ok(None),
    };
    let format: String = view.getattr("format")?.extract()?;
    let itemsize: usize = view.getattr("itemsize")?.extract()?;
    let code = format.trim_start_matches(['@', '=', '<']);
    let own = match (code, itemsize) {
        ("?", 1) => DType::Bool,
        ("B" | "c", 1) => DType::U8,
        ("b", 1) => DType::I8,
        ("h", 2) => DType::I16,
        ("i" | "l", 4) => DType::I32,
        ("l" | "q" | "n", 8) => DType::I64,
        ("e", 2) => DType::F16,
        ("f", 4) => DType::F32,
        ("d", 8) => DType::F64,
        ("Zf" | "Zd", _) => return Err(PyTypeError::new_err("complex numbers are not supported")),
        _ if code.starts_with('Z') => return Err(PyTypeError::new_err("complex numbers are not supported")),
        _ => {
            return Err(PyTypeError::new_err(format!(
                "can't convert a buffer of format '{format}'. The supported types are: float64, float32, float16, \
                 int64, int32, int16, int8, uint8, and bool."
            )));
        }
    };
    let shape: Vec<usize> = view.getattr("shape")?.extract()?;
    let ty = Type::new(own, Shape::new(&shape).or_raise()?);
    torsh_frontend::ops::check_size(&ty).or_raise()?;
    let bytes = view.call_method0("tobytes")?;
    let bytes = bytes.cast::<PyBytes>()?;
    let t = upload(ty, bytes.as_bytes(), device)?;
    Ok(Some(match dtype {
        Some(d) if d != own => Tensor::new(torsh_frontend::ops::cast(&t.node(), d).or_raise()?),
        _ => t,
    }))
}

/// A tensor of a device that holds these bytes.
pub fn upload(ty: Type, bytes: &[u8], device: Device) -> PyResult<Tensor> {
    let located = |e: torsh_ir::Error| e.with_loc(torsh_frontend::mode::loc());
    let buffer = session::get().and_then(|s| s.upload_to(device, &ty, bytes)).map_err(located).or_raise()?;
    Ok(Tensor::new(data(ty, buffer)))
}

fn data(ty: Type, buffer: torsh_ir::exec::BufferRef) -> NodeRef {
    torsh_frontend::node::Node::data(ty, buffer, Grad::None)
}

fn nested(obj: &Bound<'_, PyAny>, dtype: Option<DType>, device: Device) -> PyResult<Tensor> {
    let mut shape = Vec::new();
    let mut at = obj.clone();
    while is_list(&at) {
        if shape.len() >= MAX_DEPTH {
            return Err(PyValueError::new_err(format!(
                "lists nest deeper than {MAX_DEPTH} levels; is the list cyclic?"
            )));
        }
        let n = at.len()?;
        shape.push(n);
        if n == 0 {
            break;
        }
        at = at.get_item(0)?;
    }
    if let Ok(t) = at.cast::<PyTensor>()
        && t.get().t.rank() > 0
    {
        return Err(PyValueError::new_err(
            "only one element tensors can be converted to Python scalars; use torsh.stack for a list of tensors",
        ));
    }
    // Checked before the elements are visited: a few lists that share each other may stand for billions.
    let sizes = Shape::new(&shape).or_raise()?;
    if sizes.numel() > MAX_NUMBERS {
        return Err(torsh_ir::Error::limit(format!(
            "nested lists of shape {sizes} have {} numbers, more than {MAX_NUMBERS}; make an array instead",
            sizes.numel()
        )))
        .or_raise();
    }
    let mut values = Vec::new();
    flatten(obj, &shape, 0, &mut values)?;
    let natural = if values.iter().any(|v| matches!(v, Scalar::Float(_))) {
        DType::F32
    } else if values.iter().any(|v| matches!(v, Scalar::Int(_))) {
        DType::I64
    } else if values.is_empty() {
        DType::F32
    } else {
        DType::Bool
    };
    let dtype = dtype.unwrap_or(natural);
    if let Some(v) = values.iter().find(|v| !fits(**v, dtype)) {
        let text = match v {
            Scalar::Float(x) => x.to_string().to_lowercase(),
            other => other.as_i64().to_string(),
        };
        return Err(PyRuntimeError::new_err(format!(
            "value {text} cannot be converted to type {dtype} without overflow"
        )));
    }
    let ty = Type::new(dtype, sizes);
    let size = dtype.size();
    let mut bytes = Vec::with_capacity(values.len() * size);
    for v in values {
        bytes.extend_from_slice(&to_bits(v.to_dtype(dtype), dtype).to_le_bytes()[..size]);
    }
    upload(ty, &bytes, device)
}

fn is_list(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_instance_of::<PyList>()
        || obj.is_instance_of::<PyTuple>()
        || obj.get_type().name().is_ok_and(|n| n == "range")
        || (obj.get_type().name().is_ok_and(|n| n == "ndarray")
            && obj.getattr("ndim").and_then(|n| n.extract::<usize>()).is_ok_and(|n| n > 0))
}

fn flatten(obj: &Bound<'_, PyAny>, shape: &[usize], depth: usize, out: &mut Vec<Scalar>) -> PyResult<()> {
    if depth == shape.len() {
        out.push(element(obj)?);
        return Ok(());
    }
    if !is_list(obj) || obj.len()? != shape[depth] {
        let got = if is_list(obj) { format!("a sequence of length {}", obj.len()?) } else { "a number".into() };
        return Err(PyValueError::new_err(format!(
            "expected sequence of length {} at dim {depth}, got {got}: the nested list is ragged",
            shape[depth]
        )));
    }
    for item in obj.try_iter()? {
        flatten(&item?, shape, depth + 1, out)?;
    }
    Ok(())
}

fn element(obj: &Bound<'_, PyAny>) -> PyResult<Scalar> {
    if let Some(s) = scalar(obj)? {
        return Ok(s);
    }
    if let Some(item) = numpy_scalar(obj)
        && let Some(s) = scalar(&item)?
    {
        return Ok(s);
    }
    if let Ok(t) = obj.cast::<PyTensor>() {
        return item(obj.py(), &t.get().t, "torsh.tensor of tensors");
    }
    if is_list(obj) {
        return Err(PyValueError::new_err("the nested list is ragged: a sequence stands where a number was expected"));
    }
    Err(PyTypeError::new_err(format!("could not convert {} to a tensor", obj.get_type().name()?)))
}

/// Realises and hands the bytes to `f`.
pub fn with_bytes<R>(
    py: Python<'_>,
    t: &Tensor,
    what: &str,
    f: impl FnOnce(&Type, &[u8]) -> PyResult<R>,
) -> PyResult<R> {
    trace::before_read(t, what).or_raise()?;
    // What the handle stands for now: other threads may give it other values meanwhile.
    let node = t.node();
    if !node.is_realised() {
        let (t, node) = (t.clone(), node.clone());
        outside(py, move || {
            torsh_frontend::realise::realise(&[t])?;
            trace::realised(&node)
        })?;
    }
    let Some(buffer) = node.buffer() else {
        return Err(crate::errors::raise(py, &torsh_ir::Error::internal("a realised tensor has no buffer")));
    };
    match buffer.host_bytes() {
        Some(bytes) => f(&node.ty, bytes),
        None => {
            let bytes = outside(py, move || session::get()?.download(&*buffer))?;
            f(&node.ty, &bytes)
        }
    }
}

fn read(dtype: DType, chunk: &[u8]) -> Scalar {
    let mut b = [0; 8];
    b[..chunk.len()].copy_from_slice(chunk);
    from_bits(u64::from_le_bytes(b), dtype)
}

/// The only element.
pub fn item(py: Python<'_>, t: &Tensor, what: &str) -> PyResult<Scalar> {
    if t.shape().numel() != 1 {
        return Err(PyRuntimeError::new_err(format!(
            "a Tensor with {} elements cannot be converted to Scalar",
            t.shape().numel()
        )));
    }
    with_bytes(py, t, what, |ty, bytes| Ok(read(ty.dtype, bytes)))
}

/// A number as Python sees it.
pub fn to_python(py: Python<'_>, s: Scalar) -> PyResult<Py<PyAny>> {
    Ok(match s {
        Scalar::Bool(b) => PyBool::new(py, b).to_owned().into_any().unbind(),
        Scalar::Int(i) => i.into_pyobject(py)?.into_any().unbind(),
        Scalar::Float(x) => PyFloat::new(py, x).into_any().unbind(),
    })
}

/// Nested lists of numbers.
pub fn tolist(py: Python<'_>, t: &Tensor) -> PyResult<Py<PyAny>> {
    with_bytes(py, t, "tolist()", |ty, bytes| {
        let size = ty.dtype.size();
        if ty.rank() == 0 {
            return to_python(py, read(ty.dtype, bytes));
        }
        let mut level: Vec<Py<PyAny>> =
            bytes.chunks_exact(size).map(|c| to_python(py, read(ty.dtype, c))).collect::<PyResult<_>>()?;
        // Inner dims become lists first.
        let mut dims = ty.shape.to_vec();
        while let Some(n) = dims.pop() {
            let count: usize = dims.iter().product();
            let mut items = level.into_iter();
            level = (0..count)
                .map(|_| Ok(PyList::new(py, items.by_ref().take(n).collect::<Vec<_>>())?.into_any().unbind()))
                .collect::<PyResult<_>>()?;
        }
        level.pop().ok_or_else(|| PyValueError::new_err("empty"))
    })
}

/// A NumPy array of its own memory.
pub fn numpy<'py>(py: Python<'py>, t: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    if t.dtype() == DType::BF16 {
        return Err(PyTypeError::new_err("NumPy has no bfloat16; convert with .float() first"));
    }
    let np = py.import("numpy")?;
    with_bytes(py, t, "numpy()", |ty, bytes| {
        let name = if ty.dtype == DType::Bool { "bool" } else { ty.dtype.name() };
        let array = np.call_method1("frombuffer", (PyByteArray::new(py, bytes), name));
        let array = if bytes.is_empty() { np.call_method1("empty", (0, name)) } else { array }?;
        array.call_method1("reshape", (PyTuple::new(py, ty.shape.dims())?,))
    })
}

/// Realises if too much is pending. What fails here fails again, with its error, when the value is asked for;
/// only what a signal handler raised would be lost, and is passed on.
pub fn settle(py: Python<'_>) -> PyResult<()> {
    if !torsh_frontend::live::is_full() {
        return Ok(());
    }
    let loc = torsh_frontend::mode::loc();
    let result = py.detach(|| crate::fork::inside(|| crate::errors::guarded(torsh_frontend::realise::flush)));
    torsh_frontend::mode::set_loc(loc);
    match result {
        Err(e) if e.kind() == torsh_ir::ErrorKind::Interrupted => Err(crate::errors::raise(py, &e)),
        Ok(_) | Err(_) => py.check_signals(),
    }
}
