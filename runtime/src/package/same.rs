//! Whether two graphs mean the same, as far as the simplifier knows: the check of a template against a trace.

use std::collections::HashMap;
use torsh_ir::op::Kind;
use torsh_ir::{Graph, Node, NodeId, Result};
use torsh_passes::simplify;

/// Whether the graphs are equal once both are simplified, which is the first thing that a compiler does with them; the
/// order of nodes does not count. So a trace that leaves out what does nothing at its sizes (an expansion from 1 to 1, a
/// sum of one term) equals a graph that has it.
pub fn same_meaning(a: Graph, b: Graph) -> Result<bool> {
    Ok(in_order(&simplify::run(a)?).same(&in_order(&simplify::run(b)?)))
}

/// The graph with its nodes in the order in which the outputs need them.
fn in_order(graph: &Graph) -> Graph {
    let mut out = Graph::new();
    let mut place: HashMap<NodeId, NodeId> =
        graph.inputs().iter().map(|&id| (id, out.input(graph.ty(id).clone()))).collect();
    let mut stack: Vec<NodeId> = graph.outputs().iter().rev().copied().collect();
    while let Some(&id) = stack.last() {
        let node = graph.node(id);
        let waiting = node.operands.iter().rev().filter(|o| !place.contains_key(o));
        let before = stack.len();
        if !place.contains_key(&id) {
            stack.extend(waiting.copied());
        }
        if stack.len() > before {
            continue;
        }
        stack.pop();
        if node.op.kind == Kind::Input || place.contains_key(&id) {
            continue;
        }
        let operands = node.operands.iter().map(|o| place[o]).collect();
        let copy = Node { op: node.op, attrs: node.attrs.clone(), operands, ty: node.ty.clone() };
        place.insert(id, out.add(copy));
    }
    out.set_outputs(graph.outputs().iter().map(|o| place[o]).collect());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::text;

    fn same(a: &str, b: &str) -> bool {
        same_meaning(text::parse(a).unwrap(), text::parse(b).unwrap()).unwrap()
    }

    const HEAD: &str = "graph { %0: f32[1, 4] = input(index=0) %1: f32[1, 4] = input(index=1) ";

    #[test]
    fn what_does_nothing_does_not_count_and_the_rest_does() {
        let long = format!(
            "{HEAD} %2: f32[1, 4] = expand(%1) %3: f32[1, 4] = exp(%1) %4: f32[1, 4] = add(%0, %2)
             %5: f32[1, 4] = sum(%4, dims=[0]) return %5, %3, %0 }}"
        );
        let short = |op: &str| format!("{HEAD} %2: f32[1, 4] = {op} %3: f32[1, 4] = add(%0, %1) return %3, %2, %0 }}");
        assert!(same(&long, &short("exp(%1)")));
        assert!(!same(&long, &short("exp(%0)")));
        assert!(!same(&long, &short("exp2(%1)")));
        assert!(!same(&long, &format!("{HEAD} return %0 }}")));
    }
}
