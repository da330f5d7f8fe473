//! `reshape`: same elements, other shape.

use super::{BASE, attr, shape_attr};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::error::Error;
use crate::interp::HostTensor;
use crate::op::{Gen, Kind, OpDef, Sample, View, Vjp};
use crate::shape::Type;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "reshape",
    doc: "The elements of `x` in row-major order with another shape of the same element count.\n\n>>> torsh.arange(6).reshape(2, 3).tolist()\n[[0, 1, 2], [3, 4, 5]]",
    kind: Kind::View(View::Reshape),
    attrs: &[attr("shape", AttrKind::Ints)],
    infer: |x, a| {
        let shape = shape_attr(a.ints(0))?;
        if shape.numel() != x[0].numel() {
            return Err(Error::shape(format!(
                "cannot reshape {} ({} elements) to {shape} ({} elements)",
                x[0].shape,
                x[0].numel(),
                shape.numel()
            )));
        }
        Ok(Type::new(x[0].dtype, shape))
    },
    eval: Some(|c| HostTensor::from_bytes(c.ty.clone(), &c.x[0].to_bytes())),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.reshape(&c.x[0].shape()))]),
    samples: || {
        let s = |from: &[usize], to: &[i64]| Sample::new(vec![Gen::normal(from)]).attr(Attr::from(to));
        vec![s(&[], &[1]), s(&[6], &[2, 3]), s(&[2, 3, 4], &[4, 6]), s(&[0, 3], &[3, 0])]
    },
    ..BASE
};
