//! Every rule fires on its example, keeps the meaning on random and special operands, and leaves nothing to
//! simplify. Random graphs do the same for rules in combination.

use super::{rules, run, run_with};
use std::collections::HashSet;
use torsh_ir::attr::{Attr, Scalar};
use torsh_ir::builder::{Builder, Val};
use torsh_ir::dtype::DType::{self, *};
use torsh_ir::graph::Graph;
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::shape::{Shape, Type};

/// A small generator (SplitMix64, Steele et al. 2014): tests must not depend on a crate for noise.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Special and ordinary values, mixed.
pub(crate) fn random(ty: &Type, rng: &mut Rng) -> HostTensor {
    let special =
        [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.5, 1e-40, -1e-310, 3.4e38, 65504.0, 2.0];
    HostTensor::from_fn(ty.clone(), |_| match (ty.dtype.int_range(), rng.below(3)) {
        (Some((lo, hi)), 0) => Scalar::Int([lo, hi, 0, 1, -1, lo + 1][rng.below(6)]),
        (Some(_), 1) => Scalar::Int(rng.next() as i64),
        (Some(_), _) => Scalar::Int(rng.below(21) as i64 - 10),
        (None, 0) => Scalar::Float(special[rng.below(special.len())]),
        (None, _) => Scalar::Float((rng.next() as i64 as f64) / 2f64.powi(61)),
    })
}

pub(crate) fn same_bits(a: &HostTensor, b: &HostTensor) -> bool {
    let nan = |s: Scalar| matches!(s, Scalar::Float(x) if x.is_nan());
    a.ty == b.ty && (0..a.len()).all(|i| a.bits(i) == b.bits(i) || (nan(a.get(i)) && nan(b.get(i))))
}

fn close(a: &HostTensor, b: &HostTensor) -> bool {
    let eps = 2f64.powi(2 - a.dtype().significand().unwrap_or(53) as i32);
    let near = |x: f64, y: f64| (x.is_nan() && y.is_nan()) || x == y || (x - y).abs() <= eps * x.abs().max(1e-300);
    a.ty == b.ty && a.to_f64().into_iter().zip(b.to_f64()).all(|(x, y)| near(x, y))
}

const FLOAT: &[DType] = &[F32, F16, BF16, F64];
const INT: &[DType] = &[I32, U8, I64, I8];
const NUMBER: &[DType] = &[F32, F64, F16, I32, U8];
const BITS: &[DType] = &[I32, U8, Bool];
const BOOL: &[DType] = &[Bool];
const ANY: &[DType] = &[F32, BF16, I64, Bool];

type Build = for<'b> fn(&mut Make<'b>) -> Val<'b>;

/// What the examples are written with.
struct Make<'b> {
    b: &'b Builder,
    dtype: DType,
}

impl<'b> Make<'b> {
    /// The next input, of the dtype under test.
    fn x(&mut self, shape: &[usize]) -> Val<'b> {
        self.b.input(Type::new(self.dtype, Shape::of(shape)))
    }
    fn v(&mut self) -> Val<'b> {
        self.x(&[2, 3])
    }
    fn bool(&mut self) -> Val<'b> {
        self.b.input(Type::new(Bool, Shape::of(&[2, 3])))
    }
    /// A constant of the shape of [`Make::v`].
    fn c(&self, value: f64) -> Val<'b> {
        self.b.full(number(value), self.dtype, &Shape::of(&[2, 3]))
    }
    fn op(&self, name: &str, x: &[Val<'b>], attrs: &[Attr]) -> Val<'b> {
        self.b.op(name, x, attrs)
    }
}

fn number(value: f64) -> Scalar {
    if value.fract() == 0.0 && value.abs() < 1e18 && !(value == 0.0 && value.is_sign_negative()) {
        Scalar::Int(value as i64)
    } else {
        Scalar::Float(value)
    }
}

fn ints(v: &[i64]) -> Attr {
    Attr::from(v)
}

fn pad<'b>(m: &Make<'b>, x: Val<'b>, lo: &[i64], hi: &[i64]) -> Val<'b> {
    let zero = Scalar::Int(0).to_dtype(x.dtype());
    m.op("pad", &[x], &[ints(lo), ints(hi), zero.into()])
}

fn scatter<'b>(m: &Make<'b>, base: Val<'b>, src: Val<'b>, starts: &[i64], stops: &[i64], steps: &[i64]) -> Val<'b> {
    m.op("slice_scatter", &[base, src], &[ints(starts), ints(stops), ints(steps)])
}

fn cast_back<'b>(m: &mut Make<'b>, via: DType) -> Val<'b> {
    let to = m.dtype;
    m.v().cast(via).cast(to)
}

