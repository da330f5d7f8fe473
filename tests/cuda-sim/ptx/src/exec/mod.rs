//! Execution of one block: warps in lockstep with a program counter per lane.
//!
//! Of the lanes of a warp that can run, those deepest in calls run first, and among them those with the least
//! program counter: lanes that parted meet again behind the branch. A warp runs until all its lanes wait at a
//! barrier or have left; the block's barrier is resolved when every warp has come that far.

mod block;
mod memops;
mod mma;
mod shared;
mod space;
mod warp;
mod warpops;

pub(crate) use block::{Room, run_block};
pub(crate) use mma::plan;

use std::sync::Mutex;

use crate::decode::Kernel;
use crate::error::Fault;
use crate::mem::{Memory, Snapshot};
use crate::race::{Shadow, Stamp};
use crate::report::Report;
use shared::SharedMem;

pub(crate) type Check<T = ()> = Result<T, Box<Fault>>;

/// What one launch has in common.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// The PTX text by lines, for messages.
    pub lines: &'a [String],
    pub params: &'a [u8],
    pub global: Snapshot,
    pub memory: &'a Memory,
    /// Present when races are looked for.
    pub shadow: Option<Mutex<Shadow>>,
    /// Serialises atomics on global memory.
    pub atomics: Mutex<()>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Addresses of the module variables by index.
    pub vars: &'a [u64],
    pub reversed: bool,
    pub check_uninit: bool,
    pub perturb: bool,
    pub sms: u32,
    pub budget: u64,
}

/// What one block works with, beside its warps.
pub(crate) struct Env<'a> {
    pub launch: &'a Launch<'a>,
    pub shared: SharedMem,
    pub report: Report,
    pub block: [u32; 3],
    pub block_index: u32,
    /// Number of barriers passed.
    pub epoch: u32,
    pub budget: u64,
    /// Where execution is, for messages and stamps.
    pub line: u32,
    pub warp: u32,
    pub lane: u32,
    pub warp_epoch: u32,
    pub hint: usize,
    /// Threads that arrived at each barrier, and how many of them with a true predicate.
    pub arrived: [(u32, u32); 16],
}

impl Env<'_> {
    /// A thread arrives at a barrier of the block.
    pub fn arrive_at(&mut self, at: warp::AtBarrier, pred: bool) {
        let (n, yes) = &mut self.arrived[at.id as usize];
        *n += 1;
        *yes += u32::from(pred);
    }

    /// The stamp of an access made now by the current lane.
    pub fn stamp(&self, atomic: bool) -> Stamp {
        Stamp {
            valid: true,
            atomic,
            lane: self.lane as u8,
            warp: self.warp as u16,
            block: self.block_index,
            epoch: self.epoch,
            warp_epoch: self.warp_epoch,
            line: self.line,
        }
    }

    /// Index in the block of a lane's thread.
    pub fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let t = warp * 32 + lane;
        let [x, y, _] = self.launch.block;
        [t % x, t / x % y, t / x / y]
    }

    /// Completes a fault with the place where it happened.
    pub fn place(&self, mut f: Box<Fault>) -> Box<Fault> {
        f.kernel.clone_from(&self.launch.kernel.name);
        if f.line == 0 {
            f.line = self.line;
        }
        let text = self.launch.lines.get(f.line.wrapping_sub(1) as usize);
        f.instruction = text.map(|l| l.trim().to_string()).unwrap_or_default();
        f.block = self.block;
        if f.threads.is_empty() {
            f.threads.push(self.thread(self.warp, self.lane));
        }
        f
    }
}

/// The lanes of a mask, in order.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}
