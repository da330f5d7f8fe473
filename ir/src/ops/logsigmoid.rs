//! `logsigmoid`: logarithm of the logistic function.

use super::composite::{float_map, map, map_vjp};
use crate::op::{OpDef, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`log(1 / (1 + exp(-x)))` as `min(x, 0) - log(1 + exp(-|x|))`.\n\n\
        >>> torsh.nn.functional.logsigmoid(torsh.tensor([-200., 200.])).tolist()\n[-200.0, 0.0]",
    decompose: Some(|c| map(c, |x| x.minimum(x.zeros_like()) - (-x.abs()).exp().log1p())),
    vjp: Vjp::Rule(|c| map_vjp(c, |x, ct| ct * (-x).sigmoid())),
    ..float_map("logsigmoid")
};