#[allow(clippy::eq_op, reason = "each call of `v` is another input")]
#[rustfmt::skip]
const EXAMPLES: &[(&str, &[DType], Build)] = &[
    ("elementwise_full", NUMBER, |m| m.c(3.0) * m.c(0.5) + m.c(1.0)),
    ("elementwise_full", FLOAT, |m| m.c(3.0).exp().cast(I32)),
    ("elementwise_expand", NUMBER, |m| m.x(&[2, 1]).expand(&[2, 3]) * m.x(&[2, 1]).expand(&[2, 3])),
    ("elementwise_expand", NUMBER, |m| { let x = m.x(&[1, 3]).expand(&[2, 3]); x.lt(m.c(1.0)).select(x, m.c(2.0)) }),
    ("neg_neg", NUMBER, |m| -(-m.v())),
    ("neg_mul_const", NUMBER, |m| -(m.v() * m.c(3.0))),
    ("neg_div_const", FLOAT, |m| -(m.v() / m.c(3.0))),
    ("neg_sub_int", INT, |m| -(m.v() - m.v())),
    ("abs_unsigned", &[U8], |m| m.v().abs()),
    ("abs_abs", &[F32, BF16, I32], |m| m.v().abs().abs()),
    ("abs_neg", &[F32, BF16, I32], |m| (-m.v()).abs()),
    ("sign_sign", NUMBER, |m| m.v().sign().sign()),
    ("not_not", BITS, |m| m.v().not().not()),
    ("not_eq", ANY, |m| m.v().eq(m.v()).not()),
    ("not_eq", ANY, |m| m.v().ne(m.v()).not()),
    ("not_order_int", INT, |m| m.v().lt(m.v()).not()),
    ("not_order_int", INT, |m| m.v().ge(m.v()).not()),
    ("round_int", INT, |m| m.v().floor()),
    ("round_round", FLOAT, |m| m.v().ceil().floor()),
    ("round_cast_int", INT, |m| m.v().cast(F32).round()),
    ("reciprocal_sqrt", &[F32, F64], |m| m.v().sqrt().reciprocal()),
    ("add_const_right", NUMBER, |m| m.c(2.0) + m.v()),
    ("add_zero", INT, |m| m.v() + m.c(0.0)),
    ("add_zero", FLOAT, |m| m.v() + m.c(-0.0)),
    ("add_neg", NUMBER, |m| m.v() + -m.v()),
    ("neg_add", NUMBER, |m| -m.v() + m.v()),
    ("add_add_int", INT, |m| (m.v() + m.c(100.0)) + m.c(29.0)),
    ("add_same_bool", BOOL, |m| { let x = m.v(); x + x }),
    ("add_true", BOOL, |m| m.v() + m.c(1.0)),
    ("sub_zero", NUMBER, |m| m.v() - m.c(0.0)),
    ("zero_sub", INT, |m| m.c(0.0) - m.v()),
    ("zero_sub", FLOAT, |m| m.c(-0.0) - m.v()),
    ("sub_neg", NUMBER, |m| m.v() - -m.v()),
    ("sub_self_int", INT, |m| { let x = m.v(); x - x }),
    ("mul_const_right", NUMBER, |m| m.c(3.0) * m.v()),
    ("mul_one", ANY, |m| m.v() * m.c(1.0)),
    ("mul_zero_int", BITS, |m| m.v() * m.c(0.0)),
    ("mul_minus_one", &[F32, F16, I32, I8], |m| m.v() * m.c(-1.0)),
    ("mul_neg_neg", NUMBER, |m| -m.v() * -m.v()),
    ("mul_neg_const", NUMBER, |m| -m.v() * m.c(3.0)),
    ("mul_mul_int", INT, |m| (m.v() * m.c(100.0)) * m.c(3.0)),
    ("mul_same_bool", BOOL, |m| { let x = m.v(); x * x }),
    ("div_one", FLOAT, |m| m.v() / m.c(1.0)),
    ("div_minus_one", FLOAT, |m| m.v() / m.c(-1.0)),
    ("div_power_of_two", FLOAT, |m| m.v() / m.c(8.0)),
    ("div_power_of_two", FLOAT, |m| m.v() / m.c(-0.25)),
    ("one_div", FLOAT, |m| m.c(1.0) / m.v()),
    ("div_neg_neg", FLOAT, |m| -m.v() / -m.v()),
    ("div_neg_const", FLOAT, |m| -m.v() / m.c(3.0)),
    ("floor_div_one_int", INT, |m| m.v().floor_divide(m.c(1.0))),
    ("remainder_one_int", INT, |m| m.v().remainder(m.c(1.0))),
    ("pow_zero", NUMBER, |m| m.v().pow(m.c(0.0))),
    ("pow_one", NUMBER, |m| m.v().pow(m.c(1.0))),
    ("pow_two_int", INT, |m| m.v().pow(m.c(2.0))),
    ("pow_two", FLOAT, |m| m.v().pow(m.c(2.0))),
    ("pow_minus_one", FLOAT, |m| m.v().pow(m.c(-1.0))),
    ("max_same", NUMBER, |m| { let x = m.v(); x.maximum(x) }),
    ("max_lowest", FLOAT, |m| m.v().maximum(m.c(f64::NEG_INFINITY))),
    ("max_lowest", &[I32], |m| m.c(-2147483648.0).maximum(m.v())),
    ("max_max", NUMBER, |m| { let y = m.v(); m.v().maximum(y).maximum(y) }),
    ("min_same", NUMBER, |m| { let x = m.v(); x.minimum(x) }),
    ("min_highest", FLOAT, |m| m.c(f64::INFINITY).minimum(m.v())),
    ("min_highest", &[U8], |m| m.v().minimum(m.c(255.0))),
    ("min_min", NUMBER, |m| { let y = m.v(); m.v().minimum(y).minimum(y) }),
    ("and_const_right", INT, |m| m.c(6.0).bitwise_and(m.v())),
    ("and_same", BITS, |m| { let x = m.v(); x.bitwise_and(x) }),
    ("and_zero", BITS, |m| m.v().bitwise_and(m.c(0.0))),
    ("and_ones", BOOL, |m| m.v().bitwise_and(m.c(1.0))),
    ("and_ones", &[I32, I64], |m| m.v().bitwise_and(m.c(-1.0))),
    ("or_const_right", INT, |m| m.c(6.0).bitwise_or(m.v())),
    ("or_same", BITS, |m| { let x = m.v(); x.bitwise_or(x) }),
    ("or_zero", BITS, |m| m.v().bitwise_or(m.c(0.0))),
    ("or_ones", &[U8], |m| m.v().bitwise_or(m.c(255.0))),
    ("xor_const_right", INT, |m| m.c(6.0).bitwise_xor(m.v())),
    ("xor_same", BITS, |m| { let x = m.v(); x.bitwise_xor(x) }),
    ("xor_zero", BITS, |m| m.v().bitwise_xor(m.c(0.0))),
    ("xor_ones", &[I8], |m| m.v().bitwise_xor(m.c(-1.0))),
    ("shift_zero", INT, |m| m.v().bitwise_left_shift(m.c(0.0))),
    ("shift_zero", INT, |m| m.v().bitwise_right_shift(m.c(0.0))),
    ("compare_const_right", NUMBER, |m| m.c(2.0).le(m.v())),
    ("compare_const_right", NUMBER, |m| m.c(2.0).gt(m.v())),
    ("compare_same", NUMBER, |m| { let x = m.v(); x.lt(x) }),
    ("compare_same", INT, |m| { let x = m.v(); x.ge(x) }),
    ("compare_bool", BOOL, |m| m.v().eq(m.c(0.0))),
    ("compare_bool", BOOL, |m| m.v().ne(m.c(0.0))),
    ("compare_cast_bool", BOOL, |m| { let x = m.v().cast(F32); x.ne(x.full_like(-0.0)) }),
    ("compare_cast_bool", BOOL, |m| { let x = m.v().cast(U8); x.eq(x.zeros_like()) }),
    ("select_const", ANY, |m| m.b.full(Scalar::Bool(true), Bool, &Shape::of(&[2, 3])).select(m.v(), m.v())),
    ("select_const", ANY, |m| m.b.full(Scalar::Bool(false), Bool, &Shape::of(&[2, 3])).select(m.v(), m.v())),
    ("select_same", ANY, |m| { let x = m.v(); m.bool().select(x, x) }),
    ("select_not", ANY, |m| m.bool().not().select(m.v(), m.v())),
    ("select_true_false", BOOL, |m| m.v().select(m.c(1.0), m.c(0.0))),
    ("select_true_false", BOOL, |m| m.v().select(m.c(0.0), m.c(1.0))),
    ("select_select_left", ANY, |m| { let c = m.bool(); c.select(c.select(m.v(), m.v()), m.v()) }),
    ("select_select_right", ANY, |m| { let c = m.bool(); c.select(m.v(), c.select(m.v(), m.v())) }),
    ("cast_same", ANY, |m| { let d = m.dtype; m.op("cast", &[m.b.input(Type::new(d, Shape::of(&[3])))], &[d.into()]) }),
    ("cast_cast", &[I32, U8, F32, Bool, I8], |m| cast_back(m, F64)),
    ("cast_cast", &[I64, U8, I32], |m| m.v().cast(I16).cast(I8)),
    ("cast_cast", &[F64], |m| m.v().cast(F32).cast(F16)),
    ("cast_cast", &[I16, F16, U8], |m| m.v().cast(F32).cast(I64)),
    ("cast_iota", FLOAT, |m| m.b.iota(1, I64, &Shape::of(&[2, 300])).cast(m.dtype) + m.x(&[2, 300])),
    ("bitcast_same", ANY, |m| { let d = m.dtype; m.op("bitcast", &[m.b.input(Type::new(d, Shape::of(&[3])))], &[d.into()]) }),
    ("bitcast_bitcast", &[F32], |m| { let x = m.v(); let y = m.op("bitcast", &[x], &[I32.into()]); m.op("bitcast", &[y], &[F32.into()]) }),
    ("view_full", ANY, |m| m.c(1.0).reshape(&[3, 2]).permute(&[1, 0]).slice(&[0, 1], &[2, 3], &[1, 1]).flip(&[0])),
    ("view_full", ANY, |m| { let x = m.c(0.0); pad(m, x, &[1, 0], &[0, 2]) }),
    ("reshape_same", ANY, |m| { let x = m.v(); m.op("reshape", &[x], &[ints(&[2, 3])]) }),
    ("reshape_reshape", ANY, |m| m.x(&[4, 6]).reshape(&[2, 12]).reshape(&[8, 3])),
    ("reshape_expand", ANY, |m| m.x(&[2, 1, 1, 3]).expand(&[2, 1, 4, 3]).reshape(&[2, 4, 1, 3])),
    ("permute_reshape", ANY, |m| m.x(&[1, 2, 3]).permute(&[1, 0, 2])),
    ("permute_permute", ANY, |m| m.x(&[2, 3, 4]).permute(&[2, 0, 1]).permute(&[1, 0, 2])),
    ("permute_expand", ANY, |m| m.x(&[2, 1, 3]).expand(&[2, 4, 3]).permute(&[2, 1, 0])),
    ("expand_same", ANY, |m| { let x = m.v(); m.op("expand", &[x], &[ints(&[2, 3])]) }),
    ("expand_expand", ANY, |m| m.x(&[1, 1, 3]).expand(&[1, 2, 3]).expand(&[4, 2, 3])),
    ("slice_all", ANY, |m| m.v().slice(&[0, 0], &[2, 3], &[1, 1])),
    ("slice_normal", ANY, |m| m.x(&[9]).slice(&[1], &[9], &[3])),
    ("slice_normal", ANY, |m| m.x(&[9]).slice(&[7], &[9], &[5])),
    ("slice_slice", ANY, |m| m.x(&[5, 20]).slice(&[1, 2], &[5, 20], &[1, 3]).slice(&[0, 1], &[3, 6], &[2, 2])),
    ("slice_pad", ANY, |m| { let x = m.v(); pad(m, x, &[1, 2], &[3, 0]).slice(&[1, 2], &[3, 5], &[1, 2]) }),
    ("slice_expand", ANY, |m| m.x(&[4, 1]).expand(&[4, 9]).slice(&[1, 2], &[3, 9], &[1, 2])),
    ("slice_concat", ANY, |m| { let p = [m.x(&[2, 3]), m.x(&[2, 4])]; m.b.concat(&p, 1).slice(&[0, 4], &[2, 6], &[1, 1]) }),
    ("slice_scattered", ANY, |m| { let (a, b) = (m.x(&[8]), m.x(&[2])); scatter(m, a, b, &[2], &[6], &[2]).slice(&[2], &[5], &[2]) }),
    ("slice_scattered", ANY, |m| { let (a, b) = (m.x(&[8]), m.x(&[2])); scatter(m, a, b, &[2], &[4], &[1]).slice(&[4], &[8], &[1]) }),
    ("flip_normal", ANY, |m| m.x(&[2, 1, 3]).flip(&[2, 1, 0])),
    ("flip_nothing", ANY, |m| m.v().flip(&[])),
    ("flip_flip", ANY, |m| m.x(&[2, 3, 4]).flip(&[0, 2]).flip(&[1, 2])),
    ("flip_expand", ANY, |m| m.x(&[2, 1]).expand(&[2, 3]).flip(&[0, 1])),
    ("add_strips", NUMBER, |m| { let (x, y) = (m.v(), m.v()); pad(m, x, &[0, 5], &[0, 0]) + pad(m, y, &[0, 1], &[0, 4]) }),
    ("add_strips", NUMBER, |m| { let p = [m.v(), m.c(0.0)]; let y = m.v(); m.b.concat(&p, 0) + pad(m, y, &[2, 0], &[0, 0]) }),
    ("pad_nothing", ANY, |m| { let x = m.v(); pad(m, x, &[0, 0], &[0, 0]) }),
    ("pad_pad", ANY, |m| { let x = m.v(); let y = pad(m, x, &[1, 0], &[0, 2]); pad(m, y, &[0, 3], &[1, 1]) }),
    ("windows_nothing", ANY, |m| { let x = m.v(); m.op("windows", &[x], &[ints(&[]), ints(&[]), ints(&[]), ints(&[])]) }),
    ("windows_one", ANY, |m| { let x = m.v(); m.op("windows", &[x], &[ints(&[1]), ints(&[1]), ints(&[1]), ints(&[4])]) }),
    ("no_elements", ANY, |m| { let p = [m.x(&[0, 3]), m.x(&[0, 2])]; m.b.concat(&p, 1) }),
    ("reduce_empty", NUMBER, |m| m.x(&[2, 0]).sum(&[1])),
    ("reduce_empty", BOOL, |m| m.x(&[2, 0]).reduce("all", &[1])),
    ("reduce_unit_dims", NUMBER, |m| m.x(&[2, 1, 3]).sum(&[2, 1])),
    ("reduce_unit_dims", NUMBER, |m| m.x(&[2, 1]).reduce("prod", &[1])),
    ("reduce_full", NUMBER, |m| m.c(1.0).sum(&[0, 1])),
    ("reduce_full", FLOAT, |m| m.c(0.1).reduce("amax", &[1])),
    ("reduce_full", INT, |m| m.c(3.0).reduce("prod", &[0, 1])),
    ("reduce_expand", NUMBER, |m| m.x(&[2, 1]).expand(&[2, 5]).reduce("amin", &[1])),
    ("sum_expand", &[F32, F16, BF16, I32, U8], |m| m.x(&[3, 1]).expand(&[3, 200]).sum(&[1])),
    ("reduce_reduce_int", INT, |m| m.x(&[2, 3, 4]).sum(&[2]).sum(&[0])),
    ("reduce_reduce_int", BOOL, |m| m.x(&[2, 3]).reduce("any", &[1]).reduce("any", &[0])),
    ("arg_unit_dim", NUMBER, |m| m.x(&[3, 1]).reduce("argmax", &[1])),
    ("arg_full", NUMBER, |m| m.c(2.0).reduce("argmin", &[1])),
    ("scan_unit_dim", NUMBER, |m| { let x = m.x(&[3, 1]); m.op("cumsum", &[x], &[Attr::Int(1)]) }),
    ("concat_one", ANY, |m| { let x = m.v(); m.b.concat(&[x], 0) }),
    ("concat_empty", ANY, |m| { let p = [m.x(&[2, 0]), m.x(&[2, 3]), m.x(&[2, 1])]; m.b.concat(&p, 1) }),
    ("concat_concat", ANY, |m| { let p = [m.v(), m.v()]; let y = m.b.concat(&p, 1); let x = m.v(); m.b.concat(&[x, y], 1) }),
    ("concat_full", ANY, |m| m.b.concat(&[m.c(1.0), m.c(1.0)], 0)),
    ("concat_slices", ANY, |m| { let x = m.x(&[9]); m.b.concat(&[x.slice_dim(0, 1, 4, 1), x.slice_dim(0, 4, 8, 1)], 0) }),
    ("scatter_all", ANY, |m| { let (a, b) = (m.v(), m.v()); scatter(m, a, b, &[0, 0], &[2, 3], &[1, 1]) }),
    ("scatter_nothing", ANY, |m| { let (a, b) = (m.v(), m.x(&[2, 0])); scatter(m, a, b, &[0, 1], &[2, 1], &[1, 1]) }),
    ("scatter_normal", ANY, |m| { let (a, b) = (m.x(&[8]), m.x(&[2])); scatter(m, a, b, &[2], &[6], &[2]) }),
    ("scatter_scatter", ANY, |m| { let (a, b, c) = (m.x(&[8]), m.x(&[2]), m.x(&[2])); let y = scatter(m, a, b, &[2], &[5], &[2]); scatter(m, y, c, &[2], &[5], &[2]) }),
    ("scatter_own_slice", ANY, |m| { let x = m.x(&[8]); scatter(m, x, x.slice_dim(0, 2, 5, 1), &[2], &[5], &[1]) }),
    ("argsort_unit_dim", NUMBER, |m| { let x = m.x(&[3, 1]); m.op("argsort", &[x], &[Attr::Int(1), Attr::Bool(true)]) }),
    ("dot_empty", NUMBER, |m| m.x(&[2, 0]).dot_general(m.x(&[0, 3]), &[], &[], &[1], &[0])),
    ("fold", FLOAT, |m| { let c = data(m); c.exp() + m.x(&[4]) }),
    ("fold", NUMBER, |m| { let c = data(m); c.sum(&[0]) }),
    ("fold", NUMBER, |m| { let c = data(m); c.dot_general(c, &[], &[], &[0], &[0]) }),
];

