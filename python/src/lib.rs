//! Python bindings. `torsh._C` is private: the package `torsh` is the surface.

#![allow(non_snake_case, reason = "the module is called _C")]

mod compile;
mod convert;
mod device;
mod dlpack;
mod dtype;
mod errors;
mod executor;
mod export;
mod export_c;
mod fork;
mod functions;
mod guard;
mod index;
mod json;
mod memory;
mod number;
mod package;
mod package_call;
mod signature;
mod source;
mod stream;
mod support;
mod tensor;

use errors::OrRaise;
use pyo3::prelude::*;

/// The native part of torsh.
#[pymodule]
#[pyo3(name = "_C")]
fn native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::register(m)?;
    executor::init(m.py()).or_raise()?;
    dtype::register(m)?;
    device::register(m)?;
    stream::register(m)?;
    m.add_class::<tensor::PyTensor>()?;
    functions::register(m)?;
    memory::register(m)?;
    guard::register(m)?;
    compile::register(m)?;
    export::register(m)?;
    package::register(m)?;
    package_call::register(m)?;
    export_c::register(m)?;
    dlpack::register(m)?;
    support::register(m)?;
    fork::register(m)?;
    Ok(())
}
