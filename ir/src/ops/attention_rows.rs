//! The meaning of the one-pass attention ops, a row of a result at a time. Numbers are f32 as in the plain
//! composition, so that what overflows there overflows here; sums are kept in f64 and rounded once. Causally hidden
//! keys take no part, whatever they hold.
//!
//! The interpreter computes whole results by it, backends the rows of which their blocks made numbers that are not
//! finite: a sum that is divided only at its end may overflow where the weighted mean does not.

use super::attention::{Options, Sizes};
use crate::attr::Scalar;

/// An element by row and column.
pub type At<'a> = &'a dyn Fn(usize, usize) -> f32;

/// A head with its operands.
pub struct Head<'a> {
    /// Sizes of the call.
    pub sizes: Sizes,
    /// Its options.
    pub options: Options,
    /// Number of the head.
    pub at: usize,
    /// Queries.
    pub q: At<'a>,
    /// Keys.
    pub k: At<'a>,
    /// Values.
    pub v: At<'a>,
    /// The mask, if there is one: whether a key takes part, or what is added to its score.
    pub mask: Option<&'a dyn Fn(usize, usize) -> Scalar>,
    /// Seed and first counter of dropout's random stream.
    pub state: Option<[i64; 2]>,
}

/// What the backward pass is given besides.
pub struct Grad<'a> {
    /// The result of the forward pass.
    pub out: At<'a>,
    /// The logarithm of the sum of each row.
    pub lse: &'a dyn Fn(usize) -> f32,
    /// The cotangent of the result.
    pub ct: At<'a>,
}

impl Grad<'_> {
    /// The product of a row of the result and its cotangent.
    pub fn inner(&self, sizes: Sizes, i: usize) -> f32 {
        dot(sizes.width, |w| (self.out)(i, w), |w| (self.ct)(i, w)) as f32
    }
}

fn dot(n: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f64 {
    (0..n).map(|i| f64::from(a(i)) * f64::from(b(i))).sum()
}

fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

impl Head<'_> {
    /// Keys that query `i` sees but for masks.
    fn seen(&self, i: usize) -> usize {
        if self.options.causal { self.sizes.keys.min(i + 1) } else { self.sizes.keys }
    }

    /// A score with scale and mask.
    fn score(&self, i: usize, j: usize) -> f32 {
        let product = dot(self.sizes.depth, |d| (self.q)(i, d), |d| (self.k)(j, d));
        let scaled = (product * self.options.scale) as f32;
        match self.mask.map(|mask| mask(i, j)) {
            None | Some(Scalar::Bool(true)) => scaled,
            Some(Scalar::Bool(false)) => f32::NEG_INFINITY,
            Some(added) => scaled + added.as_f64() as f32,
        }
    }

    /// What dropout makes of `x` at a weight: 0 where that is dropped, also of NaN.
    fn drop(&self, i: usize, j: usize, x: f32) -> f32 {
        let Some([seed, first]) = self.state else { return x };
        let s = self.sizes;
        let counter = (first as u64).wrapping_add(((self.at * s.queries + i) * s.keys + j) as u64);
        match self.options.keeps(crate::scalar::philox(seed as u64, counter)) {
            true => x * self.options.factor() as f32,
            false => 0.0,
        }
    }

    fn none(&self) -> f32 {
        if self.options.safe && self.options.mask { 0.0 } else { f32::NAN }
    }

    /// A row of the result, and the logarithm of the sum of its exponentials.
    pub fn forward(&self, i: usize, out: &mut [f32]) -> f32 {
        let mut p: Vec<f32> = (0..self.seen(i)).map(|j| self.score(i, j)).collect();
        let top = p.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a });
        let mut lse = f32::NEG_INFINITY;
        if top == f32::NEG_INFINITY {
            p.fill(self.none());
        } else {
            p.iter_mut().for_each(|x| *x = exp(*x - top));
            let sum: f64 = p.iter().map(|&x| f64::from(x)).sum();
            p.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
            lse = (f64::from(top) + sum.ln()) as f32;
        }
        let mut sums = vec![0.0f64; out.len()];
        for (j, &p) in p.iter().enumerate() {
            let p = f64::from(self.drop(i, j, p));
            sums.iter_mut().enumerate().for_each(|(w, sum)| *sum += p * f64::from((self.v)(j, w)));
        }
        out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = sum as f32);
        lse
    }

    /// A weight before dropout, and the cotangent of its score before the scale.
    fn grad(&self, g: &Grad<'_>, i: usize, j: usize, inner: f32) -> (f32, f32) {
        let lse = (g.lse)(i);
        let p = if lse == f32::NEG_INFINITY { self.none() } else { exp(self.score(i, j) - lse) };
        let dp = dot(self.sizes.width, |w| (g.ct)(i, w), |w| (self.v)(j, w)) as f32;
        (p, p * (self.drop(i, j, dp) - inner))
    }

    /// A row of the cotangent of the query.
    pub fn grad_query(&self, g: &Grad<'_>, i: usize, dq: &mut [f32]) {
        let inner = g.inner(self.sizes, i);
        let mut sums = vec![0.0f64; dq.len()];
        for j in 0..self.seen(i) {
            let ds = f64::from(self.grad(g, i, j, inner).1) * self.options.scale;
            sums.iter_mut().enumerate().for_each(|(d, sum)| *sum += ds * f64::from((self.k)(j, d)));
        }
        dq.iter_mut().zip(&sums).for_each(|(to, &sum)| *to = sum as f32);
    }

    /// A row of the cotangents of key and value; `inner` gives that product for each query.
    pub fn grad_key(&self, g: &Grad<'_>, j: usize, inner: &dyn Fn(usize) -> f32, dk: &mut [f32], dv: &mut [f32]) {
        let (mut k, mut v) = (vec![0.0f64; dk.len()], vec![0.0f64; dv.len()]);
        let first = if self.options.causal { j } else { 0 };
        for i in first..self.sizes.queries {
            let (p, ds) = self.grad(g, i, j, inner(i));
            let (p, ds) = (f64::from(self.drop(i, j, p)), f64::from(ds) * self.options.scale);
            k.iter_mut().enumerate().for_each(|(d, sum)| *sum += ds * f64::from((self.q)(i, d)));
            v.iter_mut().enumerate().for_each(|(w, sum)| *sum += p * f64::from((g.ct)(i, w)));
        }
        dk.iter_mut().zip(&k).for_each(|(to, &sum)| *to = sum as f32);
        dv.iter_mut().zip(&v).for_each(|(to, &sum)| *to = sum as f32);
    }
}
