//! Sums of columns: a run of columns over several points of the row, each column in the order of the points.
//!
//! The f64 accumulators of a few vectors of columns come from memory, stay in registers over the points, and
//! go back. Points that the next call reads are fetched meanwhile. For AVX-512 only.

use super::super::alloc::{MAX_COPIES, Mode, POINTERS, TAIL_MASK, TAIL_MASK_HIGH};
use super::super::asm::{self, Base, Cond, Mask, Mem, RAX, RBP, RBX, RDI, RSI, Rm, Width};
use super::Function;
use super::fold::{Accumulator, Accumulators};
use torsh_ir::{Error, Result};

/// Where accumulators are, and how many points are left.
const SUMS: u8 = 14;
const POINTS: u8 = 15;
/// How far ahead data is fetched, in points.
const AHEAD: i32 = 8;

impl Function<'_> {
    /// The whole function; `steps` are the bytes from one point to the next, by stream.
    pub(super) fn write_columns(&mut self, steps: &[i32]) -> Result<()> {
        let g = self.a.g;
        let streams = g.streams.len();
        if streams > POINTERS.len() - 2 || !g.is_wide() || !g.uniforms.is_empty() || !g.stores.is_empty() {
            return Err(Error::internal("columns that are not to be summed like this"));
        }
        let used = POINTERS[..streams].iter().chain(&[SUMS, POINTS]).copied();
        let pushed: Vec<u8> = used.filter(|&r| r == RBX || r == RBP || r >= 12).collect();
        pushed.iter().for_each(|&r| self.a.asm.push(r));
        self.a.taken[1] |= 1 << TAIL_MASK_HIGH;
        let need = self.schedule.pressure(g) + 2 * g.folds.len();
        let fits = |&n: &usize| n == 1 || n * need + 4 <= self.free_registers();
        let copies = [MAX_COPIES, 2, 1].into_iter().find(fits).unwrap_or(1);
        let mut all = Vec::new();
        for _ in &g.folds {
            let vectors = (0..2 * copies).map(|_| self.take_for_good(0)).collect::<Result<Vec<u8>>>()?;
            all.push(Accumulator { vectors, mask: None });
        }
        let accumulators = Accumulators(all);
        self.pin(copies)?;
        self.a.asm.clear(RAX);
        self.column_steps(copies, &accumulators, steps)?;
        if copies > 1 {
            self.column_steps(1, &accumulators, steps)?;
        }
        let done = self.a.asm.label();
        self.a.asm.test(RSI);
        self.a.asm.jump_if(Cond::Zero, done);
        self.tail_mask(true)?;
        self.points(1, Mode::Masked, &accumulators, steps)?;
        self.a.asm.bind(done);
        self.a.asm.zero_upper();
        pushed.iter().rev().for_each(|&r| self.a.asm.pop(r));
        self.a.asm.ret();
        self.divisions();
        Ok(())
    }

    /// A loop over whole steps of `copies` vectors of columns.
    fn column_steps(&mut self, copies: usize, accumulators: &Accumulators, steps: &[i32]) -> Result<()> {
        let step = (copies * self.a.g.level.lanes()) as i32;
        let (head, exit) = (self.a.asm.label(), self.a.asm.label());
        self.a.asm.compare(RSI, step);
        self.a.asm.jump_if(Cond::Below, exit);
        self.a.asm.bind(head);
        self.points(copies, Mode::Whole, accumulators, steps)?;
        self.a.asm.add(RAX, step);
        self.a.asm.sub(RSI, step);
        self.a.asm.compare(RSI, step);
        self.a.asm.jump_if(Cond::AboveEqual, head);
        self.a.asm.bind(exit);
        Ok(())
    }

    /// All points for `copies` vectors of columns.
    fn points(&mut self, copies: usize, mode: Mode, accumulators: &Accumulators, steps: &[i32]) -> Result<()> {
        let g = self.a.g;
        for (n, &r) in POINTERS[..g.streams.len()].iter().enumerate() {
            self.a.asm.load(r, Mem::at(RDI, 8 * n as i32));
        }
        self.move_sums(copies, mode, accumulators, true);
        self.a.asm.load(POINTS, Mem::at(RDI, 8 * (g.streams.len() + g.folds.len()) as i32));
        let head = self.a.asm.label();
        self.a.asm.bind(head);
        self.body(copies, mode, accumulators)?;
        for ((&r, &step), &size) in POINTERS.iter().zip(steps).zip(&g.streams) {
            if step == 0 {
                continue;
            }
            let index = Some((RAX, size.trailing_zeros() as u8));
            for copy in 0..copies as i32 {
                let disp = AHEAD * step + copy * (size * g.level.lanes()) as i32;
                self.a.asm.prefetch(Mem { base: Base::Gpr(r), index, disp, splat: false });
            }
            self.a.asm.add(r, step);
        }
        self.a.asm.sub(POINTS, 1);
        self.a.asm.jump_if(Cond::NotZero, head);
        self.move_sums(copies, mode, accumulators, false);
        Ok(())
    }

    /// Reads accumulators from memory, or writes them back.
    fn move_sums(&mut self, copies: usize, mode: Mode, accumulators: &Accumulators, read: bool) {
        let streams = self.a.g.streams.len();
        for (i, acc) in accumulators.0.iter().enumerate() {
            self.a.asm.load(SUMS, Mem::at(RDI, 8 * (streams + i) as i32));
            for (half, &v) in acc.vectors[..2 * copies].iter().enumerate() {
                let k = match (mode, half) {
                    (Mode::Masked, 0) => TAIL_MASK,
                    (Mode::Masked, _) => TAIL_MASK_HIGH,
                    _ => 0,
                };
                let at = Mem { index: Some((RAX, 3)), ..Mem::at(SUMS, 64 * half as i32) };
                let (op, zero) = if read { (asm::MOVUPD, k != 0) } else { (asm::MOVUPD_STORE, false) };
                self.a.asm.masked(&op, Width::Z, v, 0, Rm::Mem(at), None, Mask { k, zero });
            }
        }
    }
}
