//! The vector code generator: straight-line bodies as raw machine code over whole vector registers.
//!
//! Cranelift has vectors of 128 bits only. For a cluster of operations on contiguous elements, this module
//! writes one function with 256-bit (AVX2 and FMA) or 512-bit (AVX-512) instructions itself: it reads each
//! input once, keeps everything between in registers and writes each result once. Cranelift still emits the
//! loop nest and the addresses, and calls such a function like a primitive.
//!
//! * `plan` cuts a stage into clusters and primitives,
//! * `record` turns a cluster's instructions into a [`graph::Graph`] of lane operations,
//! * `emit` writes its loops, `alloc` gives its values registers, `asm` encodes instructions.
//!
//! A function is `extern "C" fn(area: *mut u8, n: u64)`. `area`, of any alignment, begins with the addresses of
//! the streams, the uniform elements and the accumulators, 8 bytes each; the rest is the function's to use.
//! A function that sums columns takes `n` columns of several points of a row: after the addresses comes the number
//! of points, which is not 0, and the accumulators are vectors of f64.
//! Streams may have any alignment. A stream that is written may be one that is read, element for element: all
//! reads of some elements come before their writes.

mod ahead;
mod alloc;
mod asm;
mod emit;
mod graph;
pub(super) mod plan;
mod record;
mod transpose;

pub(super) use emit::Code;
pub(super) use record::Binding;
pub(super) use transpose::transpose;

use super::Options;
use super::analysis::Facts;
use torsh_ir::Result;
use torsh_ir::kernel::{Inst, Kernel};

/// The function of a cluster of stage `s`, and what the addresses in its area are of.
pub(super) fn function(
    kernel: &Kernel,
    facts: &Facts,
    s: usize,
    cluster: &plan::Cluster,
    options: &Options,
    level: Level,
) -> Result<(Code, Vec<Binding>)> {
    let (mut graph, bindings) = record::record(kernel, facts, &kernel.stages[s], cluster, level)?;
    if !cluster.columns {
        graph.ahead = ahead::distances(kernel, facts, s, &bindings, options.l2_bytes);
    }
    let along = kernel.grid.len() + kernel.inner.len() - 1;
    let step = |binding: &Binding| match *binding {
        Binding::Load(v) => match &kernel.value(v).inst {
            Inst::Load { param, index } => {
                index.strides[along] as i32 * kernel.params[*param as usize].dtype.size() as i32
            }
            _ => 0,
        },
        _ => 0,
    };
    let steps: Option<Vec<i32>> = cluster.columns.then(|| bindings.iter().map(step).collect());
    Ok((emit::compile(&graph, steps.as_deref(), options.listing)?, bindings))
}

/// Instruction sets that the generator writes for.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// 256-bit vectors: AVX2, FMA and F16C.
    Avx2,
    /// 512-bit vectors and mask registers: AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Level {
    /// The level by the name that the runtime gives to it.
    pub fn parse(name: &str) -> Option<Level> {
        match name {
            "avx2" => Some(Level::Avx2),
            "avx512" => Some(Level::Avx512),
            _ => None,
        }
    }

    /// 32-bit lanes of a register.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        }
    }
}
