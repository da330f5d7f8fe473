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

use super::kernel::Uses;
use super::report::failure;
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::kernel::{Access, Kernel};
use crate::ops;
use crate::program::{BufDecl, BufId, DotOperand, DotStep, LibCall, Place, Program, StepOp, digits, reach};
use crate::shape::{Shape, Type};
use crate::text::program::{Line, distinct_kernels, lines};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

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

    /// The memory of a buffer; of one that does not exist, none.
    pub(crate) fn memory(&self, buf: BufId) -> (Region, Range<usize>) {
        let Some(decl) = self.buffers.get(buf.0 as usize) else { return (Region::Own(buf.0), 0..0) };
        let n = decl.ty.nbytes();
        match decl.place {
            Place::Input(i) | Place::Donated(i) => (Region::Input(i), 0..n),
            Place::Arena { offset } => (Region::Arena, offset..offset + n),
            Place::Output | Place::Const(_) => (Region::Own(buf.0), 0..n),
        }
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

/// Arguments of a library call, at most: those of the gradient of an attention with a mask and dropout.
const MAX_ARGS: usize = 7;

/// A line of the listing and what is wrong there.
type Check<T = ()> = std::result::Result<T, (Line, String)>;

/// Which memory a buffer is in.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Region {
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
    /// Defined buffers of the arena by where they start, none of which overlap; an empty one is not among them.
    arena: BTreeMap<usize, BufId>,
    /// Defined buffers of inputs: all that were declared until the first write, then what was written last.
    inputs: HashMap<u32, Vec<BufId>>,
    /// Kernels by address, with the pairs of parameters that may share memory.
    kernels: HashMap<*const Kernel, InPlace<'a>>,
}

/// Where a kernel uses its parameters, and the pairs (loaded, stored) found to be right in place.
type InPlace<'a> = (Uses<'a>, HashSet<(u32, u32)>);

