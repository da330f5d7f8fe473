//! `binary_cross_entropy_with_logits`: cross entropy of coin flips, from scores.

use super::attr;
use super::composite::{fold_loss, loss, loss_ct, loss_infer, loss_samples, wide};
use crate::attr::AttrKind;
use crate::error::Error;
use crate::op::{Arity, Cotangents, Gen, OpDef, Vjp};

/// The op. `logsigmoid` stays a node of its own here, because its gradient rule is finite everywhere.
pub static DEF: OpDef = OpDef {
    arity: Arity::AtLeast(2),
    doc: "`binary_cross_entropy_with_logits(x, y, pos_weight?; reduction)`: \
        `-(w * y * log(sigmoid(x)) + (1 - y) * log(1 - sigmoid(x)))`, computed as \
        `(1 - y) * x - (1 + (w - 1) * y) * logsigmoid(x)` and folded by `reduction` (none, mean or sum).\n\n\
        >>> x = torsh.tensor([200., -200.])\n\
        >>> torsh.nn.functional.binary_cross_entropy_with_logits(x, torsh.tensor([1., 0.])).item()\n0.0",
    infer: |x, a| match x.len() {
        2 | 3 => loss_infer(x, a),
        n => Err(Error::value(format!("expected 2 or 3 operands, got {n}"))),
    },
    decompose: Some(|c| {
        let (x, y) = (wide(c.x[0]), wide(c.x[1]));
        let log_sigmoid = x.builder().op("logsigmoid", &[x], &[]);
        let weighted = match c.x.get(2) {
            Some(w) => (wide(*w).offset(-1.0) * y).offset(1.0) * log_sigmoid,
            None => log_sigmoid,
        };
        fold_loss(c, (-y).offset(1.0) * x - weighted)
    }),
    vjp: Vjp::Rule(|c| {
        let (x, y, g, dtype) = (wide(c.x[0]), wide(c.x[1]), loss_ct(c), c.x[0].dtype());
        let s = x.sigmoid();
        let Some(w) = c.x.get(2).map(|w| wide(*w)) else {
            let d: [_; 2] = [g * (s - y), -(g * x)];
            return d.into_iter().map(|d| Some(d.cast(dtype))).collect();
        };
        let log_sigmoid = x.builder().op("logsigmoid", &[x], &[]);
        let more = w.offset(-1.0);
        let dx = (-y).offset(1.0) - (more * y).offset(1.0) * (-x).sigmoid();
        let d = [g * dx, -(g * (x + more * log_sigmoid)), -(g * y * log_sigmoid)];
        let out: Cotangents<'_> = d.into_iter().map(|d| Some(d.cast(dtype))).collect();
        out
    }),
    samples: || {
        let unit = |d: &[usize]| Gen::range(d, 0.0, 1.0);
        let mut s = loss_samples(Gen::normal, unit, &[]);
        for mut weighted in loss_samples(Gen::normal, unit, &[]) {
            weighted.inputs.push(Gen::range(&weighted.inputs[0].shape, 0.5, 3.0));
            s.push(weighted);
        }
        s
    },
    ..loss("binary_cross_entropy_with_logits", &[attr("reduction", AttrKind::Str)])
};
