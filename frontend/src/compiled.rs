//! A traced function as a program: what to read before a run, and where its outputs go.
//!
//! A run changes handles exactly as the traced function did: captured tensors are rebound (their memory is
//! donated when this handle holds the only reference), gradient slots are set or cleared, arguments are
//! written in place. An error leaves everything as it was.

use crate::node::{Grad, GradSlot, Node, NodeRef, Operands, lock};
use crate::realise::Lowering;
use crate::session::{self, Compiled};
use crate::tensor::{State, Tensor, ViewOf, WeakTensor, tick};
pub use crate::trace::holds_locks;
use crate::trace::{self, Break, LENDING, Source, Trace, buffer_of};
use crate::view::Step;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use torsh_ir::exec::{BufferRef, Outputs};
use torsh_ir::{Attrs, Error, Graph, Loc, NodeId, Op, Result, Type};

/// A gradient slot, fixed or that of an argument.
#[derive(Clone)]
enum Slot {
    Fixed(Arc<GradSlot>),
    Arg(usize),
}

/// Role in autograd of a value that a run makes.
#[derive(Clone)]
enum Role {
    None,
    Leaf(Arc<GradSlot>),
    FreshLeaf,
    History(usize),
}

enum Target {
    Handle(Tensor),
    GradInPlace(Slot),
    NewGrad(Slot),
    Arg(usize),
    Born(WeakTensor),
}

struct Write {
    target: Target,
    output: usize,
    ty: Type,
    role: Role,
    // The input whose memory the output takes.
    donated: Option<usize>,
}

enum Root {
    Arg(usize),
    Handle(Tensor),
}

enum ResultSpec {
    New { output: usize, ty: Type, role: Role, weak: bool },
    Arg(usize),
    Handle(Tensor),
    View(Root, Vec<Step>),
}

/// A tensor that a run returns.
pub enum Returned {
    /// A fresh handle.
    New(Tensor),
    /// The argument at this leaf.
    Arg(usize),
    /// A captured tensor.
    Handle(Tensor),
}

/// What a run returns, in order.
pub type Results = SmallVec<[Returned; 2]>;

/// The leaves of a call's arguments, by position.
pub trait Args: Sync {
    /// The tensor at this leaf.
    fn tensor(&self, leaf: usize) -> Option<&Tensor>;
    /// The float at this leaf.
    fn float(&self, leaf: usize) -> Option<f64>;
    /// Number of leaves.
    fn count(&self) -> usize;
}

struct Input {
    source: Source,
    ty: Type,
}

type Buffers = SmallVec<[BufferRef; 8]>;

/// A traced function, ready to run.
pub struct Program {
    compiled: Arc<Compiled>,
    graph: Graph,
    inputs: Vec<Input>,
    writes: Vec<Write>,
    grads: Vec<(Slot, bool)>,
    clears: Vec<Slot>,
    grad_handles: Vec<(Slot, Tensor)>,
    results: Vec<ResultSpec>,
    history: Vec<Recorded>,
    // Handles whose memory the program writes: an argument must not be one of them.
    written: HashSet<u64>,
    // Handles whose value the program takes.
    captured: HashSet<u64>,
    // Those of them that are found without a gradient slot.
    handles: HashSet<u64>,
    // Captured views, each with the place in its base that the trace saw.
    views: Vec<(Tensor, Arc<ViewOf>)>,
    writes_args: bool,
    // Per input: whether its memory is donated.
    lends: Vec<bool>,
    // Nothing but fresh tensors without history comes of a run, one for each output.
    plain: bool,
    // An input is lent.
    lending: bool,
    // An input is the gradient in a slot.
    reads_grads: bool,
    specialised: Vec<usize>,
    captured_specialised: bool,
    escaped: usize,
}

// A node of the history that results carry, without values.
struct Recorded {
    op: Op,
    attrs: Attrs,
    ty: Type,
    loc: Option<Loc>,
    records: bool,
    operands: Vec<Operand>,
}

#[derive(Clone)]
enum Operand {
    Input(usize),
    Node(usize),
    // A leaf that is a view of a captured tensor.
    Leaf(Tensor),
}

/// How a trace ended.
pub enum Ended {
    /// With a program.
    Program(Box<Program>),
    /// Broken; the function has run as lazy code.
    Broken(Break),
}

// A root and the steps from it to a view.
type Path = (Tensor, Vec<Step>);

// What must be read while the overlay is in place.
struct Seen {
    results: Vec<(NodeRef, Option<Path>)>,
    escapes: Vec<(Tensor, NodeRef)>,
    proxies: Vec<NodeRef>,
    grads: Vec<Option<NodeRef>>,
}

