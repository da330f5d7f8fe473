//! One run of a program: its inputs are gathered, memory is lent, and the outputs go where the function put them.

use super::{
    Args, Buffers, Ids, Input, Operand, Program, ResultSpec, Results, Returned, Role, Root, Slot, Target, Write,
};
use crate::loan;
use crate::node::{self, Grad, Node, NodeRef, Operands, lock};
use crate::session::{self, Compiled};
use crate::tensor::{Tensor, ViewOf, note_retyped, retyped, tick};
use crate::trace::{self, Source, buffer_of};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use torsh_ir::exec::{BufferRef, Device, Outputs};
use torsh_ir::{Error, Graph, Loc, Result, Type};

/// Memory on loan to a run, taken from a handle.
struct Lent {
    input: usize,
    output: usize,
    // Data without a buffer; the handle has it, and whoever has looked at the handle since.
    node: NodeRef,
    // The handle and its node before, where that is another one.
    before: Option<(Tensor, NodeRef)>,
}

/// The inputs of a run, some of them on loan. What is still lent when this goes, on an error or a panic, returns to
/// its owner: the run has changed none of it.
struct Lending {
    lent: Vec<Lent>,
    // By input, until all are found.
    found: Vec<Option<BufferRef>>,
    inputs: Vec<BufferRef>,
    running: bool,
}

impl Lending {
    fn new(inputs: usize, lenders: usize) -> Lending {
        let (lent, found) = (Vec::with_capacity(lenders), Vec::with_capacity(inputs));
        Lending { lent, found, inputs: Vec::new(), running: false }
    }

    /// Everything is there.
    fn begin(&mut self) -> Result<()> {
        if self.found.iter().any(Option::is_none) {
            return Err(Error::internal("an input of a program is missing"));
        }
        // In the memory that the list has.
        let found: Option<Vec<BufferRef>> = std::mem::take(&mut self.found).into_iter().collect();
        self.inputs = found.unwrap_or_default();
        self.running = true;
        loan::begin();
        Ok(())
    }

    /// The run has succeeded, with as many outputs as its graph has: what was lent gets the new values.
    fn settle(mut self, outputs: &[BufferRef]) {
        // By input, as the buffers are.
        self.lent.sort_unstable_by_key(|lent| lent.input);
        let mut lent = self.lent.iter().peekable();
        for (input, buffer) in std::mem::take(&mut self.inputs).into_iter().enumerate() {
            let Some(lent) = lent.next_if(|lent| lent.input == input) else { continue };
            let new = &outputs[lent.output];
            // In place, as a rule: the reference that is there is handed on.
            lent.node.give(if Arc::ptr_eq(new, &buffer) { buffer } else { new.clone() });
        }
        self.end();
    }

    /// Nothing has been written: what was lent returns.
    fn give_back(&mut self) {
        for Lent { input, node, before, .. } in &self.lent {
            let found = self.found.get_mut(*input).and_then(Option::take);
            let Some(buffer) = found.or_else(|| self.inputs.get(*input).cloned()) else { continue };
            if let Some((owner, old)) = before {
                old.give(buffer.clone());
                let mut state = owner.lock();
                if Arc::ptr_eq(&state.node, node) {
                    state.node = old.clone();
                    note_retyped();
                }
            }
            node.give(buffer);
        }
        self.inputs.clear();
        self.end();
    }

