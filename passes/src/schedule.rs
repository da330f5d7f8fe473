//! The order of steps.
//!
//! Needs: steps in dependency order. Leaves: a dependency order that keeps memory low: the program's own or,
//! where it peaks lower, one that always takes the step that adds least. So that outputs can take the memory
//! of donated inputs, the readers of such an input come before the writers of its output, and every step
//! that may refuse an index ([`torsh_ir::checks`]) comes before them too; a pair for which that is impossible is left alone
//! (the memory plan then gives the output memory of its own). Likewise a copy that begins a buffer waits for the
//! other readers of its source, so that both can be one buffer. Kernels that walk the rows of a product come
//! right behind it, so that the runtime can run them on rows that are still in cache.

use crate::fuse::items::{ItemId, Items, What};
use crate::lower::{self, Lowered, Step, Work};
use std::collections::{BTreeSet, HashMap, HashSet};
use torsh_ir::checks::{self, Checks};
use torsh_ir::dtype::DType;
use torsh_ir::error::Result;
use torsh_ir::graph::Graph;
use torsh_ir::kernel::{Inst, Value};
use torsh_ir::program::LibCall;
use torsh_ir::shape::Type;

/// Programs of more steps keep their own order: the search for a better one is quadratic.
const MAX_GREEDY: usize = 4000;
/// Steps that one search for a path may enter.
const SEARCH: usize = 4096;

/// Orders the steps. `donate` lists (input, output) pairs whose memory may be shared.
pub fn run(graph: &Graph, mut lowered: Lowered, donate: &[(usize, usize)]) -> Result<Lowered> {
    let mut dag = Dag::new(graph, &lowered.items, &lowered.steps);
    dag.order_donations(donate);
    dag.order_copies();
    let own = dag.program_order();
    let order = if lowered.steps.len() <= MAX_GREEDY {
        let greedy = dag.greedy_order();
        if dag.peak(&greedy) < dag.peak(&own) { greedy } else { own }
    } else {
        own
    };
    let mut steps: Vec<Option<Step>> = std::mem::take(&mut lowered.steps).into_iter().map(Some).collect();
    lowered.steps = order.into_iter().filter_map(|s| steps.get_mut(s).and_then(Option::take)).collect();
    Ok(lowered)
}

/// Which steps may refuse an index, given that earlier steps of the list have run: see [`torsh_ir::checks`]. `owner` gives
/// the item whose buffer an item is in.
pub fn may_refuse(graph: &Graph, items: &Items, steps: &[Step], owner: &dyn Fn(ItemId) -> ItemId) -> Vec<bool> {
    let mut checks = Checks::default();
    let is_checked = |step: &Step| match &step.work {
        Work::Lib(call, args) => args.first().is_some_and(|(_, ty)| checks::accepted(call, ty).is_some()),
        Work::Kernel(..) | Work::Dot(..) => false,
    };
    let mut refuses = vec![false; steps.len()];
    let Some(last) = steps.iter().rposition(is_checked) else { return refuses };
    for id in items.ids().filter(|&id| items.get(id).ty.dtype == DType::I64) {
        if let Some(data) = lower::constant(graph, items.get(id)) {
            checks.constant(id, data);
        }
    }
    for (step, refuses) in steps[..=last].iter().zip(&mut refuses) {
        match &step.work {
            Work::Kernel(kernel, args) => checks.kernel(kernel, &args.iter().map(|&a| owner(a)).collect::<Vec<_>>()),
            Work::Dot(..) => step.writes.iter().for_each(|&out| checks.forget(owner(out))),
            Work::Lib(call, args) => {
                let args: Vec<(ItemId, &Type)> = args.iter().map(|(a, ty)| (owner(*a), ty)).collect();
                if let Some(&out) = step.writes.first() {
                    *refuses = checks.call(call, &args, (owner(out), &items.get(out).ty));
                }
            }
        }
    }
    refuses
}

