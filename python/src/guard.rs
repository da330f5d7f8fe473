//! Guards: what a traced function read from Python and must still find.

use crate::signature::same;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use std::sync::atomic::{AtomicU64, Ordering};

static EPOCH: AtomicU64 = AtomicU64::new(1);

/// The epoch of modules: it moves on whenever a module's attributes change.
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// Moves the epoch on.
#[pyfunction]
fn bump_module_epoch() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
}

/// The epoch now.
#[pyfunction]
fn module_epoch() -> u64 {
    epoch()
}

enum Place {
    // A global: a dict and a name.
    Item(Py<PyDict>, Py<PyString>),
    // A closure cell.
    Cell(Py<PyAny>),
    // An attribute of an object.
    Attr(Py<PyAny>, Py<PyString>),
    // An attribute of a module: looked at only when the epoch has moved on.
    Module(Py<PyAny>, Py<PyString>),
    // The items of a list or set, or the keys and values of a dict, in order.
    Items(Py<PyAny>),
}

// Whether a container still has these items.
fn holds(container: &Bound<'_, PyAny>, items: &Bound<'_, PyAny>) -> bool {
    let Ok(items) = items.cast::<PyTuple>() else { return false };
    if let Ok(list) = container.cast::<PyList>() {
        return list.len() == items.len() && list.iter().zip(items.iter_borrowed()).all(|(now, was)| same(&now, &was));
    }
    if let Ok(dict) = container.cast::<PyDict>() {
        let mut known = items.iter_borrowed();
        let mut as_before = |now: &Bound<'_, PyAny>| known.next().is_some_and(|was| same(now, &was));
        return dict.len() * 2 == items.len() && dict.iter().all(|(k, v)| as_before(&k) && as_before(&v));
    }
    let Ok(found) = container.try_iter() else { return false };
    container.len().is_ok_and(|n| n == items.len())
        && found.zip(items.iter_borrowed()).all(|(now, was)| now.is_ok_and(|now| same(&now, &was)))
}

/// One fact.
pub struct Guard {
    place: Place,
    value: Py<PyAny>,
}

/// The guards of a program.
pub struct Guards {
    list: Vec<Guard>,
    checked: AtomicU64,
}

impl Guards {
    /// No guards.
    pub fn none() -> Guards {
        Guards { list: Vec::new(), checked: AtomicU64::new(0) }
    }

    /// From tuples `(kind, holder, name, value)`, as `_compile.py` collects them.
    pub fn parse(list: &Bound<'_, PyAny>) -> PyResult<Guards> {
        let mut out = Vec::new();
        for item in list.try_iter()? {
            let item = item?.cast_into::<PyTuple>()?;
            let (kind, holder, value) = (item.get_item(0)?, item.get_item(1)?, item.get_item(3)?);
            let name = || -> PyResult<Py<PyString>> { Ok(item.get_item(2)?.cast_into::<PyString>()?.unbind()) };
            let place = match kind.extract::<&str>()? {
                "item" => Place::Item(holder.cast_into::<PyDict>()?.unbind(), name()?),
                "cell" => Place::Cell(holder.unbind()),
                "attr" => Place::Attr(holder.unbind(), name()?),
                "module" => Place::Module(holder.unbind(), name()?),
                "items" => Place::Items(holder.unbind()),
                other => return Err(PyValueError::new_err(format!("unknown guard {other}"))),
            };
            out.push(Guard { place, value: value.unbind() });
        }
        Ok(Guards { list: out, checked: AtomicU64::new(epoch()) })
    }

    /// Number of guards.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The first fact that no longer holds.
    pub fn broken(&self, py: Python<'_>) -> Option<String> {
        let now = epoch();
        let modules = self.checked.load(Ordering::Relaxed) != now;
        for guard in &self.list {
            let found = match &guard.place {
                Place::Item(dict, name) => dict.bind(py).get_item(name.bind(py)).ok().flatten(),
                Place::Cell(cell) => cell.bind(py).getattr(pyo3::intern!(py, "cell_contents")).ok(),
                Place::Attr(obj, name) => obj.bind(py).getattr(name.bind(py)).ok(),
                Place::Module(obj, name) if modules => obj.bind(py).getattr(name.bind(py)).ok(),
                Place::Module(..) => continue,
                Place::Items(container) => {
                    if holds(container.bind(py), guard.value.bind(py)) {
                        continue;
                    }
                    let class = container.bind(py).get_type().name().map(|n| n.to_string()).unwrap_or_default();
                    return Some(format!("the items of a {class} changed"));
                }
            };
            let value = guard.value.bind(py);
            if !found.as_ref().is_some_and(|f| same(f, value)) {
                let name = match &guard.place {
                    Place::Item(_, n) => format!("global {n}"),
                    Place::Cell(_) => "a closure variable".to_string(),
                    Place::Items(_) => "the items of a container".to_string(),
                    Place::Attr(o, n) | Place::Module(o, n) => {
                        format!("{}.{n}", o.bind(py).get_type().name().map(|n| n.to_string()).unwrap_or_default())
                    }
                };
                let show = |v: &Bound<'_, PyAny>| {
                    if crate::functions::is_plain(v) { v.to_string() } else { format!("a {}", v.get_type()) }
                };
                let now = found.as_ref().map_or("gone".to_string(), show);
                return Some(format!("{name} was {}, now is {now}", show(value)));
            }
        }
        self.checked.store(now, Ordering::Relaxed);
        None
    }
}

/// Adds the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(bump_module_epoch, m)?)?;
    m.add_function(wrap_pyfunction!(module_epoch, m)?)
}
