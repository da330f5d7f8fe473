//! Which steps of a program may refuse an index.
//!
//! A step that takes, gathers or puts by an index checks every index before it writes anything, and accepts those in one
//! range. It cannot refuse where the values of its index are known to lie in that range:
//! * an earlier step checked the same values against a range within this one: the same buffer, of which nothing was
//!   written between, or a whole copy of it;
//! * they are constants, positions, the result of an argsort, an argmax or a `fill`, or what a kernel makes of such values or of
//!   checked ones ([`facts`] has the arithmetic).
//!
//! Everything is derived from the steps of a verified program, nothing from what somebody says of it; what is not
//! understood may refuse. It matters for what a run overwrites in place: only what no later step can make it regret.
//! Indices are checked all the same when a step runs.

pub mod facts;
#[cfg(test)]
mod tests;

use crate::dtype::DType;
use crate::kernel::Kernel;
use crate::program::{BufId, LibCall, Place, Program, StepOp};
use crate::shape::Type;
use crate::verify::program::Region;
use facts::{Bounds, Facts, Values};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::rc::Rc;

/// The indices that a call accepts of a dim of the type of its first operand; `None` for a call that checks none.
pub fn accepted(call: &LibCall, of: &Type) -> Option<Bounds> {
    let (dim, wraps) = match call {
        LibCall::Take { dim } | LibCall::IndexPut { dim, .. } => (*dim, true),
        LibCall::Gather { dim } | LibCall::Scatter { dim, .. } => (*dim, false),
        LibCall::Attention(_) | LibCall::AttentionGrad(_) => return None,
        LibCall::ArgSort { .. } | LibCall::Scan { .. } | LibCall::Fill(_) | LibCall::Copy => return None,
    };
    // A dim that is not there has no indices.
    let size = of.shape.get(dim).map_or(0, |&n| n as i128);
    Some(Bounds { least: if wraps { -size } else { 0 }, most: size - 1 })
}

/// Goes through steps in order and says of each call whether it may refuse. `P` names a place in memory; two places of
/// different names share no memory, or [`forget`](Self::forget) is called when one is written.
pub struct Checks<'a, P> {
    facts: Facts<'a>,
    held: HashMap<P, Values>,
}

impl<P> Default for Checks<'_, P> {
    fn default() -> Self {
        Checks { facts: Facts::default(), held: HashMap::new() }
    }
}

impl<'a, P: Copy + Eq + Hash> Checks<'a, P> {
    /// The place holds these constants.
    pub fn constant(&mut self, place: P, data: &[u8]) {
        let values = self.facts.constant(data);
        self.held.insert(place, values);
    }

    /// Nothing is known of the place any more.
    pub fn forget(&mut self, place: P) {
        self.held.remove(&place);
    }

    fn read(&mut self, place: P) -> Values {
        *self.held.entry(place).or_insert_with(|| self.facts.unknown())
    }

    /// A kernel has run on these places.
    pub fn kernel(&mut self, kernel: &'a Kernel, args: &[P]) {
        if !facts::stores_integers(kernel) {
            return kernel.written().for_each(|p| args.get(p).into_iter().for_each(|&at| self.forget(at)));
        }
        let values: Rc<[Values]> = args.iter().map(|&p| self.read(p)).collect();
        let stores = facts::stores(kernel);
        for p in kernel.written() {
            if let Some(&place) = args.get(p) {
                let stored = self.facts.stored(kernel, p, stores.get(p).copied().flatten(), &values);
                self.held.insert(place, stored);
            }
        }
    }

