//! `attention_forward`: attention in one pass over the keys, with what the backward pass needs.

use super::attention::{ATTRS, Head, Options, Plain, check, flat, out_shape, samples};
use super::{BASE, attr};
use crate::attr::{AttrKind, AttrSpec, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::Result;
use crate::interp::HostTensor;
use crate::op::{Arity, DTypeSet, EvalCall, Kind, OpDef, Tolerance, Vjp};
use crate::shape::{Shape, Type};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "attention_forward",
    doc: "What `scaled_dot_product_attention` computes, as one library call that holds no score matrix. With `lse`, the \
        result is one row: the attention, then the logarithm of the sum of the exponentials of each row of scores \
        (Dao et al., FlashAttention, 2022).\n\n\
        >>> q = torsh.ones(1, 64, 8); torsh.nn.functional.scaled_dot_product_attention(q, q, q)[0, 0, 0].item()\n1.0",
    kind: Kind::Attention,
    arity: Arity::AtLeast(3),
    attrs: &FORWARD_ATTRS,
    dtypes: DTypeSet::of(&[DType::F32]),
    infer: |x, a| {
        let s = check(x, a, 0)?;
        let shape = out_shape(x)?;
        if !a.bool(5) {
            return Ok(Type::new(x[0].dtype, shape));
        }
        let n = shape.checked_numel()?.saturating_add(s.batch.saturating_mul(s.queries));
        Ok(Type::new(x[0].dtype, Shape::new(&[n])?))
    },
    eval: Some(eval),
    decompose: Some(|c| {
        let plain = Plain::new(c.x, Options::of(c.attrs));
        if c.attrs.bool(5) { flat(&[plain.out(), plain.lse()]) } else { plain.out() }
    }),
    vjp: Vjp::ViaDecompose,
    tolerance: Tolerance::scaled(128.0),
    samples: || samples(&|s, z, _| s.attr(z.batch == 2)),
    ..BASE
};

const FORWARD_ATTRS: [AttrSpec; 6] =
    [ATTRS[0], ATTRS[1], ATTRS[2], ATTRS[3], ATTRS[4], attr("lse", AttrKind::Bool)];

/// The weights of each head in f64, from the operands of either one-pass op.
pub(super) fn heads<'a>(c: &'a EvalCall<'_>, extra: usize) -> Result<(super::attention::Sizes, impl Fn(usize) -> Head + 'a)> {
    let types: Vec<Type> = c.x.iter().map(|t| t.ty.clone()).collect();
    let (s, o) = (check(&types, c.attrs, extra)?, Options::of(c.attrs));
    let head = move |b: usize| {
        let at = |x: &HostTensor, i: usize| x.get(i).as_f64();
        let score = |i: usize, j: usize| {
            let (q, k) = ((b * s.queries + i) * s.depth, (b * s.keys + j) * s.depth);
            let product: f64 = (0..s.depth).map(|d| at(c.x[0], q + d) * at(c.x[1], k + d)).sum();
            let scaled = product * o.scale;
            if !o.mask {
                return scaled;
            }
            match c.x[3].get((b * s.queries + i) * s.keys + j) {
                Scalar::Bool(true) => scaled,
                Scalar::Bool(false) => f64::NEG_INFINITY,
                added => scaled + added.as_f64(),
            }
        };
        let state = (o.dropout > 0.0).then(|| {
            let x = c.x[o.operands() - 1];
            [x.get(0).as_i64(), x.get(1).as_i64()]
        });
        Head::new(s, o, b, &score, state)
    };
    Ok((s, head))
}

fn eval(c: &EvalCall<'_>) -> Result<HostTensor> {
    let (s, head) = heads(c, 0)?;
    let mut out = HostTensor::zeros(c.ty.clone());
    let lse_at = s.batch * s.queries * s.width;
    for b in 0..s.batch {
        let h = head(b);
        for i in 0..s.queries {
            for w in 0..s.width {
                let terms = (0..s.keys).map(|j| {
                    let p = i * s.keys + j;
                    h.drop(p, h.p[p]) * c.x[2].get((b * s.keys + j) * s.width + w).as_f64()
                });
                out.set((b * s.queries + i) * s.width + w, Scalar::Float(terms.sum()));
            }
            if c.attrs.bool(5) {
                out.set(lse_at + b * s.queries + i, Scalar::Float(h.lse[i]));
            }
        }
    }
    Ok(out)
}
