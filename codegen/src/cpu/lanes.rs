//! Lane arithmetic: what the transcendental functions of `math` are written in.
//!
//! One function body serves both sides: the runtime evaluates it on plain numbers in loops that LLVM
//! vectorises (the block primitives), the vector code generator records it as instructions. Both give the
//! same bits, because every operation here is one correctly rounded IEEE operation or an exact one.

/// 32-bit lanes. `F` holds f32, `I` the same register seen as i32, `M` a truth value a lane.
///
/// No operation traps; integer operations wrap. Shift counts are constants below 32.
pub trait Lanes {
    /// f32 lanes.
    type F: Copy;
    /// i32 lanes.
    type I: Copy;
    /// Truth values.
    type M: Copy;

    /// A constant.
    fn f(&mut self, c: f32) -> Self::F;
    /// A constant.
    fn i(&mut self, c: i32) -> Self::I;

    /// `a + b`.
    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(&mut self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fnma(&mut self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Square root.
    fn sqrt(&mut self, a: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` when either is NaN (x86 `minps`).
    fn min(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` when either is NaN (x86 `maxps`).
    fn max(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(&mut self, a: Self::F) -> Self::F;

    /// `a < b`, false for NaN.
    fn lt(&mut self, a: Self::F, b: Self::F) -> Self::M;
    /// `a <= b`, false for NaN.
    fn le(&mut self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`, false for NaN.
    fn eq(&mut self, a: Self::F, b: Self::F) -> Self::M;
    /// `a < b` as signed integers.
    fn ilt(&mut self, a: Self::I, b: Self::I) -> Self::M;
    /// `if m { a } else { b }`.
    fn select(&mut self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// The bits.
    fn bits(&mut self, a: Self::F) -> Self::I;
    /// The number of these bits.
    #[allow(clippy::wrong_self_convention, reason = "the method converts a lane, not the evaluator")]
    fn from_bits(&mut self, a: Self::I) -> Self::F;
    /// Conversion of an integer, rounded to nearest even.
    fn to_float(&mut self, a: Self::I) -> Self::F;
    /// `a + b`.
    fn iadd(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`.
    fn isub(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise and.
    fn iand(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn ior(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    fn ixor(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// Shift left.
    fn shl(&mut self, a: Self::I, n: u32) -> Self::I;
    /// Arithmetic shift right.
    fn sar(&mut self, a: Self::I, n: u32) -> Self::I;
    /// Logical shift right.
    fn shr(&mut self, a: Self::I, n: u32) -> Self::I;

    /// `y * 2^n` with one rounding, for a whole number -254 < n < 256 and y of moderate size, or both NaN. `shifted`
    /// holds `n + 254` in its low bits.
    fn scale(&mut self, y: Self::F, n: Self::F, shifted: Self::I) -> Self::F {
        let _ = n;
        by_factors(self, y, shifted)
    }
    /// `|a|`.
    fn abs(&mut self, a: Self::F) -> Self::F {
        let (a, mask) = (self.bits(a), self.i(0x7fff_ffff));
        let a = self.iand(a, mask);
        self.from_bits(a)
    }
    /// `-a`, of NaN and zero too.
    fn neg(&mut self, a: Self::F) -> Self::F {
        let (a, sign) = (self.bits(a), self.i(i32::MIN));
        let a = self.ixor(a, sign);
        self.from_bits(a)
    }
    /// `|a|` with the sign of `s`.
    fn copysign(&mut self, a: Self::F, s: Self::F) -> Self::F {
        let (sign, mask) = (self.i(i32::MIN), self.i(0x7fff_ffff));
        let (a, s) = (self.bits(a), self.bits(s));
        let (a, s) = (self.iand(a, mask), self.iand(s, sign));
        let a = self.ior(a, s);
        self.from_bits(a)
    }
}

/// [`Lanes::scale`] by two factors, as 2^n itself may be no number.
#[inline(always)]
pub(super) fn by_factors<L: Lanes + ?Sized>(l: &mut L, y: L::F, shifted: L::I) -> L::F {
    let half = l.shr(shifted, 1);
    let rest = l.isub(shifted, half);
    let (a, b) = (l.shl(half, 23), l.shl(rest, 23));
    let (a, b) = (l.from_bits(a), l.from_bits(b));
    let y = l.mul(y, a);
    l.mul(y, b)
}
