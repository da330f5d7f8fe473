//! `torsh.export` and the reading of packages: traces for them, the writer, and programs that were loaded.

use crate::compile::{Captured, take_floats};
use crate::errors::{OrRaise, guarded, outside};
use crate::executor;
use crate::signature::{Given, Leaves, describe, rebuild};
use crate::source;
use crate::tensor::{PyTensor, wrap};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use std::path::PathBuf;
use torsh_frontend::compiled::{Ended, Export, From, To, divided, finish, finish_for_export, strays};
use torsh_frontend::node::{Grad, Node};
use torsh_frontend::{Tensor, mode, ops, trace};
use torsh_ir::exec::{Buffer, BufferRef, Device};
use torsh_ir::text::Template;
use torsh_ir::{Error, ErrorKind, Graph, Shape, Type, text};
use torsh_runtime::package::{self, Contents, CudaTargets, Manifest, SecretKey};

/// A function as it was traced for a package.
#[pyclass(name = "ExportTrace", module = "torsh._C", frozen)]
pub struct ExportTrace {
    export: Export,
    floats: Vec<Captured>,
    result: Py<PyAny>,
    specialised: Vec<usize>,
    // The trace needed the value of a captured float: none of them may change.
    fixed: bool,
}

impl ExportTrace {
    /// The graph.
    pub(crate) fn graph_of(&self) -> &Graph {
        &self.export.graph
    }
}

#[pymethods]
impl ExportTrace {
    /// What each input of the graph is: `(kind, detail, dtype, shape)`, where detail is the leaf of an argument, a
    /// tensor, or `(dict, key, value)` of a float that is read at each call.
    #[getter]
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut out = Vec::with_capacity(self.export.inputs.len());
        for (from, ty) in &self.export.inputs {
            let (kind, detail) = match from {
                From::Arg(leaf) => ("arg", leaf.into_pyobject(py)?.into_any()),
                From::Float(leaf) => ("float", leaf.into_pyobject(py)?.into_any()),
                From::Tensor(t) => ("tensor", wrap(py, t.clone())?.into_bound(py).into_any()),
                From::Captured(k) => {
                    let c = self.floats.get(*k).ok_or_else(|| PyValueError::new_err("a captured float is missing"))?;
                    ("captured", (c.dict.bind(py), c.key.bind(py), c.value).into_pyobject(py)?.into_any())
                }
                From::Fixed(buffer) => {
                    let node = Node::data(ty.clone(), buffer.clone(), Grad::None);
                    ("fixed", wrap(py, Tensor::new(node))?.into_bound(py).into_any())
                }
            };
            out.push((kind, detail, ty.dtype.to_string(), ty.shape.dims().to_vec()).into_pyobject(py)?.into_any());
        }
        Ok(out)
    }

    /// What each output of the graph is: `("result" | "input", number, dtype, shape)`.
    #[getter]
    fn outputs(&self) -> Vec<(&'static str, usize, String, Vec<usize>)> {
        let ids = self.export.graph.outputs().iter();
        let describe = |(to, &id): (&To, _)| {
            let ty = self.export.graph.ty(id);
            let (kind, i) = match to {
                To::Result(i) => ("result", *i),
                To::Input(i) => ("input", *i),
            };
            (kind, i, ty.dtype.to_string(), ty.shape.dims().to_vec())
        };
        self.export.outputs.iter().zip(ids).map(describe).collect()
    }

    /// What the function returned.
    #[getter]
    fn result(&self, py: Python<'_>) -> Py<PyAny> {
        self.result.clone_ref(py)
    }

    /// Leaves of float arguments whose value the trace needed.
    #[getter]
    fn specialised(&self) -> Vec<usize> {
        self.specialised.clone()
    }

    /// Whether the trace needed the value of a captured float.
    #[getter]
    fn fixed(&self) -> bool {
        self.fixed
    }

    /// Whether a call leaves gradients where there were none.
    #[getter]
    fn leaves_gradients(&self) -> bool {
        self.export.leaves_gradients
    }

    /// The graph as text.
    #[getter]
    fn graph(&self) -> String {
        text::print(&self.export.graph)
    }

    /// The graph as text, with the user's lines.
    #[getter]
    fn lines(&self) -> String {
        text::print_with_lines(&self.export.graph)
    }

    /// Compares the graph with a template over these dims at these sizes: `None` where they mean the same, else the
    /// filled-in text, or what is wrong with it.
    fn differs(
        &self,
        py: Python<'_>,
        template: String,
        dims: Vec<String>,
        sizes: Vec<u64>,
    ) -> PyResult<Option<String>> {
        outside(py, || {
            let made = Template::parse(template, &dims).and_then(|t| t.at(&sizes, package::format::MAX_GRAPH_BYTES));
            let made = match made {
                Ok(text) => text,
                Err(e) => return Ok(Some(e.message().to_string())),
            };
            let same = match text::parse(&made) {
                Ok(graph) => package::same_meaning(graph, self.export.graph.clone())?,
                Err(_) => false,
            };
            Ok((!same).then_some(made))
        })
    }
}

