//! Writes the instructions of a cluster as lane operations.
//!
//! All lanes are 32 bits wide: 16-bit floats are held as f32 and rounded after each operation, small integers
//! are extended and wrapped after each operation, a bool is a mask. Semantics are those of `torsh_ir::scalar`.

use super::Level;
use super::asm;
use super::graph::{EQ, Ext, Fold, FoldOp, Graph, Id, LE, LT, NE, NOT_GE, NOT_LE, NodeOp, Put, Store, UNORDERED};
use super::plan::Cluster;
use crate::cpu::analysis::{Facts, is_16_bit_float, is_exact, slot_dtype};
use crate::cpu::lanes::Lanes;
use crate::cpu::math;
use std::collections::HashMap;
use torsh_ir::kernel::{Inst, Kernel, Stage, ValueId};
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use torsh_ir::{DType, Error, Result, Scalar};

/// What an address in the area's table is the address of.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::cpu) enum Binding {
    /// The elements that a load reads.
    Load(ValueId),
    /// A value computed before, in its slot dtype.
    Value(ValueId),
    /// Where a value is wanted in its slot dtype.
    Result(ValueId),
    /// What the stage's store of this number writes.
    Store(usize),
    /// One element in its slot dtype.
    Uniform(ValueId),
    /// The accumulator of the stage's reduction of this number.
    Fold(usize),
}

/// True when lanes can hold a dtype.
pub(super) fn has_dtype(dtype: DType) -> bool {
    !matches!(dtype, DType::I64 | DType::F64)
}

/// True when an operation on operands of `from` giving `to` can be written in lanes.
pub(super) fn has_op(op: ScalarOp, from: DType, to: DType) -> bool {
    if !has_dtype(from) || !has_dtype(to) {
        return false;
    }
    match op {
        ScalarOp::Un(un) => match un {
            UnOp::Neg | UnOp::Sign => from != DType::Bool,
            UnOp::Abs => true,
            UnOp::Not => !from.is_float(),
            UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => from.is_float(),
            // These hold for moderate arguments only; the primitives know what to do beyond.
            UnOp::Sin | UnOp::Cos | UnOp::Tan => false,
            _ => from.is_float(),
        },
        ScalarOp::Bin(bin) => match bin {
            BinOp::Add | BinOp::Mul | BinOp::Max | BinOp::Min => true,
            BinOp::Sub => from != DType::Bool,
            BinOp::Div => from.is_float(),
            BinOp::And | BinOp::Or | BinOp::Xor => !from.is_float(),
            BinOp::Shl | BinOp::Shr => !from.is_float() && from != DType::Bool,
            BinOp::FloorDiv | BinOp::Rem | BinOp::Fmod | BinOp::Pow | BinOp::Atan2 | BinOp::Philox => false,
        },
        ScalarOp::Cmp(_) | ScalarOp::Select => true,
        ScalarOp::Cast => true,
        ScalarOp::Bitcast => false,
    }
}

/// How a reduction of values of `dtype` is folded, if it can be.
pub(super) fn fold_op(op: ReduceOp, dtype: DType) -> Option<FoldOp> {
    match op {
        ReduceOp::Sum if dtype.is_float() && has_dtype(dtype) => Some(FoldOp::Sum),
        ReduceOp::Prod if dtype.is_float() && has_dtype(dtype) => Some(FoldOp::Prod),
        ReduceOp::Max if dtype.is_float() && has_dtype(dtype) => Some(FoldOp::Max),
        ReduceOp::Min if dtype.is_float() && has_dtype(dtype) => Some(FoldOp::Min),
        ReduceOp::Max if dtype == DType::I32 => Some(FoldOp::IntMax),
        ReduceOp::Min if dtype == DType::I32 => Some(FoldOp::IntMin),
        ReduceOp::Any if dtype == DType::Bool => Some(FoldOp::Any),
        ReduceOp::All if dtype == DType::Bool => Some(FoldOp::All),
        _ => None,
    }
}

