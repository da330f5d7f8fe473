//! The interpreter's loop over one warp.

use std::collections::VecDeque;

use super::{Check, Env, lanes};
use crate::alu;
use crate::decode::{Kernel, Special};
use crate::error::{Fault, FaultKind};
use crate::inst::{BarRed, Carry, Inst, Lanes, NONE, Op, Reg};
use crate::ty::{Ty, trunc};

/// An asynchronous copy that was issued and has not been waited for.
#[derive(Clone, Debug)]
pub(crate) struct Async {
    pub target: u64,
    pub data: [u8; 16],
    pub bytes: u32,
}

/// What a lane waits for at a barrier of the block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtBarrier {
    pub id: u32,
    /// Threads that the barrier waits for; 0 for all of the block.
    pub count: u32,
    pub pc: u32,
}

pub(crate) struct Warp {
    pub index: u32,
    pub regs: Vec<Lanes>,
    pub pc: [u32; 32],
    /// Lanes that have a thread.
    pub exists: u32,
    pub exited: u32,
    /// Lanes that wait at a barrier of the block, and at which.
    pub waiting: u32,
    pub barrier: [AtBarrier; 32],
    /// Lanes that wait for other lanes at a warp instruction.
    pub syncing: u32,
    pub epoch: u32,
    /// Return addresses of every lane.
    stack: [Vec<u32>; 32],
    calls: bool,
    pub local: Vec<u8>,
    pub local_init: Vec<bool>,
    pub open_group: [Vec<Async>; 32],
    pub groups: [VecDeque<Vec<Async>>; 32],
}

/// How a step leaves the group of lanes that made it.
enum Step {
    Next,
    /// All lanes go to another instruction.
    Jump(u32),
    /// Program counters differ now, or lanes wait or have left: choose again.
    Regroup,
}

impl Warp {
    pub fn new(k: &Kernel, index: u32) -> Warp {
        // Registers hold junk until they are written, as on hardware.
        let mut regs = vec![[0xdead_beef_dead_beef; 32]; k.regs as usize];
        for (r, v) in &k.consts {
            regs[*r as usize] = [*v; 32];
        }
        let frame = k.frame as usize * 32;
        Warp {
            index,
            regs,
            pc: [0; 32],
            exists: 0,
            exited: 0,
            waiting: 0,
            barrier: [AtBarrier::default(); 32],
            syncing: 0,
            epoch: 0,
            stack: Default::default(),
            calls: false,
            local: vec![crate::mem::POISON; frame],
            local_init: vec![false; frame],
            open_group: Default::default(),
            groups: Default::default(),
        }
    }

    /// Makes the warp that of a new block.
    pub fn reset(&mut self, env: &Env) {
        let l = env.launch;
        let threads = l.block.iter().product::<u32>();
        let mine = (threads - self.index * 32).min(32);
        self.exists = if mine == 32 { u32::MAX } else { (1 << mine) - 1 };
        (self.exited, self.waiting, self.syncing, self.epoch, self.calls) = (0, 0, 0, 0, false);
        self.pc = [0; 32];
        self.local_init.fill(false);
        for lane in 0..32 {
            self.stack[lane].clear();
            self.open_group[lane].clear();
            self.groups[lane].clear();
        }
        for (r, s) in &l.kernel.specials {
            for lane in 0..32u32 {
                let below = (1u64 << lane) - 1;
                let v = match *s {
                    Special::Tid(d) => u64::from(env.thread(self.index, lane)[d as usize]),
                    Special::Ntid(d) => u64::from(l.block[d as usize]),
                    Special::Ctaid(d) => u64::from(env.block[d as usize]),
                    Special::Nctaid(d) => u64::from(l.grid[d as usize]),
                    Special::LaneId => u64::from(lane),
                    Special::WarpId => u64::from(self.index),
                    Special::NWarpId => u64::from(threads.div_ceil(32)),
                    Special::MaskEq => 1 << lane,
                    Special::MaskLt => below,
                    Special::MaskLe => below | 1 << lane,
                    Special::MaskGt => u64::from(u32::MAX) & !(below | 1 << lane),
                    Special::MaskGe => u64::from(u32::MAX) & !below,
                    Special::SmId => u64::from(env.block_index % l.sms),
                    Special::NSmId => u64::from(l.sms),
                    Special::DynamicShared => u64::from(l.dynamic_shared),
                    Special::TotalShared => u64::from(l.dynamic_shared + l.kernel.static_shared),
                    Special::Number(n) => u64::from(n),
                };
                self.regs[*r as usize][lane as usize] = v;
            }
        }
        for (r, v) in &l.kernel.vars {
            self.regs[*r as usize] = [l.vars[*v as usize]; 32];
        }
    }

