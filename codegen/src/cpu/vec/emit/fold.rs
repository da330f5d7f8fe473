//! Folds of a vector function: accumulators in registers over the whole run, joined with the one in memory
//! at the end.
//!
//! Float sums and products have the lanes of the block primitives: element `i` goes to lane `i mod 16`, in
//! f64, and the lanes are joined by halves. So they give the same bits at every level.

use super::super::Level;
use super::super::alloc::{MAX_COPIES, Mode, TAIL_MASK, TAIL_MASK_HIGH};
use super::super::asm::{self, Cond, KOp, Mask, Mem, Op, RAX, RDI, Rm, Width};
use super::super::graph::{Fold, FoldOp, UNORDERED};
use super::Function;
use torsh_ir::Result;

/// Registers of the running folds.
pub(super) struct Accumulators(pub Vec<Accumulator>);

pub(super) struct Accumulator {
    /// Vector registers (none for masks under AVX-512).
    pub vectors: Vec<u8>,
    /// Mask register of a truth value, or of the lanes that have seen a NaN.
    pub mask: Option<u8>,
}

/// Bits of the neutral element of 32-bit lanes.
fn neutral(op: FoldOp) -> u32 {
    match op {
        FoldOp::Sum | FoldOp::Any => 0,
        FoldOp::Prod => 1f32.to_bits(),
        FoldOp::Max => f32::NEG_INFINITY.to_bits(),
        FoldOp::Min => f32::INFINITY.to_bits(),
        FoldOp::IntMax => i32::MIN as u32,
        FoldOp::IntMin => i32::MAX as u32,
        FoldOp::All => u32::MAX,
    }
}

fn join(op: FoldOp) -> Op {
    match op {
        FoldOp::Sum => asm::ADDPD,
        FoldOp::Prod => asm::MULPD,
        FoldOp::Max => asm::MAXPS,
        FoldOp::Min => asm::MINPS,
        FoldOp::IntMax => asm::PMAXSD,
        FoldOp::IntMin => asm::PMINSD,
        FoldOp::Any => asm::POR,
        FoldOp::All => asm::PAND,
    }
}

