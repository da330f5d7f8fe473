//! Map kernels whose loads run along another axis than their stores: both sides in order, by tiles in shared memory
//! that are read and written along different axes. Rows of a tile are one element longer than its side, so that
//! neither direction meets a bank twice.

use super::access::{Sharing, Width, parameters};
use super::generate::Source;
use super::map::point;
use super::scalar::{from_memory, memory_type};
use crate::cpu::normal::affines;
use std::fmt::Write;
use torsh_ir::Result;
use torsh_ir::kernel::{Affine, Inst, Kernel, ValueId};

/// Side of a tile, and threads along each of its axes.
const SIDE: usize = 32;
const ROWS: usize = 8;
/// Shared memory that tiles may take.
const LIMIT: usize = 40 << 10;

/// The axis along which a map's elements lie side by side, if there is one of some length.
fn unit_axis(map: &Affine, extents: &[usize]) -> Option<usize> {
    (0..extents.len()).find(|&a| map.strides[a] == 1 && extents[a] >= 16)
}

/// The kernel and its grid, if the map is a transposition.
pub(super) fn source(k: &Kernel, sharing: &Sharing, wide: bool) -> Result<Option<(Source, [u64; 3])>> {
    let extents: Vec<usize> = k.grid.iter().chain(&k.inner).copied().collect();
    let stage = &k.stages[0];
    // Every store runs along one axis, and some load along another one.
    let mut along = None;
    for s in &stage.stores {
        match (unit_axis(&s.index, &extents), along) {
            (Some(a), None) => along = Some(a),
            (Some(a), Some(b)) if a == b => {}
            _ => return Ok(None),
        }
    }
    let Some(x) = along else { return Ok(None) };
    let loads: Vec<(ValueId, u32, &Affine)> = stage
        .insts
        .iter()
        .filter_map(|&v| match &k.value(v).inst {
            Inst::Load { param, index } => Some((v, *param, index)),
            Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => None,
        })
        .collect();
    let crossing = |map: &Affine| unit_axis(map, &extents).filter(|&y| y != x && map.strides[x] != 0);
    let Some(y) = loads.iter().find_map(|(_, _, map)| crossing(map)) else { return Ok(None) };
    let tiled: Vec<_> = loads.iter().filter(|(_, _, map)| crossing(map) == Some(y)).collect();
    let bytes: usize = tiled.iter().map(|(_, p, _)| SIDE * (SIDE + 1) * k.params[*p as usize].dtype.size()).sum();
    // A load in place would be read by one thread and written by another.
    if bytes > LIMIT || tiled.iter().any(|(_, p, _)| !sharing.read_only[*p as usize]) {
        return Ok(None);
    }
    let width = Width::of(&extents, SIDE, affines(k), wide);
    let (w, unsigned) = (width, width.unsigned());
    let others: Vec<usize> = (0..extents.len()).filter(|&a| a != x && a != y).collect();
    let rest: Vec<usize> = others.iter().map(|&a| extents[a]).collect();
    let (tiles_x, tiles_y) = (extents[x].div_ceil(SIDE), extents[y].div_ceil(SIDE));
    let mut out = String::new();
    for (v, p, _) in &tiled {
        let ty = memory_type(k.params[*p as usize].dtype);
        let _ = writeln!(out, "    __shared__ {ty} tile{}[{SIDE}][{}];", v.0, SIDE + 1);
    }
    let _ = writeln!(out, "    const {unsigned} block = blockIdx.x;");
    let _ = writeln!(out, "    const int x0 = (int)(block % {}) * {SIDE};", w.ulit(tiles_x));
    let _ = writeln!(out, "    const {unsigned} blocks = block / {};", w.ulit(tiles_x));
    let _ = writeln!(out, "    const int y0 = (int)(blocks % {}) * {SIDE};", w.ulit(tiles_y));
    let _ = writeln!(out, "    const {unsigned} others = blocks / {};", w.ulit(tiles_y));
    let (split, part) = w.split("others", &rest, "c", "    ");
    out.push_str(&split);
    let mut coords: Vec<Option<String>> = vec![None; extents.len()];
    for (c, &a) in part.into_iter().zip(&others) {
        coords[a] = c;
    }
    (coords[x], coords[y]) = (Some("x".to_string()), Some("y".to_string()));
    let (ty, ex, ey) = (w.ty(), extents[x], extents[y]);
    // Threads along y read, threads along x write.
    let _ = writeln!(out, "    #pragma unroll\n    for (int r = 0; r < {SIDE}; r += {ROWS}) {{");
    let _ = writeln!(out, "        const {ty} x = x0 + r + (int)threadIdx.y;");
    let _ = writeln!(out, "        const {ty} y = y0 + (int)threadIdx.x;");
    let _ = writeln!(out, "        if (x < {ex} && y < {ey}) {{");
    for (v, p, map) in &tiled {
        let at = w.affine(map, &coords);
        let _ = writeln!(out, "            tile{}[r + threadIdx.y][threadIdx.x] = __ldg(p{p} + ({at}));", v.0);
    }
    out.push_str("        }\n    }\n    __syncthreads();\n");
    let _ = writeln!(out, "    #pragma unroll\n    for (int r = 0; r < {SIDE}; r += {ROWS}) {{");
    let _ = writeln!(out, "        const {ty} x = x0 + (int)threadIdx.x;");
    let _ = writeln!(out, "        const {ty} y = y0 + r + (int)threadIdx.y;");
    let _ = writeln!(out, "        if (x < {ex} && y < {ey}) {{");
    let loaded = |v: ValueId| {
        let (v, p, _) = tiled.iter().find(|(t, _, _)| *t == v)?;
        let element = format!("tile{}[threadIdx.x][r + threadIdx.y]", v.0);
        Some(from_memory(k.params[*p as usize].dtype, &element))
    };
    out.push_str(&point(k, stage, sharing, w, &coords, &loaded, "            ")?);
    out.push_str("        }\n    }\n");
    let source = Source {
        stem: format!("{}_transposed", k.name),
        params: parameters(k, sharing),
        body: out,
        block: [SIDE as u32, ROWS as u32, 1],
        static_shared: bytes as u32,
        ..Source::default()
    };
    let blocks = tiles_x as u64 * tiles_y as u64 * rest.iter().product::<usize>() as u64;
    Ok(Some((source, [blocks, 1, 1])))
}
