//! `dot_general`: the tensor contraction behind every matrix product.

use super::rules::{ints, ravel, same_dtype, unravel};
use super::{BASE, attr, dims_attr};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interp::HostTensor;
use crate::op::{Arity, DTypeSet, Gen, Kind, OpDef, Sample, Tolerance, Vjp};
use crate::scalar::{BinOp, eval_bin};
use crate::shape::{Dims, Shape, Type};
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    name: "dot_general",
    doc: "`out[batch.., i.., j..] = sum over k of a[batch.., i.., k..] * b[batch.., j.., k..]`: dims `lhs_batch` of `a` \
        run with `rhs_batch` of `b`, dims `lhs_contract` are summed against `rhs_contract`, the others are free and \
        keep their order, those of `a` first (XLA, DotGeneral). Integers wrap; floats accumulate in f32 or better.\n\n\
        >>> (torsh.tensor([[1., 2.]]) @ torsh.tensor([[3.], [4.]])).tolist()\n[[11.0]]",
    kind: Kind::Dot,
    arity: Arity::Fixed(2),
    attrs: &[
        attr("lhs_batch", AttrKind::Ints),
        attr("rhs_batch", AttrKind::Ints),
        attr("lhs_contract", AttrKind::Ints),
        attr("rhs_contract", AttrKind::Ints),
    ],
    dtypes: DTypeSet::NUMBERS,
    infer: |x, a| {
        same_dtype(&x[0], &x[1])?;
        let dims = DotDims::new(&x[0].shape, &x[1].shape, a)?;
        let left = dims.lhs_batch.iter().chain(&dims.lhs_free).map(|&d| x[0].shape[d]);
        let sizes: Dims = left.chain(dims.rhs_free.iter().map(|&d| x[1].shape[d])).collect();
        Ok(Type::new(x[0].dtype, Shape::new(&sizes)?))
    },
    // Floats are multiplied and summed in f64 and rounded once: products of f32 are exact there.
    eval: Some(|c| {
        let (a, b) = (c.x[0], c.x[1]);
        let dims = DotDims::new(&a.ty.shape, &b.ty.shape, c.attrs)?;
        let depth: Dims = dims.lhs_contract.iter().map(|&d| a.ty.shape[d]).collect();
        let steps: usize = depth.iter().product();
        let dtype = if c.ty.dtype.is_float() { DType::F64 } else { c.ty.dtype };
        Ok(HostTensor::from_fn(c.ty.clone(), |i| {
            let at = unravel(i, &c.ty.shape);
            let (batch, free) = at.split_at(dims.lhs_batch.len());
            let (free_a, free_b) = free.split_at(dims.lhs_free.len());
            let mut sum = Scalar::Int(0).to_dtype(dtype);
            for k in 0..steps {
                let k = unravel(k, &depth);
                let place = |x: &HostTensor, dims: [&[usize]; 3], at: [&[usize]; 3]| {
                    let mut full = Dims::from_elem(0, x.ty.rank());
                    for (dims, at) in dims.iter().zip(at) {
                        for (&d, &p) in dims.iter().zip(at) {
                            full[d] = p;
                        }
                    }
                    x.get(ravel(&full, &x.ty.shape))
                };
                let l = place(a, [&dims.lhs_batch, &dims.lhs_free, &dims.lhs_contract], [batch, free_a, &k]);
                let r = place(b, [&dims.rhs_batch, &dims.rhs_free, &dims.rhs_contract], [batch, free_b, &k]);
                sum = eval_bin(BinOp::Add, sum, eval_bin(BinOp::Mul, l, r, dtype), dtype);
            }
            sum
        }))
    }),
    // With one letter per dim, d a = einsum(ct, b -> a's letters) and d b = einsum(a, ct -> b's letters).
    vjp: Vjp::Rule(|c| {
        let (a, b) = (c.x[0], c.x[1]);
        let Ok(dims) = DotDims::new(&a.shape(), &b.shape(), c.attrs) else { return smallvec![None, None] };
        let la: Vec<usize> = (0..a.rank()).collect();
        let mut lb: Vec<usize> = (0..b.rank()).map(|d| a.rank() + d).collect();
        let shared = dims.lhs_batch.iter().zip(&dims.rhs_batch);
        for (&l, &r) in shared.chain(dims.lhs_contract.iter().zip(&dims.rhs_contract)) {
            lb[r] = l;
        }
        let left = dims.lhs_batch.iter().chain(&dims.lhs_free).copied();
        let lct: Vec<usize> = left.chain(dims.rhs_free.iter().map(|&d| a.rank() + d)).collect();
        smallvec![Some(einsum((c.ct, &lct), (b, &lb), &la)), Some(einsum((a, &la), (c.ct, &lct), &lb))]
    }),
    // f32 accumulation in blocks against f64: the error grows with the square root of the depth times the
    // size of the terms; the samples are at most 300 deep.
    tolerance: Tolerance::scaled(128.0),
    samples,
    ..BASE
};

/// The dims of a contraction by role.
struct DotDims {
    lhs_batch: Vec<usize>,
    rhs_batch: Vec<usize>,
    lhs_contract: Vec<usize>,
    rhs_contract: Vec<usize>,
    lhs_free: Vec<usize>,
    rhs_free: Vec<usize>,
}

