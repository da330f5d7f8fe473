//! `torsh.export(format="c")`: what a C compiler makes a library of.

use crate::errors::{OrRaise, outside};
use crate::export::{ExportTrace, host_state};
use crate::tensor::PyTensor;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use torsh_ir::{Error, ErrorKind};
use torsh_runtime::aot::{self, Architecture, Request};
use torsh_runtime::package::Manifest;

/// Header, C source, object file and weights of a library, by these names, with the bytes of a context's arena.
#[pyfunction]
fn c_library<'py>(
    py: Python<'py>,
    manifest: &str,
    forward: &ExportTrace,
    state: Vec<Py<PyTensor>>,
    name: &str,
    target: &str,
    weights_in_file: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let manifest: Manifest = serde_json::from_str(manifest)
        .map_err(|e| Error::new(ErrorKind::Export, format!("the manifest: {e}")))
        .or_raise()?;
    let target = Architecture::parse(target).or_raise()?;
    let state = host_state(py, &state)?;
    let graph = forward.graph_of();
    let request = Request { manifest: &manifest, graph, state: &state, name, target, weights_in_file };
    let library = outside(py, || aot::build(&request))?;
    let d = PyDict::new(py);
    d.set_item("header", library.header)?;
    d.set_item("source", library.source)?;
    d.set_item("object", PyBytes::new(py, &library.object))?;
    d.set_item("weights", library.weights.map(|w| PyBytes::new(py, &w)))?;
    d.set_item("arena_bytes", library.arena_bytes)?;
    d.set_item("target", target.name())?;
    Ok(d)
}

/// Adds the function.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(c_library, m)?)
}
