//! `scatter`: one element written per index element.

use super::rules::{combine, dim_attr, index_dtype, mode_attr, position, put_vjp, ravel, same_dtype, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::error::Error;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use crate::program::ScatterMode;

/// The op. Writes are combined one by one and rounded each time, so every executor gives the same bits.
pub static DEF: OpDef = OpDef {
    name: "scatter",
    doc: "`base` with `out[index[i][j]][j] (mode)= src[i][j]` for `dim` 0, and so on. `mode` is `set` (the last \
        write in row-major order of `src` wins), `add`, `prod`, `amax` or `amin`. Index and source have one shape, \
        nowhere larger than the base except along `dim`; indices are int64 and not negative.\n\n\
        >>> torsh.zeros(3).scatter_add(0, torsh.tensor([0, 2, 0]), torsh.ones(3)).tolist()\n[2.0, 0.0, 1.0]",
    kind: Kind::Scatter,
    arity: Arity::Fixed(3),
    attrs: &[attr("dim", AttrKind::Int), attr("mode", AttrKind::Str)],
    infer: |x, a| {
        let dim = dim_attr(a.int(0), x[0].rank())?;
        mode_attr(a.str(1))?;
        index_dtype(&x[1])?;
        same_dtype(&x[0], &x[2])?;
        let (base, index) = (&x[0].shape, &x[1].shape);
        if x[2].shape != *index {
            return Err(Error::shape(format!("index {index} and source {} must have one shape", x[2].shape)));
        }
        if index.rank() != base.rank() || (0..base.rank()).any(|d| d != dim && index[d] > base[d]) {
            return Err(Error::shape(format!(
                "the index must have rank {} and be no larger than {base} except in dim {dim}, got {index}",
                base.rank()
            )));
        }
        Ok(x[0].clone())
    },
    eval: Some(|c| {
        let (dim, mode) = (c.attrs.int(0) as usize, mode_attr(c.attrs.str(1))?);
        let (mut out, index, src) = (c.x[0].clone(), c.x[1], c.x[2]);
        for i in 0..src.len() {
            let mut at = unravel(i, &src.ty.shape);
            at[dim] = position(index.get(i), c.ty.shape[dim], dim, false)?;
            let o = ravel(&at, &c.ty.shape);
            out.set(o, combine(mode, out.get(o), src.get(i), c.ty.dtype));
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| put_vjp(c, "scatter", "gather")),
    samples: || {
        let s = |base: &[usize], index: &[usize], n: usize, dim: i64, mode: ScatterMode| {
            Sample::new(vec![Gen::normal(base), Gen::index(index, n), Gen::normal(index)])
                .attr(Attr::Int(dim))
                .attr(mode.name())
        };
        let mut out = Vec::new();
        for mode in ScatterMode::ALL {
            out.push(s(&[5], &[3], 5, 0, mode));
            out.push(s(&[3], &[17], 3, 0, mode));
            out.push(s(&[5], &[0], 5, 0, mode));
            out.push(s(&[4, 5], &[3, 5], 4, 0, mode));
            out.push(s(&[4, 5], &[2, 9], 5, 1, mode));
            out.push(s(&[2, 3, 4], &[2, 5, 3], 3, 1, mode));
        }
        // Products with one factor zero each.
        let mut zero = s(&[4, 5], &[1, 5], 4, 0, ScatterMode::Prod);
        zero.inputs[2] = Gen::range(&[1, 5], 0.0, 0.0);
        out.push(zero);
        out
    },
    ..BASE
};
