//! Writes a graph as a function: its entry, its loops, its tail.
//!
//! The main loop works on `copies` vectors at a time, whose instructions alternate, so that one's latency
//! hides behind the others; then single steps, then one partial step under masks (AVX-512), or on copies of
//! the last elements in the area (AVX2). All stores of a step come after all its loads.

mod columns;
mod fold;
mod quotient;

use super::Level;
use super::alloc::{Alloc, Area, MAX_COPIES, Mode, POINTERS, TAIL_MASK, TAIL_MASK_HIGH};
use super::asm::{self, Asm, Base, Cond, KOp, Mask, Mem, RAX, RBP, RBX, RCX, RDI, RSI, Rm, Width};
use super::graph::{Ext, FoldOp, Graph, Id, NodeOp, Put, Store};
use fold::Accumulators;
use quotient::Rare;
use torsh_ir::Result;

/// A finished function.
pub(in crate::cpu) struct Code {
    pub bytes: Vec<u8>,
    /// Bytes of the area that it needs.
    pub area: u64,
    /// What it consists of, if asked for.
    pub text: String,
}

/// Instructions in a main loop beyond which more copies gain nothing: the processor looks ahead far enough.
const LOOP_NODES: usize = 96;

const CACHE_LINE: usize = 64;

/// The order of work, and who uses what where.
struct Schedule {
    order: Vec<Id>,
    uses: Vec<Vec<u32>>,
}

impl Schedule {
    fn new(g: &Graph) -> Schedule {
        let mut live = vec![false; g.nodes.len()];
        g.stores.iter().for_each(|s| live[s.value as usize] = true);
        g.folds.iter().for_each(|f| live[f.value as usize] = true);
        for i in (0..g.nodes.len()).rev() {
            if live[i] {
                g.nodes[i].args().iter().for_each(|&a| live[a as usize] = true);
            }
        }
        let in_place = |op: NodeOp| matches!(op, NodeOp::Const(_) | NodeOp::Uniform(_) | NodeOp::Stream(_));
        let order: Vec<Id> =
            (0..g.nodes.len() as Id).filter(|&i| live[i as usize] && !in_place(g.nodes[i as usize].op)).collect();
        let mut uses = vec![Vec::new(); g.nodes.len()];
        let mut add = |id: Id, at: usize| {
            let uses: &mut Vec<u32> = &mut uses[id as usize];
            if uses.last() != Some(&(at as u32)) {
                uses.push(at as u32);
            }
        };
        for (at, &id) in order.iter().enumerate() {
            g.nodes[id as usize].args().iter().for_each(|&a| add(a, at));
        }
        let end = order.len();
        g.folds.iter().enumerate().for_each(|(i, f)| add(f.value, end + i));
        g.stores.iter().enumerate().for_each(|(i, s)| add(s.value, end + g.folds.len() + i));
        Schedule { order, uses }
    }

    /// Most vector registers that one copy needs at once, not counting what is the same everywhere.
    fn pressure(&self, g: &Graph) -> usize {
        let mut change = vec![0i32; self.order.len() + g.folds.len() + g.stores.len() + 2];
        for (id, node) in g.nodes.iter().enumerate() {
            let (Some(&first), Some(&last)) = (self.uses[id].first(), self.uses[id].last()) else { continue };
            if node.is_uniform() || (g.is_wide() && node.is_mask()) {
                continue;
            }
            let from = match node.op {
                NodeOp::Stream(_) if first == last => continue,
                NodeOp::Stream(_) => first,
                _ => self.order.partition_point(|&o| o < id as Id) as u32,
            };
            change[from as usize] += 1;
            change[last as usize] -= 1;
        }
        let (mut live, mut peak) = (0, 0);
        for c in change {
            live += c;
            peak = peak.max(live);
        }
        peak.max(1) as usize
    }
}

