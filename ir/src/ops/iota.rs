//! `iota`: positions along a dim.

use super::{BASE, attr, dims_attr, shape_attr};
use crate::attr::{AttrKind, AttrsExt, Scalar};
use crate::interp::HostTensor;
use crate::op::{Arity, DTypeSet, Kind, OpDef, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "iota",
    doc: "`out[i0, .., in] = i_dim`, converted to `dtype`.\n\n>>> torsh.arange(3).tolist()\n[0, 1, 2]",
    kind: Kind::Iota,
    arity: Arity::Fixed(0),
    attrs: &[attr("dim", AttrKind::Int), attr("dtype", AttrKind::DType), attr("shape", AttrKind::Ints)],
    dtypes: DTypeSet::NUMBERS,
    infer: |_, a| {
        let shape = shape_attr(a.ints(2))?;
        dims_attr(&[a.int(0)], shape.rank())?;
        Ok(Type::new(a.dtype(1), shape))
    },
    eval: Some(|c| {
        let dim = c.attrs.int(0) as usize;
        let (stride, size) = (c.ty.shape.strides()[dim] as usize, c.ty.shape[dim]);
        Ok(HostTensor::from_fn(c.ty.clone(), |i| Scalar::Int((i / stride % size) as i64)))
    }),
    vjp: Vjp::None("a constant has no operands"),
    ..BASE
};
