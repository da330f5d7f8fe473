//! Reverse-mode differentiation, graph to graph.
//!
//! Needs: any valid graph, composites included. Leaves: the same nodes under the same ids, with the nodes
//! that compute gradients appended; they are ordinary nodes, so gradients can be differentiated again. A
//! gradient node carries the line of the forward node that it stems from.
//!
//! The sweep walks ids downwards from the outputs (ids are a topological order, so every user of a node is
//! done before the node), without recursion on the depth of the graph, and visits only nodes that lie on a
//! differentiable path from a wanted node to a seeded output. Cotangents that meet at a node are summed in
//! visiting order, which makes the result deterministic.

use crate::{attention, decompose};
use std::collections::{BTreeMap, HashMap};
use torsh_ir::builder::{Builder, Val};
use torsh_ir::error::{Error, ErrorKind, Result};
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::{Kind, Vjp, VjpCall};

/// Gradients of `sum(<output, cotangent>)` over all `seeds` with respect to each node of `wrt`, in order;
/// `None` where no differentiable path leads from that node to a seeded output.
///
/// Errors: `Shape` or `DType` when a cotangent's type is not its output's; `Runtime` when a gradient that is
/// needed would flow through an op without one (naming op, reason and the user's line).
pub fn grad(graph: Graph, seeds: &[(NodeId, NodeId)], wrt: &[NodeId]) -> Result<(Graph, Vec<Option<NodeId>>)> {
    check_arguments(&graph, seeds, wrt)?;
    let builder = Builder::new(graph);
    let found = sweep(&builder, seeds, wrt, Below::Continue)?;
    let graph = builder.finish()?;
    Ok((graph, wrt.iter().map(|w| found.get(w).copied()).collect()))
}

fn check_arguments(graph: &Graph, seeds: &[(NodeId, NodeId)], wrt: &[NodeId]) -> Result<()> {
    let ids = seeds.iter().flat_map(|&(o, c)| [o, c]).chain(wrt.iter().copied());
    if let Some(bad) = ids.into_iter().find(|id| id.index() >= graph.len()) {
        return Err(Error::internal(format!("grad: no node %{} in a graph of {}", bad.0, graph.len())));
    }
    for &(output, cotangent) in seeds {
        let (want, got) = (graph.ty(output), graph.ty(cotangent));
        if want != got {
            let kind = if want.dtype == got.dtype { ErrorKind::Shape } else { ErrorKind::DType };
            return Err(Error::new(kind, format!("the gradient of an output of type {want} has type {got}"))
                .with_op("grad")
                .with_types([want, got]));
        }
    }
    Ok(())
}

/// Whether gradients flow on below the wanted nodes.
#[derive(Copy, Clone, PartialEq)]
enum Below {
    /// Yes: a wanted node may be computed from another wanted node.
    Continue,
    /// No: the wanted nodes are the operands of the expression being differentiated.
    Stop,
}

/// The gradients of the wanted nodes that are reached.
fn sweep(
    builder: &Builder,
    seeds: &[(NodeId, NodeId)],
    wrt: &[NodeId],
    below: Below,
) -> Result<HashMap<NodeId, NodeId>> {
    let on_path = differentiable_paths(builder, seeds, wrt, below);
    // Cotangents of nodes not yet visited; the largest id is next.
    let mut pending: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    let mut wanted: HashMap<NodeId, Option<NodeId>> = wrt.iter().map(|&w| (w, None)).collect();
    for &(output, cotangent) in seeds {
        if on_path.contains(output) {
            accumulate(builder, &mut pending, output, cotangent)?;
        }
    }
    while let Some((id, ct)) = pending.pop_last() {
        if let Some(slot) = wanted.get_mut(&id) {
            *slot = Some(ct);
            if below == Below::Stop {
                continue;
            }
        }
        let (node, loc) = builder.with(|g| (g.node(id).clone(), g.loc(id).cloned()));
        // A wanted node reached through nothing further: a leaf, or one whose operands need no gradient.
        if !node.operands.iter().any(|&o| on_path.contains(o)) {
            continue;
        }
        builder.set_loc(loc.clone());
        // The plain composition of attention has a gradient that needs no score matrix.
        let attention = if node.op.kind == Kind::Dot {
            attention::rewritten(builder, id, &|inner| wanted.contains_key(&inner))?
        } else {
            None
        };
        if let Some((out, leaves)) = attention {
            let found = sweep(builder, &[(out.id(), ct)], &leaves, Below::Stop).map_err(|e| e.with_loc(loc))?;
            for leaf in leaves.into_iter().filter(|&l| on_path.contains(l)) {
                if let Some(&cotangent) = found.get(&leaf) {
                    accumulate(builder, &mut pending, leaf, cotangent)?;
                }
            }
            continue;
        }
        let cotangents = pull_back(builder, id, &node, ct).map_err(|e| e.with_loc(loc))?;
        for (i, (&operand, cotangent)) in node.operands.iter().zip(cotangents).enumerate() {
            let Some(cotangent) = cotangent.filter(|_| on_path.contains(operand)) else { continue };
            check_cotangent(builder, &node, i, cotangent)?;
            accumulate(builder, &mut pending, operand, cotangent)?;
        }
    }
    Ok(wanted.into_iter().filter_map(|(w, ct)| Some((w, ct?))).collect())
}

