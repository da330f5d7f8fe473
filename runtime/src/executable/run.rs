//! One run: its steps on bound memory.

use super::sizing::{Sizing, Spread, attention_scratch};
use super::{Action, CpuExecutable};
use crate::bind::{Memory, Spans};
use crate::lib_calls::{self, Epilogue, Means, PackKey, Par, Prologue as MakesRows};
use crate::memory::Loan;
use crate::sys::call::{KernelFn, Part, Span, View, reads, views};
use crate::sys::slices::elements_mut;
use crate::units::{OnRows, Prologue, Unit};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use torsh_ir::exec::BufferRef;
use torsh_ir::program::{BufId, DotStep, LibCall};
use torsh_ir::shape::Type;
use torsh_ir::{Error, Result};

/// What one run works with.
pub(super) struct Run<'a> {
    pub(super) exe: &'a CpuExecutable,
    pub(super) inputs: &'a [BufferRef],
    pub(super) memory: &'a Memory,
    /// Whether this run goes through large operands from their ends on.
    pub(super) back: bool,
    /// Memory of every buffer of the program.
    pub(super) spans: &'a [Span],
    pub(super) scratch: Span,
    pub(super) sizing: &'a Sizing,
    /// Scratch memory of products.
    pub(super) packed: Mutex<Option<Loan>>,
}

fn overlap() -> Error {
    Error::internal("a library call whose result overlaps an operand")
}

