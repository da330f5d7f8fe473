//! From the steps of a program to actions and distinct kernels, and what the steps write.

use super::Action;
use crate::executor::Shared;
use crate::lib_calls;
use crate::sys::jit;
use std::sync::Arc;
use torsh_codegen::cpu::{Level, Options};
use torsh_ir::checks;
use torsh_ir::distinct::Distinct;
use torsh_ir::kernel::{Access, Kernel};
use torsh_ir::program::{BufDecl, BufId, Place, Program, StepOp};

/// The last step that can fail. Index errors are the only ones that steps raise: memory is taken before the first step, and
/// work for which no thread can be had is done by the caller.
pub(crate) fn last_fallible(program: &Program) -> Option<usize> {
    checks::may_refuse(program).iter().rposition(|&refuses| refuses)
}

/// Whether an input that step `first` is the first to overwrite may be overwritten in place, seen that no step after
/// `last_fallible` fails. A step that fails has written nothing.
pub(crate) fn is_safe(first: usize, last_fallible: Option<usize>) -> bool {
    last_fallible.is_none_or(|last| last <= first)
}

/// The buffers that a step writes.
pub(crate) fn writes(op: &StepOp) -> Vec<BufId> {
    match op {
        StepOp::Kernel { kernel, args } => kernel.written().filter_map(|p| args.get(p).copied()).collect(),
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
    let mut index: Distinct<(Arc<Kernel>, Aliases)> = Distinct::default();
    let mut kernels = Vec::new();
    let mut actions = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        actions.push(match &step.op {
            StepOp::Kernel { kernel, args } => {
                let aliases = aliases(program, kernel, args);
                let options = Options { aliases: aliases.clone(), ..base.clone() };
                let next = kernels.len();
                let at = index.number((kernel.clone(), aliases), next);
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
