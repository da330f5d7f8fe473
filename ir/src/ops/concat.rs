//! `concat`: tensors joined along a dim.

use super::rules::{dim_attr, ravel, same_dtype, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::error::Error;
use crate::interp::HostTensor;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use crate::shape::{Shape, Type};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "concat",
    doc: "The operands one after the other along `dim`; all other sizes agree.\n\n\
        >>> torsh.cat([torsh.tensor([1, 2]), torsh.tensor([3])]).tolist()\n[1, 2, 3]",
    kind: Kind::Concat,
    arity: Arity::AtLeast(1),
    attrs: &[attr("dim", AttrKind::Int)],
    infer: |x, a| {
        let dim = dim_attr(a.int(0), x[0].rank())?;
        let mut sizes = x[0].shape.to_vec();
        for other in &x[1..] {
            same_dtype(&x[0], other)?;
            let fits = other.rank() == sizes.len()
                && (0..sizes.len()).all(|d| d == dim || other.shape[d] == x[0].shape[d]);
            if !fits {
                return Err(Error::shape(format!(
                    "sizes must agree except in dim {dim}, got {} and {}",
                    x[0].shape, other.shape
                )));
            }
            sizes[dim] = sizes[dim]
                .checked_add(other.shape[dim])
                .filter(|&size| size <= i64::MAX as usize)
                .ok_or_else(|| Error::limit(format!("joined size of dim {dim} overflows")))?;
        }
        Ok(Type::new(x[0].dtype, Shape::new(&sizes)?))
    },
    eval: Some(|c| {
        let dim = c.attrs.int(0) as usize;
        let mut out = HostTensor::zeros(c.ty.clone());
        let mut start = 0;
        for x in c.x {
            for i in 0..x.len() {
                let mut at = unravel(i, &x.ty.shape);
                at[dim] += start;
                out.set_bits(ravel(&at, &c.ty.shape), x.bits(i));
            }
            start += x.ty.shape[dim];
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| {
        let dim = c.attrs.int(0) as usize;
        let mut start = 0;
        let part = |x: &crate::Val<'_>| {
            let stop = start + x.shape()[dim];
            let part = c.ct.slice_dim(dim, start, stop, 1);
            start = stop;
            Some(part)
        };
        c.x.iter().map(part).collect()
    }),
    samples: || {
        let s = |shapes: &[&[usize]], dim: i64| {
            Sample::new(shapes.iter().map(|s| Gen::normal(s)).collect()).attr(Attr::Int(dim))
        };
        vec![
            s(&[&[3]], 0),
            s(&[&[3], &[4]], 0),
            s(&[&[0], &[4], &[0]], 0),
            s(&[&[2, 17], &[3, 17]], 0),
            s(&[&[3, 16], &[3, 1], &[3, 33]], 1),
            s(&[&[2, 3, 4], &[2, 5, 4]], 1),
            s(&[&[2, 0], &[2, 0]], 0),
        ]
    },
    ..BASE
};
