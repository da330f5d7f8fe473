//! The C source of a library: its functions, and the steps of the program.

use super::calls::attention_scratch;
use super::header::parameters;
use super::object::Object;
use super::{Entry, Home, Layout, refused};
use crate::lib_calls::flatten;
use crate::package::manifest::{Program as Slots, Slot};
use std::collections::HashSet;
use torsh_codegen::cpu::Emitted;
use torsh_codegen::cpu::c::{self, PRODUCT_SCRATCH, Part};
use torsh_ir::program::{BufId, Digits, DotOperand, DotStep, LibCall, Place, Program, Step, StepOp};
use torsh_ir::{Error, Result, Type};

/// Dims that the library calls by index are written for.
pub(super) const MAX_RANK: usize = 16;
/// Programs of more steps have a long function.
const FEW_STEPS: usize = 16;

/// The output, or gradient in the state behind the `kept` first tensors of it, whose memory buffer `i` is: the first that
/// asks for it. Other state has an old value that may still be read.
pub(super) fn asked_for(slots: &Slots, program: &Program, i: usize, kept: usize) -> Option<Slot> {
    let mut pairs = slots.outputs.iter().zip(&program.outputs);
    let fits = |s: &Slot| matches!(*s, Slot::Output(_)) || matches!(*s, Slot::State(n) if n as usize >= kept);
    pairs.find(|(s, b)| b.0 as usize == i && fits(s)).map(|(s, _)| *s)
}

/// Bytes of scratch memory for the step that needs most.
pub(super) fn scratch_bytes(programs: &[&Program], kernels: &[Emitted]) -> Result<usize> {
    let mut most = kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
    for (program, step) in programs.iter().flat_map(|p| p.steps.iter().map(move |step| (p, step))) {
        let words = match &step.op {
            StepOp::Dot(_) => PRODUCT_SCRATCH,
            StepOp::Lib { call: LibCall::ArgSort { dim, .. }, args, .. } => {
                let ty = &program.buffers[args[0].0 as usize].ty;
                ty.shape.dims().get(*dim).map_or(0, |&n| n.saturating_mul(8))
            }
            StepOp::Lib { call: LibCall::Attention(a), .. } => attention_scratch(a, true),
            StepOp::Lib { call: LibCall::AttentionGrad(a), .. } => attention_scratch(a, false),
            StepOp::Lib { .. } | StepOp::Kernel { .. } => 0,
        };
        most = most.max(words.saturating_mul(4));
    }
    super::aligned(most)
}

/// A source under construction.
pub(super) struct Writer<'a> {
    pub layout: &'a Layout<'a>,
    /// The program whose steps are written.
    entry: &'a Entry<'a>,
    /// Tables, and the bodies of functions that run programs.
    pub tables: String,
    pub body: String,
    parts: Vec<Part>,
}

/// Writes a line; writing to a string cannot fail.
macro_rules! line {
    ($to:expr, $($rest:tt)*) => {{ let _ = std::fmt::Write::write_fmt(&mut $to, format_args!("{}\n", format_args!($($rest)*))); }};
}
pub(super) use line;

/// The whole source. `weights_at` is where the weights begin in the object's data, if they are in it.
pub(super) fn source(layout: &Layout<'_>, object: &Object, weights_at: usize) -> Result<String> {
    let [first, ..] = layout.entries.as_slice() else { return Err(Error::internal("a library without a program")) };
    let mut w = Writer { layout, entry: first, tables: String::new(), body: String::new(), parts: Vec::new() };
    // Tables and kernels are numbered through all programs.
    let mut number = 0;
    for entry in &layout.entries {
        w.entry = entry;
        w.begin();
        for step in &entry.program.steps {
            w.step(number, step, object)
                .map_err(|e| e.with_op(step.ops.last().copied().unwrap_or("")).with_loc(step.loc.clone()))?;
            number += 1;
        }
        w.finish_outputs()?;
        line!(w.body, "    return 0;\n}}");
    }
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
    out.push_str(&w.body);
    Ok(out)
}

