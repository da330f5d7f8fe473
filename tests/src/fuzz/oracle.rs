//! What the interpreter says, and how far from it a correct result may be.
//!
//! Every op states how far its result may be off. How such errors grow on their way to an output is
//! measured: the graph is evaluated again several times with every inexact result moved by what its op is
//! allowed, and the spread of the outputs bounds the error. Where the spread is not finite, or an integer
//! changes, the element says nothing and is not compared. Zeros that may have either sign, and the bits of
//! NaN, are shaken in the same way.

use super::Case;
use crate::compare::{epsilon, magnitude, ulp};
use crate::values::{Rng, show};
use std::collections::HashMap;
use torsh_ir::graph::{Node, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph_with};
use torsh_ir::op::{EvalCall, Kind};
use torsh_ir::program::ScatterMode;
use torsh_ir::scalar::{BinOp, ReduceOp, ScalarOp, UnOp};
use torsh_ir::{Attr, DType, Result, Scalar};

/// Evaluations with moved values.
const SHAKES: usize = 4;

/// Expected outputs.
pub struct Expected {
    outputs: Vec<Output>,
}

struct Output {
    value: HostTensor,
    exact: bool,
    shaken: Vec<HostTensor>,
    /// By how much elements may be off besides, a bound that is certain; empty where that is nothing.
    weights: Vec<f64>,
}

/// Evaluates a case.
pub fn expect(case: &Case) -> Result<Expected> {
    expect_for(case, false)
}

/// Evaluates a case for a target that takes attention of 16-bit operands (`Target::takes_half_attention`), or not. One that
/// does may round weights to 16 bits.
pub fn expect_for(case: &Case, half_attention: bool) -> Result<Expected> {
    let mut exact = Vec::new();
    let mut weights = half_attention.then(HashMap::new);
    let values = evaluate(case, None, &mut exact, &mut weights)?;
    let bounds = weights.clone().unwrap_or_default();
    let mut outputs = Vec::new();
    for (n, (value, &exact)) in values.into_iter().zip(&exact).enumerate() {
        let weights = bounds.get(&n).cloned().unwrap_or_default();
        outputs.push(Output { value, exact, shaken: Vec::new(), weights });
    }
    for seed in 0..SHAKES {
        let shake = Shake { rng: Rng::new(seed as u64), every_zero: seed == 0 };
        let shaken = evaluate(case, Some(shake), &mut exact, &mut weights)?;
        for (output, s) in outputs.iter_mut().zip(shaken) {
            output.shaken.push(s);
        }
    }
    Ok(Expected { outputs })
}

/// How values are moved.
struct Shake {
    rng: Rng,
    /// Every zero whose sign is loose changes it, where otherwise half of them do: no zero keeps its sign in all
    /// evaluations by chance.
    every_zero: bool,
}

/// Evaluates; with `shake`, moved. `exact` receives, per output, whether no inexact op lies before it. `bounds`, there if
/// weights may be rounded, receives for outputs that are attentions by how much that moves their elements; attentions on the
/// way to an output are moved by as much.
fn evaluate(
    case: &Case,
    mut shake: Option<Shake>,
    exact: &mut Vec<bool>,
    bounds: &mut Option<HashMap<usize, Vec<f64>>>,
) -> Result<Vec<HostTensor>> {
    // The observer sees the graph without composites, so that is what is evaluated.
    let graph = torsh_ir::interp::expand_composites(&case.graph)?;
    let mut inexact = vec![false; graph.len()];
    let outputs = eval_graph_with(&graph, &case.inputs, &mut |id, node, x, value| {
        let inherited = node.operands.iter().any(|o| inexact[o.index()]);
        inexact[id.index()] = inherited || own_error(node).is_some();
        let mut inside = Vec::new();
        if let Some(bounds) = bounds
            && node.op.kind == Kind::Attention
            && let Some(w) = rounded_weights(node, x)
        {
            let places: Vec<usize> = (0..graph.outputs().len()).filter(|&n| graph.outputs()[n] == id).collect();
            match (places.is_empty(), &shake) {
                (true, _) => inside = w,
                (false, None) => bounds.extend(places.into_iter().map(|n| (n, w.clone()))),
                (false, Some(_)) => (),
            }
        }
        if let Some(shake) = &mut shake {
            shake_value(node, x, value, inherited, &inside, shake);
        }
    })?;
    *exact = graph.outputs().iter().map(|o: &NodeId| !inexact[o.index()]).collect();
    Ok(outputs)
}

