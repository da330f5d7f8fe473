//! Rules of elementwise operations. What is exact for floats is so for NaN, infinities and -0.0 too:
//! `x + 0.0` is not `x` (it turns -0.0 into 0.0), `x * 0` is not 0, `x - x` is not 0.

use super::rule::{Rhs, Rule, Term, ap, full, rules, settled, with};
use super::tensor_rules;
use torsh_ir::attr::Scalar;
use torsh_ir::dtype::DType;
use torsh_ir::graph::NodeId;
use torsh_ir::op::{Kind, View};
use torsh_ir::scalar::{BinOp, CmpOp, ScalarOp, UnOp, eval_bin, eval_cmp, eval_un, from_bits, round_to, to_bits};

/// The rules of an elementwise operation, to be tried in order.
pub(super) fn of(op: ScalarOp) -> &'static [Rule] {
    match op {
        ScalarOp::Un(op) => unary(op),
        ScalarOp::Bin(op) => binary(op),
        ScalarOp::Cmp(_) => COMPARE,
        ScalarOp::Select => SELECT,
        ScalarOp::Cast => CAST,
        ScalarOp::Bitcast => BITCAST,
    }
}

fn unary(op: UnOp) -> &'static [Rule] {
    match op {
        UnOp::Neg => NEG,
        UnOp::Abs => ABS,
        UnOp::Sign => SIGN,
        UnOp::Not => NOT,
        UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => ROUNDING,
        UnOp::Recip => RECIPROCAL,
        UnOp::Sqrt
        | UnOp::Rsqrt
        | UnOp::Exp
        | UnOp::Exp2
        | UnOp::Expm1
        | UnOp::Log
        | UnOp::Log2
        | UnOp::Log10
        | UnOp::Log1p
        | UnOp::Sin
        | UnOp::Cos
        | UnOp::Tan
        | UnOp::Asin
        | UnOp::Acos
        | UnOp::Atan
        | UnOp::Sinh
        | UnOp::Cosh
        | UnOp::Tanh
        | UnOp::Asinh
        | UnOp::Acosh
        | UnOp::Atanh
        | UnOp::Erf
        | UnOp::Sigmoid => &[],
    }
}

fn binary(op: BinOp) -> &'static [Rule] {
    match op {
        BinOp::Add => ADD,
        BinOp::Sub => SUB,
        BinOp::Mul => MUL,
        BinOp::Div => DIV,
        BinOp::FloorDiv => FLOOR_DIV,
        BinOp::Rem => REMAINDER,
        BinOp::Pow => POW,
        BinOp::Max => MAX,
        BinOp::Min => MIN,
        BinOp::And => AND,
        BinOp::Or => OR,
        BinOp::Xor => XOR,
        BinOp::Shl | BinOp::Shr => SHIFT,
        BinOp::Fmod | BinOp::Atan2 | BinOp::Philox => &[],
    }
}

/// Every list of this file.
pub(super) static ALL: &[&[Rule]] = &[
    ELEMENTWISE,
    NEG,
    ABS,
    SIGN,
    NOT,
    ROUNDING,
    RECIPROCAL,
    ADD,
    SUB,
    MUL,
    DIV,
    FLOOR_DIV,
    REMAINDER,
    POW,
    MAX,
    MIN,
    AND,
    OR,
    XOR,
    SHIFT,
    COMPARE,
    SELECT,
    CAST,
    BITCAST,
];

