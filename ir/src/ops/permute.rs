//! `permute`: dims in another order.

use super::rules::{eval_view, ints};
use super::{BASE, attr, dims_attr};
use crate::attr::{AttrKind, AttrsExt, Scalar};
use crate::error::Error;
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::{Dims, Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "permute",
    doc: "`out.shape[i] = x.shape[dims[i]]`, elements moved accordingly; `dims` lists every dim once.\n\n\
        >>> torsh.zeros(2, 3, 4).permute(2, 0, 1).shape\ntorsh.Size([4, 2, 3])",
    kind: Kind::View(View::Permute),
    attrs: &[attr("dims", AttrKind::Ints)],
    infer: |x, a| {
        let (shape, dims) = (&x[0].shape, dims_attr(a.ints(0), x[0].rank())?);
        if dims.len() != shape.rank() {
            return Err(Error::value(format!("dims {dims:?} must name each of the {} dims once", shape.rank())));
        }
        let sizes: Dims = dims.iter().map(|&d| shape[d]).collect();
        Ok(Type::new(x[0].dtype, Shape::of(&sizes)))
    },
    eval: Some(|c| {
        Ok(eval_view(c, Scalar::Int(0), |at| {
            let mut from = Dims::from_elem(0, at.len());
            for (&a, &d) in at.iter().zip(c.attrs.ints(0)) {
                from[d as usize] = a;
            }
            Some(from)
        }))
    }),
    vjp: Vjp::Rule(|c| {
        let dims = c.attrs.ints(0);
        let mut inverse = vec![0; dims.len()];
        for (i, &d) in dims.iter().enumerate() {
            inverse[d as usize] = i;
        }
        smallvec![Some(c.ct.permute(&inverse))]
    }),
    samples: || {
        let s = |shape: &[usize], dims: &[i64]| Sample::new(vec![Gen::normal(shape)]).attr(ints(dims));
        vec![
            s(&[], &[]),
            s(&[5], &[0]),
            s(&[3, 17], &[1, 0]),
            s(&[2, 3, 4], &[2, 0, 1]),
            s(&[2, 3, 4], &[0, 2, 1]),
            s(&[2, 0, 3], &[1, 2, 0]),
            s(&[2, 1, 3, 5], &[3, 1, 0, 2]),
        ]
    },
    ..BASE
};
