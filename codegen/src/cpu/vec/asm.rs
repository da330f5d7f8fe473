//! An encoder for the x86-64 instructions that the vector generator uses: VEX for 256-bit code, EVEX for
//! 512-bit code, and a handful of general ones. Nothing is chosen here; every method is one instruction.
//!
//! Constants sit behind the code and are addressed relative to the instruction pointer, so that a function
//! needs no relocation.

use std::fmt::Write as _;

/// A general register by its number.
pub(super) type Gpr = u8;
pub(super) const RAX: Gpr = 0;
pub(super) const RCX: Gpr = 1;
pub(super) const RBX: Gpr = 3;
pub(super) const RBP: Gpr = 5;
pub(super) const RSI: Gpr = 6;
pub(super) const RDI: Gpr = 7;
pub(super) const R8: Gpr = 8;
pub(super) const R9: Gpr = 9;

const GPR_NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Length of a vector.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Width {
    X = 0,
    Y = 1,
    Z = 2,
}

impl Width {
    pub const fn bytes(self) -> i32 {
        16 << (self as u8)
    }
}

/// Where an address starts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// A register.
    Gpr(Gpr),
    /// The constants behind the code.
    Pool,
}

/// A memory operand.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Mem {
    pub base: Base,
    /// Index register and binary logarithm of its scale.
    pub index: Option<(Gpr, u8)>,
    pub disp: i32,
    /// One element for all lanes (EVEX only).
    pub splat: bool,
}

impl Mem {
    pub const fn at(base: Gpr, disp: i32) -> Mem {
        Mem { base: Base::Gpr(base), index: None, disp, splat: false }
    }
}

/// The operand that may be a register or memory.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Rm {
    Reg(u8),
    Mem(Mem),
}

/// What an EVEX displacement of one byte counts in.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Tuple {
    /// Whole vectors.
    Full,
    /// Halves, quarters and eighths of the vector length.
    Half,
    Quarter,
    /// So many bytes whatever the vector length.
    Bytes(i32),
}

/// A vector instruction.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Op {
    pub name: &'static str,
    /// Opcode map: 1 is 0F, 2 is 0F38, 3 is 0F3A.
    map: u8,
    /// Mandatory prefix: 0 none, 1 is 66, 2 is F3, 3 is F2.
    pp: u8,
    code: u8,
    w: bool,
    tuple: Tuple,
}

const fn op(name: &'static str, map: u8, pp: u8, code: u8) -> Op {
    Op { name, map, pp, code, w: false, tuple: Tuple::Full }
}

const fn wide(name: &'static str, map: u8, pp: u8, code: u8) -> Op {
    Op { name, map, pp, code, w: true, tuple: Tuple::Full }
}

const fn sized(name: &'static str, map: u8, pp: u8, code: u8, tuple: Tuple) -> Op {
    Op { name, map, pp, code, w: false, tuple }
}

