//! `constant`: data inside the graph.

use super::{BASE, attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::error::Error;
use crate::interp::HostTensor;
use crate::op::{Arity, Kind, OpDef, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "constant",
    doc: "The row-major little-endian elements of `data`.\n\n>>> torsh.tensor([1, 2]).tolist()\n[1, 2]",
    kind: Kind::Constant,
    arity: Arity::Fixed(0),
    attrs: &[attr("data", AttrKind::Bytes), attr("dtype", AttrKind::DType), attr("shape", AttrKind::Ints)],
    infer: |_, a| {
        let ty = Type::new(a.dtype(1), shape_attr(a.ints(2))?);
        if a.bytes(0).len() != ty.nbytes() {
            return Err(Error::value(format!("{ty} takes {} bytes, the data has {}", ty.nbytes(), a.bytes(0).len())));
        }
        Ok(ty)
    },
    eval: Some(|c| HostTensor::from_bytes(c.ty.clone(), c.attrs.bytes(0))),
    vjp: Vjp::None("a constant has no operands"),
    ..BASE
};