struct Recorder<'k> {
    g: Graph,
    k: &'k Kernel,
    facts: &'k Facts,
    cluster: &'k Cluster,
    done: HashMap<ValueId, Id>,
    streams: Vec<Binding>,
    uniforms: Vec<Binding>,
}

/// The graph of a cluster, and what its streams, uniform elements and accumulators are.
pub(super) fn record(
    k: &Kernel,
    facts: &Facts,
    stage: &Stage,
    cluster: &Cluster,
    level: Level,
) -> Result<(Graph, Vec<Binding>)> {
    let g = Graph::new(level);
    let mut r = Recorder { g, k, facts, cluster, done: HashMap::new(), streams: vec![], uniforms: vec![] };
    for &v in &cluster.values {
        r.value(v)?;
    }
    let mut folds = Vec::new();
    for &i in &cluster.folds {
        let reduce = &stage.reduces[i];
        let value = r.as_dtype(reduce.value)?;
        let dtype = k.value(reduce.value).dtype;
        let op = fold_op(reduce.op, dtype).ok_or_else(|| Error::internal("a fold that has no vector code"))?;
        r.g.folds.push(Fold { op, value });
        folds.push(Binding::Fold(i));
    }
    for &v in &cluster.results {
        let x = r.value(v)?;
        let dtype = k.value(v).dtype;
        r.store(Binding::Result(v), x, if dtype == DType::Bool { dtype } else { slot_dtype(dtype) });
    }
    for &i in &cluster.stores {
        let store = &stage.stores[i];
        let x = r.as_dtype(store.value)?;
        r.store(Binding::Store(i), x, k.params[store.param as usize].dtype);
    }
    let bindings = r.streams.into_iter().chain(r.uniforms).chain(folds).collect();
    Ok((r.g, bindings))
}

