//! The inline schedule: cheap map kernels as vector code.
//!
//! A row runs in three loops: `K` interleaved vectors at a time, then one vector, then single elements. The
//! interleave hides latency; it survives because modules are compiled with `opt_level=none`, which keeps
//! program order. What does not vary along the row is computed once before the loops and splatted.
//!
//! Every operation is emitted in one of two widths from the same code ([`Lanes`]), so vectors and tails
//! give the same bits.

use super::FrameSize;
use super::emit::{Access, Emitter, clif_type, flags};
use super::normal::Normal;
use cranelift::codegen::ir::Endianness;
use cranelift::module::Module;
use cranelift::prelude::*;
use torsh_ir::kernel::{Inst, Kernel, ValueId};
use torsh_ir::scalar::{BinOp, CmpOp, ScalarOp, UnOp, to_bits};
use torsh_ir::{DType, Error, Result};

/// Vector registers that a loop body may fill before it spills.
const REGISTERS: usize = 12;
const VECTOR_BYTES: usize = 16;

/// Vector width in elements, if the kernel can be emitted in line.
pub(super) fn lanes(normal: &Normal) -> Option<usize> {
    let k = &normal.kernel;
    if !k.is_map() {
        return None;
    }
    let axis = k.grid.len();
    let mut size = None;
    for &v in &k.stages[0].insts {
        let value = k.value(v);
        if value.dtype != DType::Bool {
            if !matches!(value.dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64) {
                return None;
            }
            // One lane count for the whole kernel.
            if size.is_some_and(|s| s != value.dtype.size()) {
                return None;
            }
            size = Some(value.dtype.size());
        }
        let fits = match &value.inst {
            Inst::Const(_) => value.dtype != DType::Bool,
            Inst::Load { index, .. } => value.dtype != DType::Bool && matches!(index.strides[axis], 0 | 1),
            Inst::Op(op, args) => has_op(*op, k.value(args[0]).dtype, value.dtype),
            Inst::Index(_) | Inst::Reduced => false,
        };
        if !fits {
            return None;
        }
    }
    let stores = &k.stages[0].stores;
    let stores_fit = stores.iter().all(|s| s.index.strides[axis] == 1 && k.value(s.value).dtype != DType::Bool);
    if stores.is_empty() || !stores_fit || k.inner[0] < 2 {
        return None;
    }
    size.map(|s| VECTOR_BYTES / s)
}

fn has_op(op: ScalarOp, from: DType, to: DType) -> bool {
    match op {
        ScalarOp::Un(un) => match un {
            UnOp::Neg => from != DType::Bool,
            UnOp::Not => true,
            UnOp::Abs | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => from.is_float(),
            UnOp::Sqrt | UnOp::Rsqrt | UnOp::Recip => true,
            _ => false,
        },
        ScalarOp::Bin(bin) => match bin {
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Max | BinOp::Min => from != DType::Bool,
            BinOp::Div => true,
            BinOp::And | BinOp::Or | BinOp::Xor => true,
            BinOp::FloorDiv
            | BinOp::Rem
            | BinOp::Fmod
            | BinOp::Pow
            | BinOp::Atan2
            | BinOp::Shl
            | BinOp::Shr
            | BinOp::Philox => false,
        },
        ScalarOp::Cmp(_) => from != DType::Bool,
        ScalarOp::Select => to != DType::Bool,
        ScalarOp::Cast => from == to || from == DType::Bool || matches!((from, to), (DType::I32, DType::F32)),
        ScalarOp::Bitcast => from != DType::Bool && to != DType::Bool,
    }
}

/// The width in which code is being emitted.
#[derive(Copy, Clone, PartialEq, Eq)]
struct Lanes(usize);

impl Lanes {
    fn is_scalar(self) -> bool {
        self.0 == 1
    }

    /// The type of values of `dtype`. A bool is a mask of the width of what was compared.
    fn ty(self, dtype: DType) -> Type {
        let one = clif_type(dtype);
        if self.is_scalar() { one } else { one.by(self.0 as u32).unwrap_or(one) }
    }
}