rules! {
    /// Tried on every elementwise operation, before its own.
    ELEMENTWISE {
        elementwise_full: "op(full(a), full(b)..) = full(op(a, b..))" => eval_fulls;
        elementwise_expand: "op(expand(x), expand(y)..) = expand(op(x, y..)), x and y of one shape" => through_expand;
    }
    NEG {
        neg_neg: "-(-x) = x" => |t| t.un(t.x(0), UnOp::Neg).map(Rhs::from);
        neg_mul_const: "-(x * c) = x * -c" => |t| scaled(t, "mul", BinOp::Mul);
        neg_div_const: "-(x / c) = x / -c" => |t| scaled(t, "div", BinOp::Div);
        neg_sub_int: "-(x - y) = y - x, integers" => |t| {
            let (x, y) = t.bin(t.x(0), BinOp::Sub).filter(|_| !t.float())?;
            Some(ap("sub", [y.into(), x.into()]))
        };
    }
    ABS {
        abs_unsigned: "abs(x) = x, unsigned and bool" => |t| (!t.dtype().is_signed()).then(|| t.x(0).into());
        abs_abs: "abs(abs(x)) = abs(x)" => |t| t.un(t.x(0), UnOp::Abs).map(|_| t.x(0).into());
        abs_neg: "abs(-x) = abs(x)" => |t| Some(ap("abs", [t.un(t.x(0), UnOp::Neg)?.into()]));
    }
    SIGN {
        sign_sign: "sign(sign(x)) = sign(x)" => |t| t.un(t.x(0), UnOp::Sign).map(|_| t.x(0).into());
    }
    NOT {
        not_not: "not not x = x" => |t| t.un(t.x(0), UnOp::Not).map(Rhs::from);
        not_eq: "not (x == y) = (x != y)" => |t| complement(t, &[CmpOp::Eq, CmpOp::Ne]);
        not_order_int: "not (x < y) = (x >= y), integers" => |t| {
            let x = *t.of(t.x(0)).operands.first()?;
            if t.of(x).ty.dtype.is_float() { None } else { complement(t, CmpOp::ALL) }
        };
    }
    ROUNDING {
        round_int: "floor(x) = x, integers" => |t| (!t.float()).then(|| t.x(0).into());
        round_round: "floor(ceil(x)) = ceil(x), and all such pairs" => |t| {
            let whole = [UnOp::Floor, UnOp::Ceil, UnOp::Round, UnOp::Trunc].iter().any(|&op| t.un(t.x(0), op).is_some());
            whole.then(|| t.x(0).into())
        };
        round_cast_int: "floor(cast(n)) = cast(n), n an integer" => |t| {
            let n = t.cast(t.x(0))?;
            (!t.of(n).ty.dtype.is_float()).then(|| t.x(0).into())
        };
    }
    RECIPROCAL {
        reciprocal_sqrt: "1 / sqrt(x) = rsqrt(x), f32 and f64" => |t| {
            let x = t.un(t.x(0), UnOp::Sqrt).filter(|_| t.dtype().compute() == t.dtype())?;
            Some(ap("rsqrt", [x.into()]))
        };
    }
    ADD {
        add_const_right: "c + x = x + c" => |t| const_right(t, "add");
        add_zero: "x + 0 = x, integers; x + -0.0 = x, floats" => |t| {
            t.is(t.x(1), if t.float() { -0.0 } else { 0.0 }).then(|| t.x(0).into())
        };
        add_neg: "x + -y = x - y" => |t| Some(ap("sub", [t.x(0).into(), t.un(t.x(1), UnOp::Neg)?.into()]));
        neg_add: "-x + y = y - x" => |t| Some(ap("sub", [t.x(1).into(), t.un(t.x(0), UnOp::Neg)?.into()]));
        add_add_int: "(x + a) + b = x + (a + b), integers" => |t| reassociate(t, "add", BinOp::Add);
        add_same_bool: "x + x = x, bool" => |t| (t.dtype() == DType::Bool && t.x(0) == t.x(1)).then(|| t.x(0).into());
        add_strips: near "pad(x; 0) + pad(y; 0) = concat(x, 0.., y), side by side along one dim" => tensor_rules::add_strips;
        add_true: "x + true = true" => |t| (t.dtype() == DType::Bool && t.is(t.x(1), 1.0)).then(|| t.x(1).into());
    }
    SUB {
        sub_zero: "x - 0 = x" => |t| t.is(t.x(1), 0.0).then(|| t.x(0).into());
        zero_sub: "0 - x = -x, integers; -0.0 - x = -x, floats" => |t| {
            t.is(t.x(0), if t.float() { -0.0 } else { 0.0 }).then(|| ap("neg", [t.x(1).into()]))
        };
        sub_neg: "x - -y = x + y" => |t| Some(ap("add", [t.x(0).into(), t.un(t.x(1), UnOp::Neg)?.into()]));
        sub_self_int: "x - x = 0, integers" => |t| (!t.float() && t.x(0) == t.x(1)).then(|| number(t, 0));
    }
    MUL {
        mul_const_right: "c * x = x * c" => |t| const_right(t, "mul");
        mul_one: "x * 1 = x" => |t| t.is(t.x(1), 1.0).then(|| t.x(0).into());
        mul_zero_int: "x * 0 = 0, integers and bool" => |t| (!t.float() && t.is(t.x(1), 0.0)).then(|| t.x(1).into());
        mul_minus_one: "x * -1 = -x" => |t| {
            (t.is(t.x(1), -1.0) && t.dtype() != DType::Bool).then(|| ap("neg", [t.x(0).into()]))
        };
        mul_neg_neg: "-x * -y = x * y" => |t| {
            Some(ap("mul", [t.un(t.x(0), UnOp::Neg)?.into(), t.un(t.x(1), UnOp::Neg)?.into()]))
        };
        mul_neg_const: "-x * c = x * -c" => |t| {
            Some(ap("mul", [t.un(t.x(0), UnOp::Neg)?.into(), negated(t, t.x(1))?]))
        };
        mul_mul_int: "(x * a) * b = x * (a * b), integers" => |t| reassociate(t, "mul", BinOp::Mul);
        mul_same_bool: "x * x = x, bool" => |t| (t.dtype() == DType::Bool && t.x(0) == t.x(1)).then(|| t.x(0).into());
    }
    DIV {
        div_one: "x / 1 = x" => |t| t.is(t.x(1), 1.0).then(|| t.x(0).into());
        div_minus_one: "x / -1 = -x" => |t| t.is(t.x(1), -1.0).then(|| ap("neg", [t.x(0).into()]));
        div_power_of_two: "x / 2^k = x * 2^-k, where 2^-k is representable" => |t| {
            let inverse = inverse_power_of_two(t.full(t.x(1))?, t.dtype())?;
            Some(ap("mul", [t.x(0).into(), full(inverse, t.ty())]))
        };
        one_div: "1 / x = reciprocal(x)" => |t| t.is(t.x(0), 1.0).then(|| ap("reciprocal", [t.x(1).into()]));
        div_neg_neg: "-x / -y = x / y" => |t| {
            Some(ap("div", [t.un(t.x(0), UnOp::Neg)?.into(), t.un(t.x(1), UnOp::Neg)?.into()]))
        };
        div_neg_const: "-x / c = x / -c" => |t| {
            Some(ap("div", [t.un(t.x(0), UnOp::Neg)?.into(), negated(t, t.x(1))?]))
        };
    }
    FLOOR_DIV {
        floor_div_one_int: "x // 1 = x, integers" => |t| (!t.float() && t.is(t.x(1), 1.0)).then(|| t.x(0).into());
    }
    REMAINDER {
        remainder_one_int: "x % 1 = 0, integers" => |t| (!t.float() && t.is(t.x(1), 1.0)).then(|| number(t, 0));
    }
    POW {
        pow_zero: "x^0 = 1" => |t| t.is(t.x(1), 0.0).then(|| number(t, 1));
        pow_one: "x^1 = x" => |t| t.is(t.x(1), 1.0).then(|| t.x(0).into());
        pow_two_int: "x^2 = x * x, integers" => |t| {
            (!t.float() && t.is(t.x(1), 2.0)).then(|| ap("mul", [t.x(0).into(), t.x(0).into()]))
        };
        pow_two: near "x^2 = x * x, floats" => |t| t.is(t.x(1), 2.0).then(|| ap("mul", [t.x(0).into(), t.x(0).into()]));
        pow_minus_one: near "x^-1 = reciprocal(x), floats" => |t| {
            (t.float() && t.is(t.x(1), -1.0)).then(|| ap("reciprocal", [t.x(0).into()]))
        };
    }
    MAX {
        max_same: "max(x, x) = x" => |t| (t.x(0) == t.x(1)).then(|| t.x(0).into());
        max_lowest: "max(x, lowest) = x" => |t| extreme(t, 0);
        max_max: "max(max(x, y), y) = max(x, y)" => |t| {
            t.bin(t.x(0), BinOp::Max).filter(|&(_, y)| y == t.x(1)).map(|_| t.x(0).into())
        };
    }
    MIN {
        min_same: "min(x, x) = x" => |t| (t.x(0) == t.x(1)).then(|| t.x(0).into());
        min_highest: "min(x, highest) = x" => |t| extreme(t, 1);
        min_min: "min(min(x, y), y) = min(x, y)" => |t| {
            t.bin(t.x(0), BinOp::Min).filter(|&(_, y)| y == t.x(1)).map(|_| t.x(0).into())
        };
    }
    AND {
        and_const_right: "c & x = x & c" => |t| const_right(t, "bitwise_and");
        and_same: "x & x = x" => |t| (t.x(0) == t.x(1)).then(|| t.x(0).into());
        and_zero: "x & 0 = 0" => |t| t.is(t.x(1), 0.0).then(|| t.x(1).into());
        and_ones: "x & ~0 = x" => |t| t.all_ones(t.x(1)).then(|| t.x(0).into());
    }
    OR {
        or_const_right: "c | x = x | c" => |t| const_right(t, "bitwise_or");
        or_same: "x | x = x" => |t| (t.x(0) == t.x(1)).then(|| t.x(0).into());
        or_zero: "x | 0 = x" => |t| t.is(t.x(1), 0.0).then(|| t.x(0).into());
        or_ones: "x | ~0 = ~0" => |t| t.all_ones(t.x(1)).then(|| t.x(1).into());
    }
    XOR {
        xor_const_right: "c ^ x = x ^ c" => |t| const_right(t, "bitwise_xor");
        xor_same: "x ^ x = 0" => |t| (t.x(0) == t.x(1)).then(|| number(t, 0));
        xor_zero: "x ^ 0 = x" => |t| t.is(t.x(1), 0.0).then(|| t.x(0).into());
        xor_ones: "x ^ ~0 = not x" => |t| t.all_ones(t.x(1)).then(|| ap("bitwise_not", [t.x(0).into()]));
    }
    SHIFT {
        shift_zero: "x << 0 = x, x >> 0 = x" => |t| t.is(t.x(1), 0.0).then(|| t.x(0).into());
    }
    COMPARE {
        compare_const_right: "c < x = x > c, and all such pairs" => |t| {
            let swap = t.full(t.x(0)).is_some() && t.full(t.x(1)).is_none();
            swap.then(|| Some(ap(mirrored(comparison(t)?).name(), [t.x(1).into(), t.x(0).into()]))).flatten()
        };
        compare_same: "x < x = false, x > x = false; integers: x == x = true ..." => |t| {
            let op = comparison(t).filter(|&op| !t.float() || matches!(op, CmpOp::Lt | CmpOp::Gt))?;
            (t.x(0) == t.x(1)).then(|| number(t, i64::from(matches!(op, CmpOp::Eq | CmpOp::Le | CmpOp::Ge))))
        };
        compare_bool: "x != false = x, x == true = x; x == false = not x, x != true = not x" => |t| {
            let Some(Scalar::Bool(c)) = t.full(t.x(1)) else { return None };
            truth(comparison(t)?, c, t.x(0))
        };
        compare_cast_bool: "cast(b) != 0 = b, cast(b) == 0 = not b, b bool" => |t| {
            let b = t.cast(t.x(0)).filter(|&b| t.of(b).ty.dtype == DType::Bool)?;
            let zero = t.is(t.x(1), 0.0) || t.is(t.x(1), -0.0);
            if zero { truth(comparison(t)?, false, b) } else { None }
        };
    }
    SELECT {
        select_const: "select(true, x, y) = x, select(false, x, y) = y" => |t| match t.full(t.x(0))? {
            Scalar::Bool(true) => Some(t.x(1).into()),
            _ => Some(t.x(2).into()),
        };
        select_same: "select(c, x, x) = x" => |t| (t.x(1) == t.x(2)).then(|| t.x(1).into());
        select_not: "select(not c, x, y) = select(c, y, x)" => |t| {
            Some(ap("select", [t.un(t.x(0), UnOp::Not)?.into(), t.x(2).into(), t.x(1).into()]))
        };
        select_true_false: "select(c, true, false) = c, select(c, false, true) = not c" => |t| {
            match (t.full(t.x(1))?, t.full(t.x(2))?) {
                (Scalar::Bool(true), Scalar::Bool(false)) => Some(t.x(0).into()),
                (Scalar::Bool(false), Scalar::Bool(true)) => Some(ap("bitwise_not", [t.x(0).into()])),
                _ => None,
            }
        };
        select_select_left: "select(c, select(c, x, y), z) = select(c, x, z)" => |t| {
            let inner = arms(t, t.x(1)).filter(|i| i[0] == t.x(0))?;
            Some(ap("select", [t.x(0).into(), inner[1].into(), t.x(2).into()]))
        };
        select_select_right: "select(c, x, select(c, y, z)) = select(c, x, z)" => |t| {
            let inner = arms(t, t.x(2)).filter(|i| i[0] == t.x(0))?;
            Some(ap("select", [t.x(0).into(), t.x(1).into(), inner[2].into()]))
        };
    }
    CAST {
        cast_same: "cast(x) = x, same dtype" => |t| (t.dtype() == t.ty().dtype).then(|| t.x(0).into());
        cast_cast: "cast(cast(x)) = cast(x), where the first loses nothing that the second needs" => |t| {
            let x = t.cast(t.x(0))?;
            let (from, via, to) = (t.of(x).ty.dtype, t.dtype(), t.ty().dtype);
            skips(from, via, to).then(|| with("cast", [x.into()], [to.into()]))
        };
        cast_iota: "cast(iota) = iota of the other dtype, iota i64" => |t| {
            let iota = t.of(t.x(0));
            let fits = iota.op.kind == Kind::Iota && t.dtype() == DType::I64 && t.ty().dtype != DType::Bool;
            fits.then(|| with("iota", [], [iota.attrs[0].clone(), t.ty().dtype.into(), iota.attrs[2].clone()]))
        };
    }
    BITCAST {
        bitcast_same: "bitcast(x) = x, same dtype" => |t| (t.dtype() == t.ty().dtype).then(|| t.x(0).into());
        bitcast_bitcast: "bitcast(bitcast(x)) = bitcast(x), not through bool" => |t| {
            let inner = t.of(t.x(0));
            let bits = inner.op.kind == Kind::Elementwise(ScalarOp::Bitcast) && t.dtype() != DType::Bool;
            bits.then(|| with("bitcast", [inner.operands[0].into()], [t.ty().dtype.into()]))
        };
    }
}