    pub fn done(&self) -> bool {
        self.exited == self.exists
    }

    /// The next lanes to run: their mask, their program counter, and the least one of the others at their depth.
    fn choose(&self, runnable: u32) -> (u32, u32, u32) {
        let depth = |l: u32| self.stack[l as usize].len();
        let deepest = if self.calls { lanes(runnable).map(depth).max().unwrap_or(0) } else { 0 };
        let (mut pc, mut mask, mut other) = (u32::MAX, 0u32, u32::MAX);
        for l in lanes(runnable) {
            if self.calls && depth(l) != deepest {
                continue;
            }
            let at = self.pc[l as usize];
            if at < pc {
                other = pc;
                (pc, mask) = (at, 1 << l);
            } else if at == pc {
                mask |= 1 << l;
            } else {
                other = other.min(at);
            }
        }
        (mask, pc, other)
    }

    /// Runs until every lane waits at a barrier or has left.
    pub fn run(&mut self, env: &mut Env) -> Check {
        env.warp = self.index;
        env.warp_epoch = self.epoch;
        loop {
            let runnable = self.exists & !self.exited & !self.waiting & !self.syncing;
            if runnable == 0 {
                return if self.syncing == 0 { Ok(()) } else { Err(self.stuck(env)) };
            }
            let (mask, mut pc, other) = self.choose(runnable);
            self.group(env, mask, &mut pc, other)?;
        }
    }

    fn group(&mut self, env: &mut Env, mut mask: u32, pc: &mut u32, other: u32) -> Check {
        let code: &[Inst] = &env.launch.kernel.code;
        env.lane = mask.trailing_zeros();
        loop {
            let inst = &code[*pc as usize];
            env.line = inst.line;
            let active = match inst.guard {
                NONE => mask,
                g => mask & self.mask_of(g, inst.negate),
            };
            env.report.warp_instructions += 1;
            env.report.lane_instructions += u64::from(active.count_ones());
            if env.budget == 0 {
                let text =
                    "the instruction budget of the block is used up: an infinite loop, or a budget that is too small";
                return Err(Fault::bare(FaultKind::Budget, text));
            }
            env.budget -= 1;
            let step = if active == 0 { Step::Next } else { self.step(env, inst, mask, active, *pc)? };
            match step {
                Step::Next => *pc += 1,
                Step::Jump(to) => *pc = to,
                Step::Regroup => {
                    mask &= !self.exited & !self.waiting & !self.syncing;
                    if mask == 0 || lanes(mask).any(|l| self.pc[l as usize] != *pc + 1) {
                        return Ok(());
                    }
                    *pc += 1;
                }
            }
            if *pc >= other {
                for l in lanes(mask) {
                    self.pc[l as usize] = *pc;
                }
                return Ok(());
            }
        }
    }

    pub(super) fn mask_of(&self, r: Reg, negate: bool) -> u32 {
        let mut m = 0;
        for (l, v) in self.regs[r as usize].iter().enumerate() {
            m |= ((v & 1) as u32) << l;
        }
        if negate { !m } else { m }
    }

    pub(super) fn put(&mut self, d: Reg, active: u32, v: &Lanes) {
        let to = &mut self.regs[d as usize];
        if active == u32::MAX {
            *to = *v;
        } else {
            for l in lanes(active) {
                to[l as usize] = v[l as usize];
            }
        }
    }

    pub(super) fn put_mask(&mut self, d: Reg, active: u32, v: u32) {
        if d != NONE {
            for l in lanes(active) {
                self.regs[d as usize][l as usize] = u64::from(v >> l & 1);
            }
        }
    }

    /// Sets the program counters of lanes that go on behind this instruction.
    fn advance(&mut self, mask: u32, pc: u32) {
        for l in lanes(mask) {
            self.pc[l as usize] = pc + 1;
        }
    }

