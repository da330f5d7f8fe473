//! `torsh.compile`: a function with its programs, and the path from Python arguments to the executable.

use crate::errors::{OrRaise, guarded, outside};
use crate::guard::Guards;
use crate::package_call::PackageCalls;
use crate::signature::{Given, Leaves, Spec, Why, describe, fits, fits_tuple, rebuild};
use crate::tensor::{PyTensor, wrap};
use crate::{convert, source};
use pyo3::exceptions::{PyTypeError, PyUserWarning};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple};
use result::{assemble, built, stand_in, unproxied};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_frontend::compiled::{Ended, Program, finish};
use torsh_frontend::trace::{self, Break};
use torsh_frontend::{Tensor, mode};
use torsh_ir::Loc;
use torsh_ir::exec::Device;
use torsh_ir::program::StepOp;

mod gc;
mod result;

/// A program that takes less runs with the GIL held: giving it up and taking it again costs a good part of that.
const SHORT_NS: f64 = 10_000.0;
/// Programs kept per function; the least recently used goes first.
const MAX_ENTRIES: usize = 64;
/// Traces of one signature that may leave tensors behind before that is taken as the function's way.
const MAX_UNSETTLED: u64 = 3;
/// Programs that differ in one plain value or object before its further values run lazily.
const MAX_ALIKE: usize = 8;
/// Programs of one signature, for all that guards saw, before what is new runs lazily.
const MAX_SAME: usize = 16;

/// A float that a trace reads from a dict at each call.
pub struct Captured {
    /// The dict.
    pub dict: Py<PyDict>,
    /// Its key.
    pub key: Py<PyAny>,
    /// The value at the trace.
    pub value: f64,
    tensor: Py<PyTensor>,
}

thread_local! {
    static FLOATS: RefCell<Vec<Captured>> = const { RefCell::new(Vec::new()) };
}

/// The captured floats since they were last taken.
pub fn take_floats() -> Vec<Captured> {
    FLOATS.with(|f| std::mem::take(&mut *f.borrow_mut()))
}

/// `dict[key]` as a tensor: in a trace, an input that is read again at each call. What is not a number is
/// returned as it is.
#[pyfunction]
fn captured_float<'py>(dict: &Bound<'py, PyDict>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = dict.py();
    let value = dict.as_any().get_item(key)?;
    if !(value.is_exact_instance_of::<PyFloat>() || value.is_exact_instance_of::<PyInt>()) {
        return Ok(value);
    }
    let number: f64 = value.extract()?;
    if trace::active() == 0 {
        return Ok(wrap(py, trace::captured_float(0, number).or_raise()?)?.into_bound(py).into_any());
    }
    let known = FLOATS.with(|f| {
        let list = f.borrow();
        let found = list.iter().find(|c| c.dict.is(dict) && c.key.bind(py).eq(key).unwrap_or(false));
        found.map(|c| c.tensor.clone_ref(py)).ok_or(list.len())
    });
    let k = match known {
        Ok(tensor) => return Ok(tensor.into_bound(py).into_any()),
        Err(k) => k,
    };
    let tensor = wrap(py, trace::captured_float(k, number).or_raise()?)?;
    let captured = Captured {
        dict: dict.clone().unbind(),
        key: key.clone().unbind(),
        value: number,
        tensor: tensor.clone_ref(py),
    };
    FLOATS.with(|f| f.borrow_mut().push(captured));
    Ok(tensor.into_bound(py).into_any())
}

/// True while a function is being traced on this thread: the value of `x` is then not known.
#[pyfunction]
#[pyo3(signature = (x = None))]
fn is_tracing(x: Option<&Bound<'_, PyAny>>) -> bool {
    let _ = x;
    trace::active() != 0
}