fn eval_fulls(t: &Term<'_>) -> Option<Rhs> {
    let Kind::Elementwise(op) = t.node.op.kind else { return None };
    let mut v = [Scalar::Int(0); 3];
    for (slot, &x) in v.iter_mut().zip(t.operands()) {
        *slot = t.full(x)?;
    }
    let (dtype, out) = (t.dtype(), t.ty().dtype);
    let value = match op {
        // These change the sign alone, of a NaN, too.
        ScalarOp::Un(op @ (UnOp::Neg | UnOp::Abs)) => eval_un(op, v[0], dtype),
        ScalarOp::Un(op) => settled(eval_un(op, v[0], dtype)),
        ScalarOp::Bin(op) => settled(eval_bin(op, v[0], v[1], dtype)),
        ScalarOp::Cmp(op) => Scalar::Bool(eval_cmp(op, v[0], v[1], dtype)),
        ScalarOp::Select => return None,
        ScalarOp::Cast => v[0].to_dtype(out),
        ScalarOp::Bitcast => from_bits(to_bits(v[0], dtype), out),
    };
    Some(full(value, t.ty()))
}

fn through_expand(t: &Term<'_>) -> Option<Rhs> {
    let mut source: Option<&[usize]> = None;
    for &x in t.operands() {
        match t.view(x, View::Expand) {
            Some((from, _)) if source.is_none_or(|s| s == t.dims(from)) => source = Some(t.dims(from)),
            None if t.full(x).is_some() => {}
            _ => return None,
        }
    }
    let source = source?;
    let small = |&x: &NodeId| match (t.view(x, View::Expand), t.full(x)) {
        (Some((from, _)), _) => Some(Box::new(Rhs::from(from))),
        (None, Some(value)) => {
            let mut ty = t.of(x).ty.clone();
            ty.shape = torsh_ir::Shape::of(source);
            Some(Box::new(full(value, &ty)))
        }
        (None, None) => None,
    };
    let x = t.operands().iter().map(small).collect::<Option<_>>()?;
    let inner = Rhs::New { op: t.node.op.0.name, x, attrs: t.node.attrs.clone() };
    Some(with("expand", [inner], [t.ty().shape.dims().into()]))
}