fn see(results: &[Tensor]) -> Seen {
    let (born, proxies, current): (Vec<Tensor>, Vec<Tensor>, Vec<Option<Tensor>>) = trace::peek(|t| {
        (
            t.born.iter().filter_map(WeakTensor::upgrade).collect(),
            t.proxies.iter().map(|p| p.tensor.clone()).collect(),
            t.grads.iter().map(|g| g.current.clone()).collect(),
        )
    })
    .unwrap_or_default();
    let floats = trace::peek(|t| t.floats.clone()).unwrap_or_default();
    let mut known: HashSet<u64> =
        results.iter().chain(&proxies).chain(&floats).chain(current.iter().flatten()).map(Tensor::id).collect();
    // A result that is a view keeps its base alive. The base was left behind only if somebody else holds it: not
    // just the list of what was born, the view, and this loop.
    for result in results {
        let mut at = result.base();
        while let Some(base) = at.filter(|b| b.holders() <= 3) {
            known.insert(base.id());
            at = base.base();
        }
    }
    let path = |r: &Tensor| {
        r.is_view().then(|| {
            let (root, steps, _) = r.path();
            (root, steps)
        })
    };
    Seen {
        results: results.iter().map(|r| (r.node(), path(r))).collect(),
        escapes: born.iter().filter(|b| !known.contains(&b.id())).map(|b| (b.clone(), b.node())).collect(),
        proxies: proxies.iter().map(Tensor::node).collect(),
        grads: current.iter().map(|g| g.as_ref().map(Tensor::node)).collect(),
    }
}

/// Ends the active trace of a function that returned `results`.
pub fn finish(results: &[Tensor]) -> Result<Ended> {
    let seen = see(results);
    match trace::stop()? {
        Err(broken) => Ok(Ended::Broken(broken)),
        Ok(trace) => Ok(Ended::Program(Box::new(Finish::new(&trace)?.program(&trace, results, seen)?))),
    }
}

struct Finish {
    lowering: Lowering,
    outputs: Vec<NodeId>,
    positions: HashMap<NodeId, usize>,
    history: Vec<Recorded>,
    recorded: HashMap<*const Node, Operand>,
    slots: HashMap<*const GradSlot, usize>,
    // Captured views that are leaves of their own.
    leaves: HashMap<*const GradSlot, Tensor>,
}

impl Finish {
    fn new(trace: &Trace) -> Result<Finish> {
        let mut finish = Finish {
            lowering: Lowering::default(),
            outputs: Vec::new(),
            positions: HashMap::new(),
            history: Vec::new(),
            recorded: HashMap::new(),
            slots: HashMap::new(),
            leaves: HashMap::new(),
        };
        for capture in trace.captures.iter().filter(|c| c.state.view.is_some()) {
            if let Some(slot) = &capture.state.slot {
                finish.leaves.insert(Arc::as_ptr(slot), capture.tensor.clone());
            }
        }
        for (i, (node, _)) in trace.inputs.iter().enumerate() {
            let buffer = node.buffer().ok_or_else(|| Error::internal("a placeholder lost its buffer"))?;
            finish.lowering.bind(node, buffer);
            finish.recorded.insert(Arc::as_ptr(node), Operand::Input(i));
        }
        // The slots of arguments are found through the argument at each call.
        for proxy in &trace.proxies {
            if let Some(original) = &proxy.original
                && let Some(slot) = &original.lock().slot
            {
                finish.slots.insert(Arc::as_ptr(slot), proxy.leaf);
            }
        }
        Ok(finish)
    }

    fn slot(&self, slot: &Arc<GradSlot>) -> Slot {
        match self.slots.get(&Arc::as_ptr(slot)) {
            Some(&leaf) => Slot::Arg(leaf),
            None => Slot::Fixed(slot.clone()),
        }
    }

    fn output(&mut self, node: &NodeRef) -> Result<usize> {
        let id = self.lowering.visit(node)?;
        Ok(*self.positions.entry(id).or_insert_with(|| {
            self.outputs.push(id);
            self.outputs.len() - 1
        }))
    }

    fn role(&mut self, node: &NodeRef) -> Result<Role> {
        Ok(match &node.grad {
            Grad::None => Role::None,
            Grad::Leaf(slot) => Role::Leaf(slot.clone()),
            // The function has walked this history itself.
            Grad::Op if node.walked.load(Ordering::Relaxed) => Role::None,
            Grad::Op | Grad::Foreign => match self.record(node)? {
                Operand::Node(i) => Role::History(i),
                // An input given back under another name.
                Operand::Input(_) | Operand::Leaf(_) => Role::None,
            },
        })
    }