struct Inline<'e, 'f, M: Module> {
    e: &'e mut Emitter<'f, M>,
    k: &'e Kernel,
    /// Integer lanes of the masks.
    mask: Type,
    vector: Vec<bool>,
    /// Values that do not vary along the row, as scalars, then splatted.
    uniform: Vec<Option<Value>>,
    splats: Vec<Option<Value>>,
}

/// Emits the body of the kernel function.
pub(super) fn emit<M: Module>(e: &mut Emitter<'_, M>, normal: &Normal, lanes: usize) -> Result<FrameSize> {
    let k = &normal.kernel;
    let axis = k.grid.len();
    let stage = &k.stages[0];
    let mut vector = vec![false; k.values.len()];
    for &v in &stage.insts {
        vector[v.0 as usize] = match &k.value(v).inst {
            Inst::Load { index, .. } => index.strides[axis] != 0,
            Inst::Op(_, args) => args.iter().any(|a| vector[a.0 as usize]),
            Inst::Const(_) | Inst::Index(_) | Inst::Reduced => false,
        };
    }
    let interleave = interleave(k, &vector);
    let mask = if lanes == 4 { types::I32 } else { types::I64 };
    let none = vec![None; k.values.len()];
    let mut it = Inline { e, k, mask, vector, uniform: none.clone(), splats: none };
    it.constants();
    let (lo, hi) = (it.e.row_lo, it.e.row_hi);
    let rows = it.e.open_loop(lo, hi);
    it.row(rows.index, lanes, interleave)?;
    let next = it.e.add_imm(rows.index, 1);
    it.e.close_loop(rows, next);
    Ok(FrameSize { scratch_bytes: 0, rows: 1 })
}

/// How many vectors to keep in flight: as many as registers allow.
fn interleave(k: &Kernel, vector: &[bool]) -> usize {
    let stage = &k.stages[0];
    let mut last = vec![0usize; k.values.len()];
    for (i, &v) in stage.insts.iter().enumerate() {
        last[v.0 as usize] = last[v.0 as usize].max(i);
        if let Inst::Op(_, args) = &k.value(v).inst {
            args.iter().for_each(|a| last[a.0 as usize] = i);
        }
    }
    stage.stores.iter().for_each(|s| last[s.value.0 as usize] = stage.insts.len());
    let (mut live, mut peak) = (0usize, 1usize);
    for (i, &v) in stage.insts.iter().enumerate() {
        live += usize::from(vector[v.0 as usize]);
        peak = peak.max(live);
        live -= stage.insts[..=i].iter().filter(|d| vector[d.0 as usize] && last[d.0 as usize] == i).count();
    }
    let splats = stage.insts.iter().filter(|v| !vector[v.0 as usize]).count();
    let free = REGISTERS.saturating_sub(splats.min(REGISTERS / 2));
    (free / peak).clamp(1, 4)
}

impl<'e, 'f, M: Module> Inline<'e, 'f, M> {
    fn constants(&mut self) {
        for (i, value) in self.k.values.iter().enumerate() {
            if let Inst::Const(c) = value.inst
                && value.dtype != DType::Bool
            {
                let bits = to_bits(c, value.dtype);
                self.uniform[i] = Some(match value.dtype {
                    DType::F32 => self.e.b.ins().f32const(f32::from_bits(bits as u32)),
                    DType::F64 => self.e.b.ins().f64const(f64::from_bits(bits)),
                    other => self.e.b.ins().iconst(clif_type(other), bits as i64),
                });
            }
        }
    }

    fn row(&mut self, row: Value, lanes: usize, interleave: usize) -> Result<()> {
        let k = self.k;
        let coords = self.e.grid_coords(k, row);
        let stage = &k.stages[0];
        let mut accesses = Vec::new();
        let size = |p: u32| k.params[p as usize].dtype.size() as i64;
        for &v in &stage.insts {
            if let Inst::Load { param, index } = &k.value(v).inst {
                accesses.push(Access { param: Some(*param as usize), map: index, scale: size(*param) });
            }
        }
        for s in &stage.stores {
            accesses.push(Access { param: Some(s.param as usize), map: &s.index, scale: size(s.param) });
        }
        let bases: Vec<Value> = accesses.iter().map(|a| self.e.grid_address(a, &coords)).collect();
        self.uniforms(&bases)?;
        let (lo, hi) = (self.e.col_lo, self.e.col_hi);
        let wide = (lanes * interleave) as i64;
        let rest = self.span(lo, hi, &bases, Lanes(lanes), interleave, wide)?;
        let rest = if interleave > 1 { self.span(rest, hi, &bases, Lanes(lanes), 1, lanes as i64)? } else { rest };
        self.span(rest, hi, &bases, Lanes(1), 1, 1)?;
        Ok(())
    }