    fn step(&mut self, env: &mut Env, inst: &Inst, mask: u32, active: u32, pc: u32) -> Check<Step> {
        let mut out: Lanes = [0; 32];
        match &inst.op {
            Op::A1 { f, d, a } => {
                f(&self.regs[*a as usize], &mut out);
                self.put(*d, active, &out);
            }
            Op::A2 { f, d, a, b } => {
                f(&self.regs[*a as usize], &self.regs[*b as usize], &mut out);
                self.put(*d, active, &out);
            }
            Op::A3 { f, d, a, b, c } => {
                f(&self.regs[*a as usize], &self.regs[*b as usize], &self.regs[*c as usize], &mut out);
                self.put(*d, active, &out);
            }
            Op::Mov { d, a, bits } => {
                out = self.regs[*a as usize];
                if *bits < 64 {
                    out.iter_mut().for_each(|v| *v = trunc(*v, *bits));
                }
                self.put(*d, active, &out);
            }
            Op::Pure { f, d, s } => {
                for l in lanes(active) {
                    let get = |r: Reg| if r == NONE { 0 } else { self.regs[r as usize][l as usize] };
                    out[l as usize] = alu::pure(f, s.map(get), env.launch.perturb);
                }
                self.put(*d, active, &out);
            }
            Op::Setp { cmp, ty, ftz, p, q, a, b, fold } => self.setp(active, *cmp, *ty, *ftz, [*p, *q, *a, *b], *fold),
            Op::Selp { d, a, b, p, neg } => {
                let m = self.mask_of(*p, *neg);
                for l in lanes(active) {
                    let from = if m >> l & 1 == 1 { *a } else { *b };
                    out[l as usize] = self.regs[from as usize][l as usize];
                }
                self.put(*d, active, &out);
            }
            Op::Carry { op, bits, signed, use_cc, set_cc, d, a, b, c } => {
                for l in lanes(active) {
                    let get = |r: Reg| if r == NONE { 0 } else { self.regs[r as usize][l as usize] };
                    let carry = if *use_cc { self.regs[0][l as usize] } else { 0 };
                    let (v, cc) = with_carry(*op, *bits, *signed, [get(*a), get(*b), get(*c)], carry);
                    out[l as usize] = v;
                    if *set_cc {
                        self.regs[0][l as usize] = cc;
                    }
                }
                self.put(*d, active, &out);
            }
            Op::Pack { d, parts, bits } => {
                for l in lanes(active) {
                    let part = |r: &Reg| trunc(self.regs[*r as usize][l as usize], *bits);
                    out[l as usize] = parts.iter().rev().fold(0, |v, r| v << bits | part(r));
                }
                self.put(*d, active, &out);
            }
            Op::Unpack { parts, a, bits } => {
                let all = self.regs[*a as usize];
                for (k, d) in parts.iter().enumerate() {
                    for l in lanes(active) {
                        self.regs[*d as usize][l as usize] = trunc(all[l as usize] >> (k as u32 * bits), *bits);
                    }
                }
            }
            Op::Ld { space, bytes, sext, at, d, nc } => self.load(env, active, *space, *bytes, *sext, *at, d, *nc)?,
            Op::St { space, bytes, at, s } => self.store(env, active, *space, *bytes, *at, s)?,
            Op::Atom { space, op, ty, at, d, b, c } => self.atomic(env, active, *space, *op, *ty, *at, *d, *b, *c)?,
            Op::CpAsync { dst, src, bytes, size, ignore } => {
                self.cp_async(env, active, *dst, *src, *bytes, *size, *ignore)?;
            }
            Op::CpCommit => self.cp_commit(active),
            Op::CpWait { groups } => self.cp_wait(env, active, *groups as usize, false)?,
            Op::CpWaitAll => self.cp_wait(env, active, 0, true)?,
            Op::ActiveMask { d } => self.put(*d, active, &[u64::from(active); 32]),
            Op::Clock { d, bits } => {
                let now = trunc(env.report.warp_instructions, *bits);
                self.put(*d, active, &[now; 32]);
            }
            Op::Nop | Op::Fence => {}
            Op::Bra { target } => {
                if active == mask {
                    return Ok(Step::Jump(*target));
                }
                env.report.divergent_branches += 1;
                for l in lanes(mask) {
                    self.pc[l as usize] = if active >> l & 1 == 1 { *target } else { pc + 1 };
                }
                return Ok(Step::Regroup);
            }
            Op::BrxIdx { index, targets } => {
                self.advance(mask, pc);
                for l in lanes(active) {
                    env.lane = l;
                    let i = self.regs[*index as usize][l as usize] & 0xffff_ffff;
                    let Some(t) = targets.get(i as usize) else {
                        let text = format!("brx.idx with index {i} into a table of {}", targets.len());
                        return Err(Fault::bare(FaultKind::Trap, text));
                    };
                    self.pc[l as usize] = *t;
                }
                return Ok(Step::Regroup);
            }
            Op::Call { target, copies, .. } => {
                self.calls = true;
                self.copy_frames(env, active, copies);
                self.advance(mask, pc);
                for l in lanes(active) {
                    self.stack[l as usize].push(pc);
                    self.pc[l as usize] = *target;
                }
                return Ok(Step::Regroup);
            }
            Op::Ret => {
                self.advance(mask, pc);
                for l in lanes(active) {
                    let Some(at) = self.stack[l as usize].pop() else {
                        return Err(Fault::bare(FaultKind::Trap, "a return without a call"));
                    };
                    if let Op::Call { results, .. } = &env.launch.kernel.code[at as usize].op {
                        self.copy_frames(env, 1 << l, results);
                    }
                    self.pc[l as usize] = at + 1;
                }
                return Ok(Step::Regroup);
            }
            Op::Exit => {
                self.advance(mask, pc);
                self.exited |= active;
                return Ok(Step::Regroup);
            }
            Op::Trap => return Err(Fault::bare(FaultKind::Trap, "the kernel executed a trap instruction")),
            Op::Bar { id, count, wait, red, p, neg, .. } => {
                return self.barrier(env, active, mask, pc, [*id, *count, *p], *wait, *red, *neg);
            }
            _ => return self.warp_op(env, &inst.op, mask, active, pc),
        }
        Ok(Step::Next)
    }

