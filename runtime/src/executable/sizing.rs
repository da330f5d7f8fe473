//! How the steps of a program are spread over threads, and what a run costs.

use super::Action;
use crate::executor::Shared;
use crate::lib_calls;
use crate::sys::call::{KernelFn, Part};
use crate::units::{self, Unit};
use torsh_ir::program::{BufId, LibCall, Program, StepOp};

/// Work below this is not worth waking threads for; above, each thread gets at least so much.
const SERIAL_NS: f64 = 20_000.0;
const THREAD_NS: f64 = 10_000.0;
/// Parts per thread: enough to even out what other processes take from some of them.
const PARTS_PER_THREAD: usize = 4;
/// Fewer columns are not worth a part of their own.
const MIN_PART_COLS: usize = 2048;

/// A program of no more steps is over before an interrupt matters, unless it has large work: kernels of so
/// many nanoseconds, a product of so many multiplications, or a library call with a result of so many bytes.
pub(super) const FEW_STEPS: usize = 4;
const LONG_NS: f64 = 1_000_000.0;
const LONG_PRODUCT: usize = 10_000_000;
const LONG_CALL_BYTES: usize = 1 << 20;

/// For the cost of a run: multiplications in a nanosecond, and nanoseconds for a byte of a library call.
const PRODUCTS_PER_NS: f64 = 4.0;
const CALL_NS_PER_BYTE: f64 = 2.0;
/// Slices of scratch memory that an attention needs, and bytes of each, so that the next one is aligned too.
pub(super) fn attention_scratch(call: &LibCall, threads: usize) -> (usize, usize) {
    let (count, floats) = lib_calls::attention::scratch(call, threads);
    (count, floats.saturating_mul(size_of::<f32>()).next_multiple_of(64))
}

/// How a program is spread over threads, and the scratch memory for that.
pub(super) struct Sizing {
    pub(super) threads: usize,
    pub(super) units: Vec<Spread>,
    pub(super) scratch_bytes: usize,
    /// Scratch memory of the product that needs most.
    pub(super) packed_bytes: usize,
}

/// A unit with its work cut up.
pub(super) struct Spread {
    pub(super) unit: Unit,
    /// Threads that work on it, and the scratch of each for its kernels.
    pub(super) workers: usize,
    pub(super) scratch_each: usize,
    /// The parts of its kernels, by step; a product sees to itself and to what runs on its rows.
    pub(super) parts: Vec<(usize, Part)>,
}

impl Sizing {
    pub(super) fn new(
        program: &Program,
        actions: &[Action],
        kernels: &[KernelFn],
        threads: usize,
        shared: &Shared,
    ) -> Sizing {
        let kernel = |step: usize| match actions.get(step) {
            Some(Action::Kernel { kernel, .. }) => kernels.get(*kernel),
            _ => None,
        };
        let found = units::find(program, &|step| kernel(step).map(KernelFn::info), threads, shared.join);
        let mut sizing = Sizing { threads, units: Vec::with_capacity(found.len()), scratch_bytes: 0, packed_bytes: 0 };
        for unit in found {
            let (first, front) = match &unit {
                Unit::Chain { front, dot, .. } => (*dot, front.is_some()),
                Unit::Step(_) | Unit::Region(_) => (unit.steps().start, false),
            };
            if let StepOp::Dot(dot) = &program.steps[first].op {
                let dtype = program.buffers[dot.out.0 as usize].ty.dtype;
                let bytes = lib_calls::scratch(dot, dtype, shared.product_level, threads, front);
                sizing.packed_bytes = sizing.packed_bytes.max(bytes);
            }
            if let StepOp::Lib { call, .. } = &program.steps[first].op {
                let (count, each) = attention_scratch(call, threads);
                sizing.packed_bytes = sizing.packed_bytes.max(count.saturating_mul(each));
            }
            let spread = Spread::new(unit, &kernel, threads);
            sizing.scratch_bytes = sizing.scratch_bytes.max(spread.scratch_each.saturating_mul(spread.workers));
            sizing.units.push(spread);
        }
        sizing
    }
}

