//! Level-1 graph to program.

use crate::pipeline::Options;
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::Graph;
use torsh_ir::program::Program;

/// Lowers a graph of primitives to kernels and library calls over planned buffers.
///
/// Needs: no composites, limits checked. Leaves: a verified program with known peak.
pub fn run(_graph: &Graph, _options: &Options) -> Result<Program> {
    Err(Error::internal("lowering is not linked in"))
}
