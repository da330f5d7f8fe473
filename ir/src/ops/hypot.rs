//! `hypot`: the length of a right triangle's long side.

use super::composite::{float_binary, map2, map2_vjp, wide};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`sqrt(a^2 + b^2)` without overflow: `m * sqrt(1 + (n / m)^2)` with `m`, `n` the larger and the smaller \
        magnitude. `inf` if either is infinite. The gradient at the origin is 0.\n\n\
        >>> torsh.hypot(torsh.tensor([3.]), torsh.tensor([4.])).tolist()\n[5.0]",
    decompose: Some(|c| {
        map2(c, |a, b| {
            let (a, b) = (a.abs(), b.abs());
            let (large, small) = (a.maximum(b), a.minimum(b));
            let ratio = small / large.eq(large.zeros_like()).select(large.full_like(1.0), large);
            let length = large * (ratio * ratio).offset(1.0).sqrt();
            let inf = large.full_like(f64::INFINITY);
            a.eq(inf).bitwise_or(b.eq(inf)).select(inf, length)
        })
    }),
    vjp: Vjp::Rule(|c| {
        map2_vjp(c, |a, b, ct| {
            let out = wide(c.out);
            let origin = out.eq(out.zeros_like());
            let share = origin.select(ct.zeros_like(), ct / origin.select(out.full_like(1.0), out));
            (share * a, share * b)
        })
    }),
    ..float_binary("hypot")
};
