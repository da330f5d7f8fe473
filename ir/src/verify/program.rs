//! Verifier of programs. Checks:
//! 1. inputs and donated inputs exist and fit their buffers; an arena buffer starts at a multiple of 64 and
//!    ends inside the arena; a constant has its type's bytes; the peak covers the arena;
//! 2. every kernel passes [`Kernel::verify`];
//! 3. arguments of a step exist and fit: kernel parameters in dtype and element count, library calls and
//!    products in dtype and shape; the digits of a product's operand make up its axes and stay in its buffer;
//! 4. nothing writes an input or a constant;
//! 5. what is read has been written, and nothing that shares its memory was written since: so no two
//!    buffers of the arena that are live at once overlap, and an input is not used after its memory was
//!    donated. A buffer may be written under one shape and read under another, at the same place;
//! 6. within a step, memory that is written is not otherwise used, except in place: a kernel whose loads
//!    and stores of it have one map, the base of a scatter or index_put, a copy onto itself;
//! 7. outputs exist, hold a value at the end, and are not in the arena.

use super::kernel::conflict;
use super::report::failure;
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::kernel::{Access, Kernel};
use crate::ops;
use crate::program::{BufDecl, BufId, DotOperand, DotStep, LibCall, Place, Program, StepOp, digits};
use crate::shape::{Shape, Type};
use crate::text::program::{Line, distinct_kernels, lines};
use std::ops::Range;

/// Alignment of arena buffers in bytes.
pub const ARENA_ALIGN: usize = 64;

impl Program {
    /// Checks the program; the list stands in the docs of `verify/program.rs`.
    pub fn verify(&self) -> Result<()> {
        for kernel in distinct_kernels(self) {
            kernel.verify()?;
        }
        Checker::new(self).run().map_err(|(line, message)| self.failure(line, &message))
    }

    fn failure(&self, line: Line, message: &str) -> Error {
        let listing = lines(self);
        let at = listing.iter().position(|(l, _)| *l == line).unwrap_or(0);
        let listing: Vec<String> = listing.into_iter().map(|(_, text)| text).collect();
        let step = if let Line::Step(i) = line { self.steps.get(i) } else { None };
        let e = failure("program", &listing, at, message, step.and_then(|s| s.loc.as_ref()));
        step.and_then(|s| s.ops.last()).map_or(e.clone(), |op| e.with_op(op))
    }
}

/// A line of the listing and what is wrong there.
type Check<T = ()> = std::result::Result<T, (Line, String)>;

/// Which memory a buffer is in.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Region {
    Arena,
    /// An input's memory, shared by the buffers donated from it.
    Input(u32),
    /// Its own.
    Own(u32),
}

/// What a buffer holds now.
#[derive(Copy, Clone)]
enum State {
    Undefined,
    Defined,
    /// Overwritten through another buffer by this step.
    Lost(BufId, usize),
}

struct Checker<'a> {
    program: &'a Program,
    state: Vec<State>,
    /// Defined buffers of the arena and of donated inputs: what a write may destroy.
    shared: Vec<BufId>,
}

