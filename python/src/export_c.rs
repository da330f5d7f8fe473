//! `torsh.export(format="c")`: what a C compiler makes a library of.

use crate::errors::{OrRaise, outside};
use crate::export::{ExportTrace, host_state};
use crate::tensor::PyTensor;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use torsh_ir::{Error, ErrorKind};
use torsh_runtime::aot::{self, Architecture, Request};
use torsh_runtime::package::Manifest;

/// Header, C source, object file and weights of a library, by these names, with the bytes of a context's arena. `seeds`
/// are the states of random numbers among the state, `gradients` the manifest and the trace of a second program.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one caller, which has them apart")]
fn c_library<'py>(
    py: Python<'py>,
    manifest: &str,
    forward: &ExportTrace,
    state: Vec<Py<PyTensor>>,
    name: &str,
    target: &str,
    weights_in_file: bool,
    seeds: Vec<u32>,
    gradients: Option<(String, PyRef<'py, ExportTrace>)>,
) -> PyResult<Bound<'py, PyDict>> {
    let parse = |text: &str| -> PyResult<Manifest> {
        serde_json::from_str(text).map_err(|e| Error::new(ErrorKind::Export, format!("the manifest: {e}"))).or_raise()
    };
    let manifest = parse(manifest)?;
    let wide = gradients.as_ref().map(|(text, _)| parse(text)).transpose()?;
    let target = Architecture::parse(target).or_raise()?;
    let state = host_state(py, &state)?;
    let graph = forward.graph_of();
    let gradients = wide.as_ref().zip(gradients.as_ref().map(|(_, trace)| trace.graph_of()));
    let request =
        Request { manifest: &manifest, graph, gradients, state: &state, seeds: &seeds, name, target, weights_in_file };
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
