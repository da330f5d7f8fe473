//! A trace: one run of a function in which tensors are placeholders.
//!
//! While a trace is active on a thread, a handle from outside is seen through an overlay that starts with a
//! placeholder node holding the handle's buffer. Everything the function does to such a handle, or to a
//! gradient slot, stays in the overlay. The trace ends in one of three ways: it is *finished* (the
//! overlay becomes the writes of a program), *broken* (the overlay is committed and the function runs on as
//! lazy code), or dropped after an error (nothing outside has changed).

use crate::live;
use crate::mode;
use crate::node::{Grad, GradSlot, Node, NodeRef, lock};
use crate::realise;
use crate::session;
use crate::tensor::{State, Tensor, WeakTensor, note_retyped, tick};
use rustc_hash::FxBuildHasher;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use torsh_ir::exec::BufferRef;
use torsh_ir::{DType, Error, Loc, Result, Type};

thread_local! {
    static ACTIVE: Cell<u64> = const { Cell::new(0) };
    static TRACE: RefCell<Option<Box<Trace>>> = const { RefCell::new(None) };
}

/// Where an input of the program comes from at each call.
#[derive(Clone)]
pub enum Source {
    /// Tensor argument, by position among the leaves of the arguments.
    Arg(usize),
    /// Float argument.
    Float(usize),
    /// A tensor found in the trace.
    Handle(Tensor),
    /// The gradient in a slot.
    Grad(Arc<GradSlot>),
    /// A float read again from a dict at each call.
    Captured(usize),
    /// Data made in the trace.
    Fixed(BufferRef),
}

/// A leaf of the arguments.
#[derive(Clone)]
pub enum Leaf {
    /// A tensor.
    Tensor(Tensor),
    /// A Python float.
    Float(f64),
    /// Anything else: part of the key.
    Other,
}

/// Why a trace was given up.
#[derive(Clone, Debug)]
pub struct Break {
    /// What the function did.
    pub reason: String,
    /// The user's line.
    pub loc: Option<Loc>,
    /// The function worked on several devices; otherwise it needed a value.
    pub divided: bool,
}

pub(crate) struct Capture {
    pub(crate) tensor: Tensor,
    pub(crate) state: State,
    pub(crate) placeholder: Option<NodeRef>,
    pub(crate) input: Option<usize>,
}

pub(crate) struct GradOverlay {
    pub(crate) slot: Arc<GradSlot>,
    pub(crate) initial: Option<Tensor>,
    pub(crate) current: Option<Tensor>,
}

/// An argument's stand-in.
pub(crate) struct Proxy {
    pub(crate) leaf: usize,
    pub(crate) tensor: Tensor,
    pub(crate) placeholder: NodeRef,
    pub(crate) original: Option<Tensor>,
}

/// The state of a trace.
pub struct Trace {
    pub(crate) id: u64,
    fullgraph: bool,
    pub(crate) captures: Vec<Capture>,
    index: HashMap<u64, usize, FxBuildHasher>,
    pub(crate) grads: Vec<GradOverlay>,
    grad_index: HashMap<*const GradSlot, usize, FxBuildHasher>,
    pub(crate) born: Vec<WeakTensor>,
    pub(crate) inputs: Vec<(NodeRef, Source)>,
    pub(crate) proxies: Vec<Proxy>,
    // Stand-ins of captured floats.
    pub(crate) floats: Vec<Tensor>,
    pub(crate) specialised: HashSet<usize>,
    failed: Option<Error>,
}

/// Number of the active trace of this thread, or 0.
pub fn active() -> u64 {
    ACTIVE.with(Cell::get)
}

/// Starts a trace; pending work outside is realised first, so that captures have buffers.
pub fn start(leaves: &[Leaf], fullgraph: bool) -> Result<Vec<Option<Tensor>>> {
    if active() != 0 {
        return Err(Error::internal("a trace is active on this thread"));
    }
    realise::flush()?;
    let mut buffers = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        buffers.push(match leaf {
            Leaf::Tensor(t) => {
                realise::realise(std::slice::from_ref(t))?;
                Some((t.ty(), realised(&t.node())?))
            }
            Leaf::Float(x) => Some((Type::scalar(DType::F64), float_buffer(*x)?)),
            Leaf::Other => None,
        });
    }
    let mut trace = Box::new(Trace {
        id: tick(),
        fullgraph,
        captures: Vec::new(),
        index: HashMap::default(),
        grads: Vec::new(),
        grad_index: HashMap::default(),
        born: Vec::new(),
        inputs: Vec::new(),
        proxies: Vec::new(),
        floats: Vec::new(),
        specialised: HashSet::new(),
        failed: None,
    });
    ACTIVE.with(|a| a.set(trace.id));
    let mut out = Vec::with_capacity(leaves.len());
    for (i, (leaf, buffer)) in leaves.iter().zip(buffers).enumerate() {
        out.push(buffer.map(|(ty, buffer)| trace.proxy(i, leaf, ty, buffer)));
    }
    TRACE.with(|t| *t.borrow_mut() = Some(trace));
    Ok(out)
}