impl<'a> Checker<'a> {
    fn new(program: &'a Program) -> Checker<'a> {
        Checker { program, state: Vec::new(), shared: Vec::new() }
    }

    fn run(mut self) -> Check {
        for (i, buf) in self.program.buffers.iter().enumerate() {
            let state = self.buffer(buf).map_err(|m| (Line::Buffer(i), m))?;
            self.state.push(state);
            if matches!(buf.place, Place::Input(_) | Place::Donated(_)) {
                self.shared.push(BufId(i as u32));
            }
        }
        if self.program.peak_bytes < self.program.arena_bytes {
            return Err((Line::Head, "the peak is below the arena".to_string()));
        }
        for (i, step) in self.program.steps.iter().enumerate() {
            let written = match &step.op {
                StepOp::Kernel { kernel, args } => self.kernel(kernel, args),
                StepOp::Dot(dot) => self.dot(dot),
                StepOp::Lib { call, args, out } => self.lib(call, args, *out),
            };
            for buf in written.map_err(|m| (Line::Step(i), m))? {
                self.define(buf, i);
            }
        }
        for &out in &self.program.outputs {
            self.output(out).map_err(|m| (Line::Return, m))?;
        }
        Ok(())
    }

    fn buffer(&self, buf: &BufDecl) -> Result<State, String> {
        let input = |i: u32| self.program.inputs.get(i as usize).ok_or_else(|| format!("there is no input {i}"));
        buf.ty.shape.checked_numel().map_err(|e| e.message().to_string())?;
        match &buf.place {
            Place::Input(i) | Place::Donated(i) => {
                let ty = input(*i)?;
                let retyped = matches!(buf.place, Place::Input(_)) && ty.dtype != buf.ty.dtype;
                if retyped || ty.nbytes() != buf.ty.nbytes() {
                    return Err(format!("input {i} is {ty}"));
                }
                Ok(State::Defined)
            }
            Place::Output => Ok(State::Undefined),
            Place::Arena { offset } => {
                if offset % ARENA_ALIGN != 0 {
                    return Err(format!("the offset is not a multiple of {ARENA_ALIGN}"));
                }
                let arena = self.program.arena_bytes;
                match offset.checked_add(buf.ty.nbytes()) {
                    Some(end) if end <= arena => Ok(State::Undefined),
                    _ => Err(format!("it ends beyond the arena of {arena} bytes")),
                }
            }
            Place::Const(data) if data.len() == buf.ty.nbytes() => Ok(State::Defined),
            Place::Const(data) => {
                Err(format!("{} takes {} bytes, the data has {}", buf.ty, buf.ty.nbytes(), data.len()))
            }
        }
    }

    fn decl(&self, buf: BufId) -> Result<&'a BufDecl, String> {
        self.program.buffers.get(buf.0 as usize).ok_or_else(|| format!("there is no buffer b{}", buf.0))
    }

