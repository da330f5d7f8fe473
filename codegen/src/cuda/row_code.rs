//! The text of row kernels: stages one after the other, loops over the points of a row, folds combined in between.

use super::access::{Sharing, Width, load_vector, parameters, store_vector};
use super::group::{Fold, combine_all};
use super::map::expression;
use super::row::{Keep, Plan, Schedule, is_vector, kept_bytes};
use super::scalar::{constant, from_memory, memory_type, to_accumulator, to_memory, value_type};
use std::fmt::Write;
use torsh_ir::Result;
use torsh_ir::kernel::{Affine, Domain, Inst, Kernel, Stage, Store, ValueId};

/// What the text of a kernel depends on.
pub(super) struct Code<'a> {
    pub k: &'a Kernel,
    pub sharing: &'a Sharing,
    pub schedule: &'a Schedule,
    pub plan: &'a Plan,
    pub width: Width,
}

/// Guards of the accesses at a point.
struct Guards {
    /// The point exists; loads of memory that is not written go to the last one else.
    ok: bool,
    /// The row exists.
    live: bool,
}

impl Guards {
    /// Both, as a condition.
    fn both(&self) -> Option<&'static str> {
        match (self.ok, self.live) {
            (true, true) => Some("ok && live"),
            (true, false) => Some("ok"),
            (false, true) => Some("live"),
            (false, false) => None,
        }
    }
}