/// Writes the function of a graph.
pub(super) fn compile(g: &Graph, columns: Option<&[i32]>, listing: bool) -> Result<Code> {
    let schedule = Schedule::new(g);
    let sums = g.folds.iter().any(|f| matches!(f.op, FoldOp::Sum | FoldOp::Prod));
    // Sixteen lanes of a sum are two vectors of AVX2.
    let base = if sums && g.level == Level::Avx2 { 2 } else { 1 };
    let area = layout(g, base, columns.is_some());
    let asm = Asm::new(g.is_wide(), listing);
    let alloc = Alloc::new(g, asm, area, schedule.uses.clone());
    let mut f = Function { a: alloc, schedule, base, rare: Vec::new() };
    match columns {
        Some(steps) => f.write_columns(steps)?,
        None => f.write(sums)?,
    }
    let area = (f.a.area.end as u64).next_multiple_of(64);
    let (bytes, text) = f.a.asm.finish();
    Ok(Code { bytes, area, text })
}

fn layout(g: &Graph, base: usize, columns: bool) -> Area {
    let lane_bytes = (4 * g.level.lanes()) as i32;
    let pointers = 8 * (g.streams.len() + g.elements() + g.folds.len() + usize::from(columns)) as i32;
    let uniforms = (pointers + 63) & !63;
    let uniform_step = if g.is_wide() { 4 } else { lane_bytes };
    let tails = (uniforms + uniform_step * g.uniforms.len() as i32 + 63) & !63;
    if g.is_wide() {
        return Area { uniforms, uniform_step, tails, tail_step: 0, tail_masks: tails, end: tails };
    }
    let tail_step = lane_bytes * base as i32;
    let tail_masks = tails + tail_step * g.streams.len() as i32;
    let end = (tail_masks + tail_step + 63) & !63;
    Area { uniforms, uniform_step, tails, tail_step, tail_masks, end }
}

struct Function<'g> {
    a: Alloc<'g>,
    schedule: Schedule,
    /// Vectors of a single step.
    base: usize,
    rare: Vec<Rare>,
}

