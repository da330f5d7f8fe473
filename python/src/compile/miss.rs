//! A call that no program fits: the function is traced, and what comes of it is kept.

use super::floats::take_floats;
use super::result::{built, stand_in, unproxied};
use super::{Body, CompiledFunction, Entry};
use crate::errors::{OrRaise, guarded, outside};
use crate::guard::Guards;
use crate::signature::{Given, Leaves, Spec, Why, describe, rebuild};
use crate::source;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use torsh_frontend::compiled::{Ended, finish};
use torsh_frontend::trace::{self, Break};
use torsh_frontend::{Tensor, mode};

/// Traces of one signature that may leave tensors behind before that is taken as the function's way.
const MAX_UNSETTLED: u64 = 3;

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

impl CompiledFunction {
    pub(super) fn reason(
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

    pub(super) fn miss<'py>(
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
}
