//! The forward pass: running maximum, sum and result of each query over the blocks of keys (Dao et al.,
//! FlashAttention-2, 2023).

use super::{
    Block, Call, KEYS, PART, Par, QUERIES, Tiles, again, beyond, for_each, pack_panels, pack_rows, padded, split, take,
    threads_for,
};
use crate::sys::attention::{LANES, PANEL, Product, ROWS};
use std::sync::PoisonError;
use torsh_ir::Result;
use torsh_ir::program::Attend;

/// Parts for each thread: causal ones differ in work, and other processes take some.
const PARTS_PER_THREAD: usize = 4;

/// Queries of a part.
fn part_rows(a: &Attend, threads: usize) -> usize {
    let rows = a.sizes().batch.saturating_mul(a.queries);
    let wanted = rows.div_ceil(threads.saturating_mul(PARTS_PER_THREAD).max(1)).next_multiple_of(QUERIES);
    let most = a.queries.max(1).next_multiple_of(QUERIES).min(PART);
    if threads <= 1 { most } else { wanted.clamp(QUERIES, most) }
}

fn threads_of(a: &Attend, threads: usize) -> usize {
    threads_for(a, a.depth.saturating_add(a.width), threads)
}

/// See [`super::scratch`].
pub(super) fn scratch(a: &Attend, threads: usize) -> (usize, usize) {
    let threads = threads_of(a, threads);
    let rows = part_rows(a, threads);
    let width = padded(a.width);
    let per_row = a.depth + width + 1 + LANES;
    (threads, rows * per_row + KEYS * (a.depth + width) + QUERIES * (KEYS + 1))
}

/// Runs it.
pub(super) fn run(call: &Call<'_>, out: &mut [f32], tiles: &Tiles<'_>, par: &Par) -> Result<()> {
    let a = call.a;
    let s = a.sizes();
    let threads = threads_of(a, par.threads);
    let rows = part_rows(a, threads);
    let per_head = s.queries.div_ceil(rows);
    let parts = s.batch * per_head;
    let extent = |part: usize| (part / per_head, part % per_head * rows);
    let length = |part: usize| rows.min(s.queries - extent(part).1);
    let (values, lse) = out.split_at_mut(s.batch * s.queries * s.width);
    let values = split(values, (0..parts).map(|p| length(p) * s.width))?;
    let lse = if a.lse { split(lse, (0..parts).map(length))? } else { Vec::new() };
    let par = Par { threads, run: par.run };
    for_each(parts, tiles, &par, &|part, memory| {
        let (b, first) = extent(part);
        let mut values = values[part].lock().unwrap_or_else(PoisonError::into_inner);
        let mut lse = lse.get(part).map(|l| l.lock().unwrap_or_else(PoisonError::into_inner));
        let mut p = Part::new(call, (b, first, length(part)), rows, memory)?;
        p.run()?;
        p.finish(&mut values, lse.as_deref_mut().map(|l| &mut **l))
    })
}

/// Some queries of a head.
struct Part<'a> {
    call: &'a Call<'a>,
    b: usize,
    first: usize,
    count: usize,
    /// Queries, scaled, in panels.
    q: &'a mut [f32],
    /// A block of keys in panels, and of values in rows.
    k: &'a mut [f32],
    v: &'a mut [f32],
    /// Where the values are, if they lie as a packed block does: then they are not packed.
    v_at: Option<usize>,
    /// A block of scores, then weights.
    s: &'a mut [f32],
    /// Per query: largest score, factor of what was there, sum of weights (16 lanes), sum of weighted values.
    top: &'a mut [f32],
    factor: &'a mut [f32],
    sums: &'a mut [f32],
    out: &'a mut [f32],
}

