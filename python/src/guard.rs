//! Guards: what a traced function read from Python and must still find.

use crate::signature::{Leaves, same};
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
    // An item of a dict: a global, or an attribute in an object's own dict.
    Item(Py<PyDict>, Py<PyAny>),
    // A closure cell.
    Cell(Py<PyAny>),
    // An attribute as Python finds it.
    Attr(Py<PyAny>, Py<PyString>),
    // The function of a class method, which is bound anew at each look.
    Bound(Py<PyAny>, Py<PyString>),
    // The class of an object.
    Class(Py<PyAny>),
    // The items of a list or set, or the keys and values of a dict, in order.
    Items(Py<PyAny>),
    // What a call of this object gives.
    Call(Py<PyAny>),
}

impl Place {
    fn find<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Place::Item(dict, key) => dict.bind(py).get_item(key.bind(py)).ok().flatten(),
            Place::Cell(cell) => cell.bind(py).getattr(pyo3::intern!(py, "cell_contents")).ok(),
            Place::Attr(obj, name) => obj.bind(py).getattr(name.bind(py)).ok(),
            Place::Bound(obj, name) => {
                obj.bind(py).getattr(name.bind(py)).and_then(|m| m.getattr(pyo3::intern!(py, "__func__"))).ok()
            }
            Place::Class(obj) => Some(obj.bind(py).get_type().into_any()),
            Place::Items(container) => Some(container.bind(py).clone()),
            Place::Call(call) => call.bind(py).call0().ok(),
        }
    }

    fn visit(&self, visit: &pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        match self {
            Place::Item(dict, key) => {
                visit.call(dict)?;
                visit.call(key)
            }
            Place::Attr(obj, name) | Place::Bound(obj, name) => {
                visit.call(obj)?;
                visit.call(name)
            }
            Place::Cell(obj) | Place::Class(obj) | Place::Items(obj) | Place::Call(obj) => visit.call(obj),
        }
    }

    fn name(&self, py: Python<'_>) -> String {
        let class = |o: &Py<PyAny>| o.bind(py).get_type().name().map(|n| n.to_string()).unwrap_or_default();
        match self {
            Place::Item(_, key) => format!("global or attribute {}", key.bind(py)),
            Place::Cell(_) => "a closure variable".to_string(),
            Place::Attr(o, n) | Place::Bound(o, n) => format!("{}.{n}", class(o)),
            Place::Class(_) => "the class of an object".to_string(),
            Place::Items(o) => format!("the items of a {}", class(o)),
            Place::Call(o) => format!("what a {} holds", class(o)),
        }
    }
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
    // What was there; `None` where nothing was.
    value: Option<Py<PyAny>>,
}

impl Guard {
    fn holds(&self, py: Python<'_>) -> bool {
        let value = self.value.as_ref().map(|v| v.bind(py));
        match (&self.place, value) {
            (Place::Items(container), Some(items)) => holds(container.bind(py), items),
            (Place::Class(obj), Some(class)) => obj.bind(py).get_type().is(class),
            (place, value) => match (place.find(py), value) {
                (Some(now), Some(was)) => same(&now, was),
                (now, was) => now.is_none() && was.is_none(),
            },
        }
    }

    fn text(&self, py: Python<'_>) -> String {
        let name = self.place.name(py);
        if matches!(self.place, Place::Items(_)) {
            return format!("{name} changed");
        }
        let show = |v: &Bound<'_, PyAny>| {
            if crate::functions::is_plain(v) { v.to_string() } else { format!("a {}", v.get_type()) }
        };
        let was = self.value.as_ref().map_or("absent".to_string(), |v| show(v.bind(py)));
        let now = self.place.find(py).as_ref().map_or("gone".to_string(), show);
        format!("{name} was {was}, now is {now}")
    }
}

/// The guards of a program.
pub struct Guards {
    list: Vec<Guard>,
    // Looked at only when the epoch of modules has moved on.
    of_modules: Vec<Guard>,
    checked: AtomicU64,
    // Attributes that the trace did not find on tensors among the arguments.
    lacked: Vec<Py<PyString>>,
}

impl Guards {
    /// No guards.
    pub fn none() -> Guards {
        Guards { list: Vec::new(), of_modules: Vec::new(), checked: AtomicU64::new(0), lacked: Vec::new() }
    }

    /// From tuples `(kind, holder, name, value)`, as `_guards.py` collects them. A kind that begins with "no" has no
    /// value; one that ends with "of module" is looked at only when the epoch of modules has moved on. The first call
    /// looks at all: the trace itself may have changed what it read.
    pub fn parse(found: &Bound<'_, PyAny>) -> PyResult<Guards> {
        let (mut list, mut of_modules, mut lacked) = (Vec::new(), Vec::new(), Vec::new());
        for item in found.try_iter()? {
            let item = item?.cast_into::<PyTuple>()?;
            let (kind, holder, value) = (item.get_item(0)?, item.get_item(1)?, item.get_item(3)?);
            let name = || -> PyResult<Py<PyString>> { Ok(item.get_item(2)?.cast_into::<PyString>()?.unbind()) };
            let whole = kind.extract::<String>()?;
            let kind = whole.strip_suffix(" of module").unwrap_or(&whole);
            let of_module = kind.len() < whole.len();
            let (kind, absent) = kind.strip_prefix("no ").map_or((kind, false), |kind| (kind, true));
            let place = match kind {
                "lacked" => {
                    lacked.push(name()?);
                    continue;
                }
                "item" => Place::Item(holder.cast_into::<PyDict>()?.unbind(), item.get_item(2)?.unbind()),
                "cell" => Place::Cell(holder.unbind()),
                "attr" => Place::Attr(holder.unbind(), name()?),
                "bound" => Place::Bound(holder.unbind(), name()?),
                "class" => Place::Class(holder.unbind()),
                "items" => Place::Items(holder.unbind()),
                "call" => Place::Call(holder.unbind()),
                other => return Err(PyValueError::new_err(format!("unknown guard {other}"))),
            };
            let guard = Guard { place, value: (!absent).then(|| value.unbind()) };
            if of_module { of_modules.push(guard) } else { list.push(guard) }
        }
        Ok(Guards { list, of_modules, checked: AtomicU64::new(0), lacked })
    }

    /// Shows the cycle collector what they hold.
    pub fn visit(&self, visit: &pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        self.list.iter().chain(&self.of_modules).try_for_each(|guard| {
            guard.place.visit(visit)?;
            visit.call(&guard.value)
        })
    }

    /// Number of guards.
    pub fn len(&self) -> usize {
        self.list.len() + self.of_modules.len() + self.lacked.len()
    }

    /// Says which attribute a tensor among the arguments has now that none had in the trace.
    pub fn found(&self, py: Python<'_>, leaves: &Leaves) -> Option<String> {
        let has = |name: &Py<PyString>| {
            leaves.iter().any(|l| l.tensor().is_some() && l.object(py).hasattr(name.bind(py)).unwrap_or(true))
        };
        let name = self.lacked.iter().find(|name| has(name))?;
        Some(format!("a tensor argument now has the attribute {name}"))
    }

    /// The first fact that no longer holds.
    pub fn broken(&self, py: Python<'_>) -> Option<String> {
        let now = epoch();
        for guard in &self.list {
            if !guard.holds(py) {
                return Some(guard.text(py));
            }
        }
        if self.checked.load(Ordering::Relaxed) == now {
            return None;
        }
        for guard in &self.of_modules {
            if !guard.holds(py) {
                return Some(guard.text(py));
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
