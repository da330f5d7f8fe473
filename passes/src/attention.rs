//! Attention: the plain composition becomes `scaled_dot_product_attention`, and results that nobody reads are left
//! out of its one-pass form.
//!
//! [`run`] needs composites by name; it leaves the same outputs within the composite's tolerance. It replaces
//! `softmax(scores) @ v` where the scores are `q @ k'`, in any order of dims that a matrix product takes, multiplied
//! or divided by numbers, with masks added or filled with minus infinity, and where the score matrix is large enough
//! for the one-pass ops ([`Sizes::one_pass`]). Weights that something else reads stay as they are.
//!
//! [`results()`] needs primitives. A forward pass of which only the attention is read, not what the gradient needs,
//! gives only that; of 16-bit operands, in their dtype, where it would be rounded to that next.
//!
//! [`operands`] needs primitives, and is for targets whose attention takes f32 alone: 16-bit operands are converted.

mod results;

use crate::rebuild;
pub use results::{operands, results};
use torsh_ir::attr::{Attr, AttrsExt};
use torsh_ir::builder::{Builder, Val};
use torsh_ir::dtype::DType;
use torsh_ir::error::Result;
use torsh_ir::graph::{Graph, Node, NodeId};
use torsh_ir::op::{Kind, View};
use torsh_ir::ops::attention::{Options, Sizes};
use torsh_ir::scalar::{BinOp, ScalarOp};

/// Steps between the product and the softmax that are looked through.
const MAX_STEPS: usize = 16;
/// Notes on attentions in a program.
const MAX_NOTES: usize = 16;

/// An operand of a matrix product with the order of dims in which it is `[batch.., rows, columns]`.
struct Operand {
    id: NodeId,
    order: Vec<usize>,
}

/// A mask of the scores: batch dims, queries, keys.
#[derive(Copy, Clone)]
enum Mask {
    /// Keys that take part.
    Keep(NodeId),
    /// Keys that do not.
    Hide(NodeId),
    /// Added.
    Add(NodeId),
}

/// A plain composition of attention.
pub(crate) struct Found {
    q: Operand,
    k: Operand,
    v: Operand,
    masks: Vec<Mask>,
    scale: f64,
    causal: bool,
    /// The weights.
    softmax: NodeId,
    /// The nodes that it replaces, the root excepted.
    inner: Vec<NodeId>,
}

/// The composition whose last product is `root`, where one pass takes it.
pub(crate) fn find(graph: &Graph, root: NodeId) -> Option<Found> {
    composition(graph, root).filter(|found| found.sizes(graph).one_pass(graph.ty(root).dtype))
}

/// The composition whose last product is `root`, of any size.
fn composition(graph: &Graph, root: NodeId) -> Option<Found> {
    let last = graph.node(root);
    if last.op.kind != Kind::Dot {
        return None;
    }
    let weights = operand(graph, last, 0, false)?;
    let rank = weights.order.len();
    if weights.order.iter().enumerate().any(|(i, &d)| i != d) {
        return None;
    }
    let v = operand(graph, last, 1, true)?;
    let tail = [graph.shape(weights.id)[rank - 2], graph.shape(weights.id)[rank - 1]];
    let (mut inner, mut at) = (vec![weights.id], weights.id);
    while let Some(x) = regrouped(graph, at, tail) {
        inner.push(x);
        at = x;
    }
    let softmax = graph.node(at);
    if softmax.op.name != "softmax" || softmax.attrs.int(0) as usize + 1 != softmax.ty.rank() {
        return None;
    }
    let mut found = Found {
        q: Operand { id: root, order: Vec::new() },
        k: Operand { id: root, order: Vec::new() },
        v,
        masks: Vec::new(),
        scale: 1.0,
        causal: false,
        softmax: at,
        inner,
    };
    found.scores(graph, softmax.operands[0], tail, MAX_STEPS)?;
    let sizes = found.sizes(graph);
    let batch = |o: &Operand| o.order[..o.order.len() - 2].iter().map(|&d| graph.shape(o.id)[d]).product::<usize>();
    let fits = [&found.q, &found.k, &found.v].iter().all(|o| batch(o) == sizes.batch);
    fits.then_some(found)
}

/// Operand `side` of a product with one free and one contracted dim: batch dims, then the free and the contracted
/// one, or the other way round.
fn operand(graph: &Graph, dot: &Node, side: usize, contract_first: bool) -> Option<Operand> {
    let id = dot.operands[side];
    let (batch, contract) = (dot.attrs.ints(side), dot.attrs.ints(side + 2));
    let free: Vec<i64> =
        (0..graph.ty(id).rank() as i64).filter(|d| !batch.contains(d) && !contract.contains(d)).collect();
    let (&[free], &[contract]) = (free.as_slice(), contract) else { return None };
    let tail = if contract_first { [contract, free] } else { [free, contract] };
    Some(Operand { id, order: batch.iter().chain(&tail).map(|&d| d as usize).collect() })
}

