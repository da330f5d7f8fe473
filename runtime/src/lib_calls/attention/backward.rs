//! The backward pass: weights again from the logarithm of each row's sum, block by block.
//!
//! With `p` the weights after dropout and `ds = p * (drop(ct v') - delta)`, `delta` the product of each row's
//! result and cotangent: `dv = p' ct`, `dk = ds' q scale`, `dq = ds k scale`. One part computes all three for a
//! head where there are enough heads; else parts for queries and parts for keys each compute `ds` themselves.

use super::{
    Block, Call, KEYS, Matrix, PART, Par, QUERIES, Tiles, WHOLE, again, for_each, pack_panels, pack_rows, padded,
    split, take, threads_for,
};
use crate::sys::attention::{PANEL, Product, ROWS};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use torsh_ir::program::Attend;
use torsh_ir::{Error, Result};

/// Keys of a part that computes their gradients alone.
const KEY_PART: usize = 2 * KEYS;

/// How the work is cut.
#[derive(Copy, Clone)]
struct Cut {
    threads: usize,
    /// Parts of whole heads.
    whole: bool,
    /// Queries that a part holds at once.
    rows: usize,
}

impl Cut {
    fn new(a: &Attend, threads: usize) -> Cut {
        let s = a.sizes();
        let threads = threads_for(a, 2 * (s.depth + s.width), threads);
        let even = s.batch.is_multiple_of(threads) || s.batch >= 4 * threads;
        let whole = s.queries <= WHOLE && even;
        let rows = s.queries.max(1).next_multiple_of(QUERIES);
        Cut { threads, whole, rows: if whole { rows } else { rows.min(PART) } }
    }

    fn floats(&self, a: &Attend) -> usize {
        let (depth, width) = (padded(a.depth), padded(a.width));
        self.rows * (a.depth + a.width + 2 * depth + width + 2)
            + KEYS * (a.depth + a.width + 2 * depth + width)
            + 3 * QUERIES * KEYS
    }
}

/// See [`super::scratch`].
pub(super) fn scratch(a: &Attend, threads: usize) -> (usize, usize) {
    let cut = Cut::new(a, threads);
    (cut.threads, cut.floats(a))
}

/// What a part computes.
#[derive(Copy, Clone)]
struct Wanted {
    b: usize,
    /// First and count.
    queries: (usize, usize),
    keys: (usize, usize),
    dq: Option<usize>,
    dk: Option<usize>,
}

fn parts(a: &Attend, cut: Cut) -> Vec<Wanted> {
    let s = a.sizes();
    let (all_queries, all_keys) = ((0, s.queries), (0, s.keys));
    let mut out = Vec::new();
    if cut.whole {
        out.extend((0..s.batch).map(|b| Wanted { b, queries: all_queries, keys: all_keys, dq: Some(b), dk: Some(b) }));
        return out;
    }
    let pieces = |n: usize, step: usize| (0..n).step_by(step).map(move |i| (i, step.min(n - i)));
    let (mut dq, mut dk) = (0, 0);
    for b in 0..s.batch {
        for queries in pieces(s.queries, cut.rows) {
            out.push(Wanted { b, queries, keys: all_keys, dq: Some(dq), dk: None });
            dq += 1;
        }
        for keys in pieces(s.keys, KEY_PART) {
            out.push(Wanted { b, queries: all_queries, keys, dq: None, dk: Some(dk) });
            dk += 1;
        }
    }
    out
}

/// Runs it: `row` is the result of the forward pass, `ct` the cotangent.
pub(super) fn run(
    call: &Call<'_>,
    row: &[f32],
    ct: Matrix<'_, f32>,
    out: &mut [f32],
    tiles: &Tiles<'_>,
    par: &Par,
) -> Result<()> {
    let s = call.a.sizes();
    let cut = Cut::new(call.a, par.threads);
    let parts = parts(call.a, cut);
    let (dq, rest) = out.split_at_mut(s.batch * s.queries * s.depth);
    let (dk, dv) = rest.split_at_mut(s.batch * s.keys * s.depth);
    let queries = || parts.iter().filter(|p| p.dq.is_some()).map(|p| p.queries.1);
    let keys = || parts.iter().filter(|p| p.dk.is_some()).map(|p| p.keys.1);
    let places = Places {
        dq: split(dq, queries().map(|n| n * s.depth))?,
        dk: split(dk, keys().map(|n| n * s.depth))?,
        dv: split(dv, keys().map(|n| n * s.width))?,
        odd: AtomicBool::new(false),
    };
    let (values, lse) = row.split_at(s.batch * s.queries * s.width);
    let par = Par { threads: cut.threads, run: par.run };
    for_each(parts.len(), tiles, &par, &|i, memory| {
        let mut part = Part::new(call, &ct, (values, lse), parts[i], cut, memory)?;
        part.run(&places)
    })?;
    let odd = places.odd.load(Ordering::Relaxed);
    drop(places);
    if odd {
        return again::backward(call, &again::Given { values, lse, ct: &ct }, out, &par);
    }
    Ok(())
}