pub(super) const MOVUPS: Op = op("vmovups", 1, 0, 0x10);
pub(super) const MOVUPS_STORE: Op = op("vmovups", 1, 0, 0x11);
pub(super) const MOVUPD: Op = wide("vmovupd", 1, 1, 0x10);
pub(super) const MOVUPD_STORE: Op = wide("vmovupd", 1, 1, 0x11);
pub(super) const MOVDQU8: Op = sized("vmovdqu8", 1, 3, 0x6f, Tuple::Full);
pub(super) const MOVDQU8_STORE: Op = sized("vmovdqu8", 1, 3, 0x7f, Tuple::Full);
pub(super) const MOVDQU16_STORE: Op = wide("vmovdqu16", 1, 3, 0x7f);
pub(super) const MOVQ_STORE: Op = op("vmovq", 1, 1, 0xd6);
pub(super) const BROADCASTSS: Op = sized("vbroadcastss", 2, 1, 0x18, Tuple::Bytes(4));
pub(super) const PBROADCASTD_GPR: Op = op("vpbroadcastd", 2, 1, 0x7c);
pub(super) const PBROADCASTD: Op = sized("vpbroadcastd", 2, 1, 0x58, Tuple::Bytes(4));
pub(super) const MOVD: Op = sized("vmovd", 1, 1, 0x6e, Tuple::Bytes(4));
pub(super) const MOVD_STORE: Op = sized("vmovd", 1, 1, 0x7e, Tuple::Bytes(4));
pub(super) const ADDPS: Op = op("vaddps", 1, 0, 0x58);
pub(super) const SUBPS: Op = op("vsubps", 1, 0, 0x5c);
pub(super) const MULPS: Op = op("vmulps", 1, 0, 0x59);
pub(super) const DIVPS: Op = op("vdivps", 1, 0, 0x5e);
pub(super) const MINPS: Op = op("vminps", 1, 0, 0x5d);
pub(super) const MAXPS: Op = op("vmaxps", 1, 0, 0x5f);
pub(super) const SQRTPS: Op = op("vsqrtps", 1, 0, 0x51);
/// `vvvv * 2^floor(rm)`, rounded once (EVEX only).
pub(super) const SCALEFPS: Op = op("vscalefps", 2, 1, 0x2c);
pub(super) const RNDPS: Op = op("vrndscaleps", 3, 1, 0x08);
pub(super) const FMADD132PS: Op = op("vfmadd132ps", 2, 1, 0x98);
pub(super) const FMADD213PS: Op = op("vfmadd213ps", 2, 1, 0xa8);
pub(super) const FMADD231PS: Op = op("vfmadd231ps", 2, 1, 0xb8);
pub(super) const FNMADD132PS: Op = op("vfnmadd132ps", 2, 1, 0x9c);
pub(super) const FNMADD213PS: Op = op("vfnmadd213ps", 2, 1, 0xac);
pub(super) const FNMADD231PS: Op = op("vfnmadd231ps", 2, 1, 0xbc);
pub(super) const PADDD: Op = op("vpaddd", 1, 1, 0xfe);
pub(super) const PSUBD: Op = op("vpsubd", 1, 1, 0xfa);
pub(super) const PMULLD: Op = op("vpmulld", 2, 1, 0x40);
pub(super) const PMINSD: Op = op("vpminsd", 2, 1, 0x39);
pub(super) const PMAXSD: Op = op("vpmaxsd", 2, 1, 0x3d);
pub(super) const PABSD: Op = op("vpabsd", 2, 1, 0x1e);
pub(super) const PAND: Op = op("vpandd", 1, 1, 0xdb);
pub(super) const POR: Op = op("vpord", 1, 1, 0xeb);
pub(super) const PXOR: Op = op("vpxord", 1, 1, 0xef);
pub(super) const PSLLVD: Op = op("vpsllvd", 2, 1, 0x47);
pub(super) const PSRAVD: Op = op("vpsravd", 2, 1, 0x46);
/// Shifts by an immediate; the register field selects which.
pub(super) const SHIFTD: Op = op("vpshiftd", 1, 1, 0x72);
pub(super) const CVTDQ2PS: Op = op("vcvtdq2ps", 1, 0, 0x5b);
pub(super) const CVTTPS2DQ: Op = op("vcvttps2dq", 1, 2, 0x5b);
pub(super) const CVTPH2PS: Op = sized("vcvtph2ps", 2, 1, 0x13, Tuple::Half);
pub(super) const CVTPS2PH: Op = sized("vcvtps2ph", 3, 1, 0x1d, Tuple::Half);
pub(super) const PMOVZXBD: Op = sized("vpmovzxbd", 2, 1, 0x31, Tuple::Quarter);
pub(super) const PMOVSXBD: Op = sized("vpmovsxbd", 2, 1, 0x21, Tuple::Quarter);
pub(super) const PMOVZXWD: Op = sized("vpmovzxwd", 2, 1, 0x33, Tuple::Half);
pub(super) const PMOVSXWD: Op = sized("vpmovsxwd", 2, 1, 0x23, Tuple::Half);
pub(super) const PMOVDB: Op = sized("vpmovdb", 2, 2, 0x31, Tuple::Quarter);
pub(super) const PMOVDW: Op = sized("vpmovdw", 2, 2, 0x33, Tuple::Half);
pub(super) const PMOVM2B: Op = op("vpmovm2b", 2, 2, 0x28);
pub(super) const PABSB: Op = op("vpabsb", 2, 1, 0x1c);
pub(super) const PTESTMB: Op = op("vptestmb", 2, 1, 0x26);
pub(super) const CMPPS: Op = op("vcmpps", 1, 0, 0xc2);
pub(super) const PCMPD: Op = op("vpcmpd", 3, 1, 0x1f);
pub(super) const PCMPUD: Op = op("vpcmpud", 3, 1, 0x1e);
pub(super) const PCMPGTD: Op = op("vpcmpgtd", 1, 1, 0x66);
pub(super) const PCMPEQD: Op = op("vpcmpeqd", 1, 1, 0x76);
pub(super) const BLENDMPS: Op = op("vblendmps", 2, 1, 0x65);
pub(super) const BLENDVPS: Op = op("vblendvps", 3, 1, 0x4a);
pub(super) const PACKUSDW: Op = op("vpackusdw", 2, 1, 0x2b);
pub(super) const PACKUSWB: Op = op("vpackuswb", 1, 1, 0x67);
pub(super) const EXTRACTF128: Op = op("vextractf128", 3, 1, 0x19);
pub(super) const EXTRACTF32X4: Op = op("vextractf32x4", 3, 1, 0x19);
pub(super) const EXTRACTF64X4: Op = wide("vextractf64x4", 3, 1, 0x1b);
pub(super) const CVTPS2PD: Op = sized("vcvtps2pd", 1, 0, 0x5a, Tuple::Half);
pub(super) const ADDPD: Op = wide("vaddpd", 1, 1, 0x58);
pub(super) const MULPD: Op = wide("vmulpd", 1, 1, 0x59);
pub(super) const UNPCKHPD: Op = wide("vunpckhpd", 1, 1, 0x15);
pub(super) const UNPCKLPD: Op = wide("vunpcklpd", 1, 1, 0x14);
pub(super) const UNPCKLPS: Op = op("vunpcklps", 1, 0, 0x14);
pub(super) const UNPCKHPS: Op = op("vunpckhps", 1, 0, 0x15);
pub(super) const SHUFF32X4: Op = op("vshuff32x4", 3, 1, 0x23);
pub(super) const PERM2F128: Op = op("vperm2f128", 3, 1, 0x06);
pub(super) const MOVSD: Op = Op { name: "vmovsd", map: 1, pp: 3, code: 0x10, w: true, tuple: Tuple::Bytes(8) };
pub(super) const MOVSD_STORE: Op = Op { name: "vmovsd", map: 1, pp: 3, code: 0x11, w: true, tuple: Tuple::Bytes(8) };
pub(super) const MOVSS_STORE: Op = sized("vmovss", 1, 2, 0x11, Tuple::Bytes(4));
pub(super) const SHUFPS: Op = op("vshufps", 1, 0, 0xc6);
pub(super) const MOVMSKPS: Op = op("vmovmskps", 1, 0, 0x50);

