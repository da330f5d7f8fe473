//! The writer.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Stage};
use crate::program::{Attend, BufDecl, BufId, DotOperand, LibCall, Place, Program, Stats, Step, StepOp};
use crate::scalar::ScalarOp;
use crate::shape::Type;
use crate::text::program::distinct_kernels;
use std::collections::{BTreeSet, HashMap};

/// The bytes of a program.
pub fn encode(program: &Program) -> Vec<u8> {
    let mut w = Writer { out: Vec::new(), names: HashMap::new() };
    let names: BTreeSet<&'static str> = program.steps.iter().flat_map(|s| s.ops.iter().copied()).collect();
    w.list(names.iter(), |w, name| w.text(name));
    w.names = names.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
    let kernels = distinct_kernels(program);
    w.list(kernels.iter(), |w, kernel| w.kernel(kernel));
    let place: HashMap<&Kernel, usize> = kernels.iter().enumerate().map(|(i, k)| (k.as_ref(), i)).collect();
    w.list(program.inputs.iter(), Writer::ty);
    w.list(program.buffers.iter(), Writer::buffer);
    w.list(program.steps.iter(), |w, step| w.step(step, &place));
    w.bufs(&program.outputs);
    w.size(program.arena_bytes);
    w.size(program.peak_bytes);
    w.stats(&program.stats);
    w.out
}

struct Writer {
    out: Vec<u8>,
    names: HashMap<&'static str, usize>,
}

