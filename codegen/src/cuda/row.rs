//! Row kernels: which threads share a row, what of it is kept between stages, and when few long rows are cut into
//! parts with a launch for each stage.

use super::access::{Sharing, Width};
use super::generate::{Gen, Source, buffer};
use super::group::{Fold, Group};
use super::row_code::Code;
use crate::cpu::normal::{VectorAxis, affines, normalise};
use std::collections::HashMap;
use torsh_ir::kernel::{Affine, Domain, Inst, Kernel, Store, Value, ValueId};
use torsh_ir::program::BufId;
use torsh_ir::{DType, Error, Result};

/// Where values of a row that later stages use stay.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    /// In registers: loops over a row are unrolled.
    Registers,
    /// In dynamic shared memory, each thread its own.
    Shared,
    /// Nowhere: they are computed again.
    Again,
}

/// Most 32-bit registers of kept values (half as many in blocks of 1,024 threads), and instructions of unrolled loops.
const KEPT_WORDS: usize = 32;
const UNROLLED: usize = 1200;
/// Shared memory that kept values may take of a block.
const KEPT_BYTES: usize = 96 << 10;
/// Rows at least so long are cut where there are few.
const CUT: usize = 16_384;
/// Points of a part, at least.
const PART: usize = 4096;

/// What each stage of a row kernel computes and stores, given what is kept.
pub(super) struct Plan {
    /// Values of full stages that later full stages read from where they were kept.
    pub kept: Vec<ValueId>,
    /// Values to compute in each full stage, in order; kept ones of earlier stages are among them.
    pub order: Vec<Vec<ValueId>>,
    /// Stores of each full stage.
    pub stores: Vec<Vec<Store>>,
    /// The stage that defines each value.
    pub stage: Vec<usize>,
}

impl Plan {
    /// With `keep`, values that are dear to compute again are kept.
    pub fn new(k: &Kernel, sharing: &Sharing, keep: bool) -> Result<Plan> {
        let n = k.values.len();
        let (mut stage, mut full) = (vec![0; n], vec![false; n]);
        for (s, st) in k.stages.iter().enumerate() {
            for &v in &st.insts {
                stage[v.0 as usize] = s;
                full[v.0 as usize] = st.domain == Domain::Full && !matches!(k.value(v).inst, Inst::Const(_));
            }
        }
        let mut stores: Vec<Vec<Store>> = k.stages.iter().map(|s| s.stores.clone()).collect();
        loop {
            let plan = Plan::with_stores(k, keep, &stage, &full, stores)?;
            let Some((from, i, to)) = plan.too_early(k, sharing) else { return Ok(plan) };
            stores = plan.stores;
            let store = stores[from].remove(i);
            stores[to].push(store);
        }
    }

    fn with_stores(k: &Kernel, keep: bool, stage: &[usize], full: &[bool], stores: Vec<Vec<Store>>) -> Result<Plan> {
        let grid = k.grid.len();
        // Cheap to load again: the same for all rows, or for a whole row.
        let cheap = |v: ValueId| match &k.value(v).inst {
            Inst::Load { index, .. } => {
                index.strides[..grid].iter().all(|&s| s == 0) || index.strides[grid..].iter().all(|&s| s == 0)
            }
            Inst::Index(_) | Inst::Const(_) => true,
            Inst::Op(..) | Inst::Reduced => false,
        };
        let mut plan = Plan { kept: Vec::new(), order: Vec::new(), stores, stage: stage.to_vec() };
        let mut kept = vec![false; k.values.len()];
        if keep {
            for (s, st) in k.stages.iter().enumerate().filter(|(_, st)| st.domain == Domain::Full) {
                let mut uses: Vec<ValueId> = st.reduces.iter().map(|r| r.value).collect();
                uses.extend(plan.stores[s].iter().map(|x| x.value));
                for &v in &st.insts {
                    if let Inst::Op(_, args) = &k.value(v).inst {
                        uses.extend(args.iter().copied());
                    }
                }
                for v in uses {
                    let i = v.0 as usize;
                    if full[i] && stage[i] < s && !kept[i] && !cheap(v) {
                        kept[i] = true;
                        plan.kept.push(v);
                    }
                }
            }
        }
        for (s, st) in k.stages.iter().enumerate() {
            let mut order = Vec::new();
            if st.domain == Domain::Full {
                let mut seen = vec![false; k.values.len()];
                let mut roots: Vec<ValueId> = st.reduces.iter().map(|r| r.value).collect();
                roots.extend(plan.stores[s].iter().map(|x| x.value));
                roots.extend(plan.kept.iter().copied().filter(|v| stage[v.0 as usize] == s));
                for v in roots {
                    visit(k, v, &|v| kept[v.0 as usize] && stage[v.0 as usize] < s, full, &mut seen, &mut order)?;
                }
            }
            plan.order.push(order);
        }
        Ok(plan)
    }