/// An integer as `full` of the term's type.
fn number(t: &Term<'_>, value: i64) -> Rhs {
    full(Scalar::Int(value), t.ty())
}

fn const_right(t: &Term<'_>, op: &'static str) -> Option<Rhs> {
    let swap = t.full(t.x(0)).is_some() && t.full(t.x(1)).is_none();
    swap.then(|| ap(op, [t.x(1).into(), t.x(0).into()]))
}

fn reassociate(t: &Term<'_>, name: &'static str, op: BinOp) -> Option<Rhs> {
    let (x, a) = t.bin(t.x(0), op).filter(|_| !t.float())?;
    let (a, b) = (t.full(a)?, t.full(t.x(1))?);
    Some(ap(name, [x.into(), full(eval_bin(op, a, b, t.dtype()), t.ty())]))
}

fn negated(t: &Term<'_>, c: NodeId) -> Option<Rhs> {
    Some(full(eval_un(UnOp::Neg, t.full(c)?, t.dtype()), t.ty()))
}

fn scaled(t: &Term<'_>, name: &'static str, op: BinOp) -> Option<Rhs> {
    let (x, c) = t.bin(t.x(0), op)?;
    Some(ap(name, [x.into(), negated(t, c)?]))
}

fn inverse_power_of_two(c: Scalar, dtype: DType) -> Option<Scalar> {
    let Scalar::Float(c) = c else { return None };
    let inverse = 1.0 / c;
    let power = c.is_normal() && c.to_bits() << 12 == 0;
    (power && inverse.is_finite() && inverse != 0.0 && round_to(inverse, dtype) == inverse)
        .then_some(Scalar::Float(inverse))
}

