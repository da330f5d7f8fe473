//! What the comparison with the interpreter lets pass, and what it does not.

use torsh_ir::Scalar;
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::text::parse;
use torsh_tests::fuzz::Case;
use torsh_tests::fuzz::oracle::expect;

/// A partial product may overflow in one order and not in another; elsewhere in the tensor values count as before.
#[test]
fn a_product_may_overflow_on_the_way() {
    for (op, shape, last) in [("prod(%0, dims=[1])", "2, 1", 0), ("cumprod(%0, dim=1)", "2, 4", 3)] {
        let text = format!("graph {{\n  %0: f64[2, 4] = input(index=0)\n  %1: f64[{shape}] = {op}\n  return %1\n}}");
        let graph = parse(&text).expect("a graph");
        let compared = |values: [f64; 8]| {
            let x = HostTensor::from_fn(graph.input_types().remove(0), |i| Scalar::Float(values[i]));
            let case = Case { graph: graph.clone(), inputs: vec![x], donate: vec![] };
            let right = eval_graph(&case.graph, &case.inputs).expect("it runs").remove(0);
            let expected = expect(&case).expect("it runs");
            move |at: usize, v: f64| {
                let other = |i| if i == at { Scalar::Float(v) } else { right.get(i) };
                expected.compare(&[HostTensor::from_fn(right.ty.clone(), other)])
            }
        };
        let end = if last == 0 { 1 } else { 7 };
        let with = compared([1e200, 1e-200, 1e200, 1e-200, 2.0, 3.0, 1e10, 1.0]);
        with(last, f64::INFINITY).expect("two large factors may meet first");
        with(last, 0.0).expect("or two small ones");
        with(end, f64::INFINITY).expect_err("no order overflows");
        with(end, f64::NAN).expect_err("nothing is NaN");
        // In the order of the operand infinity meets zero, in another it does not.
        let with = compared([1e-200, 1e-200, f64::INFINITY, 1e200, 1e200, 1e200, f64::NAN, 1.0]);
        with(last, f64::INFINITY).expect("the small factors alone vanish");
        with(end, f64::INFINITY).expect_err("a factor is NaN");
    }
}
