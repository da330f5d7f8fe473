//! Random tensors, reproducible from a seed.

use torsh_ir::interp::HostTensor;
use torsh_ir::op::{Gen, Values};
use torsh_ir::scalar::{from_bits, to_bits};
use torsh_ir::{DType, Scalar, Shape, Type};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream per seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }
    /// 64 random bits.
    #[allow(clippy::should_implement_trait, reason = "a generator of numbers, not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform in `0..n`; 0 for `n == 0`.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
    /// Uniform in `lo..=hi`.
    pub fn range(&mut self, lo: i64, hi: i64) -> i64 {
        lo + self.below((hi - lo + 1) as usize) as i64
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// About standard normal: a sum of twelve uniforms.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
    /// One of a non-empty list.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// A tensor as a sample describes it; `dtype` is the dtype under test.
pub fn tensor(generator: &Gen, dtype: DType, rng: &mut Rng) -> HostTensor {
    let ty = Type::new(generator.dtype.unwrap_or(dtype), Shape::of(&generator.shape));
    fill(ty, &generator.values, rng)
}

/// A tensor of a type with values of a kind.
pub fn fill(ty: Type, values: &Values, rng: &mut Rng) -> HostTensor {
    let dtype = ty.dtype;
    match values {
        Values::Normal => HostTensor::from_fn(ty, |_| match dtype {
            DType::Bool => Scalar::Bool(rng.one_in(2)),
            DType::U8 => Scalar::Int(rng.range(0, 9)),
            d if d.is_int() => Scalar::Int(rng.range(-9, 9)),
            _ => Scalar::Float(rng.normal()),
        }),
        Values::Range(lo, hi) => HostTensor::from_fn(ty, |_| {
            let x = lo + (hi - lo) * rng.uniform();
            if dtype.is_float() { Scalar::Float(x) } else { Scalar::Int(x.round() as i64) }
        }),
        Values::Index(n) => HostTensor::from_fn(ty, |_| Scalar::Int(rng.below(*n) as i64)),
        Values::Distinct => {
            let n = ty.numel();
            let mut order: Vec<i64> = (0..n as i64).map(|i| i - n as i64 / 2).collect();
            rng.shuffle(&mut order);
            HostTensor::from_fn(ty, |i| match dtype {
                DType::Bool => Scalar::Bool(order[i] % 2 == 0),
                d if d.is_int() => Scalar::Int(order[i]),
                _ => Scalar::Float(order[i] as f64 * 0.5),
            })
        }
        Values::Special => special(ty, rng),
        Values::Permutation => {
            let n = ty.shape.last().copied().unwrap_or(1).max(1);
            let mut order: Vec<i64> = (0..n as i64).collect();
            HostTensor::from_fn(ty, |i| {
                if i % n == 0 {
                    rng.shuffle(&mut order);
                }
                Scalar::Int(order[i % n])
            })
        }
    }
}

/// Infinities, NaN, signed zeros, denormals, integer extremes, among ordinary values.
fn special(ty: Type, rng: &mut Rng) -> HostTensor {
    let dtype = ty.dtype;
    let mut out = HostTensor::zeros(ty);
    for i in 0..out.len() {
        let bits = match dtype.int_range() {
            Some((lo, hi)) => {
                let small = rng.range(-3, 3);
                let near = [lo, hi, lo + 1, hi - 1, 0, 1, small];
                to_bits(Scalar::Int(*rng.pick(&near)).to_dtype(dtype), dtype)
            }
            None => special_float(dtype, rng),
        };
        out.set_bits(i, bits);
    }
    out
}

fn special_float(dtype: DType, rng: &mut Rng) -> u64 {
    let top = 8 * dtype.size() - 1;
    let infinity = to_bits(Scalar::Float(f64::INFINITY), dtype);
    let sign = (rng.next() & 1) << top;
    match rng.below(10) {
        0 => infinity | sign,
        1 => to_bits(Scalar::Float(f64::NAN), dtype),
        2 => sign,
        // The smallest denormal, the largest one, the largest finite number.
        3 => sign | 1,
        4 => sign | ((1 << (dtype.significand().unwrap_or(1) - 1)) - 1),
        5 => sign | (infinity - 1),
        6 => to_bits(Scalar::Float(rng.normal().round()), dtype),
        // Any finite magnitude.
        7 => sign | (rng.next() % infinity),
        _ => to_bits(Scalar::Float(rng.normal()), dtype),
    }
}

/// The element at a position, for messages.
pub fn show(t: &HostTensor, i: usize) -> String {
    let value = from_bits(t.bits(i), t.dtype());
    match value {
        Scalar::Bool(b) => b.to_string(),
        Scalar::Int(v) => v.to_string(),
        Scalar::Float(x) => format!("{x:e}"),
    }
}
