//! `copysign`: one number's size with another's sign.

use super::composite::{float_binary, keep};
use crate::attr::Attr;
use crate::attr::Scalar;
use crate::dtype::DType;
use crate::op::{OpDef, Tolerance, Vjp};
use crate::Val;
use smallvec::smallvec;

/// The op. Only sign bits change: exact.
pub static DEF: OpDef = OpDef {
    doc: "`|a|` with the sign bit of `b`.\n\n\
        >>> torsh.copysign(torsh.tensor([1., 2.]), torsh.tensor([-0., 3.])).tolist()\n[-1.0, 2.0]",
    decompose: Some(|c| {
        let size = c.x[0].abs();
        sign_bit(c.x[1]).select(-size, size)
    }),
    // d a = ct where the signs agree, -ct where they differ, 0 at 0; b only gives a sign.
    vjp: Vjp::Rule(|c| {
        let (a, b) = (c.x[0], c.x[1]);
        let turned = sign_bit(a).ne(sign_bit(b)).select(-c.ct, c.ct);
        smallvec![Some(keep(a.ne(a.zeros_like()), turned)), Some(b.zeros_like())]
    }),
    tolerance: Tolerance::EXACT,
    ..float_binary("copysign")
};

/// Whether the sign bit of a float is set.
fn sign_bit(x: Val<'_>) -> Val<'_> {
    let bits = match x.dtype() {
        DType::F64 => DType::I64,
        DType::F32 => DType::I32,
        _ => DType::I16,
    };
    let bits = x.builder().op("bitcast", &[x], &[Attr::DType(bits)]);
    bits.lt(x.builder().full(Scalar::Int(0), bits.dtype(), &bits.shape()))
}