/// Buffer of one double.
pub(crate) fn float_buffer(x: f64) -> Result<BufferRef> {
    session::get()?.upload(&Type::scalar(DType::F64), &x.to_le_bytes())
}

/// The buffer of a node, which is realised if need be.
pub fn realised(node: &NodeRef) -> Result<BufferRef> {
    if let Some(buffer) = node.buffer() {
        return Ok(buffer);
    }
    realise::nodes(std::slice::from_ref(node))?;
    node.buffer().ok_or_else(|| Error::internal("a realised node has no buffer"))
}

// A node that stands for `node` in the trace, and the input node inside it.
fn placeholder(node: &NodeRef, buffer: BufferRef) -> (NodeRef, NodeRef) {
    match &node.grad {
        Grad::Op | Grad::Foreign => {
            let data = Node::data(node.ty.clone(), buffer, Grad::None);
            (Node::graft(&data, node, Grad::Foreign), data)
        }
        Grad::Leaf(slot) => {
            let data = Node::data(node.ty.clone(), buffer, Grad::Leaf(slot.clone()));
            (data.clone(), data)
        }
        Grad::None => {
            let data = Node::data(node.ty.clone(), buffer, Grad::None);
            (data.clone(), data)
        }
    }
}

impl Trace {
    fn proxy(&mut self, leaf: usize, arg: &Leaf, ty: Type, buffer: BufferRef) -> Tensor {
        let (stand_in, input, source) = match arg {
            Leaf::Tensor(t) => {
                // The overlay is not in place yet: this is the real node.
                let (stand_in, input) = placeholder(&t.lock().node.clone(), buffer);
                (stand_in, input, Source::Arg(leaf))
            }
            _ => {
                let data = Node::data(ty, buffer, Grad::None);
                (data.clone(), data, Source::Float(leaf))
            }
        };
        self.inputs.push((input, source));
        let tensor = match arg {
            Leaf::Tensor(t) => {
                let proxy = Tensor::new(stand_in.clone());
                let slot = t.lock().slot.clone();
                proxy.lock().slot = slot;
                proxy
            }
            _ => Tensor::new_weak(stand_in.clone()),
        };
        let original = match arg {
            Leaf::Tensor(t) => Some(t.clone()),
            _ => None,
        };
        self.proxies.push(Proxy { leaf, tensor: tensor.clone(), placeholder: stand_in, original });
        tensor
    }

    fn capture(&mut self, tensor: &Tensor, found: Option<Found>, source: Source) -> usize {
        if let Some(&i) = self.index.get(&tensor.id()) {
            return i;
        }
        let Found { mut state, value } = found.unwrap_or_else(|| Found::new(tensor));
        let (mut stand_in, mut input) = (None, None);
        match value {
            None => state.seen = 0,
            Some(Ok(buffer)) => {
                let (node, data) = placeholder(&state.node, buffer);
                input = Some(self.inputs.len());
                self.inputs.push((data, source));
                state.node = node.clone();
                stand_in = Some(node);
            }
            Some(Err(e)) => {
                self.failed.get_or_insert(e);
            }
        }
        let i = self.captures.len();
        self.captures.push(Capture { tensor: tensor.clone(), state, placeholder: stand_in, input });
        self.index.insert(tensor.id(), i);
        i
    }

    fn grad_overlay(&mut self, slot: &Arc<GradSlot>, found: Option<(Tensor, Found)>) -> usize {
        if let Some(&i) = self.grad_index.get(&Arc::as_ptr(slot)) {
            return i;
        }
        let initial = found.map(|(gradient, found)| {
            self.capture(&gradient, Some(found), Source::Grad(slot.clone()));
            gradient
        });
        let i = self.grads.len();
        self.grads.push(GradOverlay { slot: slot.clone(), initial: initial.clone(), current: initial });
        self.grad_index.insert(Arc::as_ptr(slot), i);
        i
    }

