//! What stands between the brackets of `x[...]`.

use crate::convert;
use crate::tensor::PyTensor;
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyEllipsis, PyInt, PyList, PySlice, PyTuple};
use torsh_frontend::index::Index;
use torsh_ir::DType;
use torsh_ir::exec::Device;

/// The items of a key.
pub fn parse(key: &Bound<'_, PyAny>) -> PyResult<Vec<Index>> {
    match key.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().map(|k| item(&k)).collect(),
        Err(_) => Ok(vec![item(key)?]),
    }
}

fn item(key: &Bound<'_, PyAny>) -> PyResult<Index> {
    if key.is_none() {
        return Ok(Index::NewDim);
    }
    if key.is_instance_of::<PyBool>() {
        return Ok(Index::Bool(key.extract()?));
    }
    if key.is_instance_of::<PyInt>() {
        return Ok(Index::Int(integer(key)?));
    }
    if key.is_instance_of::<PyEllipsis>() {
        return Ok(Index::Ellipsis);
    }
    if let Ok(slice) = key.cast::<PySlice>() {
        let part = |name: &str| -> PyResult<Option<i64>> {
            let v = slice.getattr(name)?;
            if v.is_none() { Ok(None) } else { bound(&v).map(Some) }
        };
        return Ok(Index::Slice(part("start")?, part("stop")?, part("step")?));
    }
    if let Ok(t) = key.cast::<PyTensor>() {
        return Ok(Index::Tensor(t.get().t.clone()));
    }
    let name = key.get_type().name()?;
    if key.is_instance_of::<PyList>() || key.is_instance_of::<PyTuple>() || name == "ndarray" || name == "range" {
        let t = convert::tensor(key, None, Device::Cpu)?;
        let empty = t.shape().numel() == 0 && t.dtype().is_float();
        let t = if empty { convert::tensor(key, Some(DType::I64), Device::Cpu)? } else { t };
        return Ok(Index::Tensor(t));
    }
    if key.hasattr("__index__")? {
        return Ok(Index::Int(integer(&key.call_method0("__index__")?)?));
    }
    Err(PyIndexError::new_err(format!(
        "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices (got {name})"
    )))
}

fn integer(key: &Bound<'_, PyAny>) -> PyResult<i64> {
    key.extract().map_err(|_| PyIndexError::new_err("the index does not fit into 64 bits"))
}

// Slice bounds saturate, as Python's own do.
fn bound(v: &Bound<'_, PyAny>) -> PyResult<i64> {
    let v = if v.is_instance_of::<PyInt>() {
        v.clone()
    } else if v.hasattr("__index__")? {
        v.call_method0("__index__")?
    } else {
        return Err(PyTypeError::new_err("slice indices must be integers or None or have an __index__ method"));
    };
    Ok(v.extract::<i64>().unwrap_or(if v.lt(0)? { i64::MIN } else { i64::MAX }))
}
