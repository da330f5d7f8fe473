//! `torsh.PyDType` (alias `torsh.dtype`): one object per element type.

use crate::errors::OrRaise;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use std::hash::{DefaultHasher, Hash, Hasher};
use torsh_ir::DType;

static ALL: PyOnceLock<Vec<Py<PyDType>>> = PyOnceLock::new();

/// An element type.
#[pyclass(name = "PyDType", module = "torsh", frozen)]
pub struct PyDType {
    pub(crate) dtype: DType,
}

/// The object of a dtype.
pub fn singleton(py: Python<'_>, dtype: DType) -> Py<PyDType> {
    let all =
        ALL.get_or_init(py, || DType::ALL.iter().filter_map(|&dtype| Py::new(py, PyDType { dtype }).ok()).collect());
    all[dtype as usize].clone_ref(py)
}

/// A dtype out of a `PyDType`, a name, a Python type or a NumPy dtype.
pub fn extract(obj: &Bound<'_, PyAny>) -> PyResult<DType> {
    if let Ok(d) = obj.cast::<PyDType>() {
        return Ok(d.get().dtype);
    }
    if let Ok(name) = obj.extract::<&str>() {
        return DType::parse(name).or_raise();
    }
    if let Ok(class) = obj.cast::<PyType>() {
        let py = obj.py();
        if class.is(py.get_type::<pyo3::types::PyBool>()) {
            return Ok(DType::Bool);
        }
        if class.is(py.get_type::<pyo3::types::PyInt>()) {
            return Ok(DType::I64);
        }
        if class.is(py.get_type::<pyo3::types::PyFloat>()) {
            return Ok(DType::F32);
        }
        if let Ok(name) = class.name()
            && let Ok(d) = DType::parse(&name.to_string_lossy())
        {
            return Ok(d);
        }
    }
    if let Ok(name) = obj.getattr("name").and_then(|n| n.extract::<String>())
        && let Ok(d) = DType::parse(&name)
    {
        return Ok(d);
    }
    Err(PyTypeError::new_err(format!("expected a dtype, got {}", obj.get_type().name()?)))
}

#[pymethods]
impl PyDType {
    #[new]
    fn new(py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Py<PyDType>> {
        Ok(singleton(py, extract(name)?))
    }
    /// Canonical name.
    #[getter]
    fn name(&self) -> &'static str {
        self.dtype.name()
    }
    /// Bytes per element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.dtype.size()
    }
    /// True for floating point dtypes.
    #[getter]
    fn is_floating_point(&self) -> bool {
        self.dtype.is_float()
    }
    /// True for complex dtypes; there are none.
    #[getter]
    fn is_complex(&self) -> bool {
        false
    }
    /// True for dtypes that hold negative numbers.
    #[getter]
    fn is_signed(&self) -> bool {
        self.dtype.is_signed()
    }
    fn __repr__(&self) -> String {
        format!("torsh.{}", self.dtype.name())
    }
    fn __str__(&self) -> String {
        self.__repr__()
    }
    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<PyDType>().is_ok_and(|o| o.get().dtype == self.dtype)
    }
    fn __hash__(&self) -> u64 {
        let mut h = DefaultHasher::new();
        self.dtype.hash(&mut h);
        h.finish()
    }
    fn __reduce__(&self, py: Python<'_>) -> (Py<PyAny>, (&'static str,)) {
        (py.get_type::<PyDType>().into_any().unbind(), (self.dtype.name(),))
    }
}

/// Adds the class and the constants.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyDType>()?;
    for d in DType::ALL {
        m.add(d.name(), singleton(m.py(), d))?;
    }
    Ok(())
}
