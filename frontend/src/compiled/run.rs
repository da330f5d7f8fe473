//! One run of a program: its inputs are gathered, memory is lent, and the outputs go where the function put them.

use super::{Args, Buffers, Input, Operand, Program, ResultSpec, Results, Returned, Role, Root, Slot, Target, Write};
use crate::node::{self, Grad, Node, NodeRef, Operands, lock};
use crate::session::{self, Compiled};
use crate::tensor::{State, Tensor, ViewOf, tick};
use crate::trace::{self, LENDING, Source, buffer_of};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use torsh_ir::exec::{BufferRef, Device, Outputs};
use torsh_ir::{Error, Graph, Result, Type};

/// A handle that lends its memory, and what is written there.
type Owner<'a> = (Cow<'a, Tensor>, &'a Write);

/// A handle locked for the duration of a run because its memory is lent to the program.
struct Lent<'a> {
    write: &'a Write,
    guard: MutexGuard<'a, State>,
    taken: bool,
}

/// The inputs of a run with the handles that lend them. What is still lent when this goes, on an error or a
/// panic, returns to its owner.
struct Lending<'a> {
    lent: Vec<Lent<'a>>,
    inputs: Buffers,
}

impl<'a> Lending<'a> {
    /// The run has succeeded: the owners get new values, the old memory is the program's.
    fn settle(mut self) -> Vec<Lent<'a>> {
        drop(std::mem::take(&mut self.inputs));
        if !self.lent.is_empty() {
            LENDING.with(|l| l.set(false));
        }
        std::mem::take(&mut self.lent)
    }
}

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        LENDING.with(|l| l.set(false));
        for l in self.lent.iter().filter(|l| l.taken) {
            if let Some(buffer) = l.write.donated.and_then(|i| self.inputs.get(i)) {
                l.guard.node.set_buffer(buffer.clone());
            }
        }
    }
}

