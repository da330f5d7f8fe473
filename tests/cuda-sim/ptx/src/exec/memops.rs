//! Memory instructions of a warp.

use super::space::resolve;
use super::warp::{Async, Warp};
use super::{Check, Env, lanes};
use crate::alu::float;
use crate::ast::Space;
use crate::error::{Fault, FaultKind};
use crate::inst::{Addr, AtomOp, NONE, Reg};
use crate::race::Kind;
use crate::report::{bank_passes, sectors};
use crate::soft::{self, Rnd};
use crate::ty::{Ty, sext, trunc};

/// The addresses of one request, gathered for the figures.
pub(crate) struct Gather {
    addr: [u64; 32],
    lane: [u32; 32],
    n: usize,
    space: Space,
}

impl Gather {
    pub fn new() -> Gather {
        Gather { addr: [0; 32], lane: [0; 32], n: 0, space: Space::Generic }
    }

    pub fn push(&mut self, space: Space, addr: u64, lane: u32) {
        self.space = space;
        self.addr[self.n] = addr;
        self.lane[self.n] = lane;
        self.n += 1;
    }

    pub fn count(&mut self, env: &mut Env, bytes: u64, store: bool) {
        if self.n == 0 {
            return;
        }
        let total = bytes * self.n as u64;
        match self.space {
            Space::Shared => {
                let (passes, ideal) = bank_passes(&self.addr[..self.n], &self.lane[..self.n], bytes);
                let r = if store { &mut env.report.shared_store } else { &mut env.report.shared_load };
                r.requests += 1;
                r.bytes += total;
                r.passes += passes;
                r.ideal_passes += ideal;
            }
            Space::Local => env.report.local_bytes += total,
            Space::Param => {}
            _ => {
                let (touched, ideal) = sectors(&mut self.addr[..self.n], bytes);
                let r = if store { &mut env.report.global_store } else { &mut env.report.global_load };
                r.requests += 1;
                r.bytes += total;
                r.sectors += touched;
                r.ideal_sectors += ideal;
            }
        }
    }
}

