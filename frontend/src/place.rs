//! Work on several devices: which device an operation runs on, how pending work is cut into parts of one device,
//! and whether a trace is the work of one.
//!
//! The rules are PyTorch's: operands are on one device, but a 0-d tensor of the CPU may stand beside tensors of
//! another device and is copied there. Until a device other than the CPU has been opened, nothing here does more
//! than look at one flag.

use crate::live;
use crate::mode;
use crate::node::{Grad, Node, NodeRef, Operands};
use crate::promote::Arg;
use crate::session;
use crate::trace;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use torsh_ir::exec::Device;
use torsh_ir::op::Kind;
use torsh_ir::{Error, Loc, Result};

/// The refusal of operands on two devices.
#[cold]
pub(crate) fn two(a: Device, b: Device) -> Error {
    // PyTorch names the CPU last.
    let (a, b) = if a == Device::Cpu { (b, a) } else { (a, b) };
    Error::device(format!(
        "Expected all tensors to be on the same device, but found at least two devices, {a} and {b}!"
    ))
}

/// Whether a tensor may stand beside those of any device: 0-d and on the CPU.
pub(crate) fn is_number(node: &Node) -> bool {
    node.device == Device::Cpu && node.ty.rank() == 0
}

/// The device of several tensors, of which numbers may go anywhere;
/// `None` without tensors.
fn agreed(devices: impl Iterator<Item = (Device, bool)>) -> Result<Option<Device>> {
    let (mut found, mut any) = (None, None);
    for (device, number) in devices {
        any = Some(device);
        match found {
            _ if number => {}
            None => found = Some(device),
            Some(d) if d == device => {}
            Some(d) => return Err(two(d, device)),
        }
    }
    Ok(found.or(any))
}

/// The device on which an operation on these operands runs.
pub(crate) fn common(args: &[Arg]) -> Result<Device> {
    if !session::others() {
        return Ok(Device::Cpu);
    }
    let facts = args.iter().filter_map(|a| match a {
        Arg::Tensor(t) => Some(t.with(|s| (s.node.device, is_number(&s.node)))),
        Arg::Scalar(_) => None,
    });
    Ok(agreed(facts)?.unwrap_or(mode::places().device))
}

/// The operands of an op on one device, and the device.
pub(crate) fn together(operands: &[NodeRef]) -> Result<(Device, Operands)> {
    let Some(first) = operands.first() else { return Ok((mode::places().device, Operands::new())) };
    if operands[1..].iter().all(|o| o.device == first.device) {
        return Ok((first.device, Operands::from_iter(operands.iter().cloned())));
    }
    let device = agreed(operands.iter().map(|o| (o.device, is_number(o))))?.unwrap_or_default();
    let moved: Result<Operands> = operands.iter().map(|o| to_device(o, device)).collect();
    Ok((device, moved?))
}

/// The value of a node on a device; the node itself where it is there.
///
/// # Errors
/// A `Device` error when the device is not there.
pub fn to_device(x: &NodeRef, device: Device) -> Result<NodeRef> {
    if x.device == device {
        return Ok(x.clone());
    }
    session::get()?.on(device).map_err(|e| e.with_loc(mode::loc()))?;
    if let Some(made) = remade(x, device) {
        return Ok(made);
    }
    let records = mode::grad_enabled() && x.requires_grad();
    live::count_node();
    Ok(Node::to_device(x, device, mode::loc(), if records { Grad::Op } else { Grad::None }))
}

/// Operations in a number that is made again on another device.
const MAX_REMADE: usize = 256;

// What takes no data with it is made again where it is wanted: a constant, and in a trace a number that follows from
// Python floats, so that a program need not compute on two devices.
fn remade(x: &NodeRef, device: Device) -> Option<NodeRef> {
    let again = |n: &NodeRef, operands: Operands| {
        Node::new(n.op, n.attrs.clone(), n.ty.clone(), device, operands, n.loc.clone(), Grad::None)
    };
    let pending = |n: &NodeRef| !n.is_realised() && !n.requires_grad();
    if pending(x) && matches!(x.op.kind, Kind::Full | Kind::Iota | Kind::Constant) {
        return Some(again(x, Operands::new()));
    }
    if trace::active() == 0 {
        return None;
    }
    let mut made: HashMap<*const Node, NodeRef> = HashMap::new();
    let mut stack = vec![x.clone()];
    while let Some(node) = stack.last().cloned() {
        let key = Arc::as_ptr(&node);
        if made.contains_key(&key) {
            stack.pop();
            continue;
        }
        if !is_number(&node) || node.requires_grad() || made.len() > MAX_REMADE {
            return None;
        }
        let new = if node.is_realised() {
            Node::to_device(&node, device, node.loc.clone(), Grad::None)
        } else {
            let mut operands = node.operands();
            if node.is_alias() {
                operands.truncate(1);
            }
            let waiting: SmallVec<[NodeRef; 2]> =
                operands.iter().filter(|o| !made.contains_key(&Arc::as_ptr(o))).cloned().collect();
            if !waiting.is_empty() {
                stack.extend(waiting);
                continue;
            }
            if operands.is_empty() && !matches!(node.op.kind, Kind::Full | Kind::Iota | Kind::Constant) {
                return None;
            }
            let operands: Operands = operands.iter().filter_map(|o| made.get(&Arc::as_ptr(o)).cloned()).collect();
            if node.is_alias() { operands.first()?.clone() } else { again(&node, operands) }
        };
        made.insert(key, new);
        stack.pop();
    }
    made.remove(&Arc::as_ptr(x))
}