impl Function<'_> {
    pub(super) fn take_for_good(&mut self, class: usize) -> Result<u8> {
        let r = self.a.take(class)?;
        self.a.taken[class] |= 1 << r;
        Ok(r)
    }

    /// Takes the registers and sets them to the neutral element.
    pub(super) fn open_folds(&mut self) -> Result<Accumulators> {
        let mut all = Vec::new();
        let wide = self.a.g.is_wide();
        let width = self.a.width();
        // Extremes of the copies are taken apart, so that none waits for the one before it.
        let chains = match self.a.g.folds.len() {
            1 | 2 if wide => MAX_COPIES,
            1 => 2,
            _ => 1,
        };
        for fold in &self.a.g.folds {
            let truth = matches!(fold.op, FoldOp::Any | FoldOp::All);
            let vectors = match fold.op {
                FoldOp::Sum | FoldOp::Prod => {
                    if wide {
                        2
                    } else {
                        4
                    }
                }
                _ if truth && wide => 0,
                _ if truth => 1,
                _ => chains,
            };
            let mut acc = Accumulator { vectors: Vec::new(), mask: None };
            for _ in 0..vectors {
                let r = self.take_for_good(0)?;
                let bits = neutral(fold.op);
                let bytes = match fold.op {
                    FoldOp::Prod => 1f64.to_le_bytes().repeat(4),
                    _ => bits.to_le_bytes().repeat(8),
                };
                let disp = self.a.asm.constant(&bytes.repeat(if wide { 2 } else { 1 }));
                let at = Mem { base: asm::Base::Pool, index: None, disp, splat: false };
                self.a.asm.v(&asm::MOVUPS, width, r, 0, Rm::Mem(at), None);
                acc.vectors.push(r);
            }
            let sees_nan = matches!(fold.op, FoldOp::Max | FoldOp::Min);
            if sees_nan || (truth && wide) {
                let r = self.take_for_good(usize::from(wide))?;
                match (wide, fold.op) {
                    (true, FoldOp::All) => self.a.asm.k(KOp::Xnor, r, r, r),
                    (true, _) => self.a.asm.k(KOp::Xor, r, r, r),
                    (false, _) => self.a.asm.v(&asm::PXOR, Width::Y, r, r, Rm::Reg(r), None),
                }
                acc.mask = Some(r);
            }
            all.push(acc);
        }
        Ok(Accumulators(all))
    }

    /// Folds the current copy's vector.
    pub(super) fn fold(&mut self, fold: &Fold, accumulators: &Accumulators, i: usize) -> Result<()> {
        let acc = &accumulators.0[i];
        let mut x = self.a.reg(fold.value)?;
        if self.a.mode == Mode::Copied {
            x = self.neutral_beyond(fold.op, x)?;
        }
        let masked = self.a.mode == Mode::Masked;
        match fold.op {
            FoldOp::Sum | FoldOp::Prod => self.fold_wide(fold.op, acc, x)?,
            FoldOp::Any | FoldOp::All if self.a.g.is_wide() => self.fold_mask(fold.op, acc, x)?,
            _ => {
                let width = self.a.width();
                let tail = if masked { Mask { k: TAIL_MASK, zero: false } } else { Mask::default() };
                if let Some(nan) = acc.mask {
                    self.fold_nan(nan, x, tail)?;
                }
                if let Some(&v) = acc.vectors.get(usize::from(self.a.copy) % acc.vectors.len().max(1)) {
                    // A NaN gives the second operand.
                    self.a.asm.masked(&join(fold.op), width, v, x, Rm::Reg(v), None, tail);
                }
            }
        }
        self.a.release(&[fold.value]);
        Ok(())
    }

    /// The vector with the neutral element in the lanes that have no element.
    fn neutral_beyond(&mut self, op: FoldOp, x: u8) -> Result<u8> {
        let m = self.a.take(0)?;
        self.a.lock(m);
        let r = self.a.take(0)?;
        self.a.lock(r);
        let mask = Mem::at(RDI, self.a.area.tail_masks + 32 * i32::from(self.a.copy));
        self.a.asm.v(&asm::MOVUPS, Width::Y, m, 0, Rm::Mem(mask), None);
        let disp = self.a.asm.constant(&neutral(op).to_le_bytes().repeat(8));
        let at = Mem { base: asm::Base::Pool, index: None, disp, splat: false };
        self.a.asm.v(&asm::MOVUPS, Width::Y, r, 0, Rm::Mem(at), None);
        self.a.asm.v(&asm::BLENDVPS, Width::Y, r, r, Rm::Reg(x), Some(m << 4));
        Ok(r)
    }

    fn fold_nan(&mut self, nan: u8, x: u8, tail: Mask) -> Result<()> {
        if self.a.g.is_wide() {
            let k = self.a.take(1)?;
            let tail = Mask { zero: false, ..tail };
            self.a.asm.masked(&asm::CMPPS, Width::Z, k, x, Rm::Reg(x), Some(UNORDERED), tail);
            self.a.asm.k(KOp::Or, nan, nan, k);
        } else {
            let m = self.a.take(0)?;
            self.a.asm.v(&asm::CMPPS, Width::Y, m, x, Rm::Reg(x), Some(UNORDERED));
            self.a.asm.v(&asm::POR, Width::Y, nan, nan, Rm::Reg(m), None);
        }
        Ok(())
    }

    /// A mask into a mask register.
    fn fold_mask(&mut self, op: FoldOp, acc: &Accumulator, x: u8) -> Result<()> {
        let Some(all) = acc.mask else { return Ok(()) };
        let masked = self.a.mode == Mode::Masked;
        let t = self.a.take(1)?;
        match (op, masked) {
            (FoldOp::Any, true) => {
                self.a.asm.k(KOp::And, t, x, TAIL_MASK);
                self.a.asm.k(KOp::Or, all, all, t);
            }
            (FoldOp::Any, false) => self.a.asm.k(KOp::Or, all, all, x),
            (_, true) => {
                self.a.asm.k(KOp::Not, t, 0, TAIL_MASK);
                self.a.asm.k(KOp::Or, t, t, x);
                self.a.asm.k(KOp::And, all, all, t);
            }
            (_, false) => self.a.asm.k(KOp::And, all, all, x),
        }
        Ok(())
    }

    /// Floats into the f64 lanes.
    fn fold_wide(&mut self, op: FoldOp, acc: &Accumulator, x: u8) -> Result<()> {
        let wide = self.a.g.is_wide();
        let width = self.a.width();
        let masked = self.a.mode == Mode::Masked;
        // Under AVX2 every other copy is the upper eight of sixteen lanes; of columns, each copy has its own.
        let first = 2 * usize::from(self.a.copy) % acc.vectors.len().max(2);
        for half in 0..2 {
            let t = self.a.take(0)?;
            self.a.lock(t);
            let mut from = x;
            if half == 1 {
                let extract = if wide { asm::EXTRACTF64X4 } else { asm::EXTRACTF128 };
                self.a.asm.v(&extract, width, x, 0, Rm::Reg(t), Some(1));
                from = t;
            }
            self.a.asm.v(&asm::CVTPS2PD, width, t, 0, Rm::Reg(from), None);
            let k = match (masked, half) {
                (false, _) => 0,
                (true, 0) => TAIL_MASK,
                (true, _) => TAIL_MASK_HIGH,
            };
            let lane = acc.vectors[first + half];
            self.a.asm.masked(&join(op), width, lane, lane, Rm::Reg(t), None, Mask { k, zero: false });
        }
        Ok(())
    }

    /// Joins the lanes with the accumulators in memory.
    pub(super) fn close_folds(&mut self, accumulators: &Accumulators) -> Result<()> {
        let g = self.a.g;
        for (i, (fold, acc)) in g.folds.iter().zip(&accumulators.0).enumerate() {
            self.a.begin(1, Mode::Whole);
            self.a.asm.load(RAX, Mem::at(RDI, 8 * (g.streams.len() + g.elements() + i) as i32));
            let t = self.a.take(0)?;
            match fold.op {
                FoldOp::Sum | FoldOp::Prod => self.close_wide(&join(fold.op), &acc.vectors, t),
                FoldOp::Any | FoldOp::All => self.close_truth(fold.op, acc),
                _ => self.close_extreme(fold.op, acc, t),
            }
        }
        Ok(())
    }

    fn close_wide(&mut self, op: &Op, lanes: &[u8], t: u8) {
        let asm = &mut self.a.asm;
        let v = lanes[0];
        if self.a.g.level == Level::Avx512 {
            asm.v(op, Width::Z, v, v, Rm::Reg(lanes[1]), None);
            asm.v(&asm::EXTRACTF64X4, Width::Z, v, 0, Rm::Reg(t), Some(1));
            asm.v(op, Width::Y, v, v, Rm::Reg(t), None);
            asm.v(&asm::EXTRACTF32X4, Width::Y, v, 0, Rm::Reg(t), Some(1));
        } else {
            asm.v(op, Width::Y, v, v, Rm::Reg(lanes[2]), None);
            asm.v(op, Width::Y, lanes[1], lanes[1], Rm::Reg(lanes[3]), None);
            asm.v(op, Width::Y, v, v, Rm::Reg(lanes[1]), None);
            asm.v(&asm::EXTRACTF128, Width::Y, v, 0, Rm::Reg(t), Some(1));
        }
        asm.v(op, Width::X, v, v, Rm::Reg(t), None);
        asm.v(&asm::UNPCKHPD, Width::X, t, v, Rm::Reg(v), None);
        asm.v(op, Width::X, v, v, Rm::Reg(t), None);
        let at = Rm::Mem(Mem::at(RAX, 0));
        asm.v(&asm::MOVSD, Width::X, t, 0, at, None);
        asm.v(op, Width::X, v, t, Rm::Reg(v), None);
        asm.v(&asm::MOVSD_STORE, Width::X, v, 0, at, None);
    }

    fn close_extreme(&mut self, op: FoldOp, acc: &Accumulator, t: u8) {
        let (wide, width) = (self.a.g.is_wide(), self.a.width());
        let asm = &mut self.a.asm;
        let (op, v) = (&join(op), acc.vectors[0]);
        for &other in &acc.vectors[1..] {
            asm.v(op, width, v, other, Rm::Reg(v), None);
        }
        if wide {
            asm.v(&asm::EXTRACTF64X4, Width::Z, v, 0, Rm::Reg(t), Some(1));
            asm.v(op, Width::Y, v, v, Rm::Reg(t), None);
        }
        let extract = if wide { asm::EXTRACTF32X4 } else { asm::EXTRACTF128 };
        asm.v(&extract, Width::Y, v, 0, Rm::Reg(t), Some(1));
        asm.v(op, Width::X, v, v, Rm::Reg(t), None);
        for lanes in [0x4e, 0xb1] {
            asm.v(&asm::SHUFPS, Width::X, t, v, Rm::Reg(v), Some(lanes));
            asm.v(op, Width::X, v, v, Rm::Reg(t), None);
        }
        let at = Mem::at(RAX, 0);
        asm.v(&asm::BROADCASTSS, Width::X, t, 0, Rm::Mem(at), None);
        // The one in memory is the second operand: if it is NaN, it stays.
        asm.v(op, Width::X, v, v, Rm::Reg(t), None);
        asm.v(&asm::MOVSS_STORE, Width::X, v, 0, Rm::Mem(at), None);
        let Some(nan) = acc.mask else { return };
        let none = asm.label();
        if wide {
            asm.k(KOp::OrTest, nan, 0, nan);
        } else {
            asm.v(&asm::MOVMSKPS, Width::Y, asm::RCX, 0, Rm::Reg(nan), None);
            asm.test(asm::RCX);
        }
        asm.jump_if(Cond::Zero, none);
        asm.store_word(at, f32::NAN.to_bits());
        asm.bind(none);
    }

    /// The accumulator is a byte.
    fn close_truth(&mut self, op: FoldOp, acc: &Accumulator) {
        let asm = &mut self.a.asm;
        let done = asm.label();
        if let Some(k) = acc.mask {
            asm.k(KOp::OrTest, k, 0, k);
            // Carry: all lanes are set.
            asm.jump_if(if op == FoldOp::Any { Cond::Zero } else { Cond::Below }, done);
        } else {
            asm.v(&asm::MOVMSKPS, Width::Y, asm::RCX, 0, Rm::Reg(acc.vectors[0]), None);
            let none = if op == FoldOp::Any { 0 } else { 0xff };
            asm.compare(asm::RCX, none);
            asm.jump_if(Cond::Zero, done);
        }
        asm.store_byte(Mem::at(RAX, 0), u8::from(op == FoldOp::Any));
        asm.bind(done);
    }
}
