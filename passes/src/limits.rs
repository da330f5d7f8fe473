//! Refuses graphs and programs that exceed `torsh_ir::limits`, before anything is allocated or compiled.
//!
//! Needs: a valid graph. Leaves it as it is. Checked, in 64-bit arithmetic that cannot overflow: nodes per
//! graph, bytes of constants per graph, and for every node that an output needs and every input: rank,
//! elements and bytes. After planning: the bytes a program needs beyond its inputs. An error names the op,
//! the shape, what was asked for, the limit and how to raise it, and carries the user's line.

use crate::rebuild;
use torsh_ir::attr::AttrsExt;
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::limits::{self, Limits};
use torsh_ir::op::Kind;
use torsh_ir::program::{Place, Program, StepOp};
use torsh_ir::shape::Type;

/// Checks a graph against the limits now in force.
pub fn run(graph: Graph) -> Result<Graph> {
    check(&graph, &limits::get())?;
    Ok(graph)
}

/// Checks a graph against given limits.
pub fn check(graph: &Graph, limits: &Limits) -> Result<()> {
    if graph.len() as u64 > limits.max_nodes {
        return Err(exceeded("the graph", graph.len() as u64, "nodes", limits.max_nodes, "max_nodes"));
    }
    let mut constants = 0u64;
    for id in graph.inputs().iter().copied().chain(rebuild::live_nodes(graph)) {
        check_node(graph, id, limits, &mut constants).map_err(|e| {
            e.with_op(graph.node(id).op.name).with_types([graph.ty(id)]).with_loc(graph.loc(id).cloned())
        })?;
    }
    Ok(())
}

fn check_node(graph: &Graph, id: NodeId, limits: &Limits, constants: &mut u64) -> Result<()> {
    let node = graph.node(id);
    check_type(&node.ty, limits)?;
    if node.op.kind == Kind::Constant {
        *constants = constants.saturating_add(node.attrs.bytes(0).len() as u64);
        if *constants > limits.max_constant_bytes {
            return Err(exceeded(
                &format!("with this constant of type {}, the graph", node.ty),
                *constants,
                "bytes of constants",
                limits.max_constant_bytes,
                "max_constant_bytes",
            ));
        }
    }
    Ok(())
}

/// Checks one tensor type against given limits.
pub fn check_type(ty: &Type, limits: &Limits) -> Result<()> {
    let what = format!("a tensor of shape {} and dtype {}", ty.shape, ty.dtype);
    if ty.rank() as u64 > limits.max_rank {
        return Err(exceeded(&what, ty.rank() as u64, "dimensions", limits.max_rank, "max_rank"));
    }
    let elements = ty.shape.checked_numel()? as u64;
    if elements > limits.max_elements {
        return Err(exceeded(&what, elements, "elements", limits.max_elements, "max_elements"));
    }
    let bytes = elements.saturating_mul(ty.dtype.size() as u64);
    if bytes > limits.max_tensor_bytes {
        return Err(exceeded(&what, bytes, "bytes", limits.max_tensor_bytes, "max_tensor_bytes"));
    }
    Ok(())
}

/// Checks what a planned program needs beyond its inputs.
pub fn check_peak(program: &Program, limits: &Limits) -> Result<()> {
    let peak = program.peak_bytes as u64;
    if peak <= limits.max_peak_bytes {
        return Ok(());
    }
    let largest = program
        .buffers
        .iter()
        .enumerate()
        .filter(|(_, b)| !matches!(b.place, Place::Input(_) | Place::Donated(_)))
        .max_by_key(|(_, b)| b.ty.nbytes());
    let (mut what, mut step) = ("the program".to_string(), None);
    if let Some((i, decl)) = largest {
        what = format!(
            "the program (its largest tensor has shape {}, dtype {} and {} bytes)",
            decl.ty.shape,
            decl.ty.dtype,
            decl.ty.nbytes()
        );
        step = program.steps.iter().find(|s| writes(&s.op, i));
    }
    let error = exceeded(&what, peak, "bytes at its peak", limits.max_peak_bytes, "max_peak_bytes");
    let error = error.with_types(largest.map(|(_, b)| &b.ty));
    Err(match step {
        Some(step) => match step.ops.last() {
            Some(op) => error.with_op(op).with_loc(step.loc.clone()),
            None => error.with_loc(step.loc.clone()),
        },
        None => error,
    })
}

fn writes(op: &StepOp, buffer: usize) -> bool {
    match op {
        StepOp::Kernel { kernel, args } => kernel
            .params
            .iter()
            .zip(args)
            .any(|(p, a)| p.access != torsh_ir::kernel::Access::Read && a.0 as usize == buffer),
        StepOp::Dot(dot) => dot.out.0 as usize == buffer,
        StepOp::Lib { out, .. } => out.0 as usize == buffer,
    }
}

fn exceeded(what: &str, asked: u64, unit: &str, limit: u64, name: &str) -> Error {
    Error::limit(format!(
        "{what} takes {asked} {unit}; the limit is {limit} (raise it with torsh.limits.set({name}=...) or TORSH_{})",
        name.to_uppercase()
    ))
}
