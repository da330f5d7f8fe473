//! `attention_backward`: the gradient of attention in one pass over the keys.

use super::attention::{ATTRS, Options, Plain, Sizes, check, flat, out_shape, samples};
use super::attention_forward::each_head;
use super::attention_rows::Grad;
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
    let mut out = vec![0.0f32; c.ty.numel()];
    let at = |x: usize, i: usize| c.x[x].get(i).as_f64() as f32;
    let (row, ct) = (c.x.len() - 2, c.x.len() - 1);
    each_head(c, 2, &mut |s, head| {
        let first = head.at * s.queries;
        let g = Grad {
            out: &|i, w| at(row, (first + i) * s.width + w),
            lse: &|i| at(row, s.batch * s.queries * s.width + first + i),
            ct: &|i, w| at(ct, (first + i) * s.width + w),
        };
        let (dq, rest) = out.split_at_mut(s.batch * s.queries * s.depth);
        let (dk, dv) = rest.split_at_mut(s.batch * s.keys * s.depth);
        for i in 0..s.queries {
            head.grad_query(&g, i, &mut dq[(first + i) * s.depth..][..s.depth]);
        }
        let inner: Vec<f32> = (0..s.queries).map(|i| g.inner(s, i)).collect();
        for j in 0..s.keys {
            let at = head.at * s.keys + j;
            let (dk, dv) = (&mut dk[at * s.depth..][..s.depth], &mut dv[at * s.width..][..s.width]);
            head.grad_key(&g, j, &|i| inner[i], dk, dv);
        }
    })?;
    Ok(HostTensor::from_fn(c.ty.clone(), |i| Scalar::Float(f64::from(out[i]))))
}