fn data<'b>(m: &Make<'b>) -> Val<'b> {
    let ty = Type::new(m.dtype, Shape::of(&[4]));
    let bytes = HostTensor::from_fn(ty, |i| Scalar::Int(i as i64)).to_bytes();
    m.op("constant", &[], &[Attr::Bytes(bytes.into()), m.dtype.into(), ints(&[4])])
}

fn example(dtype: DType, build: Build) -> Graph {
    let b = Builder::new(Graph::new());
    let out = build(&mut Make { b: &b, dtype }).id();
    let mut g = b.finish().expect("the example is well formed");
    g.set_outputs(vec![out]);
    g
}

#[test]
fn every_rule_has_one_name_an_equation_and_an_example() {
    let tried: HashSet<&str> = EXAMPLES.iter().map(|e| e.0).collect();
    let mut names = HashSet::new();
    for rule in rules() {
        assert!(names.insert(rule.name), "{} stands twice", rule.name);
        assert!(tried.contains(rule.name), "{} has no example", rule.name);
        assert!(rule.equation.contains(" = ") || rule.equation.contains(": "), "{}", rule.name);
    }
    for name in tried {
        assert!(name == "fold" || names.contains(name), "no rule {name}");
    }
}

#[test]
fn every_rule_fires_on_its_example_and_keeps_the_meaning() {
    let mut rng = Rng(1);
    for &(rule, dtypes, build) in EXAMPLES {
        for &dtype in dtypes {
            let graph = example(dtype, build);
            let (simple, report) = run_with(&graph, 1000).unwrap();
            assert!(report.fired.iter().any(|f| f.0 == rule), "{rule} does not fire on {dtype}: {report:?}");
            assert!(run(simple.clone()).unwrap().same(&simple), "{rule} on {dtype} is not at rest");
            let exact = rules().filter(|r| !r.exact).all(|r| report.fired.iter().all(|f| f.0 != r.name));
            for _ in 0..20 {
                let inputs: Vec<_> = graph.input_types().iter().map(|t| random(t, &mut rng)).collect();
                let want = eval_graph(&graph, &inputs).unwrap();
                let got = eval_graph(&simple, &inputs).unwrap();
                let equal = if exact { same_bits(&want[0], &got[0]) } else { close(&want[0], &got[0]) };
                assert!(equal, "{rule} on {dtype}: {inputs:?} gives {:?}, not {:?}", got[0].to_f64(), want[0].to_f64());
            }
        }
    }
}

