//! Random kernels: both schedules, every ISA level and one or two threads, against the interpreter.
//!
//! Operations are those whose results are exact (or rounded once), so that results are compared bit for
//! bit; sums of floats run over multiples of 1/8, where they are exact too. `TORSH_FUZZ_CASES` and
//! `TORSH_FUZZ_SEED` set how many kernels and where to begin.

mod common;

use common::{Make, Rng, affine, assert_same, inputs, program, run_on};
use std::collections::HashMap;
use torsh_codegen::cpu::Schedule;
use torsh_ir::DType;
use torsh_ir::env;
use torsh_ir::interp::run_program;
use torsh_ir::kernel::{Access, Domain, Inst, Kernel, Reduce, Stage, Store, ValueId};
use torsh_ir::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use torsh_runtime::sys::prims;
use torsh_runtime::{Config, CpuExecutor};

const EXTENTS: [usize; 14] = [1, 1, 2, 3, 4, 7, 16, 31, 33, 64, 130, 513, 600, 1030];
const MAX_POINTS: usize = 12_000;

/// A kernel under construction, and what is visible to the current stage.
struct Gen<'r> {
    rng: &'r mut Rng,
    m: Make,
    axes: Vec<usize>,
    grid: usize,
    /// Row values and constants, visible everywhere.
    row: Vec<ValueId>,
    /// Values of full stages.
    full: Vec<ValueId>,
    /// Values whose sums are exact.
    exact: Vec<ValueId>,
    insts: Vec<ValueId>,
}