/// Allowed error of a node: units in the last place, and epsilons of the largest magnitude. `None` when
/// the result is the same everywhere.
fn own_error(node: &Node) -> Option<(f64, f64)> {
    if !node.ty.dtype.is_float() {
        return None;
    }
    let t = node.op.tolerance;
    (t.ulp > 0.0 || t.scaled_eps > 0.0).then_some((t.ulp, t.scaled_eps))
}

/// True when the node moves elements, or rounds nothing.
fn moves_only(node: &Node) -> bool {
    match node.op.kind {
        Kind::Input
        | Kind::Constant
        | Kind::Full
        | Kind::Iota
        | Kind::View(_)
        | Kind::Concat
        | Kind::SliceScatter
        | Kind::Take
        | Kind::Gather
        | Kind::ArgSort => true,
        Kind::Elementwise(op) => match op {
            ScalarOp::Select | ScalarOp::Bitcast | ScalarOp::Cmp(_) => true,
            ScalarOp::Bin(op) => matches!(op, BinOp::Max | BinOp::Min),
            ScalarOp::Un(op) => matches!(op, UnOp::Neg | UnOp::Abs),
            ScalarOp::Cast => false,
        },
        Kind::Reduce(op) => !matches!(op, ReduceOp::Sum | ReduceOp::Prod),
        Kind::Scan(op) => !matches!(op, ReduceOp::Sum | ReduceOp::Prod),
        Kind::Scatter | Kind::IndexPut => match node.attrs.get(1) {
            Some(Attr::Str(mode)) => !matches!(ScatterMode::parse(mode), Some(ScatterMode::Add | ScatterMode::Prod)),
            _ => false,
        },
        Kind::Dot | Kind::Attention | Kind::AttentionGrad | Kind::Composite => false,
    }
}

/// True when the sign of a zero result depends on the order of evaluation.
fn loose_zero(node: &Node) -> bool {
    match node.op.kind {
        Kind::Elementwise(ScalarOp::Bin(BinOp::Max | BinOp::Min)) => true,
        Kind::Reduce(op) | Kind::Scan(op) => {
            matches!(op, ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min)
        }
        Kind::Dot | Kind::Scatter | Kind::IndexPut => true,
        _ => false,
    }
}

/// Moves a value by its own error and by `weights`.
fn shake_value(
    node: &Node,
    x: &[&HostTensor],
    value: &mut HostTensor,
    inherited: bool,
    weights: &[f64],
    shake: &mut Shake,
) {
    let dtype = value.dtype();
    if !dtype.is_float() {
        return;
    }
    let Shake { rng, every_zero } = shake;
    let (moves, loose) = (moves_only(node), loose_zero(node));
    let (mut ulps, eps) = own_error(node).unwrap_or((0.0, 0.0));
    if inherited && !moves {
        ulps += 1.0;
    }
    let scale = if eps > 0.0 { scale(node, x, value) } else { 0.0 };
    // A partial sum may overflow in one order of summation and not in another.
    let overflow = node.op.kind == Kind::Dot && dtype != DType::F64 && scale > f64::from(f32::MAX);
    if overflow {
        (0..value.len()).for_each(|i| value.set(i, Scalar::Float(f64::NAN)));
        return;
    }
    let loose_product = loose_products(node, x, value);
    // The sums of attention are f32 whatever its operands are.
    let unit = if node.op.kind == Kind::Attention && x[0].dtype().size() == 2 { DType::F32 } else { dtype };
    let step = eps * epsilon(unit) * scale;
    let sign_bit = 1u64 << (8 * dtype.size() - 1);
    for i in 0..value.len() {
        let Scalar::Float(v) = value.get(i) else {
            continue;
        };
        if loose_product.get(i) == Some(&true) {
            value.set(i, Scalar::Float(if v.is_nan() { 0.0 } else { f64::NAN }));
        } else if v.is_nan() {
            if !moves {
                // Any quiet NaN: the payload's low bits and the sign.
                value.set_bits(i, value.bits(i) ^ (rng.next() & (sign_bit | 7)));
            }
        } else if v == 0.0 && loose && (*every_zero || rng.one_in(2)) {
            value.set_bits(i, value.bits(i) ^ sign_bit);
        } else if v.is_finite() && (ulps > 0.0 || step > 0.0) {
            let direction = if rng.one_in(2) { 1.0 } else { -1.0 };
            let weights = weights.get(i).copied().unwrap_or(0.0);
            value.set(i, Scalar::Float(v + direction * (ulps * ulp(v, dtype) + step + weights)));
        }
    }
}

