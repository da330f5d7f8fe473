//! A lowered program: kernels and library calls over planned buffers. Passes make it, an
//! [`Executor`](crate::exec::Executor) loads it, `interp::program` gives it its meaning.

pub use crate::attend::{Attend, Side};
use crate::attr::{Attr, Scalar};
use crate::error::Loc;
use crate::kernel::Kernel;
use crate::scalar::ReduceOp;
use crate::shape::{Dims, Ints, Type};
use smallvec::SmallVec;
use std::sync::Arc;

/// Index of a buffer in [`Program::buffers`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BufId(pub u32);

/// Where a buffer lives.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// The caller's input.
    Input(u32),
    /// A fresh allocation handed to the caller.
    Output,
    /// The memory of a donated input: written in place when the caller gave it up, else a copy of it.
    Donated(u32),
    /// A slice of the program's arena.
    Arena {
        /// Byte offset, a multiple of 64.
        offset: usize,
    },
    /// Constant data, little-endian, row-major.
    Const(Arc<[u8]>),
}

/// A contiguous row-major buffer.
#[derive(Clone, PartialEq, Debug)]
pub struct BufDecl {
    /// Dtype and shape.
    pub ty: Type,
    /// Where it lives.
    pub place: Place,
}

/// A strided operand of a [`DotStep`]: element offset and strides (may be 0 or negative).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DotOperand {
    /// The buffer.
    pub buf: BufId,
    /// Element offset of the first element.
    pub offset: i64,
    /// One stride per batch axis.
    pub batch_strides: Ints,
    /// Digits of the row axis (M for the left, K for the right operand).
    pub rows: Digits,
    /// Digits of the column axis (K for the left, N for the right operand).
    pub cols: Digits,
}

/// An axis as mixed-radix digits, outermost first: extents, whose product is that of the axis, and strides.
/// A position on the axis is split into digits, each of which counts with its stride: so a view of overlapping
/// windows is an operand without a copy. Canonical as [`digits`] gives them.
pub type Digits = SmallVec<[(usize, i64); 2]>;

/// Canonical digits: none of extent 1, no two that could be one. An axis of extent 1 has none.
pub fn digits(list: impl IntoIterator<Item = (usize, i64)>) -> Digits {
    let mut out = Digits::new();
    for (extent, stride) in list {
        match out.last_mut() {
            _ if extent == 1 => {}
            Some(last) if i64::try_from(extent).ok().and_then(|e| e.checked_mul(stride)) == Some(last.1) => {
                *last = (last.0.saturating_mul(extent), stride);
            }
            _ => out.push((extent, stride)),
        }
    }
    out
}

/// Smallest and largest address of strided axes, none of which is empty; `None` beyond 128 bits, which no buffer reaches.
pub(crate) fn reach(offset: i64, axes: impl IntoIterator<Item = (usize, i64)>) -> Option<(i128, i128)> {
    axes.into_iter().try_fold((i128::from(offset), i128::from(offset)), |(lo, hi), (n, stride)| {
        let reach = i128::from(stride).checked_mul(n as i128 - 1)?;
        Some((lo.checked_add(reach.min(0))?, hi.checked_add(reach.max(0))?))
    })
}

/// What position `i` of an axis adds to the address. `i` is below the product of the extents.
pub fn digits_at(digits: &[(usize, i64)], mut i: usize) -> i64 {
    let mut at = 0;
    for &(extent, stride) in digits.iter().rev() {
        at += (i % extent) as i64 * stride;
        i /= extent;
    }
    at
}

/// The one stride of an axis; `None` where it has several digits.
pub fn single_stride(digits: &[(usize, i64)]) -> Option<i64> {
    match digits {
        [] => Some(0),
        [(_, stride)] => Some(*stride),
        _ => None,
    }
}

/// `out[batch, m, n] = sum_k lhs[batch, m, k] * rhs[batch, k, n]`, out contiguous. Floats accumulate in f32
/// or better (f64 for f64), integers wrap.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DotStep {
    /// Batch extents.
    pub batch: Dims,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the contraction.
    pub k: usize,
    /// Left operand.
    pub lhs: DotOperand,
    /// Right operand.
    pub rhs: DotOperand,
    /// Result.
    pub out: BufId,
}

/// How a scatter combines.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum ScatterMode {
    /// The last write in row-major order of the source wins.
    Set,
    /// Sums, in row-major order of the source.
    Add,
    /// Products.
    Prod,
    /// Maxima.
    Max,
    /// Minima.
    Min,
}

impl ScatterMode {
    /// Every mode.
    pub const ALL: [ScatterMode; 5] =
        [ScatterMode::Set, ScatterMode::Add, ScatterMode::Prod, ScatterMode::Max, ScatterMode::Min];
    /// Name in attributes and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            ScatterMode::Set => "set",
            ScatterMode::Add => "add",
            ScatterMode::Prod => "prod",
            ScatterMode::Max => "amax",
            ScatterMode::Min => "amin",
        }
    }
    /// Parses a name.
    pub fn parse(text: &str) -> Option<ScatterMode> {
        ScatterMode::ALL.into_iter().find(|m| m.name() == text)
    }
}

