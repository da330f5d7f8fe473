//! Gradients of every differentiable op against central differences in f64, first and second order, on the
//! reference interpreter. The samples come from the op files, so a new op is checked without a line here.
//!
//! With random weights `w` and random directions `u`, `v`: the first order compares `d/dh L(x + h u)` with
//! `<grad L(x), u>` for `L(x) = <op(x), w>`; the second order does the same with
//! `G(x) = <grad L(x), v>` in place of `L`, and with `w` among the variables.

use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::op::{Arity, Op, OpDef, Sample, Vjp};
use torsh_ir::ops::OPS;
use torsh_ir::sample::{self, Random};
use torsh_ir::{Attr, DType, Result, Scalar, Type};
use torsh_passes::autodiff;

/// Half the distance of a central difference. Its error is about `1e-12 f''' + 1e-16 f / STEP`.
const STEP: f64 = 1e-6;
/// Allowed difference relative to the sum of the magnitudes that were added up.
const TOLERANCE: f64 = 2e-7;
/// Larger samples are left out of the second order, whose graphs are long.
const SECOND_ORDER_ELEMENTS: usize = 260;

/// A graph with one scalar function of its inputs and the gradients of that function.
struct Problem {
    graph: Graph,
    /// Inputs that are varied, by position.
    variables: Vec<usize>,
    /// The function is `sum <terms.0, input terms.1>`; these inputs are no variables.
    terms: Vec<(NodeId, usize)>,
    /// One for each variable; `None` is zero.
    gradients: Vec<Option<NodeId>>,
    inputs: Vec<HostTensor>,
}

fn is_checked(def: &OpDef) -> bool {
    !matches!(def.vjp, Vjp::None(_)) && def.arity != Arity::Fixed(0) && def.dtypes.contains(DType::F64)
}

fn is_empty(s: &Sample) -> bool {
    s.inputs.iter().any(|g| g.shape.contains(&0))
}

fn normal(ty: Type, random: &mut Random) -> HostTensor {
    HostTensor::from_fn(ty, |_| Scalar::Float(random.normal()))
}

impl Problem {
    /// `<op(x), w>`; `None` where the result is not a float.
    fn first_order(def: &'static OpDef, s: &Sample, random: &mut Random) -> Result<Option<Problem>> {
        let (mut graph, out) = sample::graph(Op(def), s, DType::F64)?;
        if graph.ty(out).dtype != DType::F64 {
            return Ok(None);
        }
        let mut inputs = sample::inputs(s, DType::F64, u64::from(random.word()));
        let variables = (0..inputs.len()).filter(|&i| inputs[i].dtype() == DType::F64).collect();
        let ty = graph.ty(out).clone();
        graph.input(ty.clone());
        inputs.push(normal(ty, random));
        Problem::new(graph, variables, vec![(out, inputs.len() - 1)], inputs).map(Some)
    }

    /// `<grad, v>` of this problem's gradient; the weights become variables.
    fn second_order(self, random: &mut Random) -> Result<Option<Problem>> {
        let Problem { mut graph, mut variables, terms, gradients, mut inputs } = self;
        variables.extend(terms.iter().map(|t| t.1));
        let mut next = Vec::new();
        for gradient in gradients.into_iter().flatten() {
            let ty = graph.ty(gradient).clone();
            graph.input(ty.clone());
            inputs.push(normal(ty, random));
            next.push((gradient, inputs.len() - 1));
        }
        if next.is_empty() { Ok(None) } else { Problem::new(graph, variables, next, inputs).map(Some) }
    }

    fn new(
        graph: Graph,
        variables: Vec<usize>,
        terms: Vec<(NodeId, usize)>,
        inputs: Vec<HostTensor>,
    ) -> Result<Problem> {
        let seeds: Vec<_> = terms.iter().map(|&(node, weight)| (node, graph.inputs()[weight])).collect();
        let wrt: Vec<_> = variables.iter().map(|&i| graph.inputs()[i]).collect();
        let (graph, gradients) = autodiff::grad(graph, &seeds, &wrt)?;
        Ok(Problem { graph, variables, terms, gradients, inputs })
    }

