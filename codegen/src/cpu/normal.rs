//! Brings a kernel's iteration space into the form that the schedules read: no axis of extent 1, neighbours
//! merged where every index map allows it, the last inner axis the one to run vectors along.
//!
//! The result computes the same: a map kernel's points may be visited in any order and with any split into
//! grid and inner axes; a row kernel keeps its rows and the order of the points of a row.

use smallvec::SmallVec;
use torsh_ir::kernel::{Affine, Domain, Inst, Kernel};

/// The axis that vectors run along.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum VectorAxis {
    /// The last inner axis: a row is worked off in blocks.
    Inner,
    /// The last grid axis: a block of rows is worked off point by point ("column mode").
    Grid,
}

/// A normalised kernel. `kernel.inner` is never empty, nor is `kernel.grid` in column mode.
#[derive(Clone, Debug)]
pub struct Normal {
    /// The same kernel over merged axes.
    pub kernel: Kernel,
    /// What vectors run along.
    pub axis: VectorAxis,
}

/// Nanoseconds per element of a unit-stride and of any other access, per scalar operation in a block, and per
/// call of a primitive: the figures behind every choice of axis. Only their order of magnitude matters.
const UNIT_NS: f64 = 0.1;
const STRIDED_NS: f64 = 0.8;
const OP_NS: f64 = 0.05;
const CALL_NS: f64 = 3.0;
/// Elements per block, for weighing call costs.
const BLOCK: f64 = 512.0;

/// Normalises a kernel.
pub fn normalise(kernel: &Kernel) -> Normal {
    let mut k = kernel.clone();
    if k.is_map() {
        if k.stages[0].domain == Domain::Row {
            drop_axes(&mut k, |axis, grid| axis < grid);
            k.stages[0].domain = Domain::Full;
        }
        // One list of axes; any order and any cut will do.
        let mut axes = std::mem::take(&mut k.grid);
        axes.extend(std::mem::take(&mut k.inner));
        k.grid = axes;
        drop_unit_axes(&mut k);
        merge_axes(&mut k);
        let best = (0..k.grid.len()).rev().min_by(|&a, &b| map_cost(&k, a).total_cmp(&map_cost(&k, b)));
        if let Some(axis) = best {
            move_axis_to_inner(&mut k, axis);
            merge_axes(&mut k);
        }
        ensure_inner(&mut k);
        return Normal { kernel: k, axis: VectorAxis::Inner };
    }
    if k.inner.contains(&0) {
        // One empty axis stands for all.
        let grid = k.grid.len();
        drop_axes(&mut k, |axis, _| axis < grid);
        k.inner.push(0);
        each_affine(&mut k, |a| a.strides.push(0));
    }
    drop_unit_axes(&mut k);
    merge_axes(&mut k);
    ensure_inner(&mut k);
    let last_inner = k.grid.len() + k.inner.len() - 1;
    let by_row = row_kernel_cost(&k, last_inner, k.inner[k.inner.len() - 1]);
    let axis = match k.grid.last() {
        Some(&extent) if row_kernel_cost(&k, k.grid.len() - 1, extent) < by_row => VectorAxis::Grid,
        _ => VectorAxis::Inner,
    };
    Normal { kernel: k, axis }
}

/// Calls `f` on every index map of the kernel.
fn each_affine(k: &mut Kernel, mut f: impl FnMut(&mut Affine)) {
    for value in &mut k.values {
        match &mut value.inst {
            Inst::Load { index, .. } | Inst::Index(index) => f(index),
            Inst::Const(_) | Inst::Op(..) | Inst::Reduced => {}
        }
    }
    for stage in &mut k.stages {
        stage.stores.iter_mut().for_each(|store| f(&mut store.index));
    }
}

/// Every index map of the kernel.
pub fn affines(k: &Kernel) -> impl Iterator<Item = &Affine> {
    let loads = k.values.iter().filter_map(|v| match &v.inst {
        Inst::Load { index, .. } | Inst::Index(index) => Some(index),
        Inst::Const(_) | Inst::Op(..) | Inst::Reduced => None,
    });
    loads.chain(k.stages.iter().flat_map(|s| s.stores.iter().map(|store| &store.index)))
}

