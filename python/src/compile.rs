//! `torsh.compile`: a function with its programs, and the path from Python arguments to the executable.

use crate::errors::{OrRaise, guarded, outside};
use crate::guard::Guards;
use crate::package_call::PackageCalls;
use crate::signature::{Leaves, Spec, Why, fits, fits_tuple};
use floats::{captured_float, convert_float};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple};
use result::{assemble, built};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_frontend::compiled::Program;
use torsh_frontend::mode;
use torsh_frontend::trace::{self, Break};
use torsh_ir::{Error, Loc};

mod explain;
mod floats;
mod gc;
mod lazily;
mod miss;
mod result;

pub use floats::{Captured, take_floats};

/// A program that takes less runs with the GIL held: giving it up and taking it again costs a good part of that.
const SHORT_NS: f64 = 10_000.0;
/// Programs kept per function; the least recently used goes first.
const MAX_ENTRIES: usize = 64;

/// True while a function is being traced on this thread: the value of `x` is then not known.
#[pyfunction]
#[pyo3(signature = (x = None))]
fn is_tracing(x: Option<&Bound<'_, PyAny>>) -> bool {
    let _ = x;
    trace::active() != 0
}

enum Body {
    Program {
        program: Arc<Program>,
        floats: Vec<(Py<PyDict>, Py<PyAny>, Option<f64>)>,
        // The tree of the result, whose leaves are tensors, and the object it was taken from.
        result: Spec,
        template: Py<PyAny>,
        // Which leaves of the result are plain floats, given back as they were.
        constants: Vec<Option<Py<PyAny>>>,
        // Makes the objects of the result, where it has more than tuples, lists and dicts.
        build: Option<Py<PyAny>>,
    },
    Lazy(Break),
}

struct Entry {
    args: Spec,
    kwargs: Spec,
    grad: bool,
    // Where a tensor went that was made without naming a device.
    places: mode::Places,
    guards: Guards,
    body: Body,
    site: Option<Loc>,
    reason: String,
    hits: AtomicU64,
    seconds: f64,
    // Stands for every value of a leaf, or of what the guards looked at.
    wide: bool,
}

/// A function that is traced once per signature and then runs as a program.
#[pyclass(name = "CompiledFunction", module = "torsh", weakref, dict, frozen)]
pub struct CompiledFunction {
    function: Py<PyAny>,
    fullgraph: bool,
    name: String,
    // Replaced as a whole, so that a call walks it without holding the lock.
    entries: Mutex<Arc<Vec<Arc<Entry>>>>,
    // Hits of programs that are gone.
    past_hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    unsettled: AtomicU64,
    warned: AtomicBool,
    warned_storm: AtomicBool,
    // Makes programs without a trace, where it can.
    package: Option<Py<PackageCalls>>,
    // False, as memory is zeroed, in an object whose fields have not been written yet.
    made: bool,
}

/// A program that was made without a trace, the tree of its result and an object of that form.
pub struct Traceless<'py> {
    /// The program.
    pub program: Program,
    /// Fresh tensors, in containers.
    pub spec: Spec,
    /// What the containers are made after.
    pub template: Bound<'py, PyAny>,
}

#[pymethods]
impl CompiledFunction {
    #[new]
    #[pyo3(signature = (function, fullgraph = false, name = None, package = None))]
    fn new(
        function: &Bound<'_, PyAny>,
        fullgraph: bool,
        name: Option<String>,
        package: Option<Py<PackageCalls>>,
    ) -> PyResult<CompiledFunction> {
        if !function.is_callable() {
            return Err(PyTypeError::new_err(format!("torsh.compile: {function} is not callable")));
        }
        let own = function.getattr("__qualname__").and_then(|n| n.extract()).unwrap_or_else(|_| "function".to_string());
        Ok(CompiledFunction {
            function: function.clone().unbind(),
            fullgraph,
            name: name.unwrap_or(own),
            entries: Mutex::default(),
            past_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            warned_storm: AtomicBool::new(false),
            package,
            made: true,
        })
    }