    /// 32-bit registers of the kept values of a point that are wanted at once.
    fn most_words(&self, k: &Kernel) -> usize {
        let last = |v: ValueId| (0..self.order.len()).rev().find(|&s| self.order[s].contains(&v)).unwrap_or(0);
        let spans: Vec<(usize, usize, usize)> = self
            .kept
            .iter()
            .map(|&v| (self.stage[v.0 as usize], last(v), k.value(v).dtype.size().div_ceil(4)))
            .collect();
        let at = |s: usize| spans.iter().filter(|(from, to, _)| *from <= s && s < *to).map(|(_, _, words)| words).sum();
        (0..self.order.len()).map(at).max().unwrap_or(0)
    }

    /// A store of a full stage that changes what a later one loads: its stage, its number, and the stage to move it to.
    fn too_early(&self, k: &Kernel, sharing: &Sharing) -> Option<(usize, usize, usize)> {
        for (s, stores) in self.stores.iter().enumerate().filter(|(s, _)| k.stages[*s].domain == Domain::Full) {
            for (i, store) in stores.iter().enumerate() {
                let later = (s + 1..k.stages.len()).rev().find(|&t| {
                    self.order[t].iter().any(|&v| match &k.value(v).inst {
                        Inst::Load { param, .. } => {
                            !(self.kept.contains(&v) && self.stage[v.0 as usize] < t)
                                && sharing.overlap(store.param, *param)
                        }
                        Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => false,
                    })
                });
                if let Some(t) = later {
                    return Some((s, i, t));
                }
            }
        }
        None
    }
}

/// The same kernel, where equal values of full stages are one: later stages then use what earlier ones have loaded and
/// computed. Nothing is loaded after it was stored, so equal loads are equal numbers.
fn merged(kernel: &Kernel) -> Kernel {
    let mut k = kernel.clone();
    let mut canon: Vec<ValueId> = (0..k.values.len() as u32).map(ValueId).collect();
    let mut known: HashMap<Value, ValueId> = HashMap::new();
    for s in 0..k.stages.len() {
        for i in 0..k.stages[s].insts.len() {
            let v = k.stages[s].insts[i];
            if let Inst::Op(_, args) = &mut k.values[v.0 as usize].inst {
                args.iter_mut().for_each(|a| *a = canon[a.0 as usize]);
            }
            // Constants are row values wherever they stand.
            let value = k.value(v);
            if k.stages[s].domain == Domain::Full || matches!(value.inst, Inst::Const(_)) {
                canon[v.0 as usize] = *known.entry(value.clone()).or_insert(v);
            }
        }
        let stage = &mut k.stages[s];
        stage.reduces.iter_mut().for_each(|r| r.value = canon[r.value.0 as usize]);
        stage.stores.iter_mut().for_each(|x| x.value = canon[x.value.0 as usize]);
    }
    k
}

/// Appends `v` and what it needs, operands first.
fn visit(
    k: &Kernel,
    v: ValueId,
    is_kept: &dyn Fn(ValueId) -> bool,
    full: &[bool],
    seen: &mut [bool],
    order: &mut Vec<ValueId>,
) -> Result<()> {
    // Operands before the value, without recursion: fused chains are long.
    let mut stack = vec![(v, false)];
    while let Some((v, done)) = stack.pop() {
        let i = v.0 as usize;
        if done {
            order.push(v);
            continue;
        }
        if !full[i] || seen[i] {
            continue;
        }
        seen[i] = true;
        stack.push((v, true));
        if let (Inst::Op(_, args), false) = (&k.value(v).inst, is_kept(v)) {
            stack.extend(args.iter().map(|&a| (a, false)));
        }
    }
    Ok(())
}

/// How a row kernel is launched.
#[derive(Clone)]
pub(super) struct Schedule {
    pub group: Group,
    /// Elements of a vector along the last inner axis.
    pub vector: usize,
    pub keep: Keep,
    /// Parts of a row, and the full stage that this launch computes; all in one launch without.
    pub cut: Option<Cut>,
    /// 64-bit positions where 32 would do.
    pub wide: bool,
}