#[test]
fn what_is_not_exact_stays() {
    let kept: &[(&str, DType, Build)] = &[
        ("x + 0.0", F32, |m| m.v() + m.c(0.0)),
        ("0.0 - x", F32, |m| m.c(0.0) - m.v()),
        ("x - -0.0", F32, |m| m.v() - m.c(-0.0)),
        ("x * 0", F32, |m| m.v() * m.c(0.0)),
        ("x - x", F32, |m| {
            let x = m.v();
            x - x
        }),
        ("x / x", F32, |m| {
            let x = m.v();
            x / x
        }),
        ("x == x", F32, |m| {
            let x = m.v();
            x.eq(x)
        }),
        ("not (x < y)", F32, |m| m.v().lt(m.v()).not()),
        ("x / 3", F32, |m| m.v() / m.c(3.0)),
        ("x / 2^-126", F16, |m| m.v() / m.c(2f64.powi(-24))),
        ("1 / sqrt(x) in f16", F16, |m| m.v().sqrt().reciprocal()),
        ("(x + 1) + 2", F32, |m| (m.v() + m.c(1.0)) + m.c(2.0)),
        ("narrow and back", I64, |m| m.v().cast(I32).cast(I64)),
        ("through a float and back", I64, |m| m.v().cast(F64).cast(I64)),
        ("wrap or saturate", I32, |m| m.v().cast(F64).cast(I8)),
        ("sum of repeated f64", F64, |m| m.x(&[3, 1]).expand(&[3, 5]).sum(&[1])),
        ("sum of sums", F32, |m| m.v().sum(&[1]).sum(&[0])),
        ("pad with something else", F32, |m| {
            let x = m.c(1.0);
            pad(m, x, &[1, 0], &[0, 0])
        }),
    ];
    for &(what, dtype, build) in kept {
        let (_, report) = run_with(&example(dtype, build), 1000).unwrap();
        assert_eq!(report.steps, 0, "{what}: {report:?}");
    }
}

