//! The kernel printer.

use super::number::print_scalar;
use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Reduce, Store, ValueId};
use crate::scalar::ScalarOp;
use std::fmt::Write;

/// What a line of a printed kernel shows, so that the verifier can point at it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    Head,
    Param(usize),
    Stage(usize),
    Inst(ValueId),
    Reduce(usize, usize),
    Store(usize, usize),
    End,
}

/// The kernel as text.
pub fn kernel(kernel: &Kernel) -> String {
    let mut out = String::new();
    for (_, line) in lines(kernel) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The lines of a kernel with what each shows. Never fails: ids out of range are printed as they are.
pub(crate) fn lines(kernel: &Kernel) -> Vec<(Line, String)> {
    let mut out = Vec::new();
    let (grid, inner) = (kernel.grid.as_slice(), kernel.inner.as_slice());
    out.push((Line::Head, format!("kernel {} grid {grid:?} inner {inner:?} {{", kernel.name)));
    for (i, p) in kernel.params.iter().enumerate() {
        let access = match p.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "readwrite",
        };
        out.push((Line::Param(i), format!("  p{i}: {}[{}] {access}", p.dtype.short(), p.numel)));
    }
    for (s, stage) in kernel.stages.iter().enumerate() {
        let domain = match stage.domain {
            Domain::Row => "row",
            Domain::Full => "full",
        };
        out.push((Line::Stage(s), format!("  {domain} {{")));
        for &id in &stage.insts {
            out.push((Line::Inst(id), format!("    {}{}", head(kernel, id), inst(kernel, id))));
        }
        for (i, r) in stage.reduces.iter().enumerate() {
            out.push((Line::Reduce(s, i), format!("    {}", reduce(kernel, r))));
        }
        for (i, st) in stage.stores.iter().enumerate() {
            out.push((Line::Store(s, i), format!("    {}", store(kernel, st))));
        }
        out.push((Line::End, "  }".to_string()));
    }
    out.push((Line::End, "}".to_string()));
    out
}

fn head(kernel: &Kernel, id: ValueId) -> String {
    let dtype = kernel.values.get(id.0 as usize).map_or("?", |v| v.dtype.short());
    format!("v{}: {dtype} = ", id.0)
}

fn inst(kernel: &Kernel, id: ValueId) -> String {
    let Some(value) = kernel.values.get(id.0 as usize) else { return "?".to_string() };
    match &value.inst {
        Inst::Const(c) => {
            let mut text = String::from("const ");
            print_scalar(&mut text, *c, value.dtype);
            text
        }
        Inst::Load { param, index } => format!("load p{param}[{}]", affine(kernel, index)),
        Inst::Index(index) => format!("index {}", affine(kernel, index)),
        Inst::Op(op, operands) => {
            let args: Vec<String> = operands.iter().map(|o| format!("v{}", o.0)).collect();
            format!("{}({})", op_name(*op), args.join(", "))
        }
        Inst::Reduced => "reduced".to_string(),
    }
}

/// Name of a scalar operation in dumps.
pub(crate) fn op_name(op: ScalarOp) -> &'static str {
    match op {
        ScalarOp::Un(op) => op.name(),
        ScalarOp::Bin(op) => op.name(),
        ScalarOp::Cmp(op) => op.name(),
        ScalarOp::Select => "select",
        ScalarOp::Cast => "cast",
        ScalarOp::Bitcast => "bitcast",
    }
}

fn reduce(kernel: &Kernel, r: &Reduce) -> String {
    format!("{}reduce {} v{}", head(kernel, r.out), r.op.name(), r.value.0)
}

fn store(kernel: &Kernel, s: &Store) -> String {
    format!("store p{}[{}] = v{}", s.param, affine(kernel, &s.index), s.value.0)
}

/// `7 + 3*g0 - i1`; zero terms are left out.
fn affine(kernel: &Kernel, index: &Affine) -> String {
    let mut out = String::new();
    if index.offset != 0 {
        let _ = write!(out, "{}", index.offset);
    }
    for (axis, &stride) in index.strides.iter().enumerate() {
        if stride == 0 {
            continue;
        }
        let sign = match (out.is_empty(), stride < 0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        out.push_str(sign);
        if stride.unsigned_abs() != 1 {
            let _ = write!(out, "{}*", stride.unsigned_abs());
        }
        let _ = match axis.checked_sub(kernel.grid.len()) {
            None => write!(out, "g{axis}"),
            Some(i) => write!(out, "i{i}"),
        };
    }
    if out.is_empty() {
        out.push('0');
    }
    out
}