    /// The function as written.
    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.function.clone_ref(py)
    }
    #[getter]
    fn __name__(&self) -> &str {
        &self.name
    }
    fn __repr__(&self) -> String {
        format!("<torsh.compile({})>", self.name)
    }

    fn __get__<'py>(
        slf: &Bound<'py, Self>,
        obj: &Bound<'py, PyAny>,
        _class: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if obj.is_none() {
            return Ok(slf.clone().into_any());
        }
        slf.py().import("types")?.getattr("MethodType")?.call1((slf, obj))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if trace::active() != 0 {
            return self.function.bind(py).call(args, kwargs);
        }
        let (grad, places) = (mode::grad_enabled(), mode::places());
        let entries = self.lock().clone();
        for (i, entry) in entries.iter().enumerate() {
            let mut leaves = Leaves::default();
            if entry.grad != grad
                || entry.places != places
                || !entry.matches(py, args, kwargs, &mut leaves, &mut Why::silent())
            {
                continue;
            }
            // No other thread counts: this one has the GIL.
            entry.hits.store(entry.hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if i == 0 || entry.wide {
                return self.replay(py, entry, args, kwargs, &leaves, None);
            }
            let entry = entry.clone();
            drop(entries);
            self.to_front(&entry);
            return self.replay(py, &entry, args, kwargs, &leaves, None);
        }
        drop(entries);
        self.miss(py, args, kwargs, grad)
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        gc::visit(self, &visit)
    }
    // The function stays: finalizers may call it. No cycle is without another object that can be cleared.
    fn __clear__(&self) {
        self.clear_cache();
    }

    /// Drops every program.
    fn clear_cache(&self) {
        // Dropping runs Python code, which may come back here: the lock is gone by then.
        let old = std::mem::take(&mut *self.lock());
        self.retire(&old);
        drop(old);
    }

    /// Figures, as a dict.
    fn cache_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        let entries = self.lock().clone();
        let hits: u64 = entries.iter().map(|e| e.hits.load(Ordering::Relaxed)).sum();
        d.set_item("hits", hits + self.past_hits.load(Ordering::Relaxed))?;
        d.set_item("misses", self.misses.load(Ordering::Relaxed))?;
        d.set_item("evictions", self.evictions.load(Ordering::Relaxed))?;
        d.set_item("entries", entries.len())?;
        let bytes: usize = entries
            .iter()
            .map(|e| match &e.body {
                Body::Program { program, .. } => program.compiled().map_or(0, |compiled| compiled.bytes),
                Body::Lazy(_) => 0,
            })
            .sum();
        d.set_item("bytes", bytes)?;
        d.set_item("max_entries", MAX_ENTRIES)?;
        Ok(d)
    }

    /// What was compiled and why, as plain data.
    fn explain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let d = PyDict::new(py);
        d.set_item("name", &self.name)?;
        d.set_item("cache", self.cache_info(py)?)?;
        let list = PyList::empty(py);
        let entries = self.lock().clone();
        for entry in entries.iter() {
            list.append(entry.explain(py)?)?;
        }
        d.set_item("programs", list)?;
        py.import("torsh._compile")?.getattr("Explanation")?.call1((d,))
    }
}

