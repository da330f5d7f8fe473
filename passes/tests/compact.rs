//! `compact` leaves work on single numbers that is alike in kernels that are alike.

use std::collections::HashSet;
use torsh_ir::graph::Graph;
use torsh_ir::program::{Program, StepOp};
use torsh_ir::{Builder, DType, Shape, Type};
use torsh_passes::{Options, compile};

/// What an optimizer does for each of `n` parameters: a number of each with one that all share.
fn program(n: usize, compact: bool) -> Program {
    let b = Builder::new(Graph::new());
    let number = || b.val(b.input(Type::new(DType::F32, Shape::of(&[]))).id());
    let shared = number() + number();
    let outputs = (0..n).map(|_| (number() * shared).exp().id()).collect();
    let mut graph = b.finish().expect("well formed");
    graph.set_outputs(outputs);
    compile(&graph, &Options { fusion: true, compact, verify: true, ..Options::default() }).expect("compiles")
}

fn kernels(program: &Program) -> (usize, usize) {
    let kernels = program.steps.iter().filter_map(|s| match &s.op {
        StepOp::Kernel { kernel, .. } => Some(kernel),
        _ => None,
    });
    (kernels.clone().count(), kernels.collect::<HashSet<_>>().len())
}

#[test]
fn alike_numbers_share_a_kernel() {
    // Each adds the two numbers again.
    assert_eq!(kernels(&program(40, true)), (40, 1));
    let (steps, distinct) = kernels(&program(40, false));
    assert!(steps < 8 && distinct == steps, "{steps} steps of {distinct} kernels");
}

#[test]
fn few_users_join_what_they_use() {
    let (steps, _) = kernels(&program(3, true));
    assert!(steps <= 3, "{steps} steps");
}
