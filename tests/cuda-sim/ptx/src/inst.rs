//! Decoded instructions: flat registers by index, functions by pointer, so that execution looks nothing up.

use crate::ast::Space;
use crate::soft::{Arith, Rnd};
use crate::ty::Ty;

/// The values of one register in the 32 lanes of a warp, each zero-extended.
pub(crate) type Lanes = [u64; 32];
pub(crate) type F1 = fn(&Lanes, &mut Lanes);
pub(crate) type F2 = fn(&Lanes, &Lanes, &mut Lanes);
pub(crate) type F3 = fn(&Lanes, &Lanes, &Lanes, &mut Lanes);

/// Index of a register in the warp's file.
pub(crate) type Reg = u32;
/// No register.
pub(crate) const NONE: Reg = u32::MAX;

/// A register plus a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub base: Reg,
    pub off: i64,
}

/// Rounding arithmetic with its modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatOp {
    pub op: Arith,
    pub ty: Ty,
    pub rnd: Rnd,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

/// Functions that hardware approximates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approx {
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    Rsqrt,
    Rcp,
    Sqrt,
    Div,
    DivFull,
}

/// Comparisons of `setp`, `set` and `slct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bool {
    And,
    Or,
    Xor,
}

/// Integral rounding of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CvtRnd {
    None,
    Float(Rnd),
    /// To an integral value.
    Int(Rnd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CvtOp {
    pub dst: Ty,
    pub src: Ty,
    /// Bits of the destination register; a signed result is extended to it.
    pub dst_bits: u32,
    pub rnd: CvtRnd,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MinMax {
    Min,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// What a barrier returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarRed {
    No,
    Popc,
    And,
    Or,
}

/// Where an element of a fragment lies: register, lane, bit offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub reg: u8,
    pub lane: u8,
    pub shift: u8,
}

/// A matrix product with the places of all elements, by rows.
#[derive(Clone, Debug)]
pub(crate) struct MmaPlan {
    pub shape: MmaShape,
    pub a: Vec<Place>,
    pub b: Vec<Place>,
    pub c: Vec<Place>,
    pub d: Vec<Place>,
}

/// Element types and shape of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmaShape {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a: Ty,
    pub b: Ty,
    pub c: Ty,
    pub d: Ty,
    pub sat: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Nop,
    Mov {
        d: Reg,
        a: Reg,
        bits: u32,
    },
    A1 {
        f: F1,
        d: Reg,
        a: Reg,
    },
    A2 {
        f: F2,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    A3 {
        f: F3,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    /// Any other pure function of up to four registers.
    Pure {
        f: PureOp,
        d: Reg,
        s: [Reg; 4],
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        p: Reg,
        q: Reg,
        a: Reg,
        b: Reg,
        fold: Option<(Bool, Reg, bool)>,
    },
    Selp {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Reg,
        neg: bool,
    },
    Carry {
        op: Carry,
        bits: u32,
        signed: bool,
        use_cc: bool,
        set_cc: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Pack {
        d: Reg,
        parts: Box<[Reg]>,
        bits: u32,
    },
    Unpack {
        parts: Box<[Reg]>,
        a: Reg,
        bits: u32,
    },
    Ld {
        space: Space,
        bytes: u32,
        sext: u32,
        at: Addr,
        d: Box<[Reg]>,
        nc: bool,
    },
    St {
        space: Space,
        bytes: u32,
        at: Addr,
        s: Box<[Reg]>,
    },
    Atom {
        space: Space,
        op: AtomOp,
        ty: Ty,
        at: Addr,
        d: Reg,
        b: Reg,
        c: Reg,
    },
    CpAsync {
        dst: Addr,
        src: Addr,
        bytes: u32,
        size: Reg,
        ignore: Reg,
    },
    CpCommit,
    /// Wait until at most so many groups are under way.
    CpWait {
        groups: u32,
    },
    CpWaitAll,
    Ldmatrix {
        n: u32,
        trans: bool,
        at: Addr,
        d: Box<[Reg]>,
    },
    Stmatrix {
        n: u32,
        trans: bool,
        at: Addr,
        s: Box<[Reg]>,
    },
    Mma {
        plan: Box<MmaPlan>,
        d: Box<[Reg]>,
        a: Box<[Reg]>,
        b: Box<[Reg]>,
        c: Box<[Reg]>,
    },
    Shfl {
        mode: ShflMode,
        d: Reg,
        p: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        members: Reg,
    },
    Vote {
        mode: VoteMode,
        d: Reg,
        p: Reg,
        neg: bool,
        members: Reg,
    },
    Match {
        all: bool,
        bits: u32,
        d: Reg,
        p: Reg,
        a: Reg,
        members: Reg,
    },
    Redux {
        op: RedOp,
        signed: bool,
        d: Reg,
        a: Reg,
        members: Reg,
    },
    Elect {
        d: Reg,
        p: Reg,
        members: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    Clock {
        d: Reg,
        bits: u32,
    },
    SyncWarp {
        members: Reg,
    },
    Bar {
        id: Reg,
        count: Reg,
        wait: bool,
        red: BarRed,
        d: Reg,
        p: Reg,
        neg: bool,
    },
    Fence,
    Bra {
        target: u32,
    },
    BrxIdx {
        index: Reg,
        targets: Box<[u32]>,
    },
    /// `copies` go from the caller's frame to the callee's, `results` back: (to, from, bytes).
    Call {
        target: u32,
        copies: Box<[(u32, u32, u32)]>,
        results: Box<[(u32, u32, u32)]>,
    },
    Ret,
    Exit,
    Trap,
}

/// Pure functions that are evaluated by looking at their description, lane by lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PureOp {
    Float(FloatOp),
    /// Packed arithmetic on two 16-bit floats.
    Float2(FloatOp),
    Approx {
        f: Approx,
        ty: Ty,
        ftz: bool,
        sat: bool,
    },
    MinMax {
        op: MinMax,
        ty: Ty,
        ftz: bool,
        nan: bool,
        xorsign: bool,
        relu: bool,
    },
    Cvt(CvtOp),
    /// Two f32 into a packed pair: the first operand is the high half.
    CvtPack {
        dst: Ty,
        rnd: Rnd,
        sat: bool,
        relu: bool,
    },
    /// `set`: the result is all ones (or 1.0) or zero.
    Set {
        cmp: Cmp,
        src: Ty,
        dst: Ty,
        ftz: bool,
    },
    Slct {
        src: Ty,
        sel: Ty,
    },
    /// Mode 0 is the general one; then f4e, b4e, rc8, ecl, ecr, rc16.
    Prmt(u8),
    Lop3(u8),
    Bfi(u32),
    Testp {
        test: u8,
        ty: Ty,
    },
    NegAbs {
        ty: Ty,
        abs: bool,
        ftz: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Reg,
    pub negate: bool,
    pub line: u32,
}
