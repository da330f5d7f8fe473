//! Small services for the Python package: raw bytes, the table of environment variables, facts of ops.

use crate::convert;
use crate::source;
use crate::tensor::PyTensor;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use torsh_ir::op::{Arity, Vjp};
use torsh_ir::{DType, Op, env};

/// The elements of a tensor, row-major and little-endian.
#[pyfunction]
fn tobytes<'py>(py: Python<'py>, x: &Bound<'py, PyTensor>) -> PyResult<Bound<'py, PyBytes>> {
    source::enter(py);
    convert::with_bytes(py, &x.get().t, "tobytes()", |_, bytes| Ok(PyBytes::new(py, bytes)))
}

/// (name, default, help) of every environment variable that torsh reads.
#[pyfunction]
fn env_table() -> Vec<(&'static str, &'static str, &'static str)> {
    env::VARS.iter().map(|v| (v.name, v.default, v.help)).collect()
}

/// What the op reference and the stubs say about an op.
pub fn describe(op: Op, d: &Bound<'_, PyDict>) -> PyResult<()> {
    let (operands, more) = match op.arity {
        Arity::Fixed(n) => (n, false),
        Arity::AtLeast(n) => (n, true),
    };
    let (gradient, reason) = match op.vjp {
        Vjp::Rule(_) => ("rule", ""),
        Vjp::ViaDecompose => ("decompose", ""),
        Vjp::None(reason) => ("none", reason),
    };
    d.set_item("kind", format!("{:?}", op.kind))?;
    d.set_item("composite", op.decompose.is_some())?;
    d.set_item("operands", operands)?;
    d.set_item("more_operands", more)?;
    d.set_item("attrs", op.attrs.iter().map(|a| a.name).collect::<Vec<_>>())?;
    d.set_item("attr_kinds", op.attrs.iter().map(|a| format!("{:?}", a.kind)).collect::<Vec<_>>())?;
    d.set_item("dtypes", op.dtypes.iter().map(DType::name).collect::<Vec<_>>())?;
    d.set_item("gradient", gradient)?;
    d.set_item("reason", reason)?;
    d.set_item("ulp", op.tolerance.ulp)?;
    d.set_item("scaled_eps", op.tolerance.scaled_eps)
}

/// Adds the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tobytes, m)?)?;
    m.add_function(wrap_pyfunction!(env_table, m)?)
}