#[test]
fn inputs_and_outputs_keep_their_places() {
    let b = Builder::new(Graph::new());
    let ty = Type::new(F32, Shape::of(&[4]));
    let (x, y, _unused) = (b.input(ty.clone()), b.input(ty.clone()), b.input(ty));
    let outputs = vec![(y + x).id(), x.id(), (y + x).id(), (-(-y)).id(), (x + y).id()];
    let mut g = b.finish().unwrap();
    g.set_outputs(outputs);
    let s = run(g.clone()).unwrap();
    assert_eq!(s.input_types(), g.input_types());
    let o = s.outputs();
    assert_eq!((o[0], o[1], o[3]), (o[2], s.inputs()[0], s.inputs()[1]));
    // Equal inputs are two inputs, and the order of operands counts.
    assert_ne!(o[0], o[4]);
    assert_eq!(s.len(), 5);
}

#[test]
fn the_step_limit_names_the_last_rules() {
    let graph = example(F32, |m| -(-(-(-(m.v() * m.c(1.0))))));
    let e = run_with(&graph, 2).unwrap_err();
    assert_eq!(e.kind(), torsh_ir::ErrorKind::Internal);
    assert!(e.message().contains("mul_one, neg_neg"), "{e}");
}

#[test]
fn big_constants_are_left_alone() {
    let n = 1 << 16;
    let b = Builder::new(Graph::new());
    let bytes: Vec<u8> = (0..4 * n).map(|i| i as u8).collect();
    let c = b.op("constant", &[], &[Attr::Bytes(bytes.into()), I32.into(), ints(&[n as i64])]);
    let out = [(c + c).id(), b.iota(0, I64, &Shape::of(&[1 << 40])).sum(&[0]).id()];
    let mut g = b.finish().unwrap();
    g.set_outputs(out.to_vec());
    let (s, report) = run_with(&g, 100).unwrap();
    assert_eq!((s.len(), report.steps), (g.len(), 0));
}

