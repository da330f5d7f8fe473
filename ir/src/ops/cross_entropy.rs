//! `cross_entropy`: negative log-likelihood of classes, from scores.

use super::composite::{Classes, class_samples, classes_infer, count, float, keep, wide};
use super::{BASE, attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::error::Error;
use crate::op::{Arity, Cotangents, DTypeSet, OpDef, Tolerance, Vjp};

/// The op. The target's class is found by comparing with positions, not by a gather from the scores, so that
/// forward and gradient are row kernels.
pub static DEF: OpDef = OpDef {
    name: "cross_entropy",
    doc: "`cross_entropy(x, target, weight?; reduction, ignore_index, label_smoothing)`: with `l = log_softmax(x)` over \
        the classes and `s` the smoothing, `-(1 - s) * weight[t] * l[t] - s / C * sum(weight * l)` for scores of shape \
        `[C]` or `[N, C, d1, ..]` and int64 classes of shape `[]` or `[N, d1, ..]`; 0 where the target is \
        `ignore_index`. `reduction` is none, sum, or mean over the weights that count. A target that is no class is an \
        IndexError when the program runs. Gradient: `(softmax(x) - onehot) * weight[t]` per row, without smoothing.\n\n\
        >>> torsh.nn.functional.cross_entropy(torsh.zeros(1, 2), torsh.tensor([1])).exp().round().item()\n2.0",
    arity: Arity::AtLeast(2),
    attrs: &[
        attr("reduction", AttrKind::Str),
        attr("ignore_index", AttrKind::Int),
        attr("label_smoothing", AttrKind::Scalar),
    ],
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        let smoothing = a.scalar(2).as_f64();
        if !(0.0..=1.0).contains(&smoothing) {
            return Err(Error::value(format!("label_smoothing must be between 0.0 and 1.0. Got: {smoothing}")));
        }
        classes_infer(x, a)
    },
    decompose: Some(|c| {
        let classes = Classes::new(c.x, c.attrs);
        let logs = log_softmax(c.x[0], classes.dim);
        let picked = -(keep(classes.hot, logs).sum(&[classes.dim]) * classes.weight);
        let (hot, every) = shares(&logs, classes.dim, c.attrs);
        if every == 0.0 {
            return classes.fold(c, picked);
        }
        let weighted = classes.weights.map_or(logs, |w| logs * w);
        classes.fold(c, picked.scale(hot) - weighted.sum(&[classes.dim]).scale(every))
    }),
    // With q the weight of each class in a row's loss: d x = g * (softmax * sum(q) - q)
    vjp: Vjp::Rule(|c| {
        let classes = Classes::new(c.x, c.attrs);
        let logs = log_softmax(c.x[0], classes.dim);
        let (shape, g) = (logs.shape(), classes.row_ct(c));
        let (hot, every) = shares(&logs, classes.dim, c.attrs);
        let softmax = logs.exp();
        let dx = if every == 0.0 {
            let off = classes.hot.select(softmax.offset(-1.0), softmax);
            off * (g * classes.weight).expand(&shape)
        } else {
            let row = classes.weight.scale(hot);
            let spread = classes.weights.map_or(logs.full_like(every), |w| w.scale(every));
            let q = keep(classes.hot, row.expand(&shape)) + spread;
            let total = row + spread.sum(&[classes.dim]);
            (softmax * total.expand(&shape) - q) * g.expand(&shape)
        };
        let mut out: Cotangents<'_> = [Some(dx.cast(c.x[0].dtype())), None].into_iter().collect();
        if c.x.len() > 2 {
            let picked = keep(classes.hot, logs.scale(hot));
            let both = if every == 0.0 { picked } else { picked + logs.scale(every) };
            out.push(Some(classes.weight_ct(c, -(both * g.expand(&shape)))));
        }
        out
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: || {
        let variants = [(-100, 0.0), (1, 0.0), (-100, 0.1), (2, 1.0)];
        variants.iter().flat_map(|&(ignore, smoothing)| class_samples(&[Attr::Int(ignore), float(smoothing)])).collect()
    },
    ..BASE
};

fn log_softmax<'b>(x: Val<'b>, dim: usize) -> Val<'b> {
    let x = wide(x);
    x.builder().op("log_softmax", &[x], &[Attr::Int(dim as i64)])
}

/// Share of the target's class and of every class in a row's loss.
fn shares(x: &Val<'_>, dim: usize, a: &[Attr]) -> (f64, f64) {
    let smoothing = a.scalar(2).as_f64();
    (1.0 - smoothing, smoothing / count(&x.shape(), &[dim]))
}
