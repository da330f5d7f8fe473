//! From the steps of a program to actions and distinct kernels, and what the steps write.

use super::Action;
use crate::executor::Shared;
use crate::lib_calls;
use crate::sys::jit;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use torsh_codegen::cpu::{Level, Options};
use torsh_ir::kernel::{Access, Kernel};
use torsh_ir::program::{BufDecl, BufId, LibCall, Place, Program, StepOp};

/// Index errors are the only ones that steps raise: memory is taken before the first step, and work for which
/// no thread can be had is done by the caller.
fn can_fail(op: &StepOp) -> bool {
    match op {
        StepOp::Kernel { .. } | StepOp::Dot(_) => false,
        StepOp::Lib { call, .. } => match call {
            LibCall::Take { .. } | LibCall::Gather { .. } | LibCall::Scatter { .. } | LibCall::IndexPut { .. } => true,
            LibCall::Attention(_) | LibCall::AttentionGrad(_) => false,
            LibCall::ArgSort { .. } | LibCall::Scan { .. } | LibCall::Fill(_) | LibCall::Copy => false,
        },
    }
}

/// The last step that can fail once those before it have not. A step that looks up the same indices in the same size as
/// an earlier one cannot, as the gradient of an embedding: so the order of steps has it, too (`torsh_passes::schedule`).
pub(crate) fn last_fallible(program: &Program) -> Option<usize> {
    // Indices that were found to be in range: their buffer, the size, and whether negative ones count from the end.
    let mut checked = HashSet::new();
    let mut last = None;
    for (i, step) in program.steps.iter().enumerate() {
        if can_fail(&step.op) && lookup(program, &step.op).is_none_or(|l| checked.insert(l)) {
            last = Some(i);
        }
        let written = writes(&step.op);
        checked.retain(|&(index, ..)| !written.iter().any(|&w| share_memory(program, w, index)));
    }
    last
}

/// The indices that a step looks up, as [`last_fallible`] knows them.
fn lookup(program: &Program, op: &StepOp) -> Option<(BufId, usize, bool)> {
    let StepOp::Lib { call, args, .. } = op else { return None };
    let (dim, wraps) = match call {
        LibCall::Take { dim } | LibCall::IndexPut { dim, .. } => (*dim, true),
        LibCall::Gather { dim } | LibCall::Scatter { dim, .. } => (*dim, false),
        LibCall::Attention(_) | LibCall::AttentionGrad(_) => return None,
        LibCall::ArgSort { .. } | LibCall::Scan { .. } | LibCall::Fill(_) | LibCall::Copy => return None,
    };
    let [data, index, ..] = args.as_slice() else { return None };
    Some((*index, *program.buffers.get(data.0 as usize)?.ty.shape.dims().get(dim)?, wraps))
}

/// The buffers that a step writes.
pub(crate) fn writes(op: &StepOp) -> Vec<BufId> {
    match op {
        StepOp::Kernel { kernel, args } => {
            let written = kernel.params.iter().zip(args).filter(|(p, _)| p.access != Access::Read);
            written.map(|(_, &b)| b).collect()
        }
        StepOp::Dot(dot) => vec![dot.out],
        StepOp::Lib { out, .. } => vec![*out],
    }
}

/// Per input: the first step that overwrites it, if donated; empty when no step does.
pub(crate) fn first_writes(program: &Program) -> Vec<Option<usize>> {
    let mut first = vec![None; program.inputs.len()];
    for (i, step) in program.steps.iter().enumerate() {
        for buf in writes(&step.op) {
            if let Place::Donated(input) = program.buffers[buf.0 as usize].place
                && let Some(first) = first.get_mut(input as usize)
            {
                first.get_or_insert(i);
            }
        }
    }
    if first.iter().all(Option::is_none) { Vec::new() } else { first }
}

/// How an executor emits kernels that share no memory.
pub(super) fn options(shared: &Shared) -> Options {
    Options {
        schedule: shared.schedule,
        l2_bytes: shared.l2_bytes,
        vectors: crate::machine::has_vectors(),
        level: Level::parse(shared.level),
        ..Options::default()
    }
}

/// The kernels whose code a program needs, as an executor of another schedule and level would emit them.
pub(crate) fn wanted(program: &Program, options: &Options) -> Vec<(Arc<Kernel>, Options)> {
    // The level of products is no part of any kernel.
    let (kernels, _) = resolve(program, options, lib_calls::Level::of("portable"));
    jit::own(&kernels).into_iter().map(|i| kernels[i].clone()).collect()
}

