//! Pieces that the attention ops share: their operands and attributes, the plain composition over the full score
//! matrix with its gradient, and the size from which the one-pass ops take over. No facts of a single op stand here.

use super::composite::wide;
use super::rules::same_dtype;
use super::{attr, attrs};
use crate::Val;
use crate::attr::{Attr, AttrKind, AttrSpec, Attrs, AttrsExt, Scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Gen, Sample};
use crate::shape::{Shape, Type};

/// Score matrices of at least so many elements a head are never in memory: f32 and 16-bit floats take the one-pass
/// ops then. Smaller ones, and those of fewer than [`MIN_ROWS`] queries or keys, keep the plain composition, as
/// does f64.
pub const ONE_PASS_SCORES: usize = 64 * 64;
/// Fewer queries or keys do not fill the blocks of the one-pass ops.
pub const MIN_ROWS: usize = 16;
/// Longer rows of queries, keys or values do not fit the blocks of the one-pass ops.
pub const MAX_DEPTH: usize = 512;

/// Attributes of every attention op; what an op adds comes after them.
pub(super) const ATTRS: [AttrSpec; 5] = [
    attr("scale", AttrKind::Scalar),
    attr("causal", AttrKind::Bool),
    attr("dropout", AttrKind::Scalar),
    attr("mask", AttrKind::Bool),
    attr("safe", AttrKind::Bool),
];

/// What the attributes say.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Options {
    /// Factor of the scores.
    pub scale: f64,
    /// Query `i` sees keys `0..=i`.
    pub causal: bool,
    /// Probability with which a weight becomes 0; the others are divided by `1 - dropout`.
    pub dropout: f64,
    /// The fourth operand is a mask.
    pub mask: bool,
    /// Rows without a key give 0 instead of NaN.
    pub safe: bool,
}

impl Options {
    /// Reads the first five attributes.
    pub fn of(a: &[Attr]) -> Options {
        Options {
            scale: a.scalar(0).as_f64(),
            causal: a.bool(1),
            dropout: a.scalar(2).as_f64(),
            mask: a.bool(3),
            safe: a.bool(4),
        }
    }

    /// As attributes.
    pub fn attrs(&self) -> Attrs {
        let float = |x: f64| Attr::Scalar(Scalar::Float(x));
        attrs(&[float(self.scale), self.causal.into(), float(self.dropout), self.mask.into(), self.safe.into()])
    }

    /// Number of operands: query, key, value, the mask and the random state where there are any.
    pub fn operands(&self) -> usize {
        3 + usize::from(self.mask) + usize::from(self.dropout > 0.0)
    }

    /// Whether a word of random bits keeps its weight.
    pub fn keeps(&self, word: u32) -> bool {
        (word >> 8) as f32 * UNIT >= self.dropout as f32
    }

    /// What kept weights are multiplied by.
    pub fn factor(&self) -> f64 {
        if self.dropout < 1.0 { 1.0 / (1.0 - self.dropout) } else { 0.0 }
    }
}

/// The distance of two random numbers in `0..1`.
const UNIT: f32 = 1.0 / (1 << 24) as f32;

/// Why an attention keeps its score matrix.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It computes in f64.
    DType,
    /// It has no elements.
    Empty,
    /// It has fewer than [`MIN_ROWS`] queries or keys.
    FewRows,
    /// It has fewer than [`ONE_PASS_SCORES`] scores a head.
    FewScores,
    /// It has rows of more than [`MAX_DEPTH`] elements.
    LongRows,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::DType => write!(f, "only f32 and 16-bit floats are computed in one pass"),
            Refusal::Empty => write!(f, "it is empty"),
            Refusal::FewRows => write!(f, "one pass pays from {MIN_ROWS} queries and keys on"),
            Refusal::FewScores => write!(f, "one pass pays from {ONE_PASS_SCORES} scores a head on, as of 64x64"),
            Refusal::LongRows => write!(f, "one pass takes rows of at most {MAX_DEPTH} elements"),
        }
    }
}

/// Sizes of an attention.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Product of the batch dims.
    pub batch: usize,
    /// Rows of the query.
    pub queries: usize,
    /// Rows of key and value.
    pub keys: usize,
    /// Columns of query and key.
    pub depth: usize,
    /// Columns of the value.
    pub width: usize,
}

impl Sizes {
    /// From the shapes of query, key and value, which have been checked.
    pub fn of(q: &[usize], k: &[usize], v: &[usize]) -> Sizes {
        let at = |x: &[usize], from_end: usize| x.len().checked_sub(from_end).map_or(1, |i| x[i]);
        Sizes {
            batch: q[..q.len().saturating_sub(2)].iter().product(),
            queries: at(q, 2),
            keys: at(k, 2),
            depth: at(q, 1),
            width: at(v, 1),
        }
    }

    /// Whether the one-pass ops take it.
    pub fn one_pass(&self, dtype: DType) -> bool {
        self.refusal(dtype).is_none()
    }