    /// A call is to run: whether it may refuse an index, given that no step before it has.
    pub fn call(&mut self, call: &LibCall, args: &[(P, &Type)], out: (P, &Type)) -> bool {
        // Executors look for the dim of these in the result, which has the base's shape in every program of ours.
        let of_result = matches!(call, LibCall::Scatter { .. } | LibCall::IndexPut { .. });
        let refuses = match args {
            [(_, of), ..] if of_result && of.shape != out.1.shape => true,
            [(_, of), (index, ty), ..] => match accepted(call, of) {
                Some(range) if ty.numel() > 0 => {
                    let index = self.read(*index);
                    self.facts.check(index, range)
                }
                _ => false,
            },
            _ => false,
        };
        if out.1.dtype == DType::I64 {
            let operand = args.first().filter(|a| a.1.dtype == DType::I64).map(|a| self.read(a.0));
            let values = self.facts.made(call, operand, args.first().map(|a| a.1));
            self.held.insert(out.0, values);
        } else {
            self.forget(out.0);
        }
        refuses
    }
}

/// Where a buffer lies: its region and its bytes in it.
type At = (Region, usize, usize);

struct Walk<'a> {
    program: &'a Program,
    checks: Checks<'a, At>,
    /// Start and end of the places in the arena of which something is held: buffers that are live, which do not overlap.
    arena: BTreeMap<usize, usize>,
}

/// Per step of a verified program: whether it may refuse an index, given that the steps before it ran.
pub fn may_refuse(program: &Program) -> Vec<bool> {
    let is_checked = |op: &StepOp| {
        let StepOp::Lib { call, args, .. } = op else { return false };
        let first = args.first().and_then(|x| program.buffers.get(x.0 as usize));
        first.and_then(|x| accepted(call, &x.ty)).is_some()
    };
    // What follows the last of them is of no interest.
    let Some(last) = program.steps.iter().rposition(|s| is_checked(&s.op)) else {
        return vec![false; program.steps.len()];
    };
    let mut walk = Walk::new(program);
    let mut refuses: Vec<bool> = program.steps[..=last].iter().map(|s| walk.step(&s.op)).collect();
    refuses.resize(program.steps.len(), false);
    refuses
}

impl<'a> Walk<'a> {
    fn new(program: &'a Program) -> Walk<'a> {
        let mut walk = Walk { program, checks: Checks::default(), arena: BTreeMap::new() };
        for (i, buf) in program.buffers.iter().enumerate() {
            if let (Place::Const(data), DType::I64) = (&buf.place, buf.ty.dtype) {
                let at = walk.at(BufId(i as u32));
                walk.checks.constant(at, data);
            }
        }
        walk
    }

    fn ty(&self, buf: BufId) -> Option<&'a Type> {
        self.program.buffers.get(buf.0 as usize).map(|decl| &decl.ty)
    }

    fn at(&self, buf: BufId) -> At {
        let (region, bytes) = self.program.memory(buf);
        (region, bytes.start, bytes.end)
    }

    fn step(&mut self, op: &'a StepOp) -> bool {
        match op {
            StepOp::Kernel { kernel, args } => {
                let at: Vec<At> = args.iter().map(|&a| self.at(a)).collect();
                self.checks.kernel(kernel, &at);
                kernel.written().for_each(|p| args.get(p).into_iter().for_each(|&a| self.wrote(a)));
                false
            }
            StepOp::Dot(dot) => {
                self.checks.forget(self.at(dot.out));
                self.wrote(dot.out);
                false
            }
            StepOp::Lib { call, args, out } => {
                let seen = |buf: BufId| Some((self.at(buf), self.ty(buf)?));
                let args: Option<Vec<(At, &Type)>> = args.iter().map(|&a| seen(a)).collect();
                let (Some(args), Some(to)) = (args, seen(*out)) else { return true };
                let refuses = self.checks.call(call, &args, to);
                self.wrote(*out);
                refuses
            }
        }
    }

    /// Forgets what else lay where a buffer has been written.
    fn wrote(&mut self, buf: BufId) {
        let (Region::Arena, start, end) = self.at(buf) else { return };
        if start == end {
            return;
        }
        let over = self.arena.range(..end).rev().take_while(|&(_, &e)| e > start);
        let over: Vec<(usize, usize)> = over.map(|(&s, &e)| (s, e)).collect();
        for (s, e) in over {
            self.arena.remove(&s);
            if (s, e) != (start, end) {
                self.checks.forget((Region::Arena, s, e));
            }
        }
        self.arena.insert(start, end);
    }
}