/// A launch for one stage of rows that are cut into parts.
#[derive(Copy, Clone)]
pub(super) struct Cut {
    /// Parts of a row.
    pub parts: usize,
    /// The full stage that this launch computes, the number of stages for the rest.
    pub stage: usize,
}

/// Vectors along the last inner axis: 16 bytes of the widest dtype loaded or stored along it.
fn vector_length(k: &Kernel) -> usize {
    let axis = k.grid.len() + k.inner.len() - 1;
    let extent = k.inner[k.inner.len() - 1];
    let maps = || {
        let loads = k.values.iter().filter_map(|v| match &v.inst {
            Inst::Load { param, index } => Some((k.params[*param as usize].dtype, index)),
            Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => None,
        });
        let stores = k.stages.iter().flat_map(|s| &s.stores);
        loads.chain(stores.map(|s| (k.params[s.param as usize].dtype, &s.index)))
    };
    let along: Vec<(DType, &Affine)> = maps().filter(|(_, m)| m.strides[axis] != 0).collect();
    let Some(widest) = along.iter().filter(|(_, m)| m.strides[axis] == 1).map(|(d, _)| d.size()).max() else {
        return 1;
    };
    let mut n = 16 / widest;
    while n > 1 {
        let good = along.iter().filter(|(_, m)| is_vector(k, m, n)).count();
        if extent.is_multiple_of(n) && 2 * good > along.len() {
            return n;
        }
        n /= 2;
    }
    1
}

/// True when `n` elements along the last inner axis lie side by side and aligned.
pub(super) fn is_vector(k: &Kernel, map: &Affine, n: usize) -> bool {
    let axis = k.grid.len() + k.inner.len() - 1;
    let extents = || k.grid.iter().chain(&k.inner);
    let n = n as i64;
    map.strides[axis] == 1
        && map.offset % n == 0
        && extents().zip(&map.strides).take(axis).all(|(&e, &s)| e == 1 || s % n == 0)
}

fn group_for(k: &Kernel, axis: VectorAxis, vector: usize, processors: usize) -> Group {
    let (rows, len) = (k.rows(), k.row_len());
    if axis == VectorAxis::Grid {
        let slots = rows.div_ceil(32);
        return match len / 4 {
            _ if slots >= processors * 64 || len < 8 => Group::Warp { lanes: 1, threads: 128 },
            n => Group::Column { lanes: n.next_power_of_two().clamp(1, if slots >= processors * 2 { 8 } else { 32 }) },
        };
    }
    let vectors = len.div_ceil(vector).max(1);
    let few = rows < 4 * processors;
    if len <= 1024 && !(few && vectors >= 128) {
        return Group::Warp { lanes: vectors.next_power_of_two().min(32), threads: 128 };
    }
    let threads = (vectors / if few { 1 } else { 4 }).next_power_of_two().clamp(64, if few { 1024 } else { 512 });
    Group::Block { threads }
}

/// The form that fits, and the source of each launch.
pub(super) fn step(g: &mut Gen<'_>, kernel: &Kernel, sharing: &Sharing, args: &[BufId]) -> Result<()> {
    let normal = normalise(kernel, false);
    let k = &merged(&normal.kernel);
    if k.rows() == 0 {
        return Ok(());
    }
    let processors = g.options.processors as usize;
    let vector = if normal.axis == VectorAxis::Grid { 1 } else { vector_length(k) };
    let group = group_for(k, normal.axis, vector, processors);
    let blocks = k.rows().div_ceil(group.rows());
    let parts = (2 * processors).div_ceil(blocks.max(1)).min(k.row_len() / PART);
    if k.row_len() >= CUT && blocks < processors / 2 && parts > 1 {
        return cut(g, kernel, k, sharing, args, (group, vector, parts, normal.axis));
    }
    let steps = k.row_len().div_ceil(group.lanes() * vector);
    let plan = Plan::new(k, sharing, true)?;
    let insts: usize = plan.order.iter().map(Vec::len).sum();
    let words = plan.most_words(k);
    let bytes: usize = kept_bytes(k, &plan, steps, vector, group).iter().sum();
    let fixed = shared_of(k, group, k.stages.len());
    let crowded = group.block().iter().product::<u32>() > 512;
    let most = if crowded { KEPT_WORDS / 2 } else { KEPT_WORDS };
    let keep = if plan.kept.is_empty() || steps * vector * words <= most && steps * vector * insts <= UNROLLED {
        Keep::Registers
    } else if bytes + fixed <= KEPT_BYTES.min(g.options.shared_bytes as usize) {
        Keep::Shared
    } else {
        Keep::Again
    };
    let schedule = Schedule { group, vector, keep, cut: None, wide: g.options.wide };
    let dynamic = if keep == Keep::Shared { bytes } else { 0 };
    let source = source(kernel, k, sharing, &schedule, "")?;
    g.launch(source, [blocks as u64, 1, 1], dynamic as u32, args.iter().map(|&b| buffer(b)).collect())
}

