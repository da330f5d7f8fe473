//! `slice`: a strided part.

use super::rules::{eval_view, ints, slice_sizes};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "slice",
    doc: "`out[i] = x[start + i * step]` per dim, for `start + i * step < stop`; \
        `0 <= start <= stop <= size` and `step >= 1`.\n\n\
        >>> torsh.arange(10)[2:9:3].tolist()\n[2, 5, 8]",
    kind: Kind::View(View::Slice),
    attrs: &[attr("starts", AttrKind::Ints), attr("stops", AttrKind::Ints), attr("steps", AttrKind::Ints)],
    infer: |x, a| Ok(Type::new(x[0].dtype, Shape::of(&slice_sizes(&x[0].shape, a, 0)?))),
    eval: Some(|c| {
        let (starts, steps) = (c.attrs.ints(0), c.attrs.ints(2));
        Ok(eval_view(c, Scalar::Int(0), |at| {
            Some(at.iter().enumerate().map(|(d, &a)| starts[d] as usize + a * steps[d] as usize).collect())
        }))
    }),
    // Unit steps pad with zeros, which fuses as an index map; other steps write into zeros.
    vjp: Vjp::Rule(|c| {
        let (starts, stops, steps) = (c.attrs.ints(0), c.attrs.ints(1), c.attrs.ints(2));
        let (b, shape) = (c.ct.builder(), c.x[0].shape());
        if steps.iter().all(|&s| s == 1) {
            let hi: Vec<i64> = shape.iter().zip(stops).map(|(&d, &stop)| d as i64 - stop).collect();
            let zero = Scalar::Int(0).to_dtype(c.ct.dtype());
            return smallvec![Some(b.op("pad", &[c.ct], &[starts.into(), hi.as_slice().into(), zero.into()]))];
        }
        let zeros = b.full(Scalar::Int(0), c.ct.dtype(), &shape);
        smallvec![Some(b.op("slice_scatter", &[zeros, c.ct], c.attrs))]
    }),
    samples: || {
        let s = |shape: &[usize], starts: &[i64], stops: &[i64], steps: &[i64]| {
            let attrs: [Attr; 3] = [ints(starts), ints(stops), ints(steps)];
            Sample { attrs: attrs.into_iter().collect(), ..Sample::new(vec![Gen::normal(shape)]) }
        };
        vec![
            s(&[], &[], &[], &[]),
            s(&[17], &[0], &[17], &[1]),
            s(&[17], &[3], &[16], &[1]),
            s(&[17], &[1], &[17], &[3]),
            s(&[17], &[5], &[5], &[1]),
            s(&[17], &[17], &[17], &[2]),
            s(&[17], &[2], &[4], &[100]),
            s(&[0], &[0], &[0], &[1]),
            s(&[5, 33], &[1, 2], &[5, 33], &[2, 1]),
            s(&[5, 33], &[0, 1], &[5, 32], &[1, 4]),
            s(&[2, 3, 4], &[1, 0, 1], &[2, 3, 3], &[1, 2, 1]),
        ]
    },
    ..BASE
};