/// `x` where the other operand is the neutral element of `max` (`end` 0) or `min` (`end` 1).
fn extreme(t: &Term<'_>, end: usize) -> Option<Rhs> {
    let neutral = match t.dtype().int_range() {
        Some((lo, hi)) => Scalar::Int([lo, hi][end]).to_dtype(t.dtype()),
        None => Scalar::Float([f64::NEG_INFINITY, f64::INFINITY][end]),
    };
    (0..2).find(|&i| t.full(t.x(i)) == Some(neutral)).map(|i| t.x(1 - i).into())
}

fn comparison(t: &Term<'_>) -> Option<CmpOp> {
    match t.node.op.kind {
        Kind::Elementwise(ScalarOp::Cmp(op)) => Some(op),
        _ => None,
    }
}

fn mirrored(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Eq => CmpOp::Eq,
        CmpOp::Ne => CmpOp::Ne,
        CmpOp::Lt => CmpOp::Gt,
        CmpOp::Le => CmpOp::Ge,
        CmpOp::Gt => CmpOp::Lt,
        CmpOp::Ge => CmpOp::Le,
    }
}

fn complement(t: &Term<'_>, allowed: &[CmpOp]) -> Option<Rhs> {
    let inner = t.of(t.x(0));
    let Kind::Elementwise(ScalarOp::Cmp(op)) = inner.op.kind else { return None };
    let opposite = match op {
        CmpOp::Eq => CmpOp::Ne,
        CmpOp::Ne => CmpOp::Eq,
        CmpOp::Lt => CmpOp::Ge,
        CmpOp::Le => CmpOp::Gt,
        CmpOp::Gt => CmpOp::Le,
        CmpOp::Ge => CmpOp::Lt,
    };
    allowed.contains(&op).then(|| ap(opposite.name(), [inner.operands[0].into(), inner.operands[1].into()]))
}

