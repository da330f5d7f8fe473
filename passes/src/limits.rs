//! Refuses graphs and programs that exceed `torsh_ir::limits`, before anything is allocated or compiled.
//!
//! Needs: a valid graph. Leaves it as it is. Checked, in 64-bit arithmetic that cannot overflow: nodes per
//! graph, bytes of constants per graph, and for every node that an output needs and every input: rank,
//! elements and bytes. After planning: the bytes a program needs beyond its inputs. An error names the op,
//! the shape, what was asked for, the limit and how to raise it, and carries the user's line.

use crate::rebuild;
use std::collections::HashSet;
use torsh_ir::attr::AttrsExt;
use torsh_ir::error::{Error, Result};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::limits::{self, Limits};
use torsh_ir::op::Kind;
use torsh_ir::program::{LibCall, Place, Program, StepOp};
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

/// Checks a program that somebody else planned as [`compile`](crate::compile) checks its graph and its plan: types of buffers,
/// constants (equal ones once), the peak, and that no step runs over more points than a tensor may have. Points of a kernel
/// are those of a value of the graph, operands of products and attentions are values, so that nothing that passes make of a
/// graph within the limits is refused. Instructions of a kernel are not counted: their limit says where fusion stops, and
/// one value alone may take more.
pub fn check_program(program: &Program, limits: &Limits) -> Result<()> {
    let (mut constants, mut seen) = (0u64, HashSet::new());
    for decl in &program.buffers {
        check_type(&decl.ty, limits)?;
        if let Place::Const(data) = &decl.place
            && seen.insert(&data[..])
        {
            constants = constants.saturating_add(data.len() as u64);
        }
    }
    if constants > limits.max_constant_bytes {
        let limit = limits.max_constant_bytes;
        return Err(exceeded("the program", constants, "bytes of constants", limit, "max_constant_bytes"));
    }
    check_peak(program, limits)?;
    let most = |what: &str, points: u64| match points <= limits.max_elements {
        true => Ok(()),
        false => Err(exceeded(what, points, "elements", limits.max_elements, "max_elements")),
    };
    for step in &program.steps {
        match &step.op {
            StepOp::Kernel { kernel, .. } => most("a kernel", product(kernel.grid.iter().chain(&kernel.inner)))?,
            StepOp::Dot(dot) => {
                for (rows, cols) in [(dot.m, dot.k), (dot.k, dot.n), (dot.m, dot.n)] {
                    most("an operand of a product", product(dot.batch.iter().chain([&rows, &cols])))?;
                }
            }
            StepOp::Lib { call, .. } => {
                let forward = matches!(call, LibCall::Attention(_));
                let Some(attend) = call.attend() else { continue };
                for (rows, cols, batched) in attend.extents(forward) {
                    let batch = attend.batch.iter().filter(|_| batched);
                    most("an operand of an attention", product(batch.chain([&rows, &cols])))?;
                }
            }
        }
    }
    Ok(())
}

/// A product of extents; 0 where one is, however large the others.
fn product<'a>(extents: impl Iterator<Item = &'a usize> + Clone) -> u64 {
    if extents.clone().any(|&n| n == 0) {
        return 0;
    }
    extents.fold(1u64, |all, &n| all.saturating_mul(n as u64))
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
    fn a_program_is_held_to_the_limits_of_its_graph() {
        let limits = Limits { max_peak_bytes: u64::MAX, ..SMALL };
        let refused = |change: &dyn Fn(&mut Program)| {
            let b = Builder::new(Graph::new());
            let x = b.input(Type::new(DType::F32, Shape::of(&[4, 4])));
            let y = (x.dot_general(x, &[], &[], &[1], &[0]) + x).id();
            let mut g = b.finish().expect("well formed");
            g.set_outputs(vec![y]);
            let mut p = crate::compile(&g, &crate::Options::default()).expect("it compiles");
            check_program(&p, &limits).expect("within the limits");
            change(&mut p);
            check_program(&p, &limits).expect_err("beyond them").message().to_string()
        };
        let dot = |p: &mut Program, k: usize| {
            for step in &mut p.steps {
                if let StepOp::Dot(dot) = &mut step.op {
                    dot.k = k;
                }
            }
        };
        assert!(refused(&|p| dot(p, 1 << 40)).contains("an operand of a product takes"));
        assert!(refused(&|p| p.buffers[0].ty.shape = Shape::of(&[1001])).contains("takes 1001 elements"));
        let constant = |n: usize, v: u8| BufDecl {
            ty: Type::new(DType::U8, Shape::of(&[n])),
            place: Place::Const(vec![v; n].into()),
        };
        // The same bytes in two shapes count once.
        let told = refused(&|p| p.buffers.extend([constant(12, 1), constant(12, 1), constant(12, 2)]));
        assert!(told.contains("24 bytes of constants"), "{told}");
        let told = refused(&|p| {
            for step in &mut p.steps {
                if let StepOp::Kernel { kernel, .. } = &mut step.op {
                    std::sync::Arc::make_mut(kernel).inner.push(1001);
                }
            }
        });
        assert!(told.starts_with("a kernel takes"), "{told}");
    }

    /// The limits of a graph are those of its largest value: no sample of any op comes beyond them as a program.
    #[test]
    fn what_passes_make_of_a_graph_within_the_limits_is_within_them() {
        let mut ran = 0;
        for def in torsh_ir::ops::OPS {
            let op = torsh_ir::op::Op(def);
            if op.kind == Kind::Input {
                continue;
            }
            for dtype in op.dtypes.iter() {
                for sample in (op.samples)() {
                    let Ok((mut g, out)) = torsh_ir::sample::graph(op, &sample, dtype) else { continue };
                    g.set_outputs(vec![out]);
                    let Ok(g) = crate::decompose::expand(g) else { continue };
                    let largest = g.ids().map(|id| g.ty(id).numel() as u64).max().unwrap_or(0);
                    let limits = Limits { max_elements: largest, ..Limits::with_memory(1 << 40) };
                    for fusion in [true, false] {
                        let options = crate::Options { fusion, ..crate::Options::default() };
                        let Ok(p) = crate::lower::run(&g, &options) else { continue };
                        check_program(&p, &limits).unwrap_or_else(|e| panic!("{} of {dtype}: {e}", op.name));
                        ran += 1;
                    }
                }
            }
        }
        assert!(ran > 500, "only {ran} samples ran");
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
