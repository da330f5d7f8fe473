//! `triu`: the upper triangle of matrices.

use super::composite::keep;
use super::tril::{distance, matrix};
use super::{BASE, attr};
use crate::attr::{AttrKind, AttrsExt};
use crate::op::{OpDef, Vjp};
use smallvec::smallvec;

/// The op. Only choices: exact.
pub static DEF: OpDef = OpDef {
    name: "triu",
    doc: "Elements `x[.., i, j]` with `j - i >= diagonal` (on and above that diagonal), zeros elsewhere.\n\n\
        >>> torsh.triu(torsh.tensor([[1, 1], [1, 1]])).tolist()\n[[1, 1], [0, 1]]",
    attrs: &[attr("diagonal", AttrKind::Int)],
    infer: matrix,
    decompose: Some(|c| {
        let (distance, diagonal) = distance(c.x[0], c.attrs.int(0));
        keep(distance.ge(diagonal), c.x[0])
    }),
    vjp: Vjp::Rule(|c| smallvec![Some(c.ct.builder().op("triu", &[c.ct], c.attrs))]),
    samples: super::tril::DEF.samples,
    ..BASE
};
