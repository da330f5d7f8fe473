//! The functions of f32, written out as source text from their one definition in [`crate::cpu::math`], in a language
//! whose words a [`Spelling`] lists.

use crate::cpu::lanes::Lanes;
use crate::cpu::math;
use std::fmt::Write;
use torsh_ir::scalar::UnOp;

/// How a language spells lane arithmetic. Expressions name their operands `$a`, `$b` and `$c`; additions, products,
/// quotients and roots are rounded once each and are not contracted.
pub(crate) struct Spelling {
    /// Type of 32-bit integers.
    pub int: &'static str,
    /// Type of the same bits without a sign.
    pub uint: &'static str,
    /// Type of the results of comparisons.
    pub mask: &'static str,
    /// What stands before and behind the bits of a constant.
    pub constant: [&'static str; 2],
    pub add: &'static str,
    pub sub: &'static str,
    pub mul: &'static str,
    pub div: &'static str,
    pub fma: &'static str,
    pub fnma: &'static str,
    pub sqrt: &'static str,
    /// The bits of a float as an integer.
    pub bits: &'static str,
    /// The float that has such bits.
    pub from_bits: &'static str,
    pub to_float: &'static str,
}

/// The function of f32 that an operation names, with `head` before its bracket; `None` for other operations.
///
/// Sine, cosine and tangent are good up to [`math::TRIG_BOUND`].
pub(crate) fn function(spelling: &Spelling, op: UnOp, head: &str) -> Option<String> {
    let mut t = Text { spelling, out: String::new(), next: 1 };
    let x = V::<'f'>(0);
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
    Some(format!("{head}(const float {}) {{\n{}    return {};\n}}\n", x.name(), t.out, y.name()))
}

/// True for the functions that need another way for large arguments.
pub(crate) fn is_trig(op: UnOp) -> bool {
    matches!(op, UnOp::Sin | UnOp::Cos | UnOp::Tan)
}

/// Writes lane arithmetic as statements, one variable each.
struct Text<'a> {
    spelling: &'a Spelling,
    out: String,
    next: u32,
}

/// A variable; the letter of its name stands for its type.
#[derive(Copy, Clone)]
struct V<const LETTER: char>(u32);

impl<const LETTER: char> V<LETTER> {
    fn name(self) -> String {
        format!("{LETTER}{}", self.0)
    }
}

impl Text<'_> {
    /// The variable that holds an expression.
    fn line<const LETTER: char>(&mut self, expression: &str, operands: &[(&str, String)]) -> V<LETTER> {
        let v = V::<LETTER>(self.next);
        self.next += 1;
        let s = self.spelling;
        let ty = match LETTER {
            'f' => "float",
            'i' => s.int,
            _ => s.mask,
        };
        let mut e = expression.replace("$int", s.int).replace("$uint", s.uint);
        for (place, name) in operands {
            e = e.replace(place, name);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "    const {ty} {} = {e};", v.name());
        v
    }
}

/// One method a line: `name(operands) -> kind, expression`; `s` is the spelling.
macro_rules! written {
    ($s:ident: $($name:ident($($p:ident: $t:ident),*) -> $r:ident, $expression:expr;)*) => {
        $(fn $name(&mut self, $($p: Self::$t),*) -> Self::$r {
            let $s = self.spelling;
            let _ = $s;
            self.line($expression, &[$((concat!("$", stringify!($p)), $p.name())),*])
        })*
    };
}

impl Lanes for Text<'_> {
    type F = V<'f'>;
    type I = V<'i'>;
    type M = V<'m'>;

    fn f(&mut self, c: f32) -> Self::F {
        let [before, behind] = self.spelling.constant;
        self.line(&format!("{before}{:#010x}{behind}", c.to_bits()), &[])
    }
    fn i(&mut self, c: i32) -> Self::I {
        self.line(&format!("($int){:#010x}u", c.cast_unsigned()), &[])
    }
    written! { s:
        add(a: F, b: F) -> F, s.add;
        sub(a: F, b: F) -> F, s.sub;
        mul(a: F, b: F) -> F, s.mul;
        div(a: F, b: F) -> F, s.div;
        fma(a: F, b: F, c: F) -> F, s.fma;
        fnma(a: F, b: F, c: F) -> F, s.fnma;
        sqrt(a: F) -> F, s.sqrt;
        min(a: F, b: F) -> F, "$a < $b ? $a : $b";
        max(a: F, b: F) -> F, "$a > $b ? $a : $b";
        round(a: F) -> F, "rintf($a)";
        lt(a: F, b: F) -> M, "$a < $b";
        le(a: F, b: F) -> M, "$a <= $b";
        eq(a: F, b: F) -> M, "$a == $b";
        ilt(a: I, b: I) -> M, "$a < $b";
        select(m: M, a: F, b: F) -> F, "$m ? $a : $b";
        bits(a: F) -> I, s.bits;
        from_bits(a: I) -> F, s.from_bits;
        to_float(a: I) -> F, s.to_float;
        iadd(a: I, b: I) -> I, "($int)(($uint)$a + ($uint)$b)";
        isub(a: I, b: I) -> I, "($int)(($uint)$a - ($uint)$b)";
        iand(a: I, b: I) -> I, "$a & $b";
        ior(a: I, b: I) -> I, "$a | $b";
        ixor(a: I, b: I) -> I, "$a ^ $b";
    }
    fn shl(&mut self, a: Self::I, n: u32) -> Self::I {
        self.line(&format!("($int)(($uint)$a << {n})"), &[("$a", a.name())])
    }
    fn sar(&mut self, a: Self::I, n: u32) -> Self::I {
        self.line(&format!("$a >> {n}"), &[("$a", a.name())])
    }
    fn shr(&mut self, a: Self::I, n: u32) -> Self::I {
        self.line(&format!("($int)(($uint)$a >> {n})"), &[("$a", a.name())])
    }
}