impl Function<'_> {
    fn write(&mut self, sums: bool) -> Result<()> {
        let g = self.a.g;
        let pushed: Vec<u8> = POINTERS[..g.streams.len().min(POINTERS.len())]
            .iter()
            .copied()
            .filter(|&r| r == RBX || r == RBP || r >= 12)
            .collect();
        pushed.iter().for_each(|&r| self.a.asm.push(r));
        self.uniforms();
        let direct = if g.streams.len() > POINTERS.len() { POINTERS.len() - 1 } else { g.streams.len() };
        for (n, &r) in POINTERS[..direct].iter().enumerate() {
            self.a.asm.load(r, Mem::at(RDI, 8 * n as i32));
        }
        if sums {
            self.a.taken[1] |= 1 << TAIL_MASK_HIGH;
        } else {
            self.a.taken[1] &= !(1 << TAIL_MASK_HIGH);
        }
        let accumulators = self.open_folds()?;
        let copies = self.choose_copies();
        self.pin(copies)?;
        self.a.asm.clear(RAX);
        let lanes = g.level.lanes();
        if copies > self.base {
            self.steps(copies, lanes, &accumulators)?;
        }
        self.steps(self.base, lanes, &accumulators)?;
        let done = self.a.asm.label();
        self.a.asm.test(RSI);
        self.a.asm.jump_if(Cond::Zero, done);
        if g.is_wide() {
            self.masked_tail(sums, &accumulators)?
        } else {
            self.copied_tail(lanes, &accumulators)?
        }
        self.a.asm.bind(done);
        self.close_folds(&accumulators)?;
        self.a.asm.zero_upper();
        pushed.iter().rev().for_each(|&r| self.a.asm.pop(r));
        self.a.asm.ret();
        self.divisions();
        Ok(())
    }

    fn free_registers(&self) -> usize {
        let all = if self.a.g.is_wide() { 32 } else { 16 };
        all - self.a.taken[0].count_ones() as usize
    }

    /// As many copies as registers allow and the length of the loop justifies.
    fn choose_copies(&self) -> usize {
        let pressure = self.schedule.pressure(self.a.g);
        let room = self.free_registers().saturating_sub(2);
        let nodes = self.schedule.order.len().max(1);
        let fits = |&n: &usize| n == self.base || (n * pressure <= room && n * nodes <= LOOP_NODES);
        [MAX_COPIES, 2, 1].into_iter().filter(|&n| n >= self.base).find(fits).unwrap_or(self.base)
    }

    /// Gives registers to the values that are the same everywhere, the most used first.
    fn pin(&mut self, copies: usize) -> Result<()> {
        let pressure = copies * self.schedule.pressure(self.a.g);
        let room = self.free_registers().saturating_sub(pressure + 3);
        let mut shared: Vec<(usize, Id)> = (0..self.a.g.nodes.len())
            .filter(|&i| self.a.g.nodes[i].is_uniform() && !self.schedule.uses[i].is_empty())
            .map(|i| (self.schedule.uses[i].len(), i as Id))
            .collect();
        shared.sort_by_key(|&(count, id)| (std::cmp::Reverse(count), id));
        for &(_, id) in shared.iter().take(room) {
            let r = self.a.take(0)?;
            self.a.load_uniform(r, id);
            self.a.pinned[id as usize] = Some(r);
            self.a.taken[0] |= 1 << r;
        }
        Ok(())
    }

    /// A loop over whole steps of `copies` vectors.
    fn steps(&mut self, copies: usize, lanes: usize, accumulators: &Accumulators) -> Result<()> {
        let step = (copies * lanes) as i32;
        let (head, exit) = (self.a.asm.label(), self.a.asm.label());
        self.a.asm.compare(RSI, step);
        self.a.asm.jump_if(Cond::Below, exit);
        self.a.asm.bind(head);
        self.body(copies, Mode::Whole, accumulators)?;
        self.a.asm.add(RAX, step);
        self.a.asm.sub(RSI, step);
        self.a.asm.compare(RSI, step);
        self.a.asm.jump_if(Cond::AboveEqual, head);
        self.a.asm.bind(exit);
        Ok(())
    }

    /// The last elements, fewer than a vector, under a mask.
    fn masked_tail(&mut self, sums: bool, accumulators: &Accumulators) -> Result<()> {
        self.tail_mask(sums)?;
        self.body(1, Mode::Masked, accumulators)
    }

    fn tail_mask(&mut self, sums: bool) -> Result<()> {
        self.a.begin(1, Mode::Masked);
        let iota: Vec<u8> = (0..16u32).flat_map(u32::to_le_bytes).collect();
        let disp = self.a.asm.constant(&iota);
        let r = self.a.take(0)?;
        self.a.asm.v(&asm::PBROADCASTD_GPR, Width::Z, r, 0, Rm::Reg(RSI), None);
        let iota = Mem { base: Base::Pool, index: None, disp, splat: false };
        // count > lane.
        self.a.asm.v(&asm::PCMPUD, Width::Z, TAIL_MASK, r, Rm::Mem(iota), Some(6));
        if sums {
            self.a.asm.k_shift_right_8(TAIL_MASK_HIGH, TAIL_MASK);
        }
        Ok(())
    }

    /// The last elements, fewer than a step, copied into the area and back.
    fn copied_tail(&mut self, lanes: usize, accumulators: &Accumulators) -> Result<()> {
        let g = self.a.g;
        self.a.begin(self.base, Mode::Copied);
        if !g.folds.is_empty() {
            let r = self.a.take(0)?;
            self.a.asm.v(&asm::MOVD, Width::X, r, 0, Rm::Reg(RSI), None);
            self.a.asm.v(&asm::PBROADCASTD, Width::Y, r, 0, Rm::Reg(r), None);
            for copy in 0..self.base {
                let iota: Vec<u8> = (0..lanes as u32).flat_map(|i| (i + (copy * lanes) as u32).to_le_bytes()).collect();
                let disp = self.a.asm.constant(&iota);
                self.a.lock(r);
                let m = self.a.take(0)?;
                let iota = Mem { base: Base::Pool, index: None, disp, splat: false };
                self.a.asm.v(&asm::PCMPGTD, Width::Y, m, r, Rm::Mem(iota), None);
                let to = Mem::at(RDI, self.a.area.tail_masks + 32 * copy as i32);
                self.a.asm.v(&asm::MOVUPS_STORE, Width::Y, m, 0, Rm::Mem(to), None);
            }
            self.a.release(&[]);
        }
        for (n, &size) in g.streams.iter().enumerate() {
            if !g.written[n] {
                self.copy_tail(n, size, true);
            }
        }
        self.body(self.base, Mode::Copied, accumulators)?;
        for (n, &size) in g.streams.iter().enumerate() {
            if g.written[n] {
                self.copy_tail(n, size, false);
            }
        }
        Ok(())
    }

    /// Copies the last elements of a stream into the area, or out of it. All pointers are reloaded, since
    /// nothing after the tail uses them.
    fn copy_tail(&mut self, n: usize, size: usize, into: bool) {
        let scale = size.trailing_zeros() as u8;
        let asm = &mut self.a.asm;
        asm.load(asm::R8, Mem::at(RDI, 8 * n as i32));
        asm.lea(asm::R8, Mem { index: Some((RAX, scale)), ..Mem::at(asm::R8, 0) });
        asm.clear(RCX);
        let head = asm.label();
        asm.bind(head);
        let stream = Mem { index: Some((RCX, scale)), ..Mem::at(asm::R8, 0) };
        let buffer =
            Mem { index: Some((RCX, scale)), ..Mem::at(RDI, self.a.area.tails + n as i32 * self.a.area.tail_step) };
        let (from, to) = if into { (stream, buffer) } else { (buffer, stream) };
        asm.load_element(asm::R9, from, size);
        asm.store_element(to, asm::R9, size);
        asm.add(RCX, 1);
        asm.compare_registers(RCX, RSI);
        asm.jump_if(Cond::Below, head);
    }

    /// One step: every operation for all copies before the next operation, then folds, then stores.
    fn body(&mut self, copies: usize, mode: Mode, accumulators: &Accumulators) -> Result<()> {
        self.a.begin(copies, mode);
        if mode == Mode::Whole {
            self.fetch_ahead(copies);
        }
        let order = std::mem::take(&mut self.schedule.order);
        for (at, &id) in order.iter().enumerate() {
            for copy in 0..copies {
                (self.a.at, self.a.copy) = (at as u32, copy as u8);
                self.node(id)?;
            }
        }
        let g = self.a.g;
        let mut at = order.len() as u32;
        self.schedule.order = order;
        for (i, fold) in g.folds.iter().enumerate() {
            for copy in 0..copies {
                (self.a.at, self.a.copy) = (at, copy as u8);
                self.fold(fold, accumulators, i)?;
            }
            at += 1;
        }
        for store in &g.stores {
            for copy in 0..copies {
                (self.a.at, self.a.copy) = (at, copy as u8);
                self.store(store)?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Fetches the cache lines of what a later call takes where this one takes its elements.
    fn fetch_ahead(&mut self, copies: usize) {
        let g = self.a.g;
        for (n, (&size, &ahead)) in g.streams.iter().zip(&g.ahead).enumerate() {
            if ahead == 0 || n >= POINTERS.len() - 1 {
                continue;
            }
            for line in (0..copies * g.level.lanes() * size).step_by(CACHE_LINE) {
                let at = self.a.stream(n as u16, 0, size);
                let at = Mem { disp: ahead + line as i32, ..at };
                self.a.asm.prefetch(at);
            }
        }
    }

    fn node(&mut self, id: Id) -> Result<()> {
        let g = self.a.g;
        let node = &g.nodes[id as usize];
        let args = node.args();
        let width = self.a.width();
        match node.op {
            NodeOp::Const(_) | NodeOp::Uniform(_) | NodeOp::Stream(_) => {}
            NodeOp::Load(n, ext) => {
                let (op, size, width) = match ext {
                    Ext::ZeroByte => (asm::PMOVZXBD, 1, width),
                    Ext::SignByte => (asm::PMOVSXBD, 1, width),
                    Ext::ZeroWord => (asm::PMOVZXWD, 2, width),
                    Ext::SignWord => (asm::PMOVSXWD, 2, width),
                    Ext::Half => (asm::CVTPH2PS, 2, width),
                    Ext::Bytes => (asm::MOVDQU8, 1, Width::X),
                };
                let r = self.a.define(id)?;
                let mem = self.a.stream(n, self.a.copy, size);
                let mask = match self.a.mode {
                    Mode::Masked => Mask { k: TAIL_MASK, zero: true },
                    Mode::Whole | Mode::Copied => Mask::default(),
                };
                self.a.asm.masked(&op, width, r, 0, Rm::Mem(mem), None, mask);
                self.a.release(&[]);
            }
            NodeOp::Two(op) => {
                let (mut x, mut y) = (args[0], args[1]);
                let swaps =
                    matches!(op, asm::ADDPS | asm::MULPS | asm::PADDD | asm::PMULLD | asm::PAND | asm::POR | asm::PXOR);
                if swaps && self.a.register_of(x).is_none() && self.a.register_of(y).is_some() {
                    (x, y) = (y, x);
                }
                self.two(&op, width, id, x, y)?;
            }
            NodeOp::TwoX(op) => {
                let x = self.a.reg(args[0])?;
                let y = self.a.reg(args[1])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                self.a.asm.v(&op, Width::X, r, x, Rm::Reg(y), None);
            }
            NodeOp::One(op, imm) => {
                let x = if op == asm::PABSB { Rm::Reg(self.a.reg(args[0])?) } else { self.a.rm(args[0])? };
                self.a.release(args);
                let r = self.a.define(id)?;
                let width = if op == asm::PABSB { Width::X } else { width };
                self.a.asm.v(&op, width, r, 0, x, imm);
            }
            NodeOp::Shift(digit, n) => {
                let x = self.a.reg(args[0])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                self.a.asm.v(&asm::SHIFTD, width, digit, r, Rm::Reg(x), Some(n));
            }
            NodeOp::Fma => self.fused(id, &[asm::FMADD132PS, asm::FMADD213PS, asm::FMADD231PS])?,
            NodeOp::Fnma => self.fused(id, &[asm::FNMADD132PS, asm::FNMADD213PS, asm::FNMADD231PS])?,
            NodeOp::Quotient => self.quotient(id)?,
            NodeOp::Compare(op, predicate) => {
                let x = self.a.reg(args[0])?;
                let y = self.a.rm(args[1])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                self.a.asm.v(&op, width, r, x, y, Some(predicate));
            }
            NodeOp::Select => {
                let m = self.a.reg(args[0])?;
                let no = self.a.reg(args[2])?;
                let yes = self.a.rm(args[1])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                if g.is_wide() {
                    self.a.asm.masked(&asm::BLENDMPS, width, r, no, yes, None, Mask { k: m, zero: false });
                } else {
                    self.a.asm.v(&asm::BLENDVPS, width, r, no, yes, Some(m << 4));
                }
            }
            NodeOp::Mask(op) => {
                let x = self.a.reg(args[0])?;
                let y = if args.len() > 1 { self.a.reg(args[1])? } else { x };
                self.a.release(args);
                let r = self.a.define(id)?;
                if op == KOp::Not { self.a.asm.k(op, r, 0, x) } else { self.a.asm.k(op, r, x, y) }
            }
            NodeOp::ToHalf | NodeOp::High => {
                let x = self.a.reg(args[0])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                if node.op == NodeOp::ToHalf {
                    self.a.asm.v(&asm::CVTPS2PH, width, x, 0, Rm::Reg(r), Some(0));
                } else {
                    self.a.asm.v(&asm::EXTRACTF128, Width::Y, x, 0, Rm::Reg(r), Some(1));
                }
            }
            NodeOp::MaskBytes => {
                let x = self.a.reg(args[0])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                self.a.asm.v(&asm::PMOVM2B, Width::X, r, 0, Rm::Reg(x), None);
            }
            NodeOp::TestBytes => {
                let x = self.a.reg(args[0])?;
                self.a.release(args);
                let r = self.a.define(id)?;
                self.a.asm.v(&asm::PTESTMB, Width::X, r, x, Rm::Reg(x), None);
            }
            NodeOp::Hold => {
                let x = self.a.rm(args[0])?;
                let mask = match (self.a.mode, x) {
                    (Mode::Masked, Rm::Mem(_)) => Mask { k: TAIL_MASK, zero: true },
                    _ => Mask::default(),
                };
                self.a.release(args);
                let r = self.a.define(id)?;
                let splat = matches!(x, Rm::Mem(m) if m.splat);
                let (op, x, mask) = match x {
                    Rm::Mem(m) if splat => (asm::BROADCASTSS, Rm::Mem(Mem { splat: false, ..m }), Mask::default()),
                    other => (asm::MOVUPS, other, mask),
                };
                self.a.asm.masked(&op, width, r, 0, x, None, mask);
            }
        }
        Ok(())
    }

    fn two(&mut self, op: &asm::Op, width: Width, id: Id, x: Id, y: Id) -> Result<()> {
        let a = self.a.reg(x)?;
        let b = self.a.rm(y)?;
        self.a.release(&[x, y]);
        let r = self.a.define(id)?;
        self.a.asm.v(op, width, r, a, b, None);
        Ok(())
    }

    /// A fused multiplication and addition, which overwrites one of its operands. `forms` are 132, 213, 231.
    fn fused(&mut self, id: Id, forms: &[asm::Op; 3]) -> Result<()> {
        let node = &self.a.g.nodes[id as usize];
        let [mut a, mut b, c] = node.args;
        let width = self.a.width();
        let dies = |f: &Self, id: Id| f.a.register_of(id).is_some() && f.a.dies(id);
        let addend_dies = dies(self, c) && c != a && c != b;
        if !addend_dies && !dies(self, a) && dies(self, b) {
            (a, b) = (b, a);
        }
        if !addend_dies && dies(self, a) && c != a {
            let dst = self.a.reg(a)?;
            if b != a && self.a.register_of(c).is_some() {
                let third = self.a.reg(c)?;
                let factor = self.a.rm(b)?;
                self.a.asm.v(&forms[0], width, dst, third, factor, None);
            } else {
                let factor = self.a.reg(b)?;
                let third = self.a.rm(c)?;
                self.a.asm.v(&forms[1], width, dst, factor, third, None);
            }
            self.a.inherit(id, dst);
            self.a.release(&node.args);
            return Ok(());
        }
        if self.a.register_of(a).is_none() && self.a.register_of(b).is_some() {
            (a, b) = (b, a);
        }
        let dst = if addend_dies {
            self.a.reg(c)?
        } else {
            // The addend is used again, or is not in a register: the result starts as its copy.
            self.a.reg(a)?;
            let third = self.a.rm(c)?;
            let dst = self.a.take(0)?;
            self.a.lock(dst);
            match third {
                Rm::Mem(m) if m.splat => {
                    self.a.asm.v(&asm::BROADCASTSS, width, dst, 0, Rm::Mem(Mem { splat: false, ..m }), None);
                }
                other => self.a.asm.v(&asm::MOVUPS, width, dst, 0, other, None),
            }
            dst
        };
        let x = self.a.reg(a)?;
        let y = self.a.rm(b)?;
        self.a.asm.v(&forms[2], width, dst, x, y, None);
        self.a.inherit(id, dst);
        self.a.release(&node.args);
        Ok(())
    }

    fn store(&mut self, store: &Store) -> Result<()> {
        let r = self.a.reg(store.value)?;
        let size = self.a.g.streams[usize::from(store.stream)];
        let mem = Rm::Mem(self.a.stream(store.stream, self.a.copy, size));
        let mask = match self.a.mode {
            Mode::Masked => Mask { k: TAIL_MASK, zero: false },
            Mode::Whole | Mode::Copied => Mask::default(),
        };
        let wide = self.a.g.is_wide();
        let (op, width) = match store.put {
            Put::Full => (asm::MOVUPS_STORE, self.a.width()),
            Put::Half if wide => (asm::MOVDQU16_STORE, Width::Y),
            Put::Half => (asm::MOVUPS_STORE, Width::X),
            Put::Quarter if wide => (asm::MOVDQU8_STORE, Width::X),
            Put::Quarter => (asm::MOVQ_STORE, Width::X),
            Put::Words => (asm::PMOVDW, Width::Z),
            Put::Bytes => (asm::PMOVDB, Width::Z),
        };
        self.a.asm.masked(&op, width, r, 0, mem, None, mask);
        self.a.release(&[store.value]);
        Ok(())
    }
}