impl Writer<'_> {
    /// The head of a function that runs a program.
    fn begin(&mut self) {
        let (n, function) = (&self.layout.names.library, self.entry.function);
        let parameters: String = parameters(self.layout, self.entry).iter().map(|p| format!(", {p}")).collect();
        let checks = self.pointer_checks(self.entry);
        // Long functions that run from top to bottom once are compiled for size.
        let cold = if self.entry.program.steps.len() > FEW_STEPS { "__attribute__((cold)) " } else { "" };
        line!(self.body, "{cold}int {n}_{function}({n}_context *context{parameters}) {{");
        line!(self.body, "    unsigned char *t_m;\n    const unsigned char *t_w;");
        line!(self.body, "    if (!context) return T_ERROR_NULL;");
        line!(self.body, "    if (context->check != T_CHECK(context)) return T_ERROR_CONTEXT;");
        self.body.push_str(&checks);
        line!(self.body, "    t_m = context->memory;\n    t_w = context->weights;\n    (void)t_m;\n    (void)t_w;");
    }

    pub(super) fn ty(&self, buf: BufId) -> &Type {
        &self.entry.program.buffers[buf.0 as usize].ty
    }

    /// The address of a buffer, as a `void *`.
    pub(super) fn at(&self, buf: BufId) -> Result<String> {
        let (layout, i) = (self.layout, buf.0 as usize);
        let (slots, kept) = (self.entry.slots, layout.request.manifest.state.len());
        let offset = self.entry.offsets[i];
        Ok(match &self.entry.program.buffers[i].place {
            Place::Input(n) | Place::Donated(n) => match slots.inputs.get(*n as usize) {
                Some(Slot::Input(k)) => format!("(void *)(uintptr_t){}", layout.names.inputs[*k as usize]),
                Some(Slot::State(s)) => match layout.state[*s as usize] {
                    (Home::Context(offset), _) => format!("(void *)(t_m + {offset})"),
                    (Home::Weights, offset) => format!("(void *)(uintptr_t)(t_w + {offset})"),
                },
                Some(Slot::Output(_)) | None => return Err(Error::internal("an input that is none")),
            },
            Place::Output => match asked_for(slots, &self.entry.program, i, kept) {
                Some(Slot::Output(o)) => format!("(void *){}", layout.names.outputs[o as usize]),
                Some(Slot::State(s)) => match layout.state[s as usize].0 {
                    Home::Context(at) => format!("(void *)(t_m + {at})"),
                    Home::Weights => return Err(Error::internal("a gradient among the weights")),
                },
                Some(Slot::Input(_)) | None => format!("(void *)(t_m + {offset})"),
            },
            Place::Arena { offset } => format!("(void *)(t_m + {})", layout.arena + offset),
            Place::Const(_) => format!("(void *)(uintptr_t)({}data + {offset})", layout.names.internal()),
        })
    }

    pub(super) fn scratch(&self) -> String {
        format!("(void *)(t_m + {})", self.layout.scratch)
    }

    pub(super) fn uses(&mut self, part: Part) {
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

    pub(super) fn numbers(&mut self, name: &str, items: impl IntoIterator<Item = i64>) -> String {
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

    /// Copies to outputs and state what is not there yet: outputs first, as they may be state from before.
    fn finish_outputs(&mut self) -> Result<()> {
        let (layout, program) = (self.layout, &self.entry.program);
        let (slots, kept) = (self.entry.slots, layout.request.manifest.state.len());
        let mut later = Vec::new();
        for (slot, &buf) in slots.outputs.iter().zip(&program.outputs) {
            let place = &program.buffers[buf.0 as usize].place;
            let (from, bytes) = (self.at(buf)?, self.ty(buf).nbytes());
            if *place == Place::Output && asked_for(slots, program, buf.0 as usize, kept) == Some(*slot) {
                continue;
            }
            match *slot {
                Slot::Output(o) => {
                    line!(self.body, "    memcpy({}, {from}, {bytes});", layout.names.outputs[o as usize]);
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
}

/// A number as a constant of C; the smallest one has no literal.
pub(super) fn number(x: i64) -> String {
    if x == i64::MIN { "INT64_MIN".to_string() } else { format!("INT64_C({x})") }
}