/// A set of nodes.
struct Paths(HashMap<NodeId, bool>);

impl Paths {
    fn contains(&self, id: NodeId) -> bool {
        self.0.get(&id).copied().unwrap_or(false)
    }
}

/// The nodes on a path of floating point values from a wanted node to a seeded output.
fn differentiable_paths(builder: &Builder, seeds: &[(NodeId, NodeId)], wrt: &[NodeId], below: Below) -> Paths {
    builder.with(|g| {
        let mut on_path: HashMap<NodeId, bool> = HashMap::new();
        for &w in wrt {
            on_path.insert(w, g.ty(w).dtype.is_float());
        }
        let mut order: Vec<NodeId> = Vec::new();
        let mut seen: HashMap<NodeId, ()> = HashMap::new();
        let mut stack: Vec<NodeId> = seeds.iter().map(|s| s.0).collect();
        while let Some(id) = stack.pop() {
            let stop = below == Below::Stop && on_path.contains_key(&id);
            if stop || !g.ty(id).dtype.is_float() || seen.insert(id, ()).is_some() {
                continue;
            }
            order.push(id);
            stack.extend_from_slice(&g.node(id).operands);
        }
        order.sort_unstable();
        for id in order {
            let reached = g.node(id).operands.iter().any(|o| on_path.get(o).copied().unwrap_or(false));
            let entry = on_path.entry(id).or_insert(false);
            *entry |= reached;
        }
        Paths(on_path)
    })
}

fn accumulate(builder: &Builder, pending: &mut BTreeMap<NodeId, NodeId>, id: NodeId, cotangent: NodeId) -> Result<()> {
    let sum = match pending.get(&id) {
        None => cotangent,
        Some(&old) => {
            let sum = builder.val(old) + builder.val(cotangent);
            if let Some(e) = builder.error() {
                return Err(Error::internal(format!("gradients cannot be added: {e}")));
            }
            sum.id()
        }
    };
    pending.insert(id, sum);
    Ok(())
}

/// Cotangents of the operands of one node.
fn pull_back(builder: &Builder, id: NodeId, node: &Node, ct: NodeId) -> Result<Vec<Option<NodeId>>> {
    let name = node.op.name;
    match node.op.vjp {
        Vjp::Rule(rule) => {
            let x: Vec<Val<'_>> = node.operands.iter().map(|&o| builder.val(o)).collect();
            let call = VjpCall { x: &x, attrs: &node.attrs, out: builder.val(id), ct: builder.val(ct) };
            let cotangents = rule(&call);
            if let Some(e) = builder.error() {
                // A limit is the user's; anything else that a rule builds wrongly is ours.
                let e = if e.kind() == ErrorKind::Limit {
                    e
                } else {
                    Error::internal(format!("its gradient rule fails: {e}")).with_op(name)
                };
                return Err(e);
            }
            if cotangents.len() != node.operands.len() {
                return Err(Error::internal(format!(
                    "its gradient rule gives {} cotangents for {} operands",
                    cotangents.len(),
                    node.operands.len()
                ))
                .with_op(name));
            }
            Ok(cotangents.into_iter().map(|c| c.map(Val::id)).collect())
        }
        Vjp::ViaDecompose => {
            // The forward value is spelled out once more; merging equal nodes removes the copy as soon as the
            // composite itself is decomposed.
            let result = decompose::inline(builder, node, &node.operands)?;
            let mut found = sweep(builder, &[(result, ct)], &node.operands, Below::Stop)?;
            // Taken out, so that an operand that stands twice gets its gradient once.
            Ok(node.operands.iter().map(|o| found.remove(o)).collect())
        }
        Vjp::None(reason) => Err(Error::new(ErrorKind::Runtime, format!("has no gradient: {reason}")).with_op(name)),
    }
}

fn check_cotangent(builder: &Builder, node: &Node, operand: usize, cotangent: NodeId) -> Result<()> {
    let (want, got) = builder.with(|g| (g.ty(node.operands[operand]).clone(), g.ty(cotangent).clone()));
    if want == got {
        return Ok(());
    }
    Err(Error::internal(format!("its gradient rule gives {got} for operand {operand} of type {want}"))
        .with_op(node.op.name))
}

#[cfg(test)]
mod tests;