impl<'a> Checker<'a> {
    fn new(program: &'a Program) -> Checker<'a> {
        Checker { program, state: Vec::new(), arena: BTreeMap::new(), inputs: HashMap::new(), kernels: HashMap::new() }
    }

    fn run(mut self) -> Check {
        for (i, buf) in self.program.buffers.iter().enumerate() {
            let state = self.buffer(buf).map_err(|m| (Line::Buffer(i), m))?;
            self.state.push(state);
            if let (Place::Input(n) | Place::Donated(n), State::Defined) = (&buf.place, state) {
                self.inputs.entry(*n).or_default().push(BufId(i as u32));
            }
        }
        if self.program.peak_bytes < self.program.arena_bytes {
            return Err((Line::Head, "the peak is below the arena".to_string()));
        }
        let program = self.program;
        for (i, step) in program.steps.iter().enumerate() {
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
                let retyped = ty.dtype != buf.ty.dtype;
                if (retyped && matches!(buf.place, Place::Input(_))) || ty.nbytes() != buf.ty.nbytes() {
                    return Err(format!("input {i} is {ty}"));
                }
                // Bytes of one dtype are no values of another, least of all bools.
                Ok(if retyped { State::Undefined } else { State::Defined })
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

    fn memory(&self, buf: BufId) -> (Region, Range<usize>) {
        self.program.memory(buf)
    }

    fn overlap(&self, a: BufId, b: BufId) -> bool {
        let ((ra, a), (rb, b)) = (self.memory(a), self.memory(b));
        ra == rb && a.start < b.end && b.start < a.end
    }

    /// True for two declarations of the same bytes with one dtype and different shapes: a reshape in place. What was written
    /// to a donated input is not in the input itself where that had to be copied.
    fn alias(&self, a: BufId, b: BufId) -> bool {
        let decl = |x: BufId| self.program.buffers.get(x.0 as usize);
        let ty = |x: BufId| decl(x).map(|d| &d.ty);
        let is_input = |x: BufId| decl(x).is_some_and(|d| matches!(d.place, Place::Input(_)));
        let reshaped = ty(a).map(|t| t.dtype) == ty(b).map(|t| t.dtype) && ty(a) != ty(b);
        reshaped && self.memory(a) == self.memory(b) && is_input(a) == is_input(b)
    }

    fn read(&self, buf: BufId) -> Result<(), String> {
        let decl = self.decl(buf)?;
        match self.state[buf.0 as usize] {
            State::Defined => Ok(()),
            State::Undefined if decl.ty.numel() == 0 => Ok(()),
            State::Undefined | State::Lost(..) if self.holder(buf).is_some_and(|other| self.alias(other, buf)) => {
                Ok(())
            }
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

    /// The defined buffer that starts where this one does and may be read in its stead. Before the first write to an input
    /// all its buffers of its dtype are defined, so that no other need be found.
    fn holder(&self, buf: BufId) -> Option<BufId> {
        match self.memory(buf) {
            (Region::Arena, at) => self.arena.get(&at.start).copied(),
            (Region::Input(i), _) => self.inputs.get(&i)?.last().copied(),
            (Region::Own(_), _) => None,
        }
    }

    fn define(&mut self, buf: BufId, step: usize) {
        let (region, at) = self.memory(buf);
        let lost = match region {
            _ if at.is_empty() => Vec::new(),
            Region::Own(_) => Vec::new(),
            Region::Input(i) => std::mem::replace(self.inputs.entry(i).or_default(), vec![buf]),
            Region::Arena => {
                // Those that are defined do not overlap: all that start before the end of this one and end behind its
                // start are the last ones.
                let before = self.arena.range(..at.end).rev().map(|(_, &other)| other);
                before.take_while(|&other| self.memory(other).1.end > at.start).collect()
            }
        };
        for other in lost {
            if let (Region::Arena, was) = self.memory(other) {
                self.arena.remove(&was.start);
            }
            self.state[other.0 as usize] = State::Lost(buf, step);
        }
        if region == Region::Arena && !at.is_empty() {
            self.arena.insert(at.start, buf);
        }
        self.state[buf.0 as usize] = State::Defined;
    }

    fn kernel(&mut self, kernel: &'a Arc<Kernel>, args: &[BufId]) -> Result<Vec<BufId>, String> {
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
        for (i, j) in self.overlaps(kernel, args) {
            let (p, q) = (&kernel.params[i as usize], &kernel.params[j as usize]);
            if q.access != Access::Read {
                return Err(format!("p{} and p{} are both written and share memory", i.min(j), i.max(j)));
            }
            if p.dtype.size() != q.dtype.size() || self.memory(args[i as usize]) != self.memory(args[j as usize]) {
                return Err(format!("p{i} is written and overlaps p{j} at another place"));
            }
            let (uses, right) =
                self.kernels.entry(Arc::as_ptr(kernel)).or_insert_with(|| (Uses::of(kernel), HashSet::new()));
            if !right.contains(&(j, i)) {
                if let Some((_, message)) = uses.conflict(j, i) {
                    return Err(format!("p{i} and p{j} share memory: {message}"));
                }
                right.insert((j, i));
            }
        }
        Ok(written)
    }

    /// Pairs of a written parameter and another that overlaps it, found in order of addresses. All pairs in the same memory are
    /// among them, and of those that overlap otherwise, which is wrong, at least one.
    fn overlaps(&self, kernel: &Kernel, args: &[BufId]) -> Vec<(u32, u32)> {
        let mut spans: Vec<(Region, usize, usize, u32)> = Vec::with_capacity(args.len());
        for (i, &buf) in args.iter().enumerate() {
            let (region, at) = self.memory(buf);
            if !at.is_empty() {
                spans.push((region, at.start, at.end, i as u32));
            }
        }
        spans.sort_unstable();
        let is_written = |i: u32| kernel.params.get(i as usize).is_some_and(|p| p.access != Access::Read);
        let mut pairs = Vec::new();
        // The span that reaches furthest so far in this region, and the written one that does.
        type Reach = Option<(usize, u32)>;
        let (mut here, mut any, mut wrote): (_, Reach, Reach) = (None, None, None);
        for one in spans.chunk_by(|x, y| (x.0, x.1, x.2) == (y.0, y.1, y.2)) {
            let (region, from, to, first) = one[0];
            if here != Some(region) {
                (here, any, wrote) = (Some(region), None, None);
            }
            let writer = one.iter().map(|s| s.3).find(|&i| is_written(i));
            if let Some(w) = writer {
                pairs.extend(one.iter().filter(|s| s.3 != w).map(|s| (w, s.3)));
                pairs.extend(any.filter(|&(end, _)| end > from).map(|(_, other)| (w, other)));
                if wrote.is_none_or(|(end, _)| to > end) {
                    wrote = Some((to, w));
                }
            } else {
                pairs.extend(wrote.filter(|&(end, _)| end > from).map(|(_, w)| (w, first)));
            }
            if any.is_none_or(|(end, _)| to > end) {
                any = Some((to, writer.unwrap_or(first)));
            }
        }
        pairs
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
        let dims: Vec<usize> = batch.iter().copied().chain([rows, cols]).collect();
        Shape::new(&dims).map_err(|e| format!("is too large: {}", e.message()))?;
        if dims.contains(&0) {
            return Ok(());
        }
        let axes = batch.iter().copied().zip(x.batch_strides.iter().copied());
        let n = self.ty(x.buf)?.numel();
        match reach(x.offset, axes.chain(x.rows.iter().chain(&x.cols).copied())) {
            Some((lo, hi)) if lo >= 0 && hi < n as i128 => Ok(()),
            Some((lo, hi)) => Err(format!("addresses elements {lo} to {hi} of {n}")),
            None => Err(format!("addresses elements far beyond its {n}")),
        }
    }

    fn lib(&self, call: &LibCall, args: &[BufId], out: BufId) -> Result<Vec<BufId>, String> {
        let out_ty = self.ty(out)?;
        self.write(out)?;
        // Before any work for each: no call takes more than this.
        let takes = |n: usize| format!("{n} arguments are not what it takes");
        if args.len() > MAX_ARGS {
            return Err(takes(args.len()));
        }
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
                _ => return Err(takes(args.len())),
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
    let n = attend.numel(forward).ok_or_else(|| "its result has too many elements".to_string())?;
    attend.check(forward, &buffers)?;
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
    use crate::program::{Attend, Side, Step};
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
        // Neither in another shape: where the input had to be copied, the two are different memory.
        let reshaped = Type::new(DType::F32, Shape::of(&[3, 2]));
        p.buffers.push(BufDecl { ty: reshaped, place: Place::Input(0) });
        p.outputs[1] = BufId(3);
        let e = p.verify().unwrap_err();
        assert!(e.message().contains("b3 is read after step 0 wrote b2, which shares its memory"), "{e}");
        p.buffers[3].place = Place::Donated(0);
        p.verify().unwrap();
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
    fn bytes_of_another_dtype_are_no_value() {
        let mut p = program();
        p.buffers[2].place = Place::Donated(0);
        p.buffers[0].ty.dtype = DType::I32;
        p.inputs[0].dtype = DType::I32;
        p.buffers.push(BufDecl { ty: Type::new(DType::F32, Shape::of(&[2, 3])), place: Place::Output });
        p.steps = vec![lib(LibCall::Copy, &[2], 3)];
        p.outputs = vec![BufId(3)];
        assert!(p.verify().unwrap_err().message().contains("b2 is read before it is written"));
        // As memory to write to it is as good as any.
        p.steps.insert(0, lib(LibCall::Fill(crate::Scalar::Float(1.0)), &[], 2));
        p.verify().unwrap();
        p.outputs.push(BufId(0));
        assert!(p.verify().unwrap_err().message().contains("b0 is read after step 0 wrote b2"));
    }

    #[test]
    fn addresses_beyond_128_bits_are_refused() {
        let far = |batch: &[usize], digits: &[(usize, i64)], strides: &[i64]| DotOperand {
            buf: BufId(0),
            offset: i64::MIN,
            batch_strides: strides.into(),
            rows: digits.into(),
            cols: if batch.is_empty() { Default::default() } else { digits.into() },
        };
        let dot = |batch: &[usize], k: usize, stride: i64| DotStep {
            batch: batch.into(),
            m: 1,
            n: 1,
            k,
            lhs: DotOperand { rows: Default::default(), cols: [(k, stride)][..].into(), ..far(&[], &[], &[stride]) },
            rhs: DotOperand { cols: Default::default(), rows: [(k, stride)][..].into(), ..far(&[], &[], &[stride]) },
            out: BufId(2),
        };
        for k in [usize::MAX, 1 << 60, 1 << 59] {
            let mut p = program();
            p.buffers[2].ty = Type::new(DType::F32, Shape::of(&[1 << 59]));
            let dot = dot(&[1 << 59], k, i64::MIN);
            p.steps.push(Step { op: StepOp::Dot(dot), ops: vec![], loc: None });
            p.steps.remove(0);
            assert!(p.verify().unwrap_err().message().contains("lhs is too large"));
        }
        // Every extent fits, the addresses do not.
        let n = 1usize << 59;
        assert_eq!(reach(0, [(usize::MAX, i64::MIN), (usize::MAX, i64::MIN)]), None);
        assert_eq!(reach(i64::MIN, [(n, i64::MIN)]).map(|r| r.1), Some(i128::from(i64::MIN)));
        let most = usize::MAX;
        for batch in [&[most, most][..], &[most], &[n, 2], &[0, most, most]] {
            let side = || Side {
                offset: i64::MIN,
                batch: batch.iter().map(|_| i64::MIN).collect(),
                row: i64::MIN,
                col: i64::MIN,
            };
            let attend = Attend {
                batch: batch.into(),
                queries: 2,
                keys: 2,
                depth: 2,
                width: 0,
                dtype: DType::F32,
                scale: crate::Scalar::Float(1.0),
                causal: false,
                dropout: crate::Scalar::Float(0.0),
                mask: false,
                safe: false,
                lse: false,
                sides: vec![side(), side(), side()],
            };
            let mut p = program();
            p.steps.push(lib(LibCall::Attention(Box::new(attend)), &[0, 0, 0], 2));
            let e = p.verify().unwrap_err();
            let told = ["more elements than can be addressed", "its result has too many elements"];
            assert!(told.iter().any(|m| e.message().contains(m)), "{e}");
        }
    }

    #[test]
    fn a_written_parameter_overlaps_no_part_of_another() {
        let at = |offset: usize| {
            let mut p = program();
            p.arena_bytes = 256;
            p.peak_bytes = 256;
            p.outputs.clear();
            p.buffers[1].place = Place::Arena { offset: 0 };
            p.buffers[0] = BufDecl { ty: p.buffers[0].ty.clone(), place: Place::Arena { offset } };
            p.steps.insert(0, lib(LibCall::Fill(crate::Scalar::Float(1.0)), &[], 0));
            p
        };
        at(64).verify().unwrap();
        let e = at(0).verify().unwrap_err();
        assert!(e.message().contains("p1 is written and overlaps p0 at another place"), "{e}");
    }

    /// A quadratic verifier takes minutes for these.
    #[test]
    fn large_programs_are_verified_in_time() {
        let start = std::time::Instant::now();
        // One call of many arguments.
        let mut p = program();
        p.steps.push(lib(LibCall::Copy, &vec![0; 1 << 20], 2));
        assert!(p.verify().unwrap_err().message().contains("1048576 arguments"));
        // Many steps of one kernel, and many kernels of equal value.
        let mut p = program();
        let step = p.steps[0].clone();
        p.steps = vec![step.clone(); 1 << 17];
        p.verify().unwrap();
        // Many buffers in one arena, each of which is written.
        let mut p = program();
        let n = 1usize << 17;
        p.arena_bytes = (n + 1) * ARENA_ALIGN;
        p.peak_bytes = p.arena_bytes;
        p.buffers[1].place = Place::Arena { offset: n * ARENA_ALIGN };
        for i in 0..n {
            let x = buffer(&mut p, Place::Arena { offset: i * ARENA_ALIGN });
            p.steps.push(lib(LibCall::Copy, &[0], x));
        }
        p.verify().unwrap();
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
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
