//! `argsort`: the order of elements along a dim.

use super::rules::{dim_attr, ravel, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::interp::HostTensor;
use crate::op::{Gen, Kind, OpDef, Sample, Values, Vjp};
use crate::shape::Type;
use std::cmp::Ordering;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "argsort",
    doc: "Positions along `dim` that sort `x`, int64. Equal elements keep their order, also when `descending`; \
        NaN counts as the largest value: last when ascending, first when descending.\n\n\
        >>> torsh.argsort(torsh.tensor([3., 1., 2.])).tolist()\n[1, 2, 0]",
    kind: Kind::ArgSort,
    attrs: &[attr("dim", AttrKind::Int), attr("descending", AttrKind::Bool)],
    infer: |x, a| dim_attr(a.int(0), x[0].rank()).map(|_| Type::new(DType::I64, x[0].shape.clone())),
    eval: Some(|c| {
        let (dim, descending, x) = (c.attrs.int(0) as usize, c.attrs.bool(1), c.x[0]);
        let shape = &x.ty.shape;
        let mut out = HostTensor::zeros(c.ty.clone());
        for i in 0..x.len() {
            let mut at = unravel(i, shape);
            if at[dim] != 0 {
                continue;
            }
            let lane: Vec<usize> = (0..shape[dim])
                .map(|p| {
                    at[dim] = p;
                    ravel(&at, shape)
                })
                .collect();
            let mut order: Vec<usize> = (0..lane.len()).collect();
            order.sort_by(|&p, &q| {
                let by_value = ascending(x.get(lane[p]), x.get(lane[q]));
                if descending { by_value.reverse() } else { by_value }
            });
            for (place, &p) in lane.iter().zip(&order) {
                out.set(*place, Scalar::Int(p as i64));
            }
        }
        Ok(out)
    }),
    vjp: Vjp::None("positions are integers and piecewise constant"),
    samples: || {
        let s = |shape: &[usize], values: Values, dim: i64, descending: bool| {
            Sample::new(vec![Gen::of(shape, values)]).attr(Attr::Int(dim)).attr(descending).no_grad()
        };
        let mut out = Vec::new();
        for descending in [false, true] {
            out.push(s(&[1], Values::Normal, 0, descending));
            out.push(s(&[0], Values::Normal, 0, descending));
            out.push(s(&[67], Values::Special, 0, descending));
            out.push(s(&[5, 33], Values::Normal, 1, descending));
            out.push(s(&[33, 5], Values::Distinct, 0, descending));
            out.push(s(&[2, 7, 3], Values::Normal, 1, descending));
            out.push(s(&[3, 0, 2], Values::Normal, 2, descending));
        }
        out
    },
    ..BASE
};

/// Ascending order with NaN last; `-0.0` equals `0.0`.
fn ascending(a: Scalar, b: Scalar) -> Ordering {
    match (a, b) {
        (Scalar::Float(x), Scalar::Float(y)) => {
            x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
        }
        _ => a.as_i64().cmp(&b.as_i64()),
    }
}
