//! `attention_backward`: the gradient of attention in one pass over the keys.

use super::attention::{ATTRS, Options, Plain, Sizes, check, flat, out_shape, samples};
use super::attention_forward::heads;
use super::BASE;
use crate::attr::Scalar;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interp::HostTensor;
use crate::op::{Arity, DTypeSet, EvalCall, Gen, Kind, OpDef, Sample, Tolerance, Vjp};
use crate::shape::{Shape, Type};

/// The op.
pub static DEF: OpDef = OpDef {
    name: "attention_backward",
    doc: "The cotangents of query, key and value of `attention_forward`, one after the other in one row, from its \
        operands, its result with `lse` and the cotangent of the attention: the weights are `exp(scores - lse)`, 0 where \
        lse is -inf under `safe` (Dao et al., FlashAttention, 2022). Differentiated, it is the plain composition.\n\n\
        >>> q = torsh.ones(1, 64, 8, requires_grad=True)\n\
        >>> torsh.nn.functional.scaled_dot_product_attention(q, q.detach(), q.detach()).sum().backward()\n\
        >>> bool((q.grad.abs() < 1e-5).all())\nTrue",
    kind: Kind::AttentionGrad,
    arity: Arity::AtLeast(5),
    attrs: &ATTRS,
    dtypes: DTypeSet::of(&[DType::F32]),
    infer: |x, a| {
        let s = check(x, a, 2)?;
        let (ct, row) = (&x[x.len() - 1], &x[x.len() - 2]);
        let rows = s.batch.saturating_mul(s.queries);
        let shape = out_shape(x)?;
        if ct.dtype != x[0].dtype || ct.shape != shape {
            return Err(Error::shape(format!("the cotangent is {ct}, the attention has shape {shape}")));
        }
        if row.dtype != x[0].dtype || row.shape.dims() != [shape.checked_numel()?.saturating_add(rows)] {
            return Err(Error::shape(format!("{row} is not the result of attention_forward")));
        }
        let n = x[..3].iter().try_fold(0usize, |n, t| Ok::<_, Error>(n.saturating_add(t.shape.checked_numel()?)))?;
        Ok(Type::new(x[0].dtype, Shape::new(&[n])?))
    },
    eval: Some(eval),
    // The result of the forward pass only saves work: nothing depends on it beyond its operands.
    decompose: Some(|c| {
        let [dq, dk, dv, _] = Plain::new(c.x, Options::of(c.attrs)).grad(c.x[c.x.len() - 1]);
        flat(&[dq, dk, dv])
    }),
    vjp: Vjp::ViaDecompose,
    tolerance: Tolerance::scaled(256.0),
    samples: || samples(&with_forward),
    ..BASE
};

/// Adds a result of the forward pass, which here is any numbers, and a cotangent.
fn with_forward(mut sample: Sample, s: Sizes, batch: &[usize]) -> Sample {
    sample.inputs.push(Gen::normal(&[s.batch * s.queries * (s.width + 1)]));
    sample.inputs.push(Gen::normal(&[batch, &[s.queries, s.width]].concat()));
    sample.no_grad()
}

fn eval(c: &EvalCall<'_>) -> Result<HostTensor> {
    let (s, head) = heads(c, 2)?;
    let o = Options::of(c.attrs);
    let mut out = vec![0.0f64; c.ty.numel()];
    let (k_at, v_at) = (s.batch * s.queries * s.depth, s.batch * (s.queries + s.keys) * s.depth);
    let v_numel = s.batch * s.queries * s.width;
    let at = |x: usize, i: usize| c.x[x].get(i).as_f64();
    for b in 0..s.batch {
        let h = head(b);
        for i in 0..s.queries {
            let ct = |w: usize| at(c.x.len() - 1, (b * s.queries + i) * s.width + w);
            let lse = at(c.x.len() - 2, v_numel + b * s.queries + i);
            let weight = |j: usize| match lse == f64::NEG_INFINITY && o.safe && o.mask {
                true => 0.0,
                false => (h.s[i * s.keys + j] - lse).exp(),
            };
            let p: Vec<f64> = (0..s.keys).map(weight).collect();
            let dp: Vec<f64> = (0..s.keys)
                .map(|j| {
                    let v = (b * s.keys + j) * s.width;
                    h.drop(i * s.keys + j, (0..s.width).map(|w| ct(w) * at(2, v + w)).sum())
                })
                .collect();
            let out_at = (b * s.queries + i) * s.width;
            let inner: f64 = (0..s.width).map(|w| ct(w) * at(c.x.len() - 2, out_at + w)).sum();
            for j in 0..s.keys {
                let ds = p[j] * (dp[j] - inner) * o.scale;
                let (q, k) = ((b * s.queries + i) * s.depth, (b * s.keys + j) * s.depth);
                for d in 0..s.depth {
                    out[q + d] += ds * at(1, k + d);
                    out[k_at + k + d] += ds * at(0, q + d);
                }
                let v = (b * s.keys + j) * s.width;
                for w in 0..s.width {
                    out[v_at + v + w] += h.drop(i * s.keys + j, p[j]) * ct(w);
                }
            }
        }
    }
    Ok(HostTensor::from_fn(c.ty.clone(), |i| Scalar::Float(out[i])))
}
