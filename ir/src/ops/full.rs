//! `full`: one number everywhere.

use super::{BASE, attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::error::Error;
use crate::interp::HostTensor;
use crate::op::{Arity, Kind, OpDef, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "full",
    doc: "A tensor of `shape` filled with `value`, which is represented in `dtype`.\n\n>>> torsh.full((2,), 1.5).tolist()\n[1.5, 1.5]",
    kind: Kind::Full,
    arity: Arity::Fixed(0),
    attrs: &[attr("value", AttrKind::Scalar), attr("dtype", AttrKind::DType), attr("shape", AttrKind::Ints)],
    infer: |_, a| {
        if a.scalar(0).to_dtype(a.dtype(1)) != a.scalar(0) {
            return Err(Error::value(format!("{:?} is not represented in {}", a.scalar(0), a.dtype(1))));
        }
        Ok(Type::new(a.dtype(1), shape_attr(a.ints(2))?))
    },
    eval: Some(|c| Ok(HostTensor::from_fn(c.ty.clone(), |_| c.attrs.scalar(0)))),
    vjp: Vjp::None("a constant has no operands"),
    ..BASE
};
