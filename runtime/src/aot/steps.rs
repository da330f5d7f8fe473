//! The C source of a library: its functions, and the steps of the program.

use super::header::{ERRORS, parameters, weights_head};
use super::object::Object;
use super::{ALIGN, HEAD, Home, Layout, refused};
use crate::lib_calls::flatten;
use crate::package::manifest::{Program as Slots, Slot};
use std::collections::HashSet;
use std::fmt::Write;
use torsh_codegen::cpu::Emitted;
use torsh_codegen::cpu::c::{self, PRODUCT_SCRATCH, Part};
use torsh_ir::program::{Attend, BufId, Digits, DotOperand, DotStep, LibCall, Place, Program, Step, StepOp};
use torsh_ir::scalar::to_bits;
use torsh_ir::{Error, Result, Type};

/// Dims that the library calls by index are written for.
const MAX_RANK: usize = 16;

/// The output of the program whose memory buffer `i` is: the first that asks for it.
pub(super) fn asked_for(slots: &Slots, program: &Program, i: usize) -> Option<u32> {
    let pairs = slots.outputs.iter().zip(&program.outputs);
    pairs.filter(|(_, b)| b.0 as usize == i).find_map(|(s, _)| if let Slot::Output(o) = s { Some(*o) } else { None })
}

/// Bytes of scratch memory for the step that needs most.
pub(super) fn scratch_bytes(program: &Program, kernels: &[Emitted]) -> Result<usize> {
    let mut most = kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
    for step in &program.steps {
        let words = match &step.op {
            StepOp::Dot(_) => PRODUCT_SCRATCH,
            StepOp::Lib { call: LibCall::ArgSort { dim, .. }, args, .. } => {
                let ty = &program.buffers[args[0].0 as usize].ty;
                ty.shape.dims().get(*dim).map_or(0, |&n| n.saturating_mul(8))
            }
            StepOp::Lib { call: LibCall::Attention(a), .. } => a.keys.saturating_add(a.depth).saturating_add(a.width),
            StepOp::Lib { .. } | StepOp::Kernel { .. } => 0,
        };
        most = most.max(words.saturating_mul(4));
    }
    super::aligned(most)
}

/// A source under construction.
struct Writer<'a> {
    layout: &'a Layout<'a>,
    /// Tables, and the body of `run`.
    tables: String,
    body: String,
    parts: Vec<Part>,
}

/// Writes a line; writing to a string cannot fail.
macro_rules! line {
    ($to:expr, $($rest:tt)*) => {{ let _ = writeln!($to, $($rest)*); }};
}

/// The whole source. `weights_at` is where the weights begin in the object's data, if they are in it.
pub(super) fn source(layout: &Layout<'_>, object: &Object, weights_at: usize) -> Result<String> {
    let mut w = Writer { layout, tables: String::new(), body: String::new(), parts: Vec::new() };
    for (i, step) in layout.program.steps.iter().enumerate() {
        w.step(i, step, object)
            .map_err(|e| e.with_op(step.ops.last().copied().unwrap_or("")).with_loc(step.loc.clone()))?;
    }
    w.finish_outputs()?;
    let names = &layout.names;
    let (n, inner) = (&names.library, names.internal());
    let mut out = format!(
        "/* The library {n}. Made by torsh; compile with -ffp-contract=off. */\n#include \"{n}.h\"\n#include <math.h>\n\
         #include <stdlib.h>\n#include <string.h>\n\n#define T_HIDDEN __attribute__((visibility(\"hidden\")))\n"
    );
    out.push_str(&c::source(&object.prims, &w.parts, &inner)?);
    line!(out, "extern const unsigned char {inner}data[] T_HIDDEN;");
    for i in 0..object.kernels.len() {
        line!(
            out,
            "extern void {inner}kernel{i}(void *const *, uint64_t, uint64_t, uint64_t, uint64_t, void *) T_HIDDEN;"
        );
    }
    out.push_str(&w.tables);
    out.push_str(&w.functions(weights_at));
    let parameters: String = parameters(layout).iter().map(|p| format!(", {p}")).collect();
    line!(out, "int {n}_run({n}_context *context{parameters}) {{");
    line!(out, "    unsigned char *t_m;\n    const unsigned char *t_w;");
    line!(out, "    if (!context) return T_ERROR_NULL;");
    line!(out, "    if (context->check != T_CHECK(context)) return T_ERROR_CONTEXT;");
    out.push_str(&w.pointer_checks());
    line!(out, "    t_m = context->memory;\n    t_w = context->weights;\n    (void)t_m;\n    (void)t_w;");
    out.push_str(&w.body);
    line!(out, "    return 0;\n}}");
    Ok(out)
}

