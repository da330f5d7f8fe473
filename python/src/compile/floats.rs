//! Python floats that a program reads again at each call.

use crate::convert;
use crate::errors::OrRaise;
use crate::tensor::{PyTensor, wrap};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt};
use std::cell::RefCell;
use torsh_frontend::{Tensor, trace};
use torsh_ir::exec::Device;

/// A float that a trace reads from a dict at each call.
pub struct Captured {
    /// The dict.
    pub dict: Py<PyDict>,
    /// Its key.
    pub key: Py<PyAny>,
    /// The value at the trace.
    pub value: f64,
    tensor: Py<PyTensor>,
}

thread_local! {
    static FLOATS: RefCell<Vec<Captured>> = const { RefCell::new(Vec::new()) };
}

/// The captured floats since they were last taken.
pub fn take_floats() -> Vec<Captured> {
    FLOATS.with(|f| std::mem::take(&mut *f.borrow_mut()))
}

/// `dict[key]` as a tensor: in a trace, an input that is read again at each call. What is not a number is
/// returned as it is.
#[pyfunction]
pub(super) fn captured_float<'py>(dict: &Bound<'py, PyDict>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = dict.py();
    let value = dict.as_any().get_item(key)?;
    if !(value.is_exact_instance_of::<PyFloat>() || value.is_exact_instance_of::<PyInt>()) {
        return Ok(value);
    }
    let number: f64 = value.extract()?;
    if trace::active() == 0 {
        return Ok(wrap(py, trace::captured_float(0, number).or_raise()?)?.into_bound(py).into_any());
    }
    let known = FLOATS.with(|f| {
        let list = f.borrow();
        let found = list.iter().find(|c| c.dict.is(dict) && c.key.bind(py).eq(key).unwrap_or(false));
        found.map(|c| c.tensor.clone_ref(py)).ok_or(list.len())
    });
    let k = match known {
        Ok(tensor) => return Ok(tensor.into_bound(py).into_any()),
        Err(k) => k,
    };
    let tensor = wrap(py, trace::captured_float(k, number).or_raise()?)?;
    let captured = Captured {
        dict: dict.clone().unbind(),
        key: key.clone().unbind(),
        value: number,
        tensor: tensor.clone_ref(py),
    };
    FLOATS.with(|f| f.borrow_mut().push(captured));
    Ok(tensor.into_bound(py).into_any())
}

/// A 0-d tensor that promotes like the Python float it holds.
#[pyfunction]
pub(super) fn convert_float(py: Python<'_>, value: f64) -> PyResult<Py<PyTensor>> {
    let t = convert::upload(torsh_ir::Type::scalar(torsh_ir::DType::F64), &value.to_le_bytes(), Device::Cpu)?;
    wrap(py, Tensor::new_weak(t.node()))
}
