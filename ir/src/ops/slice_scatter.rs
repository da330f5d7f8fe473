//! `slice_scatter`: a tensor with a strided part replaced.

use super::rules::{ints, ravel, same_dtype, slice_sizes, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::Error;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "slice_scatter",
    doc: "`base` with its part `start:stop:step` per dim replaced by `src`, which has that part's shape.\n\n\
        >>> x = torsh.zeros(4)\n>>> x[1::2] = torsh.tensor([5., 6.])\n>>> x.tolist()\n[0.0, 5.0, 0.0, 6.0]",
    kind: Kind::SliceScatter,
    arity: Arity::Fixed(2),
    attrs: &[attr("starts", AttrKind::Ints), attr("stops", AttrKind::Ints), attr("steps", AttrKind::Ints)],
    infer: |x, a| {
        same_dtype(&x[0], &x[1])?;
        let part = slice_sizes(&x[0].shape, a, 0)?;
        if x[1].shape.dims() != part.as_slice() {
            return Err(Error::shape(format!("the slice has shape {part:?}, the source {}", x[1].shape)));
        }
        Ok(x[0].clone())
    },
    eval: Some(|c| {
        let (starts, steps, src) = (c.attrs.ints(0), c.attrs.ints(2), c.x[1]);
        let mut out = c.x[0].clone();
        for i in 0..src.len() {
            let mut at = unravel(i, &src.ty.shape);
            for (d, a) in at.iter_mut().enumerate() {
                *a = starts[d] as usize + *a * steps[d] as usize;
            }
            out.set_bits(ravel(&at, &c.ty.shape), src.bits(i));
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| {
        let b = c.ct.builder();
        let zeros = b.full(Scalar::Int(0), c.ct.dtype(), &c.x[1].shape());
        smallvec![Some(b.op("slice_scatter", &[c.ct, zeros], c.attrs)), Some(b.op("slice", &[c.ct], c.attrs))]
    }),
    samples: || {
        let s = |base: &[usize], src: &[usize], starts: &[i64], stops: &[i64], steps: &[i64]| {
            let attrs: [Attr; 3] = [ints(starts), ints(stops), ints(steps)];
            let inputs = vec![Gen::normal(base), Gen::normal(src)];
            Sample { attrs: attrs.into_iter().collect(), ..Sample::new(inputs) }
        };
        vec![
            s(&[], &[], &[], &[], &[]),
            s(&[17], &[17], &[0], &[17], &[1]),
            s(&[17], &[0], &[4], &[4], &[1]),
            s(&[17], &[13], &[3], &[16], &[1]),
            s(&[17], &[6], &[1], &[17], &[3]),
            s(&[5, 33], &[2, 31], &[1, 2], &[5, 33], &[2, 1]),
            s(&[2, 3, 4], &[1, 2, 2], &[1, 0, 1], &[2, 3, 3], &[1, 2, 1]),
            s(&[0, 3], &[0, 1], &[0, 1], &[0, 2], &[1, 1]),
        ]
    },
    ..BASE
};