    /// Loads and operations that are the same all along the row.
    fn uniforms(&mut self, bases: &[Value]) -> Result<()> {
        let stage = &self.k.stages[0];
        let mut access = 0;
        for &v in &stage.insts {
            let i = v.0 as usize;
            let value = self.k.value(v);
            match &value.inst {
                Inst::Load { .. } => {
                    if !self.vector[i] {
                        let ty = clif_type(value.dtype);
                        self.uniform[i] = Some(self.e.b.ins().load(ty, flags(), bases[access], 0));
                    }
                    access += 1;
                }
                Inst::Op(op, args) if !self.vector[i] => {
                    let x = args.iter().map(|a| self.known(self.uniform[a.0 as usize])).collect::<Result<Vec<_>>>()?;
                    let from = self.k.value(args[0]).dtype;
                    self.uniform[i] = Some(self.op(*op, from, value.dtype, &x, Lanes(1))?);
                }
                Inst::Op(..) | Inst::Const(_) | Inst::Index(_) | Inst::Reduced => {}
            }
        }
        Ok(())
    }

    fn known(&self, value: Option<Value>) -> Result<Value> {
        value.ok_or_else(|| Error::compile("a value is used before it is computed"))
    }

    /// Computes whole steps of `step` columns from `lo` on; returns the first column not computed.
    fn span(&mut self, lo: Value, hi: Value, bases: &[Value], lanes: Lanes, count: usize, step: i64) -> Result<Value> {
        // Steps that end within `hi`; written so that nothing wraps below `lo`.
        let left = self.e.b.ins().isub(hi, lo);
        let steps = if step.count_ones() == 1 {
            self.e.b.ins().ushr_imm_u(left, i64::from(step.trailing_zeros()))
        } else {
            let by = self.e.int(step);
            self.e.b.ins().udiv(left, by)
        };
        let reach = self.e.mul_imm(steps, step);
        let end = self.e.b.ins().iadd(lo, reach);
        self.splat_uniforms(lanes)?;
        let open = self.e.open_loop(lo, end);
        self.body(open.index, bases, lanes, count)?;
        let next = self.e.add_imm(open.index, step);
        self.e.close_loop(open, next);
        Ok(end)
    }

    fn splat_uniforms(&mut self, lanes: Lanes) -> Result<()> {
        let stage = &self.k.stages[0];
        let mut used = vec![false; self.k.values.len()];
        for &v in stage.insts.iter().filter(|v| self.vector[v.0 as usize]) {
            if let Inst::Op(_, args) = &self.k.value(v).inst {
                args.iter().for_each(|a| used[a.0 as usize] = true);
            }
        }
        stage.stores.iter().for_each(|s| used[s.value.0 as usize] = true);
        for (i, _) in used.iter().enumerate().filter(|&(_, &used)| used) {
            if self.vector[i] {
                continue;
            }
            let scalar = self.known(self.uniform[i])?;
            let dtype = self.k.values[i].dtype;
            self.splats[i] = Some(if lanes.is_scalar() {
                scalar
            } else if dtype == DType::Bool {
                // A scalar comparison is 0 or 1; a mask is 0 or all ones.
                let wide = self.e.b.ins().uextend(self.mask, scalar);
                let all = self.e.b.ins().ineg(wide);
                let ty = self.mask.by(lanes.0 as u32).unwrap_or(self.mask);
                self.e.b.ins().splat(ty, all)
            } else {
                self.e.b.ins().splat(lanes.ty(dtype), scalar)
            });
        }
        Ok(())
    }