    // The overlay becomes real; what could not be written is reported once all else is in place.
    fn commit(self) -> Result<()> {
        let mut outcome = Ok(());
        for capture in self.captures {
            let changed = capture.placeholder.as_ref().is_none_or(|p| !Arc::ptr_eq(p, &capture.state.node));
            if changed {
                *capture.tensor.lock() = capture.state;
                note_retyped();
                live::register(&capture.tensor);
            }
        }
        for grad in self.grads {
            *lock(&grad.slot.grad) = grad.current;
        }
        for tensor in self.born.iter().filter_map(WeakTensor::upgrade) {
            live::register(&tensor);
        }
        for proxy in &self.proxies {
            let Some(original) = &proxy.original else { continue };
            let node = proxy.tensor.node();
            if !Arc::ptr_eq(&node, &proxy.placeholder) {
                outcome = outcome.and(original.assign(&node));
            }
            proxy.tensor.become_alias(original);
        }
        outcome
    }
}

/// The tensor from outside that the active trace found as this node.
pub(crate) fn captured_as(node: &NodeRef) -> Option<Tensor> {
    captured(|c| c.placeholder.as_ref().is_some_and(|p| Arc::ptr_eq(p, node)))
}

/// The tensor from outside, found by the active trace, whose gradient this slot is for.
pub(crate) fn captured_of(slot: &Arc<GradSlot>) -> Option<Tensor> {
    captured(|c| matches!(&c.state.node.grad, Grad::Leaf(own) if Arc::ptr_eq(own, slot)))
}

fn captured(is: impl Fn(&Capture) -> bool) -> Option<Tensor> {
    TRACE.with(|t| t.borrow().as_ref()?.captures.iter().find(|c| is(c)).map(|c| c.tensor.clone()))
}

pub(crate) fn with_overlay<R>(tensor: &Tensor, f: impl FnOnce(&mut State) -> R) -> R {
    let known = TRACE.with(|t| t.borrow().as_ref().is_none_or(|trace| trace.index.contains_key(&tensor.id())));
    let found = (!known).then(|| Found::new(tensor));
    TRACE.with(|t| {
        let mut guard = t.borrow_mut();
        match guard.as_mut() {
            Some(trace) => {
                let i = trace.capture(tensor, found, Source::Handle(tensor.clone()));
                f(&mut trace.captures[i].state)
            }
            None => f(&mut tensor.lock()),
        }
    })
}

/// What a handle from outside is when the trace meets it. Made while the trace is not borrowed: a value may have to
/// be computed or waited for, and signal handlers run meanwhile.
struct Found {
    state: State,
    // None for a view, which is derived from its base as the trace sees it.
    value: Option<Result<BufferRef>>,
}

impl Found {
    fn new(tensor: &Tensor) -> Found {
        let state = tensor.lock().clone();
        let value = state.view.is_none().then(|| realised(&state.node));
        Found { state, value }
    }
}

pub(crate) fn with_grad<R>(slot: &Arc<GradSlot>, f: impl FnOnce(&mut Option<Tensor>) -> R) -> R {
    if active() == 0 {
        return f(&mut lock(&slot.grad));
    }
    let key = Arc::as_ptr(slot);
    let known = TRACE.with(|t| t.borrow().as_ref().is_none_or(|trace| trace.grad_index.contains_key(&key)));
    let initial = if known { None } else { lock(&slot.grad).clone() };
    let found = initial.map(|gradient| (gradient.clone(), Found::new(&gradient)));
    TRACE.with(|t| {
        let mut guard = t.borrow_mut();
        match guard.as_mut() {
            Some(trace) => {
                let i = trace.grad_overlay(slot, found);
                f(&mut trace.grads[i].current)
            }
            None => f(&mut lock(&slot.grad)),
        }
    })
}

pub(crate) fn born(tensor: &Tensor) {
    // During start the trace is not in place yet; proxies are listed on their own.
    TRACE.with(|t| {
        if let Ok(mut guard) = t.try_borrow_mut()
            && let Some(trace) = guard.as_mut()
        {
            trace.born.push(tensor.downgrade());
        }
    });
}

/// A float that is read again at each call, as input `k`; outside a trace, data.
pub fn captured_float(k: usize, value: f64) -> Result<Tensor> {
    let node = Node::data(Type::scalar(DType::F64), float_buffer(value)?, Grad::None);
    let tensor = Tensor::new_weak(node.clone());
    TRACE.with(|t| {
        if let Some(trace) = t.borrow_mut().as_mut() {
            trace.inputs.push((node, Source::Captured(k)));
            trace.floats.push(tensor.clone());
        }
    });
    Ok(tensor)
}