impl Spread {
    fn new<'k>(unit: Unit, kernel: &dyn Fn(usize) -> Option<&'k KernelFn>, threads: usize) -> Spread {
        let functions: Vec<(usize, &KernelFn)> =
            unit.steps().filter_map(|step| kernel(step).map(|k| (step, k))).collect();
        let scratch_each = functions.iter().map(|(_, k)| scratch_each(k)).max().unwrap_or(0);
        let mut spread = Spread { unit, workers: threads, scratch_each, parts: Vec::new() };
        if matches!(spread.unit, Unit::Chain { .. }) {
            return spread;
        }
        let all: f64 = functions.iter().map(|(_, k)| k.info().cost_ns).sum();
        spread.workers = workers(all, threads);
        for (step, kernel) in functions {
            let share = if all > 0.0 { kernel.info().cost_ns / all } else { 1.0 };
            let wanted = ((spread.workers * PARTS_PER_THREAD) as f64 * share).ceil() as usize;
            let wanted = if spread.workers <= 1 { 1 } else { wanted.max(1) };
            spread.parts.extend(parts(kernel, wanted, spread.workers).into_iter().map(|part| (step, part)));
        }
        // `for_each` numbers its workers below both counts.
        spread.workers = spread.workers.min(spread.parts.len());
        spread
    }
}

/// Scratch of one worker of a kernel, so that the next one's is aligned too.
fn scratch_each(kernel: &KernelFn) -> usize {
    kernel.info().scratch_bytes.next_multiple_of(64)
}

/// What a run takes on one thread, roughly.
pub(super) fn cost_ns(program: &Program, actions: &[Action], kernels: &[KernelFn]) -> f64 {
    let bytes = |b: &BufId| program.buffers[b.0 as usize].ty.nbytes() as f64;
    let cost = |action: &Action| match action {
        Action::Kernel { kernel, .. } => kernels[*kernel].info().cost_ns,
        Action::Dot(dot, _) => {
            let one = dot.m as f64 * dot.n as f64 * dot.k as f64;
            one * dot.batch.iter().map(|&b| b as f64).product::<f64>() / PRODUCTS_PER_NS
        }
        Action::Lib { args, out, .. } => args.iter().chain([out]).map(bytes).sum::<f64>() * CALL_NS_PER_BYTE,
    };
    actions.iter().map(cost).sum()
}

/// Whether a program is worth asking for interrupts though it has few steps.
pub(super) fn takes_long(program: &Program, kernels: &[KernelFn]) -> bool {
    kernels.iter().map(|k| k.info().cost_ns).sum::<f64>() > LONG_NS
        || program.steps.iter().any(|step| match &step.op {
            StepOp::Kernel { .. } => false,
            StepOp::Dot(dot) => {
                let one = dot.m.saturating_mul(dot.n).saturating_mul(dot.k);
                dot.batch.iter().fold(one, |n, &b| n.saturating_mul(b)) > LONG_PRODUCT
            }
            StepOp::Lib { out, .. } => program.buffers[out.0 as usize].ty.nbytes() > LONG_CALL_BYTES,
        })
}

/// How many threads so much work is worth.
fn workers(ns: f64, threads: usize) -> usize {
    if ns < SERIAL_NS { 1 } else { threads.min((ns / THREAD_NS) as usize).max(1) }
}

/// Cuts a kernel into about `wanted` parts for `workers` threads: rows, and columns too where rows are few.
fn parts(kernel: &KernelFn, wanted: usize, workers: usize) -> Vec<Part> {
    let info = kernel.info();
    if info.rows == 0 || (info.splits_columns && info.cols == 0) {
        return Vec::new();
    }
    if wanted <= 1 {
        return vec![Part { rows: 0..info.rows, cols: 0..info.cols }];
    }
    let mut row_step = info.rows.div_ceil(wanted).next_multiple_of(info.row_block.max(1));
    let mut col_step = info.cols.max(1);
    let row_parts = info.rows.div_ceil(row_step);
    if info.splits_columns && row_parts < wanted {
        col_step = info.cols.div_ceil(wanted.div_ceil(row_parts)).max(MIN_PART_COLS).next_multiple_of(512);
    } else if row_parts < workers.min(wanted) {
        // Blocks of rows are too few: cut them.
        row_step = info.rows.div_ceil(workers.min(wanted)).max(1);
    }
    let mut parts = Vec::new();
    for row in (0..info.rows).step_by(row_step) {
        let rows = row..(row + row_step).min(info.rows);
        if info.splits_columns {
            for col in (0..info.cols).step_by(col_step) {
                parts.push(Part { rows: rows.clone(), cols: col..(col + col_step).min(info.cols) });
            }
        } else {
            parts.push(Part { rows, cols: 0..info.cols });
        }
    }
    parts
}
