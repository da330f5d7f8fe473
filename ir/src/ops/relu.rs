//! `relu`: the positive part.

use super::BASE;
use super::composite::unary_samples;
use crate::op::{DTypeSet, OpDef, Surface, Vjp};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "relu",
    doc: "`max(x, 0)`; NaN stays NaN. The gradient at 0 is 0.\n\n\
        >>> torsh.relu(torsh.tensor([-1., 0., 2.])).tolist()\n[0.0, 0.0, 2.0]",
    dtypes: DTypeSet::NUMBERS,
    decompose: Some(|c| c.x[0].maximum(c.x[0].zeros_like())),
    vjp: Vjp::Rule(|c| smallvec![Some(c.out.le(c.out.zeros_like()).select(c.ct.zeros_like(), c.ct))]),
    surface: Surface::Unary { float: false, inplace: true },
    samples: unary_samples,
    ..BASE
};