    // Adds a node and what it depends on to the history, without recursion.
    fn record(&mut self, root: &NodeRef) -> Result<Operand> {
        let mut stack = vec![root.clone()];
        while let Some(node) = stack.last().cloned() {
            let key = Arc::as_ptr(&node);
            if self.recorded.contains_key(&key) {
                stack.pop();
                continue;
            }
            if let Some(buffer) = node.buffer() {
                let id = self.lowering.visit(&node)?;
                let known = self.lowering.input_nodes.iter().position(|n| self.lowering.id(n) == Some(id));
                drop(buffer);
                let i = known.ok_or_else(|| Error::internal("data is no input"))?;
                self.recorded.insert(key, Operand::Input(i));
                stack.pop();
                continue;
            }
            if let Grad::Leaf(slot) = &node.grad
                && let Some(leaf) = self.leaves.get(&Arc::as_ptr(slot))
            {
                self.recorded.insert(key, Operand::Leaf(leaf.clone()));
                stack.pop();
                continue;
            }
            let mut operands = node.operands();
            if matches!(node.grad, Grad::Foreign) {
                // The placeholder's data stands for the tensor outside, history included.
                operands.truncate(1);
            }
            let before = stack.len();
            stack.extend(operands.iter().rev().filter(|o| !self.recorded.contains_key(&Arc::as_ptr(o))).cloned());
            if stack.len() > before {
                continue;
            }
            let operands: Vec<Operand> = operands.iter().map(|o| self.recorded[&Arc::as_ptr(o)].clone()).collect();
            let made = match (&node.grad, operands.first()) {
                (Grad::Foreign, Some(first)) => first.clone(),
                _ => {
                    self.history.push(Recorded {
                        op: node.op,
                        attrs: node.attrs.clone(),
                        ty: node.ty.clone(),
                        loc: node.loc.clone(),
                        records: matches!(node.grad, Grad::Op),
                        operands,
                    });
                    Operand::Node(self.history.len() - 1)
                }
            };
            self.recorded.insert(key, made);
            stack.pop();
        }
        Ok(self.recorded[&Arc::as_ptr(root)].clone())
    }

    fn write(&mut self, writes: &mut Vec<Write>, target: Target, node: &NodeRef, input: Option<usize>) -> Result<()> {
        let output = self.output(node)?;
        let role = self.role(node)?;
        writes.push(Write { target, output, ty: node.ty.clone(), role, donated: input });
        Ok(())
    }

    fn program(mut self, trace: &Trace, results: &[Tensor], seen: Seen) -> Result<Program> {
        let mut writes = Vec::new();
        let mut written = HashSet::new();
        for capture in &trace.captures {
            let Some(placeholder) = &capture.placeholder else { continue };
            if Arc::ptr_eq(placeholder, &capture.state.node) {
                continue;
            }
            written.insert(capture.tensor.id());
            let target = match capture.input.and_then(|i| trace.inputs.get(i)).map(|(_, s)| s) {
                Some(Source::Grad(slot)) => Target::GradInPlace(self.slot(slot)),
                _ => Target::Handle(capture.tensor.clone()),
            };
            self.write(&mut writes, target, &capture.state.node, capture.input)?;
        }
        let mut writes_args = false;
        for (proxy, node) in trace.proxies.iter().zip(&seen.proxies) {
            if !Arc::ptr_eq(node, &proxy.placeholder) {
                writes_args = true;
                self.write(&mut writes, Target::Arg(proxy.leaf), node, None)?;
            }
        }
        let (mut grads, mut clears, mut grad_handles) = (Vec::new(), Vec::new(), Vec::new());
        for (overlay, node) in trace.grads.iter().zip(&seen.grads) {
            let slot = self.slot(&overlay.slot);
            grads.push((slot.clone(), overlay.initial.is_some()));
            match (&overlay.initial, &overlay.current, node) {
                (None, None, _) => {}
                (Some(_), None, _) => clears.push(slot),
                (Some(a), Some(b), _) if a.same(b) => {}
                (_, Some(b), Some(node)) if b.trace() == trace.id => {
                    self.write(&mut writes, Target::NewGrad(slot), node, None)?;
                }
                (_, Some(b), _) => grad_handles.push((slot, b.clone())),
            }
        }
        let escaped = seen.escapes.len();
        for (tensor, node) in &seen.escapes {
            self.write(&mut writes, Target::Born(tensor.downgrade()), node, None)?;
        }
        let mut specs = Vec::new();
        for (tensor, (node, path)) in results.iter().zip(&seen.results) {
            let spec = self.result(trace, tensor, node, path.as_ref())?;
            specs.push(spec);
        }
        self.donate(&mut writes);
        let donations = writes.iter().filter_map(|w| Some((w.donated?, w.output))).collect();
        let Finish { lowering, outputs, history, .. } = self;
        let Lowering { mut graph, inputs: buffers, .. } = lowering;
        graph.set_outputs(outputs);
        let mut lends = vec![false; graph.inputs().len()];
        for i in writes.iter().filter_map(|w| w.donated) {
            lends[i] = true;
        }
        let inputs: Vec<Input> = graph
            .input_types()
            .into_iter()
            .zip(buffers)
            .enumerate()
            .map(|(i, (ty, buffer))| {
                let source = trace.inputs.get(i).map_or(Source::Fixed(buffer), |(_, s)| s.clone());
                Input { source, ty }
            })
            .collect();
        let handles = trace
            .inputs
            .iter()
            .filter_map(|(_, s)| if let Source::Handle(t) = s { Some(t.id()) } else { None })
            .collect();
        let compiled = session::get()?.executable(graph.clone(), donations)?;
        let is_arg = |i: &usize| match trace.inputs.get(*i).map(|(_, s)| s) {
            Some(Source::Float(leaf)) => Some(*leaf),
            _ => None,
        };
        let fresh = |(i, r): (usize, &ResultSpec)| matches!(r, ResultSpec::New { output, role: Role::None | Role::FreshLeaf, .. } if *output == i);
        let plain = writes.is_empty()
            && clears.is_empty()
            && grad_handles.is_empty()
            && specs.len() == graph.outputs().len()
            && specs.iter().enumerate().all(fresh);
        Ok(Program {
            compiled,
            plain,
            graph,
            writes,
            grads,
            clears,
            grad_handles,
            results: specs,
            history,
            written,
            handles,
            captured: trace.captures.iter().map(|c| c.tensor.id()).collect(),
            views: trace.captures.iter().filter_map(|c| Some((c.tensor.clone(), c.state.view.clone()?))).collect(),
            writes_args,
            lending: lends.contains(&true),
            lends,
            reads_grads: inputs.iter().any(|i| matches!(i.source, Source::Grad(_))),
            inputs,
            captured_specialised: trace.specialised.iter().any(|i| is_arg(i).is_none()),
            specialised: trace.specialised.iter().filter_map(is_arg).collect(),
            escaped,
        })
    }