/// The distinct kernels of a program, and its steps over them.
pub(super) fn resolve(
    program: &Program,
    base: &Options,
    product_level: lib_calls::Level,
) -> (Vec<(Arc<Kernel>, Options)>, Vec<Action>) {
    let mut index: HashMap<(Arc<Kernel>, Aliases), usize> = HashMap::new();
    let mut kernels = Vec::new();
    let mut actions = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        actions.push(match &step.op {
            StepOp::Kernel { kernel, args } => {
                let aliases = aliases(program, kernel, args);
                let options = Options { aliases: aliases.clone(), ..base.clone() };
                let next = kernels.len();
                let at = *index.entry((kernel.clone(), aliases)).or_insert(next);
                if at == next {
                    kernels.push((kernel.clone(), options));
                }
                Action::Kernel { kernel: at, args: args.clone() }
            }
            StepOp::Dot(dot) => {
                let decl = |buf: BufId| &program.buffers[buf.0 as usize];
                let key = match decl(dot.rhs.buf).place {
                    Place::Input(_) | Place::Const(_) => {
                        lib_calls::pack_key(dot, decl(dot.out).ty.dtype, product_level)
                    }
                    Place::Arena { .. } | Place::Output | Place::Donated(_) => None,
                };
                Action::Dot(Box::new(dot.clone()), key.map(Box::new))
            }
            StepOp::Lib { call, args, out } => Action::Lib { call: call.clone(), args: args.clone(), out: *out },
        });
    }
    // Longest first: shorter kernels of the same kind run on the code of a longer one.
    let mut order: Vec<usize> = (0..kernels.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(kernels[i].0.row_len()));
    let mut place = vec![0; kernels.len()];
    order.iter().enumerate().for_each(|(to, &from)| place[from] = to);
    for action in &mut actions {
        if let Action::Kernel { kernel, .. } = action {
            *kernel = place[*kernel];
        }
    }
    let kernels = order.into_iter().map(|i| kernels[i].clone()).collect();
    (kernels, actions)
}

/// Pairs of a written parameter and another one that share memory.
pub(crate) type Aliases = Vec<(u32, u32)>;

pub(crate) fn aliases(program: &Program, kernel: &Kernel, args: &[BufId]) -> Aliases {
    let mut pairs = Vec::new();
    for (w, _) in kernel.params.iter().enumerate().filter(|(_, p)| p.access != Access::Read) {
        for (r, &other) in args.iter().enumerate() {
            if w != r && share_memory(program, args[w], other) {
                pairs.push((w as u32, r as u32));
            }
        }
    }
    pairs
}

fn share_memory(program: &Program, a: BufId, b: BufId) -> bool {
    let (x, y): (&BufDecl, &BufDecl) = (&program.buffers[a.0 as usize], &program.buffers[b.0 as usize]);
    match (&x.place, &y.place) {
        _ if a == b => true,
        (Place::Arena { offset: p }, Place::Arena { offset: q }) => {
            p < &(q + y.ty.nbytes()) && q < &(p + x.ty.nbytes())
        }
        (Place::Input(i) | Place::Donated(i), Place::Input(j) | Place::Donated(j)) => i == j,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_passes::pipeline;

    /// The last step that can fail, of a lookup by `%1` among five and an addition at `index` of `size`; and the steps that
    /// look indices up.
    fn lookups(index: &str, size: usize) -> (Option<usize>, Vec<usize>) {
        let text = format!(
            "graph {{
  %0: f32[5, 3] = input(index=0)
  %1: i64[4] = input(index=1)
  %2: i64[4] = input(index=2)
  %3: f32[{size}, 3] = input(index=3)
  %4: f32[4, 3] = take(%0, %1, dim=0)
  %5: f32[4, 3] = exp(%4)
  %6: f32[{size}, 3] = index_put(%3, {index}, %5, dim=0, mode=\"add\")
  return %6
}}"
        );
        let graph = torsh_ir::text::parse(&text).unwrap();
        let program = pipeline::compile(&graph, &pipeline::Options::default()).unwrap();
        let all = (0..program.steps.len()).filter(|&i| can_fail(&program.steps[i].op)).collect();
        (last_fallible(&program), all)
    }

    #[test]
    fn indices_that_were_found_in_range_do_not_fail_again() {
        for (index, size, again) in [("%1", 5, true), ("%1", 4, false), ("%2", 5, false)] {
            let (last, all) = lookups(index, size);
            let &[take, put] = all.as_slice() else { panic!("{all:?}") };
            assert_eq!(last, Some(if again { take } else { put }), "{index} {size}");
        }
    }
}