/// The operand of a reshape that only regroups batch dims.
fn regrouped(graph: &Graph, id: NodeId, tail: [usize; 2]) -> Option<NodeId> {
    let node = graph.node(id);
    let x = (node.op.kind == Kind::View(View::Reshape)).then(|| node.operands[0])?;
    graph.shape(x).ends_with(&tail).then_some(x)
}

/// The number that a node holds everywhere.
fn number(graph: &Graph, id: NodeId) -> Option<f64> {
    let mut node = graph.node(id);
    for _ in 0..MAX_STEPS {
        match node.op.kind {
            Kind::Full => return Some(node.attrs.scalar(0).as_f64()),
            Kind::View(View::Reshape | View::Expand | View::Permute) => node = graph.node(node.operands[0]),
            _ => return None,
        }
    }
    None
}

impl Found {
    /// Walks from the argument of the softmax to the product.
    fn scores(&mut self, graph: &Graph, id: NodeId, tail: [usize; 2], steps: usize) -> Option<()> {
        let (node, steps) = (graph.node(id), steps.checked_sub(1)?);
        let depth = (self.inner.len(), self.masks.len(), self.scale);
        self.inner.push(id);
        if let Some(x) = regrouped(graph, id, tail) {
            return self.scores(graph, x, tail, steps);
        }
        match node.op.kind {
            Kind::Dot => {
                self.q = operand(graph, node, 0, false)?;
                self.k = operand(graph, node, 1, false)?;
                node.ty.shape.ends_with(&tail).then_some(())
            }
            Kind::Elementwise(ScalarOp::Bin(op @ (BinOp::Mul | BinOp::Div))) => {
                let (a, b) = (node.operands[0], node.operands[1]);
                let (x, c) = match (number(graph, a), number(graph, b)) {
                    (_, Some(c)) => (a, c),
                    (Some(c), None) if op == BinOp::Mul => (b, c),
                    _ => return None,
                };
                self.scale = if op == BinOp::Mul { self.scale * c } else { self.scale / c };
                // A mask of minus infinity stays one under a positive factor.
                (self.scale.is_finite() && self.scale > 0.0).then_some(())?;
                self.scores(graph, x, tail, steps)
            }
            Kind::Elementwise(ScalarOp::Bin(BinOp::Add)) => {
                for (x, mask) in [(0, 1), (1, 0)] {
                    let factor = std::mem::replace(&mut self.scale, 1.0);
                    self.masks.push(Mask::Add(node.operands[mask]));
                    // What is added must not be scaled: it is outermost but for masks.
                    if factor == 1.0 && self.scores(graph, node.operands[x], tail, steps).is_some() {
                        return Some(());
                    }
                    self.inner.truncate(depth.0 + 1);
                    self.masks.truncate(depth.1);
                    self.scale = depth.2;
                }
                None
            }
            Kind::Elementwise(ScalarOp::Select) => {
                let (mask, a, b) = (node.operands[0], node.operands[1], node.operands[2]);
                let hidden = |id| number(graph, id) == Some(f64::NEG_INFINITY);
                let (x, keep) = if hidden(b) {
                    (a, true)
                } else if hidden(a) {
                    (b, false)
                } else {
                    return None;
                };
                match triangle(graph, mask, tail) {
                    Some(lower) if lower == keep => self.causal = true,
                    _ => self.masks.push(if keep { Mask::Keep(mask) } else { Mask::Hide(mask) }),
                }
                self.scores(graph, x, tail, steps)
            }
            _ => None,
        }
    }

    fn sizes(&self, graph: &Graph) -> Sizes {
        let shape = |o: &Operand| o.order.iter().map(|&d| graph.shape(o.id)[d]).collect::<Vec<_>>();
        Sizes::of(&shape(&self.q), &shape(&self.k), &shape(&self.v))
    }

    /// The nodes that the composition is computed from, through which gradients flow.
    pub(crate) fn leaves(&self) -> Vec<NodeId> {
        let added = self.masks.iter().filter_map(|m| if let Mask::Add(id) = m { Some(*id) } else { None });
        let mut leaves: Vec<NodeId> = [self.q.id, self.k.id, self.v.id].into_iter().chain(added).collect();
        leaves.sort_unstable();
        leaves.dedup();
        leaves
    }

