//! What `torsh.cuda` asks of devices: how many, what they are, and their streams and events.
//!
//! Tensors are computed when they are looked at. What is pending on a thread is therefore handed to the device before
//! the thread changes its stream, marks a moment of one, or waits: it belongs before that point.

use crate::errors::{OrRaise, outside};
use crate::{device, source};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;
use torsh_frontend::mode::{self, Places};
use torsh_frontend::{realise, session, trace};
use torsh_ir::exec::{Device, DeviceKind, Event, Executor, Stream};

fn kind(name: &str) -> PyResult<DeviceKind> {
    match name {
        "cpu" => Ok(DeviceKind::Cpu),
        "cuda" => Ok(DeviceKind::Cuda),
        "metal" => Ok(DeviceKind::Metal),
        _ => Err(PyValueError::new_err(format!("Unknown device: {name}"))),
    }
}

/// How many devices of a kind there are; DeviceError where that cannot be found out.
#[pyfunction]
fn device_count(py: Python<'_>, name: &str) -> PyResult<u32> {
    let kind = kind(name)?;
    source::enter(py);
    let loc = mode::loc();
    outside(py, move || session::get()?.device_count(kind).map_err(|e| e.with_loc(loc)))
}

/// What a device is, as a dict.
#[pyfunction]
fn device_properties(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<Py<PyDict>> {
    let device = device::named(device)?;
    source::enter(py);
    let loc = mode::loc();
    let p = outside(py, move || session::get()?.properties(device).map_err(|e| e.with_loc(loc)))?;
    let d = PyDict::new(py);
    d.set_item("name", p.name)?;
    d.set_item("major", p.capability.0)?;
    d.set_item("minor", p.capability.1)?;
    d.set_item("total_memory", p.total_memory)?;
    d.set_item("multi_processor_count", p.multiprocessors)?;
    d.set_item("max_threads_per_multi_processor", p.threads_per_multiprocessor)?;
    d.set_item("warp_size", p.warp_size)?;
    d.set_item("shared_memory_per_block", p.shared_memory_per_block)?;
    d.set_item("shared_memory_per_block_optin", p.shared_memory_per_block_optin)?;
    d.set_item("regs_per_multiprocessor", p.registers_per_multiprocessor)?;
    d.set_item("L2_cache_size", p.l2_bytes)?;
    Ok(d.unbind())
}

/// Whether a device has been opened.
#[pyfunction]
fn is_open(device: &Bound<'_, PyAny>) -> PyResult<bool> {
    let device = device::named(device)?;
    Ok(session::get().or_raise()?.opened(device).is_some())
}

/// Opens a device.
#[pyfunction]
fn open_device(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<()> {
    device::open(py, device::named(device)?)
}

/// Number of the CUDA device that `cuda` alone means on this thread.
#[pyfunction]
fn current_cuda() -> u32 {
    mode::places().cuda
}

/// Sets what `cuda` alone means on this thread; returns the previous number.
#[pyfunction]
fn set_current_cuda(index: u32) -> u32 {
    mode::set_places(Places { cuda: index, ..mode::places() }).cuda
}

// Hands pending work to its device. In a trace, the function goes on as lazy code.
fn flush(py: Python<'_>, what: &str) -> PyResult<()> {
    source::enter(py);
    trace::break_graph(what).or_raise()?;
    outside(py, realise::flush)
}

fn executor(device: Device) -> torsh_ir::Result<&'static dyn Executor> {
    session::get()?.on(device)
}

/// Waits until all work of a device is done.
#[pyfunction]
fn synchronize(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<()> {
    let device = device::resolve(py, Some(device))?;
    flush(py, "synchronize()")?;
    outside(py, move || executor(device)?.synchronize())
}

/// A queue of work on a device.
#[pyclass(name = "Stream", module = "torsh._C", frozen)]
struct PyStream(Arc<dyn Stream>);

#[pymethods]
impl PyStream {
    #[new]
    #[pyo3(signature = (device, priority = 0))]
    fn new(py: Python<'_>, device: &Bound<'_, PyAny>, priority: i32) -> PyResult<PyStream> {
        let device = device::resolve(py, Some(device))?;
        Ok(PyStream(outside(py, move || executor(device)?.new_stream(priority))?))
    }
    /// The device.
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<Py<device::PyDevice>> {
        device::object(py, self.0.device())
    }
    /// The driver's handle.
    #[getter]
    fn handle(&self) -> u64 {
        self.0.handle()
    }
    /// Lower is more urgent.
    #[getter]
    fn priority(&self) -> i32 {
        self.0.priority()
    }
    /// True when all work given to it is done.
    fn query(&self, py: Python<'_>) -> PyResult<bool> {
        flush(py, "Stream.query()")?;
        outside(py, || self.0.query())
    }
    /// Waits until all work given to it is done.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        flush(py, "Stream.synchronize()")?;
        outside(py, || self.0.synchronize())
    }
    /// Marks this moment in an event.
    fn record(&self, py: Python<'_>, event: &Bound<'_, PyEvent>) -> PyResult<()> {
        flush(py, "recording an event")?;
        let event = event.get().0.clone();
        outside(py, || self.0.record(&*event))
    }
    /// Has later work start after what an event marks.
    fn wait(&self, py: Python<'_>, event: &Bound<'_, PyEvent>) -> PyResult<()> {
        flush(py, "waiting for an event")?;
        let event = event.get().0.clone();
        outside(py, || self.0.wait(&*event))
    }
}

/// A moment of a stream.
#[pyclass(name = "Event", module = "torsh._C", frozen)]
struct PyEvent(Arc<dyn Event>);

#[pymethods]
impl PyEvent {
    #[new]
    fn new(py: Python<'_>, device: &Bound<'_, PyAny>, timing: bool, blocking: bool) -> PyResult<PyEvent> {
        let device = device::resolve(py, Some(device))?;
        Ok(PyEvent(outside(py, move || executor(device)?.new_event(timing, blocking))?))
    }
    /// The device.
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<Py<device::PyDevice>> {
        device::object(py, self.0.device())
    }
    /// The driver's handle.
    #[getter]
    fn handle(&self) -> u64 {
        self.0.handle()
    }
    /// True when the work before it is done.
    fn query(&self, py: Python<'_>) -> PyResult<bool> {
        outside(py, || self.0.query())
    }
    /// Waits until the work before it is done.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        outside(py, || self.0.synchronize())
    }
    /// Milliseconds from this event to a later one.
    fn elapsed_ms(&self, py: Python<'_>, end: &Bound<'_, PyEvent>) -> PyResult<f64> {
        let end = end.get().0.clone();
        outside(py, || self.0.elapsed_ms(&*end))
    }
}

/// The stream on which this thread's work on a device goes.
#[pyfunction]
fn current_stream(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<PyStream> {
    let device = device::resolve(py, Some(device))?;
    Ok(PyStream(executor(device).and_then(|e| e.current_stream()).or_raise()?))
}

/// The stream on which work on a device goes unless another is set.
#[pyfunction]
fn default_stream(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<PyStream> {
    let device = device::resolve(py, Some(device))?;
    Ok(PyStream(executor(device).and_then(|e| e.default_stream()).or_raise()?))
}

/// Sets the stream on which this thread's work on the stream's device goes.
#[pyfunction]
fn set_stream(py: Python<'_>, stream: &Bound<'_, PyStream>) -> PyResult<()> {
    flush(py, "changing the stream")?;
    let stream = &stream.get().0;
    executor(stream.device()).and_then(|e| e.set_stream(stream)).or_raise()
}

/// Adds the classes and the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($f:ident)*) => { $(m.add_function(wrap_pyfunction!($f, m)?)?;)* };
    }
    add! { device_count device_properties is_open open_device current_cuda set_current_cuda synchronize current_stream
    default_stream set_stream }
    m.add_class::<PyStream>()?;
    m.add_class::<PyEvent>()
}