impl Program {
    /// The level-1 graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// The device that it runs on.
    pub fn device(&self) -> Device {
        self.device
    }
    /// The executable and how long it took to make.
    pub fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }
    /// Leaves of float arguments whose value the trace needed.
    pub fn specialised(&self) -> &[usize] {
        &self.specialised
    }
    /// True when the trace needed the value of a captured float.
    pub fn specialised_on_captured(&self) -> bool {
        self.captured_specialised
    }
    /// Tensors made in the trace and kept by the function somewhere.
    pub fn escaped(&self) -> usize {
        self.escaped
    }
    /// Number of inputs whose memory is reused for an output.
    pub fn donated(&self) -> usize {
        self.writes.iter().filter(|w| w.donated.is_some()).count()
    }

    /// Why this program does not fit the call, if it does not.
    pub fn mismatch(&self, leaves: &dyn Args) -> Option<&'static str> {
        for (slot, some) in &self.grads {
            let there = match slot {
                Slot::Fixed(slot) => lock(&slot.grad).is_some(),
                Slot::Arg(i) => leaves.tensor(*i).is_some_and(|t| {
                    let slot = t.lock().slot.clone();
                    slot.is_some_and(|s| lock(&s.grad).is_some())
                }),
            };
            if there != *some {
                return Some("a gradient is there that was None, or the other way round");
            }
        }
        let moved =
            |(t, known): &(Tensor, Arc<ViewOf>)| !t.lock().view.as_ref().is_some_and(|now| Arc::ptr_eq(now, known));
        if self.views.iter().any(moved) {
            return Some("a captured view is now a view of something else");
        }
        if self.reads_grads {
            let mut gradients: HashSet<u64> = HashSet::new();
            for grad in self.gradients() {
                // One tensor in two places has one input in a trace that knows of it, and two here.
                if !gradients.insert(grad.id()) || self.handles.contains(&grad.id()) {
                    return Some("a gradient is the same tensor as another one that the program uses");
                }
            }
        }
        let is = |t: &Tensor, input: &Input| {
            let state = t.lock();
            state.view.is_none() && state.node.device == input.device && state.node.ty == input.ty
        };
        for input in &self.inputs {
            let fits = match &input.source {
                Source::Handle(t) => is(t, input),
                Source::Grad(slot) => lock(&slot.grad).as_ref().is_some_and(|g| is(g, input)),
                Source::Arg(_) | Source::Float(_) | Source::Captured(_) | Source::Fixed(_) => true,
            };
            if !fits {
                return Some("a captured tensor changed its shape, dtype, device or place");
            }
        }
        None
    }

    // The gradients that the program reads, as they are now.
    fn gradients(&self) -> impl Iterator<Item = Tensor> + '_ {
        self.inputs.iter().filter_map(|input| match &input.source {
            Source::Grad(slot) => lock(&slot.grad).clone(),
            _ => None,
        })
    }

    /// True when an argument shares memory with something that the program writes, or is written and shares
    /// memory with something that the program reads.
    pub fn aliases(&self, leaves: &dyn Args) -> bool {
        if self.written.is_empty() && !self.writes_args {
            return false;
        }
        let captured = if self.writes_args { &self.captured } else { &self.written };
        let gradients: HashSet<u64> =
            if self.reads_grads { self.gradients().map(|g| g.root().id()).collect() } else { HashSet::new() };
        let mut roots: SmallVec<[u64; 8]> = SmallVec::new();
        for t in (0..leaves.count()).filter_map(|i| leaves.tensor(i)) {
            let root = t.root().id();
            if captured.contains(&root) || gradients.contains(&root) {
                return true;
            }
            roots.push(root);
        }
        roots.sort_unstable();
        self.writes_args && roots.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// Nanoseconds that a run takes, roughly, when everything it reads is there.
    pub fn cost_ns(&self) -> f64 {
        self.compiled.exe.cost_ns()
    }

    /// Runs once. `captured` holds the captured floats.
    pub fn run(&self, leaves: &dyn Args, captured: &[f64]) -> Result<Results> {
        self.attempt(leaves, captured, true)?.ok_or_else(|| Error::internal("a run waited for nothing"))
    }

    /// Runs once if it need not wait for anything: `None`, and nothing has changed, when a tensor that it reads is
    /// pending or is lent to another run.
    pub fn run_at_once(&self, leaves: &dyn Args, captured: &[f64]) -> Result<Option<Results>> {
        self.attempt(leaves, captured, false)
    }

    fn attempt(&self, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<Results>> {
        let history_inputs = self.history_inputs(leaves, captured, wait)?;
        let owners;
        let mut lending = Lending { lent: Vec::new(), inputs: Buffers::new() };
        if self.lending {
            let mut buffers: Vec<Option<BufferRef>> = Vec::with_capacity(self.inputs.len());
            for (input, &lent) in self.inputs.iter().zip(&self.lends) {
                let buffer = if lent { None } else { self.buffer(input, leaves, captured, wait)? };
                if buffer.is_none() && !lent {
                    return Ok(None);
                }
                buffers.push(buffer);
            }
            let Some(found) = self.owners(wait)? else { return Ok(None) };
            owners = found;
            if !self.lend(&owners, buffers, wait, &mut lending)? {
                return Ok(None);
            }
        } else {
            lending.inputs.reserve(self.inputs.len());
            for input in &self.inputs {
                let Some(buffer) = self.buffer(input, leaves, captured, wait)? else { return Ok(None) };
                lending.inputs.push(buffer);
            }
        }
        if !self.moved.is_empty() {
            let session = session::get()?;
            for &i in &self.moved {
                lending.inputs[i] = session.copy(&self.inputs[i].ty, &lending.inputs[i], self.device)?;
            }
        }
        let Some(history_inputs) = history_inputs else { return Ok(None) };
        let ran = catch_unwind(AssertUnwindSafe(|| self.compiled.exe.run(&mut lending.inputs)))
            .unwrap_or_else(|_| Err(Error::internal("panic while a program ran")));
        let outputs = ran?;
        if self.plain {
            drop(lending);
            return Ok(Some(self.fresh_results(outputs)));
        }
        let mut lent = lending.settle();
        let history = self.replay(&history_inputs);
        for l in &mut lent {
            self.renew(&mut l.guard.node, l.write, &outputs, &history);
            l.guard.version = tick();
        }
        drop(lent);
        self.effects(leaves, &outputs, &history)?;
        let results: Result<Results> =
            self.results.iter().map(|r| self.returned(r, leaves, &outputs, &history)).collect();
        results.map(Some)
    }

    // The results of a program that does nothing but compute them.
    fn fresh_results(&self, outputs: Outputs) -> Results {
        let mut results = Results::new();
        for (spec, buffer) in self.results.iter().zip(outputs) {
            if let ResultSpec::New { ty, role, weak, .. } = spec {
                let grad = if matches!(role, Role::FreshLeaf) { Grad::Leaf(Arc::default()) } else { Grad::None };
                let node = Node::data(ty.clone(), buffer, grad);
                results.push(Returned::New(if *weak { Tensor::new_weak(node) } else { Tensor::new(node) }));
            }
        }
        results
    }

    // The buffer of an input; `None` when it must be waited for and the caller will not.
    fn buffer(&self, input: &Input, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<BufferRef>> {
        let of = |t: &Tensor| match t.ready() {
            None if wait => buffer_of(t).map(Some),
            found => Ok(found),
        };
        match &input.source {
            Source::Arg(i) => match leaves.tensor(*i) {
                Some(t) => of(t),
                None => Err(Error::internal("a tensor argument is missing")),
            },
            Source::Float(i) => match leaves.float(*i) {
                Some(x) => trace::float_buffer(x).map(Some),
                None => Err(Error::internal("a float argument is missing")),
            },
            Source::Captured(k) => trace::float_buffer(captured.get(*k).copied().unwrap_or_default()).map(Some),
            Source::Handle(t) => of(t),
            Source::Grad(slot) => {
                let grad = lock(&slot.grad).clone();
                of(&grad.ok_or_else(|| Error::internal("a gradient is missing"))?)
            }
            Source::Fixed(buffer) => Ok(Some(buffer.clone())),
        }
    }

    // The handles that lend memory, in the order in which every thread locks them.
    fn owners(&self, wait: bool) -> Result<Option<Vec<Owner<'_>>>> {
        let mut owners = Vec::with_capacity(self.writes.len());
        for w in self.writes.iter().filter(|w| w.donated.is_some()) {
            let owner = match &w.target {
                Target::Handle(t) => Some(Cow::Borrowed(t)),
                Target::GradInPlace(Slot::Fixed(slot)) => lock(&slot.grad).clone().map(Cow::Owned),
                _ => None,
            };
            let owner = owner.ok_or_else(|| Error::internal("a donated input has no owner"))?;
            // Pending values are computed before anything is locked.
            if !owner.is_ready() {
                if !wait {
                    return Ok(None);
                }
                buffer_of(&owner)?;
            }
            owners.push((owner, w));
        }
        owners.sort_by_key(|(t, _)| t.id());
        Ok(Some(owners))
    }

    // Takes the memory of the owners that alone hold it; `buffers` has the inputs that nobody lends. False when an
    // owner is locked and the caller will not wait.
    fn lend<'a>(
        &self,
        owners: &'a [Owner<'a>],
        mut buffers: Vec<Option<BufferRef>>,
        wait: bool,
        lending: &mut Lending<'a>,
    ) -> Result<bool> {
        // A second look at the same handle would wait for the first for ever.
        if owners.windows(2).any(|pair| pair[0].0.same(&pair[1].0)) {
            return Err(Error::internal("a tensor lends its memory twice"));
        }
        let mut lent: Vec<Lent<'a>> = Vec::with_capacity(owners.len());
        for (owner, write) in owners {
            let guard = match owner.try_lock() {
                Some(guard) => guard,
                None if wait => owner.lock(),
                None => return Ok(false),
            };
            lent.push(Lent { write, guard, taken: false });
        }
        // Nothing is taken before everything is known to be there.
        let place = |w: &Write| w.donated.filter(|&i| i < buffers.len());
        let wanted = buffers.iter().filter(|b| b.is_none()).count();
        let there = lent.iter().all(|l| place(l.write).is_some() && l.guard.node.is_realised());
        if !there || wanted != lent.len() || buffers.len() != self.inputs.len() {
            return Err(Error::internal("a captured tensor lost its value"));
        }
        for l in &mut lent {
            let alone = Arc::get_mut(&mut l.guard.node).and_then(Node::take_own_buffer);
            l.taken = alone.is_some();
            let buffer = alone.or_else(|| l.guard.node.buffer());
            if let Some(place) = l.write.donated.and_then(|i| buffers.get_mut(i)) {
                *place = buffer;
            }
        }
        LENDING.with(|l| l.set(!lent.is_empty()));
        lending.lent = lent;
        lending.inputs = buffers.into_iter().flatten().collect();
        Ok(true)
    }

    // Gives a handle that was lent its new value: in the node that it has when that is nobody else's.
    fn renew(&self, node: &mut NodeRef, write: &Write, outputs: &[BufferRef], history: &[NodeRef]) {
        let buffer = &outputs[write.output];
        if let Some(own) = Arc::get_mut(node)
            && own.ty == write.ty
            && match (&write.role, &own.grad) {
                (Role::None, Grad::None) => true,
                (Role::Leaf(a), Grad::Leaf(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
            && own.exchange(buffer)
        {
            return;
        }
        *node = self.value(&write.ty, &write.role, buffer, history);
    }

    fn history_inputs(&self, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<Vec<NodeRef>>> {
        let mut nodes = Vec::new();
        for input in self.inputs.iter().filter(|_| !self.history.is_empty()) {
            nodes.push(match &input.source {
                Source::Arg(i) => leaves.tensor(*i).ok_or_else(|| Error::internal("no argument"))?.node(),
                Source::Handle(t) => t.node(),
                _ => {
                    let Some(buffer) = self.buffer(input, leaves, captured, wait)? else { return Ok(None) };
                    Node::data(input.ty.clone(), buffer, Grad::None)
                }
            });
        }
        Ok(Some(nodes))
    }

    fn replay(&self, inputs: &[NodeRef]) -> Vec<NodeRef> {
        let mut made: Vec<NodeRef> = Vec::with_capacity(self.history.len());
        for r in &self.history {
            let operands: Operands = r
                .operands
                .iter()
                .map(|o| match o {
                    Operand::Input(i) => inputs[*i].clone(),
                    Operand::Node(i) => made[*i].clone(),
                    Operand::Leaf(t) => t.node(),
                })
                .collect();
            let records = r.records && operands.iter().any(|o| o.requires_grad());
            let grad = if records { Grad::Op } else { Grad::None };
            let device = node::place(r.op, &r.attrs, operands.first().map_or(self.device, |o| o.device));
            made.push(Node::new(r.op, r.attrs.clone(), r.ty.clone(), device, operands, r.loc.clone(), grad));
        }
        made
    }

    fn value(&self, ty: &Type, role: &Role, buffer: &BufferRef, history: &[NodeRef]) -> NodeRef {
        let grad = match role {
            Role::History(i) => {
                history[*i].set_buffer(buffer.clone());
                return history[*i].clone();
            }
            Role::None => Grad::None,
            Role::Leaf(slot) => Grad::Leaf(slot.clone()),
            Role::FreshLeaf => Grad::Leaf(Arc::default()),
        };
        Node::data(ty.clone(), buffer.clone(), grad)
    }

    fn effects(&self, leaves: &dyn Args, outputs: &[BufferRef], history: &[NodeRef]) -> Result<()> {
        let slot_of = |slot: &Slot| match slot {
            Slot::Fixed(slot) => Some(slot.clone()),
            Slot::Arg(i) => leaves.tensor(*i).map(|t| t.lock().slot.get_or_insert_with(Arc::default).clone()),
        };
        for w in self.writes.iter().filter(|w| w.donated.is_none()) {
            let value = self.value(&w.ty, &w.role, &outputs[w.output], history);
            match &w.target {
                Target::Handle(t) => t.put(value),
                Target::GradInPlace(slot) => {
                    let grad = slot_of(slot).and_then(|s| lock(&s.grad).clone());
                    if let Some(g) = grad {
                        g.put(value);
                    }
                }
                Target::NewGrad(slot) => {
                    if let Some(slot) = slot_of(slot) {
                        *lock(&slot.grad) = Some(Tensor::new(value));
                    }
                }
                Target::Arg(i) => {
                    if let Some(t) = leaves.tensor(*i) {
                        t.assign(&value)?;
                    }
                }
                Target::Born(t) => {
                    if let Some(t) = t.upgrade() {
                        t.put(value);
                    }
                }
            }
        }
        for slot in self.clears.iter().filter_map(slot_of) {
            *lock(&slot.grad) = None;
        }
        for (slot, grad) in &self.grad_handles {
            if let Some(slot) = slot_of(slot) {
                *lock(&slot.grad) = Some(grad.clone());
            }
        }
        Ok(())
    }

    fn returned(
        &self,
        spec: &ResultSpec,
        leaves: &dyn Args,
        outputs: &[BufferRef],
        history: &[NodeRef],
    ) -> Result<Returned> {
        Ok(match spec {
            ResultSpec::New { output, ty, role, weak } => {
                let node = self.value(ty, role, &outputs[*output], history);
                Returned::New(if *weak { Tensor::new_weak(node) } else { Tensor::new(node) })
            }
            ResultSpec::Arg(i) => Returned::Arg(*i),
            ResultSpec::Handle(t) => Returned::Handle(t.clone()),
            ResultSpec::View(root, steps) => {
                let mut at = match root {
                    Root::Handle(t) => t.clone(),
                    Root::Arg(i) => leaves.tensor(*i).cloned().ok_or_else(|| Error::internal("no argument"))?,
                };
                for step in steps {
                    at = at.view(step.clone())?;
                }
                Returned::New(at)
            }
        })
    }
}