#[test]
fn an_index_out_of_range_stays_a_run_time_error() {
    let b = Builder::new(Graph::new());
    let index = b.full(Scalar::Int(7), I64, &Shape::of(&[2]));
    let out = b.op("take", &[b.iota(0, F32, &Shape::of(&[4])), index], &[Attr::Int(0)]).id();
    let empty = b.op("take", &[b.input(Type::new(F32, Shape::of(&[4, 0]))), index], &[Attr::Int(0)]).id();
    let mut g = b.finish().unwrap();
    g.set_outputs(vec![out, empty]);
    let s = run(g).unwrap();
    assert_eq!(s.outputs().iter().filter(|&&o| s.node(o).op.name == "take").count(), 2);
}

#[test]
fn large_sizes_beside_a_zero() {
    let b = Builder::new(Graph::new());
    let huge = 1usize << 29;
    let x = b.input(Type::new(F32, Shape::of(&[huge, huge, 0])));
    let outputs = [
        (x + x).id(),
        x.dot_general(x, &[], &[], &[0, 1, 2], &[0, 1, 2]).id(),
        x.permute(&[2, 0, 1]).flip(&[0, 1]).id(),
        x.slice_dim(0, 5, huge, 3).id(),
    ];
    let mut g = b.finish().expect("zero elements are addressable");
    g.set_outputs(outputs.to_vec());
    let s = run(g).unwrap();
    assert!(s.outputs().iter().all(|&o| s.node(o).op.name == "full"));
}