    /// Values of some nodes with the variables moved by `h` along `direction`.
    fn eval(&self, nodes: Vec<NodeId>, direction: &[HostTensor], h: f64) -> Result<Vec<HostTensor>> {
        let mut inputs = self.inputs.clone();
        for (&i, d) in self.variables.iter().zip(direction) {
            let moved = |k: usize| Scalar::Float(self.inputs[i].get(k).as_f64() + h * d.get(k).as_f64());
            inputs[i] = HostTensor::from_fn(self.inputs[i].ty.clone(), moved);
        }
        let mut graph = self.graph.clone();
        graph.set_outputs(nodes);
        eval_graph(&graph, &inputs)
    }

    /// Numeric and analytic derivative along a random direction, and the magnitude of what was summed.
    fn compare(&self, random: &mut Random) -> Result<(f64, f64, f64)> {
        let direction: Vec<_> = self.variables.iter().map(|&i| normal(self.inputs[i].ty.clone(), random)).collect();
        let terms: Vec<NodeId> = self.terms.iter().map(|t| t.0).collect();
        let (ahead, behind) = (self.eval(terms.clone(), &direction, STEP)?, self.eval(terms, &direction, -STEP)?);
        let (mut numeric, mut analytic, mut scale) = (0.0, 0.0, 0.0);
        for (k, &(_, weight)) in self.terms.iter().enumerate() {
            let weight = &self.inputs[weight];
            for i in 0..weight.len() {
                let w = weight.get(i).as_f64();
                let (a, b) = (ahead[k].get(i).as_f64(), behind[k].get(i).as_f64());
                numeric += (a - b) / (2.0 * STEP) * w;
                // What the difference cannot resolve: 1e-16 of the values over the step.
                scale += (a.abs() + b.abs()) * w.abs() * 1e-3;
            }
        }
        let found: Vec<NodeId> = self.gradients.iter().flatten().copied().collect();
        let mut values = self.eval(found, &direction, 0.0)?.into_iter();
        for (gradient, d) in self.gradients.iter().zip(&direction) {
            let Some(gradient) = gradient.and_then(|_| values.next()) else { continue };
            for i in 0..d.len() {
                let term = gradient.get(i).as_f64() * d.get(i).as_f64();
                analytic += term;
                scale += term.abs();
            }
        }
        Ok((numeric, analytic, scale))
    }

    fn agrees(&self, random: &mut Random) -> Result<(), String> {
        for _ in 0..2 {
            let (numeric, analytic, scale) = self.compare(random).map_err(|e| e.to_string())?;
            let off = (numeric - analytic).abs();
            if !off.is_finite() || !scale.is_finite() || off > TOLERANCE * scale + 1e-9 {
                return Err(format!("differences give {numeric:.12e}, the rule {analytic:.12e} (scale {scale:.3e})"));
            }
        }
        Ok(())
    }
}

