//! The reader.

use super::{MAX_AXES, MAX_EXTENT, MAX_ITEMS, MAX_KERNEL_ITEMS, MAX_PAIRS, MAX_TEXT};
use crate::attr::Scalar;
use crate::dtype::DType;
use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Param, Reduce, Stage, Store, Value, ValueId};
use crate::program::{
    Attend, BufDecl, BufId, Digits, DotOperand, DotStep, LibCall, Place, Program, ScatterMode, Side, Stats, Step,
    StepOp, digits,
};
use crate::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use crate::shape::{Dims, Ints, Shape, Type};
use smallvec::{Array, SmallVec};
use std::sync::Arc;

/// What is wrong with the bytes.
pub type Why = &'static str;
type Read<T> = Result<T, Why>;

const SHORT: Why = "it ends too early";
const RANGE: Why = "a number out of range";
const CHOICE: Why = "an unknown choice";

/// Reads a program. The error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Read<Program> {
    let mut r = Reader { bytes, items: MAX_ITEMS };
    let names = r.names()?;
    let kernels = r.list(|r| r.kernel().map(Arc::new))?;
    let mut program = Program { inputs: r.list(Reader::ty)?, buffers: r.list(Reader::buffer)?, ..Program::default() };
    program.steps = r.list(|r| r.step(&names, &kernels))?;
    if program.steps.len().saturating_mul(program.buffers.len()) > MAX_PAIRS {
        return Err("too many steps for so many buffers");
    }
    program.outputs = r.list(Reader::buf)?;
    program.arena_bytes = r.size()?;
    program.peak_bytes = r.size()?;
    program.stats = r.stats()?;
    if r.bytes.is_empty() { Ok(program) } else { Err("bytes behind its end") }
}

