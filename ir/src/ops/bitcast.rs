//! `bitcast`: the same bits read as another dtype.

use super::{BASE, attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::{Gen, Kind, OpDef, Sample, Values, Vjp};
use crate::scalar::ScalarOp;
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "bitcast",
    doc: "The same bits read as `dtype`, which has the operand's size; only bool becomes bool.\n\n>>> torsh.tensor([1.0]).view(torsh.int32).tolist()\n[1065353216]",
    kind: Kind::Elementwise(ScalarOp::Bitcast),
    attrs: &[attr("dtype", AttrKind::DType)],
    infer: |x, a| {
        let (from, to) = (x[0].dtype, a.dtype(0));
        if from.size() != to.size() {
            let (f, t) = (from.size(), to.size());
            return Err(Error::dtype(format!("{from} has {f} bytes an element and {to} has {t}")));
        }
        // A byte of a bool is 0 or 1, which other bytes need not be.
        if to == DType::Bool && from != DType::Bool {
            return Err(Error::dtype(format!("the bits of {from} need not be a bool")));
        }
        Ok(Type::new(to, x[0].shape.clone()))
    },
    vjp: Vjp::None("bits are not a differentiable function of a number"),
    samples: || {
        let pairs = [
            (DType::Bool, DType::U8),
            (DType::U8, DType::I8),
            (DType::I16, DType::F16),
            (DType::F16, DType::BF16),
            (DType::BF16, DType::I16),
            (DType::F32, DType::I32),
            (DType::I32, DType::F32),
            (DType::F64, DType::I64),
            (DType::I64, DType::F64),
        ];
        pairs
            .into_iter()
            .flat_map(|(from, to)| [Gen::normal(&[3, 33]), Gen::of(&[67], Values::Special)].map(|g| (g.dtype(from), to)))
            .map(|(x, to)| Sample::new(vec![x]).attr(to).no_grad())
            .collect()
    },
    ..BASE
};
