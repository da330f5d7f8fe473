//! Between Python's objects and the tensors of a run.

use crate::signature::{Leaves, Spec, describe, rebuild};
use crate::tensor::{PyTensor, wrap};
use pyo3::prelude::*;
use smallvec::SmallVec;
use torsh_frontend::Tensor;
use torsh_frontend::compiled::{Args, Results, Returned};

/// Builds the Python result of a run.
pub fn assemble<'py>(
    py: Python<'py>,
    returned: Results,
    spec: &Spec,
    template: &Bound<'py, PyAny>,
    constants: &[Option<Py<PyAny>>],
    args: &Leaves,
) -> PyResult<Bound<'py, PyAny>> {
    let mut returned = returned.into_iter();
    let mut first = returned.next();
    if let (Spec::Tensor { .. }, Some(Returned::New(_))) = (spec, &first)
        && let Some(Returned::New(t)) = first.take()
    {
        return Ok(wrap(py, t)?.into_bound(py).into_any());
    }
    let mut returned = first.into_iter().chain(returned);
    let mut made: Vec<(Tensor, Bound<'py, PyAny>)> = Vec::new();
    let mut originals = Leaves::default();
    let mut objects: SmallVec<[Bound<'py, PyAny>; 4]> = SmallVec::with_capacity(constants.len());
    for (i, constant) in constants.iter().enumerate() {
        if let Some(c) = constant {
            objects.push(c.bind(py).clone());
            continue;
        }
        let missing = || pyo3::exceptions::PyRuntimeError::new_err("a result is missing");
        objects.push(match returned.next() {
            Some(Returned::New(t)) => wrap(py, t)?.into_bound(py).into_any(),
            Some(Returned::Arg(leaf)) => args.object(py, leaf).ok_or_else(missing)?.clone(),
            Some(Returned::Handle(t)) => {
                // The function returned this very object.
                if originals.iter().len() == 0 {
                    describe(template, &mut originals, 0)?;
                }
                let object = originals.object(py, i).ok_or_else(missing)?.clone();
                let own = object.cast::<PyTensor>().is_ok_and(|o| o.get().t.same(&t));
                if own {
                    object
                } else if let Some((_, o)) = made.iter().find(|(m, _)| m.same(&t)) {
                    o.clone()
                } else {
                    let o = wrap(py, t.clone())?.into_bound(py).into_any();
                    made.push((t, o.clone()));
                    o
                }
            }
            None => return Err(missing()),
        });
    }
    if let Spec::Tensor { .. } = spec {
        return Ok(objects.remove(0));
    }
    rebuild(spec, template, &mut objects.into_iter())
}

/// What the trace sees of a tensor: it has the attributes that were set on the argument.
pub fn stand_in<'py>(py: Python<'py>, proxy: &Tensor, given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let made = wrap(py, proxy.clone())?.into_bound(py).into_any();
    let own = given.getattr_opt(pyo3::intern!(py, "__dict__"))?;
    if let Some(own) = own
        && own.len()? > 0
    {
        made.setattr(pyo3::intern!(py, "__dict__"), own)?;
    }
    Ok(made)
}

/// The result, of what a program gives for it.
pub fn built<'py>(py: Python<'py>, build: Option<&Py<PyAny>>, out: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match build {
        None => Ok(out),
        Some(build) => build.bind(py).call1((out,)),
    }
}

/// The result of a broken trace: stand-ins of arguments become the arguments themselves.
pub fn unproxied<'py>(
    py: Python<'py>,
    result: Bound<'py, PyAny>,
    spec: &Spec,
    found: &Leaves,
    args: &Leaves,
) -> PyResult<Bound<'py, PyAny>> {
    let mut objects = Vec::with_capacity(found.count());
    for given in found.iter() {
        let original = given.tensor().and_then(|t| {
            args.iter().find(|a| a.tensor().is_some_and(|a| t.is_alias_of(a))).map(|a| a.object(py).clone())
        });
        objects.push(original.unwrap_or_else(|| given.object(py).clone()));
    }
    rebuild(spec, &result, &mut objects.into_iter())
}