impl Gen<'_> {
    fn dtype(&mut self) -> DType {
        // The commonest first.
        if self.rng.chance(40) { DType::F32 } else { self.rng.pick(&DType::ALL) }
    }

    /// A random map over `axes` axes (the rest have stride 0), and the extent of its parameter.
    fn map(&mut self, axes: usize, broadcast: bool) -> (i64, Vec<i64>, usize) {
        let mut order: Vec<usize> = (0..axes).collect();
        if self.rng.chance(30) {
            for i in (1..order.len()).rev() {
                order.swap(i, self.rng.below(i + 1));
            }
        }
        let mut strides = vec![0i64; self.axes.len()];
        let mut step = if self.rng.chance(10) { 2 } else { 1 };
        let (mut lo, mut hi) = (0i64, 0i64);
        for &axis in order.iter().rev() {
            if broadcast && self.rng.chance(25) {
                continue;
            }
            let extent = self.axes[axis] as i64;
            let sign = if self.rng.chance(8) { -1 } else { 1 };
            strides[axis] = sign * step;
            let reach = (extent - 1).max(0) * step;
            if sign < 0 {
                lo -= reach
            } else {
                hi += reach
            }
            step *= extent.max(1) + if self.rng.chance(10) { 1 } else { 0 };
        }
        let offset = -lo + if self.rng.chance(20) { self.rng.below(4) as i64 } else { 0 };
        (offset, strides, (offset + hi + 1) as usize)
    }

    fn push(&mut self, id: ValueId, domain: Domain, exact: bool) -> ValueId {
        self.insts.push(id);
        if exact {
            self.exact.push(id);
        }
        match domain {
            Domain::Row => self.row.push(id),
            Domain::Full => self.full.push(id),
        }
        id
    }

    fn load(&mut self, domain: Domain, dtype: DType) -> ValueId {
        let axes = if domain == Domain::Row { self.grid } else { self.axes.len() };
        let (offset, strides, numel) = self.map(axes, true);
        let param = self.m.param(dtype, numel, Access::Read);
        let id = self.m.load(param, offset, &strides);
        self.push(id, domain, true)
    }

    /// A visible value of a dtype, made if there is none.
    fn operand(&mut self, domain: Domain, dtype: DType) -> ValueId {
        let mut candidates = self.row.clone();
        if domain == Domain::Full {
            candidates.extend(&self.full);
        }
        candidates.retain(|&v| self.m.0.value(v).dtype == dtype);
        if !candidates.is_empty() && self.rng.chance(75) {
            return self.rng.pick(&candidates);
        }
        match self.rng.below(10) {
            0 => {
                let x = self.rng.below(9) as f64 - 4.0;
                let id = self.m.constant(x, dtype);
                // A constant is visible from its stage on.
                self.insts.push(id);
                self.row.push(id);
                id
            }
            1 if dtype == DType::I64 => {
                let axes = if domain == Domain::Row { self.grid } else { self.axes.len() };
                let (offset, strides, _) = self.map(axes, true);
                let id = self.m.value(Inst::Index(affine(offset, &strides)), dtype);
                self.push(id, domain, false)
            }
            _ => self.load(domain, dtype),
        }
    }

    fn op(&mut self, domain: Domain) {
        let dtype = self.dtype();
        let x = self.operand(domain, dtype);
        let (op, args, out) = match self.rng.below(12) {
            0 | 1 => {
                let mut ops = vec![UnOp::Neg, UnOp::Abs, UnOp::Sign, UnOp::Floor, UnOp::Ceil, UnOp::Round, UnOp::Trunc];
                if dtype.is_float() {
                    ops.extend([UnOp::Sqrt, UnOp::Recip, UnOp::Rsqrt]);
                } else {
                    ops.push(UnOp::Not);
                }
                if dtype == DType::Bool {
                    ops = vec![UnOp::Not];
                }
                (ScalarOp::Un(self.rng.pick(&ops)), vec![x], dtype)
            }
            2..=6 => {
                let mut ops = vec![BinOp::Add, BinOp::Mul, BinOp::Max, BinOp::Min];
                if dtype != DType::Bool {
                    ops.extend([BinOp::Sub, BinOp::FloorDiv, BinOp::Rem, BinOp::Fmod]);
                }
                if dtype.is_float() {
                    ops.push(BinOp::Div);
                } else {
                    ops.extend([BinOp::And, BinOp::Or, BinOp::Xor]);
                    if dtype != DType::Bool {
                        ops.extend([BinOp::Shl, BinOp::Shr, BinOp::Pow]);
                    }
                }
                let op = self.rng.pick(&ops);
                let y = self.operand(domain, dtype);
                if dtype == DType::I64 && self.rng.chance(10) {
                    (ScalarOp::Bin(BinOp::Philox), vec![x, y], DType::I32)
                } else {
                    (ScalarOp::Bin(op), vec![x, y], dtype)
                }
            }
            7 => {
                let y = self.operand(domain, dtype);
                (ScalarOp::Cmp(self.rng.pick(CmpOp::ALL)), vec![x, y], DType::Bool)
            }
            8 => {
                let (c, y) = (self.operand(domain, DType::Bool), self.operand(domain, dtype));
                (ScalarOp::Select, vec![c, x, y], dtype)
            }
            9 | 10 => (ScalarOp::Cast, vec![x], self.rng.pick(&DType::ALL)),
            _ => {
                // The bits of a NaN may differ between levels.
                let same: Vec<DType> = DType::ALL.into_iter().filter(|d| d.size() == dtype.size()).collect();
                let to = if dtype.is_float() { dtype } else { self.rng.pick(&same) };
                (ScalarOp::Bitcast, vec![x], to)
            }
        };
        let id = self.m.op(op, &args, out);
        self.push(id, domain, false);
    }

    fn reduce(&mut self) -> Option<Reduce> {
        let visible: Vec<ValueId> = self.row.iter().chain(&self.full).copied().collect();
        if visible.is_empty() {
            return None;
        }
        let value = self.rng.pick(&visible);
        let dtype = self.m.0.value(value).dtype;
        let exact_sum = !dtype.is_float() || self.exact.contains(&value);
        let mut ops = Vec::new();
        if dtype == DType::Bool {
            ops.extend([ReduceOp::Any, ReduceOp::All]);
        } else {
            ops.extend([ReduceOp::Max, ReduceOp::Min, ReduceOp::ArgMax, ReduceOp::ArgMin]);
            if exact_sum {
                ops.push(ReduceOp::Sum);
            }
            if !dtype.is_float() {
                ops.push(ReduceOp::Prod);
            }
        }
        let op = self.rng.pick(&ops);
        let out_dtype = if matches!(op, ReduceOp::ArgMax | ReduceOp::ArgMin) { DType::I64 } else { dtype };
        let out = self.m.value(Inst::Reduced, out_dtype);
        Some(Reduce { op, value, out })
    }

    fn store(&mut self, domain: Domain) -> Option<Store> {
        let candidates =
            if domain == Domain::Row { self.row.clone() } else { [&self.full[..], &self.row[..]].concat() };
        if candidates.is_empty() {
            return None;
        }
        let value = self.rng.pick(&candidates);
        let axes = if domain == Domain::Row { self.grid } else { self.axes.len() };
        let (offset, strides, numel) = self.map(axes, false);
        let param = self.m.param(self.m.0.value(value).dtype, numel, Access::Write);
        Some(Store { param, index: affine(offset, &strides), value })
    }
}

