//! The program printer.

use super::number::{print_bits, print_scalar};
use crate::distinct::Distinct;
use crate::dtype::DType;
use crate::kernel::Kernel;
use crate::program::{
    Attend, BufDecl, BufId, DotOperand, DotStep, LibCall, Place, Program, Step, StepOp, single_stride,
};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// Constants of more elements are shown by a checksum.
const MAX_LISTED_ELEMENTS: usize = 16;

/// What a line of a printed program shows, so that the verifier can point at it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    Head,
    Buffer(usize),
    Step(usize),
    Return,
    End,
}

/// The program as text: buffers, steps, then each distinct kernel once. Figures are left out.
pub fn program(program: &Program) -> String {
    let mut out = String::new();
    for (_, line) in lines(program) {
        out.push_str(&line);
        out.push('\n');
    }
    for (i, kernel) in distinct_kernels(program).into_iter().enumerate() {
        let _ = write!(out, "\nk{i} = {}", super::kernel(kernel));
    }
    out
}

/// Kernels in order of first use; equal ones once.
pub(crate) fn distinct_kernels(program: &Program) -> Vec<&Arc<Kernel>> {
    numbered(program).0
}

/// Kernels in order of first use, equal ones once, and the number of each by its address. A kernel is looked into once, however
/// many steps run it.
fn numbered(program: &Program) -> (Vec<&Arc<Kernel>>, HashMap<*const Kernel, usize>) {
    let (mut kernels, mut by_address) = (Vec::new(), HashMap::new());
    let mut by_value: Distinct<&Kernel> = Distinct::default();
    for step in &program.steps {
        let StepOp::Kernel { kernel, .. } = &step.op else { continue };
        by_address.entry(Arc::as_ptr(kernel)).or_insert_with(|| {
            let number = by_value.number(kernel.as_ref(), kernels.len());
            if number == kernels.len() {
                kernels.push(kernel);
            }
            number
        });
    }
    (kernels, by_address)
}

/// The lines of a program (kernels by number) with what each shows.
pub(crate) fn lines(program: &Program) -> Vec<(Line, String)> {
    let (_, kernels) = numbered(program);
    let mut out = vec![(Line::Head, format!("program arena {} peak {} {{", program.arena_bytes, program.peak_bytes))];
    for (i, buf) in program.buffers.iter().enumerate() {
        out.push((Line::Buffer(i), format!("  b{i}: {} {}", buf.ty, place(buf))));
    }
    for (i, step) in program.steps.iter().enumerate() {
        let text = match &step.op {
            StepOp::Kernel { kernel, args } => {
                let number = kernels.get(&Arc::as_ptr(kernel)).copied().unwrap_or_default();
                format!("kernel k{number}({})", bufs(args))
            }
            StepOp::Dot(dot) => dot_text(dot),
            StepOp::Lib { call, args, out } => {
                let dtype = program.buffers.get(out.0 as usize).map_or(DType::F64, |b| b.ty.dtype);
                format!("b{} = {}({})", out.0, lib_text(call, dtype), bufs(args))
            }
        };
        out.push((Line::Step(i), format!("  {text}{}", covers(step))));
    }
    let returns = bufs(&program.outputs);
    out.push((Line::Return, format!("  return{}{returns}", if returns.is_empty() { "" } else { " " })));
    out.push((Line::End, "}".to_string()));
    out
}

fn bufs(ids: &[BufId]) -> String {
    let names: Vec<String> = ids.iter().map(|b| format!("b{}", b.0)).collect();
    names.join(", ")
}

fn covers(step: &Step) -> String {
    if step.ops.is_empty() { String::new() } else { format!(" ; {}", step.ops.join(" ")) }
}

fn place(buf: &BufDecl) -> String {
    match &buf.place {
        Place::Input(i) => format!("input {i}"),
        Place::Output => "output".to_string(),
        Place::Donated(i) => format!("donated {i}"),
        Place::Arena { offset } => format!("arena {offset}"),
        Place::Const(data) => format!("const {}", data_text(data, buf)),
    }
}

fn data_text(data: &[u8], buf: &BufDecl) -> String {
    if buf.ty.numel() > MAX_LISTED_ELEMENTS || data.len() != buf.ty.nbytes() {
        // FNV-1a: stable, and any changed byte shows.
        let hash = data.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        return format!("{} bytes, fnv {hash:016x}", data.len());
    }
    let mut out = String::from("[");
    for (i, element) in data.chunks_exact(buf.ty.dtype.size()).enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        let mut b = [0; 8];
        b[..element.len()].copy_from_slice(element);
        print_bits(&mut out, u64::from_le_bytes(b), buf.ty.dtype);
    }
    out.push(']');
    out
}

fn dot_text(dot: &DotStep) -> String {
    // One stride, or `extent:stride` for each digit.
    let axis = |digits: &[(usize, i64)]| match single_stride(digits) {
        Some(stride) => stride.to_string(),
        None => digits.iter().map(|(e, s)| format!("{e}:{s}")).collect::<Vec<_>>().join(" "),
    };
    let operand = |x: &DotOperand| {
        let (rows, cols) = (axis(&x.rows), axis(&x.cols));
        let batch = x.batch_strides.as_slice();
        format!("b{}{{offset {}, batch {batch:?}, row {rows}, col {cols}}}", x.buf.0, x.offset)
    };
    format!(
        "b{} = dot batch {:?} m {} n {} k {} lhs {} rhs {}",
        dot.out.0,
        dot.batch.as_slice(),
        dot.m,
        dot.n,
        dot.k,
        operand(&dot.lhs),
        operand(&dot.rhs)
    )
}

fn lib_text(call: &LibCall, dtype: DType) -> String {
    match call {
        LibCall::Take { dim } => format!("take dim={dim} "),
        LibCall::Gather { dim } => format!("gather dim={dim} "),
        LibCall::Scatter { dim, mode } => format!("scatter dim={dim} mode={} ", mode.name()),
        LibCall::IndexPut { dim, mode } => format!("index_put dim={dim} mode={} ", mode.name()),
        LibCall::ArgSort { dim, descending } => format!("argsort dim={dim} descending={descending} "),
        LibCall::Scan { op, dim } => format!("scan {} dim={dim} ", op.name()),
        LibCall::Attention(a) => format!("attention {}", attend_text(a)),
        LibCall::AttentionGrad(a) => format!("attention_grad {}", attend_text(a)),
        LibCall::Fill(value) => {
            let mut out = String::from("fill ");
            print_scalar(&mut out, *value, dtype);
            out.push(' ');
            out
        }
        LibCall::Copy => "copy ".to_string(),
    }
}

fn attend_text(a: &Attend) -> String {
    let mut out = format!(
        "batch {:?} queries {} keys {} depth {} width {} scale {:?} causal {} dropout {:?} safe {} lse {} ",
        a.batch.as_slice(),
        a.queries,
        a.keys,
        a.depth,
        a.width,
        a.scale.as_f64(),
        a.causal,
        a.dropout.as_f64(),
        a.safe,
        a.lse
    );
    for side in &a.sides {
        let (batch, row, col) = (side.batch.as_slice(), side.row, side.col);
        let _ = write!(out, "{{offset {}, batch {batch:?}, row {row}, col {col}}} ", side.offset);
    }
    out
}
