//! Map kernels: every point on its own. A thread computes several vectors of neighbours along the last axis; all its
//! loads are made before its first store, so that many are under way at once and updates in place are right.

use super::access::{Sharing, Width, load, load_vector, parameters, store, store_vector};
use super::generate::{Gen, Source, buffer};
use super::scalar::{constant, from_memory, memory_type, op, to_memory, value_type};
use super::transpose;
use crate::cpu::normal::{affines, normalise};
use std::fmt::Write;
use torsh_ir::kernel::{Affine, Inst, Kernel, Stage, ValueId};
use torsh_ir::program::BufId;
use torsh_ir::{DType, Error, Result};

/// Threads of a block.
const THREADS: usize = 256;

/// How the elements that one access touches along a vector lie.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Shape {
    /// Side by side and aligned.
    Vector,
    /// One element for all.
    Splat,
    /// Anything else.
    Each,
}

/// A map kernel in the form that is emitted.
struct Map<'a> {
    k: &'a Kernel,
    stage: &'a Stage,
    sharing: &'a Sharing,
    extents: Vec<usize>,
    width: Width,
    /// Elements of a vector, vectors of a thread.
    vector: usize,
    unroll: usize,
    /// Vectors may reach beyond the end: one axis whose extent is no multiple.
    ragged: bool,
}

/// Plans the launch of a map kernel.
pub(super) fn step(g: &mut Gen<'_>, kernel: &Kernel, sharing: &Sharing, args: &[BufId]) -> Result<()> {
    let normal = normalise(kernel, false).kernel;
    let extents: Vec<usize> = normal.grid.iter().chain(&normal.inner).copied().collect();
    let points: usize = extents.iter().product();
    let stage = normal.stages.first().ok_or_else(|| Error::internal("a kernel without stages"))?;
    if points == 0 || stage.stores.is_empty() {
        return Ok(());
    }
    let args: Vec<_> = args.iter().map(|&b| buffer(b)).collect();
    if let Some((source, grid)) = transpose::source(&normal, sharing, g.options.wide)? {
        return g.launch(source, grid, 0, args);
    }
    let width = Width::of(&extents, 16 * THREADS, affines(&normal), g.options.wide);
    let vector = vector_length(&normal, stage, &extents);
    let ragged = !extents[extents.len() - 1].is_multiple_of(vector);
    let loads = stage.insts.iter().filter(|&&v| matches!(normal.value(v).inst, Inst::Load { .. })).count();
    let busy = g.options.processors as usize * 2048;
    let unroll = match points / vector {
        n if vector > 8 || n < 2 * busy => 1,
        n if n < 4 * busy => (4 / loads.max(1)).clamp(1, 2),
        _ => (4 / loads.max(1)).clamp(1, 4),
    };
    let m = Map { k: &normal, stage, sharing, extents, width, vector, unroll, ragged };
    let body = m.body()?;
    let source = Source {
        stem: kernel.name.clone(),
        params: parameters(kernel, sharing),
        body,
        block: [THREADS as u32, 1, 1],
        ..Source::default()
    };
    let blocks = points.div_ceil(vector).div_ceil(THREADS * unroll);
    g.launch(source, [blocks as u64, 1, 1], 0, args)
}

/// Every load and store of a stage, as dtype and map.
fn accesses<'k>(k: &'k Kernel, stage: &'k Stage) -> impl Iterator<Item = (DType, &'k Affine)> {
    let loads = stage.insts.iter().filter_map(|&v| match &k.value(v).inst {
        Inst::Load { param, index } => Some((k.params[*param as usize].dtype, index)),
        Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => None,
    });
    loads.chain(stage.stores.iter().map(|s| (k.params[s.param as usize].dtype, &s.index)))
}

/// How `count` elements along the last axis lie.
fn shape(map: &Affine, extents: &[usize], count: usize) -> Shape {
    let last = extents.len() - 1;
    let n = count as i64;
    let aligned = map.offset % n == 0 && (0..last).all(|a| extents[a] == 1 || map.strides[a] % n == 0);
    match map.strides[last] {
        0 => Shape::Splat,
        1 if aligned => Shape::Vector,
        _ => Shape::Each,
    }
}

/// Elements of a vector: 16 bytes of the widest dtype, where a store and most loads profit.
fn vector_length(k: &Kernel, stage: &Stage, extents: &[usize]) -> usize {
    let last = extents[extents.len() - 1];
    let single = extents.iter().filter(|&&e| e != 1).count() <= 1;
    let widest = accesses(k, stage).filter(|(_, a)| a.strides[extents.len() - 1] == 1).map(|(d, _)| d.size()).max();
    let Some(widest) = widest else { return 1 };
    let mut n = 16 / widest;
    while n > 1 {
        let good = accesses(k, stage).filter(|(_, a)| shape(a, extents, n) == Shape::Vector).count();
        let bad = accesses(k, stage).filter(|(_, a)| shape(a, extents, n) == Shape::Each).count();
        if (last.is_multiple_of(n) || (single && last >= 4 * n)) && good > bad {
            return n;
        }
        n /= 2;
    }
    1
}