impl DotDims {
    fn new(a: &Shape, b: &Shape, attrs: &[Attr]) -> Result<DotDims> {
        let lhs: Vec<i64> = [attrs.ints(0), attrs.ints(2)].concat();
        let rhs: Vec<i64> = [attrs.ints(1), attrs.ints(3)].concat();
        if attrs.ints(0).len() != attrs.ints(1).len() || lhs.len() != rhs.len() {
            return Err(Error::value("both operands need as many batch and as many contracted dims"));
        }
        let (lhs, rhs) = (dims_attr(&lhs, a.rank())?, dims_attr(&rhs, b.rank())?);
        for (&l, &r) in lhs.iter().zip(&rhs) {
            if a[l] != b[r] {
                return Err(Error::shape(format!(
                    "cannot contract {a} with {b}: dim {l} has size {}, dim {r} has size {}",
                    a[l], b[r]
                )));
            }
        }
        let free = |rank: usize, used: &[usize]| (0..rank).filter(|d| !used.contains(d)).collect();
        let (lhs_free, rhs_free) = (free(a.rank(), &lhs), free(b.rank(), &rhs));
        let batch = attrs.ints(0).len();
        let ((lb, lc), (rb, rc)) = (lhs.split_at(batch), rhs.split_at(batch));
        Ok(DotDims {
            lhs_batch: lb.to_vec(),
            rhs_batch: rb.to_vec(),
            lhs_contract: lc.to_vec(),
            rhs_contract: rc.to_vec(),
            lhs_free,
            rhs_free,
        })
    }
}

/// A contraction by letters: those in both operands and in `want` are batch dims, those in both only are
/// summed. Tries both operand orders for one whose result needs no permutation.
fn einsum<'b>(a: (Val<'b>, &[usize]), b: (Val<'b>, &[usize]), want: &[usize]) -> Val<'b> {
    let (letters, order) = (result_letters(a.1, b.1, want), result_letters(b.1, a.1, want));
    let swap = letters != want && order == want;
    let ((x, lx), (y, ly), letters) = if swap { (b, a, order) } else { (a, b, letters) };
    let at = |letters: &[usize], l: usize| letters.iter().position(|&m| m == l);
    let shared = |keep: bool| {
        let pairs = lx.iter().enumerate().filter(move |(_, l)| want.contains(l) == keep);
        pairs.filter_map(|(i, &l)| Some((i, at(ly, l)?))).unzip::<usize, usize, Vec<_>, Vec<_>>()
    };
    let ((x_batch, y_batch), (x_contract, y_contract)) = (shared(true), shared(false));
    let out = x.dot_general(y, &x_batch, &y_batch, &x_contract, &y_contract);
    let perm: Vec<usize> = want.iter().filter_map(|&l| at(&letters, l)).collect();
    out.permute(&perm)
}

/// Letters of `dot_general`'s result: shared kept ones in the first operand's order, then free ones.
fn result_letters(a: &[usize], b: &[usize], want: &[usize]) -> Vec<usize> {
    let batch = a.iter().filter(|l| b.contains(l) && want.contains(l));
    let free = a.iter().filter(|l| !b.contains(l)).chain(b.iter().filter(|l| !a.contains(l)));
    batch.chain(free).copied().collect()
}

fn samples() -> Vec<Sample> {
    let s = |a: &[usize], b: &[usize], dims: [&[i64]; 4]| Sample {
        attrs: dims.iter().map(|d| ints(d)).collect(),
        ..Sample::new(vec![Gen::normal(a), Gen::normal(b)])
    };
    let mut out = vec![
        // Outer product, inner product, matrix with vector.
        s(&[], &[], [&[], &[], &[], &[]]),
        s(&[3], &[4], [&[], &[], &[], &[]]),
        s(&[17], &[17], [&[], &[], &[0], &[0]]),
        s(&[5, 33], &[33], [&[], &[], &[1], &[0]]),
        s(&[33], &[33, 5], [&[], &[], &[0], &[0]]),
        // The four transpositions of a matrix product.
        s(&[4, 7], &[7, 5], [&[], &[], &[1], &[0]]),
        s(&[4, 7], &[5, 7], [&[], &[], &[1], &[1]]),
        s(&[7, 4], &[7, 5], [&[], &[], &[0], &[0]]),
        s(&[7, 4], &[5, 7], [&[], &[], &[0], &[1]]),
        // Batches, batches out of order, several free and contracted dims.
        s(&[3, 4, 7], &[3, 7, 5], [&[0], &[0], &[2], &[1]]),
        s(&[4, 3, 7], &[7, 5, 3], [&[1], &[2], &[2], &[0]]),
        s(&[2, 3, 4, 5], &[2, 3, 5, 6], [&[0, 1], &[0, 1], &[3], &[2]]),
        s(&[2, 3, 4, 5], &[4, 6, 3], [&[], &[], &[1, 2], &[2, 0]]),
        s(&[2, 3], &[2, 3], [&[0, 1], &[0, 1], &[], &[]]),
        // Nothing to sum, nothing to give.
        s(&[3, 0], &[0, 4], [&[], &[], &[1], &[0]]),
        s(&[0, 3], &[3, 4], [&[], &[], &[1], &[0]]),
        s(&[0, 2, 3], &[0, 3, 4], [&[0], &[0], &[2], &[1]]),
    ];
    out.push(s(&[17, 300], &[300, 33], [&[], &[], &[1], &[0]]).no_grad());
    out
}