    /// The nodes between them and the root.
    pub(crate) fn inner(&self) -> &[NodeId] {
        &self.inner
    }

    /// The composite of operands that `at` gives for nodes, in the root's shape.
    pub(crate) fn build<'b>(
        &self,
        sizes: Sizes,
        builder: &'b Builder,
        at: &dyn Fn(NodeId) -> Result<NodeId>,
        shape: &[usize],
    ) -> Result<Val<'b>> {
        let Sizes { batch, queries, keys, depth, width } = sizes;
        let matrix = |o: &Operand, rows: usize, cols: usize| {
            Ok::<_, torsh_ir::Error>(builder.val(at(o.id)?).permute(&o.order).reshape(&[batch, rows, cols]))
        };
        let q = matrix(&self.q, queries, depth)?;
        let mut operands = vec![q, matrix(&self.k, keys, depth)?, matrix(&self.v, keys, width)?];
        let (mut keep, mut added): (Option<Val<'b>>, Option<Val<'b>>) = (None, None);
        for mask in &self.masks {
            let (Mask::Keep(id) | Mask::Hide(id) | Mask::Add(id)) = *mask;
            let m = builder.val(at(id)?).reshape(&[batch, queries, keys]);
            match mask {
                Mask::Keep(_) => keep = Some(keep.map_or(m, |k| k.bitwise_and(m))),
                Mask::Hide(_) => keep = Some(keep.map_or(m.not(), |k| k.bitwise_and(m.not()))),
                Mask::Add(_) => added = Some(added.map_or(m, |a| a + m)),
            }
        }
        if let (Some(a), Some(k)) = (added, keep) {
            added = Some(k.select(a, a.full_like(f64::NEG_INFINITY)));
        }
        operands.extend(added.or(keep));
        let mask = operands.len() > 3;
        let o = Options { scale: self.scale, causal: self.causal, dropout: 0.0, mask, safe: false };
        Ok(builder.op("scaled_dot_product_attention", &operands, &o.attrs()).reshape(shape))
    }
}

/// Whether a mask is visibly true exactly on and below the diagonal (`Some(true)`) or exactly above it.
fn triangle(graph: &Graph, id: NodeId, tail: [usize; 2]) -> Option<bool> {
    let (mut id, mut flip) = (id, false);
    for _ in 0..MAX_STEPS {
        let node = graph.node(id);
        if !node.ty.shape.ends_with(&tail) {
            return None;
        }
        match node.op.kind {
            Kind::View(View::Reshape | View::Expand) | Kind::Elementwise(ScalarOp::Cast) => {}
            Kind::Elementwise(ScalarOp::Un(torsh_ir::scalar::UnOp::Not)) if node.ty.dtype == DType::Bool => {
                flip = !flip;
            }
            Kind::Elementwise(ScalarOp::Cmp(op)) if number(graph, node.operands[1]) == Some(0.0) => match op {
                torsh_ir::scalar::CmpOp::Eq => flip = !flip,
                torsh_ir::scalar::CmpOp::Ne => {}
                _ => return None,
            },
            Kind::Composite => {
                let ones = number(graph, *node.operands.first()?).is_some_and(|x| x != 0.0 && !x.is_nan());
                return match (node.op.name, node.attrs.first()) {
                    ("tril", Some(Attr::Int(0))) if ones => Some(!flip),
                    ("triu", Some(Attr::Int(1))) if ones => Some(flip),
                    _ => None,
                };
            }
            _ => return None,
        }
        id = node.operands[0];
    }
    None
}

/// An attention whose mask is visibly causal, without the mask.
fn causal(graph: &Graph, id: NodeId) -> Option<Node> {
    let node = graph.node(id);
    let named = matches!(node.op.kind, Kind::Attention | Kind::AttentionGrad);
    if !named && node.op.name != "scaled_dot_product_attention" {
        return None;
    }
    let o = Options::of(&node.attrs);
    let mask = (o.mask).then(|| node.operands[3])?;
    // A triangle of numbers is added to the scores and hides nothing.
    if graph.ty(mask).dtype != DType::Bool {
        return None;
    }
    let shape = graph.shape(mask);
    let tail = [shape[shape.rank() - 2], shape[shape.rank() - 1]];
    if triangle(graph, mask, tail) != Some(true) {
        return None;
    }
    let mut node = node.clone();
    node.operands.remove(3);
    // Every query sees a key: what a row without one gives does not matter, and equal calls are to look alike.
    let attrs = Options { causal: true, mask: false, safe: false, ..o }.attrs();
    node.attrs[..attrs.len()].clone_from_slice(&attrs);
    Some(node)
}