    fn ty(&self, buf: BufId) -> Result<&'a Type, String> {
        Ok(&self.decl(buf)?.ty)
    }

    /// The memory of an existing buffer.
    fn memory(&self, buf: BufId) -> (Region, Range<usize>) {
        let Some(decl) = self.program.buffers.get(buf.0 as usize) else { return (Region::Own(buf.0), 0..0) };
        let n = decl.ty.nbytes();
        match decl.place {
            Place::Input(i) | Place::Donated(i) => (Region::Input(i), 0..n),
            Place::Arena { offset } => (Region::Arena, offset..offset + n),
            Place::Output | Place::Const(_) => (Region::Own(buf.0), 0..n),
        }
    }

    fn overlap(&self, a: BufId, b: BufId) -> bool {
        let ((ra, a), (rb, b)) = (self.memory(a), self.memory(b));
        ra == rb && a.start < b.end && b.start < a.end
    }

    /// True for two declarations of the same bytes with one dtype and different shapes: a reshape in place.
    fn alias(&self, a: BufId, b: BufId) -> bool {
        let ty = |x: BufId| self.program.buffers.get(x.0 as usize).map(|d| &d.ty);
        let reshaped = ty(a).map(|t| t.dtype) == ty(b).map(|t| t.dtype) && ty(a) != ty(b);
        reshaped && self.memory(a) == self.memory(b)
    }

    fn read(&self, buf: BufId) -> Result<(), String> {
        let decl = self.decl(buf)?;
        match self.state[buf.0 as usize] {
            State::Defined => Ok(()),
            State::Undefined if decl.ty.numel() == 0 => Ok(()),
            State::Undefined | State::Lost(..) if self.shared.iter().any(|&other| self.alias(other, buf)) => Ok(()),
            State::Undefined => Err(format!("b{} is read before it is written", buf.0)),
            State::Lost(by, step) => {
                Err(format!("b{} is read after step {step} wrote b{}, which shares its memory", buf.0, by.0))
            }
        }
    }

    fn write(&self, buf: BufId) -> Result<(), String> {
        match self.decl(buf)?.place {
            Place::Input(i) => Err(format!("b{} is input {i}, which was not donated", buf.0)),
            Place::Const(_) => Err(format!("b{} is a constant", buf.0)),
            Place::Output | Place::Donated(_) | Place::Arena { .. } => Ok(()),
        }
    }

    fn define(&mut self, buf: BufId, step: usize) {
        if matches!(self.memory(buf).0, Region::Own(_)) {
            self.state[buf.0 as usize] = State::Defined;
            return;
        }
        let mut shared = std::mem::take(&mut self.shared);
        shared.retain(|&other| {
            let lost = other != buf && self.overlap(other, buf);
            if lost {
                self.state[other.0 as usize] = State::Lost(buf, step);
            }
            !lost && other != buf
        });
        shared.push(buf);
        self.shared = shared;
        self.state[buf.0 as usize] = State::Defined;
    }

    fn kernel(&self, kernel: &Kernel, args: &[BufId]) -> Result<Vec<BufId>, String> {
        if args.len() != kernel.params.len() {
            return Err(format!("the kernel takes {} buffers, got {}", kernel.params.len(), args.len()));
        }
        let mut written = Vec::new();
        for (i, (param, &buf)) in kernel.params.iter().zip(args).enumerate() {
            let ty = self.ty(buf)?;
            if ty.dtype != param.dtype || ty.numel() != param.numel {
                return Err(format!("p{i} is {}[{}], b{} is {ty}", param.dtype.short(), param.numel, buf.0));
            }
            if param.access != Access::Write {
                self.read(buf)?;
            }
            if param.access != Access::Read {
                self.write(buf)?;
                written.push(buf);
            }
        }
        for (i, p) in kernel.params.iter().enumerate().filter(|(_, p)| p.access != Access::Read) {
            for (j, q) in kernel.params.iter().enumerate().filter(|&(j, _)| j != i) {
                if !self.overlap(args[i], args[j]) {
                    continue;
                }
                if q.access != Access::Read {
                    return Err(format!("p{i} and p{j} are both written and share memory"));
                }
                if p.dtype.size() != q.dtype.size() || self.memory(args[i]) != self.memory(args[j]) {
                    return Err(format!("p{i} is written and overlaps p{j} at another place"));
                }
                if let Some((_, message)) = conflict(kernel, j as u32, i as u32) {
                    return Err(format!("p{i} and p{j} share memory: {message}"));
                }
            }
        }
        Ok(written)
    }

    fn dot(&self, dot: &DotStep) -> Result<Vec<BufId>, String> {
        let out = self.ty(dot.out)?;
        let sizes = dot.batch.iter().chain([&dot.m, &dot.n]);
        let numel = sizes.clone().try_fold(1usize, |a, &n| a.checked_mul(n));
        if numel != Some(out.numel()) {
            return Err(format!("b{} is {out}, which is not batch x m x n", dot.out.0));
        }
        self.write(dot.out)?;
        for (name, x, rows, cols) in [("lhs", &dot.lhs, dot.m, dot.k), ("rhs", &dot.rhs, dot.k, dot.n)] {
            self.read(x.buf)?;
            if self.ty(x.buf)?.dtype != out.dtype {
                return Err(format!("{name} is {}, the result {}", self.ty(x.buf)?.dtype, out.dtype));
            }
            if self.overlap(x.buf, dot.out) {
                return Err(format!("{name} and the result share memory"));
            }
            self.dot_operand(x, &dot.batch, rows, cols).map_err(|m| format!("{name} {m}"))?;
        }
        Ok(vec![dot.out])
    }

    fn dot_operand(&self, x: &DotOperand, batch: &[usize], rows: usize, cols: usize) -> Result<(), String> {
        if x.batch_strides.len() != batch.len() {
            return Err(format!("has {} batch strides for {} axes", x.batch_strides.len(), batch.len()));
        }
        for (axis, extent, own) in [("rows", rows, &x.rows), ("columns", cols, &x.cols)] {
            let product = own.iter().try_fold(1usize, |n, d| n.checked_mul(d.0));
            if product != Some(extent) && extent != 0 {
                return Err(format!("has {extent} {axis}, the product of whose digits is not that"));
            }
            if digits(own.iter().copied()) != *own {
                return Err(format!("has {axis} whose digits could be fewer"));
            }
        }
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let axes = batch.iter().copied().zip(x.batch_strides.iter().copied());
        let (mut lo, mut hi) = (i128::from(x.offset), i128::from(x.offset));
        for (n, stride) in axes.chain(x.rows.iter().chain(&x.cols).copied()) {
            if n == 0 {
                return Ok(());
            }
            let reach = i128::from(stride) * (n as i128 - 1);
            lo += reach.min(0);
            hi += reach.max(0);
        }
        let n = self.ty(x.buf)?.numel();
        if lo < 0 || hi >= n as i128 {
            return Err(format!("addresses elements {lo} to {hi} of {n}"));
        }
        Ok(())
    }

    fn lib(&self, call: &LibCall, args: &[BufId], out: BufId) -> Result<Vec<BufId>, String> {
        let out_ty = self.ty(out)?;
        self.write(out)?;
        for &a in args {
            self.read(a)?;
        }
        let types: Vec<Type> = args.iter().map(|&a| self.ty(a).cloned()).collect::<Result<_, _>>()?;
        let result = match call.tensor_op() {
            _ if call.attend().is_some() => attention_type(call, &types)?,
            Some((name, attrs)) => lib_type(name, &attrs, &types)?,
            None => match (call, types.as_slice()) {
                (LibCall::Copy, [one]) => one.clone(),
                (LibCall::Fill(_), []) => out_ty.clone(),
                _ => return Err(format!("{} arguments are not what it takes", args.len())),
            },
        };
        if result.dtype != out_ty.dtype || result.numel() != out_ty.numel() {
            return Err(format!("it gives {result}, b{} is {out_ty}", out.0));
        }
        for (i, &a) in args.iter().enumerate().filter(|&(_, &a)| self.overlap(a, out)) {
            let in_place = i == 0
                && self.memory(a) == self.memory(out)
                && matches!(call, LibCall::Scatter { .. } | LibCall::IndexPut { .. } | LibCall::Copy);
            if !in_place {
                return Err(format!("argument {i} and the result share memory"));
            }
        }
        Ok(vec![out])
    }

    fn output(&self, out: BufId) -> Result<(), String> {
        if matches!(self.decl(out)?.place, Place::Arena { .. }) {
            return Err(format!("b{} is in the arena, which ends with the run", out.0));
        }
        self.read(out)
    }
}

