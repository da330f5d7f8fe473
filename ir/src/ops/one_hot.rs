//! `one_hot`: class numbers as rows of zeros and a one.

use super::{BASE, attr, shape_attr};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::{DTypeSet, Gen, OpDef, Sample, Vjp};
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "one_hot",
    doc: "int64 `out[.., c] = (x[..] == c)` for `c` in `0..num_classes`; a number that is no class gives zeros.\n\n\
        >>> torsh.nn.functional.one_hot(torsh.tensor([2, 0]), 3).tolist()\n[[0, 0, 1], [1, 0, 0]]",
    attrs: &[attr("num_classes", AttrKind::Int)],
    dtypes: DTypeSet::of(&[DType::I64]),
    infer: |x, a| {
        if a.int(0) < 0 {
            return Err(Error::value(format!("num_classes must not be negative, got {}", a.int(0))));
        }
        let sizes: Vec<i64> = x[0].shape.iter().map(|&d| d as i64).chain([a.int(0)]).collect();
        Ok(Type::new(DType::I64, shape_attr(&sizes)?))
    },
    decompose: Some(|c| {
        let (x, shape) = (c.x[0], &c.ty.shape);
        let mut column = shape.to_vec();
        column[x.rank()] = 1;
        let classes = x.builder().iota(x.rank(), DType::I64, shape);
        classes.eq(x.reshape(&column).expand(shape)).cast(DType::I64)
    }),
    vjp: Vjp::None("class numbers are integers"),
    samples: || {
        let s = |x: Gen, n: i64| Sample::new(vec![x]).attr(Attr::Int(n)).no_grad();
        vec![
            s(Gen::index(&[], 5), 5),
            s(Gen::index(&[0], 5), 5),
            s(Gen::index(&[17], 5), 5),
            s(Gen::index(&[3, 4], 33), 33),
            s(Gen::range(&[9], -3.0, 8.0).dtype(DType::I64), 4),
            s(Gen::index(&[3], 1), 0),
        ]
    },
    ..BASE
};
