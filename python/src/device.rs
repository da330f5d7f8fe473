//! `torsh.PyDevice` (alias `torsh.device`).

use crate::errors::OrRaise;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::hash::{DefaultHasher, Hash, Hasher};
use torsh_ir::Error;
use torsh_ir::exec::Device;

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

/// Checks that a device given by an object is there. `None` is the CPU.
pub fn require(obj: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let Some(obj) = obj.filter(|o| !o.is_none()) else { return Ok(()) };
    let kind = match obj.cast::<PyDevice>() {
        Ok(d) => d.get().kind,
        Err(_) => match obj.extract::<&str>() {
            Ok(text) => parse(text).map_err(PyValueError::new_err)?.0,
            Err(_) => return Err(PyTypeError::new_err(format!("expected a device, got {}", obj.get_type().name()?))),
        },
    };
    match kind {
        Device::Cpu => Ok(()),
        other => {
            crate::source::enter(obj.py());
            Err(Error::device(format!("device {other} is not available: this build of torsh has the CPU only"))
                .with_loc(torsh_frontend::mode::loc()))
            .or_raise()
        }
    }
}

#[pymethods]
impl PyDevice {
    #[new]
    #[pyo3(signature = (device, index = None))]
    fn new(device: &Bound<'_, PyAny>, index: Option<u32>) -> PyResult<PyDevice> {
        if let Ok(d) = device.cast::<PyDevice>() {
            return Ok(PyDevice { kind: d.get().kind, index: d.get().index });
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

/// The CPU's object.
pub fn cpu(py: Python<'_>) -> PyResult<Py<PyDevice>> {
    static CPU: pyo3::sync::PyOnceLock<Py<PyDevice>> = pyo3::sync::PyOnceLock::new();
    let d = CPU.get_or_try_init(py, || Py::new(py, PyDevice { kind: Device::Cpu, index: None }))?;
    Ok(d.clone_ref(py))
}
