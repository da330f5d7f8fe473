//! The one mapping from torsh errors to Python exceptions.

use pyo3::exceptions::{
    PyException, PyIndexError, PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use torsh_ir::{Error, ErrorKind};

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

struct Classes {
    shape: Py<PyType>,
    dtype: Py<PyType>,
    device: Py<PyType>,
    limit: Py<PyType>,
    out_of_memory: Py<PyType>,
    trace: Py<PyType>,
    compile: Py<PyType>,
    export: Py<PyType>,
    package: Py<PyType>,
    internal: Py<PyType>,
}

/// Adds the exception classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let class = |name: &str, doc: &str, bases: Bound<'_, PyTuple>| -> PyResult<Py<PyType>> {
        let body = PyDict::new(py);
        body.set_item("__module__", "torsh")?;
        body.set_item("__doc__", doc)?;
        let class = py.get_type::<PyType>().call1((name, bases, body))?.cast_into::<PyType>()?;
        module.add(name, &class)?;
        Ok(class.unbind())
    };
    let root = PyTuple::new(py, [py.get_type::<PyException>()])?;
    let base = class("TorshError", "Base of torsh's own exceptions; carries op, shapes, dtypes and location.", root)?;
    let base = base.into_bound(py);
    for field in ["op", "location"] {
        base.setattr(field, py.None())?;
    }
    for field in ["shapes", "dtypes"] {
        base.setattr(field, PyTuple::empty(py))?;
    }
    let make = |name: &str, doc: &str, also: Option<Bound<'_, PyType>>| -> PyResult<Py<PyType>> {
        class(name, doc, PyTuple::new(py, std::iter::once(base.clone()).chain(also).collect::<Vec<_>>())?)
    };
    let limit = make("LimitError", "A limit of torsh.limits was exceeded.", Some(py.get_type::<PyMemoryError>()))?;
    // PyTorch's is a RuntimeError.
    let bases = PyTuple::new(py, [limit.bind(py), &py.get_type::<PyRuntimeError>()])?;
    let out_of_memory = class(
        "OutOfMemoryError",
        "A device's memory did not suffice; carries device, requested, in_use, limit (bytes) and largest.",
        bases,
    )?;
    for field in ["device", "requested", "in_use", "limit"] {
        out_of_memory.bind(py).setattr(field, py.None())?;
    }
    out_of_memory.bind(py).setattr("largest", PyTuple::empty(py))?;
    let classes = Classes {
        shape: make("ShapeError", "Shapes do not fit.", Some(py.get_type::<PyValueError>()))?,
        dtype: make("DTypeError", "Dtypes do not fit.", Some(py.get_type::<PyTypeError>()))?,
        device: make("DeviceError", "A device is unknown or absent.", Some(py.get_type::<PyRuntimeError>()))?,
        limit,
        out_of_memory,
        trace: make("TraceError", "A function cannot be traced.", None)?,
        compile: make("CompileError", "Code generation failed.", Some(py.get_type::<PyRuntimeError>()))?,
        export: make("ExportError", "An export failed.", None)?,
        package: make("PackageError", "A package or text file is malformed.", Some(py.get_type::<PyValueError>()))?,
        internal: make("InternalError", "A bug in torsh; please report it.", Some(py.get_type::<PyRuntimeError>()))?,
    };
    let _ = CLASSES.set(py, classes);
    Ok(())
}

/// What a signal handler raised while a program ran; the error that ends the program gives way to it.
static SIGNALLED: Mutex<Option<PyErr>> = Mutex::new(None);

/// Looks for signals; keeps what a handler raised for the error that will end the run.
pub fn signalled(py: Python<'_>) -> bool {
    match py.check_signals() {
        Ok(()) => false,
        Err(e) => {
            *SIGNALLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            true
        }
    }
}

/// A torsh error as a Python exception.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    if error.kind() == ErrorKind::Interrupted
        && let Some(e) = SIGNALLED.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        return e;
    }
    let text = error.to_string();
    let own = |pick: fn(&Classes) -> &Py<PyType>| CLASSES.get(py).map(|c| pick(c).bind(py).clone());
    let class = match error.kind() {
        ErrorKind::Shape => own(|c| &c.shape),
        ErrorKind::DType => own(|c| &c.dtype),
        ErrorKind::Device => own(|c| &c.device),
        ErrorKind::Limit if error.figures().is_some() => own(|c| &c.out_of_memory),
        ErrorKind::Limit => own(|c| &c.limit),
        ErrorKind::Trace => own(|c| &c.trace),
        ErrorKind::Compile => own(|c| &c.compile),
        ErrorKind::Export => own(|c| &c.export),
        ErrorKind::Package => own(|c| &c.package),
        ErrorKind::Internal => own(|c| &c.internal),
        ErrorKind::Value => Some(py.get_type::<PyValueError>()),
        ErrorKind::Type => Some(py.get_type::<PyTypeError>()),
        ErrorKind::Index => Some(py.get_type::<PyIndexError>()),
        ErrorKind::Runtime => Some(py.get_type::<PyRuntimeError>()),
        ErrorKind::Interrupted => Some(py.get_type::<PyKeyboardInterrupt>()),
    };
    let text = if error.kind() == ErrorKind::Internal {
        format!("{text}\nThis is a bug in torsh. Please report it with this message and the program that led to it.")
    } else {
        text
    };
    let Some(class) = class else { return PyRuntimeError::new_err(text) };
    match attach(py, &class, text, error) {
        Ok(e) => e,
        Err(e) => e,
    }
}

fn attach(py: Python<'_>, class: &Bound<'_, PyType>, text: String, error: &Error) -> PyResult<PyErr> {
    let value = class.call1((text,))?;
    value.setattr("op", error.op())?;
    let shapes = error.shapes().iter().map(|s| PyTuple::new(py, s.dims())).collect::<PyResult<Vec<_>>>()?;
    value.setattr("shapes", PyTuple::new(py, shapes)?)?;
    let dtypes: Vec<_> = error.dtypes().iter().map(|&d| crate::dtype::singleton(py, d)).collect();
    value.setattr("dtypes", PyTuple::new(py, dtypes)?)?;
    value.setattr("location", error.location().map(ToString::to_string))?;
    if let Some(figures) = error.figures() {
        value.setattr("device", crate::device::object(py, figures.device)?)?;
        value.setattr("requested", figures.requested)?;
        value.setattr("in_use", figures.in_use)?;
        value.setattr("limit", figures.limit)?;
        value.setattr("largest", PyTuple::new(py, &figures.largest)?)?;
    }
    Ok(PyErr::from_value(value))
}

/// Turns a torsh result into a Python result.
pub trait OrRaise<T> {
    /// The value, or the exception raised.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for torsh_ir::Result<T> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|e| Python::attach(|py| raise(py, &e)))
    }
}

/// Runs `f` without the GIL. A panic becomes an internal error, and Ctrl-C is looked for afterwards.
pub fn outside<T: Send>(py: Python<'_>, f: impl FnOnce() -> torsh_ir::Result<T> + Send) -> PyResult<T> {
    let loc = torsh_frontend::mode::loc();
    let result = py.detach(|| crate::fork::inside(|| guarded(f)));
    torsh_frontend::mode::set_loc(loc);
    let value = result.map_err(|e| raise(py, &e))?;
    py.check_signals()?;
    Ok(value)
}

/// Runs `f`; a panic becomes an internal error.
pub fn guarded<T>(f: impl FnOnce() -> torsh_ir::Result<T>) -> torsh_ir::Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Err(Error::internal(format!("panic: {text}")).with_loc(torsh_frontend::mode::loc()))
    })
}
