//! `tril`: the lower triangle of matrices.

use super::composite::keep;
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Gen, OpDef, Sample, Vjp};
use crate::shape::Type;
use smallvec::smallvec;

/// The op. Only choices: exact.
pub static DEF: OpDef = OpDef {
    name: "tril",
    doc: "Elements `x[.., i, j]` with `j - i <= diagonal` (on and below that diagonal), zeros elsewhere.\n\n\
        >>> torsh.tril(torsh.tensor([[1, 1], [1, 1]])).tolist()\n[[1, 0], [1, 1]]",
    attrs: &[attr("diagonal", AttrKind::Int)],
    infer: matrix,
    decompose: Some(|c| {
        let (distance, diagonal) = distance(c.x[0], c.attrs.int(0));
        keep(distance.le(diagonal), c.x[0])
    }),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.builder().op("tril", &[c.ct], c.attrs))]),
    samples: || {
        let s = |shape: &[usize], diagonal: i64| Sample::new(vec![Gen::normal(shape)]).attr(Attr::Int(diagonal));
        vec![
            s(&[1, 1], 0),
            s(&[5, 5], 0),
            s(&[5, 33], 1),
            s(&[5, 33], -2),
            s(&[17, 3], 0),
            s(&[2, 3, 4], 1),
            s(&[0, 3], 0),
            s(&[3, 3], i64::MAX),
            s(&[3, 3], i64::MIN),
        ]
    },
    ..BASE
};

/// Type rule: at least two dims.
pub(super) fn matrix(x: &[Type], _: &[Attr]) -> Result<Type> {
    if x[0].rank() < 2 {
        return Err(Error::shape(format!("expected at least 2 dims, got shape {}", x[0].shape)));
    }
    Ok(x[0].clone())
}

/// `j - i` per element, and the diagonal beside it; diagonals outside the matrix come to its corner.
pub(super) fn distance(x: Val<'_>, diagonal: i64) -> (Val<'_>, Val<'_>) {
    let (b, shape) = (x.builder(), x.shape());
    let (rows, columns) = (shape.rank() - 2, shape.rank() - 1);
    let distance = b.iota(columns, DType::I64, &shape) - b.iota(rows, DType::I64, &shape);
    let diagonal = diagonal.clamp(-(shape[rows] as i64), shape[columns] as i64);
    (distance, b.full(Scalar::Int(diagonal), DType::I64, &shape))
}
