//! The one ordered list of passes, and their driver.
//!
//! After each pass the driver (never the pass) records the time, hands the text to the dump hook, and, when
//! [`Options::verify`] is set, runs the verifier and checks that printing and parsing give the graph back.
//! The graph is always verified at the door.

use crate::{attention, decompose, fuse, limits, lower, plan, rebuild, schedule, simplify, split, stats};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use torsh_ir::dtype::DType;
use torsh_ir::env;
use torsh_ir::error::{Error, ErrorKind, Result};
use torsh_ir::exec::{Device, Target};
use torsh_ir::graph::Graph;
use torsh_ir::program::{BufId, Place, Program};
use torsh_ir::shape::Type;
use torsh_ir::{text, verify};

/// Receives the name of a pass and the text of what it left.
pub type Dump = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// How to compile.
#[derive(Clone)]
pub struct Options {
    /// Fuse kernels; off for comparison (`TORSH_FUSION=0`).
    pub fusion: bool,
    /// Prefer few distinct kernels to few steps.
    pub compact: bool,
    /// Verify, print and parse back after every pass (`TORSH_VERIFY=1`; on in debug builds).
    pub verify: bool,
    /// What code will be generated for.
    pub target: Target,
    /// Inputs whose memory may receive an output: pairs (input index, output index) of equal type, each
    /// input and each output at most once.
    pub donate: Vec<(usize, usize)>,
    /// Called after every pass.
    pub dump: Option<Dump>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fusion: env::fusion(),
            compact: false,
            verify: env::verify(),
            target: Target { device: Device::Cpu, isa: "portable", threads: 1, l1_bytes: 32 << 10, l2_bytes: 1 << 20 },
            donate: Vec::new(),
            dump: None,
        }
    }
}

/// Compiles a graph to a program.
///
/// Errors: `Limit` when the graph or the planned program exceeds `torsh.limits`; `Internal` for whatever is a
/// bug in torsh, such as an invalid graph.
pub fn compile(graph: &Graph, options: &Options) -> Result<Program> {
    let mut driver = Driver { options, times: Vec::new() };
    driver.time("verify", || verify::graph(graph).and_then(|()| check_donations(graph, &options.donate)))?;
    let mut g = graph.clone();
    // First of all: nothing below may spend time or memory on a graph that is refused.
    g = driver.pass("limits", g, limits::run)?;
    // Before decompose, so that rules see composites by name and dead composites are not spelled out.
    g = driver.pass("simplify", g, simplify::run)?;
    let mut notes = Vec::new();
    if options.fusion {
        // Composites by name again: a softmax between two products.
        notes = attention::notes(&g);
        g = driver.pass("attention", g, attention::run)?;
    }
    g = driver.pass("decompose", g, decompose::expand)?;
    if !options.target.takes_half_attention() {
        // Before the rules, which join conversions.
        g = driver.pass("attention_operands", g, attention::operands)?;
    }
    g = driver.pass("simplify_primitives", g, simplify::run)?;
    g = driver.pass("attention_results", g, attention::results)?;
    // After the rules, which know folds as they were written; whatever is fused, so that the bits are the same.
    g = driver.pass("split", g, split::run)?;
    // Decompositions have intermediates of their own.
    g = driver.pass("limits_primitives", g, limits::run)?;
    let fused = driver.time("fuse", || fuse::run(&g, options.fusion, options.compact))?;
    let steps = driver.time("lower", || lower::steps(&g, fused))?;
    // After lower: the order of steps decides how much memory is live at once.
    let steps = driver.time("schedule", || schedule::run(&g, steps, &options.donate))?;
    let mut program = driver.program("plan", || plan::run(&g, steps, &options.donate))?;
    // The plan knows what a run needs before anything is allocated.
    driver.time("limits_peak", || limits::check_peak(&program, &torsh_ir::limits::get()))?;
    program.stats.nodes = graph.len();
    program.stats.passes = driver.times;
    if env::log().notes {
        notes.iter().for_each(|note| env::say(note));
    }
    program.stats.fusion_notes.splice(0..0, notes);
    if env::log().time {
        env::say(&times(&program));
    }
    Ok(program)
}

/// What a program depends on besides its graph and what is donated: this version of the passes, and the settings that they
/// look at. They look at no target, but for one thing, which [`serves`] asks about: whether attention takes 16-bit operands.
pub fn settings() -> String {
    let kernel = torsh_ir::limits::get().max_kernel_insts;
    format!("torsh passes {} fusion {} kernels of {kernel}", env!("TORSH_PASSES"), env::fusion())
}

