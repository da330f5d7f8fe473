//! What a kernel costs, roughly: nanoseconds on one core of the machine that the figures were measured on.
//! Only ratios matter: they decide between schedules and whether threads are worth their start.

use torsh_ir::DType;
use torsh_ir::kernel::{Domain, Inst, Kernel};
use torsh_ir::scalar::{BinOp, ScalarOp, UnOp};

/// A cheap operation per element in a block of primitives.
const OP_NS: f64 = 0.04;
/// A cheap operation per 4-byte element in line; others in proportion to their size.
const INLINE_OP_NS: f64 = 0.055;
/// Reading or writing an element in cache.
const ACCESS_NS: f64 = 0.05;
/// Passing a value between primitives through the first-level cache, per element.
const SLOT_NS: f64 = 0.03;
/// Moving a byte to or from memory.
const MEMORY_NS: f64 = 0.08;
/// The least for moving a byte of data that does not stay in the second-level cache.
const STREAM_NS: f64 = 0.02;
/// A call of a primitive.
const CALL_NS: f64 = 3.0;

/// Time of a kernel in vector functions of so many lanes, as a share of that in primitives: they neither load
/// nor store between operations.
pub(super) fn vector_share(lanes: usize) -> f64 {
    5.0 / lanes as f64
}

/// Nanoseconds per element of one operation by primitive.
fn op_ns(op: ScalarOp, dtype: DType) -> f64 {
    let wide = if dtype.size() == 8 { 2.0 } else { 1.0 };
    let class = match op {
        ScalarOp::Un(un) => match un {
            UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not => 1.0,
            UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => 1.5,
            UnOp::Sqrt | UnOp::Recip => 6.0,
            UnOp::Rsqrt => 10.0,
            UnOp::Exp | UnOp::Exp2 | UnOp::Log | UnOp::Tanh | UnOp::Sigmoid | UnOp::Erf => 30.0,
            UnOp::Sin | UnOp::Cos | UnOp::Expm1 | UnOp::Log2 | UnOp::Log10 | UnOp::Log1p => 40.0,
            UnOp::Tan
            | UnOp::Asin
            | UnOp::Acos
            | UnOp::Atan
            | UnOp::Sinh
            | UnOp::Cosh
            | UnOp::Asinh
            | UnOp::Acosh
            | UnOp::Atanh => 200.0,
        },
        ScalarOp::Bin(bin) => match bin {
            BinOp::Div => 5.0,
            BinOp::FloorDiv => 20.0,
            BinOp::Rem | BinOp::Fmod => 200.0,
            BinOp::Pow | BinOp::Atan2 => 400.0,
            BinOp::Philox => 50.0,
            BinOp::Add
            | BinOp::Sub
            | BinOp::Mul
            | BinOp::Max
            | BinOp::Min
            | BinOp::And
            | BinOp::Or
            | BinOp::Xor
            | BinOp::Shl
            | BinOp::Shr => 1.0,
        },
        ScalarOp::Cmp(_) | ScalarOp::Select | ScalarOp::Cast | ScalarOp::Bitcast => 1.0,
    };
    class * wide * OP_NS
}

/// Nanoseconds that a whole kernel takes on one core, at `share` of the time that primitives take: what it computes, or
/// the memory that it moves where that is more.
pub(super) fn kernel_ns(k: &Kernel, share: f64, l2_bytes: usize) -> f64 {
    // Part of the cache holds what other kernels left.
    let moved = moved_bytes(k);
    let memory = if moved > l2_bytes / 2 { STREAM_NS * moved as f64 } else { 0.0 };
    (compute_ns(k) * share).max(memory)
}

/// Bytes of the buffers of a kernel, of each as many elements as there are points: no more than it moves.
fn moved_bytes(k: &Kernel) -> usize {
    let points = k.rows().saturating_mul(k.row_len());
    let reached = k.params.iter().map(|p| p.numel.min(points).saturating_mul(p.dtype.size()));
    reached.fold(0, usize::saturating_add)
}

/// Nanoseconds of a whole kernel in primitives, memory in cache.
fn compute_ns(k: &Kernel) -> f64 {
    let (rows, cols) = (k.rows() as f64, k.row_len() as f64);
    let mut ns = 0.0;
    for stage in &k.stages {
        let points = if stage.domain == Domain::Full { rows * cols } else { rows };
        let per_point: f64 = stage
            .insts
            .iter()
            .map(|&v| match &k.value(v).inst {
                Inst::Op(op, _) => op_ns(*op, k.value(v).dtype),
                Inst::Load { .. } | Inst::Index(_) => ACCESS_NS,
                Inst::Const(_) | Inst::Reduced => 0.0,
            })
            .sum();
        ns += points * (per_point + OP_NS * stage.reduces.len() as f64 + ACCESS_NS * stage.stores.len() as f64);
    }
    ns
}

/// Nanoseconds per element of a map kernel in line and in blocks. `k` has one inner axis.
///
/// In cache, both compute; blocks use wider vectors but pay calls and traffic between primitives. Beyond the
/// second-level cache, inline code overlaps its arithmetic with memory, which blocks do not.
pub(super) fn inline_and_block_ns(k: &Kernel, block: usize, l2_bytes: usize) -> (f64, f64) {
    let stage = &k.stages[0];
    let (mut inline, mut blocks, mut calls) = (0.0, 0.0, stage.stores.len() as f64);
    for &v in &stage.insts {
        let value = k.value(v);
        if let Inst::Op(op, _) = &value.inst {
            let ns = op_ns(*op, value.dtype);
            inline += ns / OP_NS * INLINE_OP_NS;
            blocks += ns + SLOT_NS;
            calls += 1.0;
        }
    }
    let loads = stage.insts.iter().filter(|&&v| matches!(k.value(v).inst, Inst::Load { .. })).count();
    let accesses = ACCESS_NS * (loads + stage.stores.len()) as f64;
    inline += accesses;
    blocks += accesses + calls * CALL_NS / k.row_len().clamp(1, block) as f64;
    let bytes: usize = k.params.iter().map(|p| p.numel.saturating_mul(p.dtype.size())).fold(0, usize::saturating_add);
    if bytes > l2_bytes {
        let points = (k.rows().max(1) as f64) * (k.row_len().max(1) as f64);
        let memory = MEMORY_NS * bytes as f64 / points;
        inline = inline.max(memory);
        blocks += memory;
    }
    (inline, blocks)
}