struct Reader<'b> {
    bytes: &'b [u8],
    items: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Read<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(SHORT)?;
        self.bytes = rest;
        Ok(taken)
    }
    fn tag(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }
    fn flag(&mut self) -> Read<bool> {
        match self.tag()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CHOICE),
        }
    }
    fn number(&mut self) -> Read<u64> {
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.tag()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(RANGE);
            }
            n |= part << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err("a number that is not in its shortest form") } else { Ok(n) };
            }
        }
        Err(RANGE)
    }
    fn size(&mut self) -> Read<usize> {
        usize::try_from(self.number()?).map_err(|_| RANGE)
    }
    /// A number of elements along an axis, or of an axis.
    fn extent(&mut self) -> Read<usize> {
        self.size().and_then(|n| if n > MAX_EXTENT { Err(RANGE) } else { Ok(n) })
    }
    fn id(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| RANGE)
    }
    fn signed(&mut self) -> Read<i64> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }
    /// A length of a list, each of whose items takes a byte at least.
    fn count(&mut self, most: usize) -> Read<usize> {
        let n = self.size()?;
        if n > self.bytes.len() {
            return Err("a list that is longer than what is left");
        }
        if n > most { Err("a list that is too long") } else { Ok(n) }
    }
    /// A list of items that count.
    fn list<T>(&mut self, f: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        self.list_of(usize::MAX, f)
    }
    /// A list of so many items that count, at most.
    fn list_of<T>(&mut self, most: usize, mut f: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let n = self.count(self.items.min(most))?;
        self.items -= n;
        // It grows as items are read, each of which has cost its bytes.
        let mut out = Vec::with_capacity(n.min(1024));
        for _ in 0..n {
            out.push(f(self)?);
        }
        Ok(out)
    }
    /// A short list of numbers.
    fn short<A: Array>(&mut self, mut f: impl FnMut(&mut Self) -> Read<A::Item>) -> Read<SmallVec<A>> {
        let n = self.count(MAX_AXES)?;
        (0..n).map(|_| f(self)).collect()
    }
    fn text(&mut self) -> Read<&'b str> {
        let n = self.count(MAX_TEXT)?;
        std::str::from_utf8(self.take(n)?).map_err(|_| "a text that is not UTF-8")
    }
    fn member<T: Copy>(&mut self, all: &[T]) -> Read<T> {
        all.get(usize::from(self.tag()?)).copied().ok_or(CHOICE)
    }
    fn dtype(&mut self) -> Read<DType> {
        self.member(&DType::ALL)
    }
    fn sizes(&mut self) -> Read<Dims> {
        self.short(Reader::extent)
    }
    fn ints(&mut self) -> Read<Ints> {
        self.short(Reader::signed)
    }
    fn ty(&mut self) -> Read<Type> {
        let dtype = self.dtype()?;
        let shape = Shape::new(&self.sizes()?).map_err(|_| "a shape of more elements than can be addressed")?;
        Ok(Type::new(dtype, shape))
    }
    fn scalar(&mut self) -> Read<Scalar> {
        Ok(match self.tag()? {
            0 => Scalar::Bool(self.flag()?),
            1 => Scalar::Int(self.signed()?),
            2 => {
                let mut bits = [0; 8];
                bits.copy_from_slice(self.take(8)?);
                Scalar::Float(f64::from_bits(u64::from_le_bytes(bits)))
            }
            _ => return Err(CHOICE),
        })
    }
    fn affine(&mut self) -> Read<Affine> {
        Ok(Affine { offset: self.signed()?, strides: self.ints()? })
    }

    /// Names of ops, in order.
    fn names(&mut self) -> Read<Vec<&'static str>> {
        let mut last = "";
        self.list(|r| {
            let name = r.text()?;
            if name <= last {
                return Err("names that are not in order");
            }
            last = name;
            crate::ops::find(name).map(|op| op.name).ok_or("a name of no op")
        })
    }

    fn kernel(&mut self) -> Read<Kernel> {
        let name = self.text()?.to_string();
        let params = self.list_of(MAX_KERNEL_ITEMS, |r| {
            let (dtype, numel) = (r.dtype()?, r.extent()?);
            Ok(Param { dtype, numel, access: r.member(&[Access::Read, Access::Write, Access::ReadWrite])? })
        })?;
        let (grid, inner) = (self.sizes()?, self.sizes()?);
        let values = self.list_of(MAX_KERNEL_ITEMS, |r| {
            let dtype = r.dtype()?;
            Ok(Value { dtype, inst: r.inst()? })
        })?;
        Ok(Kernel { name, params, grid, inner, values, stages: self.list_of(MAX_KERNEL_ITEMS, Reader::stage)? })
    }

    fn inst(&mut self) -> Read<Inst> {
        let op = match self.tag()? {
            0 => return Ok(Inst::Const(self.scalar()?)),
            1 => return Ok(Inst::Load { param: self.id()?, index: self.affine()? }),
            2 => return Ok(Inst::Index(self.affine()?)),
            3 => return Ok(Inst::Reduced),
            4 => ScalarOp::Un(self.member(UnOp::ALL)?),
            5 => ScalarOp::Bin(self.member(BinOp::ALL)?),
            6 => ScalarOp::Cmp(self.member(CmpOp::ALL)?),
            7 => ScalarOp::Select,
            8 => ScalarOp::Cast,
            9 => ScalarOp::Bitcast,
            _ => return Err(CHOICE),
        };
        Ok(Inst::Op(op, self.short(Reader::value)?))
    }

    fn value(&mut self) -> Read<ValueId> {
        self.id().map(ValueId)
    }

    fn stage(&mut self) -> Read<Stage> {
        let domain = if self.flag()? { Domain::Full } else { Domain::Row };
        let insts = self.list_of(MAX_KERNEL_ITEMS, Reader::value)?;
        let reduces = self.list_of(MAX_KERNEL_ITEMS, |r| {
            Ok(Reduce { op: r.member(ReduceOp::ALL)?, value: r.value()?, out: r.value()? })
        })?;
        let stores =
            self.list_of(MAX_KERNEL_ITEMS, |r| Ok(Store { param: r.id()?, index: r.affine()?, value: r.value()? }))?;
        Ok(Stage { domain, insts, reduces, stores })
    }

    fn buffer(&mut self) -> Read<BufDecl> {
        let ty = self.ty()?;
        let place = match self.tag()? {
            0 => Place::Input(self.id()?),
            1 => Place::Output,
            2 => Place::Donated(self.id()?),
            3 => Place::Arena { offset: self.size()? },
            4 => {
                let n = self.count(usize::MAX)?;
                let data = self.take(n)?;
                // Kernels rely on it.
                if ty.dtype == DType::Bool && data.iter().any(|&b| b > 1) {
                    return Err("a bool that is neither 0 nor 1");
                }
                Place::Const(data.into())
            }
            _ => return Err(CHOICE),
        };
        Ok(BufDecl { ty, place })
    }

    fn buf(&mut self) -> Read<BufId> {
        self.id().map(BufId)
    }

    fn step(&mut self, names: &[&'static str], kernels: &[Arc<Kernel>]) -> Read<Step> {
        let op = match self.tag()? {
            0 => {
                let kernel = kernels.get(self.size()?).ok_or("a kernel that is not there")?.clone();
                StepOp::Kernel { kernel, args: self.list(Reader::buf)? }
            }
            1 => {
                let batch = self.sizes()?;
                let (m, n, k) = (self.extent()?, self.extent()?, self.extent()?);
                StepOp::Dot(DotStep { batch, m, n, k, lhs: self.operand()?, rhs: self.operand()?, out: self.buf()? })
            }
            2 => StepOp::Lib { call: self.call()?, args: self.list(Reader::buf)?, out: self.buf()? },
            _ => return Err(CHOICE),
        };
        let ops = self.list(|r| names.get(r.size()?).copied().ok_or("a name that is not there"))?;
        Ok(Step { op, ops, loc: None })
    }

    fn operand(&mut self) -> Read<DotOperand> {
        let (buf, offset, batch_strides) = (self.buf()?, self.signed()?, self.ints()?);
        Ok(DotOperand { buf, offset, batch_strides, rows: self.digits()?, cols: self.digits()? })
    }

    fn digits(&mut self) -> Read<Digits> {
        let found: Digits = self.short(|r| Ok((r.extent()?, r.signed()?)))?;
        if digits(found.iter().copied()) == found { Ok(found) } else { Err("digits that are not canonical") }
    }

    fn call(&mut self) -> Read<LibCall> {
        let modes = &ScatterMode::ALL;
        Ok(match self.tag()? {
            0 => LibCall::Take { dim: self.extent()? },
            1 => LibCall::Gather { dim: self.extent()? },
            2 => LibCall::Scatter { dim: self.extent()?, mode: self.member(modes)? },
            3 => LibCall::IndexPut { dim: self.extent()?, mode: self.member(modes)? },
            4 => LibCall::ArgSort { dim: self.extent()?, descending: self.flag()? },
            5 => LibCall::Scan { op: self.member(ReduceOp::ALL)?, dim: self.extent()? },
            6 => LibCall::Attention(Box::new(self.attend()?)),
            7 => LibCall::AttentionGrad(Box::new(self.attend()?)),
            8 => LibCall::Fill(self.scalar()?),
            9 => LibCall::Copy,
            _ => return Err(CHOICE),
        })
    }

    fn attend(&mut self) -> Read<Attend> {
        Ok(Attend {
            batch: self.sizes()?,
            queries: self.extent()?,
            keys: self.extent()?,
            depth: self.extent()?,
            width: self.extent()?,
            dtype: self.dtype()?,
            scale: self.scalar()?,
            causal: self.flag()?,
            dropout: self.scalar()?,
            mask: self.flag()?,
            safe: self.flag()?,
            lse: self.flag()?,
            sides: self
                .list(|r| Ok(Side { offset: r.signed()?, batch: r.ints()?, row: r.signed()?, col: r.signed()? }))?,
        })
    }

    fn stats(&mut self) -> Read<Stats> {
        Ok(Stats {
            nodes: self.size()?,
            kernels_unfused: self.size()?,
            kernels: self.size()?,
            bytes_moved: self.number()?,
            flops: self.number()?,
            steps: self.list(|r| Ok((r.number()?, r.number()?)))?,
            passes: Vec::new(),
            fusion_notes: self.list(|r| r.text().map(str::to_string))?,
        })
    }
}
