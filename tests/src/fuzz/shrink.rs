//! Makes a failing case small while it fails in the same stage.

use super::Case;
use super::check::{Backend, Failure, check};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::op::Kind;

/// Checks that one failure may cost.
const BUDGET: usize = 400;

/// The smallest case found, with its failure.
pub fn shrink(case: Case, failure: Failure, backends: &[Backend]) -> (Case, Failure) {
    let mut best = (case, failure);
    let mut left = BUDGET;
    let mut progress = true;
    while progress && left > 0 {
        progress = false;
        for candidate in candidates(&best.0, &best.1) {
            if left == 0 {
                break;
            }
            left -= 1;
            if let Err(failure) = check(&candidate, backends)
                && failure.stage == best.1.stage
            {
                best = (candidate, failure);
                progress = true;
                break;
            }
        }
    }
    best
}

/// Smaller cases, the most promising first.
fn candidates(case: &Case, failure: &Failure) -> Vec<Case> {
    let mut out: Vec<Case> = Vec::new();
    let outputs = case.graph.outputs().to_vec();
    if !case.donate.is_empty() {
        out.push(Case { donate: Vec::new(), ..case.clone() });
    }
    if outputs.len() > 1 {
        let wrong = failure.output.and_then(|o| outputs.get(o)).copied();
        out.extend(wrong.map(|o| rebuild(case, vec![o], None)));
        for skip in 0..outputs.len() {
            let kept = outputs.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, &o)| o).collect();
            out.push(rebuild(case, kept, None));
        }
    }
    // Later nodes first: cutting there removes most.
    for id in case.graph.ids().rev() {
        let node = case.graph.node(id);
        if node.op.kind == Kind::Input {
            continue;
        }
        for &operand in &node.operands {
            if case.graph.ty(operand) == &node.ty {
                out.push(rebuild(case, outputs.clone(), Some((id, Replacement::Node(operand)))));
            }
        }
        if !outputs.contains(&id) || outputs.len() > 1 {
            let mut value = case.graph.clone();
            value.set_outputs(vec![id]);
            if let Ok(values) = eval_graph(&value, &case.inputs)
                && let Some(value) = values.into_iter().next()
            {
                out.push(rebuild(case, outputs.clone(), Some((id, Replacement::Input(value)))));
            }
        }
        // An operand instead of the output itself.
        if outputs.contains(&id) {
            for &operand in &node.operands {
                let moved = outputs.iter().map(|&o| if o == id { operand } else { o }).collect();
                out.push(rebuild(case, moved, None));
            }
        }
    }
    let size = |c: &Case| (c.graph.len(), c.graph.outputs().len(), c.donate.len());
    let old = size(case);
    out.retain(|c| size(c) < old);
    out
}

enum Replacement {
    Node(NodeId),
    Input(HostTensor),
}

/// The part of the graph that `outputs` need, with one node replaced.
fn rebuild(case: &Case, outputs: Vec<NodeId>, replace: Option<(NodeId, Replacement)>) -> Case {
    let old = &case.graph;
    let mut needed = vec![false; old.len()];
    for &o in &outputs {
        needed[o.index()] = true;
    }
    for id in old.ids().rev() {
        if needed[id.index()] {
            mark(old, id, &replace, &mut needed);
        }
    }
    let mut graph = Graph::new();
    let mut inputs = Vec::new();
    let mut map = vec![NodeId(0); old.len()];
    for id in old.ids().filter(|id| needed[id.index()]) {
        let node = old.node(id);
        map[id.index()] = match &replace {
            Some((at, Replacement::Node(other))) if *at == id => map[other.index()],
            Some((at, Replacement::Input(value))) if *at == id => {
                inputs.push(value.clone());
                graph.input(value.ty.clone())
            }
            _ if node.op.kind == Kind::Input => {
                let index = old.inputs().iter().position(|&i| i == id).unwrap_or_default();
                inputs.push(case.inputs[index].clone());
                graph.input(node.ty.clone())
            }
            _ => {
                let mut copy = node.clone();
                for o in &mut copy.operands {
                    *o = map[o.index()];
                }
                graph.add(copy)
            }
        };
    }
    graph.set_outputs(outputs.iter().map(|o| map[o.index()]).collect());
    let same = inputs.len() == case.inputs.len() && outputs == old.outputs();
    Case { graph, inputs, donate: if same { case.donate.clone() } else { Vec::new() } }
}

fn mark(graph: &Graph, id: NodeId, replace: &Option<(NodeId, Replacement)>, needed: &mut [bool]) {
    match replace {
        Some((at, Replacement::Node(other))) if *at == id => needed[other.index()] = true,
        Some((at, Replacement::Input(_))) if *at == id => {}
        _ => graph.node(id).operands.iter().for_each(|o| needed[o.index()] = true),
    }
}
