//! The C source of a library: its functions, and the steps of the program.

use super::calls::attention_scratch;
use super::header::parameters;
use super::object::Object;
use super::state::States;
use super::table::Table;
use super::{Entry, Home, Layout, pack, refused, table};
use crate::lib_calls::flatten;
use crate::package::manifest::{Program as Slots, Slot};
use std::collections::{HashMap, HashSet};
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

/// Where a buffer begins.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Address {
    /// So many bytes into the memory of the context, the weights, or the constants.
    Memory(usize),
    Weights(usize),
    Constants(usize),
    /// What the caller gives: an input or an output by its number.
    Input(usize),
    Output(usize),
}

/// A source under construction.
pub(super) struct Writer<'a> {
    pub layout: &'a Layout<'a>,
    /// The program whose steps are written.
    entry: &'a Entry<'a>,
    /// Tables, and the bodies of functions that run programs.
    pub tables: String,
    pub body: String,
    /// The name of each constant by its type and contents: layers that are alike share theirs.
    known: HashMap<String, String>,
    /// Sizes and strides.
    numbers: Vec<i64>,
    /// The products, each once.
    products: Vec<String>,
    /// Steps of long programs.
    table: Table,
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
    let mut w = Writer {
        layout,
        entry: first,
        tables: String::new(),
        body: String::new(),
        known: HashMap::new(),
        numbers: Vec::new(),
        products: Vec::new(),
        table: Table::default(),
        parts: Vec::new(),
    };
    // Tables and kernels are numbered through all programs.
    let mut steps = 0;
    for entry in &layout.entries {
        w.entry = entry;
        w.begin();
        for step in &entry.program.steps {
            w.step(steps, step, object)
                .map_err(|e| e.with_op(step.ops.last().copied().unwrap_or("")).with_loc(step.loc.clone()))?;
            steps += 1;
        }
        w.finish_outputs()?;
        w.flush();
        let end = if w.long() { "    }\n" } else { "" };
        line!(w.body, "    return 0;\n{end}}}");
    }
    let names = &layout.names;
    let (n, inner) = (&names.library, names.internal());
    let mut out = format!(
        "/* The library {n}. Made by torsh; compile with -ffp-contract=off. */\n#include \"{n}.h\"\n#include <math.h>\n\
         #include <stdlib.h>\n#include <string.h>\n\n#define T_HIDDEN __attribute__((visibility(\"hidden\")))\n"
    );
    let numbers: String = w.numbers.iter().map(|&n| format!("{}, ", number(n))).collect();
    line!(out, "static const int64_t __attribute__((unused)) t_numbers[] = {{{numbers}0}};");
    out.push_str(&c::source(&object.prims, &w.parts, &inner)?);
    line!(out, "extern const unsigned char {inner}data[] T_HIDDEN;");
    for i in (0..object.kernels.len()).filter(|&i| object.function(i) == i) {
        line!(
            out,
            "extern void {inner}kernel{i}(void *const *, uint64_t, uint64_t, uint64_t, uint64_t, void *) T_HIDDEN;"
        );
    }
    out.push_str(&w.tables);
    if !w.products.is_empty() {
        line!(out, "static const t_product t_products[] = {{\n{}\n}};", w.products.join(",\n"));
    }
    out.push_str(&pack::source(&w.table, &States::new(layout)));
    out.push_str(&w.table.runner(object, &inner));
    let own = w.own(&out, &object.bytes);
    out.push_str(&w.functions(weights_at, own));
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
        if self.long() {
            let (names, (inputs, outputs)) = (&self.layout.names, self.entry.ports);
            let mut ports: Vec<String> = (0..inputs).map(|i| self.pointer(Address::Input(i))).collect();
            ports.extend((0..outputs).map(|i| self.pointer(Address::Output(i))));
            ports.push("0".to_string());
            let (data, scratch) = (names.internal(), self.scratch());
            line!(self.body, "    {{ void *const t_ports[] = {{{}}};", ports.join(", "));
            let data = format!("(void *)(uintptr_t){data}data");
            line!(self.body, "    void *const t_bases[] = {{t_m, (void *)(uintptr_t)t_w, {data}, {scratch}}};");
            line!(self.body, "    (void)t_ports; (void)t_bases;");
        }
    }

    pub(super) fn ty(&self, buf: BufId) -> &Type {
        &self.entry.program.buffers[buf.0 as usize].ty
    }

    fn address(&self, buf: BufId) -> Result<Address> {
        let (layout, i) = (self.layout, buf.0 as usize);
        let (slots, kept) = (self.entry.slots, layout.request.manifest.state.len());
        let offset = self.entry.offsets[i];
        Ok(match &self.entry.program.buffers[i].place {
            Place::Input(n) | Place::Donated(n) => match slots.inputs.get(*n as usize) {
                Some(Slot::Input(k)) => Address::Input(*k as usize),
                Some(Slot::State(s)) => match layout.state[*s as usize] {
                    (Home::Context(offset), _) => Address::Memory(offset),
                    (Home::Weights, offset) => Address::Weights(offset),
                },
                Some(Slot::Output(_)) | None => return Err(Error::internal("an input that is none")),
            },
            Place::Output => match asked_for(slots, &self.entry.program, i, kept) {
                Some(Slot::Output(o)) => Address::Output(o as usize),
                Some(Slot::State(s)) => match layout.state[s as usize].0 {
                    Home::Context(at) => Address::Memory(at),
                    Home::Weights => return Err(Error::internal("a gradient among the weights")),
                },
                Some(Slot::Input(_)) | None => Address::Memory(offset),
            },
            Place::Arena { offset } => Address::Memory(layout.arena + offset),
            Place::Const(_) => Address::Constants(offset),
        })
    }

    /// An address as a `void *`.
    fn pointer(&self, address: Address) -> String {
        let names = &self.layout.names;
        match address {
            Address::Memory(at) => format!("(void *)(t_m + {at})"),
            Address::Weights(at) => format!("(void *)(uintptr_t)(t_w + {at})"),
            Address::Constants(at) => format!("(void *)(uintptr_t)({}data + {at})", names.internal()),
            Address::Input(i) => format!("(void *)(uintptr_t){}", names.inputs[i]),
            Address::Output(i) => format!("(void *){}", names.outputs[i]),
        }
    }

    /// The address of a buffer, as a `void *`.
    pub(super) fn at(&self, buf: BufId) -> Result<String> {
        Ok(self.pointer(self.address(buf)?))
    }

    /// Whether the program is long enough for a table of its steps.
    fn long(&self) -> bool {
        self.entry.program.steps.len() > FEW_STEPS
    }

    /// An address as an operand in the table.
    fn word(&self, address: Address) -> u64 {
        let inputs = self.entry.ports.0;
        match address {
            Address::Memory(at) => table::word(0, at),
            Address::Weights(at) => table::word(1, at),
            Address::Constants(at) => table::word(2, at),
            Address::Input(i) => table::word(3, i),
            Address::Output(i) => table::word(3, inputs + i),
        }
    }

    fn words(&self, bufs: &[BufId]) -> Result<Vec<u64>> {
        bufs.iter().map(|&b| Ok(self.word(self.address(b)?))).collect()
    }

    /// Runs the steps that have come into the table since the last time.
    pub(super) fn flush(&mut self) {
        if let Some((from, to)) = self.table.flush() {
            line!(self.body, "    t_steps(t_words + {from}, t_words + {to}, t_bases, t_ports);");
        }
    }

    /// Copies bytes.
    fn copy(&mut self, to: Address, from: Address, bytes: usize) {
        if self.long() {
            let (to, from) = (self.word(to), self.word(from));
            self.table.copy(to, from, bytes);
        } else {
            let (to, from) = (self.pointer(to), self.pointer(from));
            line!(self.body, "    memcpy({to}, {from}, {bytes});");
        }
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
        if !self.long() {
            line!(self.body, "    /* {} */", step.ops.join(" ").replace("*/", ""));
        }
        match &step.op {
            StepOp::Kernel { args, .. } => {
                let at =
                    object.of_step.get(i).copied().flatten().ok_or_else(|| Error::internal("a kernel is missing"))?;
                let kernel = &object.kernels[at];
                if self.long() {
                    let words = self.words(args)?;
                    if self.table.kernel(at, &words) {
                        return Ok(());
                    }
                    self.flush();
                }
                let args = args.iter().map(|&b| self.at(b)).collect::<Result<Vec<_>>>()?.join(", ");
                let (inner, scratch) = (self.layout.names.internal(), self.scratch());
                let (at, rows, cols) = (object.function(at), kernel.rows, kernel.cols);
                line!(
                    self.body,
                    "    {{ void *const t_a[] = {{{args}}}; {inner}kernel{at}(t_a, 0, {rows}, 0, {cols}, {scratch}); }}"
                );
                Ok(())
            }
            StepOp::Dot(dot) => self.product(dot),
            StepOp::Lib { call, args, out } => {
                self.flush();
                self.call(i, call, args, *out)
            }
        }
    }

    /// A constant, by its name or that of one that is the same.
    pub(super) fn constant(&mut self, ty: &str, name: &str, value: &str) -> String {
        let key = format!("{ty} {value}");
        if let Some(name) = self.known.get(&key) {
            return name.clone();
        }
        line!(self.tables, "static const {ty} {name} = {{{value}}};");
        self.known.insert(key, name.to_string());
        name.to_string()
    }

    /// Where numbers begin among `t_numbers`: tables that are alike, in parts or as a whole, are there once.
    pub(super) fn numbers(&mut self, items: impl IntoIterator<Item = i64>) -> usize {
        let items: Vec<i64> = items.into_iter().collect();
        if items.is_empty() {
            return 0;
        }
        if let Some(at) = self.numbers.windows(items.len()).position(|w| w == items) {
            return at;
        }
        self.numbers.extend(items.iter());
        self.numbers.len() - items.len()
    }

    fn product(&mut self, step: &DotStep) -> Result<()> {
        let dtype = self.ty(step.out).dtype;
        self.uses(Part::Product(dtype));
        let mut s = flatten(step);
        if s.n == 1 && s.m > 1 {
            // A column is the row of the transposed product.
            let turn = |x: &DotOperand| DotOperand { rows: x.cols.clone(), cols: x.rows.clone(), ..x.clone() };
            s = DotStep { m: 1, n: s.m, lhs: turn(&s.rhs), rhs: turn(&s.lhs), ..s };
        }
        let batch = self.numbers(s.batch.iter().map(|&b| b as i64));
        let mut side = |x: &DotOperand| {
            let digits =
                |d: &Digits| d.iter().flat_map(|&(extent, stride)| [extent as i64, stride]).collect::<Vec<_>>();
            let strides = self.numbers(x.batch_strides.iter().copied());
            let (rows, cols) = (self.numbers(digits(&x.rows)), self.numbers(digits(&x.cols)));
            format!("{{{}, {strides}, {rows}, {cols}, {}, {}}}", number(x.offset), x.rows.len(), x.cols.len())
        };
        let (l, r) = (side(&s.lhs), side(&s.rhs));
        let product = format!("    {{{}, {}, {}, {l}, {r}, {}, {batch}}}", s.m, s.n, s.k, s.batch.len());
        let at = self.products.iter().position(|p| *p == product).unwrap_or(self.products.len());
        if at == self.products.len() {
            self.products.push(product);
        }
        let single = dtype == torsh_ir::DType::F32;
        if self.long() && single {
            let words = self.words(&[s.lhs.buf, s.rhs.buf, s.out])?;
            if self.table.product(at, &words) {
                return Ok(());
            }
        }
        self.flush();
        let (l, r, out) = (self.at(s.lhs.buf)?, self.at(s.rhs.buf)?, self.at(s.out)?);
        let scratch = if single { format!(", {}", self.scratch()) } else { String::new() };
        line!(self.body, "    t_product_{}(t_products + {at}, {l}, {r}, {out}{scratch});", dtype.short());
        Ok(())
    }

    /// Copies to outputs and state what is not there yet: outputs first, as they may be state from before.
    fn finish_outputs(&mut self) -> Result<()> {
        let (layout, program) = (self.layout, &self.entry.program);
        let (slots, kept) = (self.entry.slots, layout.request.manifest.state.len());
        let mut later = Vec::new();
        for (slot, &buf) in slots.outputs.iter().zip(&program.outputs) {
            let place = &program.buffers[buf.0 as usize].place;
            let (from, bytes) = (self.address(buf)?, self.ty(buf).nbytes());
            if *place == Place::Output && asked_for(slots, program, buf.0 as usize, kept) == Some(*slot) {
                continue;
            }
            match *slot {
                Slot::Output(o) => {
                    self.copy(Address::Output(o as usize), from, bytes);
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
                self.copy(Address::Memory(offset), from, bytes);
            }
        }
        Ok(())
    }
}

/// A number as a constant of C; the smallest one has no literal.
pub(super) fn number(x: i64) -> String {
    if x == i64::MIN { "INT64_MIN".to_string() } else { format!("INT64_C({x})") }
}
