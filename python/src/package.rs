//! Packages that were read: what Python asks of them.

use crate::device;
use crate::errors::{OrRaise, guarded, outside};
use crate::executor;
use crate::export::seed;
use crate::json;
use crate::source;
use crate::tensor::{PyTensor, wrap};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use torsh_frontend::node::{Grad, Node};
use torsh_frontend::session::Known;
use torsh_frontend::{Tensor, inline, mode, ops};
use torsh_ir::exec::{BufferRef, Device};
use torsh_ir::{Error, Graph, Result, Type, text};
use torsh_runtime::package::manifest::Types;
use torsh_runtime::package::{self, LoadOptions, Package};

/// A package that has passed every check.
#[pyclass(name = "Package", module = "torsh._C", frozen)]
pub struct PyPackage {
    package: Package,
    // One buffer of each tensor of the state, for all who ask.
    state: Mutex<Vec<Option<BufferRef>>>,
}

impl PyPackage {
    /// The package.
    pub(crate) fn package(&self) -> &Package {
        &self.package
    }

    /// Tensors over the file's bytes, as the state is before any call. Errors: as of [`Package::state`].
    pub(crate) fn state(&self) -> Result<Vec<Tensor>> {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let types = &self.package.types().state;
        let tensor = |(i, (ty, known)): (usize, (&Type, &mut Option<BufferRef>))| {
            let buffer = match known {
                Some(buffer) => buffer.clone(),
                None => known.insert(self.package.state(i)?).clone(),
            };
            Ok(Tensor::new(Node::data(ty.clone(), buffer, Grad::None)))
        };
        types.iter().zip(known.iter_mut()).enumerate().map(tensor).collect()
    }
}

#[pymethods]
impl PyPackage {
    /// Reads and checks a file.
    #[new]
    #[pyo3(signature = (path, trusted_keys = None, sha256 = None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        trusted_keys: Option<Vec<Vec<u8>>>,
        sha256: Option<Vec<u8>>,
    ) -> PyResult<PyPackage> {
        let keys = trusted_keys.map(|keys| keys.iter().map(|k| seed(k, "a trusted key")).collect()).transpose()?;
        let sha256 = sha256.map(|hash| seed(&hash, "a SHA-256")).transpose()?;
        let threads = torsh_frontend::session::get().or_raise()?.executor().threads();
        let options = LoadOptions { trusted_keys: keys, sha256, memory: executor::memory(), threads };
        let package = outside(py, || Package::load_with(&path, &options))?;
        let state = Mutex::new(vec![None; package.types().state.len()]);
        Ok(PyPackage { package, state })
    }

    /// The manifest as JSON.
    #[getter]
    fn manifest(&self) -> PyResult<String> {
        serde_json::to_string(self.package.manifest())
            .map_err(|e| Error::internal(format!("a manifest is no JSON: {e}")))
            .or_raise()
    }
    /// What the manifest says to callers, as plain data: all but state, programs and entries.
    #[getter]
    fn interface<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let m = self.package.manifest();
        let value = serde_json::json!({
            "name": m.name, "license": m.license, "metadata": m.metadata, "dims": m.dims, "inputs": m.inputs,
            "outputs": m.outputs, "parameters": m.parameters, "arguments": m.arguments, "result": m.result,
        });
        json::to_python(py, &value)
    }
    /// Name and role of each tensor of the state.
    #[getter]
    fn roles<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let roles: serde_json::Value =
            self.package.manifest().state.iter().map(|s| serde_json::json!([s.name, s.role])).collect();
        json::to_python(py, &roles)
    }
    /// What the inputs and outputs of the graph are.
    #[getter]
    fn slots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let forward = &self.package.manifest().forward;
        json::to_python(py, &serde_json::json!({ "inputs": forward.inputs, "outputs": forward.outputs }))
    }
    /// Whether the package has gradients.
    #[getter]
    fn has_gradients(&self) -> bool {
        self.package.vjp().is_some()
    }
    /// The graph as text; with dims, its template.
    #[getter]
    fn graph(&self) -> PyResult<String> {
        match self.package.templates() {
            Some(templates) => Ok(templates.forward().to_string()),
            None => self.package.forward().map(|graph| text::print(graph)).or_raise(),
        }
    }
    /// The gradient program as text; with dims, its template.
    #[getter]
    fn vjp(&self) -> Option<String> {
        match self.package.templates() {
            Some(templates) => templates.vjp().map(str::to_string),
            None => self.package.vjp().map(text::print),
        }
    }
    /// The size of each dim in a call with inputs of these shapes.
    fn sizes(&self, shapes: Vec<Vec<usize>>) -> PyResult<Vec<u64>> {
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        self.package.manifest().sizes_of(&shapes).or_raise()
    }
    /// The key that signed the file.
    #[getter]
    fn signer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.package.signer().map(|k| PyBytes::new(py, k))
    }
    /// Machine code in the file: of each level and CUDA architecture the kernels that it has, or why it is not used.
    #[getter]
    fn code(&self) -> Vec<(String, usize, Option<String>)> {
        self.package.code().iter().map(|c| (c.level.clone(), c.kernels, c.unused.clone())).collect()
    }
    /// Lowered programs in the file: of each entry the steps that it has, or why it is not used.
    #[getter]
    fn lowered(&self) -> Vec<(String, usize, Option<String>)> {
        self.package.lowered().iter().map(|l| (l.entry.clone(), l.steps, l.unused.clone())).collect()
    }
    /// Size of the file.
    #[getter]
    fn bytes(&self) -> u64 {
        self.package.bytes()
    }
    /// Whether the state is a mapping of the file.
    #[getter]
    fn mapped(&self) -> bool {
        self.package.is_mapped()
    }

    /// Applies the program to tensors of a device, in the order of the inputs of its graph: its outputs, in order. With
    /// `grad`, operations record gradients. `sizes` are those of the dims.
    #[pyo3(signature = (inputs, grad, device, sizes = Vec::new()))]
    fn apply(
        &self,
        py: Python<'_>,
        inputs: Vec<Py<PyTensor>>,
        grad: bool,
        device: &Bound<'_, PyAny>,
        sizes: Vec<u64>,
    ) -> PyResult<Vec<Py<PyTensor>>> {
        source::enter(py);
        let device = device::named(device)?;
        let tensors: Vec<Tensor> = inputs.iter().map(|t| t.bind(py).get().t.clone()).collect();
        let run = || {
            let made = self.package.templates().map(|t| t.at(&sizes)).transpose()?;
            let graph = made.as_ref().map_or_else(|| self.package.forward(), |made| Ok(&made.forward))?;
            let nodes = inline::apply(graph, &tensors, device)?;
            Ok(nodes.iter().map(|n| Tensor::new(if grad { n.clone() } else { ops::detach(n) })).collect::<Vec<_>>())
        };
        let made = guarded(|| if grad { run() } else { mode::no_grad(run) }).or_raise()?;
        made.into_iter().map(|t| wrap(py, t)).collect()
    }
}

