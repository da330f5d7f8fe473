//! Integer operations by the policy of `torsh_ir::scalar`: wrapping, and never a trap.

/// Integers of every width.
pub(super) trait Int: Copy {
    fn floor_div(self, b: Self) -> Self;
    fn remainder(self, b: Self) -> Self;
    fn fmod(self, b: Self) -> Self;
    fn power(self, e: Self) -> Self;
    fn shl(self, by: Self) -> Self;
    fn shr(self, by: Self) -> Self;
    fn magnitude(self) -> Self;
    fn sign(self) -> Self;
}

macro_rules! common {
    ($t:ident) => {
        #[inline(always)]
        fn fmod(self, b: $t) -> $t {
            if b == 0 { 0 } else { self.wrapping_rem(b) }
        }
        #[inline(always)]
        fn shl(self, by: $t) -> $t {
            // The shift masks its count; what it gives for a count out of range is masked away.
            let inside = $t::from(by as u64 & !(u64::from($t::BITS) - 1) == 0);
            self.wrapping_shl(by as u32) & inside.wrapping_neg()
        }
    };
}

macro_rules! signed {
    ($($t:ident)*) => { $(impl Int for $t {
        common!($t);
        #[inline(always)]
        fn floor_div(self, b: $t) -> $t {
            if b == 0 {
                return 0;
            }
            let q = self.wrapping_div(b);
            if self.wrapping_rem(b) != 0 && (self < 0) != (b < 0) { q.wrapping_sub(1) } else { q }
        }
        #[inline(always)]
        fn remainder(self, b: $t) -> $t {
            if b == 0 {
                return 0;
            }
            let r = self.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
        }
        fn power(self, e: $t) -> $t {
            if e >= 0 {
                return squarings!($t, self, e);
            }
            match self {
                1 => 1,
                -1 => if e & 1 == 0 { 1 } else { -1 },
                _ => 0,
            }
        }
        #[allow(clippy::manual_range_contains, reason = "`contains` branches, and a loop with branches stays scalar")]
        #[inline(always)]
        fn shr(self, by: $t) -> $t {
            const LAST: $t = $t::BITS as $t - 1;
            // Any larger count fills with the sign, as LAST does.
            let by = if (by < 0) | (by > LAST) { LAST } else { by };
            self.wrapping_shr(by as u32)
        }
        #[inline(always)]
        fn magnitude(self) -> $t {
            self.wrapping_abs()
        }
        #[inline(always)]
        fn sign(self) -> $t {
            $t::from(self > 0).wrapping_sub($t::from(self < 0))
        }
    })* };
}

macro_rules! squarings {
    ($t:ident, $base:expr, $exp:expr) => {{
        let (mut base, mut exp, mut acc): ($t, $t, $t) = ($base, $exp, 1);
        while exp > 0 {
            if exp & 1 == 1 {
                acc = acc.wrapping_mul(base);
            }
            base = base.wrapping_mul(base);
            exp >>= 1;
        }
        acc
    }};
}

signed!(i8 i16 i32 i64);

impl Int for u8 {
    common!(u8);
    #[inline(always)]
    fn floor_div(self, b: u8) -> u8 {
        self.checked_div(b).unwrap_or(0)
    }
    #[inline(always)]
    fn remainder(self, b: u8) -> u8 {
        self.fmod(b)
    }
    fn power(self, e: u8) -> u8 {
        squarings!(u8, self, e)
    }
    #[inline(always)]
    fn shr(self, by: u8) -> u8 {
        if by < 8 { self.wrapping_shr(u32::from(by)) } else { 0 }
    }
    #[inline(always)]
    fn magnitude(self) -> u8 {
        self
    }
    #[inline(always)]
    fn sign(self) -> u8 {
        u8::from(self > 0)
    }
}

/// Word `counter & 3` of the Philox block `counter >> 2` under `seed`, as `torsh_ir::scalar::philox` and
/// without branches. All arithmetic is on 32-bit values in 64 bits, as the vector multiplication wants it.
#[inline(always)]
pub(in crate::sys) fn philox(seed: u64, counter: u64) -> u32 {
    const LOW: u64 = 0xffff_ffff;
    let block = counter >> 2;
    let (mut k0, mut k1) = (seed & LOW, seed >> 32);
    let (mut c0, mut c1, mut c2, mut c3) = (block & LOW, block >> 32, 0u64, 0u64);
    for _ in 0..10 {
        let p0 = c0.wrapping_mul(0xD251_1F53);
        let p1 = c2.wrapping_mul(0xCD9E_8D57);
        (c0, c1, c2, c3) = ((p1 >> 32) ^ c1 ^ k0, p1 & LOW, (p0 >> 32) ^ c3 ^ k1, p0 & LOW);
        k0 = k0.wrapping_add(0x9E37_79B9) & LOW;
        k1 = k1.wrapping_add(0xBB67_AE85) & LOW;
    }
    let even = if counter & 2 == 0 { c0 } else { c2 };
    let odd = if counter & 2 == 0 { c1 } else { c3 };
    (if counter & 1 == 0 { even } else { odd }) as u32
}
