//! Rewrites a graph to a smaller one with the same meaning.
//!
//! Needs: any valid graph. Leaves: same inputs (used or not), same outputs and types; no dead and no equal
//! nodes.

use crate::rebuild;
use torsh_ir::error::Result;
use torsh_ir::graph::Graph;

/// Simplifies a graph.
pub fn run(graph: Graph) -> Result<Graph> {
    rebuild::compact(&graph)
}
