//! `torsh.PyDevice` (alias `torsh.device`), and which device an argument means.

use crate::errors::{OrRaise, outside};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use torsh_frontend::mode::{self, Places};
use torsh_frontend::session;
use torsh_ir::exec::Device;

thread_local! {
    // The places before each `with torsh.device(...)` that this thread is in.
    static OUTER: RefCell<Vec<Places>> = const { RefCell::new(Vec::new()) };
}

/// Where a tensor lives.
#[pyclass(name = "PyDevice", module = "torsh", frozen)]
pub struct PyDevice {
    kind: Device,
    index: Option<u32>,
}

fn parse(text: &str) -> Result<(Device, Option<u32>), String> {
    match text {
        "cpu" => return Ok((Device::Cpu, None)),
        "cuda" => return Ok((Device::Cuda(0), None)),
        "metal" | "mps" => return Ok((Device::Metal, None)),
        _ => {}
    }
    if let Some(id) = text.strip_prefix("cuda:") {
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        return match id.parse::<u32>() {
            Ok(i) if digits => Ok((Device::Cuda(i), Some(i))),
            _ => Err(format!("Invalid CUDA device ID: {id}")),
        };
    }
    match text {
        "cpu:0" => Ok((Device::Cpu, Some(0))),
        "metal:0" | "mps:0" => Ok((Device::Metal, Some(0))),
        _ => Err(format!("Unknown device: {text}")),
    }
}

/// The device that an object names, whether it is there or not: a `PyDevice`, a name, or the number of a CUDA device.
/// `cuda` without a number is the thread's current one.
pub fn named(obj: &Bound<'_, PyAny>) -> PyResult<Device> {
    if let Ok(d) = obj.cast::<PyDevice>() {
        return Ok(d.get().device());
    }
    if obj.is_instance_of::<PyInt>() && !obj.is_instance_of::<PyBool>() {
        return number(obj).map(Device::Cuda);
    }
    match obj.extract::<&str>() {
        Ok(text) => {
            let (kind, index) = parse(text).map_err(PyValueError::new_err)?;
            Ok(PyDevice { kind, index }.device())
        }
        Err(_) => Err(PyTypeError::new_err(format!("expected a device, got {}", obj.get_type().name()?))),
    }
}

fn number(obj: &Bound<'_, PyAny>) -> PyResult<u32> {
    obj.extract().map_err(|_| PyValueError::new_err(format!("Invalid CUDA device ID: {obj}")))
}

/// The device that an argument means, opened; the thread's default device where none is given.
pub fn resolve(py: Python<'_>, obj: Option<&Bound<'_, PyAny>>) -> PyResult<Device> {
    let device = match obj.filter(|o| !o.is_none()) {
        Some(obj) => named(obj)?,
        None => mode::places().device,
    };
    if device != Device::Cpu {
        open(py, device)?;
    }
    Ok(device)
}

/// Opens a device, which may take a while the first time and is then done without the GIL: another thread that opens it
/// may want that.
pub fn open(py: Python<'_>, device: Device) -> PyResult<()> {
    if session::get().or_raise()?.opened(device).is_some() {
        return Ok(());
    }
    crate::source::enter(py);
    let loc = mode::loc();
    outside(py, move || session::get()?.on(device).map(|_| ()).map_err(|e| e.with_loc(loc)))
}

