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

/// Normalises a kernel. `by_row` keeps vectors along the last inner axis.
pub fn normalise(kernel: &Kernel, by_row: bool) -> Normal {
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
    let row_cost = row_kernel_cost(&k, last_inner, k.inner[k.inner.len() - 1]);
    let axis = match k.grid.last() {
        Some(&extent) if !by_row && row_kernel_cost(&k, k.grid.len() - 1, extent) < row_cost => VectorAxis::Grid,
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

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::kernel::{Access, Param, Reduce, Stage, Store, Value, ValueId};
    use torsh_ir::scalar::ReduceOp;
    use torsh_ir::{DType, Dims};

    fn affine(offset: i64, strides: &[i64]) -> Affine {
        Affine { offset, strides: strides.iter().copied().collect() }
    }

    /// A copy, or a sum over the inner axes.
    fn kernel(grid: &[usize], inner: &[usize], load: &[i64], store: &[i64], sums: bool) -> Kernel {
        let numel = 1 << 30;
        let param = |access| Param { dtype: DType::F32, numel, access };
        let value = |inst| Value { inst, dtype: DType::F32 };
        let (v, out) = (ValueId(0), ValueId(1));
        let store = |value| vec![Store { param: 1, index: affine(0, store), value }];
        let full = |reduces, stores| Stage { domain: Domain::Full, insts: vec![v], reduces, stores };
        let stages = if sums {
            let row = Stage { domain: Domain::Row, insts: vec![], reduces: vec![], stores: store(out) };
            vec![full(vec![Reduce { op: ReduceOp::Sum, value: v, out }], vec![]), row]
        } else {
            vec![full(vec![], store(v))]
        };
        Kernel {
            name: "test".to_string(),
            params: vec![param(Access::Read), param(Access::Write)],
            grid: Dims::from_slice(grid),
            inner: Dims::from_slice(inner),
            values: vec![value(Inst::Load { param: 0, index: affine(3, load) }), value(Inst::Reduced)],
            stages,
        }
    }

    fn shape(n: &Normal) -> (&[usize], &[usize]) {
        (&n.kernel.grid, &n.kernel.inner)
    }

    #[test]
    fn a_contiguous_map_is_one_row() {
        let n = normalise(&kernel(&[4, 1, 5], &[6], &[30, 0, 6, 1], &[30, 7, 6, 1], false), false);
        assert_eq!(shape(&n), (&[][..], &[120][..]));
        assert_eq!(affines(&n.kernel).next().unwrap(), &affine(3, &[1]));
    }

    #[test]
    fn a_map_runs_along_its_cheapest_axis() {
        // Both sides contiguous along the first axis.
        let n = normalise(&kernel(&[600], &[700], &[1, 600], &[1, 601], false), false);
        assert_eq!(shape(&n), (&[700][..], &[600][..]));
        // An axis that is short is worth a stride.
        let n = normalise(&kernel(&[100_000], &[2], &[2, 1], &[3, 1], false), false);
        assert_eq!(shape(&n), (&[2][..], &[100_000][..]));
    }

    #[test]
    fn a_scalar_is_a_row_of_one() {
        let n = normalise(&kernel(&[], &[], &[], &[], false), false);
        assert_eq!(shape(&n), (&[][..], &[1][..]));
        assert_eq!(n.axis, VectorAxis::Inner);
    }

    #[test]
    fn rows_and_columns() {
        let n = normalise(&kernel(&[8, 8], &[1000], &[8000, 1000, 1], &[8, 1, 0], true), false);
        assert_eq!((shape(&n), n.axis), ((&[64][..], &[1000][..]), VectorAxis::Inner));
        let n = normalise(&kernel(&[1000], &[8, 8], &[1, 8000, 1000], &[1, 0, 0], true), false);
        assert_eq!((shape(&n), n.axis), ((&[1000][..], &[64][..]), VectorAxis::Grid));
        // Nothing to fold: any number of empty axes is one.
        let n = normalise(&kernel(&[3], &[5, 0, 2], &[0, 2, 0, 1], &[1, 0, 0, 0], true), false);
        assert_eq!(shape(&n), (&[3][..], &[0][..]));
    }
}
