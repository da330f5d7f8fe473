//! `input`: an argument of the graph.

use super::{BASE, attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{Arity, Kind, OpDef, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "input",
    doc: "Argument `index` of the graph.\n\n>>> torsh.compile(lambda x: x + 1)(torsh.tensor([1., 2.])).tolist()\n[2.0, 3.0]",
    kind: Kind::Input,
    arity: Arity::Fixed(0),
    attrs: &[attr("index", AttrKind::Int), attr("dtype", AttrKind::DType), attr("shape", AttrKind::Ints)],
    infer: |_, a| Ok(Type::new(a.dtype(1), shape_attr(a.ints(2))?)),
    vjp: Vjp::None("an input has no operands"),
    ..BASE
};
