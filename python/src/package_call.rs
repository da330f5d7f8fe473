//! Calls of loaded packages without a trace: the graph is known, and so is what goes in and out of it.

use crate::compile::Traceless;
use crate::errors::{OrRaise, outside};
use crate::package::{PyPackage, known};
use crate::signature::{Given, Leaves, Spec};
use crate::tensor::{PyTensor, wrap};
use pyo3::prelude::*;
use pyo3::types::PyList;
use torsh_frontend::compiled::{From, Program, Ready, To};
use torsh_frontend::{Tensor, mode};
use torsh_ir::Graph;
use torsh_runtime::package::donations;
use torsh_runtime::package::manifest::Slot;

/// A package with the tensors of its state: what a call without a trace needs.
#[pyclass(name = "PackageCalls", module = "torsh._C", frozen)]
pub struct PackageCalls {
    package: Py<PyPackage>,
    // Handles, not their objects: nothing here is in a cycle, and a program that is only called needs no objects.
    state: Vec<Tensor>,
}

#[pymethods]
impl PackageCalls {
    #[new]
    fn new(py: Python<'_>, package: Py<PyPackage>) -> PyResult<PackageCalls> {
        let state = package.bind(py).get().state().or_raise()?;
        Ok(PackageCalls { package, state })
    }

    /// Python's objects of the state. Each call makes new ones.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<Py<PyTensor>>> {
        self.state.iter().map(|t| wrap(py, t.clone())).collect()
    }
}

impl PackageCalls {
    /// The program of a call with these leaves, and the tree of its result. `None` where gradients are recorded, where a
    /// tensor is not where the others are, and where no tensor says where the program runs: a trace knows what to do.
    pub fn program<'py>(&self, py: Python<'py>, leaves: &Leaves) -> PyResult<Option<Traceless<'py>>> {
        let package = self.package.get().package();
        if package.vjp().is_some() && mode::grad_enabled() {
            return Ok(None);
        }
        let tensors = leaves.iter().filter_map(Given::tensor);
        let Some(device) = self.state.iter().chain(tensors.clone()).map(Tensor::device).next() else {
            return Ok(None);
        };
        if tensors.clone().any(|t| t.device() != device) {
            return Ok(None);
        }
        let manifest = package.manifest();
        let slots = &manifest.forward;
        if leaves.iter().len() != manifest.inputs.len() {
            return Ok(None);
        }
        let from = |slot: &Slot| match *slot {
            Slot::Input(i) => Some(match leaves.iter().nth(i as usize)? {
                Given::Tensor(_) => From::Arg(i as usize),
                Given::Float(..) => From::Float(i as usize),
            }),
            Slot::State(s) => self.state.get(s as usize).cloned().map(From::Tensor),
            Slot::Output(_) => None,
        };
        let Some(inputs) = slots.inputs.iter().map(from).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let to = |slot: &Slot| match slot {
            Slot::Output(o) => Some(To::Result(*o as usize)),
            slot => slots.inputs.iter().position(|s| s == slot).map(To::Input),
        };
        // State that is written and not read has no input to be written to.
        let Some(outputs) = slots.outputs.iter().map(to).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let shapes: Vec<Vec<usize>> = leaves
            .iter()
            .map(|given| given.tensor().map(|t| t.ty().shape.dims().to_vec()).unwrap_or_default())
            .collect();
        let given: Vec<_> = leaves.iter().map(|given| given.tensor().map(Tensor::ty)).collect();
        let site = mode::loc();
        let made = outside(py, || {
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let sizes = if manifest.dims.is_empty() { Vec::new() } else { manifest.sizes_of(&shapes)? };
            let instance = package.templates().map(|t| t.at(&sizes)).transpose()?;
            let types = instance.as_ref().map_or(package.types(), |made| &made.types);
            if !given.iter().zip(&types.inputs).all(|(given, ty)| given.as_ref().is_none_or(|t| t == ty)) {
                return Ok(None);
            }
            let (input_types, output_types) = (types.of_all(&slots.inputs), types.of_all(&slots.outputs));
            let graph = || instance.as_ref().map_or_else(|| package.forward(), |made| Ok(&made.forward));
            let known = known(package, types, &sizes, &graph);
            let donate = |graph: &Graph| donations(graph, slots);
            Program::ready(Ready {
                graph: &graph,
                input_types,
                output_types,
                inputs,
                outputs,
                donate: &donate,
                known,
                device,
                site,
            })
        })?;
        let Some(program) = made else { return Ok(None) };
        let types = program.result_types();
        let template = PyList::new(py, types.iter().map(|_| py.None()))?;
        let leaf = |ty| Spec::Tensor { ty, device, grad: false };
        let spec = Spec::List(types.into_iter().map(leaf).collect());
        Ok(Some(Traceless { program, spec, template: template.into_any() }))
    }
}

/// Adds the class.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PackageCalls>()
}