/// Pending copies between devices under these nodes, in stages: those of a stage need none of later ones.
pub(crate) fn stages(roots: &[NodeRef]) -> Vec<Vec<NodeRef>> {
    let mut levels: HashMap<*const Node, usize> = HashMap::new();
    let mut found: Vec<Vec<NodeRef>> = Vec::new();
    // Held so that addresses stay their nodes'.
    let mut held: Vec<NodeRef> = Vec::new();
    let mut stack = roots.to_vec();
    while let Some(node) = stack.last().cloned() {
        let key = Arc::as_ptr(&node);
        if levels.contains_key(&key) {
            stack.pop();
            continue;
        }
        let mut operands = node.resolve().err().unwrap_or_default();
        if node.is_alias() {
            operands.truncate(1);
        }
        let before = stack.len();
        stack.extend(operands.iter().filter(|o| !levels.contains_key(&Arc::as_ptr(o))).cloned());
        if stack.len() > before {
            continue;
        }
        let mut level = operands.iter().filter_map(|o| levels.get(&Arc::as_ptr(o)).copied()).max().unwrap_or(0);
        if node.moves() && !operands.is_empty() {
            found.resize(found.len().max(level + 1), Vec::new());
            found[level].push(node.clone());
            level += 1;
        }
        levels.insert(key, level);
        held.push(node);
        stack.pop();
    }
    found
}

/// Nodes by their device.
pub(crate) fn by_device(nodes: impl IntoIterator<Item = NodeRef>) -> Vec<(Device, Vec<NodeRef>)> {
    let mut parts: Vec<(Device, Vec<NodeRef>)> = Vec::new();
    for node in nodes {
        match parts.iter_mut().find(|(d, _)| *d == node.device) {
            Some((_, list)) => list.push(node),
            None => parts.push((node.device, vec![node])),
        }
    }
    parts
}

/// Why a trace is not the work of one device.
pub(crate) struct Conflict {
    pub(crate) reason: String,
    pub(crate) loc: Option<Loc>,
}

/// The device of a traced program with these outputs. Copies of its inputs from other devices are made before it
/// runs; any other copy is a conflict.
pub(crate) fn of_trace(roots: &[NodeRef]) -> std::result::Result<Device, Conflict> {
    if !session::others() {
        return Ok(Device::Cpu);
    }
    let mut device: Option<Device> = None;
    let mut meet = |d: Device, loc: &Option<Loc>| match device {
        Some(known) if known != d => Err(Conflict {
            reason: format!("the function works on tensors of two devices, {known} and {d}"),
            loc: loc.clone(),
        }),
        _ => {
            device = Some(d);
            Ok(())
        }
    };
    let mut seen = HashSet::new();
    let mut stack: Vec<NodeRef> = Vec::new();
    for root in roots {
        meet(root.device, &root.loc)?;
        stack.push(root.clone());
    }
    while let Some(node) = stack.pop() {
        let Err(mut operands) = node.resolve() else { continue };
        if !seen.insert(Arc::as_ptr(&node)) {
            continue;
        }
        if node.is_alias() {
            operands.truncate(1);
        }
        meet(node.device, &node.loc)?;
        if !node.moves() {
            stack.extend(operands);
            continue;
        }
        let Some(mut from) = operands.first().cloned() else { continue };
        while from.is_alias() && !from.is_realised() {
            let Some(next) = from.operands().first().cloned() else { break };
            from = next;
        }
        if !from.is_realised() {
            let reason = format!("a tensor computed in the function goes from {} to {}", from.device, node.device);
            return Err(Conflict { reason, loc: node.loc.clone() });
        }
    }
    Ok(device.unwrap_or_default())
}
