//! Lane operations of one vector function, in SSA form: what `record` writes and `emit` turns into code.
//!
//! Every node but a few is one instruction at the level that the graph is made for, so the level's idioms
//! (masks in registers of their own, compares that lack a form) are chosen here, when a node is added.
//! Equal nodes are one node.

use super::Level;
use super::asm::{self, KOp, Op};
use crate::cpu::lanes::{Lanes, by_factors};
use std::collections::HashMap;

/// Index of a node.
pub(super) type Id = u32;

/// How a converting load extends what is in memory.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Ext {
    ZeroByte,
    SignByte,
    ZeroWord,
    SignWord,
    Half,
    /// Bytes as they are, one a lane, in the low quarter (EVEX only).
    Bytes,
}

#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum NodeOp {
    /// The same 32 bits in all lanes.
    Const(u32),
    /// One element, by number, in all lanes.
    Uniform(u16),
    /// 32-bit elements of a stream.
    Stream(u16),
    /// Narrower elements of a stream.
    Load(u16, Ext),
    /// `reg = op(vvvv, rm)`.
    Two(Op),
    /// The same on the low 128 bits.
    TwoX(Op),
    /// `reg = op(rm, imm)`.
    One(Op, Option<u8>),
    /// Shift by an immediate: opcode digit, count.
    Shift(u8, u8),
    /// `a * b + c`.
    Fma,
    /// `c - a * b`.
    Fnma,
    /// `a / b`, given `c = 1 / b`: as if by one division, which it falls back to.
    Quotient,
    /// Compares floats or integers by a predicate, to a mask.
    Compare(Op, u8),
    /// `if mask { a } else { b }`.
    Select,
    /// Operations on mask registers.
    Mask(KOp),
    /// f32 to binary16, half as wide.
    ToHalf,
    /// The upper 128 bits.
    High,
    /// A mask as bytes 0 and -1.
    MaskBytes,
    /// Mask of the nonzero bytes.
    TestBytes,
    /// The operand in a register, though it could be read from memory again.
    Hold,
}

/// A lane operation.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Node {
    pub op: NodeOp,
    pub args: [Id; 3],
    pub count: u8,
}

impl Node {
    pub fn args(&self) -> &[Id] {
        &self.args[..usize::from(self.count)]
    }

    /// Lives in a mask register (EVEX only).
    pub fn is_mask(&self) -> bool {
        matches!(self.op, NodeOp::Compare(..) | NodeOp::Mask(_) | NodeOp::TestBytes)
    }

    /// The same for all elements.
    pub fn is_uniform(&self) -> bool {
        matches!(self.op, NodeOp::Const(_) | NodeOp::Uniform(_))
    }
}

/// How a value goes to memory.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// 32-bit lanes.
    Full,
    /// The low half of the register holds 16-bit elements.
    Half,
    /// The low quarter holds bytes.
    Quarter,
    /// The low 16 bits of each lane (EVEX only).
    Words,
    /// The low 8 bits of each lane (EVEX only).
    Bytes,
}

/// A write of a node to a stream.
#[derive(Copy, Clone, Debug)]
pub(super) struct Store {
    pub stream: u16,
    pub value: Id,
    pub put: Put,
}

/// What a fold computes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum FoldOp {
    /// In f64, in 16 lanes joined by halves.
    Sum,
    Prod,
    Max,
    Min,
    IntMax,
    IntMin,
    Any,
    All,
}

impl FoldOp {
    /// Vector registers of an accumulator, at the level that has the fewest.
    pub const fn registers(self) -> usize {
        match self {
            FoldOp::Sum | FoldOp::Prod => 4,
            FoldOp::Max | FoldOp::Min => 2,
            FoldOp::IntMax | FoldOp::IntMin | FoldOp::Any | FoldOp::All => 1,
        }
    }
}

/// A fold of a node into an accumulator in memory.
#[derive(Copy, Clone, Debug)]
pub(super) struct Fold {
    pub op: FoldOp,
    pub value: Id,
}

/// One number for all lanes, known when the function is called.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Uniform {
    /// An element of so many bytes, zero-extended to 32 bits.
    Element(usize),
    /// The reciprocal of another one, or NaN where [`is_moderate`] does not hold for that.
    Reciprocal(u16),
}

/// Exponents of the divisors and quotients for which [`NodeOp::Quotient`] needs no division: no product of
/// them loses bits to underflow.
const MODERATE: i32 = 40;
/// A number is moderate when twice its bits less this, as an unsigned number, are below [`MODERATE_RANGE`].
pub(super) const MODERATE_FROM: u32 = ((127 - MODERATE) as u32) << 24;
pub(super) const MODERATE_RANGE: u32 = (2 * MODERATE as u32) << 24;