    fn setp(
        &mut self,
        active: u32,
        cmp: crate::inst::Cmp,
        ty: Ty,
        ftz: bool,
        [p, q, a, b]: [Reg; 4],
        fold: Option<(crate::inst::Bool, Reg, bool)>,
    ) {
        let (x, y) = (&self.regs[a as usize], &self.regs[b as usize]);
        let (hit, not) = match ty {
            // One predicate for each half.
            Ty::F16x2 | Ty::Bf16x2 => {
                let one = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                let high = |v: &Lanes| v.map(|v| v >> 16 & 0xffff);
                (alu::compare(cmp, one, ftz, x, y), alu::compare(cmp, one, ftz, &high(x), &high(y)))
            }
            _ => {
                let m = alu::compare(cmp, ty, ftz, x, y);
                (m, !m)
            }
        };
        let (hit, not) = match fold {
            None => (hit, not),
            Some((op, c, neg)) => {
                let c = self.mask_of(c, neg);
                let f = |m: u32| {
                    (0..32).fold(0, |r, l| r | u32::from(alu::fold(op, m >> l & 1 == 1, c >> l & 1 == 1)) << l)
                };
                (f(hit), f(not))
            }
        };
        self.put_mask(p, active, hit);
        self.put_mask(q, active, not);
    }

