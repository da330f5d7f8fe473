//! `pad`: a constant border.

use super::rules::{check_value, eval_view, ints};
use super::{BASE, attr, shape_attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::error::Error;
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::{Dims, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "pad",
    doc: "`x` with `lo[d]` elements of `value` before and `hi[d]` after it along each dim; `lo, hi >= 0`.\n\n\
        >>> torsh.nn.functional.pad(torsh.tensor([1, 2]), (1, 2)).tolist()\n[0, 1, 2, 0, 0]",
    kind: Kind::View(View::Pad),
    attrs: &[attr("lo", AttrKind::Ints), attr("hi", AttrKind::Ints), attr("value", AttrKind::Scalar)],
    infer: |x, a| {
        let (lo, hi, rank) = (a.ints(0), a.ints(1), x[0].rank());
        check_value(a.scalar(2), x[0].dtype)?;
        if lo.len() != rank || hi.len() != rank {
            return Err(Error::value(format!("lo and hi must have {rank} entries each, one per dim")));
        }
        if lo.iter().chain(hi).any(|&p| p < 0) {
            return Err(Error::value(format!("padding must not be negative, got {lo:?} and {hi:?}")));
        }
        let mut sizes = Vec::with_capacity(rank);
        for d in 0..rank {
            let size = (x[0].shape[d] as i64).checked_add(lo[d]).and_then(|s| s.checked_add(hi[d]));
            sizes.push(size.ok_or_else(|| Error::limit(format!("padded size of dim {d} overflows")))?);
        }
        Ok(Type::new(x[0].dtype, shape_attr(&sizes)?))
    },
    eval: Some(|c| {
        let (lo, from) = (c.attrs.ints(0), &c.x[0].ty.shape);
        Ok(eval_view(c, c.attrs.scalar(2), |at| {
            let mut inner = Dims::new();
            for (d, &a) in at.iter().enumerate() {
                inner.push(a.checked_sub(lo[d] as usize).filter(|&p| p < from[d])?);
            }
            Some(inner)
        }))
    }),
    vjp: Vjp::Rule(|c| {
        let lo = c.attrs.ints(0);
        let stops: Vec<i64> = lo.iter().zip(c.x[0].shape().iter()).map(|(&l, &d)| l + d as i64).collect();
        smallvec![Some(c.ct.slice(lo, &stops, &vec![1; lo.len()]))]
    }),
    samples: || {
        // Zero is the one value that is written the same way in no two categories: the tests' dtypes differ,
        // so the samples fix theirs.
        let s = |shape: &[usize], lo: &[i64], hi: &[i64], value: Scalar, dtype| {
            let attrs: [Attr; 3] = [ints(lo), ints(hi), value.into()];
            Sample { attrs: attrs.into_iter().collect(), ..Sample::new(vec![Gen::normal(shape).dtype(dtype)]) }
        };
        use crate::dtype::DType::*;
        let f = Scalar::Float;
        vec![
            s(&[], &[], &[], f(0.0), F64),
            s(&[17], &[0], &[0], f(0.0), F32),
            s(&[17], &[2], &[0], f(0.0), F64),
            s(&[17], &[0], &[16], f(-1.5), F32),
            s(&[17], &[3], &[1], f(f64::NEG_INFINITY), F16),
            s(&[5, 33], &[1, 0], &[0, 2], f(0.5), F64),
            s(&[0], &[2], &[3], f(1.0), BF16),
            s(&[2, 0, 3], &[0, 1, 0], &[0, 0, 1], f(0.0), F64),
            s(&[2, 3, 4], &[1, 1, 1], &[2, 0, 2], f(0.0), F64),
            s(&[5], &[1], &[1], Scalar::Bool(true), Bool),
            s(&[5], &[1], &[1], Scalar::Int(7), U8),
            s(&[5], &[1], &[1], Scalar::Int(-7), I8),
            s(&[5], &[1], &[1], Scalar::Int(-7), I16),
            s(&[5], &[1], &[1], Scalar::Int(0), I32),
            s(&[3, 5], &[1, 0], &[1, 2], Scalar::Int(i64::MIN), I64),
        ]
    },
    ..BASE
};
