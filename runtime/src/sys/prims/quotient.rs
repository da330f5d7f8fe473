//! Python's `a // b` of floats, with the bits of `torsh_ir::scalar`.

/// Floats that have a quotient rounded down.
pub(super) trait Quotient {
    /// Whether `floor(a / b)` may differ from `a // b`: its rounding may have crossed a whole number, or an operand
    /// is infinite, NaN or zero.
    fn near_whole(a: Self, b: Self) -> bool;
    /// `a // b` by its remainder, for any operands.
    fn floor_quotient(a: Self, b: Self) -> Self;
}

macro_rules! quotient {
    ($($t:ident)*) => { $(impl Quotient for $t {
        #[inline(always)]
        fn near_whole(a: $t, b: $t) -> bool {
            // Division is wrong by half of `EPSILON`. Below the bound the remainder's way is exact: what it
            // rounds is less than a half away from the whole number that it comes to.
            const BOUND: $t = 0.125 / $t::EPSILON;
            let q = a / b;
            let whole = q.floor();
            let slack = q.abs() * (2.0 * $t::EPSILON);
            let clear = (q.abs() < BOUND) & (q - whole > slack) & (whole + 1.0 - q > slack);
            !clear
        }

        #[inline(always)]
        fn floor_quotient(a: $t, b: $t) -> $t {
            if b == 0.0 {
                return a / b;
            }
            let r = a % b;
            let mut q = (a - r) / b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) {
                q -= 1.0;
            }
            if q == 0.0 {
                return $t::copysign(0.0, a / b);
            }
            let whole = q.floor();
            if q - whole > 0.5 { whole + 1.0 } else { whole }
        }
    })* };
}
quotient!(f32 f64);

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the short way is taken, it gives what the remainder gives, sign of zero included.
    #[test]
    fn the_short_way_is_taken_where_it_holds() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut short = 0;
        for i in 0..2_000_000 {
            let x = next();
            let (a, b) = match i % 3 {
                0 => (f32::from_bits(x as u32), f32::from_bits((x >> 32) as u32)),
                // Small whole numbers and tenths: many quotients that are nearly whole.
                1 => ((x % 2001) as f32 / 10.0 - 100.0, ((x >> 32) % 201) as f32 / 10.0 - 10.0),
                _ => (f32::from_bits(x as u32 & 0x807f_ffff | 0x4a00_0000), ((x >> 32) % 64) as f32 / 8.0),
            };
            if !f32::near_whole(a, b) {
                short += 1;
                assert_eq!((a / b).floor().to_bits(), f32::floor_quotient(a, b).to_bits(), "{a:e} // {b:e}");
            }
            let (a, b) = (f64::from(a), f64::from(b) * 1.1);
            if !f64::near_whole(a, b) {
                assert_eq!((a / b).floor().to_bits(), f64::floor_quotient(a, b).to_bits(), "{a:e} // {b:e}");
            }
        }
        assert!(short > 500_000, "the short way was taken {short} times");
    }
}