/// What a trace gave back, what makes the result of that, the tree of it with its leaves, what the trace read from
/// Python, and why that is not all.
struct Traced<'py> {
    result: Bound<'py, PyAny>,
    build: Option<Py<PyAny>>,
    spec: Spec,
    leaves: Leaves,
    guards: Guards,
    refused: Option<String>,
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
            .map(|e| if let Body::Program { program, .. } = &e.body { program.compiled().bytes } else { 0 })
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

    fn explain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        d.set_item("signature", format!("args={} kwargs={}", self.args.text(py), self.kwargs.text(py)))?;
        d.set_item("site", self.site.as_ref().map(ToString::to_string))?;
        d.set_item("reason", &self.reason)?;
        d.set_item("hits", self.hits.load(Ordering::Relaxed))?;
        d.set_item("guards", self.guards.len())?;
        d.set_item("trace_seconds", self.seconds)?;
        match &self.body {
            Body::Lazy(b) => {
                let line = b.loc.as_ref().map(ToString::to_string);
                d.set_item("graph_break", (&b.reason, line))?;
            }
            Body::Program { program, floats, .. } => {
                d.set_item("graph_break", py.None())?;
                d.set_item("device", program.device().to_string())?;
                let stats = &program.compiled().exe.program().stats;
                let steps = PyList::empty(py);
                let details = program.compiled().exe.details();
                for (i, step) in program.compiled().exe.program().steps.iter().enumerate() {
                    let s = PyDict::new(py);
                    if let Some(d) = details.get(i) {
                        s.set_item("schedule", d.schedule)?;
                        s.set_item("reason", d.reason)?;
                        s.set_item("threads", d.threads)?;
                        s.set_item("unit", d.unit)?;
                        s.set_item("together", d.together)?;
                        s.set_item("cost_ns", d.cost_ns)?;
                    }
                    if let Some((bytes, flops)) = stats.steps.get(i) {
                        s.set_item("bytes", bytes)?;
                        s.set_item("flops", flops)?;
                    }
                    let kind = match &step.op {
                        StepOp::Kernel { .. } => "kernel",
                        StepOp::Dot(_) => "dot",
                        StepOp::Lib { .. } => "library",
                    };
                    s.set_item("kind", kind)?;
                    s.set_item("ops", &step.ops)?;
                    s.set_item("location", step.loc.as_ref().or(program.site()).map(ToString::to_string))?;
                    steps.append(s)?;
                }
                d.set_item("steps", steps)?;
                d.set_item("kernels", stats.kernels)?;
                d.set_item("kernels_unfused", stats.kernels_unfused)?;
                d.set_item("bytes_moved", stats.bytes_moved)?;
                d.set_item("flops", stats.flops)?;
                d.set_item("nodes", program.graph().len())?;
                d.set_item("passes", stats.passes.clone())?;
                d.set_item("fusion_notes", stats.fusion_notes.clone())?;
                d.set_item("peak_bytes", program.compiled().exe.program().peak_bytes)?;
                d.set_item("compile_seconds", program.compiled().seconds)?;
                d.set_item("codegen_seconds", program.compiled().exe.codegen_seconds())?;
                d.set_item("donated_inputs", program.donated())?;
                d.set_item("captured_floats", floats.len())?;
                d.set_item("specialised_floats", program.specialised().to_vec())?;
                d.set_item("escaped_tensors", program.escaped())?;
            }
        }
        Ok(d)
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
        let at_once = if program.cost_ns() < SHORT_NS {
            guarded(|| program.run_at_once(leaves, &captured)).or_raise()?
        } else {
            None
        };
        let returned = match at_once {
            Some(returned) => returned,
            None => outside(py, || program.run(leaves, &captured))?,
        };
        let out = assemble(py, returned, result, template.bind(py), constants, leaves)?;
        built(py, build.as_ref(), out)
    }

    fn reason(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        grad: bool,
    ) -> String {
        let Some(entry) = self.lock().first().cloned() else { return "first call".into() };
        if entry.grad != grad {
            return format!("gradients are now {}", if grad { "recorded" } else { "not recorded" });
        }
        if entry.places != mode::places() {
            return format!("the default device is now {}", mode::places().device);
        }
        let mut why = Why::asked();
        entry.matches(py, args, kwargs, &mut Leaves::default(), &mut why);
        why.text()
    }

    fn miss<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        grad: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        source::enter(py);
        let (site, places) = (mode::loc(), mode::places());
        let reason = self.reason(py, args, kwargs, grad);
        let start = std::time::Instant::now();
        let empty = PyDict::new(py);
        let kwargs = kwargs.unwrap_or(&empty);
        let mut leaves = Leaves::default();
        let mut args_spec = describe(args.as_any(), &mut leaves, 0)?;
        let mut kwargs_spec = describe(kwargs.as_any(), &mut leaves, 0)?;
        if let Some(what) = self.storm(py, &mut args_spec, &mut kwargs_spec, grad) {
            self.warn_storm(py, what, site.as_ref())?;
            self.keep(Arc::new(Entry {
                args: args_spec,
                kwargs: kwargs_spec,
                grad,
                places,
                guards: Guards::none(),
                body: Body::Lazy(Break { reason: what.into(), loc: site.clone(), divided: false }),
                site,
                reason,
                hits: AtomicU64::new(0),
                seconds: 0.0,
                wide: true,
            }));
            return self.function.bind(py).call(args, Some(kwargs));
        }
        if let Some(made) = self.package.as_ref().map(|p| p.get().program(py, &leaves)).transpose()?.flatten() {
            let constants = made.program.result_types().iter().map(|_| None).collect();
            let body = Body::Program {
                program: Arc::new(made.program),
                floats: Vec::new(),
                result: made.spec,
                template: made.template.unbind(),
                constants,
                build: None,
            };
            let entry = Arc::new(Entry {
                args: args_spec,
                kwargs: kwargs_spec,
                grad,
                places,
                guards: Guards::none(),
                body,
                site,
                reason,
                hits: AtomicU64::new(0),
                seconds: start.elapsed().as_secs_f64(),
                wide: false,
            });
            let out = self.replay(py, &entry, args, Some(kwargs), &leaves, None)?;
            self.keep(entry);
            return Ok(out);
        }
        let proxies = guarded(|| trace::start(&leaves.values(), self.fullgraph)).or_raise()?;
        drop(take_floats());
        let traced = self.traced(py, args, kwargs, &args_spec, &kwargs_spec, &leaves, &proxies);
        let floats = take_floats();
        let Traced { result, build, spec, leaves: tensors, guards, refused } = match traced {
            Ok(t) => t,
            Err(e) => {
                trace::abort();
                mode::set_grad_enabled(grad);
                return Err(e);
            }
        };
        let handles: Vec<Tensor> = tensors.iter().filter_map(|l| l.tensor().cloned()).collect();
        let ended = outside(py, || finish(&handles));
        let ended = match ended {
            Ok(ended) => ended,
            Err(e) => {
                trace::abort();
                return Err(e);
            }
        };
        drop((handles, proxies));
        let seconds = start.elapsed().as_secs_f64();
        let program = match ended {
            Ended::Broken(b) => {
                self.warn(py, &b)?;
                let entry = Entry {
                    args: args_spec,
                    kwargs: kwargs_spec,
                    grad,
                    places,
                    guards,
                    body: Body::Lazy(b),
                    site,
                    reason,
                    hits: AtomicU64::new(0),
                    seconds,
                    wide: false,
                };
                self.keep(Arc::new(entry));
                return built(py, build.as_ref(), unproxied(py, result, &spec, &tensors, &leaves)?);
            }
            Ended::Program(program) => Arc::new(*program),
        };
        if program.aliases(&leaves) {
            // Rare, and a program would not see the overlap.
            return self.function.bind(py).call(args, Some(kwargs));
        }
        let mut next = 0;
        args_spec.specialise(program.specialised(), &leaves, &mut next);
        kwargs_spec.specialise(program.specialised(), &leaves, &mut next);
        let fixed = program.specialised_on_captured();
        let constants =
            tensors.iter().map(|l| if let Given::Float(_, o) = l { Some(o.clone_ref(py)) } else { None }).collect();
        // Tensors left behind in Python objects mean that the next call may take another path.
        let settled = program.escaped() == 0 || self.unsettled.fetch_add(1, Ordering::Relaxed) >= MAX_UNSETTLED;
        let body = Body::Program {
            program,
            floats: floats
                .iter()
                .map(|c| (c.dict.clone_ref(py), c.key.clone_ref(py), fixed.then_some(c.value)))
                .collect(),
            result: spec,
            template: result.unbind(),
            constants,
            build,
        };
        // Those that the trace read: the function may have changed them after that.
        let known: SmallVec<[f64; 8]> = floats.iter().map(|c| c.value).collect();
        drop((floats, tensors));
        let entry = Arc::new(Entry {
            args: args_spec,
            kwargs: kwargs_spec,
            grad,
            places,
            guards,
            body,
            site,
            reason,
            hits: AtomicU64::new(0),
            seconds,
            wide: false,
        });
        let out = self.replay(py, &entry, args, Some(kwargs), &leaves, Some(&known))?;
        match refused {
            // The program holds for this call: what it read has not changed since.
            Some(what) => self.run_lazily(py, entry, &what)?,
            None if settled => self.keep(entry),
            None => {}
        }
        Ok(out)
    }

    #[allow(clippy::too_many_arguments, reason = "the two halves of a call with their signatures")]
    fn traced<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        args_spec: &Spec,
        kwargs_spec: &Spec,
        leaves: &Leaves,
        proxies: &[Option<Tensor>],
    ) -> PyResult<Traced<'py>> {
        let mut stand_ins = Vec::with_capacity(proxies.len());
        for (proxy, given) in proxies.iter().zip(leaves.iter()) {
            stand_ins.push(match proxy {
                Some(t) => stand_in(py, t, given.object(py))?,
                None => given.object(py).clone(),
            });
        }
        let mut stand_ins = stand_ins.into_iter();
        let own = (args, kwargs);
        let args = rebuild(args_spec, args.as_any(), &mut stand_ins)?;
        let kwargs = rebuild(kwargs_spec, kwargs.as_any(), &mut stand_ins)?;
        let helper = py.import("torsh._guards")?;
        let found = helper.call_method1("run_traced", (self.function.bind(py), args, kwargs, own))?;
        let result = found.get_item(0)?;
        let guards = Guards::parse(&found.get_item(1)?)?;
        let refused: Option<String> = found.get_item(2)?.extract()?;
        let build: Option<Py<PyAny>> = found.get_item(3)?.extract()?;
        if let Some(what) = refused.as_ref().filter(|_| self.fullgraph) {
            let e = torsh_ir::Error::trace(format!("the function {what}"));
            return Err(crate::errors::raise(py, &e.with_loc(mode::loc())));
        }
        let mut leaves = Leaves::default();
        let spec = describe(&result, &mut leaves, 0)?;
        Ok(Traced { result, build, spec, leaves, guards, refused })
    }

    // Later calls of this signature run as lazy code: nobody could tell when the program is out of date.
    fn run_lazily(&self, py: Python<'_>, entry: Arc<Entry>, what: &str) -> PyResult<()> {
        let Some(entry) = Arc::into_inner(entry) else { return Ok(()) };
        let reason = format!("the function {what}");
        let way_out = if what.starts_with("returns") {
            "Return tensors in containers or in objects of plain classes."
        } else {
            "Pass what it needs as an argument, or keep it in tensors."
        };
        let text = format!("torsh.compile({}): {reason}; it runs without compilation. {way_out}", self.name);
        let body = Body::Lazy(Break { reason, loc: entry.site.clone(), divided: false });
        self.keep(Arc::new(Entry { body, guards: Guards::none(), ..entry }));
        if torsh_ir::env::log().notes {
            torsh_ir::env::say(&text);
        }
        if self.warned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
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

    // Whether so many programs differ from this signature only in one plain value or object, or only in what
    // their guards saw, that another one is no use. The signature is then widened to stand for all of them.
    fn storm(&self, py: Python<'_>, args: &mut Spec, kwargs: &mut Spec, grad: bool) -> Option<&'static str> {
        if self.fullgraph {
            return None;
        }
        let entries = self.lock().clone();
        let (mut places, mut same) = (std::collections::HashMap::<usize, usize>::new(), 0);
        for entry in entries.iter().filter(|e| {
            e.grad == grad && e.places == mode::places() && !e.wide && matches!(e.body, Body::Program { .. })
        }) {
            let (mut next, mut found) = (0, Vec::new());
            let alike = entry.args.differences(args, py, &mut next, &mut found)
                && entry.kwargs.differences(kwargs, py, &mut next, &mut found);
            match found[..] {
                [] if alike => same += 1,
                [place] if alike => *places.entry(place).or_default() += 1,
                _ => {}
            }
        }
        if same >= MAX_SAME {
            return Some("a value that the function reads changes at each call");
        }
        let (&place, _) = places.iter().find(|&(_, &n)| n >= MAX_ALIKE)?;
        let mut next = 0;
        args.relax(place, &mut next);
        kwargs.relax(place, &mut next);
        Some("an argument that is no tensor and no float changes at each call")
    }

    fn warn_storm(&self, py: Python<'_>, what: &str, site: Option<&Loc>) -> PyResult<()> {
        if self.warned_storm.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let at = site.map(|l| format!(", as at {l},")).unwrap_or_default();
        let text = format!(
            "torsh.compile({}): {what}{at} and would need a program each time; new values run without compilation. Pass a \
             tensor or a float instead, or call torsh.compile once per value.",
            self.name
        );
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
    }

    fn warn(&self, py: Python<'_>, b: &Break) -> PyResult<()> {
        if self.warned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let at = b.loc.as_ref().map(|l| format!(" at {l}")).unwrap_or_default();
        let text = if b.divided {
            format!(
                "torsh.compile({}): {}{at}, and a program runs on one device; the function runs piecewise for this \
                 signature. Move tensors before the call, or use fullgraph=True to make this an error.",
                self.name, b.reason
            )
        } else {
            format!(
                "torsh.compile({}): {} needs a value{at}; the function runs piecewise for this signature. Use \
                 torsh.where to keep the choice in the graph, or fullgraph=True to make this an error.",
                self.name, b.reason
            )
        };
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>().into_any(), &text, 2)
    }
}

/// Adds the class and the functions.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<CompiledFunction>()?;
    m.add_function(wrap_pyfunction!(captured_float, m)?)?;
    m.add_function(wrap_pyfunction!(is_tracing, m)?)?;
    m.add_function(wrap_pyfunction!(convert_float, m)?)
}

/// A 0-d tensor that promotes like the Python float it holds.
#[pyfunction]
fn convert_float(py: Python<'_>, value: f64) -> PyResult<Py<PyTensor>> {
    let t = convert::upload(torsh_ir::Type::scalar(torsh_ir::DType::F64), &value.to_le_bytes(), Device::Cpu)?;
    wrap(py, Tensor::new_weak(t.node()))
}