/// Random expressions over few shapes, so that rules meet each other.
fn random_graph(rng: &mut Rng, dtype: DType) -> Graph {
    let b = Builder::new(Graph::new());
    let mut pool: Vec<Val<'_>> =
        [&[2usize, 3][..], &[2, 1], &[1, 3], &[2, 3]].iter().map(|s| b.input(Type::new(dtype, Shape::of(s)))).collect();
    for value in [0.0, 1.0, -1.0, 2.0, 3.0] {
        pool.push(b.full(Scalar::Float(value), dtype, &Shape::of(&[2, 3])));
    }
    for _ in 0..30 {
        let x = pool[rng.below(pool.len())];
        let same: Vec<_> = pool.iter().copied().filter(|y| y.ty() == x.ty()).collect();
        let y = same[rng.below(same.len())];
        let (rank, shape) = (x.rank(), x.shape());
        let d = rng.below(rank.max(1));
        let new = match rng.below(17) {
            0 => x + y,
            1 => x - y,
            2 => x * y,
            3 => x.maximum(y),
            4 => x.lt(y).select(x, y),
            5 => -x,
            6 => x.abs(),
            7 => x.le(y).not().cast(dtype),
            8 if rank > 0 => x.flip(&[d]),
            9 => x.permute(&(0..rank).rev().collect::<Vec<_>>()),
            10 => x.reshape(&[shape.numel()]).reshape(&[shape.numel(), 1]),
            11 if rank > 0 && shape[d] > 0 => x.slice_dim(d, rng.below(shape[d]), shape[d], 1 + rng.below(2)),
            12 if rank > 0 => x.reduce(["sum", "amax", "prod"][rng.below(3)], &[d]),
            13 => x.expand(&shape.iter().map(|&s| if s == 1 { 3 } else { s }).collect::<Vec<_>>()),
            14 if rank > 0 && shape.numel() < 40 => b.concat(&[x, y], d),
            15 if rank > 0 && shape[d] > 1 => {
                let part = x.slice_dim(d, 0, 1, 1);
                b.op("slice_scatter", &[x, part], &slice_attrs(&shape, d, 1))
            }
            _ if rank > 0 && shape.numel() < 40 => {
                let (lo, hi) = (vec![rng.below(2) as i64; rank], vec![rng.below(2) as i64; rank]);
                b.op("pad", &[x], &[ints(&lo), ints(&hi), Scalar::Int(0).to_dtype(dtype).into()])
            }
            _ => x,
        };
        pool.push(new);
    }
    let outputs = (0..3).map(|i| pool[pool.len() - 1 - i].id()).collect();
    let mut g = b.finish().expect("well formed");
    g.set_outputs(outputs);
    g
}

