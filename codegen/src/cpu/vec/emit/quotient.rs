//! Numbers that are the same for all lanes, and exact division by them.
//!
//! The division instruction is far slower than multiplications. With `r` the rounded reciprocal of `d`,
//! `q = x r` is within 2 ulp of `x / d`; `q + (x - q d) r`, where fused operations make the remainder all but
//! exact, is within one; and the same step once more gives the correctly rounded quotient (Markstein, "Computation
//! of elementary functions on the IBM RISC System/6000 processor", 1990). This holds while nothing under- or
//! overflows and `q` is not zero: so a vector with any quotient that is not of moderate size is divided by the
//! instruction after all, out of line.

use super::super::asm::{self, Cond, KOp, Label, Mem, RAX, RDI, Rm, Width};
use super::super::graph::{Id, MODERATE_FROM, MODERATE_RANGE, Uniform};
use super::Function;
use torsh_ir::Result;

/// A division out of line.
pub(super) struct Rare {
    from: Label,
    back: Label,
    quotient: u8,
    x: u8,
    d: u8,
}

impl Function<'_> {
    /// Copies the uniform elements into the area, in the form in which instructions read them.
    pub(super) fn uniforms(&mut self) {
        let g = self.a.g;
        let (uniforms, step) = (self.a.area.uniforms, self.a.area.uniform_step);
        let place = |n: usize| Mem::at(RDI, uniforms + n as i32 * step);
        let mut pointer = 8 * g.streams.len() as i32;
        for (n, uniform) in g.uniforms.iter().enumerate() {
            match *uniform {
                Uniform::Element(size) => {
                    self.a.asm.load(RAX, Mem::at(RDI, pointer));
                    pointer += 8;
                    self.a.asm.load_element(RAX, Mem::at(RAX, 0), size);
                }
                Uniform::Reciprocal(of) => self.reciprocal(place(usize::from(of))),
            }
            if g.is_wide() {
                self.a.asm.store_element(place(n), RAX, 4);
            } else {
                self.a.asm.v(&asm::MOVD, Width::X, 0, 0, Rm::Reg(RAX), None);
                self.a.asm.v(&asm::PBROADCASTD, Width::Y, 0, 0, Rm::Reg(0), None);
                self.a.asm.v(&asm::MOVUPS_STORE, Width::Y, 0, 0, Rm::Mem(place(n)), None);
            }
        }
    }

    /// The reciprocal of the f32 at `of` in rax, or NaN. Overwrites rcx and vector registers 0 and 1.
    fn reciprocal(&mut self, of: Mem) {
        let one = self.a.asm.constant(&1f32.to_le_bytes());
        let one = Mem { base: asm::Base::Pool, index: None, disp: one, splat: false };
        let a = &mut self.a.asm;
        a.v(&asm::BROADCASTSS, Width::X, 0, 0, Rm::Mem(one), None);
        a.v(&asm::BROADCASTSS, Width::X, 1, 0, Rm::Mem(of), None);
        a.v(&asm::DIVPS, Width::X, 0, 0, Rm::Reg(1), None);
        a.load_element(asm::RCX, of, 4);
        a.double(asm::RCX);
        a.sub_word(asm::RCX, MODERATE_FROM);
        a.compare_word(asm::RCX, MODERATE_RANGE);
        let moderate = a.label();
        a.word_from_vector(RAX, 0);
        a.jump_if(Cond::Below, moderate);
        a.set_word(RAX, f32::NAN.to_bits());
        a.bind(moderate);
    }

    pub(super) fn quotient(&mut self, id: Id) -> Result<()> {
        let node = &self.a.g.nodes[id as usize];
        let [x, d, r] = node.args;
        let (width, wide) = (self.a.width(), self.a.g.is_wide());
        let x = self.a.reg(x)?;
        let d = self.a.reg(d)?;
        let r = self.a.reg(r)?;
        let q = self.a.take(0)?;
        self.a.lock(q);
        let t = self.a.take(0)?;
        self.a.lock(t);
        let k = if wide { self.a.take(1)? } else { t };
        // Shifted so that a signed comparison tells.
        let shift = MODERATE_FROM.wrapping_add(1 << 31);
        let (shift, limit) = (self.pool(shift), self.pool((MODERATE_RANGE - 1) ^ (1 << 31)));
        let (from, back) = (self.a.asm.label(), self.a.asm.label());
        let asm = &mut self.a.asm;
        asm.v(&asm::MULPS, width, q, x, Rm::Reg(r), None);
        for _ in 0..2 {
            asm.v(&asm::MOVUPS, width, t, 0, Rm::Reg(x), None);
            asm.v(&asm::FNMADD231PS, width, t, q, Rm::Reg(d), None);
            asm.v(&asm::FMADD231PS, width, q, t, Rm::Reg(r), None);
        }
        asm.v(&asm::PADDD, width, t, q, Rm::Reg(q), None);
        asm.v(&asm::PSUBD, width, t, t, shift, None);
        if wide {
            asm.v(&asm::PCMPD, width, k, t, limit, Some(6));
            asm.k(KOp::OrTest, k, 0, k);
        } else {
            asm.v(&asm::PCMPGTD, width, t, t, limit, None);
            asm.v(&asm::PTEST, width, t, 0, Rm::Reg(t), None);
        }
        asm.jump_if(Cond::NotZero, from);
        asm.bind(back);
        self.rare.push(Rare { from, back, quotient: q, x, d });
        self.a.inherit(id, q);
        self.a.release(&node.args);
        Ok(())
    }

    /// A constant for all lanes as a memory operand.
    fn pool(&mut self, bits: u32) -> Rm {
        let (bytes, splat) = (bits.to_le_bytes(), self.a.g.is_wide());
        let disp = if splat { self.a.asm.constant(&bytes) } else { self.a.asm.constant(&bytes.repeat(8)) };
        Rm::Mem(Mem { base: asm::Base::Pool, index: None, disp, splat })
    }

    /// The divisions out of line.
    pub(super) fn divisions(&mut self) {
        let width = self.a.width();
        for rare in std::mem::take(&mut self.rare) {
            self.a.asm.bind(rare.from);
            self.a.asm.v(&asm::DIVPS, width, rare.quotient, rare.x, Rm::Reg(rare.d), None);
            self.a.asm.jump(rare.back);
        }
    }
}
