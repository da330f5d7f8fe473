//! `take`: rows by number.

use super::rules::{dim_attr, index_vector, position, ravel, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::interp::HostTensor;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use crate::shape::{Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "take",
    doc: "`out[.., j, ..] = x[.., index[j], ..]` along `dim`; the index is 1-d int64 and counts from the end \
        where negative. One out of range is an IndexError when the program runs.\n\n\
        >>> torsh.index_select(torsh.tensor([10, 20, 30]), 0, torsh.tensor([2, 0])).tolist()\n[30, 10]",
    kind: Kind::Take,
    arity: Arity::Fixed(2),
    attrs: &[attr("dim", AttrKind::Int)],
    infer: |x, a| {
        let dim = dim_attr(a.int(0), x[0].rank())?;
        let mut sizes = x[0].shape.to_vec();
        sizes[dim] = index_vector(&x[1])?;
        Ok(Type::new(x[0].dtype, Shape::new(&sizes)?))
    },
    eval: Some(|c| {
        let (dim, x, index) = (c.attrs.int(0) as usize, c.x[0], c.x[1]);
        let size = x.ty.shape[dim];
        let rows = (0..index.len()).map(|j| position(index.get(j), size, dim, true));
        let rows = rows.collect::<crate::Result<Vec<usize>>>()?;
        let mut out = HostTensor::zeros(c.ty.clone());
        for i in 0..out.len() {
            let mut at = unravel(i, &c.ty.shape);
            at[dim] = rows[at[dim]];
            out.set_bits(i, x.bits(ravel(&at, &x.ty.shape)));
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| {
        let b = c.ct.builder();
        let zeros = b.full(Scalar::Int(0), c.ct.dtype(), &c.x[0].shape());
        let attrs = [c.attrs[0].clone(), Attr::from("add")];
        smallvec![Some(b.op("index_put", &[zeros, c.x[1], c.ct], &attrs)), None]
    }),
    samples: || {
        let s = |x: &[usize], index: Gen, dim: i64| Sample::new(vec![Gen::normal(x), index]).attr(Attr::Int(dim));
        vec![
            s(&[5], Gen::index(&[3], 5), 0),
            s(&[5], Gen::index(&[17], 5), 0),
            s(&[5], Gen::index(&[0], 5), 0),
            s(&[1], Gen::index(&[4], 1), 0),
            s(&[5], Gen::range(&[9], -5.0, 4.0).dtype(DType::I64), 0),
            s(&[7, 33], Gen::index(&[4], 7), 0),
            s(&[7, 33], Gen::index(&[40], 33), 1),
            s(&[2, 5, 3], Gen::index(&[6], 5), 1),
            s(&[3, 0], Gen::index(&[2], 3), 0),
            s(&[0, 3], Gen::index(&[0], 1), 0),
        ]
    },
    ..BASE
};
