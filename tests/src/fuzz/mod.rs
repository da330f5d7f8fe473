//! The random-graph fuzzer: graphs of every op of the registry, evaluated by the interpreter and compared
//! with what the pipeline and the backends make of them.
//!
//! [`make`] builds graphs, [`oracle`] says how far results may be off, [`check`] runs one case through
//! everything, [`shrink`] makes a failing case small, [`corpus`] writes and reads reproducers.

pub mod check;
pub mod corpus;
pub mod make;
pub mod oracle;
pub mod shrink;

use torsh_ir::graph::Graph;
use torsh_ir::interp::HostTensor;

/// A graph with its inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// The graph.
    pub graph: Graph,
    /// One tensor per input.
    pub inputs: Vec<HostTensor>,
    /// Pairs of input and output of one type that share memory.
    pub donate: Vec<(usize, usize)>,
}
