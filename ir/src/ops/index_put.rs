//! `index_put`: rows written by number.

use super::rules::{combine, dim_attr, index_vector, mode_attr, position, put_vjp, ravel, same_dtype, unravel};
use super::{BASE, attr};
use crate::attr::{Attr, AttrKind, AttrsExt};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::{Arity, Gen, Kind, OpDef, Sample, Vjp};
use crate::program::ScatterMode;

/// The op. Writes are combined one by one and rounded each time, so every executor gives the same bits.
pub static DEF: OpDef = OpDef {
    name: "index_put",
    doc: "`base` with `out[.., index[j], ..] (mode)= src[.., j, ..]` along `dim`. `mode` is `set` (the last write \
        wins), `add`, `prod`, `amax` or `amin`. The index is 1-d int64 and counts from the end where negative.\n\n\
        >>> torsh.zeros(3).index_add(0, torsh.tensor([1, 1]), torsh.tensor([2., 3.])).tolist()\n[0.0, 5.0, 0.0]",
    kind: Kind::IndexPut,
    arity: Arity::Fixed(3),
    attrs: &[attr("dim", AttrKind::Int), attr("mode", AttrKind::Str)],
    infer: |x, a| {
        let dim = dim_attr(a.int(0), x[0].rank())?;
        mode_attr(a.str(1))?;
        same_dtype(&x[0], &x[2])?;
        let mut sizes = x[0].shape.to_vec();
        sizes[dim] = index_vector(&x[1])?;
        if x[2].shape.dims() != sizes.as_slice() {
            return Err(Error::shape(format!("the source must have shape {sizes:?}, got {}", x[2].shape)));
        }
        Ok(x[0].clone())
    },
    eval: Some(|c| {
        let (dim, mode) = (c.attrs.int(0) as usize, mode_attr(c.attrs.str(1))?);
        let (mut out, index, src) = (c.x[0].clone(), c.x[1], c.x[2]);
        let size = c.ty.shape[dim];
        let rows = (0..index.len()).map(|j| position(index.get(j), size, dim, true));
        let rows = rows.collect::<crate::Result<Vec<usize>>>()?;
        for i in 0..src.len() {
            let mut at = unravel(i, &src.ty.shape);
            at[dim] = rows[at[dim]];
            let o = ravel(&at, &c.ty.shape);
            out.set(o, combine(mode, out.get(o), src.get(i), c.ty.dtype));
        }
        Ok(out)
    }),
    vjp: Vjp::Rule(|c| put_vjp(c, "index_put", "take")),
    samples: || {
        let s = |base: &[usize], index: Gen, dim: usize, mode: ScatterMode| {
            let mut src = base.to_vec();
            src[dim] = index.shape[0];
            Sample::new(vec![Gen::normal(base), index, Gen::normal(&src)]).attr(Attr::Int(dim as i64)).attr(mode.name())
        };
        let mut out = Vec::new();
        for mode in ScatterMode::ALL {
            out.push(s(&[5], Gen::index(&[3], 5), 0, mode));
            out.push(s(&[3], Gen::index(&[17], 3), 0, mode));
            out.push(s(&[5], Gen::index(&[0], 5), 0, mode));
            out.push(s(&[5], Gen::range(&[4], -5.0, 4.0).dtype(DType::I64), 0, mode));
            out.push(s(&[4, 17], Gen::index(&[6], 4), 0, mode));
            out.push(s(&[4, 5], Gen::index(&[9], 5), 1, mode));
            out.push(s(&[2, 3, 4], Gen::index(&[5], 3), 1, mode));
            out.push(s(&[3, 0], Gen::index(&[2], 3), 0, mode));
        }
        out
    },
    ..BASE
};
