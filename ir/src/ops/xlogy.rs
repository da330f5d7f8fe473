//! `xlogy`: x times the logarithm of y.

use super::composite::{binary_samples, float_binary, map2, map2_vjp};
use crate::op::{Gen, OpDef, Sample, Vjp};

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "`a * log(b)`; 0 where `a` is 0, unless `b` is NaN. The gradients are 0 where `a` is 0 and `b <= 0`.\n\n\
        >>> torsh.xlogy(torsh.tensor([0., 2.]), torsh.tensor([0., 1.])).tolist()\n[0.0, 0.0]",
    decompose: Some(|c| {
        map2(c, |a, b| {
            let nothing = a.eq(a.zeros_like()).bitwise_and(b.eq(b));
            nothing.select(a.zeros_like(), a * b.log())
        })
    }),
    vjp: Vjp::Rule(|c| {
        map2_vjp(c, |a, b, ct| {
            let pole = a.eq(a.zeros_like()).bitwise_and(b.le(b.zeros_like()));
            let safe = pole.select(b.full_like(1.0), b);
            (ct * safe.log(), ct * a / safe)
        })
    }),
    samples: || {
        let mut s: Vec<_> = binary_samples().into_iter().map(Sample::no_grad).collect();
        s.push(Sample::new(vec![Gen::normal(&[3, 33]), Gen::range(&[3, 33], 0.1, 3.0)]));
        s
    },
    ..float_binary("xlogy")
};