    /// Why the one-pass ops do not take it.
    pub fn refusal(&self, dtype: DType) -> Option<Refusal> {
        if dtype.compute() != DType::F32 {
            return Some(Refusal::DType);
        }
        if self.batch == 0 || self.depth == 0 || self.width == 0 {
            return Some(Refusal::Empty);
        }
        if self.queries.min(self.keys) < MIN_ROWS {
            return Some(Refusal::FewRows);
        }
        if self.queries.saturating_mul(self.keys) < ONE_PASS_SCORES {
            return Some(Refusal::FewScores);
        }
        (self.depth.max(self.width) > MAX_DEPTH).then_some(Refusal::LongRows)
    }
}

/// Checks query, key, value, mask and random state; gives their sizes.
pub(super) fn check(x: &[Type], a: &[Attr], extra: usize) -> Result<Sizes> {
    let o = Options::of(a);
    if !(0.0..=1.0).contains(&o.dropout) {
        return Err(Error::value(format!("dropout probability has to be between 0 and 1, but got {}", o.dropout)));
    }
    if x.len() != o.operands() + extra {
        return Err(Error::value(format!("expected {} operands, got {}", o.operands() + extra, x.len())));
    }
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    same_dtype(q, k)?;
    same_dtype(q, v)?;
    let rank = q.rank();
    if rank < 2 || k.rank() != rank || v.rank() != rank {
        return Err(Error::shape("query, key and value must have one rank of at least 2"));
    }
    let (batch, s) = (&q.shape[..rank - 2], Sizes::of(&q.shape, &k.shape, &v.shape));
    let fits = |x: &Type, rows: usize, cols: usize| {
        x.shape[..rank - 2] == *batch && x.shape[rank - 2] == rows && x.shape[rank - 1] == cols
    };
    if !fits(k, s.keys, s.depth) || !fits(v, s.keys, s.width) {
        return Err(Error::shape(format!("query {}, key {} and value {} do not fit", q.shape, k.shape, v.shape)));
    }
    if o.mask {
        let m = &x[3];
        if m.dtype != DType::Bool {
            same_dtype(q, m)?;
        }
        if m.rank() != rank || !fits(m, s.queries, s.keys) {
            return Err(Error::shape(format!("the mask {} must have the shape of the scores", m.shape)));
        }
    }
    if o.dropout > 0.0 {
        let state = &x[o.operands() - 1];
        if state.dtype != DType::I64 || state.shape.dims() != [2] {
            return Err(Error::dtype(format!("the random state must be int64 [2], got {state}")));
        }
    }
    Ok(s)
}

/// The float operands in the dtype in which 16-bit floats compute.
pub(super) fn widened<'b>(x: &[Val<'b>]) -> Vec<Val<'b>> {
    x.iter().map(|&v| if v.dtype().is_float() { wide(v) } else { v }).collect()
}

/// The shape of the result.
pub(super) fn out_shape(x: &[Type]) -> Result<Shape> {
    let mut dims = x[0].shape.to_vec();
    let last = dims.len() - 1;
    dims[last] = x[2].shape[last];
    Shape::new(&dims)
}

/// The plain composition up to the weights.
pub(super) struct Plain<'b> {
    options: Options,
    q: Val<'b>,
    k: Val<'b>,
    v: Val<'b>,
    /// Weights.
    p: Val<'b>,
    /// Which of them dropout keeps.
    keep: Option<Val<'b>>,
    /// Largest score and sum of the exponentials of each row.
    top: Val<'b>,
    sum: Val<'b>,
}