/// `x == c` or `x != c` for a bool `x`.
fn truth(op: CmpOp, c: bool, x: NodeId) -> Option<Rhs> {
    match op {
        CmpOp::Eq if c => Some(x.into()),
        CmpOp::Ne if !c => Some(x.into()),
        CmpOp::Eq | CmpOp::Ne => Some(ap("bitwise_not", [x.into()])),
        CmpOp::Lt | CmpOp::Le | CmpOp::Gt | CmpOp::Ge => None,
    }
}

fn arms<'g>(t: &Term<'g>, id: NodeId) -> Option<&'g [NodeId]> {
    let node = t.of(id);
    (node.op.kind == Kind::Elementwise(ScalarOp::Select)).then_some(node.operands.as_slice())
}

/// Every value of `from` is a value of `to`.
pub(super) fn lossless(from: DType, to: DType) -> bool {
    if from == to || from == DType::Bool {
        return true;
    }
    match (from.int_range(), to.int_range(), from.significand(), to.significand()) {
        (Some((lo, hi)), Some((lo2, hi2)), ..) => lo2 <= lo && hi <= hi2,
        // |lo| is a power of two, hi the largest odd number.
        (Some((_, hi)), None, _, Some(bits)) => 64 - hi.leading_zeros() <= bits,
        (None, None, Some(_), Some(_)) => to == DType::F64 || (to == DType::F32 && from != DType::F64),
        _ => false,
    }
}