impl Writer {
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.out.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.out.push(n as u8);
    }
    fn size(&mut self, n: usize) {
        self.number(n as u64);
    }
    fn signed(&mut self, n: i64) {
        self.number(((n << 1) ^ (n >> 63)) as u64);
    }
    fn tag(&mut self, n: u8) {
        self.out.push(n);
    }
    fn flag(&mut self, b: bool) {
        self.out.push(u8::from(b));
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.size(bytes.len());
        self.out.extend_from_slice(bytes);
    }
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
    fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut f: impl FnMut(&mut Writer, T)) {
        self.size(items.len());
        items.for_each(|item| f(self, item));
    }
    fn sizes(&mut self, sizes: &[usize]) {
        self.list(sizes.iter(), |w, &n| w.size(n));
    }
    fn ints(&mut self, ints: &[i64]) {
        self.list(ints.iter(), |w, &n| w.signed(n));
    }
    fn dtype(&mut self, dtype: DType) {
        self.tag(dtype as u8);
    }
    fn ty(&mut self, ty: &Type) {
        self.dtype(ty.dtype);
        self.sizes(ty.shape.dims());
    }
    fn scalar(&mut self, scalar: Scalar) {
        match scalar {
            Scalar::Bool(b) => {
                self.tag(0);
                self.flag(b);
            }
            Scalar::Int(i) => {
                self.tag(1);
                self.signed(i);
            }
            Scalar::Float(x) => {
                self.tag(2);
                self.out.extend(x.to_bits().to_le_bytes());
            }
        }
    }
    /// The place of a member of a closed set.
    fn member<T: PartialEq>(&mut self, all: &[T], one: &T) {
        let place = all.iter().position(|x| x == one).unwrap_or(all.len());
        self.tag(place as u8);
    }
    fn affine(&mut self, index: &Affine) {
        self.signed(index.offset);
        self.ints(&index.strides);
    }

    fn kernel(&mut self, kernel: &Kernel) {
        self.text(&kernel.name);
        self.list(kernel.params.iter(), |w, p| {
            w.dtype(p.dtype);
            w.size(p.numel);
            w.tag(match p.access {
                Access::Read => 0,
                Access::Write => 1,
                Access::ReadWrite => 2,
            });
        });
        self.sizes(&kernel.grid);
        self.sizes(&kernel.inner);
        self.list(kernel.values.iter(), |w, value| {
            w.dtype(value.dtype);
            w.inst(&value.inst);
        });
        self.list(kernel.stages.iter(), Writer::stage);
    }

    fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::Const(c) => {
                self.tag(0);
                self.scalar(*c);
            }
            Inst::Load { param, index } => {
                self.tag(1);
                self.number(u64::from(*param));
                self.affine(index);
            }
            Inst::Index(index) => {
                self.tag(2);
                self.affine(index);
            }
            Inst::Reduced => self.tag(3),
            Inst::Op(op, operands) => {
                match op {
                    ScalarOp::Un(op) => {
                        self.tag(4);
                        self.member(crate::UnOp::ALL, op);
                    }
                    ScalarOp::Bin(op) => {
                        self.tag(5);
                        self.member(crate::BinOp::ALL, op);
                    }
                    ScalarOp::Cmp(op) => {
                        self.tag(6);
                        self.member(crate::CmpOp::ALL, op);
                    }
                    ScalarOp::Select => self.tag(7),
                    ScalarOp::Cast => self.tag(8),
                    ScalarOp::Bitcast => self.tag(9),
                }
                self.list(operands.iter(), |w, id| w.number(u64::from(id.0)));
            }
        }
    }

    fn stage(&mut self, stage: &Stage) {
        self.flag(stage.domain == Domain::Full);
        self.list(stage.insts.iter(), |w, id| w.number(u64::from(id.0)));
        self.list(stage.reduces.iter(), |w, r| {
            w.member(crate::ReduceOp::ALL, &r.op);
            w.number(u64::from(r.value.0));
            w.number(u64::from(r.out.0));
        });
        self.list(stage.stores.iter(), |w, s| {
            w.number(u64::from(s.param));
            w.affine(&s.index);
            w.number(u64::from(s.value.0));
        });
    }

    fn buffer(&mut self, buffer: &BufDecl) {
        self.ty(&buffer.ty);
        match &buffer.place {
            Place::Input(i) => {
                self.tag(0);
                self.number(u64::from(*i));
            }
            Place::Output => self.tag(1),
            Place::Donated(i) => {
                self.tag(2);
                self.number(u64::from(*i));
            }
            Place::Arena { offset } => {
                self.tag(3);
                self.size(*offset);
            }
            Place::Const(data) => {
                self.tag(4);
                self.bytes(data);
            }
        }
    }

    fn buf(&mut self, id: BufId) {
        self.number(u64::from(id.0));
    }
    fn bufs(&mut self, ids: &[BufId]) {
        self.list(ids.iter(), |w, &id| w.buf(id));
    }

    fn step(&mut self, step: &Step, kernels: &HashMap<&Kernel, usize>) {
        match &step.op {
            StepOp::Kernel { kernel, args } => {
                self.tag(0);
                self.size(kernels[kernel.as_ref()]);
                self.bufs(args);
            }
            StepOp::Dot(dot) => {
                self.tag(1);
                self.sizes(&dot.batch);
                [dot.m, dot.n, dot.k].into_iter().for_each(|n| self.size(n));
                self.operand(&dot.lhs);
                self.operand(&dot.rhs);
                self.buf(dot.out);
            }
            StepOp::Lib { call, args, out } => {
                self.tag(2);
                self.call(call);
                self.bufs(args);
                self.buf(*out);
            }
        }
        self.list(step.ops.iter(), |w, name| {
            let place = w.names[name];
            w.size(place);
        });
    }

    fn operand(&mut self, operand: &DotOperand) {
        self.buf(operand.buf);
        self.signed(operand.offset);
        self.ints(&operand.batch_strides);
        for digits in [&operand.rows, &operand.cols] {
            self.list(digits.iter(), |w, &(extent, stride)| {
                w.size(extent);
                w.signed(stride);
            });
        }
    }

    fn call(&mut self, call: &LibCall) {
        let modes = &crate::program::ScatterMode::ALL;
        match call {
            LibCall::Take { dim } => {
                self.tag(0);
                self.size(*dim);
            }
            LibCall::Gather { dim } => {
                self.tag(1);
                self.size(*dim);
            }
            LibCall::Scatter { dim, mode } => {
                self.tag(2);
                self.size(*dim);
                self.member(modes, mode);
            }
            LibCall::IndexPut { dim, mode } => {
                self.tag(3);
                self.size(*dim);
                self.member(modes, mode);
            }
            LibCall::ArgSort { dim, descending } => {
                self.tag(4);
                self.size(*dim);
                self.flag(*descending);
            }
            LibCall::Scan { op, dim } => {
                self.tag(5);
                self.member(crate::ReduceOp::ALL, op);
                self.size(*dim);
            }
            LibCall::Attention(a) => {
                self.tag(6);
                self.attend(a);
            }
            LibCall::AttentionGrad(a) => {
                self.tag(7);
                self.attend(a);
            }
            LibCall::Fill(value) => {
                self.tag(8);
                self.scalar(*value);
            }
            LibCall::Copy => self.tag(9),
        }
    }

    fn attend(&mut self, a: &Attend) {
        self.sizes(&a.batch);
        [a.queries, a.keys, a.depth, a.width].into_iter().for_each(|n| self.size(n));
        self.dtype(a.dtype);
        self.scalar(a.scale);
        self.flag(a.causal);
        self.scalar(a.dropout);
        [a.mask, a.safe, a.lse].into_iter().for_each(|b| self.flag(b));
        self.list(a.sides.iter(), |w, side| {
            w.signed(side.offset);
            w.ints(&side.batch);
            w.signed(side.row);
            w.signed(side.col);
        });
    }

    fn stats(&mut self, stats: &Stats) {
        [stats.nodes, stats.kernels_unfused, stats.kernels].into_iter().for_each(|n| self.size(n));
        self.number(stats.bytes_moved);
        self.number(stats.flops);
        self.list(stats.steps.iter(), |w, &(bytes, flops)| {
            w.number(bytes);
            w.number(flops);
        });
        self.list(stats.fusion_notes.iter(), |w, note| w.text(note));
    }
}
