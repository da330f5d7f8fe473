//! `scaled_dot_product_attention`: softmax of the products of queries and keys, times the values.

use super::attention::{ATTRS, Options, Plain, Sizes, check, out_shape, part, samples, widened};
use super::composite::wide;
use super::BASE;
use crate::Val;
use crate::attr::{Attr, Attrs};
use crate::dtype::DType;
use crate::op::{Arity, DTypeSet, OpDef, Tolerance, Vjp};
use crate::shape::{Shape, Type};
use smallvec::SmallVec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "scaled_dot_product_attention",
    doc: "`dropout(softmax(query @ key^T * scale + mask)) @ value` over the last two dims (Vaswani et al., 2017). Operands \
        query [.., L, D], key [.., S, D], value [.., S, W], then, where there are any, a mask [.., L, S] (bool: true \
        takes part; float: added) and the random state (seed, offset). With `causal`, query i sees keys 0..=i; with \
        `safe`, a row that sees no key gives 0 instead of NaN. Score matrices of 4096 elements or more are never \
        held in memory.\n\n\
        >>> q = torsh.ones(1, 2); torsh.nn.functional.scaled_dot_product_attention(q, q, q).tolist()\n[[1.0, 1.0]]",
    arity: Arity::AtLeast(3),
    attrs: &ATTRS,
    dtypes: DTypeSet::FLOATS,
    infer: |x, a| {
        check(x, a, 0)?;
        Ok(Type::new(x[0].dtype, out_shape(x)?))
    },
    decompose: Some(|c| {
        let o = Options::of(c.attrs);
        let out = match sizes(c.x).one_pass(c.x[0].dtype()) {
            true => part(forward(c.x, o), 0, &c.ty.shape),
            false => Plain::new(&widened(c.x), o).out(),
        };
        out.cast(c.ty.dtype)
    }),
    // The one-pass backward computes no cotangent of a mask: that is as large as the scores.
    vjp: Vjp::Rule(|c| {
        let (x, o, ct) = (widened(c.x), Options::of(c.attrs), wide(c.ct));
        let plain = || Plain::new(&x, o).grad(ct);
        let mut grads: SmallVec<[Option<Val<'_>>; 3]> = match sizes(c.x).one_pass(c.x[0].dtype()) {
            true => backward(&x, forward(c.x, o), o, ct).into_iter().map(Some).collect(),
            false => plain()[..3].iter().copied().map(Some).collect(),
        };
        if o.mask {
            grads.push((c.x[3].dtype() != DType::Bool).then(|| plain()[3]));
        }
        if o.dropout > 0.0 {
            grads.push(None);
        }
        grads.into_iter().map(|g| g.map(|g| g.cast(c.x[0].dtype()))).collect()
    }),
    // The weights are within a few units in the last place of 1 together, the sums of products as in dot_general.
    tolerance: Tolerance::scaled(128.0),
    samples: || samples(&|s, _, _| s),
    ..BASE
};

fn sizes(x: &[Val<'_>]) -> Sizes {
    Sizes::of(&x[0].shape(), &x[1].shape(), &x[2].shape())
}

/// The attention of operands as they are, and its logarithms.
fn forward<'b>(x: &[Val<'b>], o: Options) -> Val<'b> {
    let attrs: Attrs = o.attrs().into_iter().chain([Attr::Bool(true)]).collect();
    x[0].builder().op("attention_forward", x, &attrs)
}

/// Cotangents of query, key and value, from the forward pass.
fn backward<'b>(x: &[Val<'b>], row: Val<'b>, o: Options, ct: Val<'b>) -> [Val<'b>; 3] {
    let operands: Vec<Val<'b>> = x.iter().copied().chain([row, ct]).collect();
    let row = x[0].builder().op("attention_backward", &operands, &o.attrs());
    let shapes: [Shape; 3] = [x[0].shape(), x[1].shape(), x[2].shape()];
    let (nq, nk) = (shapes[0].numel(), shapes[1].numel());
    [part(row, 0, &shapes[0]), part(row, nq, &shapes[1]), part(row, nq + nk, &shapes[2])]
}