pub(super) const PTEST: Op = op("vptest", 2, 1, 0x17);

/// Operations on mask registers: name, L bit, opcode, all in map 0F without prefix.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum KOp {
    And,
    Or,
    Xor,
    Xnor,
    Not,
    OrTest,
}

impl KOp {
    const fn parts(self) -> (&'static str, u8, u8) {
        match self {
            KOp::And => ("kandw", 1, 0x41),
            KOp::Or => ("korw", 1, 0x45),
            KOp::Xor => ("kxorw", 1, 0x47),
            KOp::Xnor => ("kxnorw", 1, 0x46),
            KOp::Not => ("knotw", 0, 0x44),
            KOp::OrTest => ("kortestw", 0, 0x98),
        }
    }
}

/// A condition of a jump, by its x86 code.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Cond {
    Below = 2,
    AboveEqual = 3,
    Zero = 4,
    NotZero = 5,
}

/// A place in the code.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// Write mask of an EVEX instruction.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Mask {
    /// Mask register, 0 for none.
    pub k: u8,
    /// Other lanes become zero instead of staying as they were.
    pub zero: bool,
}

/// Code under construction.
pub(super) struct Asm {
    pub code: Vec<u8>,
    evex: bool,
    pool: Vec<u8>,
    /// Positions of displacements, the pool offsets that they point to, and the ends of their instructions.
    pool_fixups: Vec<(usize, u32, usize)>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
    /// Text, if wanted.
    pub text: Option<String>,
}

