//! `attention_forward`: attention in one pass over the keys, with what the backward pass needs.

use super::attention::{ATTRS, Options, Plain, Sizes, check, flat, out_shape, samples, widened};
use super::attention_rows::Head;
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
        (Dao et al., FlashAttention, 2022), and f32 whatever the operands are. 16-bit operands are f32 in every \
        computation; devices that multiply 16-bit floats may round the weights to the operands' dtype before they \
        multiply the values. The result is rounded once.\n\n\
        >>> q = torsh.ones(1, 64, 8); torsh.nn.functional.scaled_dot_product_attention(q, q, q)[0, 0, 0].item()\n1.0",
    kind: Kind::Attention,
    arity: Arity::AtLeast(3),
    attrs: &FORWARD_ATTRS,
    dtypes: DTypeSet::of(&[DType::F32, DType::F16, DType::BF16]),
    infer: |x, a| {
        let s = check(x, a, 0)?;
        let shape = out_shape(x)?;
        if !a.bool(5) {
            return Ok(Type::new(x[0].dtype, shape));
        }
        let n = shape.checked_numel()?.saturating_add(s.batch.saturating_mul(s.queries));
        Ok(Type::new(DType::F32, Shape::new(&[n])?))
    },
    eval: Some(eval),
    decompose: Some(|c| {
        let plain = Plain::new(&widened(c.x), Options::of(c.attrs));
        if c.attrs.bool(5) { flat(&[plain.out(), plain.lse()]) } else { plain.out().cast(c.ty.dtype) }
    }),
    vjp: Vjp::ViaDecompose,
    // In f32, where 16-bit operands are rounded no further; else weights have half an epsilon of the operands' dtype.
    tolerance: Tolerance::scaled(128.0),
    samples: || samples(&|s, z, _| s.attr(z.batch == 2)),
    ..BASE
};

const FORWARD_ATTRS: [AttrSpec; 6] =
    [ATTRS[0], ATTRS[1], ATTRS[2], ATTRS[3], ATTRS[4], attr("lse", AttrKind::Bool)];

/// Calls `f` with each head of the operands of either one-pass op.
pub(super) fn each_head(c: &EvalCall<'_>, extra: usize, f: &mut dyn FnMut(Sizes, &Head<'_>)) -> Result<()> {
    let types: Vec<Type> = c.x.iter().map(|t| t.ty.clone()).collect();
    let (s, o) = (check(&types, c.attrs, extra)?, Options::of(c.attrs));
    let at = |x: usize, i: usize| c.x[x].get(i).as_f64() as f32;
    let state = (o.dropout > 0.0).then(|| [0, 1].map(|i| c.x[o.operands() - 1].get(i).as_i64()));
    for b in 0..s.batch {
        let mask = |i: usize, j: usize| c.x[3].get((b * s.queries + i) * s.keys + j);
        let head = Head {
            sizes: s,
            options: o,
            at: b,
            q: &|i, d| at(0, (b * s.queries + i) * s.depth + d),
            k: &|j, d| at(1, (b * s.keys + j) * s.depth + d),
            v: &|j, w| at(2, (b * s.keys + j) * s.width + w),
            mask: if o.mask { Some(&mask) } else { None },
            state,
        };
        f(s, &head);
    }
    Ok(())
}

fn eval(c: &EvalCall<'_>) -> Result<HostTensor> {
    let mut out = HostTensor::zeros(c.ty.clone());
    each_head(c, 0, &mut |s, head| {
        let mut row = vec![0.0; s.width];
        for i in 0..s.queries {
            let lse = head.forward(i, &mut row);
            let at = head.at * s.queries + i;
            for (w, &x) in row.iter().enumerate() {
                out.set(at * s.width + w, Scalar::Float(f64::from(x)));
            }
            if c.attrs.bool(5) {
                out.set(s.batch * s.queries * s.width + at, Scalar::Float(f64::from(lse)));
            }
        }
    })?;
    Ok(out)
}