#[pymethods]
impl PyDevice {
    #[new]
    #[pyo3(signature = (device, index = None))]
    fn new(device: &Bound<'_, PyAny>, index: Option<u32>) -> PyResult<PyDevice> {
        if let Ok(d) = device.cast::<PyDevice>() {
            return Ok(PyDevice { kind: d.get().kind, index: d.get().index });
        }
        if device.is_instance_of::<PyInt>() && !device.is_instance_of::<PyBool>() && index.is_none() {
            let i = number(device)?;
            return Ok(PyDevice { kind: Device::Cuda(i), index: Some(i) });
        }
        let text: &str =
            device.extract().map_err(|_| PyTypeError::new_err(format!("expected a device name, got {device}")))?;
        let text = match index {
            Some(i) if !text.contains(':') => format!("{text}:{i}"),
            _ => text.to_string(),
        };
        let (kind, index) = parse(&text).map_err(PyValueError::new_err)?;
        Ok(PyDevice { kind, index })
    }
    /// Makes this the thread's default device until the block ends.
    fn __enter__<'py>(slf: Bound<'py, Self>) -> Bound<'py, Self> {
        let before = mode::places();
        OUTER.with(|o| o.borrow_mut().push(before));
        mode::set_places(Places { device: slf.get().device(), ..before });
        slf
    }
    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        if let Some(before) = OUTER.with(|o| o.borrow_mut().pop()) {
            mode::set_places(Places { device: before.device, ..mode::places() });
        }
    }
    /// `cpu`, `cuda` or `metal`.
    #[getter]
    fn r#type(&self) -> &'static str {
        match self.kind {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal => "metal",
        }
    }
    /// The number given, or None.
    #[getter]
    fn index(&self) -> Option<u32> {
        self.index
    }
    /// The whole name.
    #[getter]
    fn name(&self) -> String {
        self.__str__()
    }
    fn __str__(&self) -> String {
        match self.index {
            Some(i) => format!("{}:{i}", self.r#type()),
            None => self.r#type().to_string(),
        }
    }
    fn __repr__(&self) -> String {
        match self.index {
            Some(i) => format!("device(type='{}', index={i})", self.r#type()),
            None => format!("device(type='{}')", self.r#type()),
        }
    }
    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<PyDevice>().is_ok_and(|o| o.get().kind == self.kind && o.get().index == self.index)
    }
    fn __hash__(&self) -> u64 {
        let mut h = DefaultHasher::new();
        (self.kind, self.index).hash(&mut h);
        h.finish()
    }
    fn __reduce__(&self, py: Python<'_>) -> (Py<PyAny>, (String,)) {
        (py.get_type::<PyDevice>().into_any().unbind(), (self.__str__(),))
    }
}

impl PyDevice {
    fn device(&self) -> Device {
        match (self.kind, self.index) {
            (Device::Cuda(_), None) => Device::Cuda(mode::places().cuda),
            (kind, _) => kind,
        }
    }
}

/// The object of a device.
pub fn object(py: Python<'_>, device: Device) -> PyResult<Py<PyDevice>> {
    static CPU: pyo3::sync::PyOnceLock<Py<PyDevice>> = pyo3::sync::PyOnceLock::new();
    let make = |index| Py::new(py, PyDevice { kind: device, index });
    match device {
        Device::Cpu => Ok(CPU.get_or_try_init(py, || make(None))?.clone_ref(py)),
        Device::Cuda(i) => make(Some(i)),
        Device::Metal => make(None),
    }
}

/// Sets the thread's default device; None for the CPU.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn set_default_device(device: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let device = device.filter(|d| !d.is_none()).map_or(Ok(Device::Cpu), named)?;
    mode::set_places(Places { device, ..mode::places() });
    Ok(())
}

/// The device, with its number, that an argument means; the thread's default device where none is given.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn resolve_device(py: Python<'_>, device: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyDevice>> {
    object(py, device.filter(|d| !d.is_none()).map_or(Ok(mode::places().device), named)?)
}

/// Whether a device other than the CPU has been opened.
#[pyfunction]
fn has_devices() -> bool {
    session::others()
}

/// The thread's default device.
#[pyfunction]
fn get_default_device(py: Python<'_>) -> PyResult<Py<PyDevice>> {
    object(py, mode::places().device)
}

/// Adds the class and the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyDevice>()?;
    m.add_function(wrap_pyfunction!(set_default_device, m)?)?;
    m.add_function(wrap_pyfunction!(resolve_device, m)?)?;
    m.add_function(wrap_pyfunction!(has_devices, m)?)?;
    m.add_function(wrap_pyfunction!(get_default_device, m)?)
}