    fn copy_frames(&mut self, env: &Env, active: u32, copies: &[(u32, u32, u32)]) {
        let frame = env.launch.kernel.frame as usize;
        for l in lanes(active) {
            let base = l as usize * frame;
            for (to, from, n) in copies {
                let (to, from, n) = (base + *to as usize, base + *from as usize, *n as usize);
                self.local.copy_within(from..from + n, to);
                self.local_init.copy_within(from..from + n, to);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one instruction")]
    fn barrier(
        &mut self,
        env: &mut Env,
        active: u32,
        mask: u32,
        pc: u32,
        [id, count, p]: [Reg; 3],
        wait: bool,
        red: BarRed,
        neg: bool,
    ) -> Check<Step> {
        self.advance(mask, pc);
        let preds = if red == BarRed::No { 0 } else { self.mask_of(p, neg) };
        for l in lanes(active) {
            env.lane = l;
            let get = |r: Reg| if r == NONE { 0 } else { self.regs[r as usize][l as usize] as u32 };
            let at = AtBarrier { id: get(id), count: get(count), pc };
            if at.id > 15 || !at.count.is_multiple_of(32) {
                let text = format!(
                    "barrier {} with {} threads: numbers go to 15, counts are multiples of 32",
                    at.id, at.count
                );
                return Err(Fault::bare(FaultKind::DivergentBarrier, text));
            }
            env.arrive_at(at, preds >> l & 1 == 1);
            self.barrier[l as usize] = at;
        }
        if wait {
            self.waiting |= active;
        }
        Ok(Step::Regroup)
    }

    /// Lets a warp instruction run when every lane of `members` is here; lanes that came early wait.
    /// Gives the lanes that execute it now.
    pub(super) fn meet(
        &mut self,
        env: &mut Env,
        members: Option<Reg>,
        active: u32,
        mask: u32,
        pc: u32,
    ) -> Check<Option<u32>> {
        let here = active | lanes(self.syncing).filter(|l| self.pc[*l as usize] == pc).fold(0, |m, l| m | 1 << l);
        let mut named = u32::MAX;
        if let Some(r) = members {
            let v = self.regs[r as usize];
            named = v[active.trailing_zeros() as usize] as u32;
            for l in lanes(here) {
                env.lane = l;
                let mine = v[l as usize] as u32;
                if mine >> l & 1 == 0 {
                    let text =
                        format!("the member mask {mine:#010x} does not name the lane that executes the instruction");
                    return Err(Fault::bare(FaultKind::InactiveLane, text));
                }
                if mine != named && active >> l & 1 == 1 {
                    // Groups with masks of their own are legal; each runs by itself.
                    return self.meet_apart(env, v, active, mask, pc);
                }
            }
        }
        if named & !here == 0 {
            self.syncing &= !here;
            let run = here & named;
            self.advance(mask | run, pc);
            return Ok(Some(run));
        }
        let never = named & (self.exited | !self.exists);
        if never != 0 {
            let text = format!(
                "the instruction names lanes {never:#010x}, which have left or do not exist (mask {named:#010x})"
            );
            return Err(Fault::bare(FaultKind::InactiveLane, text));
        }
        for l in lanes(active) {
            self.pc[l as usize] = pc;
        }
        for l in lanes(mask & !active) {
            self.pc[l as usize] = pc + 1;
        }
        self.syncing |= active;
        Ok(None)
    }

    fn meet_apart(&mut self, env: &mut Env, v: Lanes, active: u32, mask: u32, pc: u32) -> Check<Option<u32>> {
        // The first group goes; the others stay where they are and come again.
        let named = v[active.trailing_zeros() as usize] as u32;
        if named & !active != 0 {
            let text = format!("lanes of the mask {named:#010x} do not execute the instruction together");
            return Err(Fault::bare(FaultKind::InactiveLane, text));
        }
        env.lane = active.trailing_zeros();
        self.advance(mask & !active, pc);
        for l in lanes(active & !named) {
            self.pc[l as usize] = pc;
        }
        self.advance(named, pc);
        Ok(Some(named))
    }

    fn stuck(&self, env: &mut Env) -> Box<Fault> {
        let l = self.syncing.trailing_zeros();
        env.lane = l;
        env.line = env.launch.kernel.code[self.pc[l as usize] as usize].line;
        let text = format!(
            "the instruction names lanes that never execute it with lanes {:#010x}: waiting at a barrier {:#010x}, left {:#010x}",
            self.syncing, self.waiting, self.exited
        );
        let mut f = Fault::bare(FaultKind::InactiveLane, text);
        f.threads = lanes(self.syncing).map(|l| env.thread(self.index, l)).collect();
        f
    }

    fn warp_op(&mut self, env: &mut Env, op: &Op, mask: u32, active: u32, pc: u32) -> Check<Step> {
        let members = match op {
            Op::Shfl { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Redux { members, .. }
            | Op::Elect { members, .. }
            | Op::SyncWarp { members } => Some(*members),
            _ => None,
        };
        let Some(run) = self.meet(env, members, active, mask, pc)? else { return Ok(Step::Regroup) };
        env.lane = run.trailing_zeros();
        self.warp_values(env, op, run)?;
        Ok(if run & !mask == 0 && lanes(mask).all(|l| self.pc[l as usize] == pc + 1) {
            Step::Next
        } else {
            Step::Regroup
        })
    }
}

/// A sum or product with carry: the result and the carry out.
fn with_carry(op: Carry, bits: u32, signed: bool, [a, b, c]: [u64; 3], carry: u64) -> (u64, u64) {
    let m = |v: u64| u128::from(trunc(v, bits));
    let out = |sum: u128| (trunc(sum as u64, bits), (sum >> bits & 1) as u64);
    match op {
        Carry::Add => out(m(a) + m(b) + u128::from(carry)),
        // The flag holds the borrow.
        Carry::Sub => {
            let (d, b1) = m(a).overflowing_sub(m(b));
            let (d, b2) = d.overflowing_sub(u128::from(carry));
            (trunc(d as u64, bits), u64::from(b1 || b2))
        }
        Carry::MadLo | Carry::MadHi => {
            let product = if signed {
                let s = |v: u64| i128::from(crate::ty::sext(trunc(v, bits), bits) as i64);
                s(a).wrapping_mul(s(b)) as u128
            } else {
                m(a).wrapping_mul(m(b))
            };
            let part = if op == Carry::MadHi { product >> bits } else { product };
            out(m(part as u64) + m(c) + u128::from(carry))
        }
    }
}