impl<'a> Part<'a> {
    fn new(
        call: &'a Call<'a>,
        (b, first, count): (usize, usize, usize),
        rows: usize,
        mut memory: &'a mut [f32],
    ) -> Result<Part<'a>> {
        let a = call.a;
        let width = padded(a.width);
        let m = &mut memory;
        let part = Part {
            call,
            b,
            first,
            count,
            q: take(m, rows * a.depth)?,
            k: take(m, KEYS * a.depth)?,
            v: take(m, KEYS * width)?,
            v_at: None,
            s: take(m, QUERIES * KEYS)?,
            top: take(m, rows)?,
            factor: take(m, QUERIES)?,
            sums: take(m, rows * LANES)?,
            out: take(m, rows * width)?,
        };
        let scale = a.scale.as_f64() as f32;
        let q = call.q.start(&a.batch, b);
        pack_panels(&call.q, q, (first, count), (a.depth, scale), ROWS, part.q)?;
        part.top.fill(f32::NEG_INFINITY);
        part.sums.fill(0.0);
        part.out.fill(0.0);
        Ok(part)
    }

    fn run(&mut self) -> Result<()> {
        let (call, a) = (self.call, self.call.a);
        let (k, v) = (call.k.start(&a.batch, self.b), call.v.start(&a.batch, self.b));
        for j in (0..a.keys).step_by(KEYS) {
            if a.causal && j >= self.first + self.count {
                break;
            }
            let n = KEYS.min(a.keys - j);
            pack_panels(&call.k, k, (j, n), (a.depth, 1.0), PANEL, self.k)?;
            let side = call.v.side;
            let packed = side.col == 1 && side.row == a.width as i64 && a.width == padded(a.width);
            self.v_at = usize::try_from(v + j as i64 * side.row).ok().filter(|_| packed);
            if self.v_at.is_none() {
                pack_rows(call.kernels, &call.v, v, (j, n), a.width, 1.0, self.v)?;
            }
            for i in (0..self.count).step_by(QUERIES) {
                let rows = QUERIES.min(self.count - i);
                if let Some(block) = call.block(self.b, (self.first + i, rows), j) {
                    self.block(i, block)?;
                }
            }
        }
        Ok(())
    }

    /// One block of scores; its queries begin at `at` within the part.
    fn block(&mut self, at: usize, block: Block) -> Result<()> {
        let (call, a, kernels) = (self.call, self.call.a, self.call.kernels);
        let width = padded(a.width);
        let (rows, cols) = block.padded();
        kernels.product(Product {
            rows,
            cols,
            depth: a.depth,
            a: &self.q[at * a.depth..],
            a_group: ROWS * a.depth,
            a_row: 1,
            a_col: ROWS,
            b: self.k,
            b_row: PANEL,
            b_panel: PANEL * a.depth,
            c: self.s,
            c_row: KEYS,
            add: false,
            factors: None,
        })?;
        call.mask(self.s, block)?;
        let queries = at..at + rows;
        let (s, factor) = (&mut self.s[..rows * KEYS], &mut self.factor[..rows]);
        kernels.maxima(s, KEYS, cols, &mut self.top[queries.clone()], factor);
        kernels.exps(factor);
        kernels.weights(s, KEYS, cols, &self.top[queries], factor, &mut self.sums[at * LANES..(at + rows) * LANES]);
        call.drop(s, block, a.options().factor() as f32);
        let out = &mut self.out[at * width..(at + rows) * width];
        let v = match self.v_at {
            Some(at) => call.v.data.get(at..).ok_or_else(beyond)?,
            None => self.v,
        };
        kernels.product(Product {
            rows,
            cols: width,
            depth: block.cols,
            a: s,
            a_group: ROWS * KEYS,
            a_row: KEYS,
            a_col: 1,
            b: v,
            b_row: width,
            b_panel: PANEL,
            c: out,
            c_row: width,
            add: block.j > 0,
            factors: Some(factor),
        })
    }

    fn finish(&self, values: &mut [f32], mut lse: Option<&mut [f32]>) -> Result<()> {
        let a = self.call.a;
        for r in 0..self.count {
            let mut lanes = [0.0; LANES];
            lanes.copy_from_slice(&self.sums[r * LANES..(r + 1) * LANES]);
            let mut width = LANES / 2;
            while width > 0 {
                for i in 0..width {
                    lanes[i] += lanes[i + width];
                }
                width /= 2;
            }
            let sum = lanes[0];
            // The largest weight is 1: a sum of 0 is a row without a key.
            let none = sum == 0.0;
            let inverse = match (none, a.keys == 0 || (a.safe && a.mask)) {
                (true, true) => 0.0,
                (true, false) => f32::NAN,
                _ => 1.0 / sum,
            };
            let from = &self.out[r * padded(a.width)..];
            let row = &mut values[r * a.width..(r + 1) * a.width];
            self.call.kernels.scaled(row, from, inverse);
            let mut log = if none { f32::NEG_INFINITY } else { self.top[r] + sum.ln() };
            if !none && !again::finite(row) {
                log = again::forward(self.call, self.b, self.first + r, row)?;
            }
            if let Some(lse) = lse.as_deref_mut() {
                lse[r] = log;
            }
        }
        Ok(())
    }
}