impl Asm {
    pub fn new(evex: bool, listing: bool) -> Asm {
        Asm {
            code: Vec::with_capacity(1024),
            evex,
            pool: Vec::new(),
            pool_fixups: Vec::new(),
            labels: Vec::new(),
            jumps: Vec::new(),
            text: listing.then(String::new),
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(text) = &mut self.text {
            let _ = writeln!(text, "    {}", line());
        }
    }

    /// Puts bytes into the pool, or finds them there; returns their offset. `bytes` is a whole number of
    /// units of its own length.
    pub fn constant(&mut self, bytes: &[u8]) -> i32 {
        let step = bytes.len().max(1);
        let found = (0..self.pool.len()).step_by(4).find(|&at| self.pool.get(at..at + step) == Some(bytes));
        if let Some(at) = found {
            return at as i32;
        }
        let at = self.pool.len();
        self.pool.extend_from_slice(bytes);
        at as i32
    }

    /// A vector instruction: `reg` is the register field, `vvvv` the extra operand (0 if it has none).
    pub fn v(&mut self, op: &Op, width: Width, reg: u8, vvvv: u8, rm: Rm, imm: Option<u8>) {
        self.masked(op, width, reg, vvvv, rm, imm, Mask::default());
    }

    /// A vector instruction with a write mask.
    #[allow(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub fn masked(&mut self, op: &Op, width: Width, reg: u8, vvvv: u8, rm: Rm, imm: Option<u8>, mask: Mask) {
        self.note(|| vector_text(op, width, reg, vvvv, rm, imm, mask));
        if self.evex {
            self.evex_prefix(op, width, reg, vvvv, rm, mask);
        } else {
            self.vex_prefix(op, u8::from(width == Width::Y), reg, vvvv, rm);
        }
        self.code.push(op.code);
        let unit = match op.tuple {
            _ if !self.evex => 1,
            Tuple::Full => match rm {
                Rm::Mem(m) if m.splat => 4 << u8::from(op.w),
                _ => width.bytes(),
            },
            Tuple::Half => width.bytes() / 2,
            Tuple::Quarter => width.bytes() / 4,
            Tuple::Bytes(n) => n,
        };
        self.modrm(reg & 7, rm, unit, imm);
    }

    /// A VEX-encoded 256- or 128-bit instruction whatever the level.
    fn vex_prefix(&mut self, op: &Op, l: u8, reg: u8, vvvv: u8, rm: Rm) {
        let (x, b) = high_bits(rm);
        let inverted = |bit: bool| u8::from(!bit);
        self.code.push(0xc4);
        self.code.push(inverted(reg & 8 != 0) << 7 | inverted(x) << 6 | inverted(b) << 5 | op.map);
        // All wide instructions of map 1 that we use ignore the bit here; some tools expect it to be 0 then.
        let w = op.w && op.map != 1;
        self.code.push(u8::from(w) << 7 | (!vvvv & 15) << 3 | l << 2 | op.pp);
    }

    fn evex_prefix(&mut self, op: &Op, width: Width, reg: u8, vvvv: u8, rm: Rm, mask: Mask) {
        let (mut x, b) = high_bits(rm);
        let mut splat = false;
        match rm {
            Rm::Reg(r) => x = r & 16 != 0,
            Rm::Mem(m) => splat = m.splat,
        }
        let inverted = |bit: bool| u8::from(!bit);
        self.code.push(0x62);
        self.code.push(
            inverted(reg & 8 != 0) << 7 | inverted(x) << 6 | inverted(b) << 5 | inverted(reg & 16 != 0) << 4 | op.map,
        );
        self.code.push(u8::from(op.w) << 7 | (!vvvv & 15) << 3 | 4 | op.pp);
        self.code.push(
            u8::from(mask.zero) << 7
                | (width as u8) << 5
                | u8::from(splat) << 4
                | inverted(vvvv & 16 != 0) << 3
                | mask.k,
        );
    }

    /// The ModRM byte, what follows it, and the immediate. One-byte displacements count in `unit`.
    fn modrm(&mut self, reg: u8, rm: Rm, unit: i32, imm: Option<u8>) {
        match rm {
            Rm::Reg(r) => self.code.push(0xc0 | reg << 3 | r & 7),
            Rm::Mem(Mem { base: Base::Pool, disp, .. }) => {
                self.code.push(reg << 3 | 5);
                let at = self.code.len();
                self.code.extend([0; 4]);
                self.pool_fixups.push((at, disp as u32, at + 4 + usize::from(imm.is_some())));
            }
            Rm::Mem(Mem { base: Base::Gpr(base), index, disp, .. }) => {
                let short = (disp % unit == 0).then(|| i8::try_from(disp / unit).ok()).flatten();
                let mode = match short {
                    Some(0) if base & 7 != 5 => 0,
                    Some(_) => 0x40,
                    None => 0x80,
                };
                match index {
                    Some((index, scale)) => {
                        self.code.push(mode | reg << 3 | 4);
                        self.code.push(scale << 6 | (index & 7) << 3 | base & 7);
                    }
                    None if base & 7 == 4 => self.code.extend([mode | reg << 3 | 4, 0x24]),
                    None => self.code.push(mode | reg << 3 | base & 7),
                }
                match (mode, short) {
                    (0, _) => {}
                    (_, Some(short)) => self.code.push(short as u8),
                    (_, None) => self.code.extend(disp.to_le_bytes()),
                }
            }
        }
        self.code.extend(imm);
    }

