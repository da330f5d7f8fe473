//! What was compiled and why, as plain data.

use super::{Body, Entry};
use crate::errors::OrRaise;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::atomic::Ordering;
use torsh_ir::Error;
use torsh_ir::program::StepOp;

impl Entry {
    pub(super) fn explain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
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
                let Some(compiled) = program.compiled() else {
                    return Err(Error::internal("a program without code is kept for calls")).or_raise();
                };
                let stats = &compiled.exe.program().stats;
                let steps = PyList::empty(py);
                let details = compiled.exe.details();
                for (i, step) in compiled.exe.program().steps.iter().enumerate() {
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
                d.set_item("nodes", program.nodes())?;
                d.set_item("passes", stats.passes.clone())?;
                d.set_item("fusion_notes", stats.fusion_notes.clone())?;
                d.set_item("peak_bytes", compiled.exe.program().peak_bytes)?;
                d.set_item("compile_seconds", compiled.seconds)?;
                d.set_item("codegen_seconds", compiled.exe.codegen_seconds())?;
                d.set_item("donated_inputs", program.donated())?;
                d.set_item("captured_floats", floats.len())?;
                d.set_item("specialised_floats", program.specialised().to_vec())?;
                d.set_item("escaped_tensors", program.escaped())?;
            }
        }
        Ok(d)
    }
}