/// The memory of a tensor that has none.
struct Phantom {
    device: Device,
    bytes: usize,
}

impl Buffer for Phantom {
    fn device(&self) -> Device {
        self.device
    }
    fn nbytes(&self) -> usize {
        self.bytes
    }
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A tensor of the dtype and device of another and of this shape that has no elements: the argument of a trace at sizes
/// that may be too large for memory. Whatever reads it fails.
#[pyfunction]
fn phantom(py: Python<'_>, like: &Bound<'_, PyTensor>, shape: Vec<usize>) -> PyResult<Py<PyTensor>> {
    let t = &like.get().t;
    let ty = Type::new(t.ty().dtype, Shape::new(&shape).or_raise()?);
    ops::check_size(&ty).or_raise()?;
    let buffer = Phantom { device: t.node().device, bytes: ty.nbytes() };
    wrap(py, Tensor::new(Node::data(ty, std::sync::Arc::new(buffer), Grad::None)))
}

/// Runs `fn(*args, **kwargs)` under trace; nothing outside changes. Every result must be a fresh tensor. Without
/// `updates`, what the function writes is left out; with `bake`, a few integers that it makes are constants of the graph.
#[pyfunction]
#[pyo3(signature = (function, args, kwargs, updates = true, bake = false))]
fn trace_export(
    py: Python<'_>,
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyDict>,
    updates: bool,
    bake: bool,
) -> PyResult<ExportTrace> {
    source::enter(py);
    if trace::active() != 0 {
        return Err(Error::new(ErrorKind::Export, "an export within a trace")).or_raise();
    }
    let grad = mode::grad_enabled();
    let mut leaves = Leaves::default();
    let args_spec = describe(args.as_any(), &mut leaves, 0)?;
    let kwargs_spec = describe(kwargs.as_any(), &mut leaves, 0)?;
    let proxies = guarded(|| trace::start(&leaves.values(), true)).or_raise()?;
    drop(take_floats());
    let run = || {
        let mut stand_ins = Vec::with_capacity(proxies.len());
        for (proxy, given) in proxies.iter().zip(leaves.iter()) {
            stand_ins.push(match proxy {
                Some(t) => wrap(py, t.clone())?.into_bound(py).into_any(),
                None => given.object(py).clone(),
            });
        }
        let mut stand_ins = stand_ins.into_iter();
        let args = rebuild(&args_spec, args.as_any(), &mut stand_ins)?.cast_into::<PyTuple>()?;
        let kwargs = rebuild(&kwargs_spec, kwargs.as_any(), &mut stand_ins)?.cast_into::<PyDict>()?;
        let result = function.call(args, Some(&kwargs))?;
        let mut found = Leaves::default();
        describe(&result, &mut found, 0)?;
        Ok((result, found))
    };
    let traced: PyResult<_> = run();
    let floats = take_floats();
    let (result, found) = match traced {
        Ok(t) => t,
        Err(e) => {
            trace::abort();
            mode::set_grad_enabled(grad);
            return Err(e);
        }
    };
    let handles: Vec<Tensor> = found.iter().filter_map(Given::tensor).cloned().collect();
    let ended = outside(py, || match divided(&handles) {
        Some(error) => Err(error),
        // A trace that is compared with others is one of many.
        None if bake => finish_for_export(&handles),
        None => finish(&handles),
    });
    if ended.is_err() {
        trace::abort();
    }
    match ended? {
        Ended::Program(program) => Ok(ExportTrace {
            export: program.export(updates, bake).or_raise()?,
            floats,
            result: result.unbind(),
            specialised: program.specialised().to_vec(),
            fixed: program.specialised_on_captured(),
        }),
        Ended::Broken(b) => {
            let why = format!("{} needs a value while the function is being traced", b.reason);
            Err(Error::new(ErrorKind::Export, why).with_loc(b.loc)).or_raise()
        }
    }
}

/// Of tensors from outside: the memory of each that a gradient goes on from, where it has a handle, and number and memory of
/// each that a gradient is for.
type Reached = (Vec<Option<u64>>, Vec<(u64, u64)>);

/// Raises where a gradient stops between these tensors and what requires it. Gives the memory, as of `memory_id`, of the tensors
/// from outside that a gradient goes on from to what they were computed from, and of those that it is for the number of
/// the handle, as of `tensor_id`, and the memory.
#[pyfunction]
fn check_gradients(py: Python<'_>, results: Vec<Py<PyTensor>>) -> PyResult<Reached> {
    let handles: Vec<Tensor> = results.iter().map(|t| t.bind(py).get().t.clone()).collect();
    let strays = strays(&handles);
    match strays.stop {
        None => {
            let memory = |t: &Tensor| t.root().id();
            let outside = strays.outside.iter().map(|t| t.as_ref().map(memory)).collect();
            Ok((outside, strays.leaves.iter().map(|t| (t.id(), memory(t))).collect()))
        }
        Some(loc) => Err(Error::new(
            ErrorKind::Export,
            "include_grad=True: a gradient stops here (detach, no_grad or a write in place), which a package cannot record",
        )
        .with_loc(loc))
        .or_raise(),
    }
}

/// 32 bytes, or an error that says what must have them.
pub fn seed(bytes: &[u8], what: &str) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("{what} must have 32 bytes, got {}", bytes.len())))
}