    /// `dst = a op b` on mask registers (`a` is unused by `Not` and `OrTest`, which read `b` and write or
    /// test `dst`).
    pub fn k(&mut self, op: KOp, dst: u8, a: u8, b: u8) {
        let (name, l, code) = op.parts();
        self.note(|| match l {
            1 => format!("{name} k{dst}, k{a}, k{b}"),
            _ => format!("{name} k{dst}, k{b}"),
        });
        let vvvv = if l == 1 { a } else { 0 };
        self.code.extend([0xc5, 0x80 | (!vvvv & 15) << 3 | l << 2, code, 0xc0 | dst << 3 | b]);
    }

    /// `dst = src >> 8`, on masks of 16 lanes.
    pub fn k_shift_right_8(&mut self, dst: u8, src: u8) {
        self.note(|| format!("kshiftrw k{dst}, k{src}, 8"));
        self.code.extend([0xc4, 0xe3, 0xf9, 0x30, 0xc0 | dst << 3 | src, 8]);
    }

    /// Loads or stores a mask register at `[base + disp]`, `base` below r8.
    pub fn k_memory(&mut self, k: u8, base: Gpr, disp: i32, store: bool) {
        self.note(|| {
            let place = format!("[{}{disp:+}]", GPR_NAMES[usize::from(base)]);
            if store { format!("kmovw {place}, k{k}") } else { format!("kmovw k{k}, {place}") }
        });
        self.code.extend([0xc5, 0xf8, if store { 0x91 } else { 0x90 }]);
        self.modrm(k, Rm::Mem(Mem::at(base, disp)), 1, None);
    }

    /// `vzeroupper`.
    pub fn zero_upper(&mut self) {
        self.note(|| "vzeroupper".to_string());
        self.code.extend([0xc5, 0xf8, 0x77]);
    }

    fn rex(&mut self, w: bool, reg: Gpr, rm: Rm) {
        let (x, b) = high_bits(rm);
        let byte = 0x40 | u8::from(w) << 3 | u8::from(reg & 8 != 0) << 2 | u8::from(x) << 1 | u8::from(b);
        if byte != 0x40 {
            self.code.push(byte);
        }
    }

    fn gpr(&mut self, w: bool, code: u8, reg: Gpr, rm: Rm) {
        self.rex(w, reg, rm);
        self.code.push(code);
        self.modrm(reg & 7, rm, 1, None);
    }

    /// `mov reg, [mem]`, 64 bits.
    pub fn load(&mut self, reg: Gpr, mem: Mem) {
        self.note(|| format!("mov {}, {}", GPR_NAMES[usize::from(reg)], memory_text(mem)));
        self.gpr(true, 0x8b, reg, Rm::Mem(mem));
    }

    /// `lea reg, [mem]`.
    pub fn lea(&mut self, reg: Gpr, mem: Mem) {
        self.note(|| format!("lea {}, {}", GPR_NAMES[usize::from(reg)], memory_text(mem)));
        self.gpr(true, 0x8d, reg, Rm::Mem(mem));
    }

    /// Loads an element of `size` bytes without regard to the rest of the register.
    pub fn load_element(&mut self, reg: Gpr, mem: Mem, size: usize) {
        self.note(|| format!("mov{} {}, {}", size * 8, GPR_NAMES[usize::from(reg)], memory_text(mem)));
        match size {
            1 | 2 => {
                self.rex(false, reg, Rm::Mem(mem));
                self.code.extend([0x0f, if size == 1 { 0xb6 } else { 0xb7 }]);
                self.modrm(reg & 7, Rm::Mem(mem), 1, None);
            }
            _ => self.gpr(size == 8, 0x8b, reg, Rm::Mem(mem)),
        }
    }