impl Run<'_> {
    fn span(&self, buf: BufId) -> Result<Span> {
        let found = self.spans.get(buf.0 as usize).copied();
        found.ok_or_else(|| Error::internal(format!("no buffer b{}", buf.0)))
    }

    pub(super) fn unit(&self, spread: &Spread) -> Result<()> {
        match &spread.unit {
            Unit::Step(step) => match &self.exe.actions[*step] {
                Action::Kernel { .. } => self.kernels(spread),
                Action::Dot(dot, key) => self.dot(dot, key.as_deref(), (None, None)),
                Action::Lib { call, args, out } => self.lib(call, args, *out),
            },
            Unit::Region(_) => self.kernels(spread),
            Unit::Chain { front, dot, kernels } => match &self.exe.actions[*dot] {
                Action::Dot(dot, key) => self.chain(spread, front.as_ref(), (dot, key.as_deref()), kernels),
                _ => Err(Error::internal("a chain without a product")),
            },
        }
    }

    /// Lends this run's threads to a library call.
    fn with_threads<R>(&self, call: impl FnOnce(&Par<'_>) -> R) -> R {
        let threads = &self.exe.shared.threads;
        let run = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
            threads.for_each(self.sizing.threads, parts, |_, part| work(part));
        };
        call(&Par { threads: self.sizing.threads, run: &run })
    }

    /// A product. The hooks make the rows of its left operand, and are called with rows of its result that are complete.
    fn dot(
        &self,
        dot: &DotStep,
        key: Option<&PackKey>,
        hooks: (Option<&MakesRows<'_>>, Option<&Epilogue<'_>>),
    ) -> Result<()> {
        let dtype = self.exe.program.buffers[dot.out.0 as usize].ty.dtype;
        // A left operand that is made is not where it would be.
        let lhs = if hooks.0.is_some() { Span::default() } else { self.span(dot.lhs.buf)? };
        let args = [lhs, self.span(dot.rhs.buf)?];
        let out = self.span(dot.out)?;
        let [lhs, rhs] = reads(&args, &out).ok_or_else(overlap)?;
        let (level, pool, back) = (self.exe.shared.product_level, &self.exe.shared.pool, self.back);
        let source =
            key.and_then(|key| Some((key, self.exe.binding.unchanged(dot.rhs.buf, self.inputs, self.memory)?)));
        self.with_threads(|par| {
            let panels = match source {
                Some((key, buffer)) => {
                    buffer.packed().panels(key, pool, |to| lib_calls::pack(key, rhs, level, to, par))?
                }
                None => None,
            };
            let packed = panels.as_ref().map(|panels| panels.bytes());
            let mut memory = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
            let scratch: &mut [u8] = memory.as_mut().map_or(&mut [], |p| p.bytes_mut(self.sizing.packed_bytes));
            let means = &mut Means { level, scratch, par, packed, back };
            lib_calls::dot(dot, dtype, (lhs, rhs), &out, hooks, means)
        })
    }

    fn lib(&self, call: &LibCall, args: &[BufId], out: BufId) -> Result<()> {
        let ty = |b: BufId| &self.exe.program.buffers[b.0 as usize].ty;
        let types: Vec<&Type> = args.iter().map(|&a| ty(a)).collect();
        let spans = args.iter().map(|&a| self.span(a)).collect::<Result<Vec<Span>>>()?;
        let mut to = self.span(out)?;
        let (seen, bytes) = views(&spans, &mut to).ok_or_else(overlap)?;
        let args: Vec<lib_calls::Arg<'_>> = seen
            .into_iter()
            .map(|v| match v {
                View::Bytes(b) => lib_calls::Arg::Bytes(b),
                View::Out => lib_calls::Arg::Out,
            })
            .collect();
        if call.attend().is_some() {
            let (count, each) = attention_scratch(call, self.sizing.threads);
            let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
            let memory: &mut [u8] = packed.as_mut().map_or(&mut [], |p| p.bytes_mut(count.saturating_mul(each)));
            let slices = memory.chunks_exact_mut(each.max(1));
            let tiles = Mutex::new(slices.map(elements_mut::<f32>).collect::<Result<Vec<&mut [f32]>>>()?);
            let level = self.exe.shared.level;
            return self.with_threads(|par| lib_calls::attention::run(call, &types, &args, bytes, level, &tiles, par));
        }
        self.with_threads(|par| lib_calls::run(call, &types, &args, ty(out), bytes, par))
    }

    /// The memory of each parameter of a step's kernel.
    fn bound(&self, step: usize) -> Result<Bound<'_>> {
        match &self.exe.actions[step] {
            Action::Kernel { kernel, args } => {
                let mut list = Spans::new();
                for &arg in args {
                    list.push(self.span(arg)?);
                }
                let args = list;
                Ok(Bound { kernel: &self.exe.code.kernels()[*kernel], args })
            }
            _ => Err(Error::internal(format!("step {step} is no kernel"))),
        }
    }

    /// The scratch of one worker of a unit.
    fn scratch(&self, spread: &Spread, worker: usize) -> Option<Span> {
        let start = worker * spread.scratch_each;
        self.scratch.slice(start..start + spread.scratch_each)
    }

    fn kernels(&self, spread: &Spread) -> Result<()> {
        if let [(step, part)] = &spread.parts[..] {
            // Nothing to share out.
            let bound = self.bound(*step)?;
            let done = self.scratch(spread, 0).is_some_and(|scratch| bound.call(part, &scratch));
            return if done { Ok(()) } else { Err(too_small()) };
        }
        let steps = spread.unit.steps();
        let bound = steps.clone().map(|s| self.bound(s)).collect::<Result<SmallVec<[Bound<'_>; 1]>>>()?;
        let failed = AtomicBool::new(false);
        self.exe.shared.threads.for_each(spread.workers, spread.parts.len(), |worker, part| {
            let (step, part) = &spread.parts[part];
            let scratch = self.scratch(spread, worker);
            let done = scratch.is_some_and(|scratch| bound[step - steps.start].call(part, &scratch));
            failed.fetch_or(!done, Ordering::Relaxed);
        });
        if failed.load(Ordering::Relaxed) { Err(too_small()) } else { Ok(()) }
    }

    /// A product, what makes each panel of its rows, and its kernels on each panel that is complete.
    fn chain(
        &self,
        spread: &Spread,
        front: Option<&Prologue>,
        (dot, key): (&DotStep, Option<&PackKey>),
        kernels: &[OnRows],
    ) -> Result<()> {
        let mut bound = Vec::with_capacity(kernels.len());
        for on in kernels {
            bound.push((on, self.bound(on.step)?));
        }
        let front = front.map(|front| Ok((front, self.bound(front.on.step)?))).transpose()?;
        let failed = AtomicBool::new(false);
        let done = |worker: usize, rows: Range<usize>| {
            let run = |(on, kernel): &(&OnRows, Bound<'_>)| {
                let part = on.part(kernel.kernel.info(), &rows);
                self.scratch(spread, worker).is_some_and(|scratch| kernel.call(&part, &scratch))
            };
            failed.fetch_or(!bound.iter().all(run), Ordering::Relaxed);
        };
        let make = front.as_ref().map(|(front, kernel)| {
            let failed = &failed;
            move |worker: usize, rows: Range<usize>, to: Span| {
                let part = front.on.part(kernel.kernel.info(), &rows);
                let scratch = self.scratch(spread, worker);
                let made = scratch.is_some_and(|scratch| kernel.call_apart((front.param, to), &part, &scratch));
                failed.fetch_or(!made, Ordering::Relaxed);
            }
        });
        let make = make.as_ref().map(|make| make as &MakesRows<'_>);
        self.dot(dot, key, (make, if kernels.is_empty() { None } else { Some(&done) }))?;
        if failed.load(Ordering::Relaxed) { Err(too_small()) } else { Ok(()) }
    }
}

/// A kernel with its arguments.
struct Bound<'a> {
    kernel: &'a KernelFn,
    args: Spans,
}

impl Bound<'_> {
    fn call(&self, part: &Part, scratch: &Span) -> bool {
        self.kernel.call(&self.args, part, scratch)
    }

    /// The same, with the memory of one argument elsewhere: see [`KernelFn::call_apart`].
    fn call_apart(&self, (param, memory): (usize, Span), part: &Part, scratch: &Span) -> bool {
        let mut args = self.args.clone();
        let Some(arg) = args.get_mut(param) else { return false };
        *arg = memory;
        self.kernel.call_apart(&args, Some(param), part, scratch)
    }
}

fn too_small() -> Error {
    Error::internal("a kernel was called on memory that is too small")
}