impl Writer<'_> {
    fn ty(&self, buf: BufId) -> &Type {
        &self.layout.program.buffers[buf.0 as usize].ty
    }

    /// The address of a buffer, as a `void *`.
    fn at(&self, buf: BufId) -> Result<String> {
        let (layout, i) = (self.layout, buf.0 as usize);
        let slots = &layout.request.manifest.forward;
        Ok(match &layout.program.buffers[i].place {
            Place::Input(n) | Place::Donated(n) => match slots.inputs.get(*n as usize) {
                Some(Slot::Input(k)) => format!("(void *)(uintptr_t){}", layout.names.inputs[*k as usize]),
                Some(Slot::State(s)) => match layout.state[*s as usize] {
                    (Home::Context(offset), _) => format!("(void *)(t_m + {offset})"),
                    (Home::Weights, offset) => format!("(void *)(uintptr_t)(t_w + {offset})"),
                },
                Some(Slot::Output(_)) | None => return Err(Error::internal("an input that is none")),
            },
            Place::Output => match asked_for(slots, &layout.program, i) {
                Some(o) => format!("(void *){}", layout.names.outputs[o as usize]),
                None => format!("(void *)(t_m + {})", layout.offsets[i]),
            },
            Place::Arena { offset } => format!("(void *)(t_m + {})", layout.arena + offset),
            Place::Const(_) => format!("(void *)(uintptr_t)({}data + {})", layout.names.internal(), layout.offsets[i]),
        })
    }

    fn scratch(&self) -> String {
        format!("(void *)(t_m + {})", self.layout.scratch)
    }

    fn uses(&mut self, part: Part) {
        if !self.parts.contains(&part) {
            self.parts.push(part);
        }
    }

    fn step(&mut self, i: usize, step: &Step, object: &Object) -> Result<()> {
        line!(self.body, "    /* {} */", step.ops.join(" ").replace("*/", ""));
        match &step.op {
            StepOp::Kernel { args, .. } => {
                let at =
                    object.of_step.get(i).copied().flatten().ok_or_else(|| Error::internal("a kernel is missing"))?;
                let kernel = &object.kernels[at];
                let args = args.iter().map(|&b| self.at(b)).collect::<Result<Vec<_>>>()?.join(", ");
                let (inner, scratch) = (self.layout.names.internal(), self.scratch());
                let (rows, cols) = (kernel.rows, kernel.cols);
                line!(
                    self.body,
                    "    {{ void *const t_a[] = {{{args}}}; {inner}kernel{at}(t_a, 0, {rows}, 0, {cols}, {scratch}); }}"
                );
                Ok(())
            }
            StepOp::Dot(dot) => self.product(i, dot),
            StepOp::Lib { call, args, out } => self.call(i, call, args, *out),
        }
    }

    /// A table of numbers, by its name; no table where there are none.
    fn table(&mut self, ty: &str, name: &str, items: &[String]) -> String {
        if items.is_empty() {
            return "0".to_string();
        }
        line!(self.tables, "static const {ty} {name}[] = {{{}}};", items.join(", "));
        name.to_string()
    }

    fn numbers(&mut self, name: &str, items: impl IntoIterator<Item = i64>) -> String {
        let items: Vec<String> = items.into_iter().map(number).collect();
        self.table("int64_t", name, &items)
    }

    fn product(&mut self, i: usize, step: &DotStep) -> Result<()> {
        let dtype = self.ty(step.out).dtype;
        self.uses(Part::Product(dtype));
        let mut s = flatten(step);
        if s.n == 1 && s.m > 1 {
            // A column is the row of the transposed product.
            let turn = |x: &DotOperand| DotOperand { rows: x.cols.clone(), cols: x.rows.clone(), ..x.clone() };
            s = DotStep { m: 1, n: s.m, lhs: turn(&s.rhs), rhs: turn(&s.lhs), ..s };
        }
        let batch = self.numbers(&format!("t_s{i}_batch"), s.batch.iter().map(|&b| b as i64));
        let mut side = |name: &str, x: &DotOperand| {
            let digits = |d: &Digits| -> Vec<String> {
                d.iter().map(|&(extent, stride)| format!("{{{extent}, {}}}", number(stride))).collect()
            };
            let strides = self.numbers(&format!("t_s{i}_{name}_batch"), x.batch_strides.iter().copied());
            let rows = self.table("t_digit", &format!("t_s{i}_{name}_rows"), &digits(&x.rows));
            let cols = self.table("t_digit", &format!("t_s{i}_{name}_cols"), &digits(&x.cols));
            format!("{{{}, {strides}, {}, {}, {rows}, {cols}}}", number(x.offset), x.rows.len(), x.cols.len())
        };
        let (l, r) = (side("l", &s.lhs), side("r", &s.rhs));
        let sizes = format!("{}, {batch}, {}, {}, {}", s.batch.len(), s.m, s.n, s.k);
        line!(self.tables, "static const t_product t_s{i} = {{{sizes}, {l}, {r}}};");
        let (l, r, out) = (self.at(s.lhs.buf)?, self.at(s.rhs.buf)?, self.at(s.out)?);
        let scratch = if dtype == torsh_ir::DType::F32 { format!(", {}", self.scratch()) } else { String::new() };
        line!(self.body, "    t_product_{}(&t_s{i}, {l}, {r}, {out}{scratch});", dtype.short());
        Ok(())
    }

    fn call(&mut self, i: usize, call: &LibCall, args: &[BufId], out: BufId) -> Result<()> {
        let at = args.iter().map(|&b| self.at(b)).collect::<Result<Vec<_>>>()?;
        let to = self.at(out)?;
        let types: Vec<Type> = args.iter().map(|&b| self.ty(b).clone()).collect();
        let ty = self.ty(out).clone();
        let (dt, bytes) = (ty.dtype.short(), ty.dtype.size());
        let fails = |call: String| format!("    if ({call}) return T_ERROR_INDEX;");
        let text = match call {
            LibCall::Take { dim } => {
                self.uses(Part::Calls);
                let (outer, size, inner) = around(&types[0], *dim)?;
                let (count, row) = (types[1].numel(), inner * bytes);
                fails(format!("t_take({}, {}, {to}, {outer}, {size}, {count}, {row})", at[0], at[1]))
            }
            LibCall::Gather { dim } => {
                self.uses(Part::Calls);
                let sizes = self.run_tables(i, &types[1], &types[0], *dim)?;
                fails(format!("t_gather_{bytes}({}, {}, {to}, {sizes})", at[0], at[1]))
            }
            LibCall::Scatter { dim, mode } => {
                self.uses(Part::Scatter(*mode, ty.dtype));
                let sizes = self.run_tables(i, &types[1], &ty, *dim)?;
                let (mode, all) = (mode.name(), ty.numel());
                fails(format!("t_scatter_{mode}_{dt}({}, {}, {}, {to}, {sizes}, {all})", at[0], at[1], at[2]))
            }
            LibCall::IndexPut { dim, mode } => {
                self.uses(Part::Scatter(*mode, ty.dtype));
                let (outer, size, inner) = around(&ty, *dim)?;
                let (mode, count) = (mode.name(), types[1].numel());
                let args = format!("{}, {}, {}, {to}, {outer}, {size}, {count}, {inner}", at[0], at[1], at[2]);
                fails(format!("t_index_put_{mode}_{dt}({args})"))
            }
            LibCall::ArgSort { dim, descending } => {
                self.uses(Part::ArgSort(types[0].dtype));
                let (outer, size, inner) = around(&types[0], *dim)?;
                let flip = if *descending { "UINT64_MAX" } else { "0" };
                let (dt, scratch) = (types[0].dtype.short(), self.scratch());
                format!("    t_argsort_{dt}({}, {to}, {outer}, {size}, {inner}, {flip}, {scratch});", at[0])
            }
            LibCall::Scan { op, dim } => {
                self.uses(Part::Scan(*op, ty.dtype));
                let (outer, size, inner) = around(&ty, *dim)?;
                format!("    t_scan_{}_{dt}({}, {to}, {outer}, {size}, {inner});", op.name(), at[0])
            }
            LibCall::Fill(value) => {
                self.uses(Part::Calls);
                let bits = to_bits(value.to_dtype(ty.dtype), ty.dtype);
                format!("    t_fill({to}, {}, {bytes}, {bits:#x}u);", ty.numel())
            }
            LibCall::Copy => format!("    memmove({to}, {}, {});", at[0], ty.nbytes()),
            LibCall::Attention(a) => self.attention(i, a, &types, &at, &to)?,
            LibCall::AttentionGrad(_) => {
                return Err(refused("the library call attention_backward cannot be exported to C yet"));
            }
        };
        line!(self.body, "{text}");
        Ok(())
    }

    /// Sizes of an index, strides of what it points into, and the counts of a call by index.
    fn run_tables(&mut self, i: usize, index: &Type, other: &Type, dim: usize) -> Result<String> {
        if index.rank() > MAX_RANK {
            return Err(refused(format!(
                "indices of rank {} cannot be exported to C; at most {MAX_RANK}",
                index.rank()
            )));
        }
        let dims = self.numbers(&format!("t_s{i}_dims"), index.shape.dims().iter().map(|&d| d as i64));
        let strides = self.numbers(&format!("t_s{i}_strides"), other.shape.strides());
        let size = other.shape.dims().get(dim).copied().unwrap_or(0);
        Ok(format!("{}, {dims}, {strides}, {dim}, {size}, {}", index.rank(), index.numel()))
    }

    fn attention(&mut self, i: usize, a: &Attend, types: &[Type], at: &[String], to: &str) -> Result<String> {
        if a.dropout.as_f64() > 0.0 {
            return Err(refused("attention with dropout cannot be exported to C yet"));
        }
        self.uses(Part::Attention);
        let batch = self.numbers(&format!("t_s{i}_batch"), a.batch.iter().map(|&b| b as i64));
        let mut sides = Vec::new();
        for (n, side) in a.sides.iter().enumerate() {
            let strides = self.numbers(&format!("t_s{i}_side{n}"), side.batch.iter().copied());
            sides.push(format!("{{{}, {}, {}, {strides}}}", number(side.offset), number(side.row), number(side.col)));
        }
        let flags = [a.causal, a.mask, a.mask && types[3].dtype != torsh_ir::DType::Bool, a.safe, a.lse];
        let flags = flags.map(|f| u8::from(f).to_string()).join(", ");
        let scale = (a.scale.as_f64() as f32).to_bits();
        line!(
            self.tables,
            "#define T_S{i}_SCALE t_float({scale:#010x}u)\nstatic const t_attention t_s{i} = {{{}, {batch}, {}, {}, {}, {}, {flags}, \
             {{{}}}}};",
            a.batch.len(),
            a.queries,
            a.keys,
            a.depth,
            a.width,
            sides.join(", ")
        );
        let mask = if a.mask { at[3].as_str() } else { "0" };
        let scratch = self.scratch();
        Ok(format!("    t_attend(&t_s{i}, T_S{i}_SCALE, {}, {}, {}, {mask}, {to}, {scratch});", at[0], at[1], at[2]))
    }

    /// Copies to outputs and state what is not there yet: outputs first, as they may be state from before.
    fn finish_outputs(&mut self) -> Result<()> {
        let layout = self.layout;
        let slots = &layout.request.manifest.forward;
        let mut later = Vec::new();
        for (slot, &buf) in slots.outputs.iter().zip(&layout.program.outputs) {
            let place = &layout.program.buffers[buf.0 as usize].place;
            let (from, bytes) = (self.at(buf)?, self.ty(buf).nbytes());
            match *slot {
                Slot::Output(o) => {
                    let there = *place == Place::Output && asked_for(slots, &layout.program, buf.0 as usize) == Some(o);
                    if !there {
                        line!(self.body, "    memcpy({}, {from}, {bytes});", layout.names.outputs[o as usize]);
                    }
                }
                Slot::State(s) => {
                    let source = match place {
                        Place::Input(n) | Place::Donated(n) => slots.inputs.get(*n as usize).copied(),
                        _ => None,
                    };
                    if source != Some(Slot::State(s)) {
                        later.push((s, source, from, bytes));
                    }
                }
                Slot::Input(_) => return Err(Error::internal("a program that writes an input")),
            }
        }
        // What takes the old value of other state goes before that is replaced.
        later.sort_by_key(|(_, source, ..)| !matches!(source, Some(Slot::State(_))));
        let mut replaced = HashSet::new();
        for (s, source, from, bytes) in later {
            if source.is_some_and(|slot| replaced.contains(&slot)) {
                return Err(refused("state that exchanges its tensors cannot be exported to C yet"));
            }
            replaced.insert(Slot::State(s));
            if let (Home::Context(offset), _) = layout.state[s as usize] {
                line!(self.body, "    memcpy(t_m + {offset}, {from}, {bytes});");
            }
        }
        Ok(())
    }

    fn pointer_checks(&self) -> String {
        let (names, types) = (&self.layout.names, &self.layout.types);
        let mut out = String::new();
        let sides = names.inputs.iter().zip(&types.inputs).chain(names.outputs.iter().zip(&types.outputs));
        for (name, ty) in sides {
            if ty.nbytes() == 0 {
                line!(out, "    (void){name};");
                continue;
            }
            line!(out, "    if (!{name}) return T_ERROR_NULL;");
            let mask = ty.dtype.size() - 1;
            if mask > 0 {
                line!(out, "    if ((uintptr_t){name} & {mask}u) return T_ERROR_ALIGNMENT;");
            }
        }
        out
    }

    /// Every function but `run`.
    fn functions(&self, weights_at: usize) -> String {
        let layout = self.layout;
        let (names, request) = (&layout.names, layout.request);
        let (n, big, inner) = (&names.library, names.capitals(), names.internal());
        let mut out = String::new();
        for code in ["NULL", "ALIGNMENT", "CONTEXT", "ARENA", "MEMORY", "INDEX", "STATE", "SIZE", "CONSTANT", "WEIGHTS"]
        {
            line!(out, "#define T_ERROR_{code} {big}_ERROR_{code}");
        }
        line!(out, "#define T_CHECK(c) ((uintptr_t)(c)->memory ^ (uintptr_t)0x746f727368u)");
        line!(
            out,
            "static const struct {{ const char *name; size_t bytes; int kept; size_t offset, first; }} t_states[] = {{"
        );
        for (i, state) in request.manifest.state.iter().enumerate() {
            let (home, first) = layout.state[i];
            let (kept, offset) = if let Home::Context(at) = home { (1, at) } else { (0, 0) };
            line!(
                out,
                "    {{{}, {}, {kept}, {offset}, {first}}},",
                quoted(&state.name),
                layout.types.state[i].nbytes()
            );
        }
        line!(out, "    {{0, 0, 0, 0, 0}}\n}};\n#define T_STATES {}", request.manifest.state.len());
        let texts: Vec<String> = ERRORS.iter().map(|(_, text)| quoted(text)).collect();
        line!(out, "const char *{n}_error_text(int code) {{");
        line!(out, "    static const char *const texts[] = {{{}}};", texts.join(",\n        "));
        line!(out, "    return code >= 0 && code < {} ? texts[code] : \"unknown error code\";\n}}", texts.len());
        line!(out, "size_t {n}_arena_bytes(void) {{ return {}u; }}", layout.bytes);
        let weights = if request.weights_in_file { ", const void *weights, size_t weights_bytes" } else { "" };
        line!(out, "int {n}_init({n}_context *context, void *arena, size_t bytes{weights}) {{");
        line!(out, "    unsigned char *m = arena;\n    const unsigned char *w;\n    int i;");
        if request.weights_in_file {
            let head = weights_head(layout.weights_bytes, &layout.weights_hash).map(|b| b.to_string()).join(", ");
            line!(out, "    static const unsigned char head[{HEAD}] = {{{head}}};");
        }
        line!(out, "    if (!context) return T_ERROR_NULL;\n    memset(context, 0, sizeof *context);");
        if request.weights_in_file {
            line!(out, "    if (!weights) return T_ERROR_NULL;");
            line!(out, "    if ((uintptr_t)weights & 7u) return T_ERROR_ALIGNMENT;");
            let all = layout.weights_bytes + HEAD;
            line!(out, "    if (weights_bytes != {all}u || memcmp(weights, head, {HEAD})) return T_ERROR_WEIGHTS;");
            line!(out, "    w = (const unsigned char *)weights + {HEAD};");
        } else {
            line!(out, "    w = {inner}data + {weights_at};");
        }
        line!(out, "    if (m && bytes < {}u) return T_ERROR_ARENA;", layout.bytes);
        line!(out, "    if (!m) {{ m = context->owned = malloc({}u); if (!m) return T_ERROR_MEMORY; }}", layout.bytes);
        let mask = ALIGN - 1;
        line!(out, "    m += ({ALIGN}u - ((uintptr_t)m & {mask}u)) & {mask}u;");
        line!(out, "    context->memory = m;\n    context->weights = w;\n    context->check = T_CHECK(context);");
        line!(out, "    for (i = 0; i < T_STATES; i++)");
        line!(
            out,
            "        if (t_states[i].kept) memcpy(m + t_states[i].offset, w + t_states[i].first, t_states[i].bytes);"
        );
        line!(out, "    return 0;\n}}");
        line!(out, "void {n}_free({n}_context *context) {{");
        line!(
            out,
            "    if (!context) return;\n    free(context->owned);\n    memset(context, 0, sizeof *context);\n}}"
        );
        line!(out, "int {n}_state_find(const char *name) {{\n    int i;");
        line!(out, "    for (i = 0; name && i < T_STATES; i++) if (!strcmp(t_states[i].name, name)) return i;");
        line!(out, "    return -1;\n}}");
        line!(out, "const char *{n}_state_name(int state) {{");
        line!(out, "    return state >= 0 && state < T_STATES ? t_states[state].name : 0;\n}}");
        let check = "    if (!context || !MEMORY) return T_ERROR_NULL;\n    \
                     if (context->check != T_CHECK(context)) return T_ERROR_CONTEXT;\n    \
                     if (state < 0 || state >= T_STATES) return T_ERROR_STATE;\n    \
                     if (bytes != t_states[state].bytes) return T_ERROR_SIZE;";
        line!(out, "int {n}_state_read(const {n}_context *context, int state, void *to, size_t bytes) {{");
        line!(out, "{}", check.replace("MEMORY", "to"));
        line!(
            out,
            "    memcpy(to, t_states[state].kept ? context->memory + t_states[state].offset : context->weights + \
             t_states[state].first, bytes);\n    return 0;\n}}"
        );
        line!(out, "int {n}_state_write({n}_context *context, int state, const void *from, size_t bytes) {{");
        line!(out, "{}", check.replace("MEMORY", "from"));
        line!(out, "    if (!t_states[state].kept) return T_ERROR_CONSTANT;");
        line!(out, "    memcpy(context->memory + t_states[state].offset, from, bytes);\n    return 0;\n}}");
        out
    }
}

/// `(outer, size, inner)`: the extents before, at and after `dim`.
fn around(ty: &Type, dim: usize) -> Result<(usize, usize, usize)> {
    let dims = ty.shape.dims();
    match dims.get(dim) {
        Some(&size) => Ok((dims[..dim].iter().product(), size, dims[dim + 1..].iter().product())),
        None => Err(Error::internal(format!("dim {dim} of {ty}"))),
    }
}

/// A number as a constant of C; the smallest one has no literal.
fn number(x: i64) -> String {
    if x == i64::MIN { "INT64_MIN".to_string() } else { format!("INT64_C({x})") }
}

/// A text as a string of C.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' | b'?' => out.extend(['\\', b as char]),
            0x20..0x7f => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out.push('"');
    out
}