    /// Stores the low `size` bytes of `reg`, which is rax, rcx, rdx, rbx or an upper register.
    pub fn store_element(&mut self, mem: Mem, reg: Gpr, size: usize) {
        debug_assert!(size > 1 || !(4..8).contains(&reg));
        self.note(|| format!("mov{} {}, {}", size * 8, memory_text(mem), GPR_NAMES[usize::from(reg)]));
        if size == 2 {
            self.code.push(0x66);
        }
        self.gpr(size == 8, if size == 1 { 0x88 } else { 0x89 }, reg, Rm::Mem(mem));
    }

    /// `mov dword [mem], imm`.
    pub fn store_word(&mut self, mem: Mem, imm: u32) {
        self.note(|| format!("mov32 {}, {imm:#x}", memory_text(mem)));
        self.gpr(false, 0xc7, 0, Rm::Mem(mem));
        self.code.extend(imm.to_le_bytes());
    }

    /// `mov byte [mem], imm`.
    pub fn store_byte(&mut self, mem: Mem, imm: u8) {
        self.note(|| format!("mov8 {}, {imm}", memory_text(mem)));
        self.gpr(false, 0xc6, 0, Rm::Mem(mem));
        self.code.push(imm);
    }

    /// `xor reg, reg`.
    pub fn clear(&mut self, reg: Gpr) {
        self.note(|| format!("xor {0}, {0}", GPR_NAMES[usize::from(reg)]));
        self.gpr(false, 0x33, reg, Rm::Reg(reg));
    }

    fn arithmetic(&mut self, name: &str, digit: u8, reg: Gpr, imm: i32) {
        self.note(|| format!("{name} {}, {imm}", GPR_NAMES[usize::from(reg)]));
        let short = i8::try_from(imm).ok();
        self.gpr(true, if short.is_some() { 0x83 } else { 0x81 }, digit, Rm::Reg(reg));
        match short {
            Some(short) => self.code.push(short as u8),
            None => self.code.extend(imm.to_le_bytes()),
        }
    }

    pub fn add(&mut self, reg: Gpr, imm: i32) {
        self.arithmetic("add", 0, reg, imm);
    }

    pub fn sub(&mut self, reg: Gpr, imm: i32) {
        self.arithmetic("sub", 5, reg, imm);
    }

    pub fn compare(&mut self, reg: Gpr, imm: i32) {
        self.arithmetic("cmp", 7, reg, imm);
    }

    /// `add reg, reg`, 32 bits.
    pub fn double(&mut self, reg: Gpr) {
        self.note(|| format!("add32 {0}, {0}", GPR_NAMES[usize::from(reg)]));
        self.gpr(false, 0x03, reg, Rm::Reg(reg));
    }

    /// `sub reg, imm`, 32 bits.
    pub fn sub_word(&mut self, reg: Gpr, imm: u32) {
        self.note(|| format!("sub32 {}, {imm:#x}", GPR_NAMES[usize::from(reg)]));
        self.gpr(false, 0x81, 5, Rm::Reg(reg));
        self.code.extend(imm.to_le_bytes());
    }

    /// `cmp reg, imm`, 32 bits.
    pub fn compare_word(&mut self, reg: Gpr, imm: u32) {
        self.note(|| format!("cmp32 {}, {imm:#x}", GPR_NAMES[usize::from(reg)]));
        self.gpr(false, 0x81, 7, Rm::Reg(reg));
        self.code.extend(imm.to_le_bytes());
    }

    /// `mov reg, imm`, 32 bits; leaves the flags alone.
    pub fn set_word(&mut self, reg: Gpr, imm: u32) {
        self.note(|| format!("mov32 {}, {imm:#x}", GPR_NAMES[usize::from(reg)]));
        self.gpr(false, 0xc7, 0, Rm::Reg(reg));
        self.code.extend(imm.to_le_bytes());
    }

    /// The first lane of a vector register in a general one.
    pub fn word_from_vector(&mut self, reg: Gpr, from: u8) {
        self.v(&MOVD_STORE, Width::X, from, 0, Rm::Reg(reg), None);
    }

    /// `cmp a, b`, 64 bits.
    pub fn compare_registers(&mut self, a: Gpr, b: Gpr) {
        self.note(|| format!("cmp {}, {}", GPR_NAMES[usize::from(a)], GPR_NAMES[usize::from(b)]));
        self.gpr(true, 0x3b, a, Rm::Reg(b));
    }

    /// `test reg, reg`, 64 bits.
    pub fn test(&mut self, reg: Gpr) {
        self.note(|| format!("test {0}, {0}", GPR_NAMES[usize::from(reg)]));
        self.gpr(true, 0x85, reg, Rm::Reg(reg));
    }

