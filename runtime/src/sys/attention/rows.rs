//! The kernels of attention that go along rows: safe loops over 16 lanes, vectorised by LLVM once per level.
//! `FMA` says that the level fuses products and sums. Blocks have rows of `row` numbers of which the first
//! `cols`, a multiple of [`LANES`], are used.

/// Lanes of sums and maxima.
pub const LANES: usize = 16;

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within 2 ulp for `x` up to 88; 0 below -87; NaN stays. Reduction by ln 2 in two parts and the polynomial of
/// Cephes' expf; the power of two is a factor of its own, so that a NaN meets no bit arithmetic.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, 2.121_944_4e-4, fma::<FMA>(n, -0.693_359_4, x));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
        p = fma::<FMA>(p, r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * power }
}

/// The larger of each row's maximum and `top`, into `top`; into `old` what is to be added to scores that were taken
/// relative to the former `top`. NaN counts for nothing.
#[inline(always)]
pub fn maxima<const FMA: bool>(s: &[f32], row: usize, cols: usize, top: &mut [f32], old: &mut [f32]) {
    for ((s, top), old) in s.chunks(row).zip(top).zip(old) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for x in s[..cols].chunks_exact(LANES) {
            for i in 0..LANES {
                lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
            }
        }
        // In memory: the order of the halving below would else become that of the loop above, two lanes a vector.
        let mut lanes = std::hint::black_box(lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
            }
            width /= 2;
        }
        let new = if lanes[0] > *top { lanes[0] } else { *top };
        *old = *top - finite(new);
        *top = new;
    }
}

/// What scores are taken relative to: 0 in a row without a key so far.
#[inline(always)]
fn finite(top: f32) -> f32 {
    if top == f32::NEG_INFINITY { 0.0 } else { top }
}

/// The exponential of each number.
#[inline(always)]
pub fn exps<const FMA: bool>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = exp::<FMA>(*x));
}

/// A copy times a factor.
#[inline(always)]
pub fn scaled<const FMA: bool>(to: &mut [f32], from: &[f32], factor: f32) {
    to.iter_mut().zip(from).for_each(|(t, &x)| *t = x * factor);
}

/// Scores to weights relative to `top`; sums, 16 lanes a row, are scaled and go on.
#[inline(always)]
pub fn weights<const FMA: bool>(s: &mut [f32], row: usize, cols: usize, top: &[f32], scale: &[f32], sums: &mut [f32]) {
    let rows = s.chunks_mut(row).zip(top.iter().zip(scale)).zip(sums.chunks_exact_mut(LANES));
    for ((s, (&top, &scale)), sums) in rows {
        let top = finite(top);
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = sums[i] * scale;
        }
        for x in s[..cols].chunks_exact_mut(LANES) {
            for i in 0..LANES {
                let y = exp::<FMA>(x[i] - top);
                x[i] = y;
                lanes[i] += y;
            }
        }
        sums.copy_from_slice(&lanes);
    }
}

/// Scores to weights by the logarithm of each row's sum.
#[inline(always)]
pub fn weights_of<const FMA: bool>(s: &mut [f32], row: usize, cols: usize, lse: &[f32]) {
    for (s, &lse) in s.chunks_mut(row).zip(lse) {
        for x in s[..cols].chunks_exact_mut(LANES) {
            // No weight exceeds 1 where `lse` is that of the scores; of any other one it may overflow, to infinity.
            x.iter_mut().for_each(|x| *x = exp::<FMA>(if *x - lse > 89.0 { 89.0 } else { *x - lse }));
        }
    }
}

/// `dp = p * (dp - delta)`.
#[inline(always)]
pub fn grads<const FMA: bool>(p: &[f32], dp: &mut [f32], row: usize, cols: usize, delta: &[f32]) {
    for ((p, dp), &delta) in p.chunks(row).zip(dp.chunks_mut(row)).zip(delta) {
        for (dp, &p) in dp[..cols].iter_mut().zip(&p[..cols]) {
            *dp = p * (*dp - delta);
        }
    }
}

/// Products of rows of `out`, `cols` long, and of `ct`, `row` apart, summed in f64 by 16 lanes.
#[inline(always)]
pub fn deltas<const FMA: bool>(out: &[f32], cols: usize, ct: &[f32], row: usize, delta: &mut [f32]) {
    for ((out, ct), delta) in out.chunks_exact(cols).zip(ct.chunks(row)).zip(delta) {
        let mut lanes = [0.0f64; LANES];
        for (o, c) in out.chunks(LANES).zip(ct.chunks(LANES)) {
            for (lane, (&o, &c)) in lanes.iter_mut().zip(o.iter().zip(c)) {
                *lane += f64::from(o) * f64::from(c);
            }
        }
        *delta = lanes.iter().sum::<f64>() as f32;
    }
}

/// Minus infinity where the mask is 0.
#[inline(always)]
pub fn hide<const FMA: bool>(s: &mut [f32], mask: &[u8]) {
    for (s, &m) in s.iter_mut().zip(mask) {
        *s = if m == 0 { f32::NEG_INFINITY } else { *s };
    }
}

/// The mask added.
#[inline(always)]
pub fn add<const FMA: bool>(s: &mut [f32], mask: &[f32]) {
    s.iter_mut().zip(mask).for_each(|(s, &m)| *s += m);
}

/// Words `counter..` of the random stream: 0 where below `limit`, else times `factor`.
#[inline(always)]
pub fn drop_words<const FMA: bool>(s: &mut [f32], seed: u64, counter: u64, limit: f32, factor: f32) {
    for (i, s) in s.iter_mut().enumerate() {
        let word = crate::sys::prims::philox(seed, counter.wrapping_add(i as u64));
        let keeps = (word >> 8) as f32 * (1.0 / 16_777_216.0) >= limit;
        *s = if keeps { *s * factor } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exponentials_are_within_two_ulp() {
        let mut worst = 0.0f64;
        for i in 0..200_000 {
            let x = -87.0 + i as f32 * (97.0 / 200_000.0);
            for got in [exp::<true>(x), exp::<false>(x)] {
                let want = f64::from(x).exp();
                let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
                worst = worst.max((f64::from(got) - want).abs() / ulp);
            }
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!((exp::<true>(0.0), exp::<true>(f32::NEG_INFINITY), exp::<true>(-88.0)), (1.0, 0.0, 0.0));
        assert_eq!((exp::<true>(89.0), exp::<false>(89.0)), (f32::INFINITY, f32::INFINITY));
        let odd = [f32::NAN, f32::from_bits(0x7fc0_0001), f32::from_bits(0xff80_0001)];
        assert!(odd.iter().all(|&x| exp::<true>(x).is_nan()));
    }
}
