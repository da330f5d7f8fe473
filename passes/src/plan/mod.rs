//! Memory: where each buffer lives.
//!
//! Needs: scheduled steps. Leaves: a program whose arena is laid out by liveness, with donated inputs and
//! dead operands overwritten in place where the kernel reads and writes the same element, and its peak known.

pub mod arena;
pub mod inplace;

use crate::fuse::items::{Item, ItemId, Items, What};
use crate::lower::{self, Lowered, Step, Work};
use arena::Arena;
use std::collections::HashMap;
use std::sync::Arc;
use torsh_ir::attr::AttrsExt;
use torsh_ir::error::{Error, Loc, Result};
use torsh_ir::graph::Graph;
use torsh_ir::op::Kind;
use torsh_ir::program::{self, BufDecl, BufId, DotOperand, DotStep, LibCall, Place, Program, StepOp};
use torsh_ir::shape::Type;

/// Kernels that are expected to run on the rows of one product, at most.
const MAX_BEHIND: usize = 4;

/// Plans the memory of scheduled steps. `donate` lists (input, output) pairs whose memory may be shared.
pub fn run(graph: &Graph, lowered: Lowered, donate: &[(usize, usize)]) -> Result<Program> {
    let mut plan = Plan::new(graph, lowered);
    plan.fix_types();
    plan.drop_copies(donate);
    plan.lives();
    plan.lives_of_operands();
    plan.donations(donate);
    plan.output_places();
    plan.layout()?;
    plan.finish()
}

/// Steps between which a buffer holds something.
#[derive(Copy, Clone)]
struct Life {
    first_write: usize,
    last: usize,
}

struct Plan<'g> {
    graph: &'g Graph,
    items: Items,
    steps: Vec<Step>,
    stats: program::Stats,
    /// Items that share another item's buffer.
    same: Vec<ItemId>,
    lives: Vec<Option<Life>>,
    places: Vec<Option<Place>>,
    /// Outputs that are copied out of their item's buffer because their shape is another one.
    copied: Vec<bool>,
    arena_bytes: usize,
    /// Types that library calls demand of buffers, by item.
    fixed: HashMap<ItemId, Type>,
}