/// True when a number's exponent is moderate.
pub(super) fn is_moderate(bits: u32) -> bool {
    bits.wrapping_mul(2).wrapping_sub(MODERATE_FROM) < MODERATE_RANGE
}

/// A vector function before it is code.
pub(super) struct Graph {
    pub level: Level,
    pub nodes: Vec<Node>,
    seen: HashMap<Node, Id>,
    /// Bytes per element of each stream.
    pub streams: Vec<usize>,
    /// Streams that are written.
    pub written: Vec<bool>,
    pub uniforms: Vec<Uniform>,
    pub stores: Vec<Store>,
    pub folds: Vec<Fold>,
    /// For each stream, how many bytes further elements are fetched (0, or none stated: none are).
    pub ahead: Vec<i32>,
}

/// Predicates of float comparisons, quiet.
pub(super) const EQ: u8 = 0;
pub(super) const LT: u8 = 0x11;
pub(super) const LE: u8 = 0x12;
pub(super) const UNORDERED: u8 = 3;
pub(super) const NE: u8 = 4;
pub(super) const NOT_LE: u8 = 0x16;
pub(super) const NOT_GE: u8 = 0x19;

impl Graph {
    pub fn new(level: Level) -> Graph {
        Graph {
            level,
            nodes: Vec::new(),
            seen: HashMap::new(),
            streams: Vec::new(),
            written: Vec::new(),
            uniforms: Vec::new(),
            stores: Vec::new(),
            folds: Vec::new(),
            ahead: Vec::new(),
        }
    }

    /// Uniform elements, whose addresses follow those of the streams.
    pub fn elements(&self) -> usize {
        self.uniforms.iter().filter(|u| matches!(u, Uniform::Element(_))).count()
    }

    pub fn is_wide(&self) -> bool {
        self.level == Level::Avx512
    }

    pub fn node(&mut self, op: NodeOp, args: &[Id]) -> Id {
        let mut all = [0; 3];
        all[..args.len()].copy_from_slice(args);
        let node = Node { op, args: all, count: args.len() as u8 };
        let next = self.nodes.len() as Id;
        let id = *self.seen.entry(node).or_insert(next);
        if id == next {
            self.nodes.push(node);
        }
        id
    }

    pub fn stream(&mut self, bytes: usize, written: bool) -> u16 {
        self.streams.push(bytes);
        self.written.push(written);
        (self.streams.len() - 1) as u16
    }

    pub fn uniform(&mut self, bytes: usize) -> Id {
        self.uniforms.push(Uniform::Element(bytes));
        self.node(NodeOp::Uniform((self.uniforms.len() - 1) as u16), &[])
    }

    pub fn constant(&mut self, bits: u32) -> Id {
        self.node(NodeOp::Const(bits), &[])
    }

    pub fn known(&self, id: Id) -> Option<u32> {
        match self.nodes[id as usize].op {
            NodeOp::Const(bits) => Some(bits),
            _ => None,
        }
    }

    pub fn two(&mut self, op: Op, a: Id, b: Id) -> Id {
        self.node(NodeOp::Two(op), &[a, b])
    }

    /// `a / b`, by multiplications if `b` is the same for all lanes.
    pub fn quotient(&mut self, a: Id, b: Id) -> Id {
        let reciprocal = match self.nodes[b as usize].op {
            NodeOp::Const(bits) if is_moderate(bits) => self.constant((1.0 / f32::from_bits(bits)).to_bits()),
            NodeOp::Uniform(of) => {
                let wanted = Uniform::Reciprocal(of);
                let at = self.uniforms.iter().position(|&u| u == wanted).unwrap_or_else(|| {
                    self.uniforms.push(wanted);
                    self.uniforms.len() - 1
                });
                self.node(NodeOp::Uniform(at as u16), &[])
            }
            _ => return self.two(asm::DIVPS, a, b),
        };
        if self.nodes[a as usize].is_uniform() {
            return self.two(asm::DIVPS, a, b);
        }
        self.node(NodeOp::Quotient, &[a, b, reciprocal])
    }

    pub fn one(&mut self, op: Op, a: Id) -> Id {
        self.node(NodeOp::One(op, None), &[a])
    }

    pub fn round_to(&mut self, a: Id, mode: u8) -> Id {
        self.node(NodeOp::One(asm::RNDPS, Some(8 | mode)), &[a])
    }

    /// Compares floats.
    pub fn compare(&mut self, predicate: u8, a: Id, b: Id) -> Id {
        self.node(NodeOp::Compare(asm::CMPPS, predicate), &[a, b])
    }