/// Checks that a program that was made before can stand for [`compile`] of a graph: that it takes and gives what the graph
/// does (tensors of these types), donates no more, and is within the limits of now. That it does what the graph says is the
/// word of whoever made it, and that it may run at all is for [`Program::verify`].
///
/// Errors: `Limit`; `Value` where it does not fit.
pub fn fits(program: &Program, inputs: &[Type], outputs: &[Type], donate: &[(usize, usize)]) -> Result<()> {
    // What it says of its memory is not believed.
    if program.peak_bytes != stats::peak(program) {
        return Err(Error::value("a program whose peak is not that of its buffers"));
    }
    limits::check_program(program, &torsh_ir::limits::get())?;
    let given = |out: &BufId| program.buffers.get(out.0 as usize).map(|b| &b.ty);
    let gives = program.outputs.len() == outputs.len()
        && program
            .outputs
            .iter()
            .zip(outputs)
            .all(|(b, wanted)| given(b).is_some_and(|ty| ty.dtype == wanted.dtype && ty.numel() == wanted.numel()));
    if program.inputs != inputs || !gives {
        return Err(Error::value("a program that takes or gives something else than its graph"));
    }
    let donated = |i: u32| donate.iter().any(|&(input, _)| input == i as usize);
    if program.buffers.iter().any(|b| matches!(b.place, Place::Donated(i) if !donated(i))) {
        return Err(Error::value("a program that overwrites an input that is not donated"));
    }
    Ok(())
}

/// Whether a program that [`compile`] made of this graph for a CPU is the one that it makes for this target, too. Passes look at
/// the target for one thing only: whether attention takes 16-bit operands.
///
/// Errors: those of the graph, which is asked for where it matters.
pub fn serves<'g>(graph: &dyn Fn() -> Result<&'g Graph>, target: &Target) -> Result<bool> {
    if !target.takes_half_attention() {
        return Ok(true);
    }
    let (graph, half) = (graph()?, |dtype: DType| dtype.is_float() && dtype.size() == 2);
    Ok(!rebuild::live_nodes(graph).any(|id| half(graph.ty(id).dtype)))
}

/// A line on the time that each pass took.
fn times(program: &Program) -> String {
    let stats = &program.stats;
    let total: f64 = stats.passes.iter().map(|p| p.1).sum();
    let passes: Vec<String> = stats.passes.iter().map(|(name, s)| format!("{name} {:.2}", s * 1e3)).collect();
    format!("compiled {} nodes to {} steps in {:.2} ms: {}", stats.nodes, stats.kernels, total * 1e3, passes.join(", "))
}

struct Driver<'o> {
    options: &'o Options,
    times: Vec<(&'static str, f64)>,
}

impl Driver<'_> {
    fn time<T>(&mut self, name: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = f();
        self.times.push((name, start.elapsed().as_secs_f64()));
        result
    }

    /// Runs one pass from graph to graph.
    fn pass(&mut self, name: &'static str, graph: Graph, f: fn(Graph) -> Result<Graph>) -> Result<Graph> {
        let graph = self.time(name, || f(graph))?;
        if self.options.verify {
            verify::graph(&graph).and_then(|()| round_trip(&graph)).map_err(|e| blame(name, &e))?;
        }
        if let Some(dump) = &self.options.dump {
            dump(name, &text::print_with_lines(&graph));
        }
        Ok(graph)
    }

    /// Runs the pass that gives the program.
    fn program(&mut self, name: &'static str, f: impl FnOnce() -> Result<Program>) -> Result<Program> {
        let program = self.time(name, f)?;
        if self.options.verify {
            program.verify().map_err(|e| blame(name, &e))?;
        }
        if let Some(dump) = &self.options.dump {
            dump(name, &text::program(&program));
        }
        Ok(program)
    }
}

fn blame(pass: &str, e: &Error) -> Error {
    Error::new(ErrorKind::Internal, format!("after pass {pass}: {}", e.message())).with_loc(e.location().cloned())
}

fn round_trip(graph: &Graph) -> Result<()> {
    let printed = text::print(graph);
    let back = text::parse(&printed)?;
    if back.same(graph) {
        return Ok(());
    }
    let again = text::print(&back);
    let line = printed.lines().zip(again.lines()).find(|(a, b)| a != b).map_or("its outputs", |(a, _)| a.trim());
    Err(Error::internal(format!("printing and parsing the graph changes {line}")))
}