/// Operands of an attention are strided views, checked here against their buffers.
fn attention_type(call: &LibCall, types: &[Type]) -> Result<Type, String> {
    let forward = matches!(call, LibCall::Attention(_));
    let attend = call.attend().ok_or_else(|| "it is no attention".to_string())?;
    let buffers: Vec<_> = types.iter().map(|t| (t.dtype, t.numel())).collect();
    attend.check(forward, &buffers)?;
    let n = attend.numel(forward).ok_or_else(|| "its result has too many elements".to_string())?;
    Ok(Type::new(attend.result(forward), Shape::of(&[n])))
}

fn lib_type(name: &str, attrs: &[Attr], types: &[Type]) -> Result<Type, String> {
    let op = ops::find(name).ok_or_else(|| format!("no op named {name}"))?;
    op.infer(types, attrs).map_err(|e| e.message().to_string())
}

#[cfg(test)]
mod tests {
    use super::super::examples::program;
    use super::*;
    use crate::dtype::DType;
    use crate::program::Step;
    use crate::scalar::ReduceOp;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Program), line: &str, message: &str) {
        let mut p = program();
        change(&mut p);
        let text = p.verify().expect_err("the program is wrong").message().to_string();
        let lines: Vec<&str> = text.lines().collect();
        let mark = lines.iter().position(|l| l.trim_start().starts_with("^ ")).expect(&text);
        assert!(lines[mark].contains(message), "{text}");
        assert!(lines[mark - 1].trim_start().starts_with(line), "{text}");
    }

    fn lib(call: LibCall, args: &[u32], out: u32) -> Step {
        let args = args.iter().map(|&a| BufId(a)).collect();
        Step { op: StepOp::Lib { call, args, out: BufId(out) }, ops: vec!["copy"], loc: None }
    }

    fn buffer(p: &mut Program, place: Place) -> u32 {
        let ty = Type::new(DType::F32, Shape::of(&[2, 3]));
        p.buffers.push(BufDecl { ty, place });
        p.buffers.len() as u32 - 1
    }

    #[test]
    fn a_correct_program_passes_and_prints() {
        let p = program();
        p.verify().unwrap();
        let head = "program arena 128 peak 152 {
  b0: f32[2, 3] input 0
  b1: f32[2, 1] arena 64
  b2: f32[2, 3] output
  kernel k0(b0, b1, b2) ; sum
  return b2
}