/// `cast(cast(x: from) -> via) -> to` has the value of `cast(x: from) -> to`.
fn skips(from: DType, via: DType, to: DType) -> bool {
    let wraps = |d: DType| d.is_int();
    if lossless(from, via) {
        // A float saturates where an integer wraps.
        let saturates = wraps(from) && via.is_float() && wraps(to);
        return !saturates || lossless(from, to);
    }
    // Wrapping twice is wrapping once to the narrower; the 16-bit floats are rounded from f32 anyway.
    (wraps(from) && wraps(via) && wraps(to) && to.size() <= via.size())
        || (from == DType::F64 && via == DType::F32 && matches!(to, DType::F16 | DType::BF16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lossless_is_what_the_values_say() {
        for from in DType::ALL {
            for to in DType::ALL {
                let probes: Vec<Scalar> = match from.int_range() {
                    Some((lo, hi)) => {
                        [lo, hi, hi - 1, hi / 2 + 1, 1, 0].iter().map(|&i| Scalar::Int(i).to_dtype(from)).collect()
                    }
                    None => [
                        f64::MAX,
                        f64::MIN_POSITIVE,
                        1.0 + f64::EPSILON,
                        65504.0,
                        2049.0,
                        257.0,
                        3.0e38,
                        1e-40,
                        1.0 / 3.0,
                    ]
                    .iter()
                    .map(|&x| Scalar::Float(x).to_dtype(from))
                    .collect(),
                };
                let kept = probes.iter().all(|&p| {
                    let there = p.to_dtype(to);
                    there.as_f64() == p.as_f64() && there.to_dtype(from) == p && (to != DType::Bool || from == to)
                });
                assert_eq!(lossless(from, to), kept, "{from} to {to}");
            }
        }
    }
}