impl Recorder<'_> {
    /// A value as the dtype that it goes by, which may be another name of what was computed.
    fn as_dtype(&mut self, v: ValueId) -> Result<Id> {
        let canon = self.facts.canon(v);
        let x = self.value(canon)?;
        Ok(self.coerce(x, self.k.value(canon).dtype, self.k.value(v).dtype))
    }

    fn coerce(&mut self, x: Id, from: DType, to: DType) -> Id {
        match (from, to) {
            (DType::Bool, DType::Bool) => x,
            (DType::Bool, _) => {
                let (one, zero) = (self.g.i(1), self.g.i(0));
                self.g.choose(x, one, zero)
            }
            (a, b) if a == b || a.size() == 4 || a.is_float() => x,
            (_, b) => self.wrap(x, b),
        }
    }

    /// Brings an integer back into the range of its dtype.
    fn wrap(&mut self, x: Id, dtype: DType) -> Id {
        match dtype {
            DType::U8 => {
                let mask = self.g.i(0xff);
                self.g.iand(x, mask)
            }
            DType::I8 | DType::I16 => {
                let n = 32 - 8 * dtype.size() as u32;
                let x = self.g.shl(x, n);
                self.g.sar(x, n)
            }
            _ => x,
        }
    }

    /// The lanes of a value that is not another name.
    fn value(&mut self, v: ValueId) -> Result<Id> {
        if let Some(&id) = self.done.get(&v) {
            return Ok(id);
        }
        let value = self.k.value(v);
        let dtype = value.dtype;
        let id = match &value.inst {
            Inst::Const(c) => self.constant(*c, dtype),
            _ if !self.facts.is_vector(v) => {
                self.uniforms.push(Binding::Uniform(v));
                let x = self.g.uniform(slot_dtype(dtype).size());
                match dtype {
                    DType::Bool => self.truth(x),
                    DType::I8 | DType::I16 => self.wrap(x, dtype),
                    _ => x,
                }
            }
            Inst::Load { param, .. } if self.cluster.loads.contains(&v) => {
                let stored = self.k.params[*param as usize].dtype;
                self.load(Binding::Load(v), stored)
            }
            Inst::Op(op, args) if self.cluster.values.contains(&v) => {
                let from = self.k.value(args[0]).dtype;
                let args = args.iter().map(|&a| self.as_dtype(a)).collect::<Result<Vec<Id>>>()?;
                let x = self.op(*op, from, dtype, &args)?;
                if is_16_bit_float(dtype) && !is_exact(*op) {
                    self.round(x, dtype)
                } else if dtype.is_float() || dtype == DType::Bool {
                    x
                } else {
                    self.wrap(x, dtype)
                }
            }
            _ => self.load(Binding::Value(v), if dtype == DType::Bool { dtype } else { slot_dtype(dtype) }),
        };
        self.done.insert(v, id);
        Ok(id)
    }

    fn constant(&mut self, c: Scalar, dtype: DType) -> Id {
        if dtype.is_float() {
            return self.g.f(c.as_f64() as f32);
        }
        let x = self.g.i(c.as_i64() as i32);
        if dtype == DType::Bool { self.truth(x) } else { x }
    }

    /// The mask of lanes that are 1 and not 0.
    fn truth(&mut self, x: Id) -> Id {
        let zero = self.g.i(0);
        self.g.int_gt(x, zero)
    }

    fn load(&mut self, binding: Binding, dtype: DType) -> Id {
        self.streams.push(binding);
        let s = self.g.stream(dtype.size(), false);
        match dtype {
            DType::F16 => self.g.node(NodeOp::Load(s, Ext::Half), &[]),
            DType::BF16 => {
                let x = self.g.node(NodeOp::Load(s, Ext::ZeroWord), &[]);
                self.g.shl(x, 16)
            }
            DType::I16 => self.g.node(NodeOp::Load(s, Ext::SignWord), &[]),
            DType::I8 => self.g.node(NodeOp::Load(s, Ext::SignByte), &[]),
            DType::U8 => self.g.node(NodeOp::Load(s, Ext::ZeroByte), &[]),
            DType::Bool if self.g.is_wide() => {
                let x = self.g.node(NodeOp::Load(s, Ext::Bytes), &[]);
                self.g.node(NodeOp::TestBytes, &[x])
            }
            DType::Bool => {
                let x = self.g.node(NodeOp::Load(s, Ext::ZeroByte), &[]);
                self.truth(x)
            }
            _ => self.g.node(NodeOp::Stream(s), &[]),
        }
    }

    /// Writes a value, in the lanes of `dtype`, to memory of `dtype`.
    fn store(&mut self, binding: Binding, x: Id, dtype: DType) {
        let wide = self.g.is_wide();
        let (value, put) = match dtype {
            DType::F16 => (self.g.node(NodeOp::ToHalf, &[x]), Put::Half),
            DType::BF16 => {
                let bits = self.bf16_bits(x);
                let word = self.g.shr(bits, 16);
                if wide { (word, Put::Words) } else { (self.words(word), Put::Half) }
            }
            DType::I16 if wide => (x, Put::Words),
            DType::I16 => {
                let mask = self.g.i(0xffff);
                let x = self.g.iand(x, mask);
                (self.words(x), Put::Half)
            }
            DType::U8 | DType::I8 if wide => (x, Put::Bytes),
            DType::U8 | DType::I8 => {
                let mask = self.g.i(0xff);
                let x = self.g.iand(x, mask);
                (self.bytes(x), Put::Quarter)
            }
            DType::Bool if wide && self.g.nodes[x as usize].is_mask() => {
                let x = self.g.node(NodeOp::MaskBytes, &[x]);
                (self.g.one(asm::PABSB, x), Put::Quarter)
            }
            DType::Bool => {
                let one = self.g.i(1);
                let x = self.g.iand(x, one);
                (self.bytes(x), Put::Quarter)
            }
            _ => (x, Put::Full),
        };
        // What is stored as it was read must be read before anything is written.
        let value = match self.g.nodes[value as usize].op {
            NodeOp::Stream(_) => self.g.node(NodeOp::Hold, &[value]),
            _ => value,
        };
        self.streams.push(binding);
        let stream = self.g.stream(dtype.size(), true);
        self.g.stores.push(Store { stream, value, put });
    }

    /// Eight words from the lanes, which are below 2^16.
    fn words(&mut self, x: Id) -> Id {
        let high = self.g.node(NodeOp::High, &[x]);
        self.g.node(NodeOp::TwoX(asm::PACKUSDW), &[x, high])
    }

    /// Eight bytes from the lanes, which are below 2^8.
    fn bytes(&mut self, x: Id) -> Id {
        let words = self.words(x);
        self.g.node(NodeOp::TwoX(asm::PACKUSWB), &[words, words])
    }

    /// f32 whose upper half are the bits of the nearest bf16; the lower half is rubbish.
    fn bf16_bits(&mut self, x: Id) -> Id {
        let (one, half, quiet) = (self.g.i(1), self.g.i(0x7fff), self.g.i(0x0040_0000));
        let odd = self.g.shr(x, 16);
        let odd = self.g.iand(odd, one);
        let r = self.g.iadd(x, half);
        let r = self.g.iadd(r, odd);
        let nan = self.g.ior(x, quiet);
        let is_nan = self.g.compare(UNORDERED, x, x);
        self.g.choose(is_nan, nan, r)
    }

    /// Rounds f32 to the values of a 16-bit float.
    fn round(&mut self, x: Id, dtype: DType) -> Id {
        if dtype == DType::F16 {
            let h = self.g.node(NodeOp::ToHalf, &[x]);
            return self.g.one(asm::CVTPH2PS, h);
        }
        let bits = self.bf16_bits(x);
        let upper = self.g.i(0xffff_0000_u32 as i32);
        self.g.iand(bits, upper)
    }

    fn op(&mut self, op: ScalarOp, from: DType, to: DType, x: &[Id]) -> Result<Id> {
        match op {
            ScalarOp::Un(un) => self.unary(un, from, x[0]),
            ScalarOp::Bin(bin) if from == DType::Bool => self.logical(bin, x[0], x[1]),
            ScalarOp::Bin(bin) if from.is_float() => self.float_binary(bin, x[0], x[1]),
            ScalarOp::Bin(bin) => self.int_binary(bin, x[0], x[1]),
            ScalarOp::Cmp(cmp) => Ok(self.comparison(cmp, from, x[0], x[1])),
            ScalarOp::Select if to == DType::Bool => {
                let yes = self.g.mask_and(x[0], x[1]);
                let not = self.g.mask_not(x[0]);
                let no = self.g.mask_and(not, x[2]);
                Ok(self.g.mask_or(yes, no))
            }
            ScalarOp::Select => Ok(self.g.choose(x[0], x[1], x[2])),
            ScalarOp::Cast => Ok(self.cast(from, to, x[0])),
            ScalarOp::Bitcast => Err(missing("bitcast")),
        }
    }

    fn unary(&mut self, op: UnOp, dtype: DType, x: Id) -> Result<Id> {
        let g = &mut self.g;
        if dtype.is_float() {
            return Ok(match op {
                UnOp::Neg => g.neg(x),
                UnOp::Abs => g.abs(x),
                UnOp::Sign => {
                    let (zero, one, minus) = (g.f(0.0), g.f(1.0), g.f(-1.0));
                    let below = g.compare(LT, x, zero);
                    let above = g.compare(LT, zero, x);
                    let r = g.choose(below, minus, x);
                    g.choose(above, one, r)
                }
                UnOp::Floor => g.round_to(x, 1),
                UnOp::Ceil => g.round_to(x, 2),
                UnOp::Round => g.round_to(x, 0),
                UnOp::Trunc => g.round_to(x, 3),
                UnOp::Sqrt => g.sqrt(x),
                UnOp::Rsqrt => {
                    let one = g.f(1.0);
                    let root = g.sqrt(x);
                    g.div(one, root)
                }
                UnOp::Recip => {
                    let one = g.f(1.0);
                    g.div(one, x)
                }
                UnOp::Exp => math::exp(g, x),
                UnOp::Exp2 => math::exp2(g, x),
                UnOp::Expm1 => math::expm1(g, x),
                UnOp::Log => math::log(g, x),
                UnOp::Log2 => math::log2(g, x),
                UnOp::Log10 => math::log10(g, x),
                UnOp::Log1p => math::log1p(g, x),
                UnOp::Asin => math::asin(g, x),
                UnOp::Acos => math::acos(g, x),
                UnOp::Atan => math::atan(g, x),
                UnOp::Sinh => math::sinh(g, x),
                UnOp::Cosh => math::cosh(g, x),
                UnOp::Tanh => math::tanh(g, x),
                UnOp::Asinh => math::asinh(g, x),
                UnOp::Acosh => math::acosh(g, x),
                UnOp::Atanh => math::atanh(g, x),
                UnOp::Erf => math::erf(g, x),
                UnOp::Sigmoid => math::sigmoid(g, x),
                UnOp::Sin | UnOp::Cos | UnOp::Tan | UnOp::Not => return Err(missing(op.name())),
            });
        }
        Ok(match op {
            UnOp::Not if dtype == DType::Bool => g.mask_not(x),
            UnOp::Abs if dtype == DType::Bool => x,
            UnOp::Not => {
                let ones = g.i(-1);
                g.ixor(x, ones)
            }
            UnOp::Neg => {
                let zero = g.i(0);
                g.isub(zero, x)
            }
            UnOp::Abs => g.one(asm::PABSD, x),
            UnOp::Sign => {
                let (one, minus) = (g.i(1), g.i(-1));
                let x = g.two(asm::PMINSD, x, one);
                g.two(asm::PMAXSD, x, minus)
            }
            other => return Err(missing(other.name())),
        })
    }

    fn float_binary(&mut self, op: BinOp, a: Id, b: Id) -> Result<Id> {
        let g = &mut self.g;
        Ok(match op {
            BinOp::Add => g.add(a, b),
            BinOp::Sub => g.sub(a, b),
            BinOp::Mul => g.mul(a, b),
            BinOp::Div => g.quotient(a, b),
            BinOp::Max => self.extreme(asm::MAXPS, NOT_LE, a, b),
            BinOp::Min => self.extreme(asm::MINPS, NOT_GE, a, b),
            other => return Err(missing(other.name())),
        })
    }

    /// `a` if it is NaN or more extreme than `b`, else `b`. The instruction gives its second operand when
    /// either is NaN or both are equal.
    fn extreme(&mut self, op: asm::Op, more: u8, a: Id, b: Id) -> Id {
        let known = |g: &Graph, id| g.known(id).map(f32::from_bits).filter(|x| !x.is_nan());
        let g = &mut self.g;
        if known(g, a).is_some() {
            return g.two(op, a, b);
        }
        match known(g, b) {
            // Equal numbers other than zeros have equal bits.
            Some(x) if x != 0.0 => g.two(op, b, a),
            Some(_) => {
                let m = g.compare(more, a, b);
                g.choose(m, a, b)
            }
            None => {
                let r = g.two(op, a, b);
                let nan = g.compare(UNORDERED, a, a);
                g.choose(nan, a, r)
            }
        }
    }

    fn int_binary(&mut self, op: BinOp, a: Id, b: Id) -> Result<Id> {
        let op = match op {
            BinOp::Add => asm::PADDD,
            BinOp::Sub => asm::PSUBD,
            BinOp::Mul => asm::PMULLD,
            BinOp::Max => asm::PMAXSD,
            BinOp::Min => asm::PMINSD,
            BinOp::And => asm::PAND,
            BinOp::Or => asm::POR,
            BinOp::Xor => asm::PXOR,
            // A count outside the lanes, as an unsigned number, gives zero or the sign fill.
            BinOp::Shl => asm::PSLLVD,
            BinOp::Shr => asm::PSRAVD,
            other => return Err(missing(other.name())),
        };
        Ok(self.g.two(op, a, b))
    }

    fn logical(&mut self, op: BinOp, a: Id, b: Id) -> Result<Id> {
        Ok(match op {
            BinOp::Add | BinOp::Max | BinOp::Or => self.g.mask_or(a, b),
            BinOp::Mul | BinOp::Min | BinOp::And => self.g.mask_and(a, b),
            BinOp::Xor => self.g.mask_xor(a, b),
            other => return Err(missing(other.name())),
        })
    }

    fn comparison(&mut self, op: CmpOp, dtype: DType, a: Id, b: Id) -> Id {
        if dtype.is_float() {
            return match op {
                CmpOp::Eq => self.g.compare(EQ, a, b),
                CmpOp::Ne => self.g.compare(NE, a, b),
                CmpOp::Lt => self.g.compare(LT, a, b),
                CmpOp::Le => self.g.compare(LE, a, b),
                CmpOp::Gt => self.g.compare(LT, b, a),
                CmpOp::Ge => self.g.compare(LE, b, a),
            };
        }
        if dtype == DType::Bool {
            let a = self.coerce(a, dtype, DType::I32);
            let b = self.coerce(b, dtype, DType::I32);
            return self.comparison(op, DType::I32, a, b);
        }
        match op {
            CmpOp::Eq => self.g.int_eq(a, b),
            CmpOp::Ne => {
                let m = self.g.int_eq(a, b);
                self.g.mask_not(m)
            }
            CmpOp::Lt => self.g.int_gt(b, a),
            CmpOp::Gt => self.g.int_gt(a, b),
            CmpOp::Le => {
                let m = self.g.int_gt(a, b);
                self.g.mask_not(m)
            }
            CmpOp::Ge => {
                let m = self.g.int_gt(b, a);
                self.g.mask_not(m)
            }
        }
    }

    /// Conversion; the caller rounds or wraps the result.
    fn cast(&mut self, from: DType, to: DType, x: Id) -> Id {
        let g = &mut self.g;
        match (from, to) {
            (DType::Bool, DType::Bool) => x,
            (DType::Bool, to) => {
                let (one, zero) = if to.is_float() { (g.f(1.0), g.f(0.0)) } else { (g.i(1), g.i(0)) };
                g.choose(x, one, zero)
            }
            (from, DType::Bool) if from.is_float() => {
                let zero = g.f(0.0);
                g.compare(NE, x, zero)
            }
            (_, DType::Bool) => {
                let zero = g.i(0);
                let m = g.int_eq(x, zero);
                g.mask_not(m)
            }
            (from, to) if from.is_float() && to.is_float() => x,
            (from, to) if from.is_float() => self.truncate(x, to),
            (_, to) if to.is_float() => g.to_float(x),
            _ => x,
        }
    }

    /// A float to an integer: toward zero, saturated, NaN to 0.
    fn truncate(&mut self, x: Id, to: DType) -> Id {
        let g = &mut self.g;
        let (top, most, zero) = (g.f(2_147_483_648.0), g.i(i32::MAX), g.i(0));
        // Out of range below gives i32::MIN, which is right.
        let r = g.one(asm::CVTTPS2DQ, x);
        let above = g.compare(LE, top, x);
        let r = g.choose(above, most, r);
        let nan = g.compare(UNORDERED, x, x);
        let r = g.choose(nan, zero, r);
        let Some((lo, hi)) = to.int_range().filter(|_| to != DType::I32) else { return r };
        let (lo, hi) = (g.i(lo as i32), g.i(hi as i32));
        let r = g.two(asm::PMINSD, r, hi);
        g.two(asm::PMAXSD, r, lo)
    }
}

fn missing(what: &str) -> Error {
    Error::internal(format!("{what} has no vector code"))
}
