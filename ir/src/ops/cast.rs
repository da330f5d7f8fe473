//! `cast`: conversion of the dtype.

use super::{BASE, attr, elementwise_shapes};
use crate::attr::{AttrKind, AttrsExt};
use crate::dtype::DType;
use crate::op::{Gen, Kind, OpDef, Sample, Values, Vjp};
use crate::scalar::ScalarOp;
use crate::shape::Type;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "cast",
    doc: "The same numbers in `dtype`: floats round to nearest even; floats to integers truncate toward zero and saturate, NaN gives 0; wider to narrower integers wrap; anything to bool is `!= 0`.\n\n>>> torsh.tensor([1.7, -1.7]).to(torsh.int32).tolist()\n[1, -1]",
    kind: Kind::Elementwise(ScalarOp::Cast),
    attrs: &[attr("dtype", AttrKind::DType)],
    infer: |x, a| Ok(Type::new(a.dtype(0), x[0].shape.clone())),
    // An integer operand has no gradient, and an integer result no cotangent.
    vjp: Vjp::Rule(|c| {
        let (from, to) = (c.x[0].dtype(), c.ct.dtype());
        smallvec![(from.is_float() && to.is_float()).then(|| c.ct.cast(from))]
    }),
    samples: || {
        let to = |d: DType| Sample::new(vec![Gen::normal(&[3, 33])]).attr(d);
        let special = |d: DType| Sample::new(vec![Gen::of(&[67], Values::Special)]).attr(d).no_grad();
        // Finite differences see the rounding to a narrower float.
        let mut s: Vec<_> =
            DType::ALL.into_iter().flat_map(|d| [if d == DType::F64 { to(d) } else { to(d).no_grad() }, special(d)]).collect();
        s.extend(elementwise_shapes().iter().map(|d| Sample::new(vec![Gen::normal(d)]).attr(DType::F64)));
        s
    },
    ..BASE
};
