//! The functions of f32, written out as C from their one definition in [`crate::cpu::math`].

use crate::cpu::lanes::Lanes;
use crate::cpu::math;
use std::fmt::Write;
use torsh_ir::scalar::UnOp;

/// Writes lane arithmetic as C statements, one variable each.
#[derive(Default)]
struct Text {
    out: String,
    next: u32,
}

/// A `float` variable.
#[derive(Copy, Clone)]
struct F(u32);
/// An `int32_t` variable.
#[derive(Copy, Clone)]
struct I(u32);
/// An `int` variable that holds 0 or 1.
#[derive(Copy, Clone)]
struct M(u32);

impl Text {
    fn line(&mut self, ty: &str, letter: char, e: std::fmt::Arguments<'_>) -> u32 {
        let n = self.next;
        self.next += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "    const {ty} {letter}{n} = {e};");
        n
    }
}

/// One method a line: `name(operands) -> kind "format" (arguments)`.
macro_rules! written {
    ($($name:ident($($p:ident: $t:ident),*) -> $r:ident $format:literal;)*) => {
        $(fn $name(&mut self, $($p: $t),*) -> $r {
            $(let $p = $p.0;)*
            $r(self.line(written!(@ty $r), written!(@letter $r), format_args!($format)))
        })*
    };
    (@ty F) => { "float" };
    (@ty I) => { "int32_t" };
    (@ty M) => { "int" };
    (@letter F) => { 'f' };
    (@letter I) => { 'i' };
    (@letter M) => { 'm' };
}

impl Lanes for Text {
    type F = F;
    type I = I;
    type M = M;

    fn f(&mut self, c: f32) -> F {
        F(self.line("float", 'f', format_args!("t_float({:#010x}u)", c.to_bits())))
    }
    fn i(&mut self, c: i32) -> I {
        I(self.line("int32_t", 'i', format_args!("(int32_t){:#010x}u", c.cast_unsigned())))
    }
    written! {
        add(a: F, b: F) -> F "f{a} + f{b}";
        sub(a: F, b: F) -> F "f{a} - f{b}";
        mul(a: F, b: F) -> F "f{a} * f{b}";
        div(a: F, b: F) -> F "f{a} / f{b}";
        fma(a: F, b: F, c: F) -> F "fmaf(f{a}, f{b}, f{c})";
        fnma(a: F, b: F, c: F) -> F "fmaf(-f{a}, f{b}, f{c})";
        sqrt(a: F) -> F "sqrtf(f{a})";
        min(a: F, b: F) -> F "f{a} < f{b} ? f{a} : f{b}";
        max(a: F, b: F) -> F "f{a} > f{b} ? f{a} : f{b}";
        round(a: F) -> F "rintf(f{a})";
        lt(a: F, b: F) -> M "f{a} < f{b}";
        le(a: F, b: F) -> M "f{a} <= f{b}";
        eq(a: F, b: F) -> M "f{a} == f{b}";
        ilt(a: I, b: I) -> M "i{a} < i{b}";
        select(m: M, a: F, b: F) -> F "m{m} ? f{a} : f{b}";
        bits(a: F) -> I "(int32_t)t_bits(f{a})";
        from_bits(a: I) -> F "t_float((uint32_t)i{a})";
        to_float(a: I) -> F "(float)i{a}";
        iadd(a: I, b: I) -> I "(int32_t)((uint32_t)i{a} + (uint32_t)i{b})";
        isub(a: I, b: I) -> I "(int32_t)((uint32_t)i{a} - (uint32_t)i{b})";
        iand(a: I, b: I) -> I "i{a} & i{b}";
        ior(a: I, b: I) -> I "i{a} | i{b}";
        ixor(a: I, b: I) -> I "i{a} ^ i{b}";
    }
    fn shl(&mut self, a: I, n: u32) -> I {
        I(self.line("int32_t", 'i', format_args!("(int32_t)((uint32_t)i{} << {n})", a.0)))
    }
    fn sar(&mut self, a: I, n: u32) -> I {
        I(self.line("int32_t", 'i', format_args!("i{} >> {n}", a.0)))
    }
    fn shr(&mut self, a: I, n: u32) -> I {
        I(self.line("int32_t", 'i', format_args!("(int32_t)((uint32_t)i{} >> {n})", a.0)))
    }
}

/// The function of f32 that an operation names, as a C function `t_<name>_f32`; `None` for other operations.
///
/// Sine, cosine and tangent are good up to [`math::TRIG_BOUND`].
pub(super) fn function(op: UnOp) -> Option<String> {
    let mut t = Text { out: String::new(), next: 1 };
    let x = F(0);
    let l = &mut t;
    let y = match op {
        UnOp::Exp => math::exp(l, x),
        UnOp::Exp2 => math::exp2(l, x),
        UnOp::Expm1 => math::expm1(l, x),
        UnOp::Log => math::log(l, x),
        UnOp::Log2 => math::log2(l, x),
        UnOp::Log10 => math::log10(l, x),
        UnOp::Log1p => math::log1p(l, x),
        UnOp::Sin => math::sin(l, x),
        UnOp::Cos => math::cos(l, x),
        UnOp::Tan => math::tan(l, x),
        UnOp::Asin => math::asin(l, x),
        UnOp::Acos => math::acos(l, x),
        UnOp::Atan => math::atan(l, x),
        UnOp::Sinh => math::sinh(l, x),
        UnOp::Cosh => math::cosh(l, x),
        UnOp::Tanh => math::tanh(l, x),
        UnOp::Asinh => math::asinh(l, x),
        UnOp::Acosh => math::acosh(l, x),
        UnOp::Atanh => math::atanh(l, x),
        UnOp::Erf => math::erf(l, x),
        UnOp::Sigmoid => math::sigmoid(l, x),
        UnOp::Neg
        | UnOp::Abs
        | UnOp::Sign
        | UnOp::Not
        | UnOp::Floor
        | UnOp::Ceil
        | UnOp::Round
        | UnOp::Trunc
        | UnOp::Sqrt
        | UnOp::Rsqrt
        | UnOp::Recip => return None,
    };
    Some(format!("T_INLINE float t_{}_f32(const float f0) {{\n{}    return f{};\n}}\n", op.name(), t.out, y.0))
}

/// True for the functions that need another way for large arguments.
pub(super) fn is_trig(op: UnOp) -> bool {
    matches!(op, UnOp::Sin | UnOp::Cos | UnOp::Tan)
}
