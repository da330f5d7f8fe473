//! Values that lanes of a warp exchange.

use super::memops::{Gather, aligned};
use super::space::resolve;
use super::warp::Warp;
use super::{Check, Env, lanes};
use crate::ast::Space;
use crate::error::{Fault, FaultKind};
use crate::inst::{Lanes, Op, RedOp, ShflMode, VoteMode};
use crate::race::Kind;
use crate::ty::trunc;

impl Warp {
    /// Executes a warp instruction in the lanes `run`, which are all that it names.
    pub(super) fn warp_values(&mut self, env: &mut Env, op: &Op, run: u32) -> Check {
        match op {
            Op::SyncWarp { .. } => {
                self.epoch += 1;
                env.warp_epoch = self.epoch;
            }
            Op::Shfl { mode, d, p, a, b, c, .. } => {
                let (x, lane_arg, clamp) = (self.regs[*a as usize], self.regs[*b as usize], self.regs[*c as usize]);
                let (mut out, mut ok): (Lanes, u32) = ([0; 32], 0);
                for l in lanes(run) {
                    let b = (lane_arg[l as usize] & 31) as i32;
                    let c = clamp[l as usize];
                    let (cval, segment) = ((c & 31) as i32, (c >> 8 & 31) as i32);
                    let me = l as i32;
                    let max = (me & segment) | (cval & !segment);
                    let min = me & segment;
                    let (j, inside) = match mode {
                        ShflMode::Up => (me - b, me - b >= max),
                        ShflMode::Down => (me + b, me + b <= max),
                        ShflMode::Bfly => (me ^ b, (me ^ b) <= max),
                        ShflMode::Idx => {
                            let j = min | (b & !segment);
                            (j, j <= max)
                        }
                    };
                    let from = if inside { j } else { me };
                    if run >> from & 1 == 0 {
                        env.lane = l;
                        let text =
                            format!("the shuffle reads lane {from}, which does not execute it (lanes {run:#010x})");
                        return Err(Fault::bare(FaultKind::InactiveLane, text));
                    }
                    out[l as usize] = trunc(x[from as usize], 32);
                    ok |= u32::from(inside) << l;
                }
                self.put(*d, run, &out);
                self.put_mask(*p, run, ok);
            }
            Op::Vote { mode, d, p, neg, .. } => {
                let votes = self.mask_of(*p, *neg) & run;
                let v = match mode {
                    VoteMode::All => u64::from(votes == run),
                    VoteMode::Any => u64::from(votes != 0),
                    VoteMode::Uni => u64::from(votes == 0 || votes == run),
                    VoteMode::Ballot => u64::from(votes),
                };
                self.put(*d, run, &[v; 32]);
            }
            Op::Match { all, bits, d, p, a, .. } => {
                let x = self.regs[*a as usize].map(|v| trunc(v, *bits));
                let mut out = [0; 32];
                let mut same_all = 0;
                for l in lanes(run) {
                    let same = lanes(run).filter(|o| x[*o as usize] == x[l as usize]).fold(0u32, |m, o| m | 1 << o);
                    let hit = same == run;
                    out[l as usize] = u64::from(if !*all || hit { same } else { 0 });
                    same_all |= u32::from(hit) << l;
                }
                self.put(*d, run, &out);
                self.put_mask(*p, run, same_all);
            }
            Op::Redux { op, signed, d, a, .. } => {
                let x = self.regs[*a as usize];
                let v = lanes(run).map(|l| x[l as usize] as u32).reduce(|a, b| match (op, signed) {
                    (RedOp::Add, _) => a.wrapping_add(b),
                    (RedOp::Min, true) => (a as i32).min(b as i32) as u32,
                    (RedOp::Max, true) => (a as i32).max(b as i32) as u32,
                    (RedOp::Min, false) => a.min(b),
                    (RedOp::Max, false) => a.max(b),
                    (RedOp::And, _) => a & b,
                    (RedOp::Or, _) => a | b,
                    (RedOp::Xor, _) => a ^ b,
                });
                self.put(*d, run, &[u64::from(v.unwrap_or(0)); 32]);
            }
            Op::Elect { d, p, .. } => {
                let leader = run.trailing_zeros();
                self.put(*d, run, &[u64::from(leader); 32]);
                self.put_mask(*p, run, 1 << leader);
            }
            Op::Ldmatrix { n, trans, at, d } => {
                let mut tiles = [[[0u8; 16]; 8]; 4];
                let mut seen = Gather::new();
                for row in 0..n * 8 {
                    env.lane = row;
                    let addr = self.regs[at.base as usize][row as usize].wrapping_add(at.off as u64);
                    let (space, addr) = resolve(Space::Shared, addr);
                    aligned(addr, 16)?;
                    let to = &mut tiles[(row / 8) as usize][(row % 8) as usize];
                    env.read(self, space, addr, to, Kind::Read, false)?;
                    seen.push(space, addr, row);
                }
                seen.count(env, 16, false);
                for (tile, d) in tiles.iter().zip(d) {
                    let half = |r: usize, c: usize| u64::from(u16::from_le_bytes([tile[r][2 * c], tile[r][2 * c + 1]]));
                    let mut out = [0; 32];
                    for (l, v) in out.iter_mut().enumerate() {
                        let (r, c) = (l / 4, l % 4 * 2);
                        *v = if *trans { half(c, r) | half(c + 1, r) << 16 } else { half(r, c) | half(r, c + 1) << 16 };
                    }
                    self.put(*d, run, &out);
                }
            }
            Op::Stmatrix { n, trans, at, s } => {
                let mut seen = Gather::new();
                for row in 0..n * 8 {
                    env.lane = row;
                    let addr = self.regs[at.base as usize][row as usize].wrapping_add(at.off as u64);
                    let (space, addr) = resolve(Space::Shared, addr);
                    aligned(addr, 16)?;
                    let x = self.regs[s[(row / 8) as usize] as usize];
                    let r = (row % 8) as usize;
                    let mut data = [0u8; 16];
                    for c in 0..8 {
                        let (i, j) = if *trans { (c, r) } else { (r, c) };
                        let half = (x[i * 4 + j / 2] >> (j % 2 * 16)) as u16;
                        data[2 * c..2 * c + 2].copy_from_slice(&half.to_le_bytes());
                    }
                    env.write(self, space, addr, &data, false)?;
                    seen.push(space, addr, row);
                }
                seen.count(env, 16, true);
            }
            Op::Mma { plan, d, a, b, c } => {
                env.report.mma += 1;
                self.mma(plan, d, a, b, c);
            }
            other => {
                let text = format!("{other:?} is no warp instruction");
                return Err(Fault::bare(FaultKind::Trap, text));
            }
        }
        Ok(())
    }
}