    pub fn push(&mut self, reg: Gpr) {
        self.note(|| format!("push {}", GPR_NAMES[usize::from(reg)]));
        self.rex(false, 0, Rm::Reg(reg));
        self.code.push(0x50 | reg & 7);
    }

    pub fn pop(&mut self, reg: Gpr) {
        self.note(|| format!("pop {}", GPR_NAMES[usize::from(reg)]));
        self.rex(false, 0, Rm::Reg(reg));
        self.code.push(0x58 | reg & 7);
    }

    pub fn ret(&mut self) {
        self.note(|| "ret".to_string());
        self.code.push(0xc3);
    }

    /// `prefetcht1 [mem]`: into the second-level cache.
    pub fn prefetch(&mut self, mem: Mem) {
        self.note(|| format!("prefetcht1 {}", memory_text(mem)));
        self.rex(false, 0, Rm::Mem(mem));
        self.code.extend([0x0f, 0x18]);
        self.modrm(2, Rm::Mem(mem), 1, None);
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub fn bind(&mut self, label: Label) {
        if let Some(text) = &mut self.text {
            let _ = writeln!(text, "  L{}:", label.0);
        }
        self.labels[label.0] = Some(self.code.len());
    }

    pub fn jump(&mut self, to: Label) {
        self.note(|| format!("jmp L{}", to.0));
        self.code.extend([0xe9, 0, 0, 0, 0]);
        self.jumps.push((self.code.len() - 4, to));
    }

    pub fn jump_if(&mut self, cond: Cond, to: Label) {
        self.note(|| format!("j{} L{}", format!("{cond:?}").to_lowercase(), to.0));
        self.code.extend([0x0f, 0x80 | cond as u8, 0, 0, 0, 0]);
        self.jumps.push((self.code.len() - 4, to));
    }

    /// Resolves jumps and constants: the finished function.
    pub fn finish(mut self) -> (Vec<u8>, String) {
        for (at, label) in &self.jumps {
            let to = self.labels[label.0].unwrap_or(at + 4);
            let distance = to as i64 - (*at as i64 + 4);
            self.code[*at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        self.code.resize(self.code.len().next_multiple_of(64), 0xcc);
        let start = self.code.len();
        for &(at, offset, end) in &self.pool_fixups {
            let distance = (start + offset as usize) as i64 - end as i64;
            self.code[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        self.code.extend_from_slice(&self.pool);
        (self.code, self.text.unwrap_or_default())
    }
}

/// The bits of an operand that extend the index and base fields.
fn high_bits(rm: Rm) -> (bool, bool) {
    match rm {
        Rm::Reg(r) => (false, r & 8 != 0),
        Rm::Mem(m) => {
            let base = matches!(m.base, Base::Gpr(b) if b & 8 != 0);
            (m.index.is_some_and(|(i, _)| i & 8 != 0), base)
        }
    }
}

fn memory_text(mem: Mem) -> String {
    let mut text = match mem.base {
        Base::Gpr(b) => GPR_NAMES[usize::from(b)].to_string(),
        Base::Pool => "pool".to_string(),
    };
    if let Some((i, scale)) = mem.index {
        let _ = write!(text, "+{}*{}", GPR_NAMES[usize::from(i)], 1 << scale);
    }
    if mem.disp != 0 {
        let _ = write!(text, "{:+}", mem.disp);
    }
    format!("[{text}]{}", if mem.splat { "{splat}" } else { "" })
}

fn vector_text(op: &Op, width: Width, reg: u8, vvvv: u8, rm: Rm, imm: Option<u8>, mask: Mask) -> String {
    let letter = ["x", "y", "z"][width as usize];
    let mut text = format!("{} {letter}{reg}", op.name);
    if mask.k != 0 {
        let _ = write!(text, "{{k{}}}{}", mask.k, if mask.zero { "{z}" } else { "" });
    }
    let _ = write!(text, ", {letter}{vvvv}");
    match rm {
        Rm::Reg(r) => {
            let _ = write!(text, ", {letter}{r}");
        }
        Rm::Mem(m) => {
            let _ = write!(text, ", {}", memory_text(m));
        }
    }
    if let Some(imm) = imm {
        let _ = write!(text, ", {imm:#x}");
    }
    text
}

#[cfg(test)]
mod tests;
