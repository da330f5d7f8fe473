//! Rows of results that are not finite, computed again by the ops' meaning (`torsh_ir::ops::attention_rows`).
//!
//! Blocks divide by the sum of the weights at the end, scale queries first and round each step to f32, so that they
//! overflow, and then give NaN, where the meaning is finite. Rows whose every element is NaN by the meaning too are
//! found without computing them: a training run that has diverged does not come to a halt here.

use super::{Call, Mask, Matrix, Par, beyond, split};
use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use torsh_ir::ops::attention_rows::{Grad, Head};
use torsh_ir::{Result, Scalar};

/// Whether all numbers are finite.
pub(super) fn finite(x: &[f32]) -> bool {
    x.iter().fold(true, |all, x| all & x.is_finite())
}

/// Element `(row, col)` of batch `b`; notes what is out of bounds.
fn element<T: Copy>(m: &Matrix<'_, T>, start: i64, (row, col): (usize, usize), failed: &Cell<bool>) -> Option<T> {
    let found = super::at(m.data, start + row as i64 * m.side.row + col as i64 * m.side.col).ok().copied();
    failed.set(failed.get() || found.is_none());
    found
}

/// Runs `work` on head `b`.
fn with_head<R>(call: &Call<'_>, b: usize, work: impl FnOnce(&Head<'_>) -> R) -> Result<R> {
    let (a, failed) = (call.a, Cell::new(false));
    let (q, k, v) = (call.q.start(&a.batch, b), call.k.start(&a.batch, b), call.v.start(&a.batch, b));
    let float = |m: &Matrix<'_, f32>, start, at| element(m, start, at, &failed).unwrap_or(f32::NAN);
    let m = call.mask.as_ref().map_or(0, |mask| match mask {
        Mask::Hide(m) => m.start(&a.batch, b),
        Mask::Add(m) => m.start(&a.batch, b),
    });
    let mask = |i, j| match &call.mask {
        Some(Mask::Hide(x)) => Scalar::Bool(element(x, m, (i, j), &failed) != Some(0)),
        Some(Mask::Add(x)) => Scalar::Float(f64::from(float(x, m, (i, j)))),
        None => Scalar::Bool(true),
    };
    let head = Head {
        sizes: a.sizes(),
        options: a.options(),
        at: b,
        q: &|i, d| float(&call.q, q, (i, d)),
        k: &|j, d| float(&call.k, k, (j, d)),
        v: &|j, w| float(&call.v, v, (j, w)),
        mask: if call.mask.is_some() { Some(&mask) } else { None },
        state: call.state.map(|(seed, first)| [seed as i64, first as i64]),
    };
    let done = work(&head);
    if failed.get() { Err(beyond()) } else { Ok(done) }
}

/// Row `i` of head `b` of the result; gives the logarithm of its sum.
pub(super) fn forward(call: &Call<'_>, b: usize, i: usize, out: &mut [f32]) -> Result<f32> {
    with_head(call, b, |head| {
        // A query with NaN has no other scores, whatever is masked: a row without a key is not computed again.
        if head.state.is_none() && (0..head.sizes.depth).any(|d| (head.q)(i, d).is_nan()) {
            out.fill(f32::NAN);
            return f32::NAN;
        }
        head.forward(i, out)
    })
}

/// What the backward pass is given: the result and the logarithms of the forward pass, and the cotangent.
pub(super) struct Given<'a> {
    pub values: &'a [f32],
    pub lse: &'a [f32],
    pub ct: &'a Matrix<'a, f32>,
}

/// Every row of `out`, the three cotangents one after another, that is not finite.
pub(super) fn backward(call: &Call<'_>, given: &Given<'_>, out: &mut [f32], par: &Par) -> Result<()> {
    let s = call.a.sizes();
    let (dq, rest) = out.split_at_mut(s.batch * s.queries * s.depth);
    let (dk, dv) = rest.split_at_mut(s.batch * s.keys * s.depth);
    let heads = |x, n: usize| split(x, (0..s.batch).map(|_| n));
    let places = [heads(dq, s.queries * s.depth)?, heads(dk, s.keys * s.depth)?, heads(dv, s.keys * s.width)?];
    let failed = Mutex::new(None);
    par.for_each(s.batch, &|b| {
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| places[i][b].lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(e) = head(call, given, b, [&mut dq, &mut dk, &mut dv]) {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn head(call: &Call<'_>, given: &Given<'_>, b: usize, [dq, dk, dv]: [&mut [f32]; 3]) -> Result<()> {
    let failed = Cell::new(false);
    let first = b * call.a.queries;
    let ct = given.ct.start(&call.a.batch, b);
    let g = Grad {
        out: &|i, w| given.values[(first + i) * call.a.width + w],
        lse: &|i| given.lse[first + i],
        ct: &|i, w| element(given.ct, ct, (i, w), &failed).unwrap_or(f32::NAN),
    };
    with_head(call, b, |head| {
        let s = head.sizes;
        let inner: Vec<f32> = (0..s.queries).map(|i| g.inner(s, i)).collect();
        let nan = |i: usize| inner[i].is_nan() || (g.lse)(i).is_nan();
        for (i, dq) in dq.chunks_exact_mut(s.depth).enumerate() {
            // NaN in either is NaN in every score's cotangent.
            if !finite(dq) && !nan(i) {
                head.grad_query(&g, i, dq);
            }
        }
        let last_nan = (0..s.queries).rev().find(|&i| nan(i));
        let last_nan_weight = (0..s.queries).rev().find(|&i| (g.lse)(i).is_nan());
        let reaches = |last: Option<usize>, j: usize| last.is_some_and(|i| !head.options.causal || i >= j);
        let (mut k, mut v) = (vec![0.0; s.depth], vec![0.0; s.width]);
        for (j, (dk, dv)) in dk.chunks_exact_mut(s.depth).zip(dv.chunks_exact_mut(s.width)).enumerate() {
            let dk_again = !finite(dk) && !reaches(last_nan, j);
            let dv_again = !finite(dv) && (head.state.is_some() || !reaches(last_nan_weight, j));
            if dk_again || dv_again {
                head.grad_key(&g, j, &|i| inner[i], &mut k, &mut v);
            }
            if dk_again {
                dk.copy_from_slice(&k);
            }
            if dv_again {
                dv.copy_from_slice(&v);
            }
        }
    })?;
    if failed.get() { Err(beyond()) } else { Ok(()) }
}
