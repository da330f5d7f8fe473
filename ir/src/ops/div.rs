//! `div`: quotient.

use super::{binary_float, binary_samples};
use crate::op::{OpDef, Values, Vjp};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a / b` of floats, correctly rounded; integers are converted to float first.\n\n>>> torsh.div(torsh.tensor([1., 2.]), 4).tolist()\n[0.25, 0.5]",
    aliases: &["divide", "true_divide"],
    // d(a / b) = da / b - db / b * (a / b)
    vjp: Vjp::Rule(|c| {
        let g = c.ct / c.x[1];
        smallvec![Some(g), Some(-(g * c.out))]
    }),
    samples: || binary_samples(Values::Normal, Values::Range(0.3, 4.0)),
    ..binary_float("div", BinOp::Div)
};
