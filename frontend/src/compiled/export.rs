//! A traced function as a package sees it: a graph whose inputs are arguments and state, and whose outputs are results
//! and new state. Nothing else that the function does to tensors can be exported, and is refused.

use super::{Input, Program, ResultSpec, Slot, Target, see};
use crate::node::{Grad, lock};
use crate::place;
use crate::session;
use crate::tensor::Tensor;
use crate::trace::{self, Source};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Device};
use torsh_ir::op::{Kind, Vjp};
use torsh_ir::{Attr, Error, ErrorKind, Graph, Loc, Node, NodeId, Result, Type, ops};

/// Where an input of an exported graph comes from.
#[derive(Clone)]
pub enum From {
    /// The tensor argument at this leaf.
    Arg(usize),
    /// The float argument at this leaf.
    Float(usize),
    /// A tensor that the function found.
    Tensor(Tensor),
    /// A float that is read at each call.
    Captured(usize),
    /// Data of the function's own.
    Fixed(BufferRef),
}

/// What an output of an exported graph is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// The result of this number.
    Result(usize),
    /// The new value of what this input holds.
    Input(usize),
}

/// What a package needs of a traced function.
pub struct Export {
    /// The graph, without inputs that nothing needs.
    pub graph: Graph,
    /// What its inputs are.
    pub inputs: Vec<(From, Type)>,
    /// What its outputs are: results in order, then state.
    pub outputs: Vec<To>,
    /// Whether the function leaves gradients in tensors that had none: its next call would do something else.
    pub leaves_gradients: bool,
}

/// Bytes of integers that become a constant.
const MAX_BAKED_BYTES: usize = 256;

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Export, why)
}

fn is_small_int(ty: &Type) -> bool {
    !ty.dtype.is_float() && ty.nbytes() <= MAX_BAKED_BYTES
}

/// The refusal of a function that moves tensors: a graph names no device, so that the move would be lost.
fn moved(reason: &str) -> Error {
    refused(format!(
        "{reason}. A package names no device: its program runs where its state and inputs are. Move tensors before the \
         function is called, and export it with all of them on one device"
    ))
}

/// Why the active trace of a function that returned `results` is not the work of one device.
pub fn divided(results: &[Tensor]) -> Option<Error> {
    let conflict = place::of_trace(&see(results).roots(results)).err()?;
    Some(moved(&conflict.reason).with_loc(conflict.loc))
}

