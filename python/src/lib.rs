//! Python bindings. `torsh._C` is private: the package `torsh` is the surface.

mod convert;
mod device;
mod dtype;
mod errors;
mod executor;
mod functions;
mod index;
mod memory;
mod number;
mod source;
mod tensor;

use pyo3::prelude::*;

/// The native part of torsh.
#[pymodule]
#[pyo3(name = "_C")]
fn native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    executor::init().map_err(|e| pyo3::exceptions::PyImportError::new_err(e.to_string()))?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::register(m)?;
    dtype::register(m)?;
    m.add_class::<device::PyDevice>()?;
    m.add_class::<tensor::PyTensor>()?;
    functions::register(m)?;
    memory::register(m)?;
    Ok(())
}
