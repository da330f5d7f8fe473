//! Pieces that several gradient rules share.

use crate::builder::Val;
use crate::op::{Cotangents, VjpCall};
use crate::shape::Shape;

/// Gradient of a piecewise constant function: zero almost everywhere, as in PyTorch.
pub fn zero_vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    c.x.iter().map(|x| Some(x.zeros_like())).collect()
}

/// `1 - x`.
pub fn one_minus(x: Val<'_>) -> Val<'_> {
    x.full_like(1.0) - x
}

/// `1 - x^2` as `(1 - x) (1 + x)`, which does not cancel near 1 and -1.
pub fn one_minus_square(x: Val<'_>) -> Val<'_> {
    one_minus(x) * x.offset(1.0)
}

/// The first `n` positions along `dim`.
pub fn head(x: Val<'_>, dim: usize, n: usize) -> Val<'_> {
    x.slice_dim(dim, 0, n, 1)
}

/// All but the first `n` positions along `dim`.
pub fn tail(x: Val<'_>, dim: usize, n: usize) -> Val<'_> {
    x.slice_dim(dim, n, x.shape()[dim], 1)
}

/// Pads along one dim: `lo` copies of `value` before and `hi` after.
pub fn pad_dim(x: Val<'_>, dim: usize, lo: usize, hi: usize, value: f64) -> Val<'_> {
    let side = |n: usize| (0..x.rank()).map(|d| if d == dim { n as i64 } else { 0 }).collect::<Vec<i64>>();
    let value = crate::attr::Scalar::Float(value).to_dtype(x.dtype());
    x.builder().op("pad", &[x], &[side(lo)[..].into(), side(hi)[..].into(), value.into()])
}

/// Shifts an inclusive cumulative product into the exclusive one: 1 first, the last value dropped.
pub fn exclusive(inclusive: Val<'_>, dim: usize) -> Val<'_> {
    let n = inclusive.shape()[dim];
    if n == 0 { inclusive } else { pad_dim(head(inclusive, dim, n - 1), dim, 1, 0, 1.0) }
}

/// A cumulative op along `dim`.
pub fn scan<'b>(x: Val<'b>, name: &str, dim: usize) -> Val<'b> {
    x.builder().op(name, &[x], &[crate::attr::Attr::Int(dim as i64)])
}

/// Gradient of `amax` and `amin`: equal extremes share the cotangent evenly.
pub fn extreme_vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    use crate::attr::AttrsExt;
    let x = c.x[0];
    let shape: Shape = x.shape();
    let dims: Vec<usize> = c.attrs.ints(0).iter().map(|&d| d as usize).collect();
    let hit = x.eq(c.out.expand(&shape)).cast(x.dtype());
    let share = c.ct / hit.sum(&dims);
    Cotangents::from_iter([Some(hit * share.expand(&shape))])
}

/// Gradient of `cummax` and `cummin`: each result passes its cotangent to the operand that it is a copy of,
/// the last of equal ones.
pub fn running_extreme_vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    use crate::attr::{Attr, AttrsExt};
    use crate::dtype::DType;
    let (x, dim) = (c.x[0], c.attrs.int(0) as usize);
    let b = x.builder();
    // A position is copied by itself if it equals the running extreme or is NaN; the source of a later result is
    // the last such position before it.
    let own = x.eq(c.out);
    let nan = x.ne(x);
    let own = b.op("bitwise_or", &[own, nan], &[]);
    let position = b.iota(dim, DType::I64, &x.shape());
    let source = scan(own.select(position, position.zeros_like()), "cummax", dim);
    let dx = b.op("scatter", &[c.ct.zeros_like(), source, c.ct], &[Attr::Int(dim as i64), "add".into()]);
    Cotangents::from_iter([Some(dx)])
}
