//! `lerp`: a point between two others.

use super::composite::{float_map, wide};
use super::elementwise_shapes;
use crate::op::{Arity, Gen, OpDef, Sample, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    arity: Arity::Fixed(3),
    infer: super::same_types,
    doc: "`start + weight * (end - start)`, from the nearer end: for `|weight| >= 0.5` it is \
        `end - (1 - weight) * (end - start)`, so that weight 1 gives `end` exactly.\n\n\
        >>> torsh.lerp(torsh.tensor([0.]), torsh.tensor([10.]), 0.25).tolist()\n[2.5]",
    decompose: Some(|c| {
        let (start, end, weight) = (wide(c.x[0]), wide(c.x[1]), wide(c.x[2]));
        let way = end - start;
        let near = weight.abs().lt(weight.full_like(0.5));
        near.select(start + weight * way, end - way * (-weight).offset(1.0)).cast(c.ty.dtype)
    }),
    vjp: Vjp::Rule(|c| {
        let (start, end, weight, ct) = (wide(c.x[0]), wide(c.x[1]), wide(c.x[2]), wide(c.ct));
        let dtype = c.ct.dtype();
        let d = [ct * (-weight).offset(1.0), ct * weight, ct * (end - start)];
        let [d_start, d_end, d_weight] = d.map(|d| d.cast(dtype));
        smallvec![Some(d_start), Some(d_end), Some(d_weight)]
    }),
    samples: || {
        let three = |d: &Vec<usize>| Sample::new(vec![Gen::normal(d), Gen::normal(d), Gen::normal(d)]);
        elementwise_shapes().iter().map(three).collect()
    },
    ..float_map("lerp")
};
