//! Reverse-mode gradients of lazy tensors: the recorded subgraph becomes an IR graph, the autodiff pass
//! extends it, and the new nodes come back as lazy nodes.

use crate::mode;
use crate::node::{self, Grad, GradSlot, Node, NodeRef, Operands};
use crate::ops;
use crate::tensor::Tensor;
use crate::trace;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use torsh_ir::attr::{Attr, AttrsExt};
use torsh_ir::exec::Device;
use torsh_ir::op::{Kind, View, Vjp};
use torsh_ir::{Attrs, Error, Graph, NodeId, Op, Result, Scalar};
use torsh_passes::autodiff;

/// How to differentiate.
#[derive(Copy, Clone, Default)]
pub struct Options {
    /// Record the gradient computation itself.
    pub create_graph: bool,
    /// Keep the history for a second pass.
    pub retain_graph: bool,
}

// Ops whose gradient needs no value, so that their history may be walked again (as in PyTorch).
const SAVES_NOTHING: &[&str] = &[
    "add",
    "sub",
    "neg",
    "sum",
    "reshape",
    "permute",
    "expand",
    "slice",
    "cast",
    "concat",
    "flip",
    "graft",
    "pad",
    "to_device",
    "windows",
];

// In a graph of several devices, what follows from constants alone has no place of its own: it is made on each.
type Constants = HashMap<(NodeId, Device), NodeRef>;

// The lazy node of a graph node, for use on a device.
fn find(lazy: &[Option<NodeRef>], constants: &Constants, id: NodeId, device: Device) -> Result<NodeRef> {
    let known = constants.get(&(id, device)).or(lazy[id.index()].as_ref());
    known.cloned().ok_or_else(|| Error::internal("a gradient lost an operand"))
}

#[derive(Default)]
struct Tape {
    graph: Graph,
    ids: HashMap<*const Node, NodeId>,
    // The lazy node of each graph node, by index.
    lazy: Vec<Option<NodeRef>>,
    // Of those nodes.
    devices: Vec<Device>,
    leaves: Vec<(NodeId, Arc<GradSlot>)>,
    recorded: Vec<NodeRef>,
}

impl Tape {
    fn id(&self, node: &NodeRef) -> Option<NodeId> {
        self.ids.get(&Arc::as_ptr(node)).copied()
    }

    fn note(&mut self, node: &NodeRef, id: NodeId) {
        self.ids.insert(Arc::as_ptr(node), id);
        self.lazy.resize(self.graph.len(), None);
        self.lazy[id.index()].get_or_insert_with(|| node.clone());
        if !self.devices.contains(&node.device) {
            self.devices.push(node.device);
        }
        // Keeps the address taken while the tape lives.
        self.recorded.push(node.clone());
    }

    // A value that no gradient flows through: a constant stays one, everything else is an input.
    fn value(&mut self, node: &NodeRef) -> NodeId {
        if let Some(id) = self.id(node) {
            return id;
        }
        let constant =
            |op: Op, attrs: Attrs| torsh_ir::Node { op, attrs, operands: Default::default(), ty: node.ty.clone() };
        let id = match number(node) {
            Some((full, value)) => {
                let attrs: [Attr; 3] = [value.into(), node.ty.dtype.into(), node.ty.shape.dims().into()];
                self.graph.add(constant(full, Attrs::from(attrs.to_vec())))
            }
            None if node.op.kind == Kind::Iota && !node.is_realised() => {
                self.graph.add(constant(node.op, node.attrs.clone()))
            }
            None => self.graph.input(node.ty.clone()),
        };
        self.note(node, id);
        id
    }

    fn visit(&mut self, root: &NodeRef) -> Result<NodeId> {
        let mut stack = vec![root.clone()];
        while let Some(node) = stack.last().cloned() {
            if self.id(&node).is_some() {
                stack.pop();
                continue;
            }
            match &node.grad {
                Grad::None => {
                    self.value(&node);
                    stack.pop();
                    continue;
                }
                Grad::Leaf(slot) => {
                    let id = self.value(&node);
                    self.leaves.push((id, slot.clone()));
                    stack.pop();
                    continue;
                }
                Grad::Foreign => {
                    trace::break_graph("backward() reaches a tensor that was computed outside the function")?
                }
                Grad::Op => {}
            }
            let operands = node.operands();
            let spent = node.freed.load(Ordering::Relaxed) && !SAVES_NOTHING.contains(&node.op.name);
            if spent || operands.is_empty() {
                return Err(Error::runtime(
                    "Trying to backward through the graph a second time (or directly access saved tensors after they \
                     have already been freed). Specify retain_graph=True if you need to backward through the graph a \
                     second time.",
                )
                .with_op(node.op.name)
                .with_loc(node.loc.clone()));
            }
            let before = stack.len();
            stack.extend(operands.iter().rev().filter(|o| self.id(o).is_none()).cloned());
            if stack.len() > before {
                continue;
            }
            let ids = operands.iter().filter_map(|o| self.id(o)).collect();
            let id = self.graph.add(torsh_ir::Node {
                op: node.op,
                attrs: node.attrs.clone(),
                operands: ids,
                ty: node.ty.clone(),
            });
            self.graph.set_loc(id, node.loc.clone());
            self.note(&node, id);
            if let Some(slot) = node.retain.get() {
                self.leaves.push((id, slot.clone()));
            }
            stack.pop();
        }
        self.id(root).ok_or_else(|| Error::internal("a node was not recorded"))
    }