/// Bytes of shared memory of each kept value.
pub(super) fn kept_bytes(k: &Kernel, plan: &Plan, steps: usize, vector: usize, group: Group) -> Vec<usize> {
    let points = steps * vector * group.lanes() * group.rows();
    plan.kept.iter().map(|&v| (points * k.value(v).dtype.size()).next_multiple_of(16)).collect()
}

/// Shared memory of the reductions of the first so many stages.
fn shared_of(k: &Kernel, group: Group, stages: usize) -> usize {
    let reduces = k.stages.iter().take(stages).flat_map(|s| &s.reduces);
    reduces.map(|r| group.shared(&Fold::new(r.op, k.value(r.value).dtype, String::new()))).sum()
}

fn source(kernel: &Kernel, k: &Kernel, sharing: &Sharing, schedule: &Schedule, suffix: &str) -> Result<Source> {
    let extents: Vec<usize> = k.grid.iter().chain(&k.inner).copied().collect();
    let parts = schedule.cut.map_or(1, |c| c.parts);
    let slack = 2 * (1024 * schedule.vector).max(64) * parts;
    let width = Width::of(&extents, slack, affines(k), schedule.wide);
    let plan = Plan::new(k, sharing, schedule.keep != Keep::Again)?;
    let code = Code { k, sharing, schedule, plan: &plan, width };
    let stages = schedule.cut.map_or(k.stages.len(), |c| c.stage + 1);
    Ok(Source {
        stem: format!("{}{suffix}", kernel.name),
        params: code.parameters(),
        body: code.body()?,
        block: schedule.group.block(),
        static_shared: shared_of(k, schedule.group, stages) as u32,
        ..Source::default()
    })
}

/// Few long rows: a launch for each full stage, whose blocks begin by combining what the parts of earlier ones left.
fn cut(
    g: &mut Gen<'_>,
    kernel: &Kernel,
    k: &Kernel,
    sharing: &Sharing,
    args: &[BufId],
    (group, vector, parts, axis): (Group, usize, usize, VectorAxis),
) -> Result<()> {
    let group = match (axis, group) {
        (VectorAxis::Grid, Group::Column { .. }) => Group::Column { lanes: 16 },
        (VectorAxis::Grid, other) => other,
        (VectorAxis::Inner, _) => Group::Block { threads: 256 },
    };
    let blocks = k.rows().div_ceil(group.rows()) as u64;
    let mut all: Vec<_> = args.iter().map(|&b| buffer(b)).collect();
    for r in k.stages.iter().flat_map(|s| &s.reduces) {
        let fold = Fold::new(r.op, k.value(r.value).dtype, String::new());
        let places = k.rows().checked_mul(parts).and_then(|n| n.checked_mul(8 * fold.places()));
        all.push(g.scratch(places.ok_or_else(|| Error::limit("scratch memory beyond the address space"))?)?);
    }
    let full = |s: &usize| k.stages[*s].domain == Domain::Full;
    let plan = Plan::new(k, sharing, false)?;
    for stage in (0..k.stages.len()).filter(full) {
        if k.stages[stage].reduces.is_empty() && plan.stores[stage].is_empty() {
            continue;
        }
        let schedule =
            Schedule { group, vector, keep: Keep::Again, cut: Some(Cut { parts, stage }), wide: g.options.wide };
        let source = source(kernel, k, sharing, &schedule, &format!("_part{stage}"))?;
        g.launch(source, [blocks * parts as u64, 1, 1], 0, all.clone())?;
    }
    if k.stages.iter().any(|s| s.domain == Domain::Row && !s.stores.is_empty()) {
        let rest = Cut { parts, stage: k.stages.len() };
        let schedule = Schedule { group, vector, keep: Keep::Again, cut: Some(rest), wide: g.options.wide };
        let source = source(kernel, k, sharing, &schedule, "_rest")?;
        g.launch(source, [blocks, 1, 1], 0, all)?;
    }
    Ok(())
}