fn extents(k: &Kernel) -> SmallVec<[usize; 8]> {
    k.grid.iter().chain(k.inner.iter()).copied().collect()
}

/// Keeps the axes for which `keep(axis, number of grid axes)` holds.
fn drop_axes(k: &mut Kernel, keep: impl Fn(usize, usize) -> bool) {
    let grid = k.grid.len();
    let all = extents(k);
    k.grid = (0..grid).filter(|&i| keep(i, grid)).map(|i| all[i]).collect();
    k.inner = (grid..all.len()).filter(|&i| keep(i, grid)).map(|i| all[i]).collect();
    each_affine(k, |a| {
        a.strides = (0..all.len()).filter(|&i| keep(i, grid)).map(|i| a.strides[i]).collect();
    });
}

fn drop_unit_axes(k: &mut Kernel) {
    let all = extents(k);
    drop_axes(k, |axis, _| all[axis] != 1);
}

/// Merges neighbouring axes of the same kind that every map walks as one.
fn merge_axes(k: &mut Kernel) {
    let mut axis = 1;
    while axis < k.grid.len() + k.inner.len() {
        let grid = k.grid.len();
        let all = extents(k);
        let extent = all[axis] as i64;
        let joint = axis != grid && affines(k).all(|a| a.strides[axis - 1] == a.strides[axis].wrapping_mul(extent));
        // A product beyond usize cannot belong to a verified kernel; such axes stay apart.
        let Some(product) = all[axis - 1].checked_mul(all[axis]).filter(|_| joint) else {
            axis += 1;
            continue;
        };
        if axis < grid {
            k.grid[axis] = product;
            k.grid.remove(axis - 1);
        } else {
            k.inner[axis - grid] = product;
            k.inner.remove(axis - grid - 1);
        }
        each_affine(k, |a| {
            a.strides.remove(axis - 1);
        });
    }
}

fn move_axis_to_inner(k: &mut Kernel, axis: usize) {
    let extent = k.grid.remove(axis);
    k.inner.push(extent);
    each_affine(k, |a| {
        let stride = a.strides.remove(axis);
        a.strides.push(stride);
    });
}

fn ensure_inner(k: &mut Kernel) {
    if k.inner.is_empty() {
        k.inner.push(1);
        each_affine(k, |a| a.strides.push(0));
    }
}

fn access_ns(stride: i64) -> f64 {
    match stride {
        0 => 0.0,
        1 => UNIT_NS,
        _ => STRIDED_NS,
    }
}

/// Cost per element of running a map kernel's vectors along `axis`.
fn map_cost(k: &Kernel, axis: usize) -> f64 {
    let calls = k.values.len() as f64 + k.stages[0].stores.len() as f64;
    let accesses: f64 = affines(k).map(|a| access_ns(a.strides[axis])).sum();
    accesses + calls * (OP_NS + CALL_NS / BLOCK.min(extents(k)[axis].max(1) as f64))
}

/// Cost per element of running a row kernel's vectors along `axis`.
fn row_kernel_cost(k: &Kernel, axis: usize, extent: usize) -> f64 {
    let mut cost = 0.0;
    for stage in k.stages.iter().filter(|s| s.domain == Domain::Full) {
        let calls = (stage.insts.len() + stage.reduces.len() + stage.stores.len()) as f64;
        cost += calls * (OP_NS + CALL_NS / BLOCK.min(extent.max(1) as f64));
        cost += stage.stores.iter().map(|s| access_ns(s.index.strides[axis])).sum::<f64>();
        for &v in &stage.insts {
            if let Inst::Load { index, .. } = &k.value(v).inst {
                cost += access_ns(index.strides[axis]);
            }
        }
    }
    let points = k.row_len().max(1) as f64;
    let row_calls: usize =
        k.stages.iter().filter(|s| s.domain == Domain::Row).map(|s| s.insts.len() + s.stores.len()).sum();
    let rows_at_once = if axis < k.grid.len() { BLOCK.min(extent as f64).max(1.0) } else { 1.0 };
    cost + row_calls as f64 * CALL_NS / (points * rows_at_once)
}