/// Elements of a product whose partial products may overflow or vanish in one order and not in another: the factors above
/// one, or those below, alone leave what f64 holds, which is what products accumulate in. Empty of other nodes.
fn loose_products(node: &Node, x: &[&HostTensor], value: &HostTensor) -> Vec<bool> {
    let scan = match node.op.kind {
        Kind::Reduce(ReduceOp::Prod) => None,
        Kind::Scan(ReduceOp::Prod) => node.attrs.first().map(|a| if let Attr::Int(d) = a { *d as usize } else { 0 }),
        _ => return Vec::new(),
    };
    let (from, to) = (&x[0].ty.shape, &value.ty.shape);
    let (in_strides, out_strides) = (from.strides(), to.strides());
    let mut octaves = vec![[0.0f64; 2]; value.len()];
    for i in 0..x[0].len() {
        let Scalar::Float(v) = x[0].get(i) else {
            continue;
        };
        // A NaN among the factors is the result in any order: it makes both sums NaN, which are beyond nothing.
        let log = if v == 0.0 || v.is_infinite() { 0.0 } else { v.abs().log2() };
        let at = match scan {
            Some(_) => i,
            None => (0..from.rank())
                .filter(|&d| to[d] != 1)
                .map(|d| i / in_strides[d] as usize % from[d] * out_strides[d] as usize)
                .sum(),
        };
        if let Some(d) = scan.filter(|&d| !(i / in_strides[d] as usize).is_multiple_of(from[d])) {
            octaves[i] = octaves[i - in_strides[d] as usize];
        }
        let side = usize::from(log < 0.0);
        octaves[at][side] += log.abs();
        octaves[at][1 - side] += if log.is_nan() { log } else { 0.0 };
    }
    octaves.iter().map(|o| o.iter().any(|&x| x > 1022.0)).collect()
}

/// By how much elements of an attention of 16-bit operands may be off because weights are rounded to their dtype: half an
/// epsilon of each weight times the magnitude of its value. Tiny weights of f16, which are multiplied by 2^12 first, may be
/// lost.
fn rounded_weights(node: &Node, x: &[&HostTensor]) -> Option<Vec<f64>> {
    let dtype = x[0].dtype();
    if dtype.size() != 2 {
        return None;
    }
    let positive = HostTensor::from_fn(x[2].ty.clone(), |i| Scalar::Float(x[2].get(i).as_f64().abs()));
    let mut operands = x.to_vec();
    operands[2] = &positive;
    let mut attrs = node.attrs.clone();
    attrs[5] = Attr::Bool(false);
    let types: Vec<_> = operands.iter().map(|t| t.ty.clone()).collect();
    let ty = node.op.infer(&types, &attrs).ok()?;
    let sums = node.op.eval?(&EvalCall { x: &operands, attrs: &attrs, ty: &ty }).ok()?;
    let keys = x[1].ty.shape[x[1].ty.shape.rank() - 2] as f64;
    let lost = if dtype == DType::F16 { keys * 2f64.powi(-37) * magnitude(&positive) } else { 0.0 };
    Some(sums.to_f64().iter().map(|sum| epsilon(dtype) / 2.0 * sum + lost).collect())
}

/// The largest magnitude that takes part in one element of a sum.
fn scale(node: &Node, x: &[&HostTensor], value: &HostTensor) -> f64 {
    let largest = x.iter().map(|t| magnitude(t)).fold(magnitude(value), f64::max);
    let folded = |from: &HostTensor| from.len() as f64 / value.len().max(1) as f64;
    match node.op.kind {
        // Products are summed in the dtype: the error grows with their number and their magnitude.
        Kind::Dot => {
            let steps = (x[0].len() as f64 * x[1].len() as f64 / value.len().max(1) as f64).sqrt().max(1.0);
            largest.max(magnitude(x[0]) * magnitude(x[1]) * steps)
        }
        // f64 has no wider accumulator.
        Kind::Reduce(ReduceOp::Sum) if node.ty.dtype == DType::F64 => largest * folded(x[0]).max(1.0),
        Kind::Scan(ReduceOp::Sum) => largest * value.ty.shape.iter().copied().max().unwrap_or(1) as f64,
        _ => largest,
    }
}