impl<'g> Plan<'g> {
    fn new(graph: &'g Graph, lowered: Lowered) -> Plan<'g> {
        let n = lowered.items.all.len();
        let stats = program::Stats {
            nodes: graph.len(),
            kernels_unfused: lowered.unfused,
            fusion_notes: lowered.notes,
            ..program::Stats::default()
        };
        let copied = vec![false; lowered.items.outputs.len()];
        Plan {
            graph,
            items: lowered.items,
            steps: lowered.steps,
            stats,
            same: (0..n as u32).map(ItemId).collect(),
            lives: vec![None; n],
            places: vec![None; n],
            copied,
            arena_bytes: 0,
            fixed: HashMap::new(),
        }
    }

    /// Settles the shape under which library calls see each buffer; one that two calls want in different
    /// shapes is copied for the second. Inputs and constants may be seen in any number of shapes.
    fn fix_types(&mut self) {
        let mut steps = Vec::with_capacity(self.steps.len());
        for mut step in std::mem::take(&mut self.steps) {
            let loc = step.loc.clone();
            if let Work::Lib(call, args) = &mut step.work
                && !call.any_shape()
            {
                for (arg, ty) in args.iter_mut() {
                    let home = lower::home(&self.items, *arg);
                    if matches!(self.items.get(home).what, What::Leaf | What::Empty) {
                        continue;
                    }
                    if *self.fixed.entry(home).or_insert_with(|| ty.clone()) != *ty {
                        let copy = self.copy_of(home, ty, loc.clone());
                        let id = copy.writes[0];
                        steps.push(copy);
                        self.fixed.insert(id, ty.clone());
                        *arg = id;
                        step.reads.push(id);
                    }
                }
                let args: Vec<ItemId> = args.iter().map(|a| a.0).collect();
                step.reads.retain(|r| args.contains(r));
                let out = step.writes[0];
                self.fixed.insert(out, self.items.get(out).ty.clone());
            }
            steps.push(step);
        }
        self.steps = steps;
    }

    /// A step that copies a buffer into a new item of another shape.
    fn copy_of(&mut self, from: ItemId, ty: &Type, loc: Option<Loc>) -> Step {
        let id = ItemId(self.items.all.len() as u32);
        let item = Item { ty: ty.clone(), dest: None, uses: Default::default(), ..self.items.get(from).clone() };
        self.items.all.push(Item { what: What::Map(None), ..item });
        self.same.push(id);
        self.lives.push(None);
        self.places.push(None);
        let work = Work::Lib(LibCall::Copy, vec![(from, ty.clone())]);
        Step { work, makes: vec![id], reads: vec![from], writes: vec![id], ops: vec!["reshape"], loc }
    }

    /// The item that owns the buffer of an item.
    fn owner(&self, id: ItemId) -> ItemId {
        let mut id = lower::home(&self.items, id);
        while self.same[id.index()] != id {
            id = self.same[id.index()];
        }
        id
    }

    fn input_of(&self, id: ItemId) -> Option<usize> {
        let item = self.items.get(id);
        if !lower::is_input(self.graph, item) {
            return None;
        }
        Some(self.graph.node(item.node).attrs.int(0) as usize)
    }

    fn is_output(&self, id: ItemId) -> bool {
        self.items.outputs.iter().any(|(o, _)| self.owner(*o) == id)
    }

    /// Copies of a buffer that dies with the copy: both become one buffer. So do the copies of a donated
    /// input that nothing else reads at or after the first write to its output.
    fn drop_copies(&mut self, donate: &[(usize, usize)]) {
        let mut last_touch = vec![0; self.items.all.len()];
        for (s, step) in self.steps.iter().enumerate() {
            for &id in step.reads.iter().chain(&step.writes) {
                last_touch[self.owner(id).index()] = s;
            }
        }
        let mut keep = vec![true; self.steps.len()];
        for (s, kept) in keep.iter_mut().enumerate() {
            let Work::Lib(LibCall::Copy, args) = &self.steps[s].work else { continue };
            let (from, to) = (self.owner(args[0].0), self.owner(self.steps[s].writes[0]));
            let same_type = self.items.get(from).len() == self.items.get(to).len();
            let shapes = (self.fixed.get(&from).cloned(), self.fixed.get(&to).cloned());
            let fits = same_type && (shapes.0.is_none() || shapes.1.is_none() || shapes.0 == shapes.1);
            if from == to || last_touch[from.index()] != s || !fits || self.is_output(from) {
                continue;
            }
            match self.items.get(from).what {
                What::Empty | What::Splat(_) | What::Position => continue,
                What::Leaf => {
                    // The buffer starts as the donated input; `donations` settles its place.
                    *kept = !self.starts_as_input(s, from, to, donate);
                }
                What::Map(_) | What::Reduce(_) | What::Join | What::Dot(_) | What::Lib(_) => {
                    *kept = false;
                    self.same[from.index()] = to;
                    if let Some(ty) = shapes.0 {
                        self.fixed.insert(to, ty);
                    }
                    last_touch[to.index()] = last_touch[to.index()].max(s);
                }
            }
        }
        let mut keep = keep.into_iter();
        self.steps.retain(|_| keep.next().unwrap_or(true));
    }

    /// True when `to` may live in the memory of input `from`, which step `s` is the last to touch.
    fn starts_as_input(&self, s: usize, from: ItemId, to: ItemId, donate: &[(usize, usize)]) -> bool {
        let Some(input) = self.input_of(from) else { return false };
        let ty = &self.items.get(from).ty;
        let to_output = |o: usize| self.items.outputs.get(o).is_some_and(|(id, t)| self.owner(*id) == to && t == ty);
        let pair = donate.iter().find(|d| to_output(d.1));
        let written_later = self.steps[s + 1..].iter().any(|st| st.writes.iter().any(|&w| self.owner(w) == to));
        let fails_later = || self.last_refusing().is_some_and(|last| last > s);
        pair.is_some_and(|d| d.0 == input) && written_later && !fails_later()
    }

    /// The last step that may refuse an index.
    fn last_refusing(&self) -> Option<usize> {
        let refuses = crate::schedule::may_refuse(self.graph, &self.items, &self.steps, &|id| self.owner(id));
        refuses.iter().rposition(|&r| r)
    }

    fn lives(&mut self) {
        for s in 0..self.steps.len() {
            let step = &self.steps[s];
            let touched: Vec<(ItemId, bool)> =
                step.reads.iter().map(|&r| (r, false)).chain(step.writes.iter().map(|&w| (w, true))).collect();
            for (id, write) in touched {
                let owner = self.owner(id);
                match &mut self.lives[owner.index()] {
                    Some(life) => life.last = s,
                    empty if write => *empty = Some(Life { first_write: s, last: s }),
                    _ => {}
                }
            }
        }
    }

    /// Operands of a product live until the kernels behind it have run: these may run on its first rows while the
    /// last ones are still to come, so nothing of theirs may take the memory of an operand.
    fn lives_of_operands(&mut self) {
        for s in 0..self.steps.len() {
            let Work::Dot(_, operands) = &self.steps[s].work else { continue };
            let mut made = self.steps[s].writes.clone();
            let mut last = s;
            for step in self.steps[s + 1..].iter().take(MAX_BEHIND) {
                let reads = step.reads.iter().any(|r| made.contains(r));
                if !reads || !matches!(step.work, Work::Kernel(..)) {
                    break;
                }
                made.extend(&step.writes);
                last += 1;
            }
            for id in *operands {
                let owner = self.owner(id);
                if let Some(life) = &mut self.lives[owner.index()] {
                    life.last = life.last.max(last);
                }
            }
        }
    }

    /// Gives outputs the memory of donated inputs where every read of the input comes before the output's
    /// first write, or in the same kernel at the same element, and no later step may refuse the run.
    fn donations(&mut self, donate: &[(usize, usize)]) {
        let last_failing = self.last_refusing();
        let mut last_read = vec![None; self.items.all.len()];
        for (s, step) in self.steps.iter().enumerate() {
            for &r in &step.reads {
                last_read[r.index()] = Some(s);
            }
        }
        for &(input, output) in donate {
            let Some((item, ty)) = self.items.outputs.get(output) else { continue };
            let owner = self.owner(*item);
            let Some(Some(life)) = self.lives.get(owner.index()) else { continue };
            let first = life.first_write;
            let leaf = self.items.inputs.get(input).copied().flatten();
            let fits = self.places[owner.index()].is_none()
                && self.items.get(owner).ty.nbytes() == ty.nbytes()
                && self.graph.inputs().get(input).is_some_and(|&i| self.graph.ty(i) == ty)
                && self.fixed.get(&owner).is_none_or(|t| t == ty)
                && last_failing.is_none_or(|f| f <= first)
                && leaf.is_none_or(|leaf| !self.is_output(leaf));
            let reads_end = match leaf.and_then(|leaf| last_read[leaf.index()].map(|r| (leaf, r))) {
                None => true,
                Some((_, read)) if read < first => true,
                Some((leaf, read)) => {
                    read == first && self.written_whole(owner, first) && self.overwrites(first, leaf, owner)
                }
            };
            if fits && reads_end {
                self.places[owner.index()] = Some(Place::Donated(input as u32));
            }
        }
    }

    /// True when one step writes the buffer.
    fn written_whole(&self, owner: ItemId, step: usize) -> bool {
        self.steps.iter().enumerate().all(|(s, st)| s == step || st.writes.iter().all(|&w| self.owner(w) != owner))
    }

    /// True when a step may write `to`'s buffer over `from`'s. Both are named as the step names them.
    fn overwrites(&self, step: usize, from: ItemId, to: ItemId) -> bool {
        let st = &self.steps[step];
        let named = |owner: ItemId, list: &[ItemId]| {
            let mut names: Vec<ItemId> = list.iter().copied().filter(|&i| self.owner(i) == owner).collect();
            names.dedup();
            if let [one] = names[..] { Some(one) } else { None }
        };
        match (named(self.owner(from), &st.reads), named(self.owner(to), &st.writes)) {
            (Some(f), Some(t)) => inplace::may_overwrite(st, f, t),
            _ => false,
        }
    }

    /// Outputs get memory of their own, handed to the caller, unless their buffer must be seen in another
    /// shape too: then they are copied out of it.
    fn output_places(&mut self) {
        let mut claimed: HashMap<ItemId, Type> = HashMap::new();
        for o in 0..self.items.outputs.len() {
            let (item, ty) = self.items.outputs[o].clone();
            let owner = self.owner(item);
            if self.lives[owner.index()].is_none() {
                continue;
            }
            let other_shape = self.fixed.get(&owner).is_some_and(|t| *t != ty);
            let taken = claimed.get(&owner).is_some_and(|t| *t != ty);
            let donated = matches!(self.places[owner.index()], Some(Place::Donated(_)));
            if donated {
                continue;
            }
            if other_shape || taken {
                self.copied[o] = true;
            } else {
                claimed.insert(owner, ty);
                self.places[owner.index()] = Some(Place::Output);
            }
        }
        // A copied output is read at the end.
        for o in 0..self.copied.len() {
            let owner = self.owner(self.items.outputs[o].0);
            if self.copied[o]
                && let Some(life) = &mut self.lives[owner.index()]
            {
                life.last = self.steps.len();
            }
        }
    }

    /// Lays out the arena.
    fn layout(&mut self) -> Result<()> {
        let mut arena = Arena::default();
        // Buffers to free after each step.
        let mut ends: Vec<Vec<ItemId>> = vec![Vec::new(); self.steps.len() + 1];
        let mut starts: Vec<Vec<ItemId>> = vec![Vec::new(); self.steps.len()];
        for id in self.items.ids() {
            if let (Some(life), None) = (self.lives[id.index()], &self.places[id.index()]) {
                starts[life.first_write].push(id);
                ends[life.last].push(id);
            }
        }
        let bytes = |items: &Items, id: ItemId| items.get(id).ty.nbytes();
        for s in 0..self.steps.len() {
            for &id in &starts[s] {
                let size = bytes(&self.items, id);
                let over = ends[s].iter().position(|&d| {
                    d != id && bytes(&self.items, d) == size && self.started(d, s) && self.overwrites(s, d, id)
                });
                let offset = match over {
                    Some(at) => {
                        let dead = ends[s].swap_remove(at);
                        self.offset(dead)?
                    }
                    None => arena.take(size),
                };
                self.places[id.index()] = Some(Place::Arena { offset });
            }
            for &id in &ends[s] {
                arena.give(self.offset(id)?, bytes(&self.items, id));
            }
        }
        self.arena_bytes = arena.bytes();
        Ok(())
    }

    fn started(&self, id: ItemId, step: usize) -> bool {
        self.lives[id.index()].is_some_and(|l| l.first_write < step)
    }

    fn offset(&self, id: ItemId) -> Result<usize> {
        match self.places[id.index()] {
            Some(Place::Arena { offset }) => Ok(offset),
            _ => Err(Error::internal("a buffer has no place in the arena")),
        }
    }

    /// Buffers, steps and figures.
    fn finish(mut self) -> Result<Program> {
        let mut out = Finish::default();
        let mut steps = Vec::with_capacity(self.steps.len());
        let main = self.main_types();
        for step in std::mem::take(&mut self.steps) {
            let op = match step.work {
                Work::Kernel(kernel, args) => {
                    let args = args.iter().map(|&a| self.decl(&mut out, a, &main)).collect::<Result<_>>()?;
                    StepOp::Kernel { kernel, args }
                }
                Work::Dot(spec, [lhs, rhs]) => {
                    let (l, r) = (self.decl(&mut out, lhs, &main)?, self.decl(&mut out, rhs, &main)?);
                    let to = self.decl(&mut out, step.writes[0], &main)?;
                    StepOp::Dot(dot_step(&spec, l, r, to))
                }
                Work::Lib(call, args) => {
                    let loose = call.any_shape();
                    let arg = |out: &mut Finish, (a, ty): &(ItemId, Type)| {
                        let computed = !matches!(self.items.get(self.owner(*a)).what, What::Leaf | What::Empty);
                        if loose && computed { self.decl(out, *a, &main) } else { self.decl_as(out, *a, ty) }
                    };
                    let args = args.iter().map(|a| arg(&mut out, a)).collect::<Result<_>>()?;
                    let to = self.decl(&mut out, step.writes[0], &main)?;
                    StepOp::Lib { call, args, out: to }
                }
            };
            steps.push(program::Step { op, ops: step.ops, loc: step.loc });
        }
        let mut outputs = Vec::new();
        for (o, (item, ty)) in self.items.outputs.iter().enumerate() {
            if self.copied[o] {
                let from = self.decl(&mut out, *item, &main)?;
                let to = out.push(BufDecl { ty: ty.clone(), place: Place::Output });
                let step = StepOp::Lib { call: LibCall::Copy, args: vec![from], out: to };
                steps.push(program::Step { op: step, ops: vec!["reshape"], loc: None });
                outputs.push(to);
            } else if ty.numel() == 0 && self.input_of(self.owner(*item)).is_none() {
                outputs.push(out.push(BufDecl { ty: ty.clone(), place: Place::Output }));
            } else {
                outputs.push(self.decl_as(&mut out, *item, ty)?);
            }
        }
        let mut program = Program {
            buffers: out.buffers,
            steps,
            inputs: self.graph.input_types(),
            outputs,
            arena_bytes: self.arena_bytes,
            peak_bytes: 0,
            stats: self.stats,
        };
        program.peak_bytes = crate::stats::peak(&program);
        crate::stats::fill(&mut program);
        Ok(program)
    }

    /// The type under which kernels see each buffer: the output's where the buffer is an output.
    fn main_types(&self) -> HashMap<ItemId, Type> {
        let mut main: HashMap<ItemId, Type> = HashMap::new();
        for (id, ty) in &self.fixed {
            main.insert(self.owner(*id), ty.clone());
        }
        for (o, (item, ty)) in self.items.outputs.iter().enumerate() {
            if !self.copied[o] {
                main.entry(self.owner(*item)).or_insert_with(|| ty.clone());
            }
        }
        main
    }

    fn decl(&self, out: &mut Finish, id: ItemId, main: &HashMap<ItemId, Type>) -> Result<BufId> {
        let owner = self.owner(id);
        let ty = main.get(&owner).unwrap_or(&self.items.get(owner).ty).clone();
        self.decl_as(out, id, &ty)
    }

    fn decl_as(&self, out: &mut Finish, id: ItemId, ty: &Type) -> Result<BufId> {
        let owner = self.owner(id);
        if let Some(&known) = out.known.get(&(owner, ty.clone())) {
            return Ok(known);
        }
        let item = self.items.get(owner);
        let place = match (&self.places[owner.index()], &item.what) {
            (Some(place), _) => place.clone(),
            (None, What::Empty) => Place::Const(Arc::from([])),
            (None, What::Leaf) => {
                let node = self.graph.node(item.node);
                match node.op.kind {
                    Kind::Input => Place::Input(node.attrs.int(0) as u32),
                    _ => Place::Const(node.attrs.bytes(0).clone()),
                }
            }
            (None, _) => return Err(Error::internal(format!("%{} has no place in memory", item.node.0))),
        };
        if ty.nbytes() != if item.what == What::Empty { 0 } else { item.ty.nbytes() } {
            return Err(Error::internal(format!("a buffer of type {} is seen as {ty}", item.ty)));
        }
        let buf = out.push(BufDecl { ty: ty.clone(), place });
        out.known.insert((owner, ty.clone()), buf);
        Ok(buf)
    }
}

#[derive(Default)]
struct Finish {
    buffers: Vec<BufDecl>,
    known: HashMap<(ItemId, Type), BufId>,
}

impl Finish {
    fn push(&mut self, decl: BufDecl) -> BufId {
        self.buffers.push(decl);
        BufId(self.buffers.len() as u32 - 1)
    }
}

fn dot_step(spec: &crate::fuse::dot::DotSpec, lhs: BufId, rhs: BufId, out: BufId) -> DotStep {
    let (l, r) = (&spec.lhs, &spec.rhs);
    DotStep {
        batch: spec.batch.clone(),
        m: spec.m,
        n: spec.n,
        k: spec.k,
        lhs: DotOperand {
            buf: lhs,
            offset: l.offset,
            batch_strides: l.batch.clone(),
            rows: l.free.clone(),
            cols: l.contract.clone(),
        },
        rhs: DotOperand {
            buf: rhs,
            offset: r.offset,
            batch_strides: r.batch.clone(),
            rows: r.contract.clone(),
            cols: r.free.clone(),
        },
        out,
    }
}