fn random_kernel(rng: &mut Rng) -> Kernel {
    let mut axes = Vec::new();
    let (grid, inner) = (rng.below(4), rng.below(3));
    let mut points = 1usize;
    for _ in 0..grid + inner {
        let mut extent = if rng.chance(2) { 0 } else { rng.pick(&EXTENTS) };
        if points * extent.max(1) > MAX_POINTS {
            extent = 1 + rng.below(3);
        }
        points *= extent.max(1);
        axes.push(extent);
    }
    let m = Make::new(&axes[..grid], &axes[grid..]);
    let mut g = Gen { rng, m, axes, grid, row: vec![], full: vec![], exact: vec![], insts: vec![] };
    let stages = if g.rng.chance(40) { 1 } else { 1 + g.rng.below(4) };
    for _ in 0..stages {
        let domain = if g.rng.chance(75) { Domain::Full } else { Domain::Row };
        for _ in 0..1 + g.rng.below(8) {
            g.op(domain);
        }
        let mut stage = Stage { domain, insts: vec![], reduces: vec![], stores: vec![] };
        let before = g.row.len();
        if domain == Domain::Full && stages > 1 {
            for _ in 0..g.rng.below(3) {
                stage.reduces.extend(g.reduce());
            }
        }
        for _ in 0..g.rng.below(3) {
            stage.stores.extend(g.store(domain));
        }
        debug_assert_eq!(before, g.row.len());
        g.row.extend(stage.reduces.iter().map(|r| r.out));
        stage.insts = std::mem::take(&mut g.insts);
        g.m.0.stages.push(stage);
    }
    if g.m.0.stages.iter().all(|s| s.stores.is_empty()) {
        let domain = g.m.0.stages[stages - 1].domain;
        let store = g.store(domain);
        g.m.0.stages[stages - 1].stores.extend(store);
    }
    in_place(&mut g);
    g.m.0
}

/// Sometimes makes an output the place of a load with the same map and dtype.
fn in_place(g: &mut Gen<'_>) {
    if !g.rng.chance(30) {
        return;
    }
    let mut maps: HashMap<Vec<i64>, (u32, ValueId)> = HashMap::new();
    for &v in g.m.0.stages.iter().flat_map(|s| &s.insts) {
        if let Inst::Load { param, index } = &g.m.0.value(v).inst {
            let mut key = vec![index.offset, g.m.0.value(v).dtype as i64];
            key.extend(&index.strides);
            maps.insert(key, (*param, v));
        }
    }
    let k = &mut g.m.0;
    for s in 0..k.stages.len() {
        for i in 0..k.stages[s].stores.len() {
            let store = &k.stages[s].stores[i];
            let mut key = vec![store.index.offset, k.params[store.param as usize].dtype as i64];
            key.extend(&store.index.strides);
            if let Some((param, _)) = maps.remove(&key)
                && k.params[param as usize].numel == k.params[store.param as usize].numel
            {
                // The old output parameter stays, unused.
                let old = k.stages[s].stores[i].param;
                k.stages[s].stores[i].param = param;
                k.params[param as usize].access = Access::ReadWrite;
                k.params[old as usize].access = Access::Read;
                if k.verify().is_err() {
                    k.stages[s].stores[i].param = old;
                    k.params[param as usize].access = Access::Read;
                    k.params[old as usize].access = Access::Write;
                }
                return;
            }
        }
    }
}

#[test]
fn random_kernels_mean_the_same_everywhere() {
    let mut executors = Vec::new();
    for isa in prims::LEVELS.into_iter().filter(|l| prims::supported(l)) {
        for schedule in Schedule::ALL {
            for threads in [1, 2] {
                let config = Config {
                    isa: Some(isa),
                    schedule,
                    threads: Some(threads),
                    memory_limit: Some(4 << 30),
                    ..Config::default()
                };
                executors.push((format!("{config:?}"), CpuExecutor::with_config(&config).unwrap()));
            }
        }
    }
    let (first, cases) = (env::fuzz_seed(), env::fuzz_cases().unwrap_or(300));
    let mut tried = 0;
    for seed in first..first + cases {
        let mut rng = Rng(seed);
        let kernel = random_kernel(&mut rng);
        let p = program(kernel);
        if let Err(e) = p.verify() {
            // The generator may ask for a dtype that an operation lacks; that must stay rare.
            assert!(!e.to_string().is_empty());
            continue;
        }
        tried += 1;
        let x = inputs(&p, &mut rng);
        let want = run_program(&p, &x).unwrap();
        for (label, exec) in &executors {
            let got = run_on(exec, &p, &x, rng.chance(50));
            assert_same(&want, &got, 0.0, &|| format!("seed {seed}, {label}\n{}", torsh_ir::text::program(&p)));
        }
    }
    assert!(tried * 2 > cases, "only {tried} of {cases} random kernels were well-formed");
}
