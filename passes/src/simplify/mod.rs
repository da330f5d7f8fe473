//! Rewrites a graph to a smaller one with the same meaning: named rules, constant folding, common
//! subexpressions, dead nodes.
//!
//! Needs: any valid graph. Leaves: the same inputs (used or not) and the same outputs, in order; no dead and
//! no equal nodes; no node that a rule would still rewrite, so a second run changes nothing (unless the
//! first ran out of its folding budget). New nodes carry the line of the node that they replace. An index out
//! of range is an error only where an output needs what is read there: with a dead read goes its error.
//!
//! One walk in id order: each node is taken with its operands already simplified, rules are tried until none
//! fires, and the result is hash-consed, which merges equal nodes (operand order is part of equality and
//! inputs are never merged). A rule looks only at the operands below a node, never at its users, and does
//! constant work, so the walk is linear. Runs that fire too many rules stop with an error that names the last
//! ones.

mod fold;
mod rule;
mod scalar_rules;
mod tensor_rules;
#[cfg(test)]
mod tests;
mod view_rules;

pub use rule::Rule;

use crate::rebuild;
use fold::Budget;
use rule::{Rhs, Term};
use std::collections::VecDeque;
use torsh_ir::attr::Attrs;
use torsh_ir::error::{Error, Loc, Result};
use torsh_ir::graph::{Graph, Node, NodeId, Operands};
use torsh_ir::op::{Kind, Op};
use torsh_ir::ops;
use torsh_ir::scalar::ReduceOp;
use torsh_ir::shape::Type;

/// Rules that may fire per node of the graph, on average.
const STEPS_PER_NODE: u64 = 64;
/// Replacements inside replacements.
const MAX_DEPTH: usize = 128;
/// How many of the last rules an error names.
const REMEMBERED: usize = 12;

/// What a run did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// How often each rule fired, in the order of first firing; folded nodes count as `fold`.
    pub fired: Vec<(&'static str, u64)>,
    /// Rules that fired, in total.
    pub steps: u64,
}

/// Every rule, in the order in which a list tries them.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [scalar_rules::ALL, view_rules::ALL, tensor_rules::ALL].into_iter().flatten().copied().flatten()
}

/// Simplifies a graph.
pub fn run(graph: Graph) -> Result<Graph> {
    let limit = STEPS_PER_NODE * (graph.len() as u64 + 64);
    run_with(&graph, limit).map(|(graph, _)| graph)
}

/// Simplifies a graph with a given step limit, and reports what was done.
pub fn run_with(graph: &Graph, max_steps: u64) -> Result<(Graph, Report)> {
    let (copy, mut map) = rebuild::with_inputs(graph);
    let mut simplifier = Simplifier {
        graph: copy,
        loc: None,
        budget: Budget::new(),
        report: Report::default(),
        last: VecDeque::new(),
        depth: 0,
        max_steps,
    };
    for id in rebuild::live_nodes(graph) {
        simplifier.loc = graph.loc(id).cloned();
        let node = Node { operands: map.all(&graph.node(id).operands)?, ..graph.node(id).clone() };
        let new = simplifier.make(node).map_err(|e| e.with_loc(graph.loc(id).cloned()))?;
        map.set(id, new);
    }
    let mut result = simplifier.graph;
    result.set_outputs(map.all(graph.outputs())?.into_vec());
    Ok((rebuild::compact(&result)?, simplifier.report))
}

struct Simplifier {
    graph: Graph,
    loc: Option<Loc>,
    budget: Budget,
    report: Report,
    last: VecDeque<&'static str>,
    depth: usize,
    max_steps: u64,
}

impl Simplifier {
    /// The simplified node for `node`, whose operands are simplified.
    fn make(&mut self, node: Node) -> Result<NodeId> {
        let term = Term { graph: &self.graph, node: &node };
        for rule in lists(node.op.kind).into_iter().flatten() {
            if let Some(replacement) = (rule.apply)(&term) {
                return self.replace(&node, rule.name, replacement);
            }
        }
        if let Some((op, attrs)) = self.as_data(&node) {
            self.count("fold")?;
            let operands = Operands::new();
            return Ok(self.add(Node { op: ops::op(op), attrs, operands, ty: node.ty }));
        }
        Ok(self.add(node))
    }