/// Attentions that [`run`] and `decompose` leave as products and a softmax, with the reason. Sizes of which there are
/// several are named once.
pub fn notes(graph: &Graph) -> Vec<String> {
    let mut notes = Vec::new();
    let users = users(graph);
    for id in rebuild::live_nodes(graph) {
        let node = graph.node(id);
        let (sizes, shared) = if node.op.name == "scaled_dot_product_attention" {
            let shape = |i: usize| graph.shape(node.operands[i]).dims();
            (Sizes::of(shape(0), shape(1), shape(2)), false)
        } else if let Some(found) = composition(graph, id) {
            (found.sizes(graph), users[found.softmax.index()] != 1)
        } else {
            continue;
        };
        let why = match sizes.refusal(node.ty.dtype) {
            Some(refusal) => refusal.to_string(),
            None if shared => "its weights are read by something else".to_string(),
            None => continue,
        };
        let at = graph.loc(id).map(|loc| format!(" at {loc}")).unwrap_or_default();
        let (q, k) = (sizes.queries, sizes.keys);
        let note = format!("attention of {q} queries and {k} keys{at} keeps its {q}x{k} scores: {why}");
        if !notes.contains(&note) {
            notes.push(note);
        }
        if notes.len() == MAX_NOTES {
            break;
        }
    }
    notes
}

/// How often each node is read; being an output counts.
fn users(graph: &Graph) -> Vec<usize> {
    let mut users = vec![0usize; graph.len()];
    for id in rebuild::live_nodes(graph) {
        graph.node(id).operands.iter().for_each(|o| users[o.index()] += 1);
    }
    graph.outputs().iter().for_each(|o| users[o.index()] += 1);
    users
}

/// Replaces plain compositions, and masks that are visibly causal.
pub fn run(graph: Graph) -> Result<Graph> {
    let users = users(&graph);
    let found: Vec<(NodeId, Found)> = rebuild::live_nodes(&graph)
        .filter_map(|id| Some((id, find(&graph, id)?)))
        .filter(|(_, f)| users[f.softmax.index()] == 1)
        .collect();
    if found.is_empty() && !rebuild::live_nodes(&graph).any(|id| causal(&graph, id).is_some()) {
        return Ok(graph);
    }
    let (copy, mut map) = rebuild::with_inputs(&graph);
    let builder = Builder::new(copy);
    for id in rebuild::live_nodes(&graph) {
        let (node, loc) = (graph.node(id), graph.loc(id).cloned());
        let new = match found.binary_search_by_key(&id, |f| f.0) {
            Ok(i) => {
                builder.set_loc(loc);
                let f = &found[i].1;
                f.build(f.sizes(&graph), &builder, &|o| map.get(o), &node.ty.shape)?.id()
            }
            Err(_) => {
                let changed = causal(&graph, id);
                let node = changed.as_ref().unwrap_or(node);
                copied(&builder, node, map.all(&node.operands)?, loc)
            }
        };
        map.set(id, new);
    }
    finish(builder, map, &graph)
}

fn copied(
    builder: &Builder,
    node: &Node,
    operands: torsh_ir::graph::Operands,
    loc: Option<torsh_ir::error::Loc>,
) -> NodeId {
    builder.with(|g| {
        let new = g.add(Node { operands, ..node.clone() });
        g.set_loc(new, loc);
        new
    })
}

fn finish(builder: Builder, map: rebuild::IdMap, graph: &Graph) -> Result<Graph> {
    let outputs = map.all(graph.outputs())?.into_vec();
    let mut copy = builder.finish()?;
    copy.set_outputs(outputs);
    rebuild::compact(&copy)
}

/// The composition whose last product is `root`, as a composite built from the same nodes; with it the nodes
/// through which gradients flow. `None` where `stays` holds for a node in between.
pub(crate) fn rewritten<'b>(
    builder: &'b Builder,
    root: NodeId,
    stays: &dyn Fn(NodeId) -> bool,
) -> Result<Option<(Val<'b>, Vec<NodeId>)>> {
    let found = builder.with(|g| Some((find(g, root)?, g.shape(root).to_vec())).map(|(f, s)| (f.sizes(g), f, s)));
    let Some((sizes, found, shape)) = found.filter(|(_, f, _)| !f.inner().iter().any(|&id| stays(id))) else {
        return Ok(None);
    };
    let out = found.build(sizes, builder, &|id| Ok(id), &shape)?;
    match builder.error() {
        Some(e) => Err(e),
        None => Ok(Some((out, found.leaves()))),
    }
}

#[cfg(test)]
mod tests;
