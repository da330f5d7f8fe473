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
    let what = || format!("a tensor of shape {} and dtype {}", ty.shape, ty.dtype);
    if ty.rank() as u64 > limits.max_rank {
        return Err(exceeded(&what(), ty.rank() as u64, "dimensions", limits.max_rank, "max_rank"));
    }
    let elements = ty.shape.checked_numel()? as u64;
    if elements > limits.max_elements {
        return Err(exceeded(&what(), elements, "elements", limits.max_elements, "max_elements"));
    }
    let bytes = elements.saturating_mul(ty.dtype.size() as u64);
    if bytes > limits.max_tensor_bytes {
        return Err(exceeded(&what(), bytes, "bytes", limits.max_tensor_bytes, "max_tensor_bytes"));
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
    // The peak of a program is bounded by the memory that the process may use.
    let variable = if name == "max_peak_bytes" {
        "TORSH_MAX_MEMORY".to_string()
    } else {
        format!("TORSH_{}", name.to_uppercase())
    };
    Error::limit(format!(
        "{what} takes {asked} {unit}; the limit is {limit} (raise it with torsh.limits.set({name}=...) or {variable})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::error::{ErrorKind, Loc};
    use torsh_ir::program::{BufDecl, BufId, LibCall, Step};
    use torsh_ir::{Attr, Builder, DType, Scalar, Shape};

    const SMALL: Limits = Limits {
        max_rank: 3,
        max_elements: 1000,
        max_tensor_bytes: 2000,
        max_nodes: 8,
        max_kernel_insts: 512,
        max_constant_bytes: 20,
        max_peak_bytes: 4096,
    };

    fn checked(shape: &[usize], dtype: DType) -> Option<Error> {
        let b = Builder::new(Graph::new());
        b.set_loc(Some(Loc { file: "model.py".into(), line: 7, note: None }));
        let x = b.full(Scalar::Int(1), dtype, &Shape::of(shape)).id();
        let mut g = b.finish().expect("well formed");
        g.set_outputs(vec![x]);
        check(&g, &SMALL).err()
    }

    #[test]
    fn each_limit_is_named_with_what_was_asked() {
        let text = |e: Option<Error>| {
            let e = e.expect("refused");
            assert_eq!((e.kind(), e.op(), e.location().map(|l| l.line)), (ErrorKind::Limit, Some("full"), Some(7)));
            e.message().to_string()
        };
        assert!(checked(&[10, 10, 5], DType::F32).is_none());
        let rank = text(checked(&[1, 1, 1, 1], DType::F32));
        assert!(rank.contains("4 dimensions; the limit is 3") && rank.contains("TORSH_MAX_RANK"), "{rank}");
        let elements = text(checked(&[1001], DType::I8));
        assert!(elements.contains("[1001]") && elements.contains("max_elements=..."), "{elements}");
        let bytes = text(checked(&[10, 10, 10], DType::F32));
        assert!(bytes.contains("shape [10, 10, 10] and dtype float32 takes 4000 bytes; the limit is 2000"), "{bytes}");
        // Without elements nothing is asked for, however long the other dims.
        assert!(checked(&[1 << 30, 0, 1 << 29], DType::F64).is_none());
    }

    #[test]
    fn constants_and_nodes_are_counted_over_the_graph() {
        let constant = |b: &Builder, v: u8| {
            let bytes = Attr::Bytes(vec![v; 12].into());
            b.op("constant", &[], &[bytes, DType::U8.into(), Attr::from(&[12i64][..])]).id()
        };
        let b = Builder::new(Graph::new());
        let outputs = vec![constant(&b, 1), constant(&b, 2)];
        let mut g = b.finish().expect("well formed");
        g.set_outputs(outputs[..1].to_vec());
        assert!(check(&g, &SMALL).is_ok());
        g.set_outputs(outputs);
        assert!(check(&g, &SMALL).expect_err("24 bytes").message().contains("24 bytes of constants"));
        let few = Limits { max_nodes: 1, ..SMALL };
        assert!(check(&g, &few).expect_err("2 nodes").message().contains("takes 2 nodes; the limit is 1"));
    }

    #[test]
    fn a_dead_node_is_not_counted_and_an_unused_input_is() {
        let b = Builder::new(Graph::new());
        let x = b.full(Scalar::Int(1), DType::U8, &Shape::of(&[9])).id();
        b.full(Scalar::Int(1), DType::U8, &Shape::of(&[5000]));
        let mut g = b.finish().expect("well formed");
        g.set_outputs(vec![x]);
        assert!(check(&g, &SMALL).is_ok());
        g.input(Type::new(DType::U8, Shape::of(&[5000])));
        assert_eq!(check(&g, &SMALL).expect_err("too big").op(), Some("input"));
    }

    #[test]
    fn the_peak_names_the_largest_tensor_and_its_line() {
        let ty = Type::new(DType::F32, Shape::of(&[2000]));
        let program = Program {
            buffers: vec![BufDecl { ty, place: Place::Output }],
            steps: vec![Step {
                op: StepOp::Lib { call: LibCall::Fill(Scalar::Float(1.0)), args: vec![], out: BufId(0) },
                ops: vec!["full"],
                loc: Some(Loc { file: "model.py".into(), line: 9, note: None }),
            }],
            outputs: vec![BufId(0)],
            peak_bytes: 8000,
            ..Program::default()
        };
        let e = check_peak(&program, &SMALL).expect_err("too big");
        assert_eq!((e.op(), e.location().map(|l| l.line)), (Some("full"), Some(9)));
        assert!(e.message().contains("shape [2000]") && e.message().contains("TORSH_MAX_MEMORY"), "{e}");
    }
}