impl<'b> Plain<'b> {
    /// From operands in the dtype to compute in.
    pub fn new(x: &[Val<'b>], options: Options) -> Plain<'b> {
        let (q, k, v) = (x[0], x[1], x[2]);
        let (b, rank) = (q.builder(), q.rank());
        let batch: Vec<usize> = (0..rank - 2).collect();
        let mut s = q.dot_general(k, &batch, &batch, &[rank - 1], &[rank - 1]).scale(options.scale);
        let shape = s.shape();
        if options.causal {
            let below = b.iota(rank - 1, DType::I64, &shape).le(b.iota(rank - 2, DType::I64, &shape));
            s = below.select(s, s.full_like(f64::NEG_INFINITY));
        }
        if options.mask {
            let mask = x[3];
            s = match mask.dtype() {
                DType::Bool => mask.select(s, s.full_like(f64::NEG_INFINITY)),
                _ => s + mask,
            };
        }
        let top = s.reduce("amax", &[rank - 1]);
        let e = (s - top.expand(&shape)).exp();
        let sum = e.sum(&[rank - 1]);
        let mut p = e / sum.expand(&shape);
        if options.mask && options.safe {
            let none = top.eq(top.full_like(f64::NEG_INFINITY)).expand(&shape);
            p = none.select(p.zeros_like(), p);
        }
        let keep = (options.dropout > 0.0).then(|| keep(x[options.operands() - 1], &shape, options));
        Plain { options, q, k, v, p, keep, top, sum }
    }

    fn batch(&self) -> (Vec<usize>, usize) {
        ((0..self.q.rank() - 2).collect(), self.q.rank())
    }

    fn drop(&self, p: Val<'b>) -> Val<'b> {
        match self.keep {
            Some(keep) => keep.select(p.scale(self.options.factor()), p.zeros_like()),
            None => p,
        }
    }

    /// The result.
    pub fn out(&self) -> Val<'b> {
        let (batch, rank) = self.batch();
        self.drop(self.p).dot_general(self.v, &batch, &batch, &[rank - 1], &[rank - 2])
    }

    /// The logarithm of the sum of the exponentials of each row, -inf for a row without a key.
    pub fn lse(&self) -> Val<'b> {
        let none = self.top.eq(self.top.full_like(f64::NEG_INFINITY));
        none.select(self.top, self.top + self.sum.log())
    }

    /// Cotangents of query, key, value and the scores, from that of the result:
    /// `dv = p' ct; dp = drop(ct v'); ds = p (dp - sum(p dp)); dq = ds k scale; dk = ds' q scale`.
    pub fn grad(&self, ct: Val<'b>) -> [Val<'b>; 4] {
        let (batch, rank) = self.batch();
        let (rows, cols) = ([rank - 2], [rank - 1]);
        let dv = self.drop(self.p).dot_general(ct, &batch, &batch, &rows, &rows);
        let dp = self.drop(ct.dot_general(self.v, &batch, &batch, &cols, &cols));
        let inner = (self.p * dp).sum(&cols).expand(&dp.shape());
        let ds = self.p * (dp - inner);
        let dq = ds.dot_general(self.k, &batch, &batch, &cols, &rows).scale(self.options.scale);
        let dk = ds.dot_general(self.q, &batch, &batch, &rows, &rows).scale(self.options.scale);
        [dq, dk, dv, ds]
    }
}

/// Which weights dropout keeps: word `offset + i` of the random stream for weight `i` in row-major order.
fn keep<'b>(state: Val<'b>, shape: &Shape, options: Options) -> Val<'b> {
    let b = state.builder();
    let n = Shape::of(&[shape.numel()]);
    let seed = state.slice_dim(0, 0, 1, 1).expand(&n);
    let counter = b.iota(0, DType::I64, &n) + state.slice_dim(0, 1, 2, 1).expand(&n);
    let word = seed.philox(counter);
    let int = |x: i64| b.full(Scalar::Int(x), DType::I32, &n);
    let unit = word.bitwise_right_shift(int(8)).bitwise_and(int((1 << 24) - 1)).cast(DType::F32).scale(f64::from(UNIT));
    unit.ge(unit.full_like(options.dropout)).reshape(shape)
}

/// The values, one after the other in one row.
pub(super) fn flat<'b>(parts: &[Val<'b>]) -> Val<'b> {
    let rows: Vec<Val<'b>> = parts.iter().map(|p| p.reshape(&[p.shape().numel()])).collect();
    rows[0].builder().concat(&rows, 0)
}

/// Elements `at..at + numel` of a row, as `shape`.
pub(super) fn part<'b>(row: Val<'b>, at: usize, shape: &Shape) -> Val<'b> {
    row.slice_dim(0, at, at + shape.numel(), 1).reshape(shape)
}

/// Samples: odd sizes, several batch dims, masks, causal, dropout; `more` adds what an op takes besides.
pub(super) fn samples(more: &dyn Fn(Sample, Sizes, &[usize]) -> Sample) -> Vec<Sample> {
    let mut out = Vec::new();
    for (batch, [l, s, d, w]) in [
        (&[][..], [3, 5, 4, 2]),
        (&[2][..], [5, 3, 3, 4]),
        (&[2, 3][..], [4, 4, 2, 3]),
        (&[2][..], [70, 67, 5, 9]),
        (&[][..], [130, 150, 17, 33]),
    ] {
        let dims = |rows: usize, cols: usize| [batch, &[rows, cols]].concat();
        for (causal, mask, dropout) in
            [(false, 0, 0.0), (true, 0, 0.0), (false, 1, 0.0), (false, 2, 0.0), (true, 2, 0.25), (false, 0, 0.5)]
        {
            let mut inputs = vec![Gen::normal(&dims(l, d)), Gen::normal(&dims(s, d)), Gen::normal(&dims(s, w))];
            match mask {
                0 => {}
                1 => inputs.push(Gen::normal(&dims(l, s)).dtype(DType::Bool)),
                _ => inputs.push(Gen::normal(&dims(l, s))),
            }
            if dropout > 0.0 {
                inputs.push(Gen::index(&[2], 1 << 20));
            }
            let o = Options { scale: 0.5, causal, dropout, mask: mask > 0, safe: true };
            let sample = Sample { attrs: o.attrs(), ..Sample::new(inputs) };
            let sizes = Sizes { batch: batch.iter().product(), queries: l, keys: s, depth: d, width: w };
            let sample = more(sample, sizes, batch);
            out.push(if l > 16 { sample.no_grad() } else { sample });
        }
    }
    out
}