k0 = kernel sum_exp_mul grid [2] inner [3] {
";
        assert!(crate::text::program(&p).starts_with(head));
    }

    #[test]
    fn buffers_have_memory() {
        refused(|p| p.buffers[1].place = Place::Arena { offset: 128 }, "b1", "ends beyond the arena of 128 bytes");
        refused(|p| p.buffers[1].place = Place::Arena { offset: 8 }, "b1", "not a multiple of 64");
        refused(|p| p.buffers[0].place = Place::Input(1), "b0", "there is no input 1");
        refused(|p| p.buffers[1].place = Place::Const([0u8; 4][..].into()), "b1", "takes 8 bytes, the data has 4");
        refused(|p| p.peak_bytes = 127, "program", "the peak is below the arena");
        refused(|p| p.outputs[0] = BufId(1), "return", "b1 is in the arena");
        refused(|p| p.outputs[0] = BufId(7), "return", "there is no buffer b7");
    }

    #[test]
    fn reads_follow_writes() {
        refused(|p| p.steps.clear(), "return", "b2 is read before it is written");
        refused(|p| p.buffers[2].place = Place::Input(0), "kernel", "b2 is input 0, which was not donated");
        refused(|p| p.steps.insert(0, lib(LibCall::Copy, &[2], 1)), "b1 = copy", "b2 is read before it is written");
    }

    #[test]
    fn live_buffers_of_the_arena_do_not_overlap() {
        refused(
            |p| {
                let (x, y) = (buffer(p, Place::Arena { offset: 0 }), buffer(p, Place::Arena { offset: 0 }));
                p.steps.push(lib(LibCall::Copy, &[0], x));
                p.steps.push(lib(LibCall::Copy, &[2], y));
                p.steps.push(lib(LibCall::Copy, &[x], 2));
            },
            "b2 = copy",
            "b3 is read after step 2 wrote b4, which shares its memory",
        );
        refused(
            |p| {
                p.buffers[2].place = Place::Arena { offset: 64 };
                p.outputs.clear();
            },
            "kernel",
            "p1 and p2 are both written and share memory",
        );
    }

    #[test]
    fn a_donated_input_is_not_used_after_it_was_overwritten() {
        // The kernel loads and stores each element at one place: in place is right.
        let mut p = program();
        p.buffers[2].place = Place::Donated(0);
        p.verify().unwrap();
        p.outputs.push(BufId(0));
        let e = p.verify().unwrap_err();
        assert!(e.message().contains("b0 is read after step 0 wrote b2, which shares its memory"), "{e}");
        refused(
            |p| {
                p.buffers[1].ty = p.buffers[0].ty.clone();
                p.buffers[1].place = Place::Donated(0);
                p.steps[0] = lib(LibCall::Scan { op: ReduceOp::Sum, dim: 0 }, &[0], 1);
            },
            "b1 = scan",
            "argument 0 and the result share memory",
        );
    }

    #[test]
    fn arguments_fit() {
        refused(|p| p.inputs[0].dtype = DType::F64, "b0", "input 0 is f64[2, 3]");
        refused(|p| p.steps.push(lib(LibCall::Copy, &[1], 2)), "b2 = copy", "it gives f32[2, 1]");
        refused(|p| p.steps.push(lib(LibCall::Copy, &[], 2)), "b2 = copy", "0 arguments are not what it takes");
        refused(
            |p| p.steps.push(lib(LibCall::ArgSort { dim: 5, descending: false }, &[0], 2)),
            "b2 = argsort",
            "dim 5 is out of range",
        );
    }
}