impl Entry {
    fn matches(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        leaves: &mut Leaves,
        why: &mut Why,
    ) -> bool {
        let Spec::Tuple(_, specs) = &self.args else { return false };
        if !fits_tuple(specs, args, leaves, why) {
            return false;
        }
        let kwargs_fit = match (kwargs, &self.kwargs) {
            (None, Spec::Dict(items)) if items.is_empty() => true,
            (Some(k), spec) => fits(spec, k.as_any(), leaves, why),
            _ => why.no(|| "keyword arguments are missing".into()),
        };
        if !kwargs_fit {
            return false;
        }
        if let Some(text) = self.guards.broken(py).or_else(|| self.guards.found(py, leaves)) {
            return why.no(|| text);
        }
        match &self.body {
            Body::Lazy(_) => true,
            Body::Program { program, floats, .. } => {
                for (dict, key, fixed) in floats {
                    let now = dict.bind(py).get_item(key.bind(py)).ok().flatten();
                    let now = now.filter(|v| v.is_exact_instance_of::<PyFloat>() || v.is_exact_instance_of::<PyInt>());
                    let now: Option<f64> = now.and_then(|v| v.extract().ok());
                    if now.is_none() || (fixed.is_some() && fixed.map(f64::to_bits) != now.map(f64::to_bits)) {
                        return why.no(|| format!("the captured value {key} changed"));
                    }
                }
                match program.mismatch(leaves) {
                    Some(text) => why.no(|| text.to_string()),
                    None => true,
                }
            }
        }
    }
}

impl CompiledFunction {
    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Vec<Arc<Entry>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Keeps the hits of programs that go.
    fn retire(&self, entries: &[Arc<Entry>]) {
        let hits = entries.iter().map(|e| e.hits.load(Ordering::Relaxed)).sum();
        self.past_hits.fetch_add(hits, Ordering::Relaxed);
    }

    fn to_front(&self, entry: &Arc<Entry>) {
        let mut entries = self.lock();
        if let Some(i) = entries.iter().position(|e| Arc::ptr_eq(e, entry)) {
            Arc::make_mut(&mut entries)[..=i].rotate_right(1);
        }
    }

    fn replay<'py>(
        &self,
        py: Python<'py>,
        entry: &Entry,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        leaves: &Leaves,
        known: Option<&[f64]>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Body::Program { program, floats, result, template, constants, build } = &entry.body else {
            return self.function.bind(py).call(args, kwargs);
        };
        if program.aliases(leaves) {
            return self.function.bind(py).call(args, kwargs);
        }
        let mut captured: SmallVec<[f64; 8]> = SmallVec::new();
        if let Some(known) = known {
            captured.extend_from_slice(known);
        } else {
            for (dict, key, _) in floats {
                captured.push(dict.bind(py).as_any().get_item(key.bind(py))?.extract::<f64>()?);
            }
        }
        // The nodes of a program without a trace have no lines: its errors are those of the line that calls it now, which
        // a call without one has no need to look for.
        let located = |e: Error| match program.site().and_then(|_| Python::attach(crate::source::here)) {
            Some(here) => e.moved_to(here),
            None => e,
        };
        let at_once = if program.cost_ns() < SHORT_NS {
            guarded(|| program.run_at_once(leaves, &captured).map_err(located)).or_raise()?
        } else {
            None
        };
        let returned = match at_once {
            Some(returned) => returned,
            None => outside(py, || program.run(leaves, &captured).map_err(located))?,
        };
        let out = assemble(py, returned, result, template.bind(py), constants, leaves)?;
        built(py, build.as_ref(), out)
    }

    fn keep(&self, entry: Arc<Entry>) {
        let mut guard = self.lock();
        let entries = Arc::make_mut(&mut guard);
        // A signature that runs lazily whatever its values are comes after those that have programs.
        let at = if entry.wide { entries.len() } else { 0 };
        entries.insert(at, entry);
        let evicted = if entries.len() > MAX_ENTRIES { Some(entries.remove(MAX_ENTRIES - at.min(1))) } else { None };
        drop(guard);
        if let Some(evicted) = evicted {
            self.retire(&[evicted]);
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Adds the class and the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<CompiledFunction>()?;
    m.add_function(wrap_pyfunction!(captured_float, m)?)?;
    m.add_function(wrap_pyfunction!(is_tracing, m)?)?;
    m.add_function(wrap_pyfunction!(convert_float, m)?)
}