struct Places<'a> {
    dq: Vec<Mutex<&'a mut [f32]>>,
    dk: Vec<Mutex<&'a mut [f32]>>,
    dv: Vec<Mutex<&'a mut [f32]>>,
    /// Some result is not finite.
    odd: AtomicBool,
}

/// Copies `count` rows without padding, times `scale`, to rows `first..` of a place; notes in `odd` what is not finite.
fn unpack(
    places: &[Mutex<&mut [f32]>],
    place: usize,
    (first, count): (usize, usize),
    cols: usize,
    (from, scale): (&[f32], f32),
    (kernels, odd): (&crate::sys::attention::Kernels, &AtomicBool),
) -> Result<()> {
    let mut to = places.get(place).ok_or_else(bug)?.lock().unwrap_or_else(PoisonError::into_inner);
    let to = to.get_mut(first * cols..(first + count) * cols).ok_or_else(bug)?;
    for (to, from) in to.chunks_exact_mut(cols).zip(from.chunks_exact(padded(cols))) {
        kernels.scaled(to, from, scale);
    }
    if !again::finite(to) {
        odd.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn bug() -> Error {
    Error::internal("a part of an attention without a place")
}

struct Part<'a> {
    call: &'a Call<'a>,
    ct_of: &'a Matrix<'a, f32>,
    values: &'a [f32],
    lse_of: &'a [f32],
    wanted: Wanted,
    cut: Cut,
    /// Per query: scaled query, cotangent, its gradient, logarithm of the sum, delta.
    q: &'a mut [f32],
    ct: &'a mut [f32],
    /// The first two in panels.
    q_panels: &'a mut [f32],
    ct_panels: &'a mut [f32],
    dq: &'a mut [f32],
    lse: &'a mut [f32],
    delta: &'a mut [f32],
    /// A block of keys and values in panels, of keys in rows, and their gradients.
    k_panels: &'a mut [f32],
    v_panels: &'a mut [f32],
    k: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Blocks: weights, dropped weights, gradients of scores.
    p: &'a mut [f32],
    dropped: &'a mut [f32],
    ds: &'a mut [f32],
}

impl<'a> Part<'a> {
    fn new(
        call: &'a Call<'a>,
        ct: &'a Matrix<'a, f32>,
        (values, lse): (&'a [f32], &'a [f32]),
        wanted: Wanted,
        cut: Cut,
        mut memory: &'a mut [f32],
    ) -> Result<Part<'a>> {
        let a = call.a;
        let (depth, width) = (padded(a.depth), padded(a.width));
        let m = &mut memory;
        Ok(Part {
            call,
            ct_of: ct,
            values,
            lse_of: lse,
            wanted,
            cut,
            q: take(m, cut.rows * depth)?,
            ct: take(m, cut.rows * width)?,
            q_panels: take(m, cut.rows * a.depth)?,
            ct_panels: take(m, cut.rows * a.width)?,
            dq: take(m, cut.rows * depth)?,
            lse: take(m, cut.rows)?,
            delta: take(m, cut.rows)?,
            k_panels: take(m, KEYS * a.depth)?,
            v_panels: take(m, KEYS * a.width)?,
            k: take(m, KEYS * depth)?,
            dk: take(m, KEYS * depth)?,
            dv: take(m, KEYS * width)?,
            p: take(m, QUERIES * KEYS)?,
            dropped: take(m, QUERIES * KEYS)?,
            ds: take(m, QUERIES * KEYS)?,
        })
    }

    fn scale(&self) -> f32 {
        self.call.a.scale.as_f64() as f32
    }

    fn run(&mut self, places: &Places<'_>) -> Result<()> {
        let (call, a, wanted) = (self.call, self.call.a, self.wanted);
        let ((first, count), (key, keys)) = (wanted.queries, wanted.keys);
        let (k, v) = (call.k.start(&a.batch, wanted.b), call.v.start(&a.batch, wanted.b));
        let to = (call.kernels, &places.odd);
        if wanted.dq.is_some() {
            self.dq.fill(0.0);
        }
        // More queries than a part holds are packed again for each block of keys.
        let many = count > self.cut.rows;
        if !many {
            self.queries(first, count)?;
        }
        for j in (key..key + keys).step_by(KEYS) {
            let n = KEYS.min(key + keys - j);
            let seen = !a.causal || j < first + count;
            if !seen && wanted.dk.is_none() {
                break;
            }
            self.dk.fill(0.0);
            self.dv.fill(0.0);
            if seen {
                pack_panels(&call.k, k, (j, n), (a.depth, 1.0), PANEL, self.k_panels)?;
                pack_panels(&call.v, v, (j, n), (a.width, 1.0), PANEL, self.v_panels)?;
                pack_rows(call.kernels, &call.k, k, (j, n), a.depth, 1.0, self.k)?;
                for chunk in (0..count).step_by(self.cut.rows) {
                    let rows = self.cut.rows.min(count - chunk);
                    if many {
                        self.queries(first + chunk, rows)?;
                    }
                    for i in (0..rows).step_by(QUERIES) {
                        let at = (first + chunk + i, QUERIES.min(rows - i));
                        if let Some(block) = call.block(wanted.b, at, j) {
                            self.block(i, Block { cols: block.cols.min(n), ..block })?;
                        }
                    }
                }
            }
            if let Some(place) = wanted.dk {
                unpack(&places.dk, place, (j - key, n), a.depth, (self.dk, 1.0), to)?;
                unpack(&places.dv, place, (j - key, n), a.width, (self.dv, 1.0), to)?;
            }
        }
        match wanted.dq {
            Some(place) => unpack(&places.dq, place, (0, count), a.depth, (self.dq, self.scale()), to),
            None => Ok(()),
        }
    }

    /// Packs some queries with what belongs to them.
    fn queries(&mut self, first: usize, count: usize) -> Result<()> {
        let (call, a, b) = (self.call, self.call.a, self.wanted.b);
        let scale = self.scale();
        pack_rows(call.kernels, &call.q, call.q.start(&a.batch, b), (first, count), a.depth, scale, self.q)?;
        pack_rows(call.kernels, self.ct_of, self.ct_of.start(&a.batch, b), (first, count), a.width, 1.0, self.ct)?;
        let (q, ct) = (call.q.start(&a.batch, b), self.ct_of.start(&a.batch, b));
        pack_panels(&call.q, q, (first, count), (a.depth, scale), ROWS, self.q_panels)?;
        pack_panels(self.ct_of, ct, (first, count), (a.width, 1.0), ROWS, self.ct_panels)?;
        // Rows of padding, and rows without a key, have no weights.
        self.lse.fill(f32::INFINITY);
        self.delta.fill(0.0);
        let safe = a.safe && a.mask;
        for r in 0..count {
            let row = b * a.queries + first + r;
            let lse = self.lse_of[row];
            self.lse[r] = match (lse == f32::NEG_INFINITY, safe) {
                (true, true) => f32::INFINITY,
                (true, false) => f32::NAN,
                _ => lse,
            };
        }
        let row = (b * a.queries + first) * a.width;
        let out = &self.values[row..row + count * a.width];
        call.kernels.deltas(out, a.width, self.ct, padded(a.width), &mut self.delta[..count]);
        Ok(())
    }

    /// One block of scores; its queries begin at `at` among the packed ones.
    fn block(&mut self, at: usize, block: Block) -> Result<()> {
        let (call, a, kernels) = (self.call, self.call.a, self.call.kernels);
        let (depth, width) = (padded(a.depth), padded(a.width));
        let (rows, cols) = block.padded();
        let (q, ct) = (&self.q[at * depth..], &self.ct[at * width..]);
        let product = |a: &[f32], b: &[f32], depth: usize, c: &mut [f32]| {
            let (a_group, a_row, a_col) = (ROWS * depth, 1, ROWS);
            let (b_row, b_panel, c_row, add, factors) = (PANEL, PANEL * depth, KEYS, false, None);
            kernels.product(Product {
                rows,
                cols,
                depth,
                a,
                a_group,
                a_row,
                a_col,
                b,
                b_row,
                b_panel,
                c,
                c_row,
                add,
                factors,
            })
        };
        product(&self.q_panels[at * a.depth..], self.k_panels, a.depth, self.p)?;
        product(&self.ct_panels[at * a.width..], self.v_panels, a.width, self.ds)?;
        call.mask(self.p, block)?;
        let (p, ds) = (&mut self.p[..rows * KEYS], &mut self.ds[..rows * KEYS]);
        kernels.weights_of(p, KEYS, cols, &self.lse[at..at + rows]);
        let mut dropped = &*p;
        if call.state.is_some() {
            let factor = a.options().factor() as f32;
            let copy = &mut self.dropped[..rows * KEYS];
            copy.copy_from_slice(p);
            call.drop(copy, block, factor);
            call.drop(ds, block, factor);
            dropped = copy;
        }
        kernels.grads(p, ds, KEYS, cols, &self.delta[at..at + rows]);
        // Sums over queries: keys are the rows of the result.
        if self.wanted.dk.is_some() {
            let keys = block.cols.next_multiple_of(ROWS);
            let onto = |a: &[f32], b: &[f32], cols: usize, c: &mut [f32]| {
                let (a_group, a_row, a_col, b_row, b_panel) = (ROWS, 1, KEYS, cols, PANEL);
                let (rows, depth, c_row, add) = (keys, block.rows, cols, true);
                kernels.product(Product {
                    rows,
                    cols,
                    depth,
                    a,
                    a_group,
                    a_row,
                    a_col,
                    b,
                    b_row,
                    b_panel,
                    c,
                    c_row,
                    add,
                    factors: None,
                })
            };
            onto(dropped, ct, width, self.dv)?;
            onto(ds, q, depth, self.dk)?;
        }
        if self.wanted.dq.is_some() {
            kernels.product(Product {
                rows,
                cols: depth,
                depth: block.cols,
                a: ds,
                a_group: ROWS * KEYS,
                a_row: KEYS,
                a_col: 1,
                b: self.k,
                b_row: depth,
                b_panel: PANEL,
                c: &mut self.dq[at * depth..],
                c_row: depth,
                add: true,
                factors: None,
            })?;
        }
        Ok(())
    }
}