    /// `a > b` as signed integers.
    pub fn int_gt(&mut self, a: Id, b: Id) -> Id {
        if self.is_wide() { self.node(NodeOp::Compare(asm::PCMPD, 6), &[a, b]) } else { self.two(asm::PCMPGTD, a, b) }
    }

    /// `a == b` as integers.
    pub fn int_eq(&mut self, a: Id, b: Id) -> Id {
        if self.is_wide() { self.node(NodeOp::Compare(asm::PCMPD, 0), &[a, b]) } else { self.two(asm::PCMPEQD, a, b) }
    }

    fn mask_op(&mut self, wide: KOp, narrow: Op, a: Id, b: Id) -> Id {
        if self.is_wide() { self.node(NodeOp::Mask(wide), &[a, b]) } else { self.two(narrow, a, b) }
    }

    pub fn mask_and(&mut self, a: Id, b: Id) -> Id {
        self.mask_op(KOp::And, asm::PAND, a, b)
    }

    pub fn mask_or(&mut self, a: Id, b: Id) -> Id {
        self.mask_op(KOp::Or, asm::POR, a, b)
    }

    pub fn mask_xor(&mut self, a: Id, b: Id) -> Id {
        self.mask_op(KOp::Xor, asm::PXOR, a, b)
    }

    pub fn mask_not(&mut self, a: Id) -> Id {
        if self.is_wide() {
            return self.node(NodeOp::Mask(KOp::Not), &[a]);
        }
        let ones = self.constant(u32::MAX);
        self.two(asm::PXOR, a, ones)
    }

    pub fn choose(&mut self, mask: Id, a: Id, b: Id) -> Id {
        if a == b { a } else { self.node(NodeOp::Select, &[mask, a, b]) }
    }

    pub fn shift(&mut self, digit: u8, a: Id, n: u32) -> Id {
        if n == 0 { a } else { self.node(NodeOp::Shift(digit, n as u8), &[a]) }
    }
}

impl Lanes for Graph {
    type F = Id;
    type I = Id;
    type M = Id;

    fn f(&mut self, c: f32) -> Id {
        self.constant(c.to_bits())
    }
    fn i(&mut self, c: i32) -> Id {
        self.constant(c as u32)
    }
    fn add(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::ADDPS, a, b)
    }
    fn sub(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::SUBPS, a, b)
    }
    fn mul(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::MULPS, a, b)
    }
    fn div(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::DIVPS, a, b)
    }
    fn scale(&mut self, y: Id, n: Id, shifted: Id) -> Id {
        if self.is_wide() { self.two(asm::SCALEFPS, y, n) } else { by_factors(self, y, shifted) }
    }
    fn fma(&mut self, a: Id, b: Id, c: Id) -> Id {
        self.node(NodeOp::Fma, &[a, b, c])
    }
    fn fnma(&mut self, a: Id, b: Id, c: Id) -> Id {
        self.node(NodeOp::Fnma, &[a, b, c])
    }
    fn sqrt(&mut self, a: Id) -> Id {
        self.one(asm::SQRTPS, a)
    }
    fn min(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::MINPS, a, b)
    }
    fn max(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::MAXPS, a, b)
    }
    fn round(&mut self, a: Id) -> Id {
        self.round_to(a, 0)
    }
    fn lt(&mut self, a: Id, b: Id) -> Id {
        self.compare(LT, a, b)
    }
    fn le(&mut self, a: Id, b: Id) -> Id {
        self.compare(LE, a, b)
    }
    fn eq(&mut self, a: Id, b: Id) -> Id {
        self.compare(EQ, a, b)
    }
    fn ilt(&mut self, a: Id, b: Id) -> Id {
        self.int_gt(b, a)
    }
    fn select(&mut self, m: Id, a: Id, b: Id) -> Id {
        self.choose(m, a, b)
    }
    fn bits(&mut self, a: Id) -> Id {
        a
    }
    fn from_bits(&mut self, a: Id) -> Id {
        a
    }
    fn to_float(&mut self, a: Id) -> Id {
        self.one(asm::CVTDQ2PS, a)
    }
    fn iadd(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::PADDD, a, b)
    }
    fn isub(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::PSUBD, a, b)
    }
    fn iand(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::PAND, a, b)
    }
    fn ior(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::POR, a, b)
    }
    fn ixor(&mut self, a: Id, b: Id) -> Id {
        self.two(asm::PXOR, a, b)
    }
    fn shl(&mut self, a: Id, n: u32) -> Id {
        self.shift(6, a, n)
    }
    fn sar(&mut self, a: Id, n: u32) -> Id {
        self.shift(4, a, n)
    }
    fn shr(&mut self, a: Id, n: u32) -> Id {
        self.shift(2, a, n)
    }
}