/// The memory of tensors, where the host can read it.
pub(crate) fn host_state(py: Python<'_>, state: &[Py<PyTensor>]) -> PyResult<Vec<BufferRef>> {
    let mut buffers: Vec<BufferRef> = Vec::with_capacity(state.len());
    for t in state {
        let t = &t.bind(py).get().t;
        buffers.push(outside(py, || {
            torsh_frontend::realise::realise(std::slice::from_ref(t))?;
            let node = t.node();
            // A package holds what the host can read.
            torsh_frontend::session::get()?.copy(&node.ty, &trace::realised(&node)?, Device::Cpu)
        })?);
    }
    Ok(buffers)
}

/// Writes a package; returns its size. With `templates`, the texts of a package with dims stand in place of the graphs.
/// There is machine code for each level of `code` and for each CUDA target of `cuda`, with dims at the sizes of `example`.
#[pyfunction]
#[pyo3(signature = (path, manifest, forward, vjp, state, key, templates = None, code = Vec::new(), cuda = Vec::new(), example = Vec::new()))]
#[expect(clippy::too_many_arguments, reason = "what a package is made of, and where it goes")]
fn write_package(
    py: Python<'_>,
    path: PathBuf,
    manifest: &str,
    forward: &ExportTrace,
    vjp: Option<&ExportTrace>,
    state: Vec<Py<PyTensor>>,
    key: Option<&[u8]>,
    templates: Option<(String, Option<String>)>,
    code: Vec<String>,
    cuda: Vec<String>,
    example: Vec<u64>,
) -> PyResult<u64> {
    let manifest: Manifest = serde_json::from_str(manifest)
        .map_err(|e| Error::new(ErrorKind::Export, format!("the manifest: {e}")))
        .or_raise()?;
    let key = key.map(|k| seed(k, "a signing key")).transpose()?.map(|k| SecretKey::from_seed(&k));
    let buffers = host_state(py, &state)?;
    let cuda = CudaTargets { names: cuda, folders: executor::wheels(py)? };
    if let Some(templates) = templates {
        let code = (code, cuda, example);
        return outside(py, || package::write_template(&path, manifest, templates, buffers, code, key.as_ref()));
    }
    let contents = Contents {
        manifest,
        forward: forward.export.graph.clone(),
        vjp: vjp.map(|v| v.export.graph.clone()),
        state: buffers,
        code,
        cuda,
    };
    outside(py, || package::write(&path, contents, key.as_ref()))
}

/// A number that two tensors share when they have one memory: views have that of their base.
#[pyfunction]
fn memory_id(x: &Bound<'_, PyTensor>) -> u64 {
    x.get().t.root().id()
}

/// A number of a tensor's own, which no view of it has.
#[pyfunction]
fn tensor_id(x: &Bound<'_, PyTensor>) -> u64 {
    x.get().t.id()
}

/// The public key of a secret one.
#[pyfunction]
fn public_key<'py>(py: Python<'py>, key: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &SecretKey::from_seed(&seed(key, "a signing key")?).public()))
}

/// Adds the classes and functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ExportTrace>()?;
    m.add_function(wrap_pyfunction!(trace_export, m)?)?;
    m.add_function(wrap_pyfunction!(phantom, m)?)?;
    m.add_function(wrap_pyfunction!(check_gradients, m)?)?;
    m.add_function(wrap_pyfunction!(write_package, m)?)?;
    m.add_function(wrap_pyfunction!(memory_id, m)?)?;
    m.add_function(wrap_pyfunction!(tensor_id, m)?)?;
    m.add_function(wrap_pyfunction!(public_key, m)?)
}