/// The value that an instruction of a stage computes, as an expression; loads are named by the caller.
pub(super) fn expression(
    k: &Kernel,
    v: ValueId,
    width: Width,
    coords: &[Option<String>],
    name: &dyn Fn(ValueId) -> String,
) -> Result<String> {
    let value = k.value(v);
    match &value.inst {
        Inst::Const(c) => Ok(constant(*c, value.dtype)),
        Inst::Index(map) => Ok(format!("(long long)({})", width.affine(map, coords))),
        Inst::Op(o, args) => {
            let names: Vec<String> = args.iter().map(|&a| name(a)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let from = args.first().map_or(value.dtype, |&a| k.value(a).dtype);
            let from = if matches!(o, torsh_ir::ScalarOp::Select) { value.dtype } else { from };
            op(*o, from, value.dtype, &names)
        }
        Inst::Load { .. } | Inst::Reduced => Err(Error::internal("a load or reduction is no expression")),
    }
}

impl Map<'_> {
    fn loads(&self) -> impl Iterator<Item = (ValueId, u32, &Affine)> {
        self.stage.insts.iter().filter_map(|&v| match &self.k.value(v).inst {
            Inst::Load { param, index } => Some((v, *param, index)),
            Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => None,
        })
    }

    fn shape(&self, map: &Affine) -> Shape {
        if self.vector == 1 { Shape::Each } else { shape(map, &self.extents, self.vector) }
    }

    /// Elements of the array that holds a load's vector.
    fn held(&self, map: &Affine) -> usize {
        if self.shape(map) == Shape::Splat { 1 } else { self.vector }
    }

    fn body(&self) -> Result<String> {
        let mut out = String::new();
        let (unsigned, w) = (self.width.unsigned(), self.width);
        let points: usize = self.extents.iter().product();
        let total = w.ulit(points);
        let _ = writeln!(
            out,
            "    const {unsigned} first = (({unsigned})blockIdx.x * {}u + threadIdx.x) * {}u;",
            THREADS * self.unroll,
            self.vector
        );
        for (v, param, map) in self.loads() {
            let ty = memory_type(self.k.params[param as usize].dtype);
            let _ = writeln!(out, "    {ty} l{}[{}][{}];", v.0, self.unroll, self.held(map));
        }
        let step = THREADS * self.vector;
        let head = format!(
            "    #pragma unroll\n    for (int u = 0; u < {}; ++u) {{\n        const {unsigned} at = first + (unsigned)u * {step}u;\n        if (at < {total}) {{\n",
            self.unroll
        );
        let (split, coords) = w.split("at", &self.extents, "c", "            ");
        if self.ragged {
            // Named apart from `at`, lest the coordinate of the only axis be missing.
            let _ = &coords;
        }
        let whole = format!("at + {}u <= {total}", self.vector);
        if self.loads().next().is_some() {
            out.push_str(&head);
            out.push_str(&split);
            for (v, param, map) in self.loads() {
                self.load(&mut out, v, param, map, &coords, &whole);
            }
            out.push_str("        }\n    }\n");
        }
        out.push_str(&head);
        out.push_str(&split);
        self.compute(&mut out, &coords)?;
        for (i, s) in self.stage.stores.iter().enumerate() {
            self.store(&mut out, i, s.param, &s.index, &coords, &whole);
        }
        out.push_str("        }\n    }\n");
        Ok(out)
    }

    fn load(&self, out: &mut String, v: ValueId, param: u32, map: &Affine, coords: &[Option<String>], whole: &str) {
        let (dtype, read_only) = (self.k.params[param as usize].dtype, self.sharing.read_only[param as usize]);
        let p = format!("p{param}");
        let a = format!("a{}", v.0);
        let _ = writeln!(out, "            const {} {a} = {};", self.width.ty(), self.width.affine(map, coords));
        let raw = |at: &str| if read_only { format!("__ldg({p} + {at})") } else { format!("{p}[{at}]") };
        let l = format!("l{}[u]", v.0);
        if self.vector == 1 || self.shape(map) == Shape::Splat {
            let _ = writeln!(out, "            {l}[0] = {};", raw(&a));
            return;
        }
        let stride = map.strides[self.extents.len() - 1];
        let element = raw(&format!("({a} + e * {})", self.width.lit(stride)));
        let guard = if self.ragged {
            format!("if (at + e < {}u) ", self.extents.iter().product::<usize>())
        } else {
            String::new()
        };
        let each =
            format!("#pragma unroll\n            for (int e = 0; e < {}; ++e) {guard}{l}[e] = {element};", self.vector);
        if self.shape(map) == Shape::Each {
            let _ = writeln!(out, "            {each}");
            return;
        }
        let vector = load_vector(&p, dtype, read_only, &a, self.vector, &l);
        if self.ragged {
            let _ =
                writeln!(out, "            if ({whole}) {{ {vector} }} else {{\n            {each}\n            }}");
        } else {
            let _ = writeln!(out, "            {vector}");
        }
    }

    /// The loop over the elements of a vector.
    fn compute(&self, out: &mut String, coords: &[Option<String>]) -> Result<()> {
        for (i, s) in self.stage.stores.iter().enumerate() {
            let ty = memory_type(self.k.params[s.param as usize].dtype);
            let _ = writeln!(out, "            {ty} s{i}[{}];", self.vector);
        }
        let last = self.extents.len() - 1;
        let mut coords = coords.to_vec();
        if self.vector > 1 {
            let _ =
                writeln!(out, "            #pragma unroll\n            for (int e = 0; e < {}; ++e) {{", self.vector);
            let c = coords[last].clone().unwrap_or_else(|| self.width.lit(0));
            let _ = writeln!(out, "                const {} ce = {c} + e;", self.width.ty());
            coords[last] = Some("ce".to_string());
        } else {
            out.push_str("            {\n                const int e = 0;\n");
        }
        let name = |v: ValueId| format!("v{}", v.0);
        for &v in &self.stage.insts {
            let value = self.k.value(v);
            let e = match &value.inst {
                Inst::Load { param, index } => {
                    let at = if self.held(index) == 1 { "0" } else { "e" };
                    from_memory(self.k.params[*param as usize].dtype, &format!("l{}[u][{at}]", v.0))
                }
                _ => expression(self.k, v, self.width, &coords, &name)?,
            };
            let _ = writeln!(out, "                const {} v{} = {e};", value_type(value.dtype), v.0);
        }
        for (i, s) in self.stage.stores.iter().enumerate() {
            let value = to_memory(self.k.params[s.param as usize].dtype, &name(s.value));
            let _ = writeln!(out, "                s{i}[e] = {value};");
        }
        out.push_str("            }\n");
        Ok(())
    }

    fn store(&self, out: &mut String, i: usize, param: u32, map: &Affine, coords: &[Option<String>], whole: &str) {
        let dtype = self.k.params[param as usize].dtype;
        let p = format!("p{param}");
        let a = format!("b{i}");
        let _ = writeln!(out, "            const {} {a} = {};", self.width.ty(), self.width.affine(map, coords));
        if self.vector == 1 {
            let _ = writeln!(out, "            {p}[{a}] = s{i}[0];");
            return;
        }
        let stride = map.strides[self.extents.len() - 1];
        let guard = if self.ragged {
            format!("if (at + e < {}u) ", self.extents.iter().product::<usize>())
        } else {
            String::new()
        };
        let each = format!(
            "#pragma unroll\n            for (int e = 0; e < {}; ++e) {guard}{p}[{a} + e * {}] = s{i}[e];",
            self.vector,
            self.width.lit(stride)
        );
        if self.shape(map) != Shape::Vector {
            let _ = writeln!(out, "            {each}");
            return;
        }
        let vector = store_vector(&p, dtype, &a, self.vector, &format!("s{i}"));
        if self.ragged {
            let _ =
                writeln!(out, "            if ({whole}) {{ {vector} }} else {{\n            {each}\n            }}");
        } else {
            let _ = writeln!(out, "            {vector}");
        }
    }
}

/// Straight-line code of a stage at one point: loads, values and stores with the given coordinates.
pub(super) fn point(
    k: &Kernel,
    stage: &Stage,
    sharing: &Sharing,
    width: Width,
    coords: &[Option<String>],
    loaded: &dyn Fn(ValueId) -> Option<String>,
    indent: &str,
) -> Result<String> {
    let mut out = String::new();
    let name = |v: ValueId| format!("v{}", v.0);
    for &v in &stage.insts {
        let value = k.value(v);
        let e = match (&value.inst, loaded(v)) {
            (_, Some(e)) => e,
            (Inst::Load { param, index }, None) => {
                let (p, at) = (format!("p{param}"), width.affine(index, coords));
                load(&p, k.params[*param as usize].dtype, sharing.read_only[*param as usize], &at)
            }
            _ => expression(k, v, width, coords, &name)?,
        };
        let _ = writeln!(out, "{indent}const {} v{} = {e};", value_type(value.dtype), v.0);
    }
    for s in &stage.stores {
        let (p, at) = (format!("p{}", s.param), width.affine(&s.index, coords));
        let _ = writeln!(out, "{indent}{}", store(&p, k.params[s.param as usize].dtype, &at, &name(s.value)));
    }
    Ok(out)
}