    /// One step of a loop: every operation for all `count` vectors before the next operation.
    fn body(&mut self, col: Value, bases: &[Value], lanes: Lanes, count: usize) -> Result<()> {
        let k = self.k;
        let stage = &k.stages[0];
        let mut now: Vec<Vec<Value>> = vec![Vec::new(); k.values.len()];
        let mut access = 0;
        for &v in &stage.insts {
            let i = v.0 as usize;
            let value = k.value(v);
            match &value.inst {
                Inst::Load { .. } => {
                    if self.vector[i] {
                        let size = value.dtype.size();
                        let at = self.e.advance(bases[access], col, size as i64);
                        for n in 0..count {
                            let offset = (n * lanes.0 * size) as i32;
                            now[i].push(self.e.b.ins().load(lanes.ty(value.dtype), flags(), at, offset));
                        }
                    }
                    access += 1;
                }
                Inst::Op(op, args) if self.vector[i] => {
                    let from = k.value(args[0]).dtype;
                    for n in 0..count {
                        let x = args.iter().map(|a| self.operand(&now, *a, n)).collect::<Result<Vec<Value>>>()?;
                        let r = self.op(*op, from, value.dtype, &x, lanes)?;
                        now[i].push(r);
                    }
                }
                Inst::Op(..) | Inst::Const(_) | Inst::Index(_) | Inst::Reduced => {}
            }
        }
        for (store, &base) in stage.stores.iter().zip(&bases[access..]) {
            let size = k.params[store.param as usize].dtype.size();
            let at = self.e.advance(base, col, size as i64);
            for n in 0..count {
                let x = self.operand(&now, store.value, n)?;
                self.e.b.ins().store(flags(), x, at, (n * lanes.0 * size) as i32);
            }
        }
        Ok(())
    }

    fn operand(&self, now: &[Vec<Value>], v: ValueId, n: usize) -> Result<Value> {
        let i = v.0 as usize;
        self.known(if self.vector[i] { now[i].get(n).copied() } else { self.splats[i] })
    }

    fn op(&mut self, op: ScalarOp, from: DType, to: DType, x: &[Value], lanes: Lanes) -> Result<Value> {
        let ins = &mut self.e.b;
        Ok(match op {
            ScalarOp::Un(un) => return self.unary(un, from, x[0], lanes),
            ScalarOp::Bin(bin) => return self.binary(bin, from, x[0], x[1], lanes),
            ScalarOp::Cmp(cmp) => self.compare(cmp, from, x[0], x[1]),
            ScalarOp::Select => self.choose(x[0], x[1], x[2], to, lanes),
            ScalarOp::Cast if from == to => x[0],
            ScalarOp::Cast if from == DType::Bool => {
                let (one, zero) = (self.number(1.0, to, lanes), self.number(0.0, to, lanes));
                self.choose(x[0], one, zero, to, lanes)
            }
            ScalarOp::Cast => ins.ins().fcvt_from_sint(lanes.ty(to), x[0]),
            ScalarOp::Bitcast if from == to => x[0],
            ScalarOp::Bitcast => self.bits(lanes.ty(to), x[0]),
        })
    }

    /// The same vector, which instruction selection will not read from memory as part of another instruction.
    fn apart(&mut self, x: Value) -> Value {
        let ty = self.e.b.func.dfg.value_type(x);
        if !ty.is_vector() {
            return x;
        }
        let bytes = self.bits(types::I8X16, x);
        self.bits(ty, bytes)
    }

    fn bits(&mut self, ty: Type, x: Value) -> Value {
        if self.e.b.func.dfg.value_type(x) == ty {
            return x;
        }
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        self.e.b.ins().bitcast(ty, little, x)
    }

    /// A small whole number in every lane.
    fn number(&mut self, x: f64, dtype: DType, lanes: Lanes) -> Value {
        let c = match dtype {
            DType::F32 => self.e.b.ins().f32const(x as f32),
            DType::F64 => self.e.b.ins().f64const(x),
            other => self.e.b.ins().iconst(clif_type(other), x as i64),
        };
        if lanes.is_scalar() { c } else { self.e.b.ins().splat(lanes.ty(dtype), c) }
    }