/// The lowered program of the package at these sizes, where it is used; `types` are those at the sizes.
pub fn known<'a>(
    package: &'a Package,
    types: &Types,
    sizes: &[u64],
    graph: &'a dyn Fn() -> Result<&'a Arc<Graph>>,
) -> Option<Known<'a>> {
    let (program, slots) = (package.program(false, sizes)?, &package.manifest().forward);
    let (inputs, outputs) = (types.of_all(&slots.inputs), types.of_all(&slots.outputs));
    Some(Known { program, inputs, outputs, donate: package::donated(program, slots), graph })
}

/// What a call of the package runs on the CPU, with dims at the smallest sizes: kernels, peak bytes, for `inspect`.
#[pyfunction]
fn package_plan<'py>(py: Python<'py>, package: &PyPackage) -> PyResult<Bound<'py, PyDict>> {
    let package = &package.package;
    let manifest = package.manifest();
    let graph = || package.forward();
    let compiled = outside(py, || {
        let session = torsh_frontend::session::get()?;
        let known = known(package, package.types(), &manifest.smallest(), &graph);
        let compiled = known.map(|known| session.executable_of(Device::Cpu, &known)).transpose()?.flatten();
        let passes = || {
            let graph = graph()?;
            session.executable(Device::Cpu, graph, package::donations(graph, &manifest.forward))
        };
        compiled.map_or_else(passes, Ok)
    })?;
    let program = compiled.exe.program();
    let d = PyDict::new(py);
    d.set_item("peak_bytes", program.peak_bytes)?;
    d.set_item("kernels", program.stats.kernels)?;
    let steps: Vec<String> = program.steps.iter().map(|s| s.ops.join(" ")).collect();
    d.set_item("steps", steps)?;
    d.set_item("seconds", compiled.seconds)?;
    Ok(d)
}

/// Adds the class and the function.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyPackage>()?;
    m.add_function(wrap_pyfunction!(package_plan, m)?)
}