    // The gradients as lazy nodes.
    fn differentiate(
        mut self,
        seeds: &[(NodeId, NodeId)],
        wrt: &[NodeId],
        options: Options,
    ) -> Result<Vec<Option<NodeRef>>> {
        let known = self.graph.len();
        let (mut graph, grads) = autodiff::grad(std::mem::take(&mut self.graph), seeds, wrt)?;
        graph.set_outputs(grads.iter().flatten().copied().collect());
        let live = graph.live();
        self.lazy.resize(graph.len(), None);
        let first = self.devices.first().copied().unwrap_or_default();
        let mut constants = Constants::new();
        for id in graph.ids() {
            let node = graph.node(id);
            let added = id.index() >= known;
            let anywhere = self.devices.len() > 1 && {
                let leaf = matches!(node.op.kind, Kind::Full | Kind::Iota | Kind::Constant);
                let from_constants = added && node.operands.iter().all(|o| constants.contains_key(&(*o, first)));
                leaf || (from_constants && !node.operands.is_empty() && !node::moves(node.op))
            };
            if (added && !live[id.index()]) || (!added && !anywhere) {
                continue;
            }
            let make = |device: Device, constants: &Constants| {
                let operands: Result<Operands> =
                    node.operands.iter().map(|o| find(&self.lazy, constants, *o, device)).collect();
                let operands = operands?;
                let records = options.create_graph
                    && node.ty.dtype.is_float()
                    && !matches!(node.op.vjp, Vjp::None(_))
                    && operands.iter().any(|o| o.requires_grad());
                let grad = if records { Grad::Op } else { Grad::None };
                crate::live::count_node();
                let device = node::place(node.op, &node.attrs, device);
                let loc = graph.loc(id).cloned();
                Ok::<_, Error>(Node::new(node.op, node.attrs.clone(), node.ty.clone(), device, operands, loc, grad))
            };
            if anywhere {
                for &device in &self.devices {
                    let made = make(device, &constants)?;
                    constants.insert((id, device), made);
                }
                continue;
            }
            let anchor = node.operands.iter().find(|o| !constants.contains_key(&(**o, first)));
            let device = anchor.and_then(|o| self.lazy[o.index()].as_ref()).map_or(first, |n| n.device);
            let made = make(device, &constants)?;
            self.lazy[id.index()] = Some(made);
        }
        if !options.retain_graph && !options.create_graph {
            self.recorded.iter().filter(|n| matches!(n.grad, Grad::Op)).for_each(|n| {
                n.walked.store(true, Ordering::Relaxed);
                if !SAVES_NOTHING.contains(&n.op.name) {
                    n.free_history();
                }
            });
        }
        Ok(grads
            .iter()
            .zip(wrt)
            .map(|(g, x)| {
                let device = self.lazy[x.index()].as_ref().map_or(first, |n| n.device);
                let node = find(&self.lazy, &constants, (*g)?, device).ok()?;
                // A gradient that is a forward value must not carry that value's history.
                Some(if options.create_graph { node } else { ops::detach(&node) })
            })
            .collect())
    }
}

/// The op `full` and its number, where a node visibly holds one number everywhere. Rules that look for
/// constants see it, however it was broadcast.
fn number(node: &NodeRef) -> Option<(Op, Scalar)> {
    let mut node = node.clone();
    while !node.is_realised() {
        match node.op.kind {
            Kind::Full => return Some((node.op, node.attrs.scalar(0))),
            Kind::View(View::Reshape | View::Expand | View::Permute) => {
                let operand = node.operands().first()?.clone();
                node = operand;
            }
            _ => return None,
        }
    }
    None
}

