//! `nll_loss`: negative log-likelihood of classes.

use super::composite::{Classes, class_samples, classes_infer, keep, wide};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind};
use crate::op::{Arity, Cotangents, DTypeSet, OpDef, Tolerance, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "nll_loss",
    doc: "`nll_loss(x, target, weight?; reduction, ignore_index)`: `-weight[t] * x[t]` for log-probabilities `x` of \
        shape `[C]` or `[N, C, d1, ..]` and int64 classes of shape `[]` or `[N, d1, ..]`; 0 where the target is \
        `ignore_index`. `reduction` is none, sum, or mean over the weights that count. A target that is no class is an \
        IndexError when the program runs.\n\n\
        >>> torsh.nn.functional.nll_loss(torsh.tensor([[-1., -2.]]), torsh.tensor([1])).item()\n2.0",
    arity: Arity::AtLeast(2),
    attrs: &[attr("reduction", AttrKind::Str), attr("ignore_index", AttrKind::Int)],
    dtypes: DTypeSet::FLOATS,
    infer: classes_infer,
    decompose: Some(|c| {
        let classes = Classes::new(c.x, c.attrs);
        let picked = keep(classes.hot, wide(c.x[0])).sum(&[classes.dim]);
        classes.fold(c, -(picked * classes.weight))
    }),
    vjp: Vjp::Rule(|c| {
        let (classes, x) = (Classes::new(c.x, c.attrs), wide(c.x[0]));
        let (shape, g) = (x.shape(), classes.row_ct(c));
        let dx = keep(classes.hot, -(g * classes.weight).expand(&shape)).cast(c.x[0].dtype());
        let mut out: Cotangents<'_> = [Some(dx), None].into_iter().collect();
        if c.x.len() > 2 {
            out.push(Some(classes.weight_ct(c, keep(classes.hot, -(x * g.expand(&shape))))));
        }
        out
    }),
    tolerance: Tolerance::scaled(8.0),
    samples: || [-100, 1].iter().flat_map(|&i| class_samples(&[Attr::Int(i)])).collect(),
    ..BASE
};