impl Program {
    /// The program for a package. Every argument is an input, whether the program needs it or not. Without `updates`, the
    /// outputs are the results alone. With `bake`, a few integers that the function made are constants of the graph instead
    /// of inputs, so that they can be compared with those of a trace at other sizes.
    ///
    /// Errors: `Export` for a function that writes its arguments, keeps tensors that it makes, moves tensors to another
    /// device, or uses gradients that are left from before.
    pub fn export(&self, updates: bool, bake: bool) -> Result<Export> {
        let slot_input = |slot: &Slot| match slot {
            Slot::Fixed(slot) => {
                self.inputs.iter().position(|i| matches!(&i.source, Source::Grad(s) if Arc::ptr_eq(s, slot)))
            }
            Slot::Arg(_) => None,
        };
        let graph = self.graph()?;
        let live = graph.live();
        let is_live = |input: usize| live[graph.inputs()[input].index()];
        // A number of the CPU may stand beside tensors of any device, in the program that is loaded, too.
        let number = |ty: &Type, device: Device| device == Device::Cpu && ty.rank() == 0;
        let mut inputs = self.inputs.iter().enumerate();
        let away = inputs.find(|(i, x)| x.device != self.device && is_live(*i) && !number(&x.ty, x.device));
        if let Some((_, input)) = away {
            let (from, to) = (input.device, self.device);
            return Err(moved(&format!("the function moves a tensor of type {} from {from} to {to}", input.ty)));
        }
        let mut outputs: Vec<(usize, To)> = Vec::new();
        for (i, result) in self.results.iter().enumerate() {
            let ResultSpec::New { output, .. } = result else {
                return Err(Error::internal("a result of an exported function is no tensor of its own"));
            };
            outputs.push((*output, To::Result(i)));
        }
        let mut leaves_gradients = false;
        for write in &self.writes {
            let input = match &write.target {
                Target::Handle(t) => {
                    let found = self.inputs.iter().position(|i| matches!(&i.source, Source::Handle(h) if h.same(t)));
                    Some(found.ok_or_else(|| Error::internal("a tensor is written that is no input"))?)
                }
                // A gradient that the program does not read is overwritten at each call: nobody sees it.
                Target::GradInPlace(slot) | Target::NewGrad(slot) => {
                    if let Slot::Arg(_) = slot {
                        return Err(refused(
                            "the function leaves a gradient in an argument; return it instead (torsh.autograd.grad)",
                        ));
                    }
                    let before = self.grads.iter().any(|(s, before)| *before && same(s, slot));
                    leaves_gradients |= !before;
                    slot_input(slot).filter(|&i| is_live(i))
                }
                Target::Arg(leaf) => {
                    return Err(refused(format!(
                        "the function writes its tensor argument {leaf} in place; return the new value instead"
                    )));
                }
                Target::Born(t) => match t.upgrade() {
                    Some(t) => {
                        return Err(refused(format!(
                            "the function makes a tensor of type {} and keeps it beyond the call; make it before, or return it",
                            t.ty()
                        )));
                    }
                    None => None,
                },
            };
            if let Some(input) = input.filter(|_| updates) {
                outputs.push((write.output, To::Input(input)));
            }
        }
        if !self.grad_handles.is_empty() {
            return Err(refused("the function puts a tensor from outside into a gradient"));
        }
        if self.clears.iter().any(|slot| slot_input(slot).is_some_and(is_live)) {
            return Err(refused(
                "the function uses gradients that an earlier backward() has left, and clears them: its next call would do \
                 something else. Call zero_grad() before the export",
            ));
        }
        let written = |input: usize| outputs.iter().any(|(_, to)| *to == To::Input(input));
        let baked = |(i, input): (usize, &Input)| match &input.source {
            Source::Fixed(buffer) if bake && is_live(i) && !written(i) && is_small_int(&input.ty) => {
                // A device's memory is read through the host.
                let host = session::get()?.copy(&input.ty, buffer, Device::Cpu)?;
                Ok(host.host_bytes().filter(|b| b.len() == input.ty.nbytes()).map(Arc::from))
            }
            _ => Ok(None),
        };
        let baked: Vec<Option<Arc<[u8]>>> = self.inputs.iter().enumerate().map(baked).collect::<Result<_>>()?;
        let kept: Vec<bool> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| {
                let needed = is_live(i) || written(i) || matches!(input.source, Source::Arg(_) | Source::Float(_));
                needed && baked[i].is_none()
            })
            .collect();
        let (graph, place) = self.pruned(&kept, &baked, outputs.iter().map(|(o, _)| *o))?;
        let mut inputs = Vec::new();
        for (input, _) in self.inputs.iter().zip(&kept).filter(|(_, kept)| **kept) {
            let from = match &input.source {
                Source::Arg(leaf) => From::Arg(*leaf),
                Source::Float(leaf) => From::Float(*leaf),
                Source::Handle(t) => From::Tensor(t.clone()),
                Source::Grad(slot) => {
                    From::Tensor(lock(&slot.grad).clone().ok_or_else(|| Error::internal("a gradient is missing"))?)
                }
                Source::Captured(k) => From::Captured(*k),
                Source::Fixed(buffer) => From::Fixed(buffer.clone()),
            };
            inputs.push((from, input.ty.clone()));
        }
        let outputs = outputs
            .into_iter()
            .map(|(_, to)| match to {
                To::Input(i) => To::Input(place[i]),
                result => result,
            })
            .collect();
        Ok(Export { graph, inputs, outputs, leaves_gradients })
    }

    // The graph with these inputs and outputs alone, nodes in their order, and the new number of each input.
    fn pruned(
        &self,
        kept: &[bool],
        baked: &[Option<Arc<[u8]>>],
        outputs: impl Iterator<Item = usize>,
    ) -> Result<(Graph, Vec<usize>)> {
        let old = self.graph()?;
        let mut graph = Graph::new();
        let mut place = vec![usize::MAX; kept.len()];
        let mut ids: HashMap<NodeId, NodeId> = HashMap::new();
        for (i, &input) in old.inputs().iter().enumerate().filter(|(i, _)| kept[*i]) {
            place[i] = graph.inputs().len();
            ids.insert(input, graph.input(old.ty(input).clone()));
        }
        for (&input, data) in old.inputs().iter().zip(baked) {
            let Some(data) = data else { continue };
            let ty = old.ty(input);
            let attrs = [Attr::Bytes(data.clone()), ty.dtype.into(), Attr::from(ty.shape.dims())];
            ids.insert(input, graph.apply(ops::op("constant"), &[], attrs.into_iter().collect())?);
        }
        let wanted: Vec<NodeId> = outputs.map(|o| old.outputs()[o]).collect();
        let mut needed = Graph::clone(old);
        needed.set_outputs(wanted.clone());
        let live = needed.live();
        for id in old.ids().filter(|id| live[id.index()] && old.node(*id).op.kind != Kind::Input) {
            let node = old.node(id);
            let operands: Option<_> = node.operands.iter().map(|o| ids.get(o).copied()).collect();
            let operands = operands.ok_or_else(|| Error::internal("an exported node needs what is not exported"))?;
            let copy = Node { op: node.op, attrs: node.attrs.clone(), operands, ty: node.ty.clone() };
            let new = graph.add(copy);
            // An error about this graph names the user's line.
            graph.set_loc(new, old.loc(id).cloned());
            ids.insert(id, new);
        }
        let outputs: Option<Vec<NodeId>> = wanted.iter().map(|o| ids.get(o).copied()).collect();
        graph.set_outputs(outputs.ok_or_else(|| Error::internal("an output is not exported"))?);
        Ok((graph, place))
    }
}

