//! `pow`: powers.

use super::{binary, binary_samples};
use crate::attr::Scalar;
use crate::builder::Val;
use crate::op::{Cotangents, Gen, OpDef, Sample, Tolerance, Values, Vjp, VjpCall};
use crate::scalar::BinOp;
use smallvec::smallvec;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise `a^b` with the special cases of IEEE 754-2019, 9.2.1 (`a^0` is 1 for every `a`). Integer powers wrap; a negative integer exponent gives 0, except for base 1 and -1.\n\n>>> torsh.pow(torsh.tensor([2., 3.]), 3).tolist()\n[8.0, 27.0]",
    tolerance: Tolerance::FUNCTION,
    vjp: Vjp::Rule(vjp),
    samples: || {
        let mut s = binary_samples(Values::Range(0.2, 4.0), Values::Normal);
        s.push(Sample::new(vec![Gen::normal(&[130]), Gen::of(&[130], Values::Index(5))]).no_grad());
        s
    },
    ..binary("pow", BinOp::Pow)
};

fn vjp<'b>(c: &VjpCall<'b, '_>) -> Cotangents<'b> {
    let (a, b) = (c.x[0], c.x[1]);
    let da = match b.as_full().map(Scalar::as_f64) {
        Some(0.0) => c.ct.zeros_like(),
        Some(1.0) => c.ct,
        Some(2.0) => c.ct * a.scale(2.0),
        Some(k) => c.ct * a.pow(a.full_like(k - 1.0)).scale(k),
        None => d_base(c.ct, a, b),
    };
    smallvec![Some(da), Some(d_exponent(c, a, b))]
}

/// `ct * b * a^(b - 1)`, and 0 at `a = b = 0` (or `a` NaN), where `a^(b - 1)` has its pole. The exponent, not the result,
/// is replaced there, so that no derivative of this meets the pole either.
fn d_base<'b>(ct: Val<'b>, a: Val<'b>, b: Val<'b>) -> Val<'b> {
    let (zero, one) = (b.zeros_like(), b.full_like(1.0));
    let pole = b.eq(zero).bitwise_and(a.abs().gt(zero).not());
    let less_one = pole.select(zero, b - one);
    ct * (b * a.pow(less_one))
}

/// `ct * a^b * log(a)`, and 0 at `a = 0, b >= 0`, where the power decays faster than the logarithm grows.
fn d_exponent<'b>(c: &VjpCall<'b, '_>, a: Val<'b>, b: Val<'b>) -> Val<'b> {
    let zero = a.zeros_like();
    let flat = b.ge(zero).bitwise_and(a.eq(zero));
    c.ct * (c.out * flat.select(a.full_like(1.0), a).log())
}