    fn end(&mut self) {
        if !self.lent.is_empty() {
            self.lent.clear();
            loan::ended();
        }
        if std::mem::take(&mut self.running) {
            loan::end();
        }
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Takes the memory of a handle and leaves it with a node that has none; nothing when there is none to take yet.
fn offer(
    owner: &Tensor,
    device: Device,
    write: &Write,
    version: u64,
    found: &mut [Option<BufferRef>],
) -> Result<Option<Lent>> {
    let input = write.donated.filter(|&i| i < found.len()).ok_or_else(|| Error::internal("nothing to lend"))?;
    let mut state = owner.lock();
    if state.view.is_some() || state.node.device != device || state.node.ty != write.ty {
        return Err(changed());
    }
    if !state.node.is_realised() {
        return Ok(None);
    }
    let same_role = match (&write.role, &state.node.grad) {
        (Role::None, Grad::None) => true,
        (Role::Leaf(a), Grad::Leaf(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let stays = same_role && state.node.is_data() && state.node.retain.get().is_none();
    // Nobody else has the node, so that nobody else can come to have its buffer. What a gradient may need is shared.
    let recorded = matches!(state.node.grad, Grad::Op | Grad::Foreign);
    let own = if recorded { None } else { Arc::get_mut(&mut state.node).and_then(Node::take_own_buffer) };
    let before = if own.is_some() && stays { None } else { Some(state.node.clone()) };
    found[input] = own.or_else(|| state.node.buffer());
    if before.is_some() {
        let grad = match &write.role {
            Role::Leaf(slot) => Grad::Leaf(slot.clone()),
            Role::FreshLeaf => Grad::Leaf(Arc::default()),
            Role::None | Role::History(_) => Grad::None,
        };
        let retyped = !grad.is_like(&state.node.grad);
        state.node = Node::lent(write.ty.clone(), device, grad);
        if retyped {
            note_retyped();
        }
    }
    state.version = version;
    let before = before.map(|old| (owner.clone(), old));
    Ok(Some(Lent { input, output: write.output, node: state.node.clone(), before }))
}

/// Another thread was quicker than the checks of a call.
fn changed() -> Error {
    Error::runtime(
        "another thread changed the shape, dtype, device or place of a tensor while a function that updates it began",
    )
}

impl Program {
    /// The level-1 graph.
    ///
    /// # Errors
    /// `Internal` for a program whose graph was not needed.
    pub fn graph(&self) -> Result<&Graph> {
        self.graph.as_deref().ok_or_else(|| Error::internal("the graph of a program that was known without it"))
    }
    /// Nodes of the graph, as it was before any pass.
    pub fn nodes(&self) -> usize {
        let known = || self.compiled.as_ref().map_or(0, |compiled| compiled.exe.program().stats.nodes);
        self.graph.as_ref().map_or_else(known, |graph| graph.len())
    }
    /// The device that it runs on.
    pub fn device(&self) -> Device {
        self.device
    }
    /// The types of the fresh tensors that it returns, in order.
    pub fn result_types(&self) -> Vec<Type> {
        let fresh = |r: &ResultSpec| if let ResultSpec::New { ty, .. } = r { Some(ty.clone()) } else { None };
        self.results.iter().filter_map(fresh).collect()
    }
    /// The user's line of a program that was made without a trace.
    pub fn site(&self) -> Option<&Loc> {
        self.site.as_ref()
    }
    /// The executable and how long it took to make; `None` where the program is there to be exported alone.
    pub fn compiled(&self) -> Option<&Arc<Compiled>> {
        self.compiled.as_ref()
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
            let mut gradients: Ids = Ids::default();
            for grad in self.gradients() {
                // One tensor in two places has one input in a trace that knows of it, and two here.
                if !gradients.insert(grad.id()) || self.handles.contains(&grad.id()) {
                    return Some("a gradient is the same tensor as another one that the program uses");
                }
            }
        }
        let is = |t: &Tensor, input: &Input| {
            let state = t.lock();
            state.view.is_none()
                && state.node.device == input.device
                && state.node.ty == input.ty
                && state.node.grad.is_like(&input.grad)
        };
        // Handles that were looked at once are looked at again only after some handle has changed.
        let now = retyped();
        let known = self.checked.load(Ordering::Relaxed) == now;
        // Gradients may be other tensors at each call.
        let inputs: &[Input] = if known && !self.reads_grads { &[] } else { &self.inputs };
        for input in inputs {
            let fits = match &input.source {
                Source::Handle(t) => known || is(t, input),
                Source::Grad(slot) => lock(&slot.grad).as_ref().is_some_and(|g| is(g, input)),
                Source::Arg(_) | Source::Float(_) | Source::Captured(_) | Source::Fixed(_) => true,
            };
            if !fits {
                return Some(
                    "a captured tensor changed its shape, dtype, device, place or whether it requires gradients",
                );
            }
        }
        self.checked.store(now, Ordering::Relaxed);
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
        let gradients: Ids =
            if self.reads_grads { self.gradients().map(|g| g.root_id()).collect() } else { Ids::default() };
        let mut roots: SmallVec<[u64; 8]> = SmallVec::new();
        for t in (0..leaves.count()).filter_map(|i| leaves.tensor(i)) {
            let root = t.root_id();
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
        self.compiled.as_ref().map_or(0.0, |compiled| compiled.exe.cost_ns())
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

    // A panic below is the caller's to catch; what is on loan then returns to its owners.
    fn attempt(&self, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<Results>> {
        if self.lenders.is_empty() {
            let mut inputs = Buffers::new();
            inputs.reserve(self.inputs.len());
            for input in &self.inputs {
                let Some(buffer) = self.input(input, leaves, captured, wait)? else { return Ok(None) };
                inputs.push(buffer);
            }
            if self.plain {
                return Ok(Some(self.fresh_results(self.execute(&mut inputs)?)));
            }
            let Some(history_inputs) = self.history_inputs(leaves, captured, wait)? else { return Ok(None) };
            let outputs = self.execute(&mut inputs)?;
            return self.finish(leaves, &history_inputs, &outputs).map(Some);
        }
        let Some(history_inputs) = self.history_inputs(leaves, captured, wait)? else { return Ok(None) };
        let mut lending = Lending::new(self.inputs.len(), self.lenders.len());
        for (input, lent) in self.inputs.iter().zip(&self.lends) {
            let buffer = if *lent { None } else { self.input(input, leaves, captured, wait)? };
            if buffer.is_none() && !lent {
                return Ok(None);
            }
            lending.found.push(buffer);
        }
        if !self.lend(wait, &mut lending)? {
            return Ok(None);
        }
        let outputs = self.execute(&mut lending.inputs)?;
        lending.settle(&outputs);
        self.finish(leaves, &history_inputs, &outputs).map(Some)
    }

    // The outputs, which are as many as the graph's before anything is done with one.
    fn execute(&self, inputs: &mut [BufferRef]) -> Result<Outputs> {
        let Some(compiled) = &self.compiled else {
            return Err(Error::internal("a program that was made to be exported is run"));
        };
        let located = |e: Error| match (&self.site, &self.graph) {
            (Some(site), _) => e.moved_to(site.clone()),
            (None, Some(graph)) => compiled.located(e, graph),
            (None, None) => e,
        };
        let outputs = compiled.exe.run(inputs).map_err(located)?;
        let count = self.output_count;
        if outputs.len() != count {
            return Err(Error::internal(format!("a program of {count} outputs returned {}", outputs.len())));
        }
        Ok(outputs)
    }

    fn finish(&self, leaves: &dyn Args, history_inputs: &[NodeRef], outputs: &[BufferRef]) -> Result<Results> {
        let history = self.replay(history_inputs);
        self.effects(leaves, outputs, &history)?;
        self.results.iter().map(|r| self.returned(r, leaves, outputs, &history)).collect()
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

    // The buffer of an input on the program's device; `None` as below.
    fn input(&self, input: &Input, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<BufferRef>> {
        match self.buffer(input, leaves, captured, wait)? {
            Some(buffer) if input.device != self.device => {
                session::get()?.copy(&input.ty, &buffer, self.device).map(Some)
            }
            found => Ok(found),
        }
    }

    // The buffer of an input; `None` when it must be waited for and the caller will not.
    fn buffer(&self, input: &Input, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<BufferRef>> {
        // The checks of the call were made before anything was waited for.
        let of = |t: &Tensor| loop {
            match t.ready_as(&input.ty, input.device).ok_or_else(changed)? {
                None if wait => drop(buffer_of(t)?),
                found => return Ok(found),
            }
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

    // Who lends, in the order in which every thread takes: that of the handles' numbers, of gradients too, which may
    // be other tensors at each call. Threads in different orders could make each other give back for ever.
    fn owners(&self) -> Result<Vec<(Cow<'_, Tensor>, &Write)>> {
        let owner = |write: &usize| {
            let write = &self.writes[*write];
            let owner = match &write.target {
                Target::Handle(t) => Cow::Borrowed(t),
                Target::GradInPlace(Slot::Fixed(slot)) => Cow::Owned(lock(&slot.grad).clone().ok_or_else(changed)?),
                _ => return Err(Error::internal("a donated input has no owner")),
            };
            Ok((owner, write))
        };
        let mut owners = self.lenders.iter().map(owner).collect::<Result<Vec<_>>>()?;
        owners.sort_by_key(|(owner, _)| owner.id());
        Ok(owners)
    }

    // Takes the memory of every handle that lends it. Nothing is held while something is waited for; false when it
    // would have to be and the caller will not.
    fn lend(&self, wait: bool, lending: &mut Lending) -> Result<bool> {
        // Those who derive a view from now on derive it from what the run will give.
        let version = tick();
        let mut at = 0;
        let owners = self.owners()?;
        while let Some((owner, write)) = owners.get(at) {
            if let Some(lent) = offer(owner, self.device, write, version, &mut lending.found)? {
                lending.lent.push(lent);
                at += 1;
                continue;
            }
            let node = owner.lock().node.clone();
            if lending.lent.iter().any(|lent| Arc::ptr_eq(&lent.node, &node)) {
                return Err(changed());
            }
            lending.give_back();
            if !wait {
                return Ok(false);
            }
            buffer_of(owner)?;
            at = 0;
        }
        lending.begin()?;
        Ok(true)
    }

    fn history_inputs(&self, leaves: &dyn Args, captured: &[f64], wait: bool) -> Result<Option<Vec<NodeRef>>> {
        let mut nodes = Vec::new();
        for input in self.inputs.iter().filter(|_| !self.history.is_empty()) {
            let checked = |node: NodeRef| if node.ty == input.ty { Ok(node) } else { Err(changed()) };
            nodes.push(match &input.source {
                Source::Arg(i) => checked(leaves.tensor(*i).ok_or_else(|| Error::internal("no argument"))?.node())?,
                Source::Handle(t) => checked(t.node())?,
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