fn slice_attrs(shape: &Shape, d: usize, start: i64) -> [Attr; 3] {
    let mut starts = vec![0i64; shape.rank()];
    let mut stops: Vec<i64> = shape.iter().map(|&s| s as i64).collect();
    (starts[d], stops[d]) = (start, start + 1);
    [ints(&starts), ints(&stops), ints(&vec![1; shape.rank()])]
}

#[test]
fn random_graphs_keep_their_meaning_and_come_to_rest() {
    let mut rng = Rng(7);
    for round in 0..400 {
        let dtype = [F32, I32, F64, I8, F16, U8][round % 6];
        let seed = rng.0;
        let graph = random_graph(&mut rng, dtype);
        let simple = run(graph.clone()).unwrap();
        assert!(run(simple.clone()).unwrap().same(&simple), "round {round}, seed {seed}: not at rest");
        for _ in 0..3 {
            let inputs: Vec<_> = graph.input_types().iter().map(|t| random(t, &mut rng)).collect();
            let (want, got) = (eval_graph(&graph, &inputs).unwrap(), eval_graph(&simple, &inputs).unwrap());
            for (w, g) in want.iter().zip(&got) {
                assert!(
                    same_bits(w, g),
                    "round {round}, seed {seed}, {dtype}: {:?} is not {:?}",
                    g.to_f64(),
                    w.to_f64()
                );
            }
        }
    }
}

#[test]
fn work_grows_with_the_graph() {
    let steps = |n: usize| {
        let b = Builder::new(Graph::new());
        let x = b.input(Type::new(F32, Shape::of(&[8])));
        let out = (0..n).fold(x, |v, i| -(v * x.full_like(i as f64)) + x.full_like(-0.0)).id();
        let mut g = b.finish().expect("well formed");
        g.set_outputs(vec![out]);
        run_with(&g, u64::MAX).unwrap().1.steps
    };
    assert!(steps(4000) <= 4 * steps(1000) + 16);
}

/// x86-64 sets the sign of the NaN that it makes, 64-bit ARM does not: what is made of a graph must not tell who made it.
#[test]
fn a_nan_that_is_computed_is_the_plain_one() {
    let inf = "%0: f32[2] = full(value=inf)\n %1: f32[2] = full(value=-inf)";
    let data = "%0: f32[2] = constant(data=[-1.0, 4.0])\n %1: f32[2] = constant(data=[inf, -inf])";
    let (plain, cases) = (
        f32::NAN.to_bits(),
        [
            (inf, "f32[2] = add(%0, %1)"),
            (inf, "f32[2] = log(%1)"),
            (inf, "f32[2] = div(%0, %0)"),
            (data, "f32[2] = sqrt(%0)"),
            (data, "f32[1] = sum(%1, dims=[0])"),
            (data, "f32[2] = cumsum(%1, dim=0)"),
        ],
    );
    for (operands, op) in cases {
        let text = format!("graph {{\n {operands}\n %2: {op}\n return %2\n}}\n");
        let graph = run(torsh_ir::text::parse(&text).expect(op)).expect(op);
        let folded = graph.node(graph.outputs()[0]).op.name;
        assert!(["full", "constant"].contains(&folded), "{op} became {folded}");
        let made = eval_graph(&graph, &[]).expect(op).remove(0);
        let nans: Vec<_> = (0..made.len()).filter(|&i| f32::from_bits(made.bits(i) as u32).is_nan()).collect();
        assert!(!nans.is_empty() && nans.iter().all(|&i| made.bits(i) == u64::from(plain)), "{op}: {:x}", made.bits(0));
    }
    // Others stay what they are.
    let other =
        "graph {\n %0: f32[2] = constant(data=[nan:0xffc00001, 1.0])\n %1: f32[2] = neg(%0)\n return %0, %1\n}\n";
    let graph = run(torsh_ir::text::parse(other).expect("it parses")).expect("it runs");
    let bits: Vec<u64> = eval_graph(&graph, &[]).expect("numbers").iter().map(|t| t.bits(0)).collect();
    assert_eq!(bits, [0xffc0_0001, 0x7fc0_0001]);
}
