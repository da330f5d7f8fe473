//! Bodies of the operators of `torsh.Tensor`, with promotion and broadcasting.

use crate::convert;
use crate::errors::{OrRaise, guarded};
use crate::source;
use crate::tensor::{PyTensor, wrap};
use pyo3::prelude::*;
use torsh_frontend::{Arg, Tensor, ops};

/// What an operator returns: a tensor or NotImplemented.
pub type Any = Py<PyAny>;

/// A binary op on arguments that are known.
pub fn apply(py: Python<'_>, name: &str, a: &Arg, b: &Arg) -> PyResult<Tensor> {
    let t = guarded(|| ops::binary(name, a, b)).or_raise()?;
    convert::settle(py)?;
    Ok(t)
}

/// Body of an operator.
pub fn forward(slf: &PyTensor, py: Python<'_>, name: &str, other: &Bound<'_, PyAny>) -> PyResult<Any> {
    let Some(other) = convert::arg(other)? else { return Ok(py.NotImplemented()) };
    source::enter(py);
    Ok(wrap(py, apply(py, name, &Arg::Tensor(slf.t.clone()), &other)?)?.into_any())
}

/// Body of an operator.
pub fn reflected(slf: &PyTensor, py: Python<'_>, name: &str, other: &Bound<'_, PyAny>) -> PyResult<Any> {
    let Some(other) = convert::arg(other)? else { return Ok(py.NotImplemented()) };
    source::enter(py);
    Ok(wrap(py, apply(py, name, &other, &Arg::Tensor(slf.t.clone()))?)?.into_any())
}

/// Body of an operator.
pub fn inplace(slf: &PyTensor, py: Python<'_>, name: &str, other: &Bound<'_, PyAny>) -> PyResult<()> {
    let other = convert::need_arg(other, name)?;
    source::enter(py);
    guarded(|| ops::binary_inplace(name, &slf.t, &other)).or_raise()?;
    convert::settle(py)?;
    Ok(())
}

/// Body of an operator.
pub fn unary(slf: &PyTensor, py: Python<'_>, name: &str) -> PyResult<PyTensor> {
    source::enter(py);
    let t = guarded(|| ops::unary(name, &slf.t)).or_raise()?;
    convert::settle(py)?;
    Ok(t.into())
}