impl Code<'_> {
    /// The buffers, and the partial results of each reduction when rows are cut.
    pub fn parameters(&self) -> String {
        let mut out = parameters(self.k, self.sharing);
        if let Some(cut) = self.schedule.cut {
            for (s, stage) in self.k.stages.iter().enumerate() {
                for r in &stage.reduces {
                    let comma = if out.is_empty() { "" } else { ", " };
                    let qualifier = if s == cut.stage { "" } else { "const " };
                    let _ = write!(out, "{comma}{qualifier}char* part{}", r.out.0);
                }
            }
        }
        out
    }

    fn rows(&self) -> usize {
        self.k.rows()
    }

    fn has_dead_rows(&self) -> bool {
        !self.rows().is_multiple_of(self.schedule.group.rows())
    }

    /// Steps of a thread over its row, and whether some points of the last one are none.
    fn steps(&self) -> (usize, bool) {
        let stride = self.schedule.group.lanes() * self.schedule.vector;
        (self.k.row_len().div_ceil(stride), !self.k.row_len().is_multiple_of(stride))
    }

    pub fn body(&self) -> Result<String> {
        let (k, w, group) = (self.k, self.width, self.schedule.group);
        let mut out = String::new();
        if self.schedule.keep == Keep::Shared {
            out.push_str("    extern __shared__ __align__(16) unsigned char room[];\n");
        }
        let (lane, slot) = group.places();
        let (signed, unsigned) = (w.ty(), w.unsigned());
        let _ = writeln!(out, "    const int lane = {lane};");
        let _ = writeln!(out, "    const int slot = {slot};");
        let mut block = "blockIdx.x".to_string();
        if let Some(cut) = self.schedule.cut
            && cut.stage < k.stages.len()
        {
            let _ = writeln!(out, "    const {signed} part = ({signed})(blockIdx.x % {}u);", cut.parts);
            block = format!("(blockIdx.x / {}u)", cut.parts);
        }
        let _ = writeln!(out, "    const {signed} row0 = ({signed}){block} * {} + slot;", group.rows());
        if self.has_dead_rows() {
            let _ = writeln!(out, "    const bool live = row0 < {};", w.lit(self.rows() as i64));
            let _ = writeln!(out, "    const {unsigned} row = live ? row0 : {};", w.lit(self.rows() as i64 - 1));
        } else {
            let _ = writeln!(out, "    const {unsigned} row = row0;");
        }
        let (split, mut coords) = w.split("row", &k.grid, "g", "    ");
        out.push_str(&split);
        coords.resize(k.grid.len() + k.inner.len(), None);
        for v in k.stages.iter().flat_map(|s| &s.insts) {
            if let Inst::Const(c) = k.value(*v).inst {
                let dtype = k.value(*v).dtype;
                let _ = writeln!(out, "    const {} v{} = {};", value_type(dtype), v.0, constant(c, dtype));
            }
        }
        self.declare_kept(&mut out);
        for (s, stage) in k.stages.iter().enumerate() {
            match (stage.domain, self.schedule.cut) {
                (_, Some(cut)) if s > cut.stage => break,
                (Domain::Row, _) => self.row_stage(&mut out, stage, &coords)?,
                (Domain::Full, Some(cut)) if s < cut.stage => self.parts(&mut out, stage, cut.parts)?,
                (Domain::Full, _) => self.full_stage(&mut out, s, stage, &coords)?,
            }
        }
        let last = self.schedule.cut.is_none_or(|c| c.stage == k.stages.len());
        if last {
            self.row_stores(&mut out, &coords);
        }
        Ok(out)
    }

    fn declare_kept(&self, out: &mut String) {
        let (steps, _) = self.steps();
        let vector = self.schedule.vector;
        match self.schedule.keep {
            Keep::Registers => {
                for &v in &self.plan.kept {
                    let ty = value_type(self.k.value(v).dtype);
                    let _ = writeln!(out, "    {ty} k{}[{}][{vector}];", v.0, steps.max(1));
                }
            }
            Keep::Shared => {
                let sizes = kept_bytes(self.k, self.plan, steps, vector, self.schedule.group);
                let mut at = 0;
                for (&v, size) in self.plan.kept.iter().zip(sizes) {
                    let ty = value_type(self.k.value(v).dtype);
                    let _ = writeln!(out, "    {ty}* const k{} = ({ty}*)(room + {at});", v.0);
                    at += size;
                }
            }
            Keep::Again => {}
        }
    }

    /// Where element `e` of step `j` of a kept value is.
    fn kept(&self, v: ValueId) -> String {
        let (steps, _) = self.steps();
        let (vector, lanes) = (self.schedule.vector, self.schedule.group.lanes());
        match (self.schedule.keep, self.schedule.group) {
            (Keep::Registers, _) => format!("k{}[j][e]", v.0),
            // Neighbouring threads at neighbouring places.
            (_, super::group::Group::Column { .. }) => {
                format!("k{}[(j * {lanes} + lane) * {} + slot]", v.0, super::group::COLUMNS)
            }
            _ => format!("k{}[(slot * {vector} + e) * {} + j * {lanes} + lane]", v.0, steps * lanes),
        }
    }

    fn folds(&self, stage: &Stage) -> Vec<Fold> {
        let fold = |r: &torsh_ir::kernel::Reduce| Fold::new(r.op, self.k.value(r.value).dtype, format!("a{}", r.out.0));
        stage.reduces.iter().map(fold).collect()
    }

    fn results(&self, out: &mut String, stage: &Stage, folds: &[Fold]) {
        for (r, f) in stage.reduces.iter().zip(folds) {
            let ty = value_type(self.k.value(r.out).dtype);
            let _ = writeln!(out, "    const {ty} v{} = {};", r.out.0, f.result(self.k.row_len() == 0));
        }
    }

    fn row_stage(&self, out: &mut String, stage: &Stage, coords: &[Option<String>]) -> Result<()> {
        for &v in &stage.insts {
            let value = self.k.value(v);
            let ty = value_type(value.dtype);
            let e = match &value.inst {
                Inst::Const(_) => continue,
                Inst::Load { param, index } => {
                    let dtype = self.k.params[*param as usize].dtype;
                    let at = self.width.affine(index, coords);
                    if self.sharing.read_only[*param as usize] {
                        from_memory(dtype, &format!("__ldg(p{param} + ({at}))"))
                    } else {
                        let element = from_memory(dtype, &format!("p{param}[{at}]"));
                        if self.has_dead_rows() { format!("live ? {element} : ({ty})0") } else { element }
                    }
                }
                _ => expression(self.k, v, self.width, coords, &|v| format!("v{}", v.0))?,
            };
            let _ = writeln!(out, "    const {ty} v{} = {e};", v.0);
        }
        Ok(())
    }

    /// Row scalars of an earlier launch, from the parts' results.
    fn parts(&self, out: &mut String, stage: &Stage, parts: usize) -> Result<()> {
        let folds = self.folds(stage);
        folds.iter().for_each(|f| out.push_str(&f.declare()));
        if folds.is_empty() {
            return Ok(());
        }
        let lanes = self.schedule.group.lanes();
        let _ = writeln!(out, "    for (int s = 0; s < {parts}; s += {lanes}) {{");
        for (r, f) in stage.reduces.iter().zip(&folds) {
            let at = format!("row * {parts} + s + lane");
            let _ = writeln!(
                out,
                "        {}",
                f.restore(&format!("part{}", r.out.0), &at, &format!("s + lane < {parts}"))?
            );
        }
        out.push_str("    }\n");
        out.push_str(&combine_all(self.schedule.group, &folds)?);
        self.results(out, stage, &folds);
        Ok(())
    }

    fn full_stage(&self, out: &mut String, s: usize, stage: &Stage, coords: &[Option<String>]) -> Result<()> {
        let folds = self.folds(stage);
        folds.iter().for_each(|f| out.push_str(&f.declare()));
        if self.k.row_len() > 0 {
            self.row_loop(out, s, stage, &folds, coords)?;
        }
        out.push_str(&combine_all(self.schedule.group, &folds)?);
        if self.schedule.cut.is_some() {
            let parts = self.schedule.cut.map_or(1, |c| c.parts);
            for (r, f) in stage.reduces.iter().zip(&folds) {
                let save = f.save(&format!("part{}", r.out.0), &format!("row * {parts} + part"));
                let live = if self.has_dead_rows() { " && live" } else { "" };
                let _ = writeln!(out, "    if (lane == 0{live}) {{ {save} }}");
            }
            return Ok(());
        }
        self.results(out, stage, &folds);
        Ok(())
    }

    fn row_loop(
        &self,
        out: &mut String,
        s: usize,
        stage: &Stage,
        folds: &[Fold],
        coords: &[Option<String>],
    ) -> Result<()> {
        let (k, w) = (self.k, self.width);
        let (steps, ragged) = self.steps();
        let (vector, lanes) = (self.schedule.vector, self.schedule.group.lanes());
        let order = &self.plan.order[s];
        let small = order.len() * vector <= 40;
        let pragma = match (self.schedule.keep, self.plan.kept.is_empty()) {
            (Keep::Registers, false) => "#pragma unroll",
            _ if small => "#pragma unroll 4",
            _ => "#pragma unroll 1",
        };
        let (signed, unsigned) = (w.ty(), w.unsigned());
        let mut guards = Guards { ok: ragged, live: self.has_dead_rows() };
        match self.schedule.cut {
            None => {
                let _ = writeln!(out, "    {pragma}\n    for (int j = 0; j < {steps}; ++j) {{");
                let _ = writeln!(out, "        const {unsigned} i0 = ({unsigned})(j * {lanes} + lane) * {vector}u;");
            }
            Some(cut) => {
                let each = steps.div_ceil(cut.parts);
                guards.ok |= each * cut.parts != steps;
                let _ = writeln!(out, "    {pragma}\n    for (int j = 0; j < {each}; ++j) {{");
                let _ = writeln!(
                    out,
                    "        const {unsigned} i0 = (({unsigned})(part * {each} + j) * {lanes}u + ({unsigned})lane) * {vector}u;"
                );
            }
        }
        let len = self.k.row_len();
        if guards.ok {
            let _ = writeln!(out, "        const bool ok = i0 < {};", w.ulit(len));
            let _ = writeln!(out, "        const {unsigned} i = ok ? i0 : {};", w.ulit(len - vector));
        } else {
            let _ = writeln!(out, "        const {unsigned} i = i0;");
        }
        let (split, inner) = w.split("i", &k.inner, "c", "        ");
        out.push_str(&split);
        let mut coords = coords.to_vec();
        let grid = k.grid.len();
        coords.truncate(grid);
        coords.extend(inner);
        for &v in order {
            if let Inst::Load { param, index } = &k.value(v).inst
                && !self.is_kept_before(v, s)
            {
                self.load(out, v, *param, index, &coords, &guards);
            }
        }
        let vector_stores: Vec<bool> =
            self.plan.stores[s].iter().map(|x| vector > 1 && is_vector(k, &x.index, vector)).collect();
        for (i, store) in self.plan.stores[s].iter().enumerate().filter(|(i, _)| vector_stores[*i]) {
            let ty = memory_type(k.params[store.param as usize].dtype);
            let _ = writeln!(out, "        {ty} s{i}[{vector}];");
        }
        let _ = writeln!(out, "        #pragma unroll\n        for (int e = 0; e < {vector}; ++e) {{");
        let mut here = coords.clone();
        if vector > 1 {
            let last = here.len() - 1;
            let c = here[last].clone().unwrap_or_else(|| w.lit(0));
            let _ = writeln!(out, "            const {signed} ce = {c} + e;");
            here[last] = Some("ce".to_string());
        }
        self.values(out, s, order, &here)?;
        for (r, f) in stage.reduces.iter().zip(folds) {
            let x = to_accumulator(r.op, f.dtype, &format!("v{}", r.value.0));
            let x = if matches!(r.op, torsh_ir::ReduceOp::ArgMax | torsh_ir::ReduceOp::ArgMin) {
                format!("v{}", r.value.0)
            } else {
                let name = format!("x{}", r.out.0);
                let _ = writeln!(out, "            const {} {name} = {x};", value_type(f.wide));
                name
            };
            let push = f.push(&x, "(long long)(i + e)", guards.ok.then_some("ok"))?;
            let _ = writeln!(out, "            {push}");
        }
        for (i, store) in self.plan.stores[s].iter().enumerate() {
            self.store_element(out, i, store, &here, vector_stores[i], &guards);
        }
        out.push_str("        }\n");
        for (i, store) in self.plan.stores[s].iter().enumerate().filter(|(i, _)| vector_stores[*i]) {
            let at = w.affine(&store.index, &coords);
            let dtype = k.params[store.param as usize].dtype;
            let text = store_vector(&format!("p{}", store.param), dtype, &at, vector, &format!("s{i}"));
            let _ = match guards.both() {
                Some(ok) => writeln!(out, "        if ({ok}) {{ {text} }}"),
                None => writeln!(out, "        {text}"),
            };
        }
        out.push_str("    }\n");
        Ok(())
    }

    fn is_kept_before(&self, v: ValueId, s: usize) -> bool {
        self.plan.stage[v.0 as usize] < s && self.plan.kept.contains(&v)
    }

    /// The array or variable of a load: `l<v>`, of one element where all of a vector have the same.
    fn load(
        &self,
        out: &mut String,
        v: ValueId,
        param: u32,
        index: &Affine,
        coords: &[Option<String>],
        guards: &Guards,
    ) {
        let (k, w, vector) = (self.k, self.width, self.schedule.vector);
        let dtype = k.params[param as usize].dtype;
        let read_only = self.sharing.read_only[param as usize];
        let held = self.held(index);
        let guard = if read_only { None } else { guards.both() };
        let ty = memory_type(dtype);
        let start = if guard.is_some() { " = {}" } else { "" };
        let _ = writeln!(out, "        {ty} l{}[{held}]{start};", v.0);
        let at = w.affine(index, coords);
        let p = format!("p{param}");
        let raw = |at: &str| if read_only { format!("__ldg({p} + ({at}))") } else { format!("{p}[{at}]") };
        let text = if held == 1 {
            format!("l{}[0] = {};", v.0, raw(&at))
        } else if is_vector(k, index, vector) {
            load_vector(&p, dtype, read_only, &at, vector, &format!("l{}", v.0))
        } else {
            let stride = w.lit(index.strides[index.strides.len() - 1]);
            let element = raw(&format!("{at} + e * {stride}"));
            format!("\n        #pragma unroll\n        for (int e = 0; e < {vector}; ++e) l{}[e] = {element};", v.0)
        };
        let _ = match guard {
            Some(ok) => writeln!(out, "        if ({ok}) {{ {text} }}"),
            None => writeln!(out, "        {text}"),
        };
    }

    fn held(&self, index: &Affine) -> usize {
        if index.strides[index.strides.len() - 1] == 0 { 1 } else { self.schedule.vector }
    }

    /// The values of a stage at element `e`.
    fn values(&self, out: &mut String, s: usize, order: &[ValueId], coords: &[Option<String>]) -> Result<()> {
        for &v in order {
            let value = self.k.value(v);
            let e = match &value.inst {
                _ if self.is_kept_before(v, s) => self.kept(v),
                Inst::Load { param, index } => {
                    let at = if self.held(index) == 1 { "0" } else { "e" };
                    from_memory(self.k.params[*param as usize].dtype, &format!("l{}[{at}]", v.0))
                }
                _ => expression(self.k, v, self.width, coords, &|v| format!("v{}", v.0))?,
            };
            let _ = writeln!(out, "            const {} v{} = {e};", value_type(value.dtype), v.0);
            if self.plan.kept.contains(&v) && self.plan.stage[v.0 as usize] == s {
                let _ = writeln!(out, "            {} = v{};", self.kept(v), v.0);
            }
        }
        Ok(())
    }

    fn store_element(
        &self,
        out: &mut String,
        i: usize,
        store: &Store,
        coords: &[Option<String>],
        staged: bool,
        guards: &Guards,
    ) {
        let dtype = self.k.params[store.param as usize].dtype;
        let value = to_memory(dtype, &format!("v{}", store.value.0));
        if staged {
            let _ = writeln!(out, "            s{i}[e] = {value};");
            return;
        }
        let at = self.width.affine(&store.index, coords);
        let guard = guards.both().map_or(String::new(), |ok| format!("if ({ok}) "));
        let _ = writeln!(out, "            {guard}p{}[{at}] = {value};", store.param);
    }

    /// Stores of row scalars, after everything that any thread of the row loads.
    fn row_stores(&self, out: &mut String, coords: &[Option<String>]) {
        let stages = || self.k.stages.iter().filter(|s| s.domain == Domain::Row && !s.stores.is_empty());
        let stores = || stages().flat_map(|s| &s.stores);
        if stores().next().is_none() {
            return;
        }
        if stores().any(|x| self.sharing.pairs.iter().any(|&(w, _)| w == x.param)) {
            out.push_str(self.schedule.group.sync());
        }
        let live = if self.has_dead_rows() { " && live" } else { "" };
        let _ = writeln!(out, "    if (lane == 0{live}) {{");
        for store in stores() {
            let at = self.width.affine(&store.index, coords);
            let value = to_memory(self.k.params[store.param as usize].dtype, &format!("v{}", store.value.0));
            let _ = writeln!(out, "        p{}[{at}] = {value};", store.param);
        }
        out.push_str("    }\n");
    }
}