fn check_donations(graph: &Graph, donate: &[(usize, usize)]) -> Result<()> {
    let (mut inputs, mut outputs) = (HashSet::new(), HashSet::new());
    for &(input, output) in donate {
        let (Some(&i), Some(&o)) = (graph.inputs().get(input), graph.outputs().get(output)) else {
            return Err(Error::internal(format!("donation of input {input} to output {output}: no such pair")));
        };
        let (from, to) = (graph.ty(i), graph.ty(o));
        if from != to {
            return Err(Error::internal(format!("donation of input {input} ({from}) to output {output} ({to})")));
        }
        if !inputs.insert(input) || !outputs.insert(output) {
            return Err(Error::internal(format!("input {input} or output {output} stands in two donations")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use torsh_ir::{Builder, DType, Shape};

    fn graph() -> Graph {
        let b = Builder::new(Graph::new());
        let x = b.input(Type::new(DType::F32, Shape::of(&[2, 3])));
        let y = b.op("softmax", &[x], &[torsh_ir::Attr::Int(1)]).id();
        let mut g = b.finish().expect("well formed");
        g.set_outputs(vec![y]);
        g
    }

    #[test]
    fn the_driver_dumps_after_each_pass_in_order() {
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let sink = seen.clone();
        let dump: Dump = Arc::new(move |pass, text| sink.lock().unwrap().push((pass.into(), text.into())));
        // What lowering says is not the matter here.
        let _ = compile(&graph(), &Options { verify: true, dump: Some(dump), ..Options::default() });
        let seen = seen.lock().unwrap();
        let names: Vec<&str> = seen.iter().map(|s| s.0.as_str()).take(8).collect();
        let wanted = [
            "limits",
            "simplify",
            "attention",
            "decompose",
            "attention_operands",
            "simplify_primitives",
            "attention_results",
            "split",
        ];
        assert_eq!(names, wanted);
        assert!(seen[2].1.contains("softmax") && !seen[3].1.contains("softmax"));
    }

    #[test]
    fn a_pass_that_breaks_the_graph_is_named() {
        let options = Options { verify: true, ..Options::default() };
        let mut driver = Driver { options: &options, times: Vec::new() };
        let e = driver.pass("breaker", graph(), |mut g| {
            let node = g.node(g.outputs()[0]).clone();
            let id = g.add(torsh_ir::Node { ty: Type::new(DType::I8, Shape::of(&[9])), ..node });
            g.set_outputs(vec![id]);
            Ok(g)
        });
        let e = e.expect_err("the verifier objects");
        assert!(e.kind() == ErrorKind::Internal && e.message().contains("after pass breaker"), "{e}");
    }

    #[test]
    fn a_program_fits_its_graph_with_its_own_peak() {
        let mut p = compile(&graph(), &Options::default()).expect("it compiles");
        let (inputs, outputs) = (graph().input_types(), graph().output_types());
        fits(&p, &inputs, &outputs, &[]).expect("its own");
        for (inputs, outputs) in [(&inputs[1..], &outputs[..]), (&inputs, &outputs[1..])] {
            let e = fits(&p, inputs, outputs, &[]).expect_err("others");
            assert!(e.kind() == ErrorKind::Value && e.message().contains("something else"), "{e}");
        }
        p.peak_bytes -= 1;
        let e = fits(&p, &inputs, &outputs, &[]).expect_err("a lie");
        assert!(e.kind() == ErrorKind::Value && e.message().contains("peak"), "{e}");
    }

    #[test]
    fn a_program_serves_every_target_but_for_attention_in_16_bits() {
        let device = |isa| Target { device: Device::Cuda(0), isa, ..Options::default().target };
        let (cpu, cuda) = (Options::default().target, device("sm_80"));
        let of = |dtype: DType, attention: bool| {
            let b = Builder::new(Graph::new());
            let x = b.input(Type::new(dtype, Shape::of(&[2, 4, 4])));
            let y = if attention {
                let scores = x.dot_general(x, &[0], &[0], &[2], &[2]);
                let weights = b.op("softmax", &[scores], &[torsh_ir::Attr::Int(2)]);
                weights.dot_general(x, &[0], &[0], &[2], &[1]).id()
            } else {
                (x + x).id()
            };
            let mut g = b.finish().expect("well formed");
            g.set_outputs(vec![y]);
            g
        };
        let serves = |graph: &Graph, target: &Target| serves(&|| Ok(graph), target).expect("the graph is there");
        for attention in [false, true] {
            assert!(serves(&of(DType::F32, attention), &cpu) && serves(&of(DType::F32, attention), &cuda));
            assert!(serves(&of(DType::F16, attention), &cpu));
        }
        assert!(!serves(&of(DType::F16, true), &cuda) && !serves(&of(DType::BF16, true), &cuda));
        // Careful: any value of 16 bits counts, attention or not.
        assert!(!serves(&of(DType::F16, false), &cuda));
        // Where it says so they are the same.
        for (dtype, attention) in [(DType::F32, true), (DType::F32, false), (DType::F16, true)] {
            let g = of(dtype, attention);
            let text = |target: &Target| {
                let options = Options { target: target.clone(), ..Options::default() };
                text::program(&compile(&g, &options).expect("it compiles"))
            };
            assert!(!serves(&g, &cuda) || text(&cpu) == text(&cuda), "{dtype} {attention}");
        }
    }

    #[test]
    fn donations_are_checked() {
        let refused = |donate: &[(usize, usize)]| check_donations(&graph(), donate).is_err();
        assert!(!refused(&[(0, 0)]) && refused(&[(1, 0)]) && refused(&[(0, 1)]) && refused(&[(0, 0), (0, 0)]));
    }
}