impl Expected {
    /// Compares outputs; an error says which element is off and by how much.
    pub fn compare(&self, got: &[HostTensor]) -> Result<(), String> {
        if got.len() != self.outputs.len() {
            return Err(format!("{} outputs instead of {}", got.len(), self.outputs.len()));
        }
        for (n, (want, got)) in self.outputs.iter().zip(got).enumerate() {
            if got.ty != want.value.ty {
                return Err(format!("output {n} is {}, not {}", got.ty, want.value.ty));
            }
            for i in 0..got.len() {
                want.element(i, got).map_err(|m| format!("output {n}, element {i} of {}: {m}", got.ty))?;
            }
        }
        Ok(())
    }

    /// Fails on the first number that is not the same; zeros have no sign and NaN no bits here. For inputs on which every
    /// order of computation is exact: small integers in sums and products.
    pub fn same(&self, got: &[HostTensor]) -> Result<(), String> {
        self.compare(got)?;
        for (n, (want, got)) in self.outputs.iter().zip(got).enumerate() {
            for i in 0..got.len() {
                let (w, g) = (want.value.get(i), got.get(i));
                let nan = |x: Scalar| matches!(x, Scalar::Float(x) if x.is_nan());
                if w != g && !(nan(w) && nan(g)) {
                    let (w, g) = (show(&want.value, i), show(got, i));
                    return Err(format!("output {n}, element {i} of {}: {g} instead of {w}, exactly", got.ty));
                }
            }
        }
        Ok(())
    }

    /// The first output that differs.
    pub fn wrong_output(&self, got: &[HostTensor]) -> Option<usize> {
        let differs = |(want, got): (&Output, &HostTensor)| {
            got.ty != want.value.ty || (0..got.len()).any(|i| want.element(i, got).is_err())
        };
        self.outputs.iter().zip(got).position(differs)
    }

    /// How many elements of how many could be compared.
    pub fn coverage(&self) -> (usize, usize) {
        let all = self.outputs.iter().map(|o| o.value.len()).sum();
        let firm = self.outputs.iter().map(|o| (0..o.value.len()).filter(|&i| o.spread(i).is_some()).count()).sum();
        (firm, all)
    }
}

impl Output {
    /// How far the shaken values are from the value; `None` where they say nothing.
    fn spread(&self, i: usize) -> Option<f64> {
        let Scalar::Float(want) = self.value.get(i) else {
            return self.shaken.iter().all(|s| s.bits(i) == self.value.bits(i)).then_some(0.0);
        };
        let mut spread: f64 = 0.0;
        for s in &self.shaken {
            let v = s.get(i).as_f64();
            if want.is_nan() && v.is_nan() || v == want {
                continue;
            }
            let off = (v - want).abs();
            // Infinite, or NaN on one side only.
            if !off.is_finite() {
                return None;
            }
            spread = spread.max(off);
        }
        Some(spread)
    }

    fn element(&self, i: usize, got: &HostTensor) -> Result<(), String> {
        let Some(spread) = self.spread(i) else {
            return Ok(());
        };
        let (Scalar::Float(w), Scalar::Float(g)) = (self.value.get(i), got.get(i)) else {
            if got.bits(i) == self.value.bits(i) {
                return Ok(());
            }
            return Err(format!("{} instead of {}", show(got, i), show(&self.value, i)));
        };
        if g == w || g.is_nan() && w.is_nan() {
            return Ok(());
        }
        let dtype = self.value.dtype();
        let weights = self.weights.get(i).copied().unwrap_or(0.0);
        let allowed = if self.exact { 0.0 } else { 6.0 * spread + weights + 2.0 * ulp(w, dtype) };
        if (g - w).abs() <= allowed {
            return Ok(());
        }
        Err(format!("{g:e} instead of {w:e}, {:e} off, allowed are {allowed:e}", (g - w).abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::text::parse;

    #[test]
    fn a_minimum_of_zeros_may_have_either_sign() {
        let text = "graph {
  %0: f32[200, 2] = input(index=0)
  %1: f32[200, 1] = amin(%0, dims=[1])
  %2: f32[200, 1] = reciprocal(%1)
  return %2
}";
        let graph = parse(text).expect("a graph");
        let zeros = HostTensor::from_fn(graph.input_types().remove(0), |i| Scalar::Float([0.0, -0.0][i % 2]));
        let case = Case { graph, inputs: vec![zeros], donate: vec![] };
        let expected = expect(&case).expect("it runs");
        for sign in [1.0, -1.0] {
            let ty = case.graph.ty(case.graph.outputs()[0]).clone();
            let got = HostTensor::from_fn(ty, |_| Scalar::Float(sign * f64::INFINITY));
            expected.compare(&[got]).expect("either is right");
        }
    }
}