    fn result(&mut self, trace: &Trace, tensor: &Tensor, node: &NodeRef, path: Option<&Path>) -> Result<ResultSpec> {
        let proxy =
            |t: &Tensor| trace.proxies.iter().find(|p| p.tensor.same(t) && p.original.is_some()).map(|p| p.leaf);
        if let Some(leaf) = proxy(tensor) {
            return Ok(ResultSpec::Arg(leaf));
        }
        if tensor.trace() != trace.id {
            return Ok(ResultSpec::Handle(tensor.clone()));
        }
        if let Some((root, steps)) = path {
            if let Some(leaf) = proxy(root) {
                return Ok(ResultSpec::View(Root::Arg(leaf), steps.clone()));
            }
            if root.trace() != trace.id {
                return Ok(ResultSpec::View(Root::Handle(root.clone()), steps.clone()));
            }
        }
        let output = self.output(node)?;
        let role = match self.role(node)? {
            Role::Leaf(_) => Role::FreshLeaf,
            other => other,
        };
        Ok(ResultSpec::New { output, ty: node.ty.clone(), role, weak: tensor.is_weak() })
    }

    // Keeps the donations that are sound: same type, each output and input once, no value that is still
    // needed after the run.
    fn donate(&self, writes: &mut [Write]) {
        let inputs = self.lowering.graph.inputs();
        let kept: HashSet<NodeId> = self.outputs.iter().copied().filter(|o| inputs.contains(o)).collect();
        let mut outputs = HashSet::new();
        for w in writes {
            let sound = w.donated.is_some_and(|i| {
                let id = inputs[i];
                self.history.is_empty()
                    && *self.lowering.graph.ty(id) == w.ty
                    && !kept.contains(&id)
                    && !kept.contains(&self.outputs[w.output])
                    && outputs.insert(w.output)
            });
            if !sound {
                w.donated = None;
            }
        }
    }
}

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
        let is = |t: &Tensor, ty: &Type| {
            let state = t.lock();
            state.view.is_none() && state.node.ty == *ty
        };
        for input in &self.inputs {
            let fits = match &input.source {
                Source::Handle(t) => is(t, &input.ty),
                Source::Grad(slot) => lock(&slot.grad).as_ref().is_some_and(|g| is(g, &input.ty)),
                Source::Arg(_) | Source::Float(_) | Source::Captured(_) | Source::Fixed(_) => true,
            };
            if !fits {
                return Some("a captured tensor changed its shape, dtype or place");
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
    fn owners(&self, wait: bool) -> Result<Option<Vec<(Cow<'_, Tensor>, &Write)>>> {
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
        owners: &'a [(Cow<'a, Tensor>, &'a Write)],
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
            made.push(Node::new(r.op, r.attrs.clone(), r.ty.clone(), operands, r.loc.clone(), grad));
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
