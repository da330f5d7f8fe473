//! A traced function as a program: what to read before a run, and where its outputs go.
//!
//! A run changes handles exactly as the traced function did: captured tensors are rebound (their memory is on
//! loan to the run, see [`crate::loan`], and is overwritten when the handle holds the only reference), gradient
//! slots are set or cleared, arguments are written in place. An error leaves everything as it was.

mod export;
mod ready;
mod run;

use crate::node::{Grad, GradSlot, Node, NodeRef};
use crate::place;
use crate::realise::Lowering;
use crate::session::{self, Compiled};
use crate::tensor::{Tensor, ViewOf, WeakTensor};
use crate::trace::{self, Break, Source, Trace};
use crate::view::Step;
pub use export::{Export, From, Strays, To, divided, strays};
pub use ready::Ready;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use torsh_ir::exec::{BufferRef, Device};
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
    // What a captured tensor was to autograd.
    grad: Grad,
    // Where it is found; a run copies it to the program's device.
    device: Device,
}

type Buffers = SmallVec<[BufferRef; 8]>;
type Ids = HashSet<u64, FxBuildHasher>;

/// A traced function, ready to run.
pub struct Program {
    // None where it is made to be exported alone.
    compiled: Option<Arc<Compiled>>,
    device: Device,
    // None where a lowered program was known.
    graph: Option<Arc<Graph>>,
    // Of the graph.
    output_count: usize,
    inputs: Vec<Input>,
    writes: Vec<Write>,
    grads: Vec<(Slot, bool)>,
    clears: Vec<Slot>,
    grad_handles: Vec<(Slot, Tensor)>,
    results: Vec<ResultSpec>,
    history: Vec<Recorded>,
    // Handles whose memory the program writes: an argument must not be one of them.
    written: Ids,
    // Handles whose value the program takes.
    captured: Ids,
    // Those of them that are found without a gradient slot.
    handles: Ids,
    // Captured views, each with the place in its base that the trace saw.
    views: Vec<(Tensor, Arc<ViewOf>)>,
    writes_args: bool,
    // The writes whose memory is an input's.
    lenders: Vec<usize>,
    // Per input: whether a handle lends it.
    lends: Vec<bool>,
    // Nothing but fresh tensors without history comes of a run, one for each output.
    plain: bool,
    // An input is the gradient in a slot.
    reads_grads: bool,
    // When the captured handles were last seen to be what the trace found: see `tensor::retyped`.
    checked: AtomicU64,
    specialised: Vec<usize>,
    captured_specialised: bool,
    escaped: usize,
    // The line of errors that have none of their own.
    site: Option<Loc>,
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
    end(results, true)
}

/// As [`finish`], with a program that can be exported and not run: no pass is run and no code made.
///
/// Errors: `Limit` for a graph beyond the limits. What a run would need is not known.
pub fn finish_for_export(results: &[Tensor]) -> Result<Ended> {
    end(results, false)
}

fn end(results: &[Tensor], runs: bool) -> Result<Ended> {
    let seen = see(results);
    let device = match place::of_trace(&seen.roots(results)) {
        Ok(device) => device,
        Err(conflict) => {
            trace::divide(conflict.reason, conflict.loc)?;
            Device::Cpu
        }
    };
    match trace::stop()? {
        Err(broken) => Ok(Ended::Broken(broken)),
        Ok(trace) => Ok(Ended::Program(Box::new(Finish::new(&trace, device)?.program(&trace, results, seen, runs)?))),
    }
}

impl Seen {
    // Every value that a program of the active trace puts out.
    fn roots(&self, results: &[Tensor]) -> Vec<NodeRef> {
        let inside = trace::peek(|t| {
            let given = |x: &Tensor| x.trace() != t.id || t.proxies.iter().any(|p| p.tensor.same(x));
            let results = results.iter().zip(&self.results);
            let results = results.filter(|(x, (_, path))| !given(x) && !path.as_ref().is_some_and(|(r, _)| given(r)));
            let results = results.map(|(_, (node, _))| node.clone());
            let grads = t.grads.iter().zip(&self.grads);
            let grads = grads.filter(|(g, _)| g.current.as_ref().is_some_and(|g| g.trace() == t.id));
            let grads = grads.filter_map(|(_, node)| node.clone());
            let captures = t.captures.iter().filter_map(|c| {
                let placeholder = c.placeholder.as_ref()?;
                (!Arc::ptr_eq(placeholder, &c.state.node)).then(|| c.state.node.clone())
            });
            let proxies = t.proxies.iter().zip(&self.proxies);
            let proxies = proxies.filter(|(p, n)| !Arc::ptr_eq(n, &p.placeholder)).map(|(_, n)| n.clone());
            results.chain(grads).chain(captures).chain(proxies).collect::<Vec<_>>()
        });
        inside.unwrap_or_default().into_iter().chain(self.escapes.iter().map(|(_, node)| node.clone())).collect()
    }
}

struct Finish {
    device: Device,
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
    fn new(trace: &Trace, device: Device) -> Result<Finish> {
        let mut finish = Finish {
            device,
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

    fn program(mut self, trace: &Trace, results: &[Tensor], seen: Seen, runs: bool) -> Result<Program> {
        let mut writes = Vec::new();
        let mut written = Ids::default();
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
        let Finish { device, lowering, outputs, history, .. } = self;
        let Lowering { mut graph, inputs: buffers, .. } = lowering;
        graph.set_outputs(outputs);
        let mut lenders: Vec<usize> = (0..writes.len()).filter(|&w| writes[w].donated.is_some()).collect();
        // A run sorts them again, with the gradients among them.
        lenders.sort_by_key(|&w| if let Target::Handle(t) = &writes[w].target { t.id() } else { u64::MAX });
        let mut lends = vec![false; graph.inputs().len()];
        for i in lenders.iter().filter_map(|&w| writes[w].donated) {
            lends[i] = true;
        }
        let inputs: Vec<Input> = graph
            .input_types()
            .into_iter()
            .zip(buffers)
            .enumerate()
            .map(|(i, (ty, buffer))| {
                let device = buffer.device();
                let source = trace.inputs.get(i).map_or(Source::Fixed(buffer), |(_, s)| s.clone());
                let capture = trace.captures.iter().find(|c| c.input == Some(i));
                let grad = match capture.and_then(|c| c.placeholder.as_ref()).map(|p| &p.grad) {
                    Some(Grad::Leaf(slot)) => Grad::Leaf(slot.clone()),
                    Some(Grad::Op | Grad::Foreign) => Grad::Foreign,
                    Some(Grad::None) | None => Grad::None,
                };
                Input { source, ty, grad, device }
            })
            .collect();
        let handles = trace
            .inputs
            .iter()
            .filter_map(|(_, s)| if let Source::Handle(t) = s { Some(t.id()) } else { None })
            .collect();
        let graph = Arc::new(graph);
        let compiled = if runs {
            Some(session::get()?.executable(device, &graph, donations)?)
        } else {
            torsh_passes::limits::check(&graph, &torsh_ir::limits::get())?;
            None
        };
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
            device,
            plain,
            output_count: graph.outputs().len(),
            graph: Some(graph),
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
            lenders,
            lends,
            checked: AtomicU64::new(0),
            reads_grads: inputs.iter().any(|i| matches!(i.source, Source::Grad(_))),
            inputs,
            captured_specialised: trace.specialised.iter().any(|i| is_arg(i).is_none()),
            specialised: trace.specialised.iter().filter_map(is_arg).collect(),
            escaped,
            site: None,
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
                    && self.lowering.inputs[i].device() == self.device
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