    fn as_data(&mut self, node: &Node) -> Option<(&'static str, Attrs)> {
        if node.op.kind == Kind::Constant {
            let value = fold::uniform_constant(node)?;
            return Some(("full", [value.into(), node.attrs[1].clone(), node.attrs[2].clone()].into_iter().collect()));
        }
        fold::fold(&self.graph, node, &mut self.budget).map(|t| fold::data_node(&t))
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id = self.graph.add(node);
        self.graph.set_loc(id, self.loc.clone());
        id
    }

    fn replace(&mut self, node: &Node, rule: &'static str, replacement: Rhs) -> Result<NodeId> {
        self.count(rule)?;
        if self.depth == MAX_DEPTH {
            return Err(self.runaway());
        }
        self.depth += 1;
        let new = self.build(replacement).map_err(|e| Error::internal(format!("rule {rule}: {e}")))?;
        self.depth -= 1;
        let ty = self.graph.ty(new);
        if *ty != node.ty {
            return Err(Error::internal(format!("rule {rule} replaces {} by {ty}", node.ty)).with_op(node.op.name));
        }
        Ok(new)
    }

    fn build(&mut self, replacement: Rhs) -> Result<NodeId> {
        match replacement {
            Rhs::Old(id) => Ok(id),
            Rhs::New { op, x, attrs } => {
                let operands: Operands = x.into_iter().map(|x| self.build(*x)).collect::<Result<_>>()?;
                let types: Vec<Type> = operands.iter().map(|&o| self.graph.ty(o).clone()).collect();
                let op: Op = ops::op(op);
                let ty = op.infer(&types, &attrs)?;
                self.make(Node { op, attrs, operands, ty })
            }
        }
    }

    fn count(&mut self, rule: &'static str) -> Result<()> {
        match self.report.fired.iter_mut().find(|f| f.0 == rule) {
            Some(entry) => entry.1 += 1,
            None => self.report.fired.push((rule, 1)),
        }
        self.report.steps += 1;
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(rule);
        if self.report.steps > self.max_steps { Err(self.runaway()) } else { Ok(()) }
    }

    fn runaway(&self) -> Error {
        let last: Vec<&str> = self.last.iter().copied().collect();
        Error::internal(format!(
            "simplify did not come to rest after {} steps; the last rules were {}",
            self.report.steps,
            last.join(", ")
        ))
    }
}

/// The rule lists of a kind, general before special.
fn lists(kind: Kind) -> [&'static [Rule]; 3] {
    use tensor_rules::*;
    let none: &'static [Rule] = &[];
    match kind {
        // Indices are checked at run time, so these stay even without elements.
        Kind::Take | Kind::Gather | Kind::Scatter | Kind::IndexPut => [none; 3],
        Kind::Input | Kind::Full | Kind::Composite => [none; 3],
        Kind::Constant | Kind::Iota => [EMPTY, none, none],
        Kind::Elementwise(op) => [EMPTY, scalar_rules::ELEMENTWISE, scalar_rules::of(op)],
        Kind::View(view) => [EMPTY, view_rules::VIEW, view_rules::of(view)],
        Kind::Reduce(ReduceOp::ArgMax | ReduceOp::ArgMin) => [EMPTY, ARG_REDUCE, none],
        Kind::Reduce(_) => [EMPTY, REDUCE, none],
        Kind::Scan(_) => [EMPTY, SCAN, none],
        Kind::Concat => [EMPTY, CONCAT, none],
        Kind::SliceScatter => [EMPTY, SLICE_SCATTER, none],
        Kind::ArgSort => [EMPTY, ARG_SORT, none],
        Kind::Dot => [EMPTY, DOT, none],
        Kind::Attention | Kind::AttentionGrad => [EMPTY, none, none],
    }
}