fn same(a: &Slot, b: &Slot) -> bool {
    match (a, b) {
        (Slot::Fixed(a), Slot::Fixed(b)) => Arc::ptr_eq(a, b),
        (Slot::Arg(a), Slot::Arg(b)) => a == b,
        _ => false,
    }
}

/// Where a gradient goes on the way from results to what requires it, that a graph does not show.
#[derive(Default)]
pub struct Strays {
    /// The line at which one stops, if one does: at a `detach`, at an operation under `no_grad`, or at a write in place under
    /// `no_grad`. Differentiating the graph would give another gradient than the function's own.
    pub stop: Option<Option<Loc>>,
    /// Tensors from outside that it goes on from, to what they were computed from there; `None` for one that has no handle.
    pub outside: Vec<Option<Tensor>>,
    /// Tensors from outside that it is for.
    pub leaves: Vec<Tensor>,
}

/// Follows gradients from these results of the active trace.
pub fn strays(results: &[Tensor]) -> Strays {
    let mut strays = Strays::default();
    let mut seen = HashSet::new();
    let mut stack: Vec<_> = results.iter().map(Tensor::node).collect();
    while let Some(node) = stack.pop() {
        if !seen.insert(Arc::as_ptr(&node)) {
            continue;
        }
        match &node.grad {
            Grad::Leaf(slot) => {
                strays.leaves.extend(trace::captured_of(slot));
                continue;
            }
            Grad::Foreign => {
                strays.outside.push(trace::captured_as(&node));
                continue;
            }
            Grad::Op | Grad::None => {}
        }
        // Below a number that is no float, or an operation without a gradient, none flows in the graph either.
        let differentiable = node.is_alias() || !matches!(node.op.vjp, Vjp::None(_));
        if !node.ty.dtype.is_float() || !differentiable {
            continue;
        }
        let operands = node.operands();
        let flows = operands.iter().any(|o| o.requires_grad());
        if (flows && !node.requires_grad()) || node.is_graft() {
            strays.stop = Some(node.loc.clone());
            break;
        }
        stack.extend(operands);
    }
    strays
}