/// Called before a value is read on the host. In a trace, a value that depends on Python floats alone is
/// computed and those floats become part of the key; any other read breaks the graph.
pub fn before_read(tensor: &Tensor, what: &str) -> Result<()> {
    if active() == 0 {
        return Ok(());
    }
    let node = tensor.node();
    if let Some(floats) = float_inputs(&node) {
        TRACE.with(|t| {
            if let Some(trace) = t.borrow_mut().as_mut() {
                trace.specialised.extend(floats);
            }
        });
        return realise::nodes(&[node]);
    }
    break_graph(what)
}

// Inputs under `node`, if all of them are floats.
fn float_inputs(node: &NodeRef) -> Option<Vec<usize>> {
    let by_node: HashMap<*const Node, (usize, bool)> = TRACE.with(|t| {
        let guard = t.borrow();
        let inputs = guard.as_ref().map(|t| &t.inputs)?;
        let is_float = |s: &Source| matches!(s, Source::Float(_) | Source::Captured(_));
        Some(inputs.iter().enumerate().map(|(i, (n, s))| (Arc::as_ptr(n), (i, is_float(s)))).collect())
    })?;
    let mut floats = Vec::new();
    let mut seen = HashSet::new();
    let mut stack = vec![node.clone()];
    while let Some(n) = stack.pop() {
        if !seen.insert(Arc::as_ptr(&n)) {
            continue;
        }
        match by_node.get(&Arc::as_ptr(&n)) {
            Some((i, true)) => floats.push(*i),
            Some((_, false)) => return None,
            None => stack.extend(n.operands()),
        }
    }
    Some(floats)
}

/// Gives the trace up: an error when the whole graph was asked for; otherwise its effects become real and the
/// function runs on as lazy code. Does nothing outside a trace.
pub fn break_graph(reason: &str) -> Result<()> {
    if active() == 0 {
        return Ok(());
    }
    let fullgraph = TRACE.with(|t| t.borrow().as_ref().is_some_and(|t| t.fullgraph));
    if fullgraph {
        return Err(Error::trace(format!(
            "{reason} needs a value while the function is being traced. Keep the choice in the graph with \
             torsh.where(cond, a, b), move the read out of the compiled function, or compile without fullgraph=True"
        ))
        .with_loc(mode::loc()));
    }
    give_up(Break { reason: reason.to_string(), loc: mode::loc(), divided: false })
}

/// Gives up a trace that is not the work of one device, as `break_graph` does.
pub(crate) fn divide(reason: String, loc: Option<Loc>) -> Result<()> {
    if TRACE.with(|t| t.borrow().as_ref().is_some_and(|t| t.fullgraph)) {
        return Err(Error::trace(format!(
            "{reason}, and a program runs on one device. Move tensors before the compiled function is called, or \
             compile without fullgraph=True"
        ))
        .with_loc(loc));
    }
    give_up(Break { reason, loc, divided: true })
}

fn give_up(why: Break) -> Result<()> {
    let trace = TRACE.with(|t| t.borrow_mut().take());
    ACTIVE.with(|a| a.set(0));
    let committed = trace.map_or(Ok(()), |t| t.commit());
    BREAK.with(|b| *b.borrow_mut() = Some(why));
    committed
}

thread_local! {
    static BREAK: RefCell<Option<Break>> = const { RefCell::new(None) };
}

/// Runs `f` on the state of the active trace, if there is one.
pub(crate) fn peek<R>(f: impl FnOnce(&Trace) -> R) -> Option<R> {
    TRACE.with(|t| t.borrow().as_deref().map(f))
}

/// Ends the trace: its state, or why it was broken.
pub fn stop() -> Result<std::result::Result<Box<Trace>, Break>> {
    ACTIVE.with(|a| a.set(0));
    let broken = BREAK.with(|b| b.borrow_mut().take());
    match (TRACE.with(|t| t.borrow_mut().take()), broken) {
        (Some(mut trace), _) => match trace.failed.take() {
            Some(e) => Err(e),
            None => Ok(Ok(trace)),
        },
        (None, Some(broken)) => Ok(Err(broken)),
        (None, None) => Err(Error::internal("no trace to stop")),
    }
}

/// Drops the trace and everything it would have changed.
pub fn abort() {
    ACTIVE.with(|a| a.set(0));
    let trace = TRACE.with(|t| t.borrow_mut().take());
    BREAK.with(|b| *b.borrow_mut() = None);
    drop(trace);
}

/// The buffer of a tensor, which is realised if need be.
pub(crate) fn buffer_of(t: &Tensor) -> Result<BufferRef> {
    let node = t.node();
    match node.buffer() {
        Some(buffer) => Ok(buffer),
        None => {
            realise::realise(std::slice::from_ref(t))?;
            realised(&node)
        }
    }
}