    fn unary(&mut self, op: UnOp, dtype: DType, x: Value, lanes: Lanes) -> Result<Value> {
        Ok(match op {
            UnOp::Neg if dtype.is_float() => self.e.b.ins().fneg(x),
            UnOp::Neg => self.e.b.ins().ineg(x),
            UnOp::Not if dtype == DType::Bool && lanes.is_scalar() => self.e.b.ins().bxor_imm_u(x, 1),
            UnOp::Not => self.e.b.ins().bnot(x),
            UnOp::Abs => self.e.b.ins().fabs(x),
            UnOp::Floor => self.e.b.ins().floor(x),
            UnOp::Ceil => self.e.b.ins().ceil(x),
            UnOp::Round => self.e.b.ins().nearest(x),
            UnOp::Trunc => self.e.b.ins().trunc(x),
            UnOp::Sqrt => self.e.b.ins().sqrt(x),
            UnOp::Recip => {
                let one = self.number(1.0, dtype, lanes);
                self.e.b.ins().fdiv(one, x)
            }
            UnOp::Rsqrt => {
                let root = self.e.b.ins().sqrt(x);
                let one = self.number(1.0, dtype, lanes);
                self.e.b.ins().fdiv(one, root)
            }
            other => return Err(Error::compile(format!("{} has no vector code", other.name()))),
        })
    }

    fn binary(&mut self, op: BinOp, dtype: DType, a: Value, b: Value, lanes: Lanes) -> Result<Value> {
        let float = dtype.is_float();
        Ok(match op {
            BinOp::Add if float => self.e.b.ins().fadd(a, b),
            BinOp::Sub if float => self.e.b.ins().fsub(a, b),
            BinOp::Mul if float => self.e.b.ins().fmul(a, b),
            BinOp::Add => self.e.b.ins().iadd(a, b),
            BinOp::Sub => self.e.b.ins().isub(a, b),
            BinOp::Mul => self.e.b.ins().imul(a, b),
            BinOp::Div => self.e.b.ins().fdiv(a, b),
            BinOp::And => self.e.b.ins().band(a, b),
            BinOp::Or => self.e.b.ins().bor(a, b),
            BinOp::Xor => self.e.b.ins().bxor(a, b),
            BinOp::Max | BinOp::Min => {
                let op = if op == BinOp::Max { CmpOp::Gt } else { CmpOp::Lt };
                let mut first = self.compare(op, dtype, a, b);
                if float {
                    // A NaN on the left wins; one on the right makes the comparison false and wins too.
                    let nan = self.compare(CmpOp::Ne, dtype, a, a);
                    first = self.e.b.ins().bor(first, nan);
                }
                self.choose(first, a, b, dtype, lanes)
            }
            other => return Err(Error::compile(format!("{} has no vector code", other.name()))),
        })
    }

    /// A scalar 0 or 1, or a mask.
    fn compare(&mut self, op: CmpOp, dtype: DType, a: Value, b: Value) -> Value {
        if dtype.is_float() {
            let cc = match op {
                CmpOp::Eq => FloatCC::Equal,
                CmpOp::Ne => FloatCC::NotEqual,
                CmpOp::Lt => FloatCC::LessThan,
                CmpOp::Le => FloatCC::LessThanOrEqual,
                CmpOp::Gt => FloatCC::GreaterThan,
                CmpOp::Ge => FloatCC::GreaterThanOrEqual,
            };
            // Without AVX, Cranelift 0.135 folds an unaligned load of either operand into `cmpps`, which
            // faults. A change of type in between keeps the load apart.
            let (a, b) = (self.apart(a), self.apart(b));
            return self.e.b.ins().fcmp(cc, a, b);
        }
        let cc = match op {
            CmpOp::Eq => IntCC::Equal,
            CmpOp::Ne => IntCC::NotEqual,
            CmpOp::Lt => IntCC::SignedLessThan,
            CmpOp::Le => IntCC::SignedLessThanOrEqual,
            CmpOp::Gt => IntCC::SignedGreaterThan,
            CmpOp::Ge => IntCC::SignedGreaterThanOrEqual,
        };
        self.e.b.ins().icmp(cc, a, b)
    }

    fn choose(&mut self, cond: Value, a: Value, b: Value, dtype: DType, lanes: Lanes) -> Value {
        if lanes.is_scalar() {
            return self.e.b.ins().select(cond, a, b);
        }
        let ty = lanes.ty(dtype);
        let cond = self.bits(ty, cond);
        self.e.b.ins().bitselect(cond, a, b)
    }
}
