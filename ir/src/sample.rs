//! Sample values: turns the samples of op files into tensors. Forward, gradient, dtype and backend tests all
//! draw from here, so that a failure in one can be repeated in another: the same seed gives the same values.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::interp::HostTensor;
use crate::op::{Gen, Op, Sample, Values};
use crate::scalar::philox;
use crate::shape::{Shape, Type};

/// Random numbers out of a seed: Philox, one word at a time.
pub struct Random {
    seed: u64,
    counter: u64,
}

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random { seed, counter: 0 }
    }
    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        self.counter += 1;
        philox(self.seed, self.counter - 1)
    }
    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        let high = u64::from(self.word()) << 21;
        (high | u64::from(self.word()) >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Uniform in `0..n`; 0 for `n = 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }
    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
    /// A permutation of `0..n` (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// One tensor per operand of a sample, at the dtype under test.
pub fn inputs(sample: &Sample, dtype: DType, seed: u64) -> Vec<HostTensor> {
    let mut random = Random::new(seed);
    sample.inputs.iter().map(|g| fill(g, dtype, &mut random)).collect()
}

/// A graph of one application on as many inputs, and its node.
pub fn graph(op: Op, sample: &Sample, dtype: DType) -> Result<(Graph, NodeId)> {
    let mut graph = Graph::new();
    let operands: Vec<NodeId> = sample
        .inputs
        .iter()
        .map(|g| Ok(graph.input(Type::new(g.dtype.unwrap_or(dtype), Shape::new(&g.shape)?))))
        .collect::<Result<_>>()?;
    let node = graph.apply(op, &operands, sample.attrs.clone())?;
    graph.set_outputs(vec![node]);
    Ok((graph, node))
}

/// The tensor that one input of a sample describes.
pub fn fill(input: &Gen, dtype: DType, random: &mut Random) -> HostTensor {
    let dtype = input.dtype.unwrap_or(dtype);
    let ty = Type::new(dtype, Shape::of(&input.shape));
    let n = ty.numel();
    let order = match input.values {
        Values::Distinct => random.permutation(n),
        Values::Permutation => {
            let row = input.shape.last().copied().unwrap_or(1);
            (0..n.checked_div(row).unwrap_or(0)).flat_map(|_| random.permutation(row)).collect()
        }
        Values::Normal | Values::Range(..) | Values::Index(_) | Values::Special => Vec::new(),
    };
    HostTensor::from_fn(ty, |i| match input.values {
        Values::Normal => normal(dtype, random),
        Values::Range(lo, hi) => range(lo, hi, dtype, random),
        Values::Index(n) => Scalar::Int(random.below(n) as i64),
        Values::Distinct if dtype.is_float() => Scalar::Float((order[i] as f64 - (n / 2) as f64) * 0.5),
        Values::Distinct => Scalar::Int(order[i] as i64 - if dtype.is_signed() { (n / 2) as i64 } else { 0 }),
        Values::Special => special(dtype, random),
        Values::Permutation => Scalar::Int(order[i] as i64),
    })
}

fn normal(dtype: DType, random: &mut Random) -> Scalar {
    match dtype {
        DType::Bool => Scalar::Bool(random.word() & 1 == 1),
        d if d.is_float() => Scalar::Float(random.normal()),
        DType::U8 => Scalar::Int((3.0 * random.normal()).abs() as i64),
        _ => Scalar::Int((3.0 * random.normal()).round() as i64),
    }
}

/// Whole numbers of the range for integers; a range without one gives the nearest to its start.
fn range(lo: f64, hi: f64, dtype: DType, random: &mut Random) -> Scalar {
    match dtype.int_range() {
        None => Scalar::Float(lo + (hi - lo) * random.unit()),
        Some(_) if dtype == DType::Bool => Scalar::Bool(random.word() & 1 == 1),
        Some((min, max)) => {
            let (first, last) = ((lo.ceil() as i64).max(min), (hi.floor() as i64).min(max));
            let count = last.saturating_sub(first).saturating_add(1).max(1);
            Scalar::Int(first + random.below(count as usize) as i64)
        }
    }
}

fn special(dtype: DType, random: &mut Random) -> Scalar {
    if random.below(3) == 0 {
        return normal(dtype, random);
    }
    if let Some((min, max)) = dtype.int_range() {
        let pool = [min, min.saturating_add(1), -1, 0, 1, 2, 7, 31, max - 1, max];
        return Scalar::Int(pool[random.below(pool.len())].clamp(min, max));
    }
    // Smallest subnormal, smallest normal, largest, and the distance from 1 to the next number.
    let (tiny, normal, max, eps) = match dtype {
        DType::F16 => (2f64.powi(-24), 2f64.powi(-14), 65504.0, 2f64.powi(-10)),
        DType::BF16 => (2f64.powi(-133), 2f64.powi(-126), 255.0 * 2f64.powi(120), 2f64.powi(-7)),
        DType::F32 => (2f64.powi(-149), 2f64.powi(-126), f64::from(f32::MAX), f64::from(f32::EPSILON)),
        _ => (f64::from_bits(1), f64::MIN_POSITIVE, f64::MAX, f64::EPSILON),
    };
    let pool = [
        f64::NAN,
        f64::INFINITY,
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        1.0 + eps,
        1.0 - eps,
        eps,
        tiny,
        3.0 * tiny,
        normal,
        normal - tiny,
        max,
        max / 2.0,
        std::f64::consts::PI,
        127.5,
        1e4,
    ];
    let x = pool[random.below(pool.len())];
    Scalar::Float(if random.word() & 1 == 1 { -x } else { x })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_are_called() {
        let draw = |values, dtype| fill(&Gen::of(&[8, 40], values), dtype, &mut Random::new(3)).to_f64();
        let normal = draw(Values::Normal, DType::F64);
        let mean = normal.iter().sum::<f64>() / 320.0;
        let spread = normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 320.0;
        assert!(mean.abs() < 0.2 && (spread - 1.0).abs() < 0.25, "{mean} {spread}");
        assert!(draw(Values::Range(-0.5, 2.0), DType::F32).iter().all(|&x| (-0.5..=2.0).contains(&x)));
        assert!(draw(Values::Range(1.0, 4.0), DType::I16).iter().all(|&x| (1.0..=4.0).contains(&x)));
        assert!(draw(Values::Index(5), DType::I64).iter().all(|&x| (0.0..5.0).contains(&x)));
        let mut distinct = draw(Values::Distinct, DType::F16);
        distinct.sort_by(f64::total_cmp);
        assert!(distinct.windows(2).all(|w| w[1] - w[0] == 0.5));
        let special = draw(Values::Special, DType::F32);
        assert!(special.iter().any(|x| x.is_nan()) && special.contains(&f64::INFINITY));
        assert!(special.iter().any(|x| *x != 0.0 && x.abs() < f64::from(f32::MIN_POSITIVE)));
        for row in draw(Values::Permutation, DType::I64).chunks(40) {
            let mut row = row.to_vec();
            row.sort_by(f64::total_cmp);
            assert!(row.iter().enumerate().all(|(i, &x)| x == i as f64));
        }
    }

    #[test]
    fn zero_sizes_have_no_values() {
        for values in [Values::Normal, Values::Permutation, Values::Distinct, Values::Index(0)] {
            assert!(fill(&Gen::of(&[2, 0], values), DType::F32, &mut Random::new(0)).is_empty());
        }
    }
}