struct Dag<'a> {
    graph: &'a Graph,
    items: &'a Items,
    steps: &'a [Step],
    preds: Vec<Vec<usize>>,
    succs: Vec<Vec<usize>>,
    /// The step that makes an item.
    maker: HashMap<ItemId, usize>,
    /// Steps that read an item's buffer.
    readers: HashMap<ItemId, Vec<usize>>,
    outputs: HashSet<ItemId>,
    /// Of each product, the kernels that walk its rows.
    followers: Vec<Vec<usize>>,
}

impl<'a> Dag<'a> {
    fn new(graph: &'a Graph, items: &'a Items, steps: &'a [Step]) -> Dag<'a> {
        let mut maker = HashMap::new();
        let mut readers: HashMap<ItemId, Vec<usize>> = HashMap::new();
        for (s, step) in steps.iter().enumerate() {
            maker.extend(step.makes.iter().map(|&m| (m, s)));
            for &r in &step.reads {
                readers.entry(r).or_default().push(s);
            }
        }
        let outputs = items.outputs.iter().map(|(o, _)| lower::home(items, *o)).collect();
        let n = steps.len();
        let mut dag = Dag {
            graph,
            items,
            steps,
            preds: vec![Vec::new(); n + 1],
            succs: vec![Vec::new(); n + 1],
            maker,
            readers,
            outputs,
            followers: vec![Vec::new(); n + 1],
        };
        for (s, step) in steps.iter().enumerate() {
            for &r in &step.reads {
                for w in dag.writers(r) {
                    dag.edge(w, s);
                }
            }
            for after in step.makes.iter().filter_map(|&m| items.get(m).dest.as_ref().and_then(|d| d.after)) {
                if let Some(&w) = dag.maker.get(&after) {
                    dag.edge(w, s);
                }
            }
        }
        for s in (0..n).filter(|&s| matches!(steps[s].work, Work::Dot(..))) {
            dag.followers[s] = dag.succs[s].iter().copied().filter(|&t| dag.follows(t, s)).collect();
        }
        dag
    }

    /// Steps that write an item's buffer.
    fn writers(&self, id: ItemId) -> Vec<usize> {
        let item = self.items.get(id);
        match item.what {
            What::Join => item.uses.iter().filter_map(|u| self.maker.get(&u.item).copied()).collect(),
            _ => self.maker.get(&id).copied().into_iter().collect(),
        }
    }

    fn edge(&mut self, from: usize, to: usize) {
        if from != to && !self.preds[to].contains(&from) {
            self.preds[to].push(from);
            self.succs[from].push(to);
        }
    }

    /// Steps that come after any of `from`; `None` when there are too many to look at.
    fn after(&self, from: &[usize]) -> Option<HashSet<usize>> {
        let mut seen = HashSet::new();
        let mut stack = from.to_vec();
        while let Some(s) = stack.pop() {
            for &t in &self.succs[s] {
                if seen.insert(t) {
                    stack.push(t);
                }
            }
            if seen.len() > SEARCH {
                return None;
            }
        }
        Some(seen)
    }

    /// Puts `first` before every one of `then` unless that would be a circle.
    fn try_before(&mut self, first: &[usize], then: &[usize]) {
        let Some(after) = self.after(then) else { return };
        if first.iter().any(|f| after.contains(f) && !then.contains(f)) {
            return;
        }
        for &f in first.iter().filter(|f| !then.contains(f)) {
            for &t in then {
                self.edge(f, t);
            }
        }
    }

    fn order_donations(&mut self, donate: &[(usize, usize)]) {
        // One extra node stands for "all indices are checked".
        let gate = self.steps.len();
        let refusing = may_refuse(self.graph, self.items, self.steps, &|id| lower::home(self.items, id));
        for s in (0..gate).filter(|&s| refusing[s]) {
            self.edge(s, gate);
        }
        for &(input, output) in donate {
            let Some((out, _)) = self.items.outputs.get(output) else { continue };
            let writers = self.writers(lower::home(self.items, *out));
            let Some(after) = self.after(&writers) else { continue };
            let leaf = self.items.inputs.get(input).copied().flatten();
            let readers: Vec<usize> = leaf.and_then(|l| self.readers.get(&l)).cloned().unwrap_or_default();
            let late = |s: &usize| after.contains(s) && !writers.contains(s);
            if readers.iter().any(late) || after.contains(&gate) || writers.iter().any(|&w| refusing[w]) {
                // A writer may itself check an index: it does so before it writes.
                continue;
            }
            for &w in &writers {
                self.edge(gate, w);
            }
            self.try_before(&readers, &writers);
        }
    }

    fn order_copies(&mut self) {
        for s in 0..self.steps.len() {
            if let Work::Lib(LibCall::Copy, args) = &self.steps[s].work {
                let readers = self.readers.get(&args[0].0).cloned().unwrap_or_default();
                self.try_before(&readers, &[s]);
            }
        }
    }

    fn waiting(&self) -> Vec<usize> {
        self.preds.iter().map(Vec::len).collect()
    }

    /// True for kernels that walk the rows of the product that step `dot` computes: the runtime can run them on
    /// each panel of rows while it is in cache, if they come right behind it.
    fn follows(&self, step: usize, dot: usize) -> bool {
        let (Some(step), Some(dot)) = (self.steps.get(step), self.steps.get(dot)) else { return false };
        let (Work::Kernel(kernel, args), Work::Dot(spec, _)) = (&step.work, &dot.work) else { return false };
        let rows = spec.batch.iter().fold(spec.m, |n, &b| n.saturating_mul(b));
        let matches = kernel.is_map() || kernel.rows().is_multiple_of(rows.max(1));
        let along = |v: &Value| match &v.inst {
            Inst::Load { param, index } if args.get(*param as usize) == dot.makes.first() => {
                index.strides.last().is_none_or(|&s| s == 1)
            }
            _ => true,
        };
        matches && kernel.values.iter().all(along)
    }

    /// Operands first, and what follows a product right behind it; otherwise as the steps stand. A product whose
    /// followers wait for something else, such as the gradient of a weight that is still read, waits with them
    /// where anything else can run.
    fn program_order(&self) -> Vec<usize> {
        let mut waiting = self.waiting();
        let mut ready = BTreeSet::new();
        let mut deferred = BTreeSet::new();
        (0..waiting.len()).filter(|&s| waiting[s] == 0).for_each(|s| {
            if self.is_early(s, &waiting) {
                deferred.insert(s)
            } else {
                ready.insert(s)
            };
        });
        let mut order = Vec::with_capacity(self.steps.len());
        let mut behind = Behind::default();
        while let Some(s) = behind.next().or_else(|| ready.pop_first()).or_else(|| deferred.pop_first()) {
            order.push(s);
            behind.ran(self, s);
            for &t in &self.succs[s] {
                waiting[t] -= 1;
                if waiting[t] == 0 && !behind.takes(self, t) {
                    if self.is_early(t, &waiting) {
                        deferred.insert(t)
                    } else {
                        ready.insert(t)
                    };
                }
                for &p in self.preds[t].iter().filter(|_| waiting[t] == 1) {
                    if deferred.contains(&p) && !self.is_early(p, &waiting) {
                        deferred.remove(&p);
                        ready.insert(p);
                    }
                }
            }
        }
        order
    }

    /// True for a product whose followers cannot run right behind it yet.
    fn is_early(&self, step: usize, waiting: &[usize]) -> bool {
        self.followers[step].iter().any(|&t| waiting[t] > 1)
    }

    /// Bytes of an item's buffer when it is neither an input nor an output.
    fn bytes(&self, id: ItemId) -> i64 {
        let item = self.items.get(id);
        match item.what {
            What::Leaf | What::Empty => 0,
            _ if self.outputs.contains(&id) => 0,
            _ => i64::try_from(item.ty.nbytes()).unwrap_or(i64::MAX / 4),
        }
    }

    /// Operands first; of the steps that can run, the one after which least memory is held.
    fn greedy_order(&self) -> Vec<usize> {
        let mut waiting = self.waiting();
        let mut live = Live::new(self);
        let mut ready: Vec<usize> = (0..waiting.len()).filter(|&s| waiting[s] == 0).collect();
        let mut order = Vec::with_capacity(self.steps.len());
        let mut behind = Behind::default();
        loop {
            let s = match behind.next() {
                Some(s) => s,
                None if ready.is_empty() => break,
                None => {
                    let key = |&i: &usize| (self.is_early(ready[i], &waiting), live.change(self, ready[i]), ready[i]);
                    let best = (0..ready.len()).min_by_key(key).unwrap_or(0);
                    ready.swap_remove(best)
                }
            };
            order.push(s);
            behind.ran(self, s);
            live.run(self, s);
            for &t in &self.succs[s] {
                waiting[t] -= 1;
                if waiting[t] == 0 && !behind.takes(self, t) {
                    ready.push(t);
                }
            }
        }
        order
    }

    /// The most bytes held at once.
    fn peak(&self, order: &[usize]) -> i64 {
        let mut live = Live::new(self);
        order.iter().for_each(|&s| live.run(self, s));
        live.peak
    }
}

/// Kernels that come right behind a product.
#[derive(Default)]
struct Behind {
    /// The product whose rows are being worked on.
    dot: Option<usize>,
    ready: BTreeSet<usize>,
}

impl Behind {
    fn next(&mut self) -> Option<usize> {
        self.ready.pop_first()
    }

