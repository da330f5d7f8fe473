//! Memory figures, threads, limits and the cache of executables.

use crate::device;
use crate::errors::{OrRaise, outside};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use torsh_frontend::session;
use torsh_ir::exec::{Device, Executor};
use torsh_ir::limits;

type Named<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

// The device that an argument names; the CPU where none is given.
fn on(py: Python<'_>, device: Named<'_, '_>) -> PyResult<&'static dyn Executor> {
    let device = match device.filter(|d| !d.is_none()) {
        Some(d) => device::resolve(py, Some(d))?,
        None => Device::Cpu,
    };
    session::get().and_then(|s| s.on(device)).or_raise()
}

/// Bytes held by tensors, kept for reuse, and allowed, on a device; the CPU where none is given.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn memory_stats(py: Python<'_>, device: Named<'_, '_>) -> PyResult<Py<PyDict>> {
    let s = on(py, device)?.memory_stats();
    let d = PyDict::new(py);
    d.set_item("live", s.live)?;
    d.set_item("peak", s.peak)?;
    d.set_item("cached", s.cached)?;
    d.set_item("limit", s.limit)?;
    d.set_item("allocations", s.allocations)?;
    d.set_item("code", s.code)?;
    Ok(d.unbind())
}

/// Sets the peak to what is live now.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn reset_peak_memory_stats(py: Python<'_>, device: Named<'_, '_>) -> PyResult<()> {
    on(py, device)?.reset_peak_memory_stats();
    Ok(())
}

/// Sets the cap on tensor memory of a device, in bytes.
#[pyfunction]
#[pyo3(signature = (bytes, device = None))]
fn set_memory_limit(py: Python<'_>, bytes: u64, device: Named<'_, '_>) -> PyResult<()> {
    on(py, device)?.set_memory_limit(bytes);
    Ok(())
}

/// Returns cached memory to the system, or to the device's driver.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn empty_cache(py: Python<'_>, device: Named<'_, '_>) -> PyResult<()> {
    let executor = on(py, device)?;
    outside(py, move || {
        executor.empty_cache();
        Ok(())
    })
}

/// Bytes of a device's memory: free, and in all.
#[pyfunction]
fn memory_info(py: Python<'_>, device: &Bound<'_, PyAny>) -> PyResult<(u64, u64)> {
    on(py, Some(device))?.memory_info().or_raise()
}

/// Worker threads used by later runs.
#[pyfunction]
fn get_num_threads() -> PyResult<usize> {
    Ok(session::get().or_raise()?.executor().threads())
}

/// Sets the number of worker threads; None for the default.
#[pyfunction]
#[pyo3(signature = (threads = None))]
fn set_num_threads(py: Python<'_>, threads: Option<i64>) -> PyResult<()> {
    let threads = match threads {
        Some(n) if n < 1 => {
            return Err(PyValueError::new_err(format!("the number of threads must be positive, got {n}")));
        }
        Some(n) => Some(n as usize),
        None => None,
    };
    outside(py, move || session::get()?.executor().set_threads(threads))
}

/// The limits in force.
#[pyfunction(name = "limits")]
fn get_limits(py: Python<'_>) -> PyResult<Py<PyDict>> {
    let l = limits::get();
    let d = PyDict::new(py);
    d.set_item("max_rank", l.max_rank)?;
    d.set_item("max_elements", l.max_elements)?;
    d.set_item("max_tensor_bytes", l.max_tensor_bytes)?;
    d.set_item("max_nodes", l.max_nodes)?;
    d.set_item("max_kernel_insts", l.max_kernel_insts)?;
    d.set_item("max_constant_bytes", l.max_constant_bytes)?;
    d.set_item("max_peak_bytes", l.max_peak_bytes)?;
    Ok(d.unbind())
}

/// Changes limits by name.
#[pyfunction]
fn set_limits(values: &Bound<'_, PyDict>) -> PyResult<()> {
    let mut l = limits::get();
    for (key, value) in values.iter() {
        let name: String = key.extract()?;
        let value: u64 = value
            .extract()
            .map_err(|_| PyValueError::new_err(format!("limit {name} must be a non-negative integer, got {value}")))?;
        let slot = match name.as_str() {
            "max_rank" => &mut l.max_rank,
            "max_elements" => &mut l.max_elements,
            "max_tensor_bytes" => &mut l.max_tensor_bytes,
            "max_nodes" => &mut l.max_nodes,
            "max_kernel_insts" => &mut l.max_kernel_insts,
            "max_constant_bytes" => &mut l.max_constant_bytes,
            "max_peak_bytes" => &mut l.max_peak_bytes,
            _ => return Err(PyKeyError::new_err(format!("no limit named {name:?}"))),
        };
        *slot = value;
    }
    limits::set(l);
    Ok(())
}

/// Figures of the cache of lazy executables.
#[pyfunction]
fn cache_info(py: Python<'_>) -> PyResult<Py<PyDict>> {
    let c = session::get().or_raise()?.cache_info();
    let d = PyDict::new(py);
    d.set_item("hits", c.hits)?;
    d.set_item("misses", c.misses)?;
    d.set_item("evictions", c.evictions)?;
    d.set_item("entries", c.entries)?;
    d.set_item("bytes", c.bytes)?;
    d.set_item("limit", c.limit)?;
    Ok(d.unbind())
}

/// Drops every cached executable.
#[pyfunction]
fn clear_cache() -> PyResult<()> {
    session::get().or_raise()?.clear_cache();
    Ok(())
}

/// Adds the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($f:ident)*) => { $(m.add_function(wrap_pyfunction!($f, m)?)?;)* };
    }
    add! { memory_stats reset_peak_memory_stats set_memory_limit empty_cache memory_info get_num_threads set_num_threads get_limits
    set_limits cache_info clear_cache }
    Ok(())
}
