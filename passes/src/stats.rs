//! Figures of a program.

use std::collections::HashSet;
use torsh_ir::kernel::{Affine, Domain, Inst, Kernel};
use torsh_ir::program::{BufId, LibCall, Place, Program, StepOp};

/// Bytes that a run needs beyond its inputs: arena, outputs and constants.
pub fn peak(program: &Program) -> usize {
    let own = |place: &Place| matches!(place, Place::Output | Place::Const(_));
    let buffers = program.buffers.iter().filter(|b| own(&b.place)).map(|b| b.ty.nbytes());
    buffers.fold(program.arena_bytes, usize::saturating_add)
}

/// Counts steps, bytes moved and floating point operations.
pub fn fill(program: &mut Program) {
    let (mut bytes, mut flops) = (0u64, 0u64);
    let mut steps = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let (b, f) = match &step.op {
            StepOp::Kernel { kernel, .. } => (kernel_bytes(kernel), kernel_flops(kernel)),
            StepOp::Dot(dot) => {
                let batch = dot.batch.iter().fold(1u64, |a, &b| a.saturating_mul(b as u64));
                let (m, n, k) = (dot.m as u64, dot.n as u64, dot.k as u64);
                let size = ty_size(program, dot.out);
                let elements =
                    m.saturating_mul(k).saturating_add(k.saturating_mul(n)).saturating_add(m.saturating_mul(n));
                let products = m.saturating_mul(n).saturating_mul(k);
                (batch.saturating_mul(elements).saturating_mul(size), batch.saturating_mul(products).saturating_mul(2))
            }
            StepOp::Lib { call, args, out } => {
                let read = args.iter().fold(0u64, |a, &b| a.saturating_add(nbytes(program, b)));
                // A lookup reads only what it returns.
                let read = match call {
                    LibCall::Take { .. } | LibCall::Gather { .. } => nbytes(program, *out),
                    _ => read,
                };
                (read.saturating_add(nbytes(program, *out)), attention_flops(call))
            }
        };
        steps.push((b, f));
        bytes = bytes.saturating_add(b);
        flops = flops.saturating_add(f);
    }
    program.stats.steps = steps;
    program.stats.kernels = program.steps.len();
    program.stats.bytes_moved = bytes;
    program.stats.flops = flops;
}

/// Two products forward, five backward; half of each where half of the scores is masked.
fn attention_flops(call: &LibCall) -> u64 {
    let Some(a) = call.attend() else { return 0 };
    let s = a.sizes();
    let scores = [s.batch, s.queries, s.keys].iter().fold(1u64, |n, &x| n.saturating_mul(x as u64));
    let (depth, width) = (s.depth as u64, s.width as u64);
    let (q, w) = if matches!(call, LibCall::Attention(_)) { (1, 1) } else { (3, 2) };
    let all = scores.saturating_mul(2).saturating_mul(q * depth + w * width);
    if a.causal { all / 2 } else { all }
}

fn ty_size(program: &Program, buf: BufId) -> u64 {
    program.buffers[buf.0 as usize].ty.dtype.size() as u64
}

fn nbytes(program: &Program, buf: BufId) -> u64 {
    program.buffers[buf.0 as usize].ty.nbytes() as u64
}

/// Distinct elements that an access touches, at most.
fn touched(kernel: &Kernel, index: &Affine, size: usize) -> u64 {
    let extents = kernel.grid.iter().chain(&kernel.inner);
    let distinct = extents.zip(&index.strides).filter(|(_, s)| **s != 0);
    distinct.fold(size as u64, |a, (&e, _)| a.saturating_mul(e as u64))
}

/// Bytes from and to memory; an element that several stages load counts once.
fn kernel_bytes(kernel: &Kernel) -> u64 {
    let size = |param: u32| kernel.params[param as usize].dtype.size();
    let loads: HashSet<(u32, &Affine)> = kernel
        .values
        .iter()
        .filter_map(|v| match &v.inst {
            Inst::Load { param, index } => Some((*param, index)),
            _ => None,
        })
        .collect();
    let stores = kernel.stages.iter().flat_map(|s| s.stores.iter().map(|s| (s.param, &s.index)));
    loads.into_iter().chain(stores).fold(0, |a, (p, i)| a.saturating_add(touched(kernel, i, size(p))))
}

fn kernel_flops(kernel: &Kernel) -> u64 {
    let mut flops = 0u64;
    for stage in &kernel.stages {
        let points = match stage.domain {
            Domain::Row => kernel.rows(),
            Domain::Full => kernel.rows().saturating_mul(kernel.row_len()),
        };
        let float_op = |v: &&torsh_ir::kernel::ValueId| {
            let value = kernel.value(**v);
            value.dtype.is_float() && matches!(value.inst, Inst::Op(..))
        };
        let ops = stage.insts.iter().filter(float_op).count() + stage.reduces.len();
        flops = flops.saturating_add((points as u64).saturating_mul(ops as u64));
    }
    flops
}
