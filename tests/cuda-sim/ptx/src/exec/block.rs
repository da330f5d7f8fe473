//! One block: its warps in turn, and its barriers.

use super::shared::SharedMem;
use super::warp::Warp;
use super::{Check, Env, Launch, lanes};
use crate::error::{Fault, FaultKind};
use crate::inst::{BarRed, NONE, Op};
use crate::report::Report;

/// Memory of a block that the next block on the same thread uses again.
pub(crate) struct Room<'a> {
    pub env: Env<'a>,
    warps: Vec<Warp>,
}

impl<'a> Room<'a> {
    pub fn new(launch: &'a Launch<'a>) -> Room<'a> {
        let threads: u32 = launch.block.iter().product();
        let warps = (0..threads.div_ceil(32)).map(|i| Warp::new(launch.kernel, i)).collect();
        let shared = SharedMem::new(launch.kernel, launch.dynamic_shared, launch.shadow.is_some());
        let env = Env {
            launch,
            shared,
            report: Report::default(),
            block: [0; 3],
            block_index: 0,
            epoch: 0,
            budget: 0,
            line: 0,
            warp: 0,
            lane: 0,
            warp_epoch: 0,
            hint: 0,
            arrived: [(0, 0); 16],
        };
        Room { env, warps }
    }
}

/// Runs one block to its end.
pub(crate) fn run_block(room: &mut Room, index: u32) -> Check {
    let env = &mut room.env;
    let l = env.launch;
    let [x, y, _] = l.grid;
    env.block = [index % x, index / x % y, index / x / y];
    env.block_index = index;
    env.epoch = 0;
    env.budget = l.budget;
    env.arrived = [(0, 0); 16];
    env.shared.reset();
    for w in &mut room.warps {
        w.reset(env);
    }
    let threads: u32 = l.block.iter().product();
    env.report.blocks += 1;
    env.report.threads += u64::from(threads);
    loop {
        let n = room.warps.len();
        for k in 0..n {
            let w = &mut room.warps[if l.reversed { n - 1 - k } else { k }];
            if !w.done() {
                w.run(env).map_err(|f| env.place(f))?;
            }
        }
        if room.warps.iter().all(Warp::done) {
            return Ok(());
        }
        release(env, &mut room.warps, threads).map_err(|f| env.place(f))?;
    }
}

/// Every thread waits or has left: opens the barriers that are complete, or says why none is.
fn release(env: &mut Env, warps: &mut [Warp], threads: u32) -> Check {
    let mut opened = false;
    for id in 0..16u32 {
        let waits: Vec<(usize, u32)> = warps
            .iter()
            .enumerate()
            .flat_map(|(i, w)| lanes(w.waiting).map(move |l| (i, l)))
            .filter(|(i, l)| warps[*i].barrier[*l as usize].id == id)
            .collect();
        let Some(&(first_warp, first_lane)) = waits.first() else { continue };
        let first = warps[first_warp].barrier[first_lane as usize];
        let odd = waits.iter().find(|(i, l)| {
            let b = warps[*i].barrier[*l as usize];
            b.count != first.count || (first.count == 0 && b.pc != first.pc)
        });
        if let Some(&(i, l)) = odd {
            let other = warps[i].barrier[l as usize];
            let line = |pc: u32| env.launch.kernel.code[pc as usize].line;
            let text = format!(
                "threads of one block wait at different barriers: PTX lines {} and {}",
                line(first.pc),
                line(other.pc)
            );
            return Err(diverged(env, warps, &[(first_warp, first_lane), (i, l)], first.pc, text));
        }
        let (arrived, yes) = env.arrived[id as usize];
        let expected = if first.count == 0 { threads } else { first.count };
        if arrived < expected {
            continue;
        }
        open(env, warps, &waits, arrived, yes);
        env.arrived[id as usize] = (0, 0);
        opened = true;
    }
    if opened {
        env.epoch += 1;
        env.report.barriers += 1;
        return Ok(());
    }
    let mut waiting: Vec<(usize, u32)> = Vec::new();
    let mut left: Vec<(usize, u32)> = Vec::new();
    for (i, w) in warps.iter().enumerate() {
        waiting.extend(lanes(w.waiting).map(|l| (i, l)));
        left.extend(lanes(w.exited).map(|l| (i, l)));
    }
    let Some(&(w, l)) = waiting.first() else {
        return Err(Fault::bare(FaultKind::DivergentBarrier, "no thread can go on"));
    };
    let pc = warps[w].barrier[l as usize].pc;
    let text = format!(
        "{} of {threads} threads wait at the barrier and {} have left the kernel, so that it never opens as the program \
         asks; every thread of the block must reach it",
        waiting.len(),
        left.len()
    );
    let mut who = vec![(w, l)];
    who.extend(left.first());
    Err(diverged(env, warps, &who, pc, text))
}

fn diverged(env: &mut Env, warps: &[Warp], who: &[(usize, u32)], pc: u32, text: String) -> Box<Fault> {
    env.line = env.launch.kernel.code[pc as usize].line;
    let mut f = Fault::bare(FaultKind::DivergentBarrier, text);
    f.threads = who.iter().map(|(i, l)| env.thread(warps[*i].index, *l)).collect();
    f
}

fn open(env: &Env, warps: &mut [Warp], waits: &[(usize, u32)], arrived: u32, yes: u32) {
    for &(i, l) in waits {
        let w = &mut warps[i];
        w.waiting &= !(1 << l);
        let pc = w.barrier[l as usize].pc;
        if let Op::Bar { red, d, .. } = &env.launch.kernel.code[pc as usize].op
            && *d != NONE
        {
            let v = match red {
                BarRed::Popc => yes,
                BarRed::And => u32::from(yes == arrived),
                BarRed::Or => u32::from(yes > 0),
                BarRed::No => 0,
            };
            w.regs[*d as usize][l as usize] = u64::from(v);
        }
    }
}
