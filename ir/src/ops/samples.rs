//! Sample lists shared by families of ops: odd sizes around the vector width, 0-d, zero-size and special
//! values.

use crate::attr::Attr;
use crate::op::{Gen, Sample, Values};

/// Odd shapes around the vector width, zero-size and 0-d: the shapes of every elementwise sample.
pub fn elementwise_shapes() -> Vec<Vec<usize>> {
    vec![
        vec![],
        vec![0],
        vec![1],
        vec![7],
        vec![16],
        vec![17],
        vec![3, 33],
        vec![2, 0, 3],
        vec![5, 257],
        vec![2, 3, 130],
    ]
}

/// Samples of a unary op with gradients at `values`, and special values without.
pub fn unary_samples(values: Values) -> Vec<Sample> {
    let one = |d: &Vec<usize>| Sample::new(vec![Gen::of(d, values.clone())]);
    let mut samples: Vec<_> = elementwise_shapes().iter().map(one).collect();
    samples.push(Sample::new(vec![Gen::of(&[67], Values::Special)]).no_grad());
    samples
}

/// Adds a sample over a wide range, without gradients.
pub fn wide(mut samples: Vec<Sample>, lo: f64, hi: f64) -> Vec<Sample> {
    samples.push(Sample::new(vec![Gen::range(&[301], lo, hi)]).no_grad());
    samples
}

/// Samples of a binary op with gradients at these values, and special values without.
pub fn binary_samples(a: Values, b: Values) -> Vec<Sample> {
    let pair = |d: &Vec<usize>| Sample::new(vec![Gen::of(d, a.clone()), Gen::of(d, b.clone())]);
    let mut samples: Vec<_> = elementwise_shapes().iter().map(pair).collect();
    let special = || Gen::of(&[67], Values::Special);
    samples.push(Sample::new(vec![special(), special()]).no_grad());
    samples
}

/// Samples of a comparison: small integers so that equal operands occur, and special values.
pub fn comparison_samples() -> Vec<Sample> {
    let mut samples = binary_samples(Values::Normal, Values::Normal);
    samples.push(Sample::new(vec![Gen::of(&[130], Values::Index(4)), Gen::of(&[130], Values::Index(4))]));
    samples.into_iter().map(Sample::no_grad).collect()
}

/// Samples of a reduction over every arrangement of reduced and kept dims.
pub fn reduce_samples(values: Values) -> Vec<Sample> {
    let cases: [(&[usize], &[i64]); 10] = [
        (&[1], &[0]),
        (&[0], &[0]),
        (&[17], &[0]),
        (&[300], &[0]),
        (&[5, 33], &[1]),
        (&[5, 33], &[0]),
        (&[5, 33], &[0, 1]),
        (&[3, 1, 70], &[0, 2]),
        (&[4, 6, 5], &[1]),
        (&[2, 0, 3], &[1]),
    ];
    let one =
        |(shape, dims): &(&[usize], &[i64])| Sample::new(vec![Gen::of(shape, values.clone())]).attr(Attr::from(*dims));
    let mut samples: Vec<_> = cases.iter().map(one).collect();
    let special = |shape: &[usize], dims: &[i64]| {
        Sample::new(vec![Gen::of(shape, Values::Special)]).attr(Attr::from(dims)).no_grad()
    };
    samples.extend([special(&[67], &[0]), special(&[9, 35], &[1]), special(&[9, 35], &[0])]);
    samples
}

/// Samples of an op over one dim, which it names in its list of dims.
pub fn one_dim_reduce_samples(values: Values) -> Vec<Sample> {
    reduce_samples(values)
        .into_iter()
        .filter(|s| matches!(&s.attrs[..], [Attr::Ints(dims)] if dims.len() == 1))
        .collect()
}

/// Samples of a scan along each position of the dim.
pub fn scan_samples(values: Values) -> Vec<Sample> {
    let one = |shape: &[usize], dim: i64| Sample::new(vec![Gen::of(shape, values.clone())]).attr(Attr::Int(dim));
    let special =
        |shape: &[usize], dim: i64| Sample::new(vec![Gen::of(shape, Values::Special)]).attr(Attr::Int(dim)).no_grad();
    vec![
        one(&[1], 0),
        one(&[0], 0),
        one(&[17], 0),
        one(&[5, 33], 1),
        one(&[5, 33], 0),
        one(&[3, 4, 7], 1),
        one(&[2, 0, 3], 1),
        special(&[67], 0),
        special(&[9, 35], 0),
    ]
}