fn le(b: &[u8]) -> u64 {
    b.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

pub(crate) fn aligned(addr: u64, bytes: u64) -> Check {
    // Accesses are powers of two.
    if addr & (bytes - 1) == 0 {
        return Ok(());
    }
    Err(Fault::at(
        FaultKind::Misaligned,
        addr,
        format!("an access of {bytes} bytes needs an address that is a multiple of {bytes}"),
    ))
}

impl Warp {
    fn address(&self, at: Addr, lane: u32) -> u64 {
        self.regs[at.base as usize][lane as usize].wrapping_add(at.off as u64)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn load(
        &mut self,
        env: &mut Env,
        active: u32,
        space: Space,
        bytes: u32,
        extend: u32,
        at: Addr,
        d: &[Reg],
        nc: bool,
    ) -> Check {
        let total = u64::from(bytes) * d.len() as u64;
        let mut buf = [0u8; 64];
        let buf = &mut buf[..total as usize];
        let kind = if nc { Kind::ReadNonCoherent } else { Kind::Read };
        let mut seen = Gather::new();
        for lane in lanes(active) {
            env.lane = lane;
            let (space, addr) = resolve(space, self.address(at, lane));
            aligned(addr, total)?;
            env.read(self, space, addr, buf, kind, false)?;
            seen.push(space, addr, lane);
            for (k, d) in d.iter().enumerate() {
                let mut v = le(&buf[k * bytes as usize..(k + 1) * bytes as usize]);
                if extend != 0 {
                    v = trunc(sext(v, bytes * 8), extend);
                }
                self.regs[*d as usize][lane as usize] = v;
            }
        }
        seen.count(env, total, false);
        Ok(())
    }

    pub(super) fn store(&mut self, env: &mut Env, active: u32, space: Space, bytes: u32, at: Addr, s: &[Reg]) -> Check {
        let total = u64::from(bytes) * s.len() as u64;
        let mut buf = [0u8; 64];
        let mut seen = Gather::new();
        for lane in lanes(active) {
            env.lane = lane;
            let (space, addr) = resolve(space, self.address(at, lane));
            aligned(addr, total)?;
            for (k, s) in s.iter().enumerate() {
                let v = self.regs[*s as usize][lane as usize].to_le_bytes();
                buf[k * bytes as usize..(k + 1) * bytes as usize].copy_from_slice(&v[..bytes as usize]);
            }
            env.write(self, space, addr, &buf[..total as usize], false)?;
            seen.push(space, addr, lane);
        }
        seen.count(env, total, true);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn atomic(
        &mut self,
        env: &mut Env,
        active: u32,
        space: Space,
        op: AtomOp,
        ty: Ty,
        at: Addr,
        d: Reg,
        b: Reg,
        c: Reg,
    ) -> Check {
        let bytes = u64::from(ty.bytes());
        let launch = env.launch;
        let _one_at_a_time = launch.atomics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for lane in lanes(active) {
            env.lane = lane;
            let (space, addr) = resolve(space, self.address(at, lane));
            if !matches!(space, Space::Global | Space::Shared) {
                return Err(Fault::at(FaultKind::Trap, addr, "an atomic on local memory or parameters"));
            }
            aligned(addr, bytes)?;
            let mut buf = [0u8; 8];
            env.read(self, space, addr, &mut buf[..bytes as usize], Kind::Read, true)?;
            let old = le(&buf[..bytes as usize]);
            let get = |r: Reg| if r == NONE { 0 } else { trunc(self.regs[r as usize][lane as usize], ty.bits()) };
            // In global memory the f32 sum flushes subnormals; in shared memory it does not.
            let flush = ty == Ty::F32 && op == AtomOp::Add && space == Space::Global;
            let z = |v: u64| {
                if flush { float::encode(ty, float::flush(float::value(ty, v), ty, true), 0.0, Rnd::Rn) } else { v }
            };
            let new = z(atomic_value(op, ty, z(old), z(get(b)), get(c)));
            env.write(self, space, addr, &new.to_le_bytes()[..bytes as usize], true)?;
            if d != NONE {
                self.regs[d as usize][lane as usize] = old;
            }
            env.report.atomics += 1;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn cp_async(
        &mut self,
        env: &mut Env,
        active: u32,
        dst: Addr,
        src: Addr,
        bytes: u32,
        size: Reg,
        ignore: Reg,
    ) -> Check {
        let n = u64::from(bytes);
        let (mut from, mut to) = (Gather::new(), Gather::new());
        for lane in lanes(active) {
            env.lane = lane;
            let (_, target) = resolve(Space::Shared, self.address(dst, lane));
            let (_, source) = resolve(Space::Global, self.address(src, lane));
            let mut take = if size == NONE { n } else { self.regs[size as usize][lane as usize] & 0xffff_ffff };
            if ignore != NONE && self.regs[ignore as usize][lane as usize] & 1 == 1 {
                take = 0;
            }
            if take > n {
                let text = format!("cp.async reads {take} bytes for a copy of {n}");
                return Err(Fault::at(FaultKind::OutOfBounds, source, text));
            }
            aligned(target, n)?;
            let mut data = [0u8; 16];
            if take > 0 {
                aligned(source, n)?;
                env.read(self, Space::Global, source, &mut data[..take as usize], Kind::Read, false)?;
                from.push(Space::Global, source, lane);
            }
            env.begin_async(target, n)?;
            to.push(Space::Shared, target, lane);
            self.open_group[lane as usize].push(Async { target, data, bytes });
        }
        from.count(env, n, false);
        to.count(env, n, true);
        Ok(())
    }

    pub(super) fn cp_commit(&mut self, active: u32) {
        for lane in lanes(active) {
            let group = std::mem::take(&mut self.open_group[lane as usize]);
            self.groups[lane as usize].push_back(group);
        }
    }

    pub(super) fn cp_wait(&mut self, env: &mut Env, active: u32, keep: usize, open_too: bool) -> Check {
        for lane in lanes(active) {
            env.lane = lane;
            while self.groups[lane as usize].len() > keep {
                let group = self.groups[lane as usize].pop_front().unwrap_or_default();
                env.arrive(&group)?;
            }
            if open_too {
                let group = std::mem::take(&mut self.open_group[lane as usize]);
                env.arrive(&group)?;
            }
        }
        Ok(())
    }
}

impl Env<'_> {
    /// The write counts as made when it is issued, for readers of what was there before ...
    fn begin_async(&mut self, addr: u64, bytes: u64) -> Check {
        self.note_async(addr, bytes)?;
        self.shared.begin(addr, bytes)
    }

    /// ... and again when it has been waited for, for readers of what has come.
    fn arrive(&mut self, group: &[Async]) -> Check {
        for a in group {
            self.note_async(a.target, u64::from(a.bytes))?;
            self.shared.arrive(a.target, &a.data[..a.bytes as usize])?;
        }
        Ok(())
    }
}

fn atomic_value(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let n = ty.bits();
    let less = if ty.signed() { (sext(old, n) as i64) < sext(b, n) as i64 } else { old < b };
    match op {
        AtomOp::Add => match ty {
            Ty::F32 | Ty::F64 | Ty::F16 | Ty::Bf16 => float_sum(ty, old, b),
            Ty::F16x2 | Ty::Bf16x2 => {
                let one = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                float_sum(one, old & 0xffff, b & 0xffff) | float_sum(one, old >> 16, b >> 16) << 16
            }
            _ => trunc(old.wrapping_add(b), n),
        },
        AtomOp::Min => {
            if less {
                old
            } else {
                b
            }
        }
        AtomOp::Max => {
            if less {
                b
            } else {
                old
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

fn float_sum(ty: Ty, a: u64, b: u64) -> u64 {
    if ty == Ty::F64 {
        return float::encode(ty, f64::from_bits(a) + f64::from_bits(b), 0.0, Rnd::Rn);
    }
    let (s, err) = soft::two_sum(float::value(ty, a), float::value(ty, b));
    float::encode(ty, s, err, Rnd::Rn)
}
