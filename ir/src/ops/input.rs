//! `input`: an argument of the graph.

use super::{BASE, attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{Arity, Kind, OpDef, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "input",
    doc: "Argument `index` of the graph.",
    kind: Kind::Input,
    arity: Arity::Fixed(0),
    attrs: &[attr("index", AttrKind::Int), attr("dtype", AttrKind::DType), attr("shape", AttrKind::Ints)],
    infer: |_, a| Ok(Type::new(a.dtype(1), shape_attr(a.ints(2))?)),
    vjp: Vjp::None("an input has no operands"),
    ..BASE
};