    /// Step `s` has been placed.
    fn ran(&mut self, dag: &Dag<'_>, s: usize) {
        let is_dot = dag.steps.get(s).is_some_and(|step| matches!(step.work, Work::Dot(..)));
        if is_dot {
            self.dot = Some(s);
        } else if self.dot.is_some_and(|dot| !dag.follows(s, dot)) {
            self.dot = None;
        }
    }

    /// Takes a step that can run and follows the product.
    fn takes(&mut self, dag: &Dag<'_>, t: usize) -> bool {
        let takes = self.dot.is_some_and(|dot| dag.follows(t, dot));
        if takes {
            self.ready.insert(t);
        }
        takes
    }
}

/// Buffers held while steps run.
struct Live {
    /// Reads to come, per item.
    reads: HashMap<ItemId, usize>,
    held: HashSet<ItemId>,
    now: i64,
    peak: i64,
}

impl Live {
    fn new(dag: &Dag<'_>) -> Live {
        let reads = dag.readers.iter().map(|(&r, steps)| (r, steps.len())).collect();
        Live { reads, held: HashSet::new(), now: 0, peak: 0 }
    }

    fn change(&self, dag: &Dag<'_>, s: usize) -> i64 {
        let Some(step) = dag.steps.get(s) else { return i64::MIN };
        let new = step.writes.iter().filter(|w| !self.held.contains(w)).map(|&w| dag.bytes(w));
        let old = step.reads.iter().filter(|r| self.reads.get(r) == Some(&1)).map(|&r| dag.bytes(r));
        new.fold(0, i64::saturating_add).saturating_sub(old.fold(0, i64::saturating_add))
    }

    fn run(&mut self, dag: &Dag<'_>, s: usize) {
        let Some(step) = dag.steps.get(s) else { return };
        for &w in &step.writes {
            if self.held.insert(w) {
                self.now = self.now.saturating_add(dag.bytes(w));
            }
        }
        self.peak = self.peak.max(self.now);
        for r in &step.reads {
            if let Some(left) = self.reads.get_mut(r) {
                *left -= 1;
                if *left == 0 && self.held.remove(r) {
                    self.now -= dag.bytes(*r);
                }
            }
        }
    }
}