fn seed(output: &Tensor, node: &NodeRef, cotangent: Option<&Tensor>) -> Result<NodeRef> {
    match cotangent {
        Some(c) => {
            let ty = c.ty();
            if ty.shape != node.ty.shape {
                return Err(Error::runtime(format!(
                    "Mismatch in shape: grad_output has a shape of {} and output has a shape of {}.",
                    ty.shape, node.ty.shape
                )));
            }
            if c.device() != node.device {
                return Err(Error::device(format!(
                    "invalid gradient: expected device {}, but got {}",
                    node.device,
                    c.device()
                )));
            }
            ops::cast(&c.node(), node.ty.dtype)
        }
        None if output.shape().numel() == 1 => {
            ops::full(Scalar::Float(1.0), node.ty.dtype, &node.ty.shape, node.device)
        }
        None => Err(Error::runtime("grad can be implicitly created only for scalar outputs")),
    }
}

fn record(outputs: &[Tensor], cotangents: &[Option<Tensor>]) -> Result<(Tape, Vec<(NodeId, NodeId)>)> {
    let mut tape = Tape::default();
    let mut seeds = Vec::new();
    for (i, output) in outputs.iter().enumerate() {
        let node = output.node();
        if !node.requires_grad() {
            return Err(Error::runtime(format!(
                "element {i} of tensors does not require grad and does not have a grad_fn"
            )));
        }
        let cotangent = seed(output, &node, cotangents.get(i).and_then(Option::as_ref))?;
        let id = tape.visit(&node)?;
        let cotangent = if cotangent.requires_grad() { tape.visit(&cotangent)? } else { tape.value(&cotangent) };
        seeds.push((id, cotangent));
    }
    Ok((tape, seeds))
}

fn with_mode<R>(options: Options, f: impl FnOnce() -> R) -> R {
    if options.create_graph { f() } else { mode::no_grad(f) }
}

/// `torch.autograd.backward`: accumulates into the leaves, or into `inputs` alone.
pub fn backward(
    outputs: &[Tensor],
    cotangents: &[Option<Tensor>],
    inputs: Option<&[Tensor]>,
    options: Options,
) -> Result<()> {
    let (tape, seeds) = with_mode(options, || record(outputs, cotangents))?;
    let mut leaves = tape.leaves.clone();
    if let Some(inputs) = inputs {
        let nodes: Vec<NodeRef> = inputs.iter().map(Tensor::node).collect();
        leaves.retain(|(id, _)| nodes.iter().any(|n| tape.id(n) == Some(*id)));
    }
    let wrt: Vec<NodeId> = leaves.iter().map(|(id, _)| *id).collect();
    let grads = tape.differentiate(&seeds, &wrt, options)?;
    for ((_, slot), grad) in leaves.iter().zip(grads) {
        if let Some(grad) = grad {
            accumulate(slot, &grad, options)?;
        }
    }
    Ok(())
}

fn accumulate(slot: &Arc<GradSlot>, grad: &NodeRef, options: Options) -> Result<()> {
    let old = trace::with_grad(slot, |g| g.clone());
    let Some(old) = old else {
        let fresh = Tensor::new(grad.clone());
        trace::with_grad(slot, |g| *g = Some(fresh));
        return Ok(());
    };
    with_mode(options, || {
        let sum = ops::apply_named("add", &[old.node(), grad.clone()], Default::default())?;
        if options.create_graph {
            let fresh = Tensor::new(sum);
            trace::with_grad(slot, |g| *g = Some(fresh));
            return Ok(());
        }
        old.assign(&sum)
    })
}

/// `torch.autograd.grad`: the gradients of `inputs`; `None` where no path leads to an output.
pub fn grad(
    outputs: &[Tensor],
    inputs: &[Tensor],
    cotangents: &[Option<Tensor>],
    allow_unused: bool,
    options: Options,
) -> Result<Vec<Option<Tensor>>> {
    let nodes: Vec<NodeRef> = inputs.iter().map(Tensor::node).collect();
    if nodes.iter().any(|n| !n.requires_grad()) {
        return Err(Error::runtime("One of the differentiated Tensors does not require grad"));
    }
    let (tape, seeds) = with_mode(options, || record(outputs, cotangents))?;
    let ids: Vec<Option<NodeId>> = nodes.iter().map(|n| tape.id(n)).collect();
    let wrt: Vec<NodeId> = ids.iter().flatten().copied().collect();
    let mut found = tape.differentiate(&seeds, &wrt, options)?.into_iter();
    let mut out = Vec::with_capacity(ids.len());
    for id in ids {
        let grad = if id.is_some() { found.next().flatten() } else { None };
        if grad.is_none() && !allow_unused {
            return Err(Error::runtime(
                "One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True \
                 if this is the desired behavior.",
            ));
        }
        out.push(grad.map(Tensor::new));
    }
    Ok(out)
}