/// Checks one order of one sample; false where there was nothing to compare.
type Check = fn(&'static OpDef, &Sample, &mut Random) -> Result<bool, String>;

/// Runs `check` on every gradient sample of every differentiable op and reports all that fail. An operand
/// without elements has no direction to move in, so samples with one are left out.
fn for_all(check: Check) {
    let mut failures = Vec::new();
    for def in OPS.iter().copied().filter(|d| is_checked(d)) {
        let mut checked = 0;
        for (i, s) in (def.samples)().iter().filter(|s| s.grad && !is_empty(s)).enumerate() {
            let seed = def.name.bytes().fold(i as u64, |a, c| a.wrapping_mul(31).wrapping_add(u64::from(c)));
            match check(def, s, &mut Random::new(seed)) {
                Ok(compared) => checked += usize::from(compared),
                Err(e) => failures.push(format!("{} {s:?}: {e}", def.name)),
            }
        }
        if checked == 0 && failures.is_empty() {
            failures.push(format!("{}: no sample could be checked", def.name));
        }
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

/// The problem of a sample; `None` where the result is no float, or NaN by definition (a mean over no targets).
fn problem(def: &'static OpDef, s: &Sample, random: &mut Random) -> Result<Option<Problem>> {
    let Some(first) = Problem::first_order(def, s, random)? else { return Ok(None) };
    let out = first.eval(first.terms.iter().map(|t| t.0).collect(), &[], 0.0)?;
    Ok((!out.iter().any(|t| t.to_f64().iter().any(|x| x.is_nan()))).then_some(first))
}

#[test]
fn first_order() {
    for_all(|def, s, random| match problem(def, s, random).map_err(|e| e.to_string())? {
        Some(problem) => problem.agrees(random).map(|()| true),
        None => Ok(false),
    });
}

#[test]
fn second_order() {
    for_all(|def, s, random| {
        if s.inputs.iter().any(|g| g.shape.iter().product::<usize>() > SECOND_ORDER_ELEMENTS) {
            return Ok(false);
        }
        let Some(first) = problem(def, s, random).map_err(|e| e.to_string())? else { return Ok(false) };
        match first.second_order(random).map_err(|e| e.to_string())? {
            Some(problem) => problem.agrees(random).map(|()| true),
            None => Ok(false),
        }
    });
}

/// Rules emit ordinary ops of the operands' dtypes: the graphs of both orders have valid types in every float
/// dtype that an op claims, also for samples without checked gradients.
#[test]
fn gradient_graphs_have_valid_types_in_every_float_dtype() {
    for def in OPS.iter().copied().filter(|d| is_checked(d)) {
        for dtype in def.dtypes.iter().filter(|d| d.is_float()) {
            for s in (def.samples)() {
                let (mut graph, out) = sample::graph(Op(def), &s, dtype).unwrap();
                if !graph.ty(out).dtype.is_float() {
                    continue;
                }
                let wrt = graph.inputs().to_vec();
                let weight = graph.input(graph.ty(out).clone());
                let case = format!("{} {dtype} {s:?}", def.name);
                let (mut graph, found) =
                    autodiff::grad(graph, &[(out, weight)], &wrt).unwrap_or_else(|e| panic!("{case}: {e}"));
                let mut seeds = Vec::new();
                for (&x, g) in wrt.iter().zip(found) {
                    let Some(g) = g else { continue };
                    assert_eq!(graph.ty(g), graph.ty(x), "{case}");
                    let direction = graph.input(graph.ty(g).clone());
                    seeds.push((g, direction));
                }
                autodiff::grad(graph, &seeds, &wrt).unwrap_or_else(|e| panic!("{case}, second order: {e}"));
            }
        }
    }
}

/// Zeros among the factors are where a product's derivatives are easily wrong, at every order.
#[test]
fn products_with_zeros_in_both_orders() {
    let data = [vec![2.0, 0.0, 5.0, -1.0], vec![0.0, 0.0, 3.0, 2.0], vec![0.0, 0.0, 0.0, 1.5], vec![0.0; 4]];
    for (name, attr) in [("prod", Attr::from(&[0i64][..])), ("cumprod", Attr::Int(0))] {
        for x in &data {
            let op = torsh_ir::ops::find(name).unwrap();
            let s = Sample::new(vec![torsh_ir::op::Gen::normal(&[4])]).attr(attr.clone());
            let random = &mut Random::new(7);
            let mut first = Problem::first_order(op.0, &s, random).unwrap().unwrap();
            first.inputs[0] = HostTensor::from_fn(first.inputs[0].ty.clone(), |i| Scalar::Float(x[i]));
            first.agrees(random).unwrap_or_else(|e| panic!("{name} {x:?}: {e}"));
            let second = first.second_order(random).unwrap().unwrap();
            second.agrees(random).unwrap_or_else(|e| panic!("{name} {x:?}, second order: {e}"));
        }
    }
}

/// The check itself notices a wrong rule: the gradients of the two factors exchanged.
#[test]
fn a_wrong_gradient_is_noticed() {
    let random = &mut Random::new(1);
    let op = torsh_ir::ops::find("mul").unwrap();
    let s = Sample::new(vec![torsh_ir::op::Gen::normal(&[5]), torsh_ir::op::Gen::normal(&[5])]);
    let mut problem = Problem::first_order(op.0, &s, random).unwrap().unwrap();
    problem.agrees(random).unwrap();
    problem.gradients.swap(0, 1);
    problem.agrees(random).unwrap_err();
}