/// Library calls on contiguous buffers. Indices are i64; one out of range is an `Index` error that names
/// the op and the user's line, raised before anything visible is written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LibCall {
    /// `out = take(x, index)`: `x[.., index[j], ..]` along `dim`; index is 1-d and may be negative.
    Take {
        /// The indexed dim of `x`.
        dim: usize,
    },
    /// `out[i][j] = x[index[i][j]][j]` along `dim` (torch.gather).
    Gather {
        /// The indexed dim.
        dim: usize,
    },
    /// `out = base; out[index[i][j]][j] (mode)= src[i][j]` along `dim` (torch.scatter); args base, index, src.
    Scatter {
        /// The indexed dim.
        dim: usize,
        /// How to combine.
        mode: ScatterMode,
    },
    /// `out = base; out[.., index[j], ..] (mode)= src[.., j, ..]` along `dim` (torch.index_add, index_copy);
    /// args base, index (1-d, may be negative), src.
    IndexPut {
        /// The indexed dim.
        dim: usize,
        /// How to combine.
        mode: ScatterMode,
    },
    /// Stable argsort along `dim`; NaN sorts last (first when descending).
    ArgSort {
        /// The sorted dim.
        dim: usize,
        /// Largest first.
        descending: bool,
    },
    /// Inclusive scan along `dim`: Sum, Prod, Max or Min.
    Scan {
        /// The operation.
        op: ReduceOp,
        /// The scanned dim.
        dim: usize,
    },
    /// `out = attention_forward(q, k, v, [mask], [state])` on strided operands.
    Attention(Box<Attend>),
    /// `out = attention_backward(q, k, v, [mask], [state], forward, ct)` on strided operands.
    AttentionGrad(Box<Attend>),
    /// Fills `out` with a constant.
    Fill(Scalar),
    /// Copies the only argument to `out` (same type).
    Copy,
}

impl LibCall {
    /// The tensor op that has the same meaning, with its attributes; `None` for Fill and Copy.
    pub fn tensor_op(&self) -> Option<(&'static str, Vec<Attr>)> {
        let dim = |d: usize| Attr::Int(d as i64);
        Some(match self {
            LibCall::Take { dim: d } => ("take", vec![dim(*d)]),
            LibCall::Gather { dim: d } => ("gather", vec![dim(*d)]),
            LibCall::Scatter { dim: d, mode } => ("scatter", vec![dim(*d), Attr::from(mode.name())]),
            LibCall::IndexPut { dim: d, mode } => ("index_put", vec![dim(*d), Attr::from(mode.name())]),
            LibCall::ArgSort { dim: d, descending } => ("argsort", vec![dim(*d), Attr::Bool(*descending)]),
            LibCall::Scan { op, dim: d } => {
                let name = match op {
                    ReduceOp::Sum => "cumsum",
                    ReduceOp::Prod => "cumprod",
                    ReduceOp::Max => "cummax",
                    ReduceOp::Min => "cummin",
                    // No tensor op has this name, so that whoever looks it up refuses.
                    ReduceOp::Any | ReduceOp::All | ReduceOp::ArgMax | ReduceOp::ArgMin => "scan of this kind",
                };
                (name, vec![dim(*d)])
            }
            LibCall::Attention(a) => ("attention_forward", a.attrs(true)),
            LibCall::AttentionGrad(a) => ("attention_backward", a.attrs(false)),
            LibCall::Fill(_) | LibCall::Copy => return None,
        })
    }

    /// The sizes and strides of an attention.
    pub fn attend(&self) -> Option<&Attend> {
        match self {
            LibCall::Attention(a) | LibCall::AttentionGrad(a) => Some(a),
            _ => None,
        }
    }

    /// True for calls that take buffers of any shape: whole ones, or strided views.
    pub fn any_shape(&self) -> bool {
        matches!(self, LibCall::Copy | LibCall::Fill(_) | LibCall::Attention(_) | LibCall::AttentionGrad(_))
    }
}

/// What a step runs.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "a step is made once and read in place")]
pub enum StepOp {
    /// A generated kernel; `args` bind its parameters in order.
    Kernel {
        /// The kernel; equal kernels share one `Arc`.
        kernel: Arc<Kernel>,
        /// One buffer per parameter.
        args: Vec<BufId>,
    },
    /// A matrix product.
    Dot(DotStep),
    /// A library call.
    Lib {
        /// Which.
        call: LibCall,
        /// Inputs.
        args: Vec<BufId>,
        /// Result.
        out: BufId,
    },
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What runs.
    pub op: StepOp,
    /// The tensor ops that it covers, for errors, profiles and `explain()`.
    pub ops: Vec<&'static str>,
    /// The user's line of the last of them.
    pub loc: Option<Loc>,
}

/// Figures of a compilation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stats {
    /// Level-1 nodes on entry.
    pub nodes: usize,
    /// Steps that the program would have had without fusion.
    pub kernels_unfused: usize,
    /// Steps it has.
    pub kernels: usize,
    /// Bytes read and written by all steps.
    pub bytes_moved: u64,
    /// Floating point operations of all steps.
    pub flops: u64,
    /// Bytes and floating point operations of each step.
    pub steps: Vec<(u64, u64)>,
    /// Seconds per pass, in order.
    pub passes: Vec<(&'static str, f64)>,
    /// Why fusion stopped where it did, a line each.
    pub fusion_notes: Vec<String>,
}

/// A program ready to load.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Program {
    /// All buffers.
    pub buffers: Vec<BufDecl>,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Types of the inputs.
    pub inputs: Vec<Type>,
    /// The buffer of each output; an output may be an input's buffer itself, and two outputs may share one.
    pub outputs: Vec<BufId>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Arena, outputs and constants together: what a run needs beyond its inputs.
    pub peak_bytes: usize,
    /// Figures.
    pub stats: Stats,
}
