//! `gather`: one element per index element.

use super::rules::{dim_attr, index_dtype, position, ravel, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::Error;
use crate::interp::HostTensor;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use crate::shape::Type;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "gather",
    doc: "`out[i][j][k] = x[index[i][j][k]][j][k]` for `dim` 0, and so on; the index is int64, of `x`'s rank, \
        nowhere larger than `x` except along `dim`, and not negative.\n\n\
        >>> torsh.gather(torsh.tensor([[1, 2], [3, 4]]), 1, torsh.tensor([[0, 0], [1, 0]])).tolist()\n[[1, 1], [4, 3]]",
    kind: Kind::Gather,
    arity: Arity::Fixed(2),
    attrs: &[attr("dim", AttrKind::Int)],
    infer: |x, a| {
        let dim = dim_attr(a.int(0), x[0].rank())?;
        index_dtype(&x[1])?;
        let (from, index) = (&x[0].shape, &x[1].shape);
        if index.rank() != from.rank() || (0..from.rank()).any(|d| d != dim && index[d] > from[d]) {
            return Err(Error::shape(format!(
                "the index must have rank {} and be no larger than {from} except in dim {dim}, got {index}",
                from.rank()
            )));
        }
        Ok(Type::new(x[0].dtype, index.clone()))
    },
    eval: Some(|c| {
        let (dim, x, index) = (c.attrs.int(0) as usize, c.x[0], c.x[1]);
        let mut out = HostTensor::zeros(c.ty.clone());
        for i in 0..out.len() {
            let mut at = unravel(i, &c.ty.shape);
            at[dim] = position(index.get(i), x.ty.shape[dim], dim, false)?;
            out.set_bits(i, x.bits(ravel(&at, &x.ty.shape)));
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| {
        let b = c.ct.builder();
        let zeros = b.full(Scalar::Int(0), c.ct.dtype(), &c.x[0].shape());
        let attrs = [c.attrs[0].clone(), Attr::from("add")];
        smallvec![Some(b.op("scatter", &[zeros, c.x[1], c.ct], &attrs)), None]
    }),
    samples: || {
        let s = |x: &[usize], index: &[usize], n: usize, dim: i64| {
            Sample::new(vec![Gen::normal(x), Gen::index(index, n)]).attr(Attr::Int(dim))
        };
        vec![
            s(&[5], &[3], 5, 0),
            s(&[5], &[17], 5, 0),
            s(&[5], &[0], 5, 0),
            s(&[4, 5], &[4, 5], 4, 0),
            s(&[4, 5], &[4, 9], 5, 1),
            s(&[4, 5], &[2, 3], 5, 1),
            s(&[4, 17], &[4, 1], 17, 1),
            s(&[2, 3, 4], &[2, 5, 3], 3, 1),
            s(&[3, 0], &[3, 0], 1, 1),
        ]
    },
    ..BASE
};
